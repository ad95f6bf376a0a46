"""Configurations that run the same under different names: what they differ by is no difference of options."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
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


def twins(material: Material) -> dict[str, list[str]]:
    """By configuration: those that run the same (options and environment), itself too."""
    keys = {
        one.name: repr((sorted(one.options.items()), sorted(one.environment.items())))
        for one in material.configurations
    }
    return {name: [other for other, its in keys.items() if its == key] for name, key in keys.items()}


def identical(material: Material, column: str = "total") -> list[Identical]:
    """Each pair of configurations that run the same and were both measured."""
    groups = dict.fromkeys(tuple(members) for members in twins(material).values())
    pairs = [(b, a) for members in groups for a, b in itertools.combinations(members, 2)]
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
        f"Identical configurations: {several(found, _PAIRS_NAMED)}. They have the same options and run in processes of their "
        "own: what they differ by is in no interval. A claim on a ratio of times is told only where that leaves its verdict as "
        "it is; one on steps that the GPU works through, where it leaves it by what such steps differ by."
    )
