"""Shared libraries that are loaded in this process, as Linux lists them."""

from __future__ import annotations

import ctypes
from pathlib import Path


def folders(library: str) -> set[str]:
    """Folders from which shared libraries whose name starts with `library` are mapped."""
    paths = {Path(path) for path in mapped() if f"/{library}" in path}
    return {path.parent.as_posix() for path in paths if path.name.startswith(library)}


def cudnn_version() -> str | None:
    """Of the cuDNN that is loaded, None without one.

    `torch.backends.cudnn.version()` raises where Transformer Engine loaded another cuDNN than torch was built with.
    """
    path = next((path for path in mapped() if "/libcudnn.so" in path), None)
    try:
        return None if path is None else str(ctypes.CDLL(path).cudnnGetVersion())
    except (OSError, AttributeError):
        return None


def mapped() -> list[str]:
    """Paths of the files that are mapped into this process, a path for each part of a file; none where Linux does not say."""
    try:
        lines = Path("/proc/self/maps").read_text(errors="replace").splitlines()
    except OSError:
        return []
    # Address, permissions, offset, device, inode, path: what is anonymous has none.
    parts = [line.split(maxsplit=5) for line in lines]
    return [part[5] for part in parts if len(part) == 6]
