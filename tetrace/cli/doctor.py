"""`tetrace doctor`: what would stop or spoil a recording here, and what this GPU can do."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tetrace.cli.output import write_output
from tetrace.errors import UsageError

_WIDTH = 100
_STOPPED = 1


@click.command()
@click.option(
    "--calibrate",
    is_flag=True,
    help="Measure this GPU for half a minute and keep the result, which recordings store: copy bandwidth, BF16 and FP8 "
    "matrix products, launches.",
)
@click.option("--device", type=click.IntRange(min=0), metavar="N", help="CUDA device to calibrate.  [default: 0]")
@click.option("--quick", is_flag=True, help="Start no program: no trial recording, nothing on torch and its packages.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["terminal", "json"]),
    default="terminal",
    show_default=True,
    help="What to write.",
)
def doctor(calibrate: bool, device: int | None, quick: bool, format_name: str) -> int:
    """Say what would stop or spoil a recording here, and the way out of each.

    Looks at nsys and tetrace's own collector by trial recordings, other profilers, the GPU, torch, cuDNN, Transformer
    Engine with its FP8 recipes and attention backends, and the folders that a recording writes to. The exit code is 1
    when a recording is not possible.
    """
    if device is not None and not calibrate:
        raise UsageError(f"--device {device} is for --calibrate; add it")
    if calibrate and quick:
        raise UsageError("--quick looks around and --calibrate measures; choose one of them")
    return _calibrate(device or 0, format_name) if calibrate else _examine(quick, format_name)


def _examine(quick: bool, format_name: str) -> int:
    from tetrace.cli import checkup
    from tetrace.record.doctor import examine

    with _busy("looking around, with a trial recording" if not quick else "looking around"):
        diagnosis = examine(Path.cwd(), quick)
    document = checkup.as_json(diagnosis) if format_name == "json" else checkup.screen(diagnosis, *_screen())
    write_output({"": document}, None, True)
    return 0 if diagnosis.possible else _STOPPED


def _calibrate(device: int, format_name: str) -> int:
    from tetrace.cli import checkup
    from tetrace.record import calibration
    from tetrace.report.plain import json_text

    with _busy("measuring the GPU"):
        measured = calibration.measure(device)
    file = calibration.save(measured)
    as_json = format_name == "json"
    document = json_text(measured) if as_json else checkup.calibration_screen(measured, *_screen())
    write_output({"": document}, None, True)
    click.echo(f"tetrace: kept in {file}", err=True)
    return 0


def _screen() -> tuple[int, bool]:
    """Columns of the terminal, and whether it takes colour."""
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return shutil.get_terminal_size((_WIDTH, 45)).columns, color


@contextmanager
def _busy(what: str) -> Iterator[None]:
    """A line on standard error while somebody waits there."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(what):
        yield
