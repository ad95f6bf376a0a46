"""What the build of this tetrace left out: because CUDA is not for this system, it was told to, or there was no nvcc."""

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

# By `no_fp8`, likewise. On a system that CUDA is not for, the collector's line says it all.
_NO_FP8 = {
    "platform": None,
    "option": (
        "the kernels that inspect FP8 tensors were not built: TETRACE_FP8=OFF",
        "install tetrace again without that argument to CMake",
    ),
    "nvcc": (
        "the kernels that inspect FP8 tensors were not built: no nvcc that compiles for compute capability 8.0 was found",
        "install tetrace again where a CUDA toolkit is, or give -DTETRACE_NVCC=PATH in CMAKE_ARGS",
    ),
}


def left_out() -> list[tuple[str, str]]:
    """What is not in this installation and the way out of it, each a line; empty where everything is."""
    return _left_out(_C.build_info(), LIBRARY)


def _left_out(built: dict[str, Any], library: Path) -> list[tuple[str, str]]:
    found = []
    if reason := built["no_collector"]:
        what, way_out = _NO_COLLECTOR[reason]
        found.append((what.format_map(built), way_out))
    elif not library.exists():
        found.append((f"the collector is missing: {library}", "install tetrace again with pip, in this Python"))
    if line := _NO_FP8.get(built.get("no_fp8", "")):
        found.append(line)
    return found
