"""What the build of this tetrace left out, because CUDA is not for this system, or because it was told to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tetrace import _C

LIBRARY = Path(_C.__file__).with_name("libtetrace_collector.so")

# By `no_collector` of `_C.build_info()`: what is missing, and the way out.
_NO_COLLECTOR = {
    "platform": (
        "no GPU is recorded on {system}: CUDA needs Linux on x86_64 or aarch64",
        "record on the machine with the GPU; reports are read here",
    ),
    "option": (
        "the collector was not built: TETRACE_COLLECTOR=OFF",
        "install tetrace again without that argument to CMake",
    ),
}


def left_out() -> list[tuple[str, str]]:
    """What is not in this installation and the way out of it, each a line; empty where everything is."""
    return _left_out(_C.build_info(), LIBRARY)


def _left_out(built: dict[str, Any], library: Path) -> list[tuple[str, str]]:
    if reason := built["no_collector"]:
        what, way_out = _NO_COLLECTOR[reason]
        return [(what.format_map(built), way_out)]
    if not library.exists():
        return [(f"the collector is missing: {library}", "install tetrace again with pip, in this Python")]
    return []
