"""Where a recording goes, and the working folder that holds it until it is whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tetrace.errors import UsageError
from tetrace.record import environment

SUFFIX = ".tetrace"
_WORKING = ".recording"
_LOCK = "lock"
_RUN = "run.json"


@dataclass(frozen=True)
class Place:
    """`recording` is the result, `working` the folder while it is made, `report` a copy of nsys' own file."""

    recording: Path

    @property
    def working(self) -> Path:
        """Where the processes of the run write."""
        return self.recording.with_name(self.recording.name + _WORKING)

    @property
    def report(self) -> Path:
        """Where --keep-nsys-rep copies to."""
        return self.recording.with_name(self.recording.name.removesuffix(SUFFIX) + ".nsys-rep")

    def beside(self, mark: str) -> Place:
        """The same place for another node: NAME-mark.tetrace."""
        return Place(self.recording.with_name(self.recording.name.removesuffix(SUFFIX) + f"-{mark}{SUFFIX}"))


def place(output: Path | None, name: str) -> Place:
    """The place that `-o` names, or the one called after the script, with absolute paths."""
    path = output or Path(name)
    if path.name in ("", ".", ".."):
        raise UsageError(f"-o {output}: names no recording; give a name such as run1")
    path = path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
    try:
        return Place(Path.cwd() / path)
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used ({error.strerror}); change to one that is there"
        ) from error


def take(wanted: Place, *, force: bool, keep_report: bool, environ: Mapping[str, str]) -> Place:
    """Make the working folder of `wanted`, or that of another node's name where a live recorder has it.

    Raises `UsageError` where something is in the way, before anything runs.
    """
    for at in (wanted, wanted.beside(_node(environ))):
        if _claim(at, force, keep_report):
            return at
    raise UsageError(f"{wanted.working}: another tetrace record is writing it; choose another name with -o")


def _claim(at: Place, force: bool, keep_report: bool) -> bool:
    """Make the working folder; False where it belongs to a recorder that still runs."""
    _check(at, force, keep_report)
    if at.working.exists():
        if _is_live(at.working):
            return False
        if not force and not is_empty(at.working):
            left = "is left from a recording that did not end"
            raise UsageError(f"{at.working}: {left}; read it with tetrace report, remove it, or pass --force")
        shutil.rmtree(at.working, ignore_errors=True)
    return _make(at.working)


def _check(at: Place, force: bool, keep_report: bool) -> None:
    for path in (at.recording, at.report) if keep_report else (at.recording,):
        if path.exists() and not force:
            raise UsageError(f"{path}: exists; choose another name with -o or pass --force")
    if not at.recording.parent.is_dir():
        parent = at.recording.parent
        why = "is no folder; choose one" if parent.exists() else "does not exist; make it, or choose another"
        raise UsageError(f"{at.recording}: its folder {parent} {why} with -o")
    if at.recording.exists() and not (at.recording / "metadata.json").is_file():
        raise UsageError(f"{at.recording}: exists and is not a .tetrace folder; choose another name with -o")


def _make(folder: Path) -> bool:
    """Make `folder` with its lock inside, at once: of two recorders, one gets it."""
    try:
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name[:80]}.", dir=folder.parent))
    except OSError as error:
        raise UsageError(f"{folder.parent}: cannot be written ({error.strerror}); name a folder with -o") from error
    unfinished.chmod(0o755)
    (unfinished / _LOCK).write_text(json.dumps({"host": environment.host(), "pid": os.getpid()}), encoding="utf-8")
    try:
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        return False
    return True


def _is_live(folder: Path) -> bool:
    """Whether the recorder that made `folder` still runs; of one on another host, whether its run has not ended."""
    lock = _read(folder / _LOCK)
    if not isinstance(lock.get("pid"), int):
        return False
    if lock.get("host") != environment.host():
        return "ended" not in _read(folder / _RUN)
    try:
        os.kill(lock["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def is_empty(folder: Path) -> bool:
    """Whether a working folder holds nothing that was recorded."""
    held = (path for pattern in ("process-*", "*.nsys-rep", "*.qdstrm") for path in folder.glob(pattern))
    return next(held, None) is None


def _node(environ: Mapping[str, str]) -> str:
    names = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
    rank = next((environ[name] for name in names if environ.get(name, "").isdigit()), None)
    return f"node{rank if rank is not None else '-' + environment.host()}"


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write_run(folder: Path, document: Mapping[str, object]) -> None:
    """Write run.json, whole or not at all."""
    unfinished = folder / f".{_RUN}"
    unfinished.write_text(json.dumps(document, indent=1, ensure_ascii=True), encoding="utf-8")
    unfinished.replace(folder / _RUN)


def let_go(folder: Path) -> None:
    """Take the lock off a working folder that is kept. One that cannot be written any more keeps it: its process ends."""
    with contextlib.suppress(OSError):
        (folder / _LOCK).unlink(missing_ok=True)
