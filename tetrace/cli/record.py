"""`tetrace record`: run a command under a recorder, save what it did, and show the first screen of the report."""

from __future__ import annotations

import contextlib
import difflib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace import __version__
from tetrace.cli.folders import destination
from tetrace.errors import TetraceError
from tetrace.record.options import CALLS, COLLECTORS, RANGES, Options, inspected, window

if TYPE_CHECKING:
    from tetrace.record.session import Run, Saved, Session

_WIDTH = 100
_FAILED = 2


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="NAME",
    help="Write NAME.tetrace; into NAME, called after the script, where it is a folder or ends in a slash.  [default: the "
    "script's name]",
)
@click.option(
    "--collector",
    type=click.Choice(COLLECTORS),
    default="auto",
    show_default=True,
    help="What records the GPU: `nsys` is Nsight Systems, `cupti` is built in and needs nothing installed, `events` "
    "measures only how long modules take on the GPU, for long runs, `host` records ranges and steps on the CPU only. "
    "`auto` takes nsys where it is found, else cupti, and host where there is no GPU.",
)
@click.option(
    "--steps",
    metavar="WHICH",
    help="Steps to record: `10:20` is steps 10 to 19, `7` one step, `all` the whole run. Without it, recording begins "
    "with the process and ends twenty steps after the warm-up (`events`: with the script). The script always runs to its "
    "own end.",
)
@click.option(
    "--seconds", type=float, metavar="S", help="Record S seconds instead, from the first call of a module on."
)
@click.option(
    "--warmup",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    metavar="N",
    help="Steps that are recorded, but not counted as steady.",
)
@click.option(
    "--ranges",
    type=click.Choice(RANGES),
    default="modules",
    show_default=True,
    help="Ranges to add: around every module, only around steps, phases and FP8 calls (`coarse`), or none.",
)
@click.option(
    "--calls",
    type=click.Choice(CALLS),
    default="launches",
    show_default=True,
    help="API calls that `cupti` records: those that launch, copy, wait, allocate or load code, or all, which costs more.",
)
@click.option(
    "--every",
    type=click.IntRange(min=1),
    metavar="N",
    help="With `events`: measure every N-th step.  [default: 10]",
)
@click.option(
    "--fp8",
    is_flag=True,
    help="Inspect FP8 as well: what each tensor that is quantized holds and loses, scales and amaxes, and where the first "
    "value that is not finite comes from. `tetrace fp8` shows it.",
)
@click.option("--fp8-every", type=click.IntRange(min=1), metavar="N", help="Only in every N-th step.  [default: 1]")
@click.option("--fp8-modules", metavar="REGEX", help="Only of modules in whose path this regular expression is found.")
@click.option(
    "--fp8-histogram/--no-fp8-histogram",
    default=None,
    help="Keep histograms of magnitudes, from which `tetrace fp8 whatif` tells what another format or scale would do.  "
    "[default: keep]",
)
@click.option(
    "--fp8-blocks", is_flag=True, help="Keep the largest magnitudes of blocks too, for what-if of block recipes."
)
@click.option(
    "--fp8-rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="Look at every N-th row of tensors of a million elements and more: less work for the GPU, shares are those of these "
    "rows, and what is not finite in others is seen only where modules return it.  [default: 1, all]",
)
@click.option(
    "--fp8-recompute",
    type=click.IntRange(min=1),
    metavar="N",
    help="In every N-th step, run norms and activations that cast in the same kernel once more without the cast, for what "
    "it loses and what-if. Costs them twice in these steps.",
)
@click.option(
    "--nsys",
    multiple=True,
    metavar="ARGS",
    help='Arguments for nsys profile, in quotes: --nsys "--cuda-memory-usage=true". They replace tetrace\'s own.',
)
@click.option("--keep-nsys-rep", is_flag=True, help="Keep Nsight Systems' own file too, as NAME.nsys-rep.")
@click.option("--force", is_flag=True, help="Overwrite a recording of this name.")
def record(
    command: tuple[str, ...],
    output: str | None,
    collector: str,
    steps: str | None,
    seconds: float | None,
    warmup: int,
    ranges: str,
    calls: str,
    every: int | None,
    fp8: bool,
    fp8_every: int | None,
    fp8_modules: str | None,
    fp8_histogram: bool | None,
    fp8_blocks: bool,
    fp8_recompute: int | None,
    fp8_rows: int | None,
    nsys: tuple[str, ...],
    keep_nsys_rep: bool,
    force: bool,
) -> int:
    """Record a training script, unchanged, and report where its steps spend their time.

    COMMAND is a Python script and its arguments, -m and a module, or any command: torchrun, accelerate launch, a
    shell script. Every Python process in it that imports torch is instrumented. What follows COMMAND belongs to it.

    Its input, output, arguments, folder, signals and exit code are its own; tetrace writes to standard error. The
    exit code is the script's (128 + n when signal n ended it), and 2 where the script succeeded but could not be
    recorded. What was recorded until a crash or an interrupt is saved.
    """
    from tetrace.record import streams
    from tetrace.record.command import command as resolved
    from tetrace.record.running import Relay
    from tetrace.record.session import Session

    streams.hold()
    _check_options(command)
    chosen = window(steps, seconds, warmup, collector)
    seen = inspected(fp8, fp8_every, fp8_modules, fp8_histogram, fp8_blocks, fp8_recompute, fp8_rows)
    run_of = resolved(command)
    at = None if output is None else destination(output, run_of.name)
    options = Options(at, collector, chosen, warmup, ranges, nsys, keep_nsys_rep, force, calls, every, seen)
    with Relay(_say) as relay:
        session = Session(options, run_of, __version__, _say, relay)
        run = session.run()
        failed = _save(session, run)
        return run.ended.code or failed


def _check_options(command: tuple[str, ...]) -> None:
    """What looks like an option and is none of ours can only be a mistake: no command begins so but -m."""
    first = command[0]
    if first.startswith("-") and first != "-m":
        context = click.get_current_context()
        known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("--")]
        raise click.NoSuchOption(first, possibilities=difflib.get_close_matches(first, known), ctx=context)


def _save(session: Session, run: Run) -> int:
    """Save and show; returns 2 where that failed. After a script that failed, its own exit code is what counts."""
    if not run.ended.finished:
        _say(f"the script did not finish ({run.ended.how}); saving what was recorded")
    try:
        saved = session.save(run)
    except TetraceError as error:
        _say(str(error))
        return _FAILED
    except Exception as error:
        if not run.ended.code or os.environ.get("TETRACE_DEBUG"):
            raise
        _say(f"defect: {type(error).__name__}: {error}; TETRACE_DEBUG=1 shows where")
        return _FAILED
    _say(f"saved {_short(saved.path)}")
    hint, problem = _show(saved)
    for line in filter(None, (hint, problem)):
        _say(line)
    return _FAILED if problem else 0


def _show(saved: Saved) -> tuple[str, str]:
    """The first screen, on standard error: standard output is the script's alone. Returns what is left to tell below it:
    the hint, where it does not say so itself, and why what was asked for is not in the recording."""
    import tetrace
    from tetrace.breakdown.host_run import is_one_step, missed_window
    from tetrace.report.reporter import Options as Shown
    from tetrace.report.terminal import Terminal

    color = sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((_WIDTH, 45)).columns
    try:
        breakdown = tetrace.analyze(saved.trace)
        options = Shown(width=width, color=color, version=__version__, run=_short(saved.path))
        shown = Terminal(options).documents(breakdown)
    except TetraceError as error:
        _say(f"there is no report of it ({error})")
        return saved.hint, saved.problem
    _write(str(shown[""]))
    return "" if is_one_step(breakdown) else saved.hint, saved.problem or missed_window(breakdown)


def _short(path: Path) -> str:
    """The path as the user would type it here."""
    with contextlib.suppress(OSError, ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _say(line: str) -> None:
    _write(f"tetrace: {' '.join(line.splitlines())}\n")


def _write(text: str) -> None:
    """Past Python's buffers, since a signal handler speaks too; a reader that has gone stops nothing."""
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    with contextlib.suppress(OSError):
        waiting = memoryview(text.encode(encoding, "replace"))
        while waiting:
            waiting = waiting[os.write(2, waiting) :]
