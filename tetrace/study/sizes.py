"""How configurations compare over sizes: sweeps with their crossings, and from which size on one pays, as predicted."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tetrace.report.grid import Column, Grid
from tetrace.study.payoff import Change, Model, Payoff, Predicted, payoffs
from tetrace.study.section import NOTHING, Section, interval_cell, times, value_cell
from tetrace.study.sweep import FASTER, SLOWER, UNDECIDED, Crossing, Line, Point, Swept, trend_words
from tetrace.study.value import MS, Value
from tetrace.units import three_digits

if TYPE_CHECKING:
    from tetrace.study.material import Material


_RECORDED = (
    "As recorded. Intervals are of the noise from step to step, as tetrace diff has it, wider by what matrix "
    "products that both run differ by: recordings are made one after the other, at another clock of the GPU."
)


def sweeps_section(swept: Sequence[Swept]) -> Section:
    """A table for each sweep, with a row for each place, and what crosses where."""
    grids, said = [], []
    for one in swept:
        if one.lines:
            grids.append(_sweep_grid(one))
            trends = [] if one.is_recorded else trend_words(one)
            said += [*crossing_words(one), *(f"{one.name}: {words}" for words in trends)]
    empty = [one.title for one in swept if not one.lines]
    if empty:
        said.append(f"Not measured: {'; '.join(empty)}.")
    return Section("sweeps", "Over sizes", tuple(said), tuple(grids))


def _sweep_grid(swept: Swept) -> Grid:
    places = sorted({point.x for line in swept.lines for point in line.points})
    heads = [Column(swept.sweep.along)]
    for line in swept.lines:
        heads.append(Column(line.name or swept.sweep.figure))
        if any(point.ratio is not None for point in line.points):
            heads += [Column("times faster"), Column("95%", keep=2)]
    rows = []
    for x in places:
        cells = [f"{x:,g}"]
        for line in swept.lines:
            cells += _point_cells(line, x)
        rows.append(tuple(cells))
    base = f"; times faster than {swept.sweep.baseline}" if swept.sweep.group else ""
    notes = " ".join(filter(None, (_elsewhere_note(swept), _recorded_note(swept))))
    return Grid(f"{swept.title}{_unit(swept)}{base}", tuple(heads), tuple(rows), note=notes)


def _elsewhere_note(swept: Swept) -> str:
    """Which places other matrices have measured."""
    places: dict[float, list[str]] = {}
    for point in (point for line in swept.lines for point in line.points if point.is_elsewhere):
        places.setdefault(point.x, []).append(point.name)
    said = [f"{x:,g} ({', '.join(names)})" for x, names in sorted(places.items())]
    return f"Of other matrices, with the same options: {swept.sweep.along} {'; '.join(said)}." if said else ""


def _recorded_note(swept: Swept) -> str:
    from tetrace.breakdown.figures import BY_NAME

    return f"{BY_NAME[swept.sweep.figure].sentence} {_RECORDED}" if swept.is_recorded else ""


def _unit(swept: Swept) -> str:
    return ", ms" if swept.sweep.figure.endswith("_ms") else ""


def _point_cells(line: Line, x: float) -> list[str]:
    point = next((one for one in line.points if one.x == x), None)
    has_ratio = any(one.ratio is not None for one in line.points)
    cells = [_cell(point.found) if point else NOTHING]
    if has_ratio:
        ratio = point.ratio if point else None
        cells += [value_cell(ratio), interval_cell(ratio)]
    return cells


def _cell(found: Value) -> str:
    if found.estimate is None:
        return "failed" if found.failed else NOTHING
    return value_cell(found.estimate) if found.unit == MS else found.words()


def crossing_words(swept: Swept) -> list[str]:
    """Each crossing in a sentence that names the sweep; lines that never cross say on which side they stay."""
    return [f"{swept.name}: {words}" for words in _crossings(swept)]


def crossings_sentence(swept: Swept) -> str:
    """All of its crossings in one sentence; empty where nothing was measured beside a baseline."""
    said = "; ".join(words.removesuffix(".") for words in _crossings(swept))
    return f"{swept.name}: {said}." if said else ""


def _crossings(swept: Swept, only: str = "") -> list[str]:
    """The same without the sweep. `only`: of this line."""
    said = []
    for line in swept.lines:
        if only and line.name != only:
            continue
        known = [point for point in line.points if point.ratio is not None]
        if not known:
            continue
        own = [one for one in swept.crossings if one.line is line]
        said += [_crossing_sentence(swept, one) for one in own]
        if not own:
            said.append(_side_sentence(swept, line))
    return said


def pays_words(material: Material, swept: Sequence[Swept]) -> tuple[str, ...]:
    """From which size on lines become faster than their baseline, of all sweeps of steps in a sentence for each; then lines
    that never cross or become slower. None where nothing becomes faster."""
    timed = [one for one in swept if one.sweep.figure == "total_ms" and one.lines]
    found: dict[str, list[tuple[Swept, Crossing]]] = {}
    for one in timed:
        for crossing in one.crossings:
            if crossing.becomes == FASTER:
                words = f"{one.sweep.group} {crossing.line.name} becomes faster than {one.sweep.baseline}"
                found.setdefault(f"{words[0].upper()}{words[1:]}", []).append((one, crossing))
    if not found:
        return ()
    said = [
        f"{words}{_at_tokens(material, members)} ({'; '.join(map(_place_words, members))})"
        for words, members in found.items()
    ]
    for one in timed:
        told = {_crossing_sentence(one, crossing) for crossing in one.crossings if crossing.becomes == FASTER}
        said += [f"{one.name}: {words.removesuffix('.')}" for words in _crossings(one) if words not in told]
    return tuple(said)


def _place_words(one: tuple[Swept, Crossing]) -> str:
    swept, crossing = one
    return f"{swept.name[0].lower()}{swept.name[1:]}: {_between_words(crossing)}"


def _between_words(one: Crossing) -> str:
    """The measured places on either side of a crossing, and where a straight line between places has it."""
    return f"between {one.between[0]:,g} and {one.between[1]:,g}, interpolated {three_digits(one.at)}"


def _at_tokens(material: Material, members: Sequence[tuple[Swept, Crossing]]) -> str:
    """Between which tokens of a measured step lines cross, of all their places; empty where tokens do not tell."""
    slower, faster = set[int](), set[int]()
    for _, crossing in members:
        for point in crossing.line.points:
            one = material.configuration(point.name)
            if point.verdict in (FASTER, SLOWER) and (one is None or not one.tokens):
                return ""
            if one is not None and one.tokens:
                slower |= {one.tokens} if point.verdict == SLOWER else set()
                faster |= {one.tokens} if point.verdict == FASTER else set()
    if max(slower) >= min(faster):
        return ""
    return f" between {max(slower):,} and {min(faster):,} tokens a step"


def _crossing_sentence(swept: Swept, one: Crossing) -> str:
    return f"{one.line.name} becomes {one.becomes} than {swept.sweep.baseline} at {swept.sweep.along} {_between_words(one)}."


def _side_sentence(swept: Swept, line: Line) -> str:
    """On which side a line stays that never crosses."""
    known = [point for point in line.points if point.ratio is not None]
    words = {point.verdict for point in known} & {FASTER, SLOWER}
    along = swept.sweep.along
    places = f"every measured {along} ({known[0].x:,g} to {known[-1].x:,g})"
    if len(known) == 1:
        places = f"{along} {known[0].x:,g}, the only one measured of both"
    untold = [point for point in known if point.verdict == UNDECIDED]
    if len(untold) == len(known):
        return f"{line.name} and {swept.sweep.baseline} are not told apart at {places}: there are no intervals."
    if not words:
        wider = ", beside what identical configurations differ by" if any(point.is_widened for point in known) else ""
        anywhere = places.replace("every", "any", 1)
        return f"{line.name} is not told apart from {swept.sweep.baseline} at {anywhere}{wider}."
    ratios = _range_words(known) if swept.is_recorded else ""
    side, told = words.pop(), [point for point in known if point.verdict in (FASTER, SLOWER)]
    if len(told) == len(known):
        whole = f", {ratios}: they do not cross there" if ratios else ""
        return f"{line.name} is {side} than {swept.sweep.baseline} at {places}{whole}."
    left = ", ".join(f"{point.x:,g}" for point in known if point not in told)
    said = f"{line.name} is {side} than {swept.sweep.baseline} {_told_places(known, told, along)}; at {left} not told apart"
    return f"{said}{f': {ratios}' if ratios else ''}."


def _told_places(known: Sequence[Point], told: Sequence[Point], along: str) -> str:
    """Where a line is told from its baseline: from a place on, up to one, or at each that is named."""
    if len(told) > 1 and known[-len(told)] == told[0]:
        return f"from {along} {told[0].x:,g} on"
    if len(told) > 1 and known[len(told) - 1] == told[-1]:
        return f"up to {along} {told[-1].x:,g}"
    return f"at {along} {', '.join(f'{point.x:,g}' for point in told)}"


def _range_words(points: Sequence[Point]) -> str:
    """Between which ratios the points lie."""
    by_ratio = sorted(points, key=lambda point: point.ratio.value if point.ratio else math.nan)
    ends = sorted((by_ratio[0], by_ratio[-1]), key=lambda point: point.x)
    return " to ".join(dict.fromkeys(f"{times(point.ratio)} at {point.x:,g}" for point in ends))


def payoff_section(material: Material, swept: Sequence[Swept]) -> Section:
    """Predictions of every sweep whose groups were recorded at two sizes, beside what was measured."""
    found = [one for sweep in swept for one in payoffs(material, sweep)]
    if not found:
        return Section("payoff", "Where it starts to pay, predicted")
    said = [
        "Predicted from recordings at two sizes: what the GPU works is a straight line in tokens for each category (in "
        "tokens times sequence length for attention), what the host needs for a step is the same at every size (the median "
        "of all timed ones that it decides), and a step takes the longer of both. In brackets: where the order may change "
        "within the 95% intervals of what hosts need. A size is compared with what is predicted without its own time. From the "
        "two recorded sizes alone: with the host of the smaller one, as it was timed, and nothing of any other size."
    ]
    grids: list[Grid] = []
    models: list[tuple[Model, Model]] = []
    for one in found:
        said += payoff_words(one)
        grids.append(_prediction_grid(one))
        if (one.against, one.of) not in models:
            models.append((one.against, one.of))
    grids += [_cost_grid(*pair) for pair in models]
    said += list(dict.fromkeys(_host_words(model) for pair in models for model in pair))
    return Section("payoff", "Where it starts to pay, predicted", tuple(said), tuple(grids))


def payoff_words(one: Payoff) -> list[str]:
    """From which size on it pays, as predicted and as measured, and by how much predictions are off."""
    of = one.of.group
    said = f"{one.sweep.title}. Predicted: {_changes_words(one, one.changes, one.pays_at_first)}"
    if one.alone is not None:
        alone = _changes_words(one, one.alone, one.pays_at_first_alone)
        said += f". From the two recorded sizes alone: {alone}"
    said += f". Measured: {' '.join(_crossings(one.sweep, of))}"
    worst = max(one.rows, key=lambda row: abs(row.error))
    middle = statistics.median(abs(row.error) for row in one.rows)
    said += f" Predictions of its {len(one.rows)} steps are off by {100 * middle:.1f}% in the median, "
    said += f"{100 * abs(worst.error):.1f}% at most ({worst.name})"
    errors = [abs(row.alone_ns / row.measured_ns - 1) for row in one.rows if row.alone_ns is not None]
    if errors:
        said += f"; of the {len(errors)} that were not recorded, from these alone, by {100 * statistics.median(errors):.1f}%, "
        said += f"{100 * max(errors):.1f}% at most"
    return [f"{said}."]


def _changes_words(one: Payoff, changes: Sequence[Change], pays_at_first: bool) -> str:
    """From which size on it pays, as predicted."""
    of, against, along = one.of.group, one.against.group, one.sweep.sweep.along
    low, high = one.ends
    start = "faster" if pays_at_first else "slower"
    if not changes:
        return f"{of} is {start} than {against} from {along} {low:,g} to {high:,g}"
    parts = [
        f"{'faster' if change.pays else 'slower'} from {along} {_place(change)} on ({change.tokens:,.0f} tokens a step)"
        for change in changes
    ]
    return f"{of} is {start} than {against} at {along} {low:,g}, {', '.join(parts)}"


def _place(change: Change) -> str:
    return f"{change.x:,.1f}" + (f" ({change.between[0]:,.1f} to {change.between[1]:,.1f})" if change.between else "")


def _host_words(model: Model) -> str:
    host = model.host
    if host is None:
        most = f"{model.most_ns / 1e6:,.3f} ms"
        return f"{model.group}: the host needs {most} for a step at most: the GPU waits for it at no measured size."
    said = Value(host.mapped(lambda ns: ns / 1e6), unit=MS).words()
    sizes = "the one size" if len(model.hosts_ns) == 1 else f"{len(model.hosts_ns)} sizes"
    return f"{model.group}: the host needs {said} for a step, timed at {sizes} where the GPU waits for it."


def _prediction_grid(one: Payoff) -> Grid:
    heads = (
        Column("configuration", number=False, code=True), Column("tokens a step"), Column("predicted ms"), Column("measured ms"),
        Column("off"), Column("from two sizes alone ms", keep=1), Column("off", keep=1),
        Column("GPU's work from it", number=False, keep=1),
    )  # fmt: skip
    rows = tuple(
        (
            row.name, f"{row.tokens:,}", f"{row.predicted_ns / 1e6:,.3f}", f"{row.measured_ns / 1e6:,.3f}",
            f"{100 * row.error:+.1f}%", *_alone_cells(row), "yes" if row.recorded else "",
        )
        for row in sorted(one.rows, key=lambda row: (row.tokens, row.group))
    )  # fmt: skip
    return Grid(f"{one.sweep.title}, predicted and measured: {one.of.group} and {one.against.group}", heads, rows)


def _alone_cells(row: Predicted) -> tuple[str, str]:
    if row.alone_ns is None:
        return NOTHING, NOTHING
    return f"{row.alone_ns / 1e6:,.3f}", f"{100 * (row.alone_ns / row.measured_ns - 1):+.1f}%"


def _cost_grid(against: Model, of: Model) -> Grid:
    """What a step costs by category: a fixed part, and a part for each thousand tokens (attention: times its length)."""
    pair = (against, of)
    heads = [Column("category", number=False)]
    for model in pair:
        heads += [Column(f"{model.group}: fixed ms"), Column("ms per 1,000 tokens")]
    lengths = [model.recorded[-1].size.length for model in pair]
    names = sorted(
        {*of.lines, *against.lines}, key=lambda name: -max(abs(model.lines.get(name, (0.0, 0.0))[1]) for model in pair)
    )
    rows = []
    for name in names:
        cells = [name]
        for model, length in zip(pair, lengths, strict=True):
            line = model.lines.get(name)
            each = (line[1] if line else 0.0) * (length if name == "attention" else 1)
            cells += [NOTHING, NOTHING] if line is None else [f"{line[0] / 1e6:,.4f}", f"{each / 1e3:,.4f}"]
        rows.append(tuple(cells))
    recorded = ", ".join(one.name for model in pair for one in model.recorded)
    note = f"From the recordings of {recorded}; attention for sequences of {lengths[0]:,g} tokens."
    return Grid(f"What a step costs on the GPU: {of.group} and {against.group}", tuple(heads), tuple(rows), note=note)
