"""How many times faster some kernels are in one configuration than in another, by their recordings alone.

A step of both may hardly differ where these kernels are a small part of it. Recordings have their own time in each step, and
whether it differs is told as `tetrace diff` tells it.
"""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from typing import TYPE_CHECKING

from tetrace.study.claims import judge
from tetrace.study.figures import is_timed
from tetrace.study.statistics import STEPS, Estimate
from tetrace.study.value import TIMES, Value

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.study.material import Material
    from tetrace.study.spec import Claim


def is_recorded(material: Material, figure: str) -> bool:
    """Whether a figure is a time of recordings; one that was timed by round is not."""
    from tetrace.breakdown.figures import BY_NAME, MS

    return figure in BY_NAME and BY_NAME[figure].unit == MS and not is_timed(material, figure)


def kernel_ratio(material: Material, figure: str, of: str, against: str) -> Estimate | None:
    """The recorded ms of `against` over those of `of`; None where one was not recorded, or both are not to be compared.

    The interval is 1 and the difference, give or take its noise, over the ms of `of`; so it holds 1 where that noise is
    larger than the difference. Recordings are made one after the other, and the GPU's clock is another: by what matrix
    products that both run differ by, the interval is wider. There is none of too few steps.
    """
    from tetrace.breakdown.figures import BY_NAME
    from tetrace.breakdown.noise import noise

    known, runs = BY_NAME.get(figure), [material.run(name) for name in (of, against)]
    if known is None or material.apart(of, against):
        return None
    recorded = [one for one in runs if not isinstance(one, str)]
    values = [value for one in recorded if isinstance(value := known.value(one), int | float)]
    if len(values) < 2 or not all(values):
        return None
    series = [known.series(one) for one in recorded]
    ratio, steps = values[1] / values[0], min(one.steps if one else 0 for one in series)
    half = noise(series[0], series[1]) if series[0] and series[1] else None
    if half is None:
        return Estimate(ratio, None, None, steps, STEPS)
    by, off = clock_ratio(*(one.breakdown for one in recorded)), float(half.difference[0]) / values[0]
    apart = math.exp(abs(math.log(by)))
    return Estimate(ratio, max(ratio - off, 0.0) / apart, (ratio + off) * apart, 0, STEPS)


def clock_ratio(of: Breakdown, against: Breakdown) -> float:
    """How many times longer matrix products take in `against` that both run equally often in a step; 1 where there are
    none."""
    found = [_products(one) for one in (of, against)]
    shared = [name for name in found[0] if name in found[1] and found[0][name][0] == found[1][name][0]]
    sums = [sum((one[name][1] for name in shared), Fraction(0)) for one in found]
    return float(sums[1] / sums[0]) if all(sums) else 1.0


def _products(run: Breakdown) -> dict[str, tuple[Fraction, Fraction]]:
    """By kernel of a matrix product: how often it runs in a step, and its ns."""
    counts, sums = Counter[str](), Counter[str]()
    for row in run.tables["kernels"].rows():
        if row["category"] == "gemm":
            counts[row["name"]] += row["count"]
            sums[row["name"]] += row["total_ns"]
    steps = max(run.totals.steps, 1)
    return {name: (Fraction(counts[name], steps), Fraction(sums[name], steps)) for name in counts}


def beside_words(material: Material, claim: Claim) -> str:
    """What of a claim on a speed-up is so of the kernels that it names, in words; empty where it names none."""
    against = claim.against or material.baseline(claim.of)
    if not claim.beside:
        return ""
    kernels = claim.beside.removesuffix("_ms").replace("_", " ")
    found = kernel_ratio(material, claim.beside, claim.of, against)
    if found is None:
        return f"of {kernels} alone it cannot be told: not recorded"
    said = judge(material, claim, Value(found, unit=TIMES))
    return f"of {kernels} alone, as recorded, it {said.verdict}: {said.here}"
