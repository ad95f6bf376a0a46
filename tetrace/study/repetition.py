"""Two runs of one study, such as on two starts of a machine: is the ranking the same, and do intervals overlap?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations

from tetrace.report.grid import Column, Grid
from tetrace.study.material import Material
from tetrace.study.section import NOTHING, Section, cut, interval_cell, milliseconds, several, signs, value_cell
from tetrace.study.statistics import Estimate

_TITLE = "Against another run of it"
_NOTHING_IN_COMMON = "they have no measured configuration in common."


def repetition_section(material: Material, other: Material) -> Section:
    """Each configuration that both runs measured, matrix by matrix, and pairs that they rank in opposite order."""
    grids, said = [], [_what(other)]
    for matrix, names in _in_common(material, other):
        grids.append(
            Grid(f"Both runs of {matrix}: ms a step, speed-up", _COLUMNS, tuple(_rows(material, other, names)))
        )
        said.append(f"{matrix}: {_ranking(material, other, names)}.")
    if not grids:
        said.append(_NOTHING_IN_COMMON.capitalize())
    return Section("repetition", _TITLE, tuple(said), tuple(grids))


def repetition_words(material: Material, other: Material) -> str:
    """The same in a sentence: whether they rank alike, how many intervals overlap, and the step time that shifts most."""
    found = list(_in_common(material, other))
    if not found:
        return f"{_TITLE}, {other.folder}: {_NOTHING_IN_COMMON}"
    rows = [row for _, names in found for row in _rows(material, other, names)]
    overlaps = " and ".join(
        f"{cells.count('yes')} of {len(cells)} {what}"
        for what, place in (("step times", _OF_TIMES), ("speed-ups", _OF_SPEEDUPS))
        if (cells := [row[place] for row in rows if row[place] != NOTHING])
    )
    ranked = _order(material, other, found)
    parts = [ranked, f"95% intervals overlap for {overlaps}" if overlaps else "no time has an interval in both runs"]
    return f"{_TITLE}, {other.folder}: {'; '.join(parts)}; {_shift(material, other, found)}."


def _order(material: Material, other: Material, found: Sequence[tuple[str, Sequence[str]]]) -> str:
    pairs = sum(len(names) * (len(names) - 1) // 2 for _, names in found)
    if not pairs:
        return "no two configurations to rank"
    opposite, undecided = [], 0
    for _, names in found:
        reversed_here, undecided_here = _compared(material, other, names)
        opposite += [cut(pair, 120) for pair in reversed_here]
        undecided += undecided_here
    told = pairs - undecided
    if not told:
        return f"whether the ranking is the same cannot be told: both runs tell none of {pairs} pairs apart"
    how = f"{len(opposite)} of them in opposite order ({several(opposite)})" if opposite else "in the same order"
    return f"both runs tell {told} of {pairs} pairs apart, {how}"


def _shift(material: Material, other: Material, found: Sequence[tuple[str, Sequence[str]]]) -> str:
    """The step time that differs most, in parts of that of the other run."""
    times = {name: (material.time(name), other.time(name)) for _, names in found for name in names}
    known = {name: (here.value, there.value) for name, (here, there) in times.items() if here and there}
    name, (here, there) = max(known.items(), key=lambda one: abs(math.log(one[1][0] / one[1][1])))
    percent = 100 * (here / there - 1)
    if here == there:
        return "no step time differs"
    shifts = f"{there / 1e6:,.3f} ms there and {here / 1e6:,.3f} here ({percent:+.1f}%)"
    return signs(f"the largest shift of a step time is that of {cut(name, 60)}, {shifts}")


def _in_common(material: Material, other: Material) -> Iterator[tuple[str, Sequence[str]]]:
    """By matrix, the configurations that both runs measured."""
    for matrix, members in material.matrices():
        if names := [one.name for one in members if material.time(one.name) and other.time(one.name)]:
            yield matrix, names


_COLUMNS = (
    Column("configuration", number=False, code=True), Column("this run ms"), Column("95%", keep=1), Column("other run ms"),
    Column("95%", keep=1), Column("overlap", number=False), Column("this speed-up"), Column("95%", keep=1),
    Column("other speed-up"), Column("95%", keep=1), Column("overlap", number=False),
)  # fmt: skip
# Where a row says whether intervals overlap.
_OF_TIMES, _OF_SPEEDUPS = (place for place, column in enumerate(_COLUMNS) if column.head == "overlap")


def _rows(material: Material, other: Material, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for name in names:
        times = [milliseconds(run.time(name)) for run in (material, other)]
        base = material.baseline(name)
        speedups = [run.speedup(name, base) if base else None for run in (material, other)]
        yield (name, *_both(times), *_both(speedups))


def _both(pair: Sequence[Estimate | None]) -> tuple[str, ...]:
    cells = [cell for found in pair for cell in (value_cell(found), interval_cell(found))]
    here, there = pair
    if here is None or there is None or not (here.has_interval and there.has_interval):
        return (*cells, NOTHING)
    return (*cells, "yes" if here.overlaps(there) else "no")


def _ranking(material: Material, other: Material, names: Sequence[str]) -> str:
    """Whether both order the configurations alike; a pair counts where each run tells the two apart."""
    opposite, undecided = _compared(material, other, names)
    pairs = "1 pair is" if undecided == 1 else f"{undecided} pairs are"
    tied = f"; {pairs} told apart by one run at most" if undecided else ""
    if opposite:
        return f"ranked in opposite order: {several([cut(pair, 120) for pair in opposite])}{tied}"
    decided = len(names) * (len(names) - 1) // 2 - undecided
    if not decided:
        return f"whether the ranking is the same cannot be told: both runs tell apart no pair of {len(names)} configurations"
    many = "1 pair" if decided == 1 else f"{decided} pairs"
    return f"the same ranking of {many}, of {len(names)} configurations, that both runs tell apart{tied}"


def _compared(material: Material, other: Material, names: Sequence[str]) -> tuple[list[str], int]:
    """Pairs that the runs rank in opposite order, and how many are not told apart by both."""
    opposite, undecided = [], 0
    for a, b in combinations(names, 2):
        orders = [_faster(run.speedup(a, b)) for run in (material, other)]
        if 0 in orders:
            undecided += 1
        elif orders[0] != orders[1]:
            opposite.append(f"{a} and {b}")
    return opposite, undecided


def _faster(found: Estimate | None) -> int:
    """1 where a ratio is above 1 for certain, -1 below, 0 where its interval holds 1 or it has none."""
    if found is None or found.low is None or found.high is None:
        return 0
    return (found.low > 1) - (found.high < 1)


def _what(other: Material) -> str:
    results = other.results
    machine = results.machine.get("gpu") or results.machine.get("cpu") or "this machine"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items()))
    return cut(f"The other run: {machine}, {results.started[:19].replace('T', ' ')}, {versions}; {other.folder}.")
