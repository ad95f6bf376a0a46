"""Two runs of one study, such as on two starts of a machine: is the ranking the same, and do intervals overlap?"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timezone
from itertools import combinations

from tetrace.report.grid import Column, Grid
from tetrace.study.comparable import one_sided, unlike
from tetrace.study.identical import deviation
from tetrace.study.idle import works_ns
from tetrace.study.material import Material
from tetrace.study.results import Configuration
from tetrace.study.section import NOTHING, Section, cut, interval_cell, milliseconds, several, value_cell
from tetrace.study.starts import Start, starts_of
from tetrace.study.statistics import Estimate
from tetrace.units import plural

_TITLE = "Against another run of it"
_MOST_NAMED = 40
_COUNTS = 0.05  # of a step
_TIME, _SPEEDUP = "step time", "speed-up"
_MOVES = (
    "A step that waits for the host takes longer on a start with a slower host, and its baseline does too: that moves times "
    "more than speed-ups."
)


@dataclass(frozen=True)
class _Pair:
    """A figure of a configuration in this run and in the other one."""

    name: str
    here: Estimate | None
    there: Estimate | None

    @property
    def overlap(self) -> bool | None:
        """Whether both intervals share a number; None where one is not known."""
        here, there = self.here, self.there
        if here is None or there is None or not (here.has_interval and there.has_interval):
            return None
        return here.overlaps(there)

    @property
    def moved(self) -> str:
        """By how much it is more in this run than in the other."""
        if self.here is None or self.there is None or not self.there.value:
            return NOTHING
        return f"{100 * (self.here.value / self.there.value - 1):+.1f}%"

    def cells(self) -> tuple[str, ...]:
        """Both with their intervals, how far it moved, and whether they overlap."""
        own = [cell for found in (self.here, self.there) for cell in (value_cell(found), interval_cell(found))]
        return (*own, self.moved, {True: "yes", False: "no", None: NOTHING}[self.overlap])


@dataclass(frozen=True)
class _Compared:
    """What both runs timed: by matrix a table and the ranking in words; figures of all; what was left out, and why."""

    grids: list[Grid]
    ranked: list[str]
    pairs: dict[str, list[_Pair]]
    configurations: list[Configuration]
    left: dict[str, str]

    @property
    def nothing(self) -> str:
        """Why there is nothing to compare; empty where there is something."""
        if self.grids:
            return ""
        return "Nothing is compared." if self.left else "They have no measured configuration in common."


def repetition_section(material: Material, other: Material) -> Section:
    """Each configuration that both runs measured, matrix by matrix, pairs that they rank in opposite order, and intervals that
    do not overlap. What is one measurement in both, or was measured otherwise, is left out and named."""
    found = _compare(material, other)
    compared = found.configurations
    said = [_what(material, other, compared), *_differs(material, other, compared), *_left_words(found.left)]
    said += [*_alone(material, other), *found.ranked, *_overlap_words(found.pairs)]
    said += [found.nothing] if found.nothing else []
    return Section("repetition", _TITLE, tuple(said), tuple(found.grids))


def repetition_words(material: Material, other: Material) -> str:
    """The same in short: what each matrix' ranking is, and how many intervals overlap."""
    found = _compare(material, other)
    overlaps = [
        f"intervals of {sum(known)} of {len(known)} {figure}s overlap"
        for figure, members in found.pairs.items()
        if (known := [one.overlap for one in members if one.overlap is not None])
    ]
    said = [*(one.removesuffix(".") for one in found.ranked), *overlaps]
    return f"{_TITLE}, {other.folder.name}: {found.nothing or '; '.join(said) + '.'}"


def _compare(material: Material, other: Material) -> _Compared:
    result = _Compared([], [], {_TIME: [], _SPEEDUP: []}, [], left_out(material, other))
    for matrix, found in _common(material, other, result.left):
        names = [one.name for one in found]
        times, speedups = _times(material, other, names), _speedups(material, other, names)
        rows = tuple((a.name, *a.cells(), *b.cells()) for a, b in zip(times, speedups, strict=True))
        result.grids.append(Grid(f"Both runs of {matrix}: ms a step, speed-up", _COLUMNS, rows))
        result.ranked.append(f"{matrix}: {_ranking(material, other, names)}.")
        result.pairs[_TIME].extend(times)
        result.pairs[_SPEEDUP].extend(speedups)
        result.configurations.extend(found)
    return result


def _common(material: Material, other: Material, left: Container[str]) -> Iterator[tuple[str, list[Configuration]]]:
    """Each matrix with what both runs timed of it, and is not `left` out; none that has nothing."""
    for matrix, members in material.matrices():
        timed = [one for one in members if material.time(one.name) and other.time(one.name) and one.name not in left]
        if timed:
            yield matrix, timed


_COLUMNS = (
    Column("configuration", number=False, code=True), Column("this run ms"), Column("95%", keep=1), Column("other run ms"),
    Column("95%", keep=1), Column("moved"), Column("overlap", number=False), Column("this speed-up"), Column("95%", keep=1),
    Column("other speed-up"), Column("95%", keep=1), Column("moved"), Column("overlap", number=False),
)  # fmt: skip


def left_out(material: Material, other: Material) -> dict[str, str]:
    """Configurations that both runs timed but that are not compared, each with the reason."""
    found = {}
    for one in material.configurations:
        its = other.configuration(one.name)
        if its is None or not (one.is_timed and its.is_timed):
            continue
        if _measurement(one) == _measurement(its):
            found[one.name] = "the very same measurement in both"
        elif said := unlike(one, its, (material.results, other.results)):
            found[one.name] = said
    return found


def _measurement(one: Configuration) -> list[tuple[str, int, int]]:
    return [(each.at, each.began_ns, each.host_ns) for each in one.rounds]


def _left_words(left: dict[str, str]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for name, reason in left.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"Not compared, {reason}: {several(names, _MOST_NAMED)}." for reason, names in by_reason.items()]


def _alone(material: Material, other: Material) -> Iterator[str]:
    """Configurations that only this run timed."""
    names = [one.name for one in material.configurations if material.time(one.name) and not other.time(one.name)]
    if names:
        yield f"Only this run timed {len(names)} of its configurations: {several(names, _MOST_NAMED)}."


def _times(material: Material, other: Material, names: Sequence[str]) -> list[_Pair]:
    return [_Pair(name, *(milliseconds(run.time(name)) for run in (material, other))) for name in names]


def _speedups(material: Material, other: Material, names: Sequence[str]) -> list[_Pair]:
    found = []
    for name in names:
        base = material.baseline(name)
        here, there = (run.speedup(name, base) if base in names else None for run in (material, other))
        found.append(_Pair(name, here, there))
    return found


def _overlap_words(pairs: dict[str, list[_Pair]]) -> Iterator[str]:
    """How many intervals overlap, and those that do not, with how far they moved."""
    for figure, members in pairs.items():
        known = [one for one in members if one.overlap is not None]
        if not known:
            continue
        apart = [f"{one.name} {one.moved}" for one in known if not one.overlap]
        said = f"Intervals of {len(known) - len(apart)} of {len(known)} {figure}s overlap"
        moves = (
            f"; those that do not moved from the other run to this one: {several(apart, _MOST_NAMED)}" if apart else ""
        )
        yield f"{said}{moves}."
        if apart and figure == _TIME:
            yield _MOVES


def reversed_words(material: Material, other: Material) -> str:
    """What the other run ranks the other way, in a sentence, what is fastest there instead, and whether that is of the host;
    empty where nothing is."""
    common = [[one.name for one in members] for _, members in _common(material, other, left_out(material, other))]
    orders = [_order(material, other, names) for names in common]
    opposite = [pair for order in orders for pair in order.opposite]
    if not opposite:
        return ""
    waiting = [pair for pair in opposite if any(_waits(material, other, name) for name in pair)]
    many = f"{len(opposite)} of {plural(sum(order.decided for order in orders), 'pair')}"
    best = [(_fastest(material, names), _fastest(other, names)) for names in common]
    turned = [pair for pair in best if pair in opposite or pair[::-1] in opposite]
    others = [pair for pair in opposite if pair not in turned and pair[::-1] not in turned]
    pairs = several([cut(f"{a} and {b}", 120) for a, b in [*turned, *others]], 2)
    said = f"Another start, {other.results.started[:10]}, ranks {many} the other way ({pairs})"
    if turned:
        there = " and ".join(cut(name, 80) for _, name in turned)
        said += f": the fastest there {'was' if len(turned) == 1 else 'were'} {there}"
    if not waiting:
        return said
    among = "in each" if len(waiting) == len(opposite) else f"in {len(waiting)} of them"
    return f"{said}; {among} a step waits for the host, whose speed differs from start to start"


def _fastest(run: Material, names: Sequence[str]) -> str:
    """The configuration whose step takes least time in a run."""
    return min(names, key=lambda name: found.value if (found := run.time(name)) else math.inf)


def _waits(material: Material, other: Material, name: str) -> bool:
    """Whether the GPU idles in a part of the step that counts, in either run; one of them has no recordings."""
    run = material.breakdown(name)
    if run is None:
        return False
    times = (one.value for one in (material.time(name), other.time(name)) if one)
    return any(works_ns(run) < (1 - _COUNTS) * time for time in times)


@dataclass(frozen=True)
class _Order:
    """Pairs that both runs tell apart: how many, and which of them they rank in opposite order; and how many others."""

    opposite: list[tuple[str, str]]
    decided: int
    undecided: int


def _order(material: Material, other: Material, names: Sequence[str]) -> _Order:
    pairs = {pair: [_faster(run, *pair) for run in (material, other)] for pair in combinations(names, 2)}
    told = {pair: ways for pair, ways in pairs.items() if 0 not in ways}
    return _Order([pair for pair, (one, two) in told.items() if one != two], len(told), len(pairs) - len(told))


def _ranking(material: Material, other: Material, names: Sequence[str]) -> str:
    """Whether both order the configurations alike; a pair counts where each run tells the two apart."""
    found = _order(material, other, names)
    pairs = "1 pair is" if found.undecided == 1 else f"{found.undecided} pairs are"
    tied = f"; {pairs} told apart by one run at most" if found.undecided else ""
    if found.opposite:
        of = f"{len(found.opposite)} of {found.decided} pairs that both runs tell apart are"
        opposite = [cut(f"{a} and {b}", 120) for a, b in found.opposite]
        return f"{of} ranked in opposite order: {several(opposite, _MOST_NAMED)}{tied}"
    if not found.decided:
        return f"whether the ranking is the same cannot be told: both runs tell apart no pair of {len(names)} configurations"
    many = plural(found.decided, "pair")
    return f"the same ranking of {many}, of {len(names)} configurations, that both runs tell apart{tied}"


def _faster(run: Material, of: str, against: str) -> int:
    """1 where a run tells that `of` is faster, -1 slower, 0 where it does not: 1 is in the interval, widened by what
    identical configurations differ by, or there is none."""
    found = run.speedup(of, against)
    if found is None or found.low is None or found.high is None:
        return 0
    by = math.exp(deviation(run, of=(of, against)))
    return (found.low / by > 1) - (found.high * by < 1)


def _starts(configurations: Iterable[Configuration]) -> list[Start]:
    return starts_of(each for one in configurations for each in one.rounds)


def _what(material: Material, other: Material, compared: Sequence[Configuration]) -> str:
    """Which run it is compared with, and in which start of the machine either was timed."""
    theirs = [found for one in compared if (found := other.configuration(one.name))]
    here, there = _starts(compared), _starts(theirs)
    machine = other.results.machine.get("gpu") or other.results.machine.get("cpu") or "this machine"
    said = f"The other run: {machine}, {other.results.started[:19].replace('T', ' ')}, in {other.folder.name}."
    if not here or not there:
        return said
    words = [
        " and ".join(f"{one.began.astimezone(timezone.utc):%Y-%m-%d %H:%M}" for one in each) for each in (here, there)
    ]
    if len(_starts([*compared, *theirs])) < len(here) + len(there):
        return f"{said} Both were timed in one start of the machine, that of {words[0]} UTC: this is no second start."
    return f"{said} It was timed in the start of the machine of {words[1]} UTC, this one in that of {words[0]} UTC."


def _differs(material: Material, other: Material, compared: Sequence[Configuration]) -> Iterator[str]:
    """What only one of both runs says that it ran with."""
    found: dict[str, dict[str, None]] = {}
    for one in compared:
        its = other.configuration(one.name)
        if its is not None:
            for kind, names in one_sided(one, its, (material.results, other.results)).items():
                found.setdefault(kind, {}).update(dict.fromkeys(names))
    code = found.pop("code", {})
    said = [f"{kind} that only one of both lists ({', '.join(names)})" for kind, names in found.items()]
    said += [f"{', '.join(code)} of another version, with the same tokens, operations and parameters"] if code else []
    if said:
        yield f"They differ in {'; '.join(said)}."
