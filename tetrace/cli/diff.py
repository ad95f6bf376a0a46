"""`tetrace diff`: what changed from one run to another."""

from __future__ import annotations

import os
from pathlib import Path

import click

from tetrace.cli.folders import destination
from tetrace.cli.output import check_output, write_output
from tetrace.cli.pages import Output, output_options
from tetrace.errors import UsageError

TABLES = ("parts", "rows", "phases", "modules", "kernels", "idle", "quantization", "formats", "attention")
# Rows of a table on the first screen.
_ON_SCREEN = 14


@click.command()
@click.argument("runs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="A B [C]...")
@click.option(
    "--steps",
    multiple=True,
    metavar="WHICH",
    help="Steps to count, as in `tetrace report`; given once for all runs, or once for each in their order.  [default: steady]",
)
@click.option("--by", type=click.Choice(TABLES), metavar="TABLE", help=f"Show this table alone: {', '.join(TABLES)}.")
@click.option("--full", is_flag=True, help="Show every table.")
@click.option("--device", type=click.IntRange(min=0), metavar="N", help="Only this CUDA device, by its ordinal.")
@click.option(
    "--html",
    "page",
    type=click.Path(),
    metavar="FILE",
    help="Write it as one HTML file that opens anywhere, without a network: the runs side by side, and every table.",
)
@output_options
def diff(
    runs: tuple[Path, ...],
    steps: tuple[str, ...],
    by: str | None,
    full: bool,
    device: int | None,
    page: str | None,
    output: Output,
) -> None:
    """Say what changed per step from run A to run B, and why; of more runs, from A to each.

    Runs are what `tetrace report` reads. Every table adds up exactly to the difference of the steps: GPU time by kernel,
    idle time by cause and by the host range that it is charged to. A kernel that another one replaces is matched with it
    by role and shape where they were recorded, else by module and order. What two runs of these steps may differ by
    chance is called noise; fewer than 8 steps a run cannot tell.

    Two parts of one run are compared by naming it twice: `tetrace diff run.tetrace run.tetrace --steps 5:20 --steps 20:35`.
    """
    if len(runs) < 2:
        raise UsageError(f"{runs[0]}: is one run; name the run to compare it with too: tetrace diff A B")
    if len(steps) > 1 and len(steps) != len(runs):
        raise UsageError(f"--steps is given {len(steps)} times for {len(runs)} runs; give it once, or once for each")
    html = None if page is None else destination(page, "diff.html")
    if page and (output.path or output.format_name != "terminal" or by):
        raise UsageError(f"--html {page} names a format and a file, and holds every table; leave the other options out")
    output.check(*runs)
    for run in runs if html else ():
        check_output(html, "a page", True, output.force, run)
    import tetrace
    from tetrace.breakdown.compare import compare_all
    from tetrace.report.diff import diff_page

    chosen = list(steps) if len(steps) == len(runs) else [steps[0] if steps else "steady"] * len(runs)
    traces = {run: tetrace.load(run) for run in dict.fromkeys(runs)}
    done = {}
    for run, which in zip(runs, chosen, strict=True):
        if (run, which) not in done:
            done[run, which] = tetrace.analyze(traces[run], steps=which, device=device)
    breakdowns = [done[run, which] for run, which in zip(runs, chosen, strict=True)]
    comparisons = compare_all(breakdowns, run_names(runs, chosen))
    if html:
        from tetrace.report.html.comparison import html_page

        write_output({"": html_page(comparisons, tetrace.__version__)}, html, True)
        return
    top = _ON_SCREEN if output.top is None and not (by or full) else output.rows
    output.write(diff_page(comparisons, by or "", full, top, output.format_name))


def run_names(runs: tuple[Path, ...], steps: list[str]) -> list[str]:
    """What to call runs: their names, as much of their folders as tells them apart, else their steps."""
    paths = [run.resolve() for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = [os.path.join(*path.parts[-depth:]) for path in paths]  # noqa: PTH118
        if len(set(names)) == len(set(paths)):
            break
    if len(set(names)) == len(names):
        return names
    if len(set(zip(names, steps, strict=True))) == len(names):
        return [f"{name} {which}" for name, which in zip(names, steps, strict=True)]
    return names
