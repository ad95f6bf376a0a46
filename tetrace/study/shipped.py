"""Where the studies that tetrace brings lie."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def folder() -> Path:
    """The folder with a folder for each study; it need not exist.

    An installed package has it within (`setup.py` maps it there), a checkout and an editable installation beside it.
    """
    package = Path(str(files("tetrace")))
    packaged = package / "profiles"
    return packaged if packaged.is_dir() else package.parent / "profiles"
