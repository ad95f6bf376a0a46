"""By how much kernels may differ between two recordings since the GPU's clock was another in each.

Recordings are made one after the other, and a GPU at its power cap runs faster or slower in each. No noise from step to step
of either shows that; matrix products that both run equally often do.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

from tetrace.study.identical import twins

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.study.material import Material


def clocks_apart(material: Material, of: str, against: str) -> float:
    """How many times longer matrix products take in one recording than in the other, 1 or more. Of two that have none in
    common it is the most that any do between identical configurations; 1 where nothing is known."""
    found = _apart(material, of, against)
    if found is not None:
        return found
    members = {name: tuple(others) for name, others in twins(material).items()}
    pairs = {pair for others in members.values() for pair in itertools.combinations(others, 2)}
    return max((apart for pair in pairs if (apart := _apart(material, *pair))), default=1.0)


def _apart(material: Material, of: str, against: str) -> float | None:
    runs = [run for name in (of, against) if (run := material.breakdown(name)) is not None]
    by = clock_ratio(*runs) if len(runs) == 2 else None
    return None if by is None else math.exp(abs(math.log(by)))


def clock_ratio(of: Breakdown, against: Breakdown) -> float | None:
    """How many times longer matrix products take in `against` that both run equally often in a step; None where there are
    none."""
    found = [_products(one) for one in (of, against)]
    shared = [name for name in found[0] if name in found[1] and found[0][name][0] == found[1][name][0]]
    sums = [sum((one[name][1] for name in shared), Fraction(0)) for one in found]
    return float(sums[1] / sums[0]) if all(sums) else None


def _products(run: Breakdown) -> dict[str, tuple[Fraction, Fraction]]:
    """By kernel of a matrix product: how often it runs in a step, and its ns."""
    counts, sums = Counter[str](), Counter[str]()
    for row in run.tables["kernels"].rows():
        if row["category"] == "gemm":
            counts[row["name"]] += row["count"]
            sums[row["name"]] += row["total_ns"]
    steps = max(run.totals.steps, 1)
    return {name: (Fraction(counts[name], steps), Fraction(sums[name], steps)) for name in counts}
