"""Where files of a report may go: into folders that exist, since a name with a typing error is not to make new ones."""

from __future__ import annotations

from pathlib import Path

from tetrace.errors import UsageError

_RECORDING = ".tetrace"


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
