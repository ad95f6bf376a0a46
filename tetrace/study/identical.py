"""Configurations that run the same under different names: what they differ by is no difference of options."""

from __future__ import annotations

import itertools
import math
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
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
    """Two configurations that run the same, and how many times faster the first is than the second; `phase` where only that
    phase of a step is the same, and the ratio is of it."""

    names: tuple[str, str]
    ratio: Estimate
    phase: str = ""


_known: weakref.WeakKeyDictionary[Material, dict[str, list[str]]] = weakref.WeakKeyDictionary()
_known_phases: weakref.WeakKeyDictionary[Material, list[Identical]] = weakref.WeakKeyDictionary()


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


def identical_phases(material: Material) -> list[Identical]:
    """Pairs whose options change kernels, but none of a step's first phase: with as much work and as many kernels in a step, and
    in that phase the same ones equally often, in rounds side by side. So E4M3 and HYBRID have one forward."""
    if material not in _known_phases:
        _known_phases[material] = list(_identical_phases(material))
    return _known_phases[material]


def _identical_phases(material: Material) -> Iterator[Identical]:
    phase = next(iter(material.phases), "")
    alike: dict[object, list[tuple[str, Counter[tuple[str, str]]]]] = {}
    for one in material.configurations:
        found = _kernels_by_phase(material, one.name) if phase and one.is_timed else None
        if found is not None and (first := {key: many for key, many in found.items() if key[0] == phase}):
            work = (one.tokens, one.flops, one.parameters, repr(sorted(one.environment.items())))
            key = (work, sum(found.values()), frozenset(first.items()))
            alike.setdefault(key, []).append((one.name, found))
    for members in alike.values():
        for (name, own), (other, its) in itertools.combinations(members, 2):
            ratio = material.speedup(name, other, phase) if own != its else None
            if ratio is not None and ratio.has_interval:
                yield Identical((name, other), ratio, phase)


def _kernels_by_phase(material: Material, name: str) -> Counter[tuple[str, str]] | None:
    """How often each kernel runs in a phase of a recorded step; None where nothing was recorded."""
    from tetrace.attribute.distinct import counts, distinct
    from tetrace.breakdown.scope import Scope, phase_words

    run = material.breakdown(name)
    if run is None or not run.totals.steps:
        return None
    scope = Scope(run.attribution, run.selection)
    (code, phase), index = distinct(scope.column("name"), scope.phase)
    names = scope.trace.words("activities", "name")
    keys = zip(phase_words(phase), (names[one] for one in code.tolist()), strict=True)
    many = (Fraction(one, run.totals.steps) for one in counts(index, len(code)).tolist())
    return Counter(dict(zip(keys, many, strict=True)))


def deviation(material: Material, column: str = "total", of: Iterable[str] = ()) -> float:
    """The largest |log ratio| of configurations that run the same, or whose first phase does; 0 where there are none. Only of
    such as ran side by side, in rounds enough for an interval: what others differ by is drift too, and widens no interval that
    has none of it.

    Where the GPU works through the steps of all configurations `of`, and through those of some pair, only such pairs
    count: what the others differ by is mostly their hosts, for which these do not wait. Pairs of phases, whose hosts are what
    differs, count where the GPU waits for more than half of the steps of all.
    """
    pairs, asked = [one for one in identical(material, column) if one.ratio.has_interval], tuple(of)
    if asked and all(_is_worked_through(material, name) for name in asked):
        pairs = [one for one in pairs if _is_worked_through(material, one.names[0])] or pairs
    elif all((_idle_share(material, name) or 0) > 0.5 for name in asked):
        pairs += identical_phases(material)
    return max((abs(math.log(one.ratio.value)) for one in pairs if one.ratio.value > 0), default=0.0)


def _is_worked_through(material: Material, name: str) -> bool:
    share = _idle_share(material, name)
    return share is not None and share < LAUNCH_BOUND


def _idle_share(material: Material, name: str) -> float | None:
    """In which share of a recorded step of the configuration, or of one that runs the same, the GPU idles."""
    runs = (material.breakdown(one) for one in twins(material).get(name, [name]))
    totals = next((run.totals for run in runs if run is not None and run.totals.activities), None)
    return None if totals is None else totals.all_idle_ns / max(totals.wall_ns, 1)


def identical_words(material: Material) -> str:
    """What configurations that run the same differ by, in a sentence; empty where there are none."""
    pairs, phases = ([_pair_words(one) for one in found] for found in (identical(material), identical_phases(material)))
    if not pairs and not phases:
        return ""
    said = []
    if pairs:
        said.append(
            f"Identical configurations: {several(pairs, _PAIRS_NAMED)}. They have the same options.{_drift_words(material)}"
        )
    if phases:
        said.append(
            f"Identical in {material.phases[0]} alone: {several(phases, _PAIRS_NAMED)}. Their options change kernels of the rest."
        )
    return (
        f"{' '.join(said)} What is identical launches the same kernels, in "
        "processes of their own: what they differ by is in no interval. A claim on a ratio of times is told only where that "
        "leaves its verdict as it is; one on steps that the GPU works through, where it leaves it by what such steps differ by."
    )


def _drift_words(material: Material) -> str:
    if all(one.ratio.has_interval for one in identical(material)):
        return ""
    return " Of those without an interval drift is in the ratio, so they widen no other one's."


def _pair_words(one: Identical) -> str:
    return f"{one.names[0]} / {one.names[1]} {times(one.ratio)}"
