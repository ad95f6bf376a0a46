"""What each option does: the values of an axis against one another, with all other axes equal.

A value is set against the first one of its axis that the study has beside the same values of the other axes (what it
excludes is none). Only rounds that ran side by side are compared, and only steps of as many tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import Column, Grid
from tetrace.study.identical import deviation
from tetrace.study.section import Section, cut, interval_cell, several, value_cell, without_empty
from tetrace.study.statistics import APART, Estimate

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.spec import Matrix, Planned

FASTER, SLOWER, NOT_TOLD = "faster", "slower", "not told apart"
EFFECT_COLUMNS = (
    "matrix", "axis", "value", "over", "with", "configuration", "against", "speedup", "speedup_low", "speedup_high",
    "rounds", "verdict", "operations",
)  # fmt: skip
# Axes of the headline, and clauses of each there; names in a clause.
_AXES, _CLAUSES, _NAMES = 2, 3, 5
_TITLE = "What each option does"


@dataclass(frozen=True)
class Effect:
    """`found`: how many times faster `of` is than `base`, configurations that differ in one axis: `value`, not `over`.

    `beside`: labels of the other axes, in their order. `operations`: those of its step over those of `base`, None where
    they are not counted. `deviation`: by how much identical configurations differ, as a logarithm.
    """

    value: str
    over: str
    beside: tuple[str, ...]
    of: str
    base: str
    found: Estimate
    operations: float | None
    deviation: float = 0.0

    @property
    def verdict(self) -> str:
        """On which side of 1 its whole interval is, after it is widened by what identical configurations differ by."""
        by = math.exp(self.deviation)
        if self.found.low is not None and self.found.low / by > 1:
            return FASTER
        return SLOWER if self.found.high is not None and self.found.high * by < 1 else NOT_TOLD

    @property
    def context(self) -> str:
        """The values of the other axes in a word."""
        return "-".join(self.beside)


@dataclass(frozen=True)
class Axis:
    """An axis of a matrix with all that its values do. `apart`: pairs that never ran side by side; `unequal`: pairs whose
    steps are of other tokens."""

    matrix: str
    name: str
    effects: tuple[Effect, ...]
    apart: tuple[tuple[str, str], ...]
    unequal: tuple[tuple[str, str], ...]

    @cached_property
    def largest(self) -> float:
        """The largest effect that is told from none, as a logarithm; 0 where there is none. Steps of other operations are
        other work."""
        told = [one for one in self.effects if one.verdict != NOT_TOLD and one.operations in (1, None)]
        return max((abs(math.log(one.found.value)) for one in told), default=0.0)

    @property
    def words(self) -> str:
        """All that it does."""
        return "; ".join(_clauses(self.effects))

    @property
    def short_words(self) -> str:
        """The same for a headline, without intervals; what there is no room for is where all of it is."""
        clauses = list(_clauses(self.effects, short=True))
        left = len(clauses) - _CLAUSES
        # Where the others are takes as many words as one of them.
        shown = clauses if left <= 1 else [*clauses[:_CLAUSES], f"{left} more of {self.name} under {_TITLE}"]
        return "; ".join(shown)


def axes(material: Material) -> tuple[Axis, ...]:
    """Every axis of every matrix that has two or more, where two of its values were measured."""
    found = []
    for name, members in material.matrices():
        matrix = next((one for one in material.study.matrices if one.name == name), None)
        if matrix is None or len(matrix.axes) < 2:
            continue
        measured = {one.name: one for one in members if one.is_timed}
        found += [_axis(material, matrix, axis, measured) for axis in matrix.axes]
    return tuple(one for one in found if one.effects or one.apart or one.unequal)


def _axis(material: Material, matrix: Matrix, axis: str, measured: dict[str, Configuration]) -> Axis:
    effects: list[Effect] = []
    apart, unequal = [], []
    for planned, first in _pairs(material, matrix, axis):
        if not {planned.name, first.name} <= measured.keys():
            continue
        of, base = measured[planned.name], measured[first.name]
        found = material.speedup(of.name, base.name)
        if found is None:
            continue
        if of.tokens != base.tokens:
            unequal.append((of.name, base.name))
        elif found.way == APART:
            apart.append((of.name, base.name))
        else:
            beside = tuple(label for name, label in planned.axes.items() if name != axis)
            operations = of.flops / base.flops if of.flops and base.flops else None
            labels = (planned.axes[axis], first.axes[axis])
            apart_by = deviation(material, of=(of.name, base.name))
            effects.append(Effect(*labels, beside, of.name, base.name, found, operations, apart_by))
    return Axis(matrix.name, axis, tuple(effects), tuple(apart), tuple(unequal))


def _pairs(material: Material, matrix: Matrix, axis: str) -> Iterable[tuple[Planned, Planned]]:
    """Each configuration with the one that has the axis' first value and is else the same, value after value."""
    own = [one for one in material.study.configurations if one.matrix == matrix.name]
    order = {label: place for place, label in enumerate(matrix.axes[axis])}
    firsts: dict[tuple[str, ...], Planned] = {}
    beside = {one.name: tuple(label for name, label in one.axes.items() if name != axis) for one in own}
    for one in sorted(own, key=lambda one: order[one.axes[axis]]):
        first = firsts.setdefault(beside[one.name], one)
        if first is not one:
            yield one, first


def _clauses(effects: Sequence[Effect], short: bool = False) -> Iterable[str]:
    """`fused over unfused 1.06× (0.99 to 1.12) with none; 1.21× to 1.25× (1.17 to 1.30) with e4m3, block`: values that fare
    alike beside the same are put together."""
    alike: dict[tuple[Any, ...], list[Effect]] = {}
    verdicts = {
        value: tuple((one.over, one.context, one.verdict) for one in effects if one.value == value)
        for value in dict.fromkeys(one.value for one in effects)
    }
    for one in effects:
        alike.setdefault((one.over, verdicts[one.value]), []).append(one)
    for (over, _), members in alike.items():
        said = f"{_several(one.value for one in members)} over {over} "
        for verdict in dict.fromkeys(one.verdict for one in members):
            same = [one for one in members if one.verdict == verdict]
            yield f"{said}{_short_range(same) if short else _range(same)} with {_several(one.context for one in same)}"
            said = ""


def _several(names: Iterable[str]) -> str:
    return several(list(dict.fromkeys(names)), _NAMES)


def _short_range(effects: Sequence[Effect]) -> str:
    """The ratios, where they are told from 1."""
    if effects[0].verdict == NOT_TOLD:
        return NOT_TOLD
    values = [one.found.value for one in effects]
    shown = [min(values), max(values)]
    digits = 3 if "1.00" in [f"{one:.2f}" for one in shown] else 2
    return " to ".join(dict.fromkeys(f"{one:.{digits}f}×" for one in shown))


def _range(effects: Sequence[Effect]) -> str:
    """The ratios, and in brackets what all of their intervals span together."""
    values = [one.found.value for one in effects]
    lows = [one.found.low for one in effects if one.found.low is not None]
    highs = [one.found.high for one in effects if one.found.high is not None]
    ends = [min(lows), max(highs)] if len(lows) == len(highs) == len(effects) else []
    shown = [min(values), max(values)]
    # What is told from 1 must not read as 1.
    is_close = effects[0].verdict != NOT_TOLD and "1.00" in [f"{one:.2f}" for one in (*shown, *ends)]
    digits = 3 if is_close else 2
    said = [f"{one:.{digits}f}×" for one in shown]
    words = " to ".join(dict.fromkeys(said))
    if not ends:
        return f"{words} (no interval)"
    words = f"{words} ({' to '.join(f'{one:.{digits}f}' for one in ends)})"
    is_told = effects[0].verdict != NOT_TOLD or ends[0] <= 1 <= ends[1]
    return words if is_told else f"{words}, not told apart,"


def effect_words(material: Material) -> tuple[str, ...]:
    """For the headline: what a baseline that no axis is set against is beaten by, then the axes of the first matrix that do
    most, in a sentence each. Only what is told from none."""
    first = next((name for name, _ in material.matrices()), None)
    own = [one for one in axes(material) if one.matrix == first]
    told = sorted((one for one in own if one.largest), key=lambda one: -one.largest)[:_AXES]
    said = [_over_baseline_words(material, own), *(f"{one.name}: {one.short_words}" for one in told)]
    return tuple(cut(words) for words in said if words)


def _over_baseline_words(material: Material, own: Sequence[Axis]) -> str:
    """`over by_hand: te 1.07× to 1.08×; te_fp8 1.63× to 1.70×`: the values of the first axis against the baseline of the whole
    matrix, where that differs from all others in more than one axis; else axes say it, and this is empty."""
    members = material.matrices()[0][1] if own else ()
    bases = {against for one in members if (against := material.baseline(one.name))}
    compared = {name for axis in own for effect in axis.effects for name in (effect.of, effect.base)}
    base = next((one for one in members if bases == {one.name}), None)
    if base is None or base.name in compared:
        return ""
    by_value: dict[str, list[Effect]] = {}
    for one in members:
        if (found := _over_baseline(material, one, base)) is not None:
            by_value.setdefault(found.value, []).append(found)
    if all(found.verdict == NOT_TOLD for effects in by_value.values() for found in effects):
        return ""
    return f"over {base.name}: {'; '.join(f'{name} {_fates(effects)}' for name, effects in by_value.items())}"


def _over_baseline(material: Material, one: Configuration, base: Configuration) -> Effect | None:
    """A configuration against a baseline that differs in several axes, by its value of the first one; None where they were
    not timed side by side, or on other tokens."""
    found = material.speedup(one.name, base.name) if one.name != base.name and one.tokens == base.tokens else None
    if found is None or found.way == APART:
        return None
    value, *beside = one.axes.values()
    operations = one.flops / base.flops if one.flops and base.flops else None
    apart_by = deviation(material, of=(one.name, base.name))
    return Effect(value, base.name, tuple(beside), one.name, base.name, found, operations, apart_by)


def _fates(effects: Sequence[Effect]) -> str:
    """The ratios of one value; beside which others they are, where not all are told alike."""
    verdicts = list(dict.fromkeys(one.verdict for one in effects))
    said = []
    for verdict in verdicts:
        same = [one for one in effects if one.verdict == verdict]
        beside = f" with {_several(one.context for one in same)}" if len(verdicts) > 1 else ""
        said.append(f"{_short_range(same)}{beside}")
    return " and ".join(said)


def effects_section(material: Material) -> Section:
    """A sentence for each axis, and a row for each value of it beside each combination of the others."""
    found = axes(material)
    if not found:
        return Section("effects", _TITLE)
    is_one_of_several = len({one.matrix for one in found}) > 1
    said = [
        "How many times faster a step is with one value of an option than with the first one that the study has, all other "
        "options equal; medians over pairs of rounds. In brackets: the 95% interval, of several from the lowest end to the "
        f"highest. One that holds 1 does not tell which is faster{_widened_words(material)}."
    ]
    grids = []
    for axis in found:
        title = f"{axis.name} ({axis.matrix})" if is_one_of_several else axis.name
        if axis.effects:
            said.append(cut(f"{title}: {axis.words}.", 1200))
        said += _left_out(title, axis)
        if axis.effects:
            grids.append(_grid(title, axis))
    return Section("effects", _TITLE, tuple(said), tuple(grids))


def _widened_words(material: Material) -> str:
    by = math.exp(deviation(material)) - 1
    return (
        f", nor does one that is no further from it than identical configurations from each other (at most {100 * by:.1f}%)"
        if by
        else ""
    )


def _left_out(title: str, axis: Axis) -> Iterable[str]:
    for pairs, why in ((axis.unequal, "their steps are of other tokens"), (axis.apart, "they never ran side by side")):
        if pairs:
            yield f"{title}: {several([f'{of} over {base}' for of, base in pairs])} not compared: {why}."


def _grid(title: str, axis: Axis) -> Grid:
    heads = (
        Column(axis.name, number=False, code=True), Column("over", number=False, code=True),
        Column("with", number=False, code=True), Column("times faster"), Column("95%"), Column("verdict", number=False),
        Column("operations", keep=1),
    )  # fmt: skip
    rows = [
        (
            one.value, one.over, one.context, value_cell(one.found), interval_cell(one.found), one.verdict,
            f"{one.operations:.3f}×" if one.operations not in (1, None) else "",
        )
        for one in axis.effects
    ]  # fmt: skip
    shown, lines = without_empty(heads, rows)
    return Grid(f"What {title} does", shown, lines)


def effect_rows(material: Material) -> list[dict[str, Any]]:
    """Every effect by EFFECT_COLUMNS: rows of effects.csv."""
    return [
        {
            "matrix": axis.matrix, "axis": axis.name, "value": one.value, "over": one.over, "with": one.context,
            "configuration": one.of, "against": one.base, "speedup": one.found.value, "speedup_low": one.found.low,
            "speedup_high": one.found.high, "rounds": one.found.rounds, "verdict": one.verdict, "operations": one.operations,
        }
        for axis in axes(material)
        for one in axis.effects
    ]  # fmt: skip
