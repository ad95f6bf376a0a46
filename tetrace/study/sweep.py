"""A matrix read along one numeric option: a line for each value of another axis, and where lines cross."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.study.figures import is_recorded, value
from tetrace.study.identical import deviation
from tetrace.study.kernel_times import kernel_ratio
from tetrace.study.places import Key, place, placed_in
from tetrace.study.section import times
from tetrace.study.statistics import ORDER, Estimate
from tetrace.study.value import COUNT, MS, Value

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.spec import Sweep

FASTER, SLOWER, SAME = "faster", "slower", "as fast"
# There is no interval: one round, or rounds that were not side by side.
UNDECIDED = "undecided"
_TOLD = (FASTER, SLOWER)


@dataclass(frozen=True)
class Point:
    """A configuration at a place `x` of the sweep, with its figure, and its speed-up over the baseline's there (of a
    figure that is no time: the ratio of both). None where one of both was not measured. `apart_by`: by how much identical
    configurations differ, as a logarithm. `is_elsewhere`: it is of another matrix."""

    x: float
    name: str
    found: Value
    ratio: Estimate | None
    apart_by: float = 0.0
    is_elsewhere: bool = False

    @property
    def verdict(self) -> str:
        """faster, slower, as fast (the interval holds 1, widened by what identical configurations differ by), undecided
        (there is none), or empty where it is not known."""
        one = self.ratio
        if one is None:
            return ""
        if one.low is None or one.high is None:
            return UNDECIDED
        by = math.exp(self.apart_by)
        if one.low / by <= 1 <= one.high * by:
            return SAME
        return FASTER if one.value > 1 else SLOWER

    @property
    def is_widened(self) -> bool:
        """Whether only identical configurations keep its interval from telling both apart."""
        one = self.ratio
        if one is None or one.low is None or one.high is None:
            return False
        return self.verdict == SAME and not one.low <= 1 <= one.high


@dataclass(frozen=True)
class Line:
    """The points of one value of the group, by rising x; `others` are the labels of all other axes."""

    group: str
    others: Mapping[str, str]
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        """The group, with the labels of other axes."""
        more = [f"{axis} {label}" for axis, label in self.others.items()]
        return ", ".join([word for word in (self.group,) if word] + more)


@dataclass(frozen=True)
class Crossing:
    """Where a line becomes faster (or `slower`) than the baseline's: at `at`, by a straight line through the logarithms
    of two measured places. `between` are the nearest places on either side where intervals leave no doubt."""

    line: Line
    becomes: str
    at: float
    between: tuple[float, float]


@dataclass(frozen=True)
class Swept:
    """A sweep with its lines and crossings. `apart_by`: the |log ratio| that identical configurations differ by. `is_recorded`:
    it is of the time of kernels in recordings."""

    sweep: Sweep
    lines: tuple[Line, ...]
    crossings: tuple[Crossing, ...]
    apart_by: float = 0.0
    is_recorded: bool = False

    @property
    def title(self) -> str:
        """What it is called."""
        return self.sweep.title or f"{self.sweep.figure} along {self.sweep.along}"

    @property
    def name(self) -> str:
        """What tells it from other sweeps in a sentence: those along the same option differ in what they leave fixed."""
        return self.sweep.title or f"{self.sweep.matrix}, {self.sweep.figure}"


def sweep_of(material: Material, sweep: Sweep) -> Swept:
    """A sweep as measured; lines of which nothing was measured, and nothing failed, are left out."""
    placed = placed_in(material, sweep)
    bases = {(x, others): one for x, (group, others), one in placed if group == sweep.baseline}
    lines: dict[Key, list[Point]] = {}
    for x, (group, others), one in placed:
        base = bases.get((x, others)) if sweep.group else None
        if base is None and sweep.group and group != sweep.baseline:
            base = _own_baseline(material, one, x, sweep)
        found = value(material, sweep.figure, one.name)
        ratio = _ratio(material, sweep, one, base, found) if base is not None and base.name != one.name else None
        apart_by = _apart_by(material, sweep, (one.name, base.name)) if base is not None and ratio is not None else 0.0
        lines.setdefault((group, others), []).append(
            Point(x, one.name, found, ratio, apart_by, one.matrix != sweep.matrix)
        )
    made = tuple(
        Line(group, dict(others), tuple(sorted(points, key=lambda point: point.x)))
        for (group, others), points in lines.items()
        if any(point.found.known or point.found.failed for point in points)
    )
    crossed = tuple(one for line in made for one in crossings(line))
    return Swept(sweep, made, crossed, _apart_by(material, sweep), is_recorded(material, sweep.figure))


def _apart_by(material: Material, sweep: Sweep, of: tuple[str, ...] = ()) -> float:
    """The |log ratio| that identical configurations differ by, those like `of` as effects have it; 0 where the figure is no
    timed one."""
    if not sweep.figure.endswith("_ms") or is_recorded(material, sweep.figure):
        return 0.0
    return deviation(material, sweep.figure.removesuffix("_ms"), of)


def _own_baseline(material: Material, one: Configuration, x: float, sweep: Sweep) -> Configuration | None:
    """The baseline that the matrix gives a configuration, where that is of the same place: other axes may differ."""
    base = material.configuration(material.baseline(one.name))
    is_here = base is not None and base.matrix == one.matrix and place(base, sweep.along) == x
    return base if is_here else None


def _ratio(material: Material, sweep: Sweep, one: Configuration, base: Configuration, found: Value) -> Estimate | None:
    """By how much it is better than the baseline there: of times theirs over its own, of what else its own over theirs."""
    if is_recorded(material, sweep.figure):
        return kernel_ratio(material, sweep.figure, one.name, base.name)
    if found.unit == MS:
        return material.speedup(one.name, base.name, sweep.figure.removesuffix("_ms"))
    return value(material, sweep.figure, one.name, base.name).estimate


def crossings(line: Line) -> Iterator[Crossing]:
    """Each change from slower to faster, or back, along a line. Places where intervals do not tell both apart decide
    nothing: a change lies between places that do."""
    known = [point for point in line.points if point.ratio is not None]
    decided = [point for point in known if point.verdict in _TOLD]
    for a, b in itertools.pairwise(decided):
        if a.verdict == b.verdict:
            continue
        pairs = itertools.pairwise(known[known.index(a) : known.index(b) + 1])
        at = [_between(c, d) for c, d in pairs if _side(c) == _side(a) and _side(d) == _side(b)]
        yield Crossing(line, b.verdict, at[-1], (a.x, b.x))


def _side(point: Point) -> bool:
    assert point.ratio is not None
    return point.ratio.value > 1


def _between(a: Point, b: Point) -> float:
    """Where the ratio is 1, by a straight line through logarithms (through the numbers where a place is 0)."""
    assert a.ratio is not None
    assert b.ratio is not None
    share = math.log(a.ratio.value) / (math.log(a.ratio.value) - math.log(b.ratio.value))
    if a.x <= 0:
        return a.x + share * (b.x - a.x)
    return math.exp(math.log(a.x) + share * (math.log(b.x) - math.log(a.x)))


def trend_words(swept: Swept) -> list[str]:
    """Whether the ratio to the baseline's line changes along a sweep, in a sentence for each line whose ratio has an interval
    at two places or more. It does where two intervals are apart, each wider by what identical configurations differ by."""
    said = []
    for line in swept.lines:
        known = [
            (one.low, one.high, point.x, one)
            for point in line.points
            if (one := point.ratio) is not None and one.low is not None and one.high is not None
        ]
        if len(known) < 2:
            continue
        ratio, along = f"{line.name} over {swept.sweep.baseline}", swept.sweep.along
        measured = sum(point.ratio is not None for point in line.points)
        every = "every" if len(known) == measured else f"{len(known)} of {measured}"
        places = f"{every} measured {along} ({known[0][2]:,g} to {known[-1][2]:,g})"
        lowest, highest = min(known, key=operator.itemgetter(1)), max(known, key=operator.itemgetter(0))
        if highest[0] * math.exp(-swept.apart_by) <= lowest[1] * math.exp(swept.apart_by):
            values = sorted(one.value for *_, one in known)
            words = " to ".join(dict.fromkeys(f"{one:.3f}×" for one in (values[0], values[-1])))
            said.append(f"{ratio} is not told to change along {along}, at {places}: {words}.")
        else:
            words = ", ".join(
                f"{times(one)} at {x:,g}" for *_, x, one in sorted((lowest, highest), key=operator.itemgetter(2))
            )
            said.append(f"{ratio} changes along {along}: {words}.")
    return said


def crossing_value(material: Material, sweeps: Sequence[Swept], matrix: str, of: str, against: str) -> Value:
    """From which place on group `of` is faster than group `against`, the baseline of the sweep; its interval is where
    that lies for certain. Beyond the last measured place where it never is; below the first where it always is. There is
    none where it is faster and later slower."""
    swept = next((one for one in sweeps if one.sweep.matrix == matrix), None)
    if swept is None:
        return Value(reason=f"there is no sweep of {matrix}")
    if against and swept.sweep.baseline != against:
        from dataclasses import replace

        swept = sweep_of(material, replace(swept.sweep, baseline=against))
    line = next((one for one in swept.lines if of in (one.group, one.name)), None)
    known = [point for point in line.points if point.ratio is not None] if line else []
    if line is None or not known:
        return Value(reason=f"{of} and {swept.sweep.baseline} were not both measured along {swept.sweep.along}")
    decided = [point for point in known if point.verdict in _TOLD]
    if not decided:
        return Value(reason=f"intervals do not tell {of} and {swept.sweep.baseline} apart anywhere")
    found = [one for one in swept.crossings if one.line is line]
    if any(one.becomes == SLOWER for one in found):
        places = ", ".join(f"{one.becomes} between {one.between[0]:,g} and {one.between[1]:,g}" for one in found)
        return Value(reason=f"{of} is not faster from one {swept.sweep.along} on: it becomes {places}")
    if found:
        return Value(Estimate(found[0].at, *found[0].between, 0, ORDER), unit=COUNT)
    if decided[0].verdict == FASTER:
        return Value(Estimate(decided[0].x, -math.inf, decided[0].x, 0, ORDER), unit=COUNT)
    return Value(Estimate(math.inf, decided[-1].x, math.inf, 0, ORDER), unit=COUNT)
