"""Reads what may be no recording: a trace or one line that says so, never a traceback, never another file than before."""

import hashlib
import os
from pathlib import Path

import pytest

import tetrace
from tests.report.runs import rendered
from tetrace.errors import InputError, UsageError
from tetrace.trace.trace import Trace

DATA = Path(__file__).parent.parent / "data"


def fingerprint(path: Path) -> dict[str, tuple[object, ...]]:
    """What must not change: the bytes and the time of `path`, or of all files in it, and who its neighbours are."""
    files = [path, *sorted(path.rglob("*"))] if path.is_dir() else [path]
    neighbours = sorted(other.name for other in path.parent.iterdir())
    return {"neighbours": tuple(neighbours), **{str(file): _state(file) for file in files}}


def _state(file: Path) -> tuple[object, ...]:
    status = file.lstat()
    regular = file.is_file() and os.access(file, os.R_OK, effective_ids=True)
    content = hashlib.sha256(file.read_bytes()).hexdigest() if regular else ""
    return status.st_mtime_ns, status.st_ctime_ns, status.st_mode, status.st_size, content


def load(path: Path) -> Trace:
    """The trace of `path`, which can also be reported; the input stays as it was."""
    before = fingerprint(path)
    try:
        trace = tetrace.load(path)
        rendered(tetrace.analyze(trace, steps="all"))
        rendered(tetrace.analyze(trace))
        return trace
    finally:
        assert fingerprint(path) == before


def error_of(path: Path, named: Path | None = None) -> str:
    """The message that `path` gives, without the name of the file in it."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    assert message.startswith(f"{named or path}")
    assert caught.value.exit_code == 2
    return message.removeprefix(f"{named or path}: ")


def complaint(path: Path) -> str:
    """What is said against `path`, nothing where it is a recording. Only the errors that are meant for users are caught."""
    try:
        trace = tetrace.load(path)
        breakdown = tetrace.analyze(trace, steps="all")
        assert breakdown.totals.activities == trace.rows("activities")
        tetrace.analyze(trace)
    except (InputError, UsageError) as error:
        return str(error)
    return ""
