"""Shared libraries that are loaded in this process, as Linux lists them."""

from __future__ import annotations

import ctypes
from pathlib import Path


def folders(library: str) -> set[str]:
    """Folders from which shared libraries whose name starts with `library` are mapped."""
    paths = {Path(path) for path in _mapped() if f"/{library}" in path}
    return {path.parent.as_posix() for path in paths if path.name.startswith(library)}


def cudnn_version() -> str | None:
    """Of the cuDNN that is loaded, None without one.

    `torch.backends.cudnn.version()` raises where Transformer Engine loaded another cuDNN than torch was built with.
    """
    path = next((path for path in _mapped() if "/libcudnn.so" in path), None)
    try:
        return None if path is None else str(ctypes.CDLL(path).cudnnGetVersion())
    except (OSError, AttributeError):
        return None


def _mapped() -> list[str]:
    """Paths of what is mapped into memory."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    # Address, permissions, offset, device, inode, path: what is anonymous has none.
    parts = [line.split(maxsplit=5) for line in lines]
    return [part[5] for part in parts if len(part) == 6]
