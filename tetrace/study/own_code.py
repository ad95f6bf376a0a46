"""Which files are a workload's own code: when they change, it is measured again."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from pathlib import Path

_PACKAGES = {"site-packages", "dist-packages"}


def files_of(folder: Path) -> list[str]:
    """Imported files in the study's folder or beside it, relative to it, without what is installed there.

    Those elsewhere (packages, editable installations) and files that are read, not imported, are not among them.
    """
    own = folder.resolve()
    around = own.parent
    installed = [path for path in _installed() if around in path.parents]
    found = set()
    for module in list(sys.modules.values()):
        file = Path(getattr(module, "__file__", None) or "")
        if file.suffix != ".py" or around not in file.parents:
            continue
        is_installed = bool(_PACKAGES & {*file.relative_to(around).parts}) or any(
            path in file.parents for path in installed
        )
        if own in file.parents or not is_installed:
            found.add(os.path.relpath(file, own))
    return sorted(found)


def _installed() -> set[Path]:
    """Folders of Python, its packages, and tetrace, whose versions say when they change."""
    words = [*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()]
    words += [sys.prefix, sys.base_prefix, str(Path(__file__).parents[1])]
    return {Path(word) for word in words} | {Path(word).resolve() for word in words}
