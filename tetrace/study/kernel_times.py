"""How many times faster some kernels are in one configuration than in another, by their recordings alone.

A step of both may hardly differ where these kernels are a small part of it. Recordings have their own time in each step, and
whether it differs is told as `tetrace diff` tells it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tetrace.study.claims import judge
from tetrace.study.recorded_clock import clocks_apart
from tetrace.study.statistics import STEPS, Estimate
from tetrace.study.value import TIMES, Value

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.spec import Claim


def kernel_ratio(material: Material, figure: str, of: str, against: str) -> Estimate | None:
    """The recorded ms of `against` over those of `of`; None where one was not recorded, or both are not to be compared.

    The interval is 1 and the difference, give or take its noise, over the ms of `of`; so it holds 1 where that noise is
    larger than the difference, and wider by what the GPU's clock makes of it. There is none of too few steps.
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
    apart, off = clocks_apart(material, of, against), float(half.difference[0]) / values[0]
    return Estimate(ratio, max(ratio - off, 0.0) / apart, (ratio + off) * apart, 0, STEPS)


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
