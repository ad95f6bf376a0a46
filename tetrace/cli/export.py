"""`tetrace export`: the chosen steps as a file for Perfetto, or as Chrome's JSON."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from tetrace import __version__
from tetrace.cli.folders import destination, stem
from tetrace.cli.output import check_output
from tetrace.cli.progress import progress
from tetrace.errors import UsageError

if TYPE_CHECKING:
    from tetrace.breakdown.timeline import Timeline

# Name of each format and the module that writes it, imported when it is asked for.
_WRITERS = {"perfetto": "tetrace.report.perfetto", "chrome": "tetrace.report.chrome"}
_SUFFIX = {"perfetto": ".pftrace", "chrome": ".json"}
# Names and numbers repeat: more effort makes such files hardly smaller.
_EFFORT = 2


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--perfetto",
    type=click.Path(),
    metavar="OUT.pftrace",
    help="Write a Perfetto trace, for ui.perfetto.dev and trace_processor.",
)
@click.option(
    "--chrome",
    type=click.Path(),
    metavar="OUT.json",
    help="Write JSON in the Trace Event Format, for chrome://tracing and tools that want it; several times larger.",
)
@click.option(
    "--steps",
    metavar="WHICH",
    help="Steps to draw: `steady` leaves out warm-up and the last, open step, `7` is one step and `5:10` steps 5 to 9, "
    "by the numbers of `tetrace report --by step`.  [default: steady]",
)
@click.option("--all", "everything", is_flag=True, help="Draw the whole recording.")
@click.option("--device", type=click.IntRange(min=0), metavar="N", help="Only this CUDA device, by its ordinal.")
@click.option("--process", type=click.IntRange(min=0), metavar="PID", help="Only this process, by its pid.")
@click.option("--force", is_flag=True, help="Overwrite the file that is named.")
def export(
    run: Path,
    perfetto: str | None,
    chrome: str | None,
    steps: str | None,
    everything: bool,
    device: int | None,
    process: int | None,
    force: bool,
) -> None:
    """Draw the steps of a recording as a timeline for other programs.

    RUN is what `tetrace report` reads. The file has a track for each host thread (ranges and API calls) and each stream
    (activities with phase, module, category, format and shape), arrows from each launch to what it launched, and
    counters of the launch queue, launches and FP8 saturation; ranks are processes. A name that ends in .gz is
    compressed. Open a Perfetto trace with "Open trace file" on https://ui.perfetto.dev, which keeps it in the browser.
    """
    named = {"perfetto": perfetto, "chrome": chrome}
    outputs = {name: destination(path, f"{stem(run)}{_SUFFIX[name]}") for name, path in named.items() if path}
    _check(outputs, steps, everything, force, run)
    import tetrace
    from tetrace.attribute.attribution import attribute
    from tetrace.breakdown.timeline import timeline

    with progress(f"reading {run.name}") as shown:
        trace = tetrace.load(run, shown)
    chosen = "all" if everything else steps or "steady"
    drawn = timeline(attribute(trace), steps=chosen, device=device, process=process)
    for name, path in outputs.items():
        _write(drawn, name, path)
        click.echo(f"tetrace: wrote {path} ({drawn.slices:,} slices)", err=True)


def _check(outputs: dict[str, Path], steps: str | None, everything: bool, force: bool, run: Path) -> None:
    if not outputs:
        raise UsageError("name what to write: --perfetto OUT.pftrace or --chrome OUT.json")
    if everything and steps:
        raise UsageError(f"--all draws every step; leave --steps {steps} out, or --all")
    if len(outputs) > len({path.resolve() for path in outputs.values()}):
        raise UsageError(f"{outputs['chrome']}: named by --perfetto and --chrome; choose two names")
    for name, path in outputs.items():
        check_output(path, f"--{name}", True, force, run)


def _write(drawn: Timeline, name: str, path: Path) -> None:
    chunks = importlib.import_module(_WRITERS[name]).chunks(drawn, __version__)
    try:
        with progress(f"writing {path.name}") as shown, _unfinished(path) as file:
            done = 0
            for slices, piece in chunks:
                file.write(piece)
                done += slices
                if shown is not None:
                    shown(done, drawn.slices)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose a folder that can") from error


@contextlib.contextmanager
def _unfinished(path: Path) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """A file beside `path` that gets its name once it is whole; compressed where the name says so."""
    part = path.with_name(f".{path.name[:80]}.{os.getpid()}")
    try:
        with contextlib.ExitStack() as open_files:
            file: IO[bytes] | gzip.GzipFile = open_files.enter_context(part.open("wb"))
            if path.suffix == ".gz":
                # No time and no name in its head: the same run gives the same bytes.
                file = open_files.enter_context(gzip.GzipFile("", "wb", _EFFORT, file, mtime=0))
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
