"""The tables of the note beside what was measured here, and whether ratios between rows agree."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tetrace.breakdown.account import BUSY
from tetrace.report.grid import Column, Grid
from tetrace.study.causes import Group, grouped
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, judge
from tetrace.study.explanation import Explanation, quotable
from tetrace.study.figures import backend_words, value
from tetrace.study.section import (
    NOTHING,
    Section,
    cut,
    interval_cell,
    times,
    value_cell,
    without_empty,
)
from tetrace.study.spec import Claim
from tetrace.study.statistics import EXACT, NONE, Estimate
from tetrace.study.value import MS, Value, word_of

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.spec import Note, NoteRow

# Ratios between rows agree where they differ by no more than this share.
AGREES = 0.10
_RULE = (
    "Whether a ratio is within 10% of the note's is judged as a claim is: its whole 95% interval lies inside, or outside; else "
    "it cannot be told."
)
_WITHIN = {HOLDS: "yes", FAILS: "no", UNKNOWN: UNKNOWN}
_GROUPS_NAMED = 3
# Of what the GPU waits, what is less than this share is not named: the others would be most of it.
_NAMED_OF_WAITING = 0.10
_UNITS = {"gb": "GB", "gib": "GiB"}
# A note's column of standard deviations: `forward_std_ms`, of steps' forwards.
_SCATTER = "_std_ms"


def notes_section(material: Material) -> Section:
    """The tables of the notes beside what was measured here, and whether ratios between rows agree."""
    grids: list[Grid] = []
    said: list[str] = []
    for note in material.study.notes:
        grids.append(_note_grid(material, note))
        compared = [one for one in _ratios(material, note) if one is not None]
        if compared:
            grids.append(_ratio_grid(material, note, compared))
            said.append(_agreement(note, compared))
    if said:
        said.insert(0, _RULE)
    return Section("note", "Beside the note", tuple(said), tuple(grids))


def _note_grid(material: Material, note: Note) -> Grid:
    names = list(dict.fromkeys(column for row in note.rows for column in row.values))
    heads = [Column("row", number=False), Column("configuration", number=False, code=True)]
    for name in names:
        heads += [Column(f"{_column_words(name)}, noted"), Column("here"), Column("95%", keep=2)]
    rows = []
    for row in note.rows:
        cells = [row.label, row.configuration]
        for name in names:
            cells += _noted_cells(material, row, name)
        rows.append(tuple(cells))
    shown, lines = without_empty(heads, rows)
    hardware = f", on {note.hardware}" if note.hardware else ""
    facts = "; ".join(f"{key}: {said}" for key, said in note.facts.items())
    return Grid(cut(f"{note.title}{hardware}, beside {_machine(material)}"), shown, lines, note=cut(facts))


def _machine(material: Material) -> str:
    return str(material.results.machine.get("gpu") or material.results.machine.get("cpu") or "this machine")


def _column_words(name: str) -> str:
    *words, unit = name.split("_")
    return " ".join([*words, _UNITS.get(unit, unit)])


def _noted_cells(material: Material, row: NoteRow, name: str) -> list[str]:
    noted = row.values.get(name)
    if noted is None:
        return ["", "", ""]
    is_number = isinstance(noted, int | float) and not isinstance(noted, bool)
    said = f"{noted:,g}" if is_number else cut(word_of(noted))
    if isinstance(noted, float) and noted == noted:
        said = f"{noted:,.2f}".removesuffix(".00")
    found = _here(material, row, name)
    if found.estimate is None:
        return [said, cut(word_of(found.word), 160) if found.known else "failed" if found.failed else NOTHING, ""]
    digits = 0 if found.estimate.value >= 10_000 else 3
    one = found.estimate
    return [said, value_cell(one, digits), "" if one.way == EXACT else interval_cell(one, digits)]


def _here(material: Material, row: NoteRow, name: str) -> Value:
    """A figure of the note, here: the same unit as there."""
    in_gb = {"peak_gb": 1e9, "peak_gib": 1 << 30}
    if name in in_gb:
        found = value(material, "peak_bytes", row.configuration)
        one = found.estimate
        return found if one is None else Value(one.mapped(lambda size: size / in_gb[name]))
    if name.endswith(_SCATTER):
        return _scatter(material, row.configuration, name.removesuffix(_SCATTER))
    if name == "backend":
        return backend_words(material, row.configuration)
    return value(material, name, row.configuration)


def _scatter(material: Material, configuration: str, column: str) -> Value:
    """The standard deviation of a time from step to step."""
    ns = material.scatter(configuration, column)
    if ns is None:
        return Value(reason=f"{column} of {configuration} was not timed")
    return Value(Estimate(ns / 1e6, None, None, 0, NONE), unit=MS)


class _Ratio:
    """How many times faster a row is than another, as noted and here."""

    def __init__(self, row: NoteRow, reference: NoteRow, noted: float, here: Value, verdict: str, phase: str) -> None:
        self.row, self.reference, self.noted, self.here, self.verdict = row, reference, noted, here, verdict
        # Of the step that the ratio is of; empty: the whole of it.
        self.phase = phase

    @property
    def off(self) -> float | None:
        """By which share it is larger here; None where it was not measured."""
        return None if self.here.estimate is None else self.here.estimate.value / self.noted - 1


def _time_column(note: Note) -> str:
    """The column whose ratios are compared: the whole step where the note has it."""
    names = [name for row in note.rows for name in row.values if name.endswith("_ms")]
    return "total_ms" if "total_ms" in names else (names[0] if names else "")


def _ratios(material: Material, note: Note) -> Iterator[_Ratio | None]:
    column = _time_column(note)
    if column:
        yield from (_ratio(material, row, over, column) for over, row in itertools.combinations(note.rows, 2))


def _ratio(material: Material, row: NoteRow, reference: NoteRow, column: str) -> _Ratio | None:
    first, own = reference.values.get(column), row.values.get(column)
    if not isinstance(first, int | float) or not isinstance(own, int | float) or not own:
        return None
    phase = "" if column == "total_ms" else column.removesuffix("_ms")
    figure = f"{phase}_speedup" if phase else "speedup"
    noted, pair = first / own, (row.configuration, reference.configuration)
    within = Claim("", figure, *pair, between=(noted * (1 - AGREES), noted * (1 + AGREES)))
    here = value(material, figure, *pair)
    return _Ratio(row, reference, noted, here, judge(material, within, here).verdict, phase)


def _ratio_grid(material: Material, note: Note, compared: Sequence[_Ratio]) -> Grid:
    heads = (
        Column("row", number=False), Column("over", number=False), Column("noted"), Column("here"), Column("95%", keep=2),
        Column("off"), Column("within 10%", number=False), Column("what makes the difference here", number=False, keep=1),
    )  # fmt: skip
    rows = []
    for one in compared:
        off = one.off
        why = one.here.reason if off is None else "" if one.verdict == HOLDS else _kernels(material, one)
        rows.append(
            (
                one.row.label,
                one.reference.label,
                f"{one.noted:.3f}",
                value_cell(one.here.estimate),
                interval_cell(one.here.estimate),
                NOTHING if off is None else f"{100 * off:+.1f}%",
                _WITHIN[one.verdict],
                cut(why),
            )
        )
    return Grid(cut(f"{note.title}: how many times faster, noted and here"), heads, tuple(rows))


def _kernels(material: Material, one: _Ratio) -> str:
    """What makes the difference between both rows here, of the phase that the ratio is of."""
    found = material.explanation(one.row.configuration, one.reference.configuration)
    if isinstance(found, str):
        return found
    return quoted_words(found, _GROUPS_NAMED, one.phase)


def quoted_words(found: Explanation, many: int, phase: str = "", is_work: bool = False) -> str:
    """What may be quoted of an explanation: its largest groups, and of those the largest in which the GPU works, each with
    the kernels that are most of it. What the GPU waits for is named only where its split is that of the timed steps, and not
    where it `is_work` that is asked for."""
    if found.off_by_ns is None:
        return "not told, too few steps were recorded"
    changed = [group for group in quotable(found, phase) if not is_work or group.kind == BUSY]
    works = [group for group in changed if group.kind == BUSY]
    parts = []
    for group in dict.fromkeys([*changed[:many], *works[: many - 1]]):
        most = _most_of(found, group, phase)
        parts.append(f"{group.name} {_ms(group)}" + (f" ({most})" if most else ""))
    if phase and not found.knows_waiting(phase):
        parts.append(f"how long {phase} waits is not known")
    return "; ".join(parts) or "nothing beyond noise"


def _most_of(found: Explanation, group: Group, phase: str) -> str:
    """The kernels, or what the GPU waited for, that are most of a group; empty where nobody knows."""
    if group.kind == BUSY:
        return f"{group.causes[0].name}, {group.causes[0].phase}"
    least = _NAMED_OF_WAITING * abs(group.difference_ns)
    same_way = [one for one in grouped(group.causes) if one.is_told and one.difference_ns * group.difference_ns > 0]
    parts = [one for one in same_way if abs(one.difference_ns) >= least]
    return f"{parts[0].name} {_ms(parts[0])}" if parts and found.splits_waiting(phase) else ""


def _ms(group: Group) -> str:
    return f"{float(group.difference_ns) / 1e6:+.3f} ms"


def _agreement(note: Note, compared: Sequence[_Ratio]) -> str:
    """Of all pairs of rows, how many have the noted ratio within 10%."""
    known = [(pair, pair.off) for pair in compared if pair.off is not None]
    if not known:
        return f"{note.title}: no two of its rows were measured here."
    many = {verdict: sum(pair.verdict == verdict for pair, _ in known) for verdict in _WITHIN}
    ratios = "1 ratio" if len(known) == 1 else f"{len(known)} ratios"
    said = f"{note.title}: of {ratios} (all pairs of rows) {many[HOLDS]} {_are(many[HOLDS])} within 10% of the note's"
    said += f", {many[FAILS]} {_are(many[FAILS])} not" if many[FAILS] else ""
    said += f", {many[UNKNOWN]} cannot be told" if many[UNKNOWN] else ""
    said += "."
    worst, off = max(known, key=lambda one: abs(one[1]))
    if abs(off) > AGREES:
        said += (
            f" Furthest off: {worst.row.label} against {worst.reference.label}, {worst.noted:.3f}× noted, "
            f"{times(worst.here.estimate)} here."
        )
    return said


def _are(many: int) -> str:
    return "is" if many == 1 else "are"
