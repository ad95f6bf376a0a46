"""What was measured, the verdicts on the claims of the note, and what failed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tetrace.report.grid import Column, Grid
from tetrace.study.claims import Judged, noted_words
from tetrace.study.figures import value
from tetrace.study.identical import identical_words
from tetrace.study.results import FAILED, MEASURED, WAITING
from tetrace.study.section import (
    NOTHING,
    Section,
    cut,
    interval_cell,
    milliseconds,
    several,
    value_cell,
    without_empty,
)
from tetrace.study.starts import moment_of
from tetrace.study.statistics import APART, ways
from tetrace.study.value import Value

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.spec import Study

GIB = 1 << 30


def measured_section(material: Material) -> Section:
    """A table for each matrix, and how to read them."""
    waiting = [
        name for name, ones in material.matrices() if all(one.state == WAITING and not one.rounds for one in ones)
    ]
    grids = tuple(measured_grid(material, name, ones) for name, ones in material.matrices() if name not in waiting)
    estimates = [one for one in (material.time(each.name) for each in material.configurations) if one]
    said = [
        "Times are medians over rounds of the medians of their steps, ms a step; speed-ups are medians over pairs of rounds."
    ]
    if made := ways(estimates):
        said.append(f"Intervals are {made}.")
    if words := _apart_words(material):
        said.append(words)
    if words := identical_words(material):
        said.append(words)
    if waiting:
        said.append(f"Nothing of {several(waiting)} is measured yet.")
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
        _share(value(material, "peak_pct", one.name), "FP8" if material.uses_fp8(one.name) else "BF16"),
        f"{peak / GIB:,.2f}" if peak is not None else NOTHING,
        _rounds_cell(material, one),
        "; ".join(
            filter(
                None,
                (
                    "" if one.state == MEASURED else _error_words(one, brief),
                    one.losses.lost and f"loss {one.losses.lost}",
                    cut(material.odd(one.name), 60 if brief else 400),
                ),
            )
        ),
    )


def _rounds_cell(material: Material, one: Configuration) -> str:
    """How many rounds a row is of, where rows differ in it, or it was stopped."""
    rows = {len(each.rounds) for each in material.configurations if each.is_timed}
    return material.rounds_words(one) if one.rounds and (len(rows) > 1 or one.state != MEASURED) else ""


def _rate(found: Value, digits: int) -> str:
    return NOTHING if found.estimate is None else _told(found.estimate.value, digits)


def _told(value: float, digits: int) -> str:
    """A number of so many digits after the point; of a small one the first two that are not 0: it is not nothing."""
    return f"{value:,.{digits}f}" if round(value, digits) or not value else f"{value:.2g}"


def _share(found: Value, peak: str) -> str:
    """A share with the peak that it is of: shares of different ones do not compare."""
    return NOTHING if found.estimate is None else f"{_told(found.estimate.value, 1)}% of {peak}"


def _error_words(one: Configuration, brief: bool) -> str:
    if one.error is None:
        return one.state
    if brief:
        return cut(f"{one.state}: {one.error.type}", 40)
    expected = ", as expected" if one.expected else ""
    # The message is in the section of what was not measured: a table this wide has no room for it.
    return cut(f"{one.state}{expected} ({one.error.stage}): {one.error.type}")


def _peak_words(material: Material) -> Iterator[str]:
    peaks = material.results.peaks or {}
    known = [
        f"{float(peaks[key]) / 1e12:,.0f} TFLOP/s for {name}"
        for key, name in (("bf16_flops", "BF16"), ("fp8_flops", "FP8"))
        if isinstance(peaks.get(key), int | float)
    ]
    if known:
        others = (peaks.get("before") or {}).get("other_processes")
        shared = f", while {others} other processes had the GPU too" if others else ""
        yield (
            f"Peaks are what this GPU was measured to reach: {', '.join(known)} (tetrace doctor --calibrate, "
            f"{_when(material)}){shared}. {_own_start_words(material)}"
        )
    elif material.study.device == "cuda":
        yield "Shares of peak: not recorded; tetrace doctor --calibrate measures the peaks of this GPU."


def _when(material: Material) -> str:
    """When the peaks were measured, and in which start of the machine."""
    at, start = moment_of((material.results.peaks or {}).get("measured_at")), material.peaks_start
    day = f"{at:%Y-%m-%d at %H:%M} UTC" if at else "nobody knows when"
    return f"{day}, in the start of the machine at {start.began:%H:%M}" if start else day


def _own_start_words(material: Material) -> str:
    """Which rounds are of another start than the peaks."""
    timed = [one for one in material.configurations if one.is_timed]
    apart = [one.name for one in timed if not material.has_peaks_of_its_own(one.name)]
    if not apart:
        return "All rounds are of that start; another one reaches other peaks, so shares of two reports do not compare."
    which = "all rounds are" if len(apart) == len(timed) else f"rounds of {several(apart)} are"
    return f"As far as is known {which} of another start of the machine, which reaches other peaks: their shares are left out."


def claims_title(study: Study) -> str:
    """What claims are called: of the note where the study has one."""
    return "Claims of the note" if study.notes else "Claims"


def claims_section(judged: Sequence[Judged], title: str) -> Section:
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
    said = (
        "A claim holds, or does not, where its whole interval is on one side of the limit; else it cannot be told. Of a ratio "
        "of times it has to stay there when it is wider by what identical configurations differ by."
    )
    if any(one.claim.figure == "last_loss" and one.claim.against for one in judged):
        said += (
            " The interval of a ratio of last losses is what that differs by where weights and data are drawn anew; without "
            "such configurations there is none."
        )
    return Section("claims", title, (said,), (Grid("Claims", shown, lines),))


def failed_section(material: Material) -> Section:
    """Configurations that were not measured, with their errors and the end of their output."""
    found = [one for one in material.configurations if not one.is_timed]
    if not found:
        return Section("failed", "Not measured")
    heads = (
        Column("configuration", number=False, code=True), Column("state", number=False), Column("stage", number=False),
        Column("error", number=False),
    )  # fmt: skip
    alike: dict[tuple[str, str, str], list[str]] = {}
    for one in found:
        state = f"{one.state}, as expected" if one.state == FAILED and one.expected else one.state
        error = f"{one.error.type}: {one.error.message}" if one.error else ""
        alike.setdefault((state, one.error.stage if one.error else "", cut(error)), []).append(one.name)
    # What waits has nothing to say but that: one row for all of it.
    rows = [
        (name, *said)
        for said, names in alike.items()
        for name in ([cut(", ".join(names), 1200)] if said[0] == WAITING else names)
    ]
    quoted = tuple((one.name, one.error.output) for one in found if one.error and one.error.output and not one.expected)
    return Section(
        "failed", "Not measured", (), (Grid("Configurations that were not measured", heads, tuple(rows)),), quoted
    )
