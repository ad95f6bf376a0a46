"""The sections of an HTML report below its first screen: which there are, and the blocks of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tetrace.report import content
from tetrace.report.column_meanings import column_meaning
from tetrace.report.facts import facts
from tetrace.report.html import bars, fp8_charts, step_bars
from tetrace.report.html.grids import gemm_shape_grid, matrix_grid, plain_grid, view_grid
from tetrace.report.html.icicle import icicle
from tetrace.report.html.words import shortened
from tetrace.report.scale import NOT_CAPTURED
from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.report.html.material import Material

Json = dict[str, Any]

_MOST_LANES, _MOST_PROBLEMS = 16, 200
_MISSING = "its history is left out of this file; tetrace fp8 tensor RUN NAME shows it"
_MORE = ("call", "communication", "memory", "host-module", "host-step", "module-time", "module-memory", "memory-peak")


def sections(material: Material) -> list[Json]:
    """Sections in order, each with an id, a title, a sentence and its blocks; those without blocks are left out."""
    ran = bool(material.breakdown.totals.activities)
    made = [*(_of_activities(material) if ran else _without_activities(material)), *_of_all(material)]
    return [section for section in made if section["blocks"]]


def _section(name: str, title: str, lead: str, *blocks: Json | None) -> Json:
    return {"id": name, "title": title, "lead": lead, "blocks": [block for block in blocks if block]}


def _of_activities(material: Material) -> Iterator[Json]:
    yield _steps(material)
    yield _section(
        "activity",
        "Where the GPU's work goes",
        "GPU activity from phase to module to category to kernel. Work is summed over streams. Click or press Enter to go "
        "in, Escape to go up.",
        {"type": "icicle", "spec": icicle(material)},
        _table(matrix_grid(material)),
    )
    yield _timeline(material)
    yield _section(
        "kernels", "Kernels", "Every kernel, copy and memset of the counted steps. A click shows a long name whole.",
        _view(material, "kernel"),
    )  # fmt: skip
    yield _section(
        "modules", "Modules", "What each module launched; what nothing says is unattributed.", _view(material, "module")
    )
    yield _quantization(material)
    yield _launches(material)
    yield _gemms(material)
    yield _attention(material)
    yield _fp8(material)
    if material.breakdown.totals.lanes > 1:
        yield _ranks(material)


def _without_activities(material: Material) -> Iterator[Json]:
    lines = content.without_activities(material.breakdown)
    yield _section("held", "What was recorded", "", {"type": "list", "rows": [shortened(line) for line in lines]})
    yield _fp8(material)


def _of_all(material: Material) -> Iterator[Json]:
    tables = [grid for name in _MORE if (grid := view_grid(material, name))]
    yield _section("more", "More tables", "", {"type": "tables", "grids": tables} if tables else None)
    yield _environment(material)
    yield _section(
        "definitions", "Definitions", "What every number means; docs/how-it-works.md says how it is found.",
        {"type": "definitions"},
    )  # fmt: skip


def _view(material: Material, name: str) -> Json | None:
    grid = view_grid(material, name)
    return _table(grid) if grid else None


def _table(grid: Json) -> Json:
    return {"type": "table", "grid": grid}


def _chart(spec: Json | None, said: str, title: str = "", legend: bool = True) -> Json | None:
    """A chart; `said` is what it shows, for those who do not see it."""
    return {"type": "chart", "title": title, "said": said, "legend": legend, "spec": spec} if spec else None


def _steps(material: Material) -> Json:
    names = step_bars.lane_names(material)
    specs = [(name, step_bars.steps(material, lane)) for lane, name in enumerate(names[:_MOST_LANES])]
    charts = [
        _chart(spec, f"Wall time of each step, {name}", name if len(names) > 1 else "") for name, spec in specs if spec
    ]
    return _section(
        "steps",
        "Step by step",
        "Each bar is a step: busy time by category, idle time by cause. The green line marks the steps that are counted; "
        "the others are pale.",
        _choice(charts, "lane"),
        _folded(_view(material, "step"), "Every step in numbers"),
    )


def _choice(blocks: list[Json | None], what: str, more: str = "", missing: str = "") -> Json | None:
    """One block, or several of which one is shown. `more` stands beside the choice; `missing` says where one is that the
    page does not hold."""
    there = [block for block in blocks if block]
    if len(there) < 2:
        return there[0] if there else None
    return {"type": "choice", "what": what, "blocks": there, "more": more, "missing": missing}


def _folded(block: Json | None, title: str) -> Json | None:
    return {"type": "folded", "title": title, "block": block} if block else None


def _timeline(material: Material) -> Json:
    spec, shown = step_bars.timeline(material), material.timeline
    lead = ""
    if shown:
        which = f"Step {shown.step}" if shown.step >= 0 else "The recorded stretch"
        lead = f"{which} of pid {shown.pid} on device {shown.device}, the one nearest to the median. Drag to zoom in, "
        lead += "double-click to zoom out; with the keyboard +, −, arrows and 0."
        if shown.merged:
            lead += " Neighbours too close to be seen apart are drawn as one."
    return _section(
        "timeline", "One step as it ran", lead, _chart(spec, "Activities by stream and launching calls over time")
    )


def _quantization(material: Material) -> Json:
    breakdown = material.breakdown
    said = [fact for fact in facts(breakdown, material.scale) if fact.label in ("quantization", "FP8 coverage")]
    rows = [[line for fact in said for line in fact.lines]] if said else []
    return _section(
        "quantization",
        "What FP8 costs",
        "Between two bounds: kernels that only quantize, and with the fused ones whole. The diamond is the estimate.",
        {"type": "list", "rows": [shortened(line) for line in rows[0]]} if rows else None,
        _chart(bars.quantization(material, "role"), "Quantization by tensor role", "By the tensor that is quantized"),
        _chart(bars.quantization(material, "module"), "Quantization by module", "By module"),
        _view(material, "quantization"),
    )


def _launches(material: Material) -> Json:
    breakdown, scale = material.breakdown, material.scale
    launch, totals = breakdown.launch, breakdown.totals
    if launch.host_ns < 0:
        rows = [{"label": "API calls", "value": NOT_CAPTURED, "note": "", "term": "Not captured"}]
    else:
        told = launch.latency_median_ns >= 0
        latency = duration(launch.latency_median_ns) if told else "not told"
        met = f"only {launch.latency_samples}" if launch.latency_samples else "none"
        spread = f"p95 {duration(launch.latency_p95_ns)}" if told else f"{met} was met"
        late = totals.idle_ns["host_bound"]
        calls = f"{scale.count(launch.calls)} calls{scale.each}"
        queue = f"median queue {launch.queue_depth:,} deep"
        rows = [
            _figure("Host time in calls", duration(launch.host_ns / scale.steps), calls, "Host time in calls"),
            _figure("Latency on an idle stream", latency, spread, "Latency on an idle stream"),
            _figure("Host-bound idle", duration(late / scale.steps), f"{percent(late, totals.wall_ns)} of wall", "Host-bound"),
            _figure("Back-pressure", duration(launch.back_pressure_ns / scale.steps), queue, "Back-pressure"),
        ]  # fmt: skip
    return _section(
        "launches",
        "Launches, and what the host did while the GPU waited",
        "Numbers that are never added up: host time, latency and idle time overlap.",
        {"type": "facts", "rows": rows},
        _chart(
            bars.host_ranges(material), "Host ranges by the idle time charged to them", "Host ranges the GPU waits for"
        ),
        _view(material, "host"),
        _view(material, "launch"),
    )


def _figure(name: str, value: str, note: str, term: str) -> Json:
    return {"label": name, "value": value, "note": note, "term": term}


def _gemms(material: Material) -> Json:
    shapes = gemm_shape_grid(material)
    lead = (
        "By shape and format where calls were recorded." if shapes else "Shapes were not recorded: by format and role."
    )
    return _section(
        "gemms", "GEMMs", lead,
        _chart(bars.gemm_formats(material), "GEMM time by role and format", "By role and format"),
        _table(shapes) if shapes else None,
        _view(material, "gemm"),
    )  # fmt: skip


def _attention(material: Material) -> Json:
    said = [fact for fact in facts(material.breakdown, material.scale) if fact.label == "attention"]
    lines = [shortened(line) for fact in said for line in fact.lines]
    selected = _view(material, "backend")
    if lines and not selected:
        lines.append(f"which backend Transformer Engine selected, and why it refused the others: {NOT_CAPTURED}")
    return _section(
        "attention", "Attention", "The backend whose kernels ran; the one selected, and why the others were refused.",
        {"type": "list", "rows": lines} if lines else None,
        selected,
        _view(material, "attention"),
    )  # fmt: skip


def _fp8(material: Material) -> Json:
    maps = material.fp8
    if maps is None:
        said = "FP8 statistics: not recorded. `tetrace record --fp8` records amax, scales and what is lost in casts."
        return _section("fp8", "FP8 health", "", {"type": "text", "text": said})
    charts = []
    for name, measure in fp8_charts.MEASURES.items():
        spec = fp8_charts.health_map(material, name)
        said = f"{measure.title}: module by step"
        charts.append(_chart(fp8_charts.compact(spec) if spec else None, said, measure.title, legend=False))
    histories = []
    for history in maps.histories:
        name = shortened(history.name, 200)
        histories.append(_chart(fp8_charts.tensor_history(history), f"Amax and scale of {name}", name))
    left = f" {maps.left_out} modules without problems are not shown." if maps.left_out else ""
    copy = f" {maps.copy[0].upper()}{maps.copy[1:]}." if maps.copy else ""
    tensors = len(histories) + maps.without_history
    more = (
        f"{len(histories):,} of {tensors:,} tensors; {maps.without_history:,} are left out"
        if maps.without_history
        else ""
    )
    return _section(
        "fp8",
        "FP8 health",
        f"{shortened(maps.health.verdict)}{left}{copy}",
        _choice([*charts], "measure"),
        _choice([*histories], "tensor", more, _MISSING),
        _fp8_problems(material),
    )


def _fp8_problems(material: Material) -> Json | None:
    problems = material.fp8.health.problems if material.fp8 else ()
    names = ("level", "problem", "tensor", "steps", "evidence", "what to do")
    heads = [(name, False, column_meaning("fp8-problem", name)) for name in names]
    rows = [
        [
            one.level,
            one.title,
            f"{one.module}.{one.role}".strip("."),
            _span(one.first_step, one.last_step),
            one.evidence,
            one.advice,
        ]
        for one in problems[:_MOST_PROBLEMS]
    ]
    return _table(plain_grid("Problems, worst first", heads, rows)) if rows else None


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}–{last}"


def _ranks(material: Material) -> Json:
    return _section(
        "ranks", "Ranks", "Each process and device on its own.",
        _chart(step_bars.lanes(material), "Average step of each lane"),
        _view(material, "lane"),
    )  # fmt: skip


def _environment(material: Material) -> Json:
    metadata = material.breakdown.attribution.trace.metadata
    rows: list[list[str]] = [["source format", metadata.source_format], ["recorder", metadata.recorder]]
    rows += [["CUDA graphs", metadata.graph_mode]] if metadata.graph_mode else []
    rows += list(_flat(metadata.facts))
    shown = [[shortened(name, 120), shortened(value, 600)] for name, value in rows if value][:400]
    heads = [(name, False, column_meaning("environment", name)) for name in ("what", "value")]
    grid = plain_grid("Environment", heads, shown)
    return _section("environment", "Environment", "What the recording knows of the run.", _table(grid))


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[list[str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}: ")
        elif isinstance(value, list | tuple):
            yield [f"{before}{name}", " ".join(map(str, value))]
        elif value is not None:
            yield [f"{before}{name}", str(value)]
