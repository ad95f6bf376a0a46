"""`tetrace report`: load, break down, report."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace import __version__
from tetrace.cli.folders import check_recording, destination, stem
from tetrace.cli.output import SUFFIXES, check_output, write_output
from tetrace.cli.progress import progress
from tetrace.errors import UsageError
from tetrace.report.reporter import FORMATS, Options
from tetrace.report.views import VIEWS

if TYPE_CHECKING:
    from tetrace.report.reporter import Reporter
    from tetrace.trace.trace import Trace

_WIDTH = 100


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--steps",
    default="steady",
    show_default=True,
    metavar="WHICH",
    help="Steps to count: `steady` leaves out warm-up and the last, open step, `all` counts the whole file, "
    "`7` is one step and `5:10` steps 5 to 9, by the numbers of --by step.",
)
@click.option(
    "--by",
    type=click.Choice([view.name for view in VIEWS]),
    metavar="TABLE",
    help=f"Show this table instead of the first screen: {', '.join(view.name for view in VIEWS)}.",
)
@click.option("--kernel", metavar="REGEX", help="Show kernels whose demangled name matches, by phase and module.")
@click.option(
    "--top", type=click.IntRange(min=0), metavar="N", help="Rows of each table; 0 is all.  [default: 20, in files all]"
)
@click.option("--device", type=click.IntRange(min=0), metavar="N", help="Only this CUDA device, by its ordinal.")
@click.option("--process", type=click.IntRange(min=0), metavar="PID", help="Only this process, by its pid.")
@click.option("--full", is_flag=True, help="Every table after the first screen, findings with evidence, names uncut.")
@click.option("--wide", is_flag=True, help="Names of kernels and ranges uncut, lines as long as they get.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([known.name for known in FORMATS]),
    default="terminal",
    show_default=True,
    help="What to write.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(),
    metavar="FILE",
    help="Write the report as one HTML file that opens anywhere, without a network.",
)
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("--csv", "as_csv", is_flag=True, help="Short for --format csv.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    metavar="PATH",
    help="Write here: a file, or a folder for all tables of csv and parquet.",
)
@click.option(
    "--save",
    type=click.Path(),
    metavar="RUN.tetrace",
    help="Keep the imported recording, which loads faster.",
)
@click.option("--force", is_flag=True, help="Overwrite what --html, --output and --save name.")
def report(
    run: Path,
    steps: str,
    by: str | None,
    kernel: str | None,
    top: int | None,
    device: int | None,
    process: int | None,
    full: bool,
    wide: bool,
    format_name: str,
    as_json: bool,
    as_csv: bool,
    page: str | None,
    output: str | None,
    save: str | None,
    force: bool,
) -> None:
    """Say where the steps of a recording spend their time.

    RUN is a Nsight Systems .nsys-rep, .sqlite or parquetdir, a PyTorch profiler .json or .json.gz, or a .tetrace
    folder. The first screen gives the verdict, step time, GPU activity, quantization, launches and findings.
    """
    import tetrace

    format_name = "json" if as_json else "csv" if as_csv else format_name
    format_name, named = _named(format_name, output, page)
    one_document = bool(by or kernel) or format_name not in ("csv", "parquet")
    path = None if named is None else Path(named)
    if named is not None and one_document:
        path = destination(named, f"{stem(run)}{SUFFIXES[format_name]}")
    kept = None if save is None else destination(save, f"{stem(run)}.tetrace")
    options = dataclasses.replace(_options(by, kernel, top, full, wide, to_file=path is not None), run=str(run))
    check_recording(kept)
    check_output(path, format_name, one_document, force, run)
    check_output(kept, "a recording", False, force, run)
    reporter = _reporter(format_name)(options)
    with progress(f"reading {run.name}") as shown:
        trace = tetrace.load(run, shown)
    if kept:
        _save(trace, kept, force)
    breakdown = tetrace.analyze(trace, steps=steps, device=device, process=process)
    write_output(reporter.documents(breakdown), path, one_document)


def _named(format_name: str, output: str | None, page: str | None) -> tuple[str, str | None]:
    """The format and what the file is called; `--html FILE` is short for both."""
    if page is None:
        return format_name, output
    if output or format_name not in ("terminal", "html"):
        raise UsageError(
            f"--html {page} names a format and a file; leave --format and --output out, or run report twice"
        )
    return "html", page


def _options(by: str | None, kernel: str | None, top: int | None, full: bool, wide: bool, to_file: bool) -> Options:
    if by not in (None, "kernel") and kernel:
        raise UsageError(f"--kernel {kernel} lists kernels; leave --by {by} out")
    color = sys.stdout.isatty() and not to_file and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = _WIDTH if to_file else shutil.get_terminal_size((_WIDTH, 45)).columns
    return Options(by or "", kernel or "", -1 if top is None else top, full, wide, width, color, __version__)


def _reporter(name: str) -> type[Reporter]:
    return next(known for known in FORMATS if known.name == name).load()


def _save(trace: Trace, path: Path, force: bool) -> None:
    from tetrace.trace import store

    store.write(trace, path, replace=force)
    click.echo(f"tetrace: saved {path}", err=True)
