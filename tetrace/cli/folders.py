"""Where what is written goes: into folders that exist, since a name with a typing error is not to make new ones, and into
one that is named as a folder, by a slash at its end."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from tetrace.errors import UsageError

_RECORDING = ".tetrace"
_SLASHES = tuple(filter(None, (os.sep, os.altsep)))


def destination(named: str, name: str) -> Path:
    """What an option such as `-o` names: a file or recording; where that is a folder, or ends in a slash, `name` in it.

    A folder that ends in a slash is made; one into which nothing came is gone again when the command ends. A recording is
    no folder to write into. Raises `UsageError` where the folder cannot be made.
    """
    path = Path(named)
    with contextlib.suppress(RuntimeError):  # of a user that is not known
        path = path.expanduser()
    into = named.endswith(_SLASHES) or (bool(named) and path.is_dir())
    if not into or path.suffix == _RECORDING or (path / "metadata.json").is_file():
        return path
    if not path.exists():
        _make(path)
    return path / name


def _make(folder: Path) -> None:
    check_folder(folder)
    try:
        folder.mkdir()
    except OSError as error:
        raise UsageError(f"{folder}: cannot be made ({error.strerror}); choose another folder") from error

    def take_away() -> None:
        with contextlib.suppress(OSError):  # it holds something
            folder.rmdir()

    click.get_current_context().call_on_close(take_away)


def stem(run: Path) -> str:
    """What to call a file about a run: its name without what says how it is stored."""
    name = run.name or run.resolve().name
    return Path(name.removesuffix(".recording").removesuffix(".gz")).stem


def check_folder(*paths: Path | None) -> None:
    """Raise `UsageError` for the first path whose folder does not exist."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            why = "is no folder; choose one" if path.parent.exists() else "does not exist; make it, or choose another"
            raise UsageError(f"{path}: its folder {path.parent} {why}")


def check_recording(path: Path | None) -> None:
    """Raise `UsageError` where a recording, which is a folder, would be called otherwise."""
    if path is not None and path.suffix != _RECORDING:
        raise UsageError(f"{path}: a recording is a folder that ends in {_RECORDING}; name it {path.stem}{_RECORDING}")
