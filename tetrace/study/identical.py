"""Configurations that run the same under different names: what they differ by is no difference of options."""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from tetrace.study.payoff import LAUNCH_BOUND
from tetrace.study.section import several, times
from tetrace.study.statistics import Estimate

if TYPE_CHECKING:
    from tetrace.study.material import Material

_PAIRS_NAMED = 6


@dataclass(frozen=True)
class Identical:
    """Two configurations that run the same, and how many times faster the first is than the second."""

    names: tuple[str, str]
    ratio: Estimate


_known: weakref.WeakKeyDictionary[Material, dict[str, list[str]]] = weakref.WeakKeyDictionary()


def twins(material: Material) -> dict[str, list[str]]:
    """By configuration: those that run the same, itself too. They have the same options, and the same environment or, by
    their recordings, the same kernels equally often."""
    if material not in _known:
        _known[material] = _twins(material)
    return _known[material]


def _twins(material: Material) -> dict[str, list[str]]:
    options = {one.name: repr(sorted(one.options.items())) for one in material.configurations}
    environments = {one.name: repr(sorted(one.environment.items())) for one in material.configurations}
    several = {one for one, count in Counter(options.values()).items() if count > 1}
    kernels = {name: _kernels(material, name) for name, own in options.items() if own in several}

    def run_the_same(one: str, other: str) -> bool:
        if options[one] != options[other]:
            return False
        found = kernels.get(one)
        return environments[one] == environments[other] or (found is not None and found == kernels[other])

    return {name: [other for other in options if run_the_same(name, other)] for name in options}


def _kernels(material: Material, name: str) -> dict[str, Fraction] | None:
    """How often each kernel runs in a recorded step, by name; None where nothing was recorded."""
    run = material.breakdown(name)
    if run is None or not run.totals.steps:
        return None
    counts: Counter[str] = Counter()
    for row in run.tables["kernels"].rows():
        counts[row["name"]] += row["count"]
    return {kernel: Fraction(count, run.totals.steps) for kernel, count in counts.items()}


def identical(material: Material, column: str = "total") -> list[Identical]:
    """Each pair of configurations that run the same and were both measured."""
    pairs = dict.fromkeys((b, a) for members in twins(material).values() for a, b in itertools.combinations(members, 2))
    found = ((pair, material.speedup(*pair, column)) for pair in pairs)
    return [Identical(pair, ratio) for pair, ratio in found if ratio is not None]


def deviation(material: Material, column: str = "total", of: Iterable[str] = ()) -> float:
    """The largest |log ratio| of configurations that run the same; 0 where there are none.

    Where the GPU works through the steps of all configurations `of`, and through those of some pair, only such pairs
    count: what the others differ by is mostly their hosts, for which these do not wait.
    """
    pairs, asked = identical(material, column), tuple(of)
    if asked and all(_is_worked_through(material, name) for name in asked):
        pairs = [one for one in pairs if _is_worked_through(material, one.names[0])] or pairs
    return max((abs(math.log(one.ratio.value)) for one in pairs if one.ratio.value > 0), default=0.0)


def _is_worked_through(material: Material, name: str) -> bool:
    """Whether a recording of the configuration, or of one that runs the same, says that the GPU hardly idles."""
    runs = (material.breakdown(one) for one in twins(material).get(name, [name]))
    totals = next((run.totals for run in runs if run is not None and run.totals.activities), None)
    return totals is not None and totals.all_idle_ns < LAUNCH_BOUND * totals.wall_ns


def identical_words(material: Material) -> str:
    """What configurations that run the same differ by, in a sentence; empty where there are none."""
    found = [f"{one.names[0]} / {one.names[1]} {times(one.ratio)}" for one in identical(material)]
    if not found:
        return ""
    return (
        f"Identical configurations: {several(found, _PAIRS_NAMED)}. They have the same options, launch the same kernels and run "
        "in processes of their own: what they differ by is in no interval. A claim on a ratio of times is told only where that "
        "leaves its verdict as it is; one on steps that the GPU works through, where it leaves it by what such steps differ by."
    )
