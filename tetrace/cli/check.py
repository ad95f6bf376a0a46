"""`tetrace check`: whether a run keeps to a budget, for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli.folders import check_folder, destination
from tetrace.cli.output import check_output, write_output
from tetrace.cli.pages import Output, output_options
from tetrace.errors import UsageError

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.check import Result

_LARGEST = 1 << 20
_OVER_BUDGET = 1


@click.command()
@click.argument("run", type=click.Path(path_type=Path), required=False)
@click.option("--budget", type=click.Path(path_type=Path), metavar="FILE", help="The limits, as TOML.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="BASE",
    help="A run to compare with. Without limits of ratios in the budget, a step may take 1.015 times as long, and longer "
    "where that is within noise.",
)
@click.option("--init", "init", is_flag=True, help="Write a budget from RUN, with a margin, to --output.")
@click.option("--figures", is_flag=True, help="List every figure that a budget can limit.")
@click.option(
    "--steps", default="steady", show_default=True, metavar="WHICH", help="Steps to count, as in `tetrace report`."
)
@click.option("--junit", type=click.Path(), metavar="FILE", help="Write JUnit's XML too; overwrites FILE.")
@click.option(
    "--github/--no-github",
    default=None,
    help="Print annotations for GitHub after the table.  [default: where GITHUB_ACTIONS is true]",
)
@output_options
def check(
    run: Path | None,
    budget: Path | None,
    baseline: Path | None,
    init: bool,
    figures: bool,
    steps: str,
    junit: str | None,
    github: bool | None,
    output: Output,
) -> int:
    """Say whether a run keeps to a budget; exit with 1 where it does not.

    RUN and BASE are what `tetrace report` reads. A budget limits figures of the run (step time, share of quantization, FP8
    coverage, host-bound idle time, attention backend, ...), sums of any table, and ratios to a baseline. A ratio is broken
    where it is beyond its limit and beyond the noise of both runs' steps. What was not recorded breaks a limit on it.

    `tetrace check --init RUN -o budget.toml` writes a first one.
    """
    xml = None if junit is None else destination(junit, "junit.xml")
    check_folder(xml, output.path)
    if figures:
        return _list_figures(output)
    if run is None or init == (budget is not None or baseline is not None):
        raise UsageError(
            "name a RUN, and either --init or what to check it by: --budget FILE, --baseline BASE, or both"
        )
    if init:
        return _write_budget(run, steps, output)
    limits = _read(budget) if budget else None
    sources = [path for path in (run, budget, baseline) if path]
    output.check(*sources)
    for source in sources:
        check_output(xml, "JUnit's XML", True, True, source)
    result = _checked(limits, str(budget), _analyzed(run, steps), _analyzed(baseline, steps) if baseline else None)
    _write(result, output, xml, github)
    return _OVER_BUDGET if result.broken else 0


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path}: has {path.stat().st_size:,} bytes; a budget has at most {_LARGEST:,}")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); `tetrace check --init RUN` writes one") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: is not UTF-8 text; `tetrace check --init RUN` writes a budget") from error


def _analyzed(run: Path, steps: str) -> Breakdown:
    import tetrace

    return tetrace.analyze(tetrace.load(run), steps=steps)


def _checked(text: str | None, name: str, run: Breakdown, baseline: Breakdown | None) -> Result:
    from tetrace.breakdown.budget import Budget, parse_budget
    from tetrace.breakdown.check import check as check_budget

    return check_budget(run, Budget({}, {}, ()) if text is None else parse_budget(text, name), baseline)


def _write(result: Result, output: Output, junit: Path | None, github: bool | None) -> None:
    from tetrace.report import check as report

    output.write(report.check_page(result))
    if junit:
        write_output({"": report.junit(result)}, junit, True)
    if github if github is not None else os.environ.get("GITHUB_ACTIONS") == "true":
        # Where standard output is a document of its own, the annotations must not spoil it.
        click.echo(
            report.github_commands(result), nl=False, err=output.format_name != "terminal" and output.path is None
        )


def _list_figures(output: Output) -> int:
    from tetrace.report.check import figures_page

    output.write(figures_page())
    return 0


def _write_budget(run: Path, steps: str, output: Output) -> int:
    from tetrace.breakdown.first_budget import budget_of

    path = output.file("budget.toml")
    check_output(path, "a budget", True, output.force, run)
    breakdown = _analyzed(run, steps)
    if not breakdown.totals.activities:
        raise UsageError(f"{run}: holds no GPU activity to limit; record it on a GPU")
    write_output({"": budget_of(breakdown, run.name)}, path, True)
    return 0
