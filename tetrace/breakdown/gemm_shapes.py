"""GEMMs by shape, format and role, over all modules, with the rate they reach."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tetrace.breakdown.tables import Table


@dataclass(frozen=True)
class GemmShape:
    """Recorded GEMMs of one shape (M x N x K), format and role. `flops` is operations a second, -1 where the shape or
    the time is not known; sums are over the selected steps."""

    shape: str
    format: str
    role: str
    modules: int
    count: int
    total_ns: int
    flops: float


def gemm_shapes(recorded_calls: Table) -> list[GemmShape]:
    """GEMMs of table `recorded_calls`, the longest in sum first; those that no recorded call launched have no shape."""
    groups: dict[tuple[str, str, str], tuple[set[str], list[int]]] = {}
    for row in recorded_calls.rows():
        if row["kind"] == "gemm":
            modules, sums = groups.setdefault((row["shape"], row["format"], row["role"]), (set(), [0, 0]))
            modules.add(row["module"])
            sums[0] += row["count"]
            sums[1] += row["total_ns"]
    found = [
        GemmShape(*key, len(modules), count, total, _flops(key[0], count, total))
        for key, (modules, (count, total)) in groups.items()
    ]
    return sorted(found, key=lambda one: -one.total_ns)


def _flops(shape: str, count: int, total_ns: int) -> float:
    sizes = [int(size) for size in shape.split("x")] if shape.replace("x", "").isdigit() else []
    return 2 * math.prod(sizes) * count / total_ns * 1e9 if len(sizes) == 3 and total_ns else -1.0
