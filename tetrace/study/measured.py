"""What was measured, beside the table of the note, the verdicts on its claims, and what failed."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tetrace.breakdown.account import BUSY
from tetrace.report.grid import Column, Grid
from tetrace.study.claims import Judged, noted_words
from tetrace.study.explanation import Group
from tetrace.study.figures import Value, value, word_of
from tetrace.study.results import FAILED, MEASURED
from tetrace.study.section import (
    NOTHING,
    Section,
    cut,
    interval_cell,
    milliseconds,
    several,
    times,
    value_cell,
    without_empty,
)
from tetrace.study.statistics import APART, EXACT, ways

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.spec import Note, NoteRow

GIB = 1 << 30
# Ratios between rows agree where they differ by no more than this share.
AGREES = 0.10
_GROUPS_NAMED = 3


def measured_section(material: Material) -> Section:
    """A table for each matrix, and how to read them."""
    grids = tuple(measured_grid(material, name, members) for name, members in material.matrices())
    estimates = [one for one in (material.time(each.name) for each in material.configurations) if one]
    said = [
        "Times are medians over rounds of the medians of their steps, ms a step; speed-ups are medians over pairs of rounds."
    ]
    if made := ways(estimates):
        said.append(f"Intervals are {made}.")
    if words := _apart_words(material):
        said.append(words)
    said += list(_peak_words(material))
    return Section("measured", "Measured", tuple(said), grids)


def _apart_words(material: Material) -> str:
    """Which speed-ups have no interval because no rounds of both ran side by side."""
    own = [(one.name, material.baseline(one.name)) for one in material.configurations]
    found = [(name, base, material.speedup(name, base)) for name, base in own if base]
    apart = [f"{name} and {base}" for name, base, one in found if one is not None and one.way == APART]
    if not apart:
        return ""
    return (
        f"Not interleaved: {several(apart)} never ran side by side; their ratio is of their medians, and what drifted between "
        "them is in it."
    )


def measured_grid(material: Material, matrix: str, members: Sequence[Configuration], brief: bool = False) -> Grid:
    """All configurations of a matrix: times with intervals, rates, memory, speed-up; what failed says why, or only
    (`brief`) that it did."""
    heads = [
        Column("configuration", number=False, code=True), Column("total ms"), Column("95%", keep=2),
        Column("speed-up"), Column("95%", keep=1),
        *(column for phase in material.phases for column in (Column(f"{phase} ms", keep=4), Column("95%", keep=9))),
        Column("tokens/s", keep=5), Column("TFLOP/s", keep=7), Column("of peak", keep=6), Column("peak GiB", keep=3),
        Column("rounds", keep=1),
        # Words that are never cut.
        Column("", number=brief),
    ]  # fmt: skip
    rows = [_measured_row(material, one, brief) for one in members]
    shown, lines = without_empty(heads, rows)
    is_one_of_several = len(material.matrices()) > 1
    bases = {material.baseline(one.name) for one in members} - {""}
    against = f", speed-up over {bases.pop()}" if len(bases) == 1 else ""
    return Grid(f"{matrix if is_one_of_several else 'Configurations'}: ms a step{against}", shown, lines)


def _measured_row(material: Material, one: Configuration, brief: bool) -> tuple[str, ...]:
    total = milliseconds(material.time(one.name))
    phases = [milliseconds(material.time(one.name, phase)) for phase in material.phases]
    base = material.baseline(one.name)
    speedup = material.speedup(one.name, base) if base else None
    is_base = any(material.baseline(other.name) == one.name for other in material.configurations)
    peak = one.peak_allocated_bytes
    return (
        one.name,
        value_cell(total),
        interval_cell(total),
        value_cell(speedup) if speedup or base or not (is_base and total) or material.stale(one.name) else "1",
        interval_cell(speedup),
        *(cell for phase in phases for cell in (value_cell(phase), interval_cell(phase))),
        _rate(value(material, "tokens_per_s", one.name), 0),
        _rate(value(material, "tflops", one.name), 1),
        _share(value(material, "peak_pct", one.name)),
        f"{peak / GIB:,.2f}" if peak is not None else NOTHING,
        _rounds_cell(material, one),
        "; ".join(
            filter(
                None,
                (
                    "" if one.state == MEASURED else _error_words(one, brief),
                    cut(material.odd(one.name), 60 if brief else 400),
                ),
            )
        ),
    )


def _rounds_cell(material: Material, one: Configuration) -> str:
    """How many rounds a row is of, where rows differ in it."""
    rows = {len(each.rounds) for each in material.configurations if each.state == MEASURED}
    return str(len(one.rounds)) if len(rows) > 1 and one.rounds else ""


def _rate(found: Value, digits: int) -> str:
    return value_cell(found.estimate, digits)


def _share(found: Value) -> str:
    return NOTHING if found.estimate is None else f"{found.estimate.value:.1f}%"


def _error_words(one: Configuration, brief: bool) -> str:
    if one.error is None:
        return one.state
    if brief:
        return cut(f"{one.state}: {one.error.type}", 40)
    expected = ", as expected" if one.expected else ""
    return cut(f"{one.state}{expected} ({one.error.stage}): {one.error.type}: {one.error.message}")


def _peak_words(material: Material) -> Iterator[str]:
    peaks = material.results.peaks or {}
    known = [
        f"{float(peaks[key]) / 1e12:,.0f} TFLOP/s for {name}"
        for key, name in (("bf16_flops", "BF16"), ("fp8_flops", "FP8"))
        if isinstance(peaks.get(key), int | float)
    ]
    if known:
        yield f"Peaks are what this GPU was measured to reach: {', '.join(known)} (tetrace doctor --calibrate)."
    elif material.study.device == "cuda":
        yield "Shares of peak: not recorded; tetrace doctor --calibrate measures the peaks of this GPU."


def notes_section(material: Material) -> Section:
    """The tables of the notes beside what was measured here, and whether ratios between rows agree."""
    grids: list[Grid] = []
    said: list[str] = []
    for note in material.study.notes:
        grids.append(_note_grid(material, note))
        compared = [one for one in _ratios(material, note) if one is not None]
        if compared:
            grids.append(_ratio_grid(material, note, compared))
            said.append(_agreement(material, note))
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
    return name.removesuffix("_ms").replace("_", " ") + (" ms" if name.endswith("_ms") else "")


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
    in_gb = {"peak_gb": 1e9, "peak_gib": GIB}
    if name in in_gb:
        found = value(material, "peak_bytes", row.configuration)
        one = found.estimate
        return found if one is None else Value(one.mapped(lambda size: size / in_gb[name]))
    return value(material, name, row.configuration)


class _Ratio:
    """How many times faster a row is than the first, as noted and here."""

    def __init__(self, row: NoteRow, reference: NoteRow, noted: float, here: Value) -> None:
        self.row, self.reference, self.noted, self.here = row, reference, noted, here

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
    if not column or not note.rows:
        return
    yield from (_ratio(material, row, note.rows[0], column) for row in note.rows[1:])


def _ratio(material: Material, row: NoteRow, reference: NoteRow, column: str) -> _Ratio | None:
    first, own = reference.values.get(column), row.values.get(column)
    if not isinstance(first, int | float) or not isinstance(own, int | float) or not own:
        return None
    figure = "speedup" if column == "total_ms" else f"{column.removesuffix('_ms')}_speedup"
    return _Ratio(row, reference, first / own, value(material, figure, row.configuration, reference.configuration))


def _ratio_grid(material: Material, note: Note, compared: Sequence[_Ratio]) -> Grid:
    heads = (
        Column("row", number=False), Column("noted"), Column("here"), Column("95%", keep=2), Column("off"),
        Column("within 10%", number=False), Column("what makes the difference here", number=False, keep=1),
    )  # fmt: skip
    rows = []
    for one in compared:
        off = one.off
        agrees = off is not None and abs(off) <= AGREES
        why = one.here.reason if off is None else "" if agrees else _kernels(material, one)
        rows.append(
            (
                one.row.label,
                f"{one.noted:.3f}",
                value_cell(one.here.estimate),
                interval_cell(one.here.estimate),
                NOTHING if off is None else f"{100 * off:+.1f}%",
                "cannot be told" if off is None else "yes" if agrees else "no",
                cut(why),
            )
        )
    return Grid(cut(f"Times faster than {compared[0].reference.label}, noted and here"), heads, tuple(rows))


def _kernels(material: Material, one: _Ratio) -> str:
    """What makes the difference between both rows here: the largest kernels that changed, and waiting where it is more."""
    found = material.explanation(one.row.configuration, one.reference.configuration)
    if isinstance(found, str):
        return found
    return largest_words(found.groups, _GROUPS_NAMED)


def largest_words(groups: Sequence[Group], many: int) -> str:
    """The largest groups of a difference, and of those the largest in which the GPU works, each with the kernels or the
    host range that is most of it."""
    changed = [group for group in groups if group.difference_ns]
    works = [group for group in changed if group.causes[0].kind == BUSY]
    parts = []
    for group in dict.fromkeys([*changed[:many], *works[: many - 1]]):
        worst = group.causes[0]
        parts.append(f"{group.name} {float(group.difference_ns) / 1e6:+.3f} ms ({worst.name}, {worst.phase})")
    return "; ".join(parts) or "no difference"


def _agreement(material: Material, note: Note) -> str:
    """Of all pairs of rows, how many have the noted ratio within 10%."""
    column = _time_column(note)
    pairs = [_ratio(material, b, a, column) for a, b in itertools.combinations(note.rows, 2)]
    known = [(pair, pair.off) for pair in pairs if pair is not None and pair.off is not None]
    if not known:
        return f"{note.title}: no two of its rows were measured here."
    agree = sum(abs(off) <= AGREES for _, off in known)
    said = f"{note.title}: {agree} of {len(known)} ratios between two rows are within 10% of the note's."
    worst, off = max(known, key=lambda one: abs(one[1]))
    if abs(off) > AGREES:
        said += (
            f" Furthest off: {worst.row.label} against {worst.reference.label}, {worst.noted:.3f}× noted, "
            f"{times(worst.here.estimate)} here."
        )
    return said


def claims_section(judged: Sequence[Judged]) -> Section:
    """Every claim with its verdict, number and interval."""
    if not judged:
        return Section("claims", "Claims")
    heads = (
        Column("claim", number=False), Column("verdict", number=False), Column("noted", number=False, keep=3),
        Column("here", number=False), Column("holds if", number=False, keep=2), Column("why", number=False, keep=1),
    )  # fmt: skip
    rows = tuple(
        (
            cut(one.claim.says), one.verdict, cut(noted_words(one.claim, one.value.unit)), cut(one.here, 160),
            cut(one.limit), cut(one.why),
        )
        for one in judged
    )  # fmt: skip
    shown, lines = without_empty(heads, rows)
    said = "A claim holds, or does not, where its whole interval is on one side of the limit; else it cannot be told."
    return Section("claims", "Claims of the note", (said,), (Grid("Claims", shown, lines),))


def failed_section(material: Material) -> Section:
    """Configurations that were not measured, with their errors and the end of their output."""
    found = [one for one in material.configurations if one.state != MEASURED]
    if not found:
        return Section("failed", "Not measured")
    heads = (
        Column("configuration", number=False, code=True), Column("state", number=False), Column("stage", number=False),
        Column("error", number=False),
    )  # fmt: skip
    rows = []
    for one in found:
        state = f"{one.state}, as expected" if one.state == FAILED and one.expected else one.state
        error = f"{one.error.type}: {one.error.message}" if one.error else ""
        rows.append((one.name, state, one.error.stage if one.error else "", cut(error)))
    quoted = tuple((one.name, one.error.output) for one in found if one.error and one.error.output and not one.expected)
    return Section(
        "failed", "Not measured", (), (Grid("Configurations that were not measured", heads, tuple(rows)),), quoted
    )
