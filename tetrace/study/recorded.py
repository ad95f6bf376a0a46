"""What each recording of a study shows: coverage, quantization, launches, waiting, backends; and what backends refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import Column, Grid
from tetrace.study.figures import backend_words, value
from tetrace.study.idle import SLOWED, idle_share, slowed, works_ns
from tetrace.study.section import NOTHING, Section, cut, several, without_empty
from tetrace.study.value import COUNT, PERCENT, number

if TYPE_CHECKING:
    from tetrace.study.material import Material

_RECORDED = {"fp8_coverage_pct": PERCENT, "quantization_pct": PERCENT, "launches": COUNT}


def recorded_section(material: Material) -> Section:
    """What each recording shows: coverage, quantization, launches, waiting, backends; and what backends refused."""
    heads = [
        Column("configuration", number=False, code=True), Column("recorded ms"), Column("timed alone ms", keep=2),
        Column("GPU works ms"), Column("FP8 coverage"), Column("quantization", keep=1), Column("launches"),
        Column("idle", keep=1), Column("attention", number=False), Column("note", number=False),
    ]  # fmt: skip
    members = material.recorded()
    if not members:
        return Section("recorded", "What ran")
    rows: list[tuple[str, ...]] = []
    refusals: list[tuple[str, str, str]] = []
    notices: dict[str, list[str]] = {}
    for one in members:
        rows.append(_recorded_row(material, one.name))
        run = material.breakdown(one.name)
        if run is not None:
            refusals += [(one.name, backend, reason) for backend, reason in refused_backends(run)]
            for line in run.attribution.trace.metadata.notices:
                notices.setdefault(line, []).append(one.name)
    shown, lines = without_empty(heads, rows)
    notes = []
    if any(slowed(material, one.name) for one in members):
        notes.append(
            f"slowed: the recorded step takes more than {SLOWED} times the timed one, since the recorder or somebody else "
            "slowed its host. What it waits as recorded is not what a step of a run waits; what the GPU works is."
        )
    if any(material.recorded_elsewhere(one.name) for one in members):
        notes.append(
            "another start: recorded at that time (UTC), in another start of the machine than its rounds were timed in, whose "
            "host may have been faster or slower."
        )
    if any(material.recorded_hours_later(one.name) for one in members):
        notes.append("h later: so long after its rounds were timed, perhaps in another start of the machine.")
    grids = [Grid("Recordings: an average steady step", shown, lines, note=" ".join(notes))]
    if refusals:
        by_reason: dict[tuple[str, str], list[str]] = {}
        for name, backend, reason in refusals:
            by_reason.setdefault((backend, reason), []).append(name)
        columns = (Column("backend", number=False), Column("refused because", number=False), Column("in", number=False))
        grids.append(
            Grid(
                "Attention backends that Transformer Engine refused",
                columns,
                tuple((backend, cut(reason), several(names)) for (backend, reason), names in by_reason.items()),
            )
        )
    said = (
        "FP8 coverage is of GEMM time, quantization of GPU activity. Idle is of the step that was timed alone: what it takes "
        "more than the GPU works; where the GPU works all of the recorded step, idle is of that, since its clock sets the length."
    )
    if "--fp8" in material.study.recording.arguments:
        said += " What the GPU works is without tetrace's own FP8 statistics; its activity, which shares are of, has them in it."
    return Section(
        "recorded",
        "What ran",
        (said, *(cut(f"{several(names)}: {line}.") for line, names in notices.items())),
        tuple(grids),
    )


def _recorded_row(material: Material, name: str) -> tuple[str, ...]:
    run, alone = material.run(name), material.time(name)
    timed = NOTHING if alone is None else f"{alone.value / 1e6:,.3f}"
    if isinstance(run, str):
        return (name, NOTHING, timed, NOTHING, *[NOTHING] * len(_RECORDED), NOTHING, "", cut(run))
    totals = run.breakdown.totals
    if not totals.activities:
        return (name, NOTHING, timed, NOTHING, *[NOTHING] * len(_RECORDED), NOTHING, "", "no GPU activity was captured")
    steps = max(totals.steps, 1)
    figures = [(value(material, figure, name).estimate, unit) for figure, unit in _RECORDED.items()]
    backend, idle, times = backend_words(material, name), idle_share(material, name), slowed(material, name)
    return (
        name,
        f"{totals.wall_ns / steps / 1e6:,.3f}",
        timed,
        f"{works_ns(run.breakdown) / 1e6:,.3f}",
        *(NOTHING if one is None else number(one.value, unit) for one, unit in figures),
        NOTHING if idle is None else number(100 * idle, PERCENT),
        str(backend.word) if backend.known else "",
        ", ".join((*([f"slowed {times:.2f}×"] if times else []), *_start_words(material, name))),
    )


def _start_words(material: Material, name: str) -> Iterator[str]:
    elsewhere = material.recorded_elsewhere(name)
    if elsewhere is not None:
        yield f"another start ({elsewhere:%Y-%m-%d %H:%M})"
    if hours := material.recorded_hours_later(name):
        yield f"{hours} h later"


def refused_backends(run: Any) -> Iterator[tuple[str, str]]:
    """Backends that Transformer Engine refused in a recording, each with its first reason."""
    told: set[str] = set()
    for refused in run.tables["attention_backends"]["refused"]:
        for one in str(refused).split("; "):
            backend, _, reason = one.partition(": ")
            if reason and backend not in told:
                told.add(backend)
                yield backend, reason
