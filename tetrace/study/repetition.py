"""Two runs of one study, such as on two starts of a machine: is the ranking the same, and do intervals overlap?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from tetrace.report.grid import Column, Grid
from tetrace.study.material import Material
from tetrace.study.section import NOTHING, Section, cut, interval_cell, milliseconds, several, value_cell
from tetrace.study.statistics import Estimate

_TITLE = "Against another run of it"


def repetition_section(material: Material, other: Material) -> Section:
    """Each configuration that both runs measured, matrix by matrix, and pairs that they rank in opposite order."""
    grids, said = [], [_what(other)]
    for matrix, members in material.matrices():
        names = [one.name for one in members if material.time(one.name) and other.time(one.name)]
        if not names:
            continue
        grids.append(
            Grid(f"Both runs of {matrix}: ms a step, speed-up", _COLUMNS, tuple(_rows(material, other, names)))
        )
        said.append(f"{matrix}: {_ranking(material, other, names)}.")
    if not grids:
        said.append("They have no measured configuration in common.")
    return Section("repetition", _TITLE, tuple(said), tuple(grids))


_COLUMNS = (
    Column("configuration", number=False, code=True), Column("this run ms"), Column("95%", keep=1), Column("other run ms"),
    Column("95%", keep=1), Column("overlap", number=False), Column("this speed-up"), Column("95%", keep=1),
    Column("other speed-up"), Column("95%", keep=1), Column("overlap", number=False),
)  # fmt: skip


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
    opposite, undecided = [], 0
    for a, b in combinations(names, 2):
        orders = [_faster(run.speedup(a, b)) for run in (material, other)]
        if 0 in orders:
            undecided += 1
        elif orders[0] != orders[1]:
            opposite.append(f"{a} and {b}")
    pairs = "1 pair is" if undecided == 1 else f"{undecided} pairs are"
    tied = f"; {pairs} told apart by one run at most" if undecided else ""
    if opposite:
        return f"ranked in opposite order: {several([cut(pair, 120) for pair in opposite])}{tied}"
    decided = len(names) * (len(names) - 1) // 2 - undecided
    if not decided:
        return f"whether the ranking is the same cannot be told: both runs tell apart no pair of {len(names)} configurations"
    many = "1 pair" if decided == 1 else f"{decided} pairs"
    return f"the same ranking of {many}, of {len(names)} configurations, that both runs tell apart{tied}"


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
