"""The subjects of a report's first screen, each with the lines said about it: quantization, FP8, launches and so on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.breakdown.recorded import gemm_rate, refusals
from tetrace.report.scale import NOT_CAPTURED, Scale
from tetrace.units import byte_count, duration, percent, plural

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

# Copies below this share of GPU activity, and operations of communication below this share of wall, are left to --by.
_WORTH_A_LINE, _SMALL = 0.05, 0.01


@dataclass(frozen=True)
class Fact:
    """One subject on the first screen, with the lines said about it. `less` are those that a crowded screen leaves out."""

    label: str
    lines: tuple[str, ...]
    less: tuple[str, ...] = ()

    @property
    def brief(self) -> tuple[str, ...]:
        """The lines of a crowded screen."""
        return tuple(line for line in self.lines if line not in self.less)


def facts(breakdown: Breakdown, scale: Scale) -> list[Fact]:
    """Quantization, launch costs, attention, communication and what could be attributed."""
    found = [
        _quantization(breakdown, scale),
        _coverage(breakdown, scale),
        _fp8_values(breakdown),
        _inspection(breakdown, scale),
        _launches(breakdown, scale),
        _attention(breakdown, scale),
        _communication(breakdown, scale),
        _memory(breakdown, scale),
    ]
    known = [fact for fact in found if fact]
    return [_outside_graphs(fact) for fact in known] if breakdown.totals.hidden_ns else known


def _outside_graphs(fact: Fact) -> Fact:
    """A fact about kernels where some were not captured, because their CUDA graph was recorded whole."""
    if fact.label not in ("quantization", "FP8 coverage", "attention"):
        return fact
    return Fact(fact.label, (f"inside graphs {NOT_CAPTURED}; outside: {fact.lines[0]}", *fact.lines[1:]), fact.less)


def _quantization(breakdown: Breakdown, scale: Scale) -> Fact | None:
    bounds, totals = breakdown.quantization_bounds, breakdown.totals
    if not bounds.upper_ns:
        return (
            Fact("quantization", ("none on the GPU: no kernel quantizes",)) if breakdown.fp8_coverage.gemm_ns else None
        )
    one = scale.steps
    estimate = "no estimate: the traffic of a fused kernel is unknown"
    if bounds.estimate_ns >= 0:
        share = percent(bounds.estimate_ns, totals.activity_ns)
        estimate = f"estimate {duration(bounds.estimate_ns / one)} = {share} of GPU activity"
    line = f"{duration(bounds.lower_ns / one)} to {duration(bounds.upper_ns / one)} on the GPU{scale.each}, {estimate}"
    if bounds.lower_ns == bounds.upper_ns:
        share = percent(bounds.lower_ns, totals.activity_ns)
        line = f"{duration(bounds.lower_ns / one)} on the GPU{scale.each} = {share} of GPU activity; none is fused"
    updates = f"scale updates ({scale.count(bounds.scale_updates)}×)"
    parts = [("transposes", bounds.transpose_ns), ("amax", bounds.amax_ns), (updates, bounds.scale_update_ns)]
    within = [f"{word} {duration(ns / one)}" for word, ns in parts if ns]
    if bounds.weight_casts:
        within.append(f"{scale.count(bounds.weight_casts)} weight cast{'' if bounds.weight_casts == one else 's'}")
    parted = (", ".join(within) + scale.each,) if within else ()
    lines = [line, *parted]
    if not breakdown.attribution.trace.has("ranges"):
        lines.append(f"GPU idle while the host quantizes: {NOT_CAPTURED}")
    else:
        share = percent(totals.quantization_host_ns, totals.wall_ns)
        lines.append(
            f"GPU idle while the host quantizes: {duration(totals.quantization_host_ns / one)} = {share} of wall"
        )
    return Fact("quantization", tuple(lines), parted)


def _coverage(breakdown: Breakdown, scale: Scale) -> Fact | None:
    covered = breakdown.fp8_coverage
    if not covered.gemm_ns:
        return None
    share, total = percent(covered.fp8_ns, covered.gemm_ns), duration(covered.gemm_ns / scale.steps)
    formats = _sums(breakdown.tables["gemms"], "formats")
    known = ", ".join(f"{name or 'unknown format'} {percent(ns, covered.gemm_ns)}" for name, ns in formats[:4])
    rate = _rate(breakdown)
    return Fact("FP8 coverage", (f"{share} of GEMM time, {total}{scale.each}: {known}", *rate), rate)


def _fp8_values(breakdown: Breakdown) -> Fact | None:
    """Whether the recorded FP8 statistics are sound."""
    return Fact("FP8 values", (breakdown.fp8_health.verdict,)) if breakdown.fp8_health else None


def _inspection(breakdown: Breakdown, scale: Scale) -> Fact | None:
    """What `--fp8` itself cost on the GPU."""
    table = breakdown.tables["phases"]
    rows = [i for i, category in enumerate(table["category"]) if category == "inspection"]
    if not rows:
        return None
    ns, launched = int(table["total_ns"][rows].sum()), int(table["count"][rows].sum())
    share = percent(ns, breakdown.totals.activity_ns)
    work = f"{scale.count(launched)} kernels and copies"
    line = (
        f"{duration(ns / scale.steps)} of GPU activity{scale.each} = {share}, {work}: tetrace's own, not the script's"
    )
    return Fact("FP8 inspection", (line,))


def _rate(breakdown: Breakdown) -> tuple[str, ...]:
    """How fast the recorded GEMMs are, against the peak measured on this GPU where it was calibrated."""
    calibration = breakdown.attribution.trace.metadata.facts.get("calibration") or {}
    rate = gemm_rate(breakdown.tables["recorded_calls"], calibration)
    if rate is None:
        return ()
    line = f"GEMMs of Transformer Engine run at {rate.flops / 1e12:,.0f} TFLOP/s"
    if rate.at_peak_ns > 0:
        line += f", {percent(rate.at_peak_ns, rate.total_ns)} of the peak calibrated on this GPU for their formats"
    return (line,)


def _launches(breakdown: Breakdown, scale: Scale) -> Fact:
    launch, totals = breakdown.launch, breakdown.totals
    if launch.host_ns < 0:
        return Fact("launches", (f"API calls {NOT_CAPTURED}",))
    first = f"{scale.count(launch.calls)} calls for {scale.count(totals.activities)} activities{scale.each}"
    unlaunched = totals.activities - launch.activities
    if unlaunched:
        first += f", of {scale.count(unlaunched)} the call was {NOT_CAPTURED}"
    if launch.queue_depth >= 0:
        first += f"; median queue {launch.queue_depth:,} deep"
    if launch.back_pressure_ns:
        first += f", {duration(launch.back_pressure_ns / scale.steps)} of host time waiting for room"
    costs = f"host time in calls {duration(launch.host_ns / scale.steps)}"
    met = plural(launch.latency_samples, "idle stream") if launch.latency_samples else "no idle stream"
    latency = f"latency not told: {met}"
    if launch.latency_median_ns >= 0:
        latency = f"latency {duration(launch.latency_median_ns)} (p95 {duration(launch.latency_p95_ns)})"
    idle = f"host-bound idle {duration(totals.idle_ns['host_bound'] / scale.steps)}"
    second = f"{costs} | {latency} | {idle}"
    return Fact("launches", (first, second), (second,))


def _sums(table: Table, key: str) -> list[tuple[str, int]]:
    total: dict[str, int] = {}
    for word, ns in zip(table[key], table["total_ns"].tolist(), strict=True):
        total[word] = total.get(word, 0) + ns
    return sorted(total.items(), key=lambda item: -item[1])


def _attention(breakdown: Breakdown, scale: Scale) -> Fact | None:
    table = breakdown.tables["attention"]
    if not len(table):
        return None
    parts = []
    for backend, ns in _sums(table, "backend"):
        formats = [f for f, b in zip(table["formats"], table["backend"], strict=True) if b == backend and f]
        parts.append(f"{' '.join([backend, *list(dict.fromkeys(formats))[:1]])} {duration(ns / scale.steps)}")
    share = percent(int(table["total_ns"].sum()), breakdown.totals.activity_ns)
    selected = _selected(breakdown)
    return Fact("attention", (f"{', '.join(parts[:3])}: {share} of GPU activity", *selected), selected)


def _selected(breakdown: Breakdown) -> tuple[str, ...]:
    """The backends that Transformer Engine selected and the first reason for each it refused."""
    table = breakdown.tables["attention_backends"]
    if not len(table):
        return ()
    modules: dict[str, set[str]] = {}  # each once, though every rank has it
    for backend, sub, module in zip(table["backend"], table["sub_backend"], table["module"], strict=True):
        modules.setdefault(f"{backend} ({sub})" if sub else backend, set()).add(module)
    lines = ["selected " + ", ".join(f"{name} in {plural(len(n), 'module')}" for name, n in modules.items())]
    return (*lines, *(f"{backend} refused: {reason}" for backend, reason in list(refusals(table).items())[:2]))


def _communication(breakdown: Breakdown, scale: Scale) -> Fact | None:
    table = breakdown.tables["communication"]
    if not len(table):
        return None
    parts: dict[str, list[int]] = {}
    for row in table.rows():
        sums = parts.setdefault(row["operation"], [0, 0, 0, 0])
        sums[0] += row["count"]
        sums[1] += row["total_ns"]
        sums[2] += row["exposed_ns"]
        sums[3] = sums[3] + row["waiting_ns"] if row["waiting_ns"] >= 0 and sums[3] >= 0 else -1
    lines: list[str] = []
    wall = breakdown.totals.wall_ns
    for operation, (number, total, exposed, waiting) in parts.items():
        if operation != "amax_reduce" and lines and total < _SMALL * wall:
            continue
        name = "amax all-reduce" if operation == "amax_reduce" else operation
        line = (
            f"{name} {scale.count(number)}×: {duration(total / scale.steps)}, exposed {duration(exposed / scale.steps)}"
        )
        line += f" = {percent(exposed, wall)} of wall"
        lines.append(line + (f", waiting {duration(waiting / scale.steps)}" if waiting >= 0 else ""))
    return Fact("communication", tuple(lines))


def _memory(breakdown: Breakdown, scale: Scale) -> Fact | None:
    table = breakdown.tables["memory"]
    whole = breakdown.totals.activity_ns
    total = int(table["total_ns"].sum()) if len(table) else 0
    if not total or total < _WORTH_A_LINE * whole:
        return None
    parts = []
    for name, ns in _sums(table, "name")[:2]:
        sizes = [size for word, size in zip(table["name"], table["bytes"].tolist(), strict=True) if word == name]
        moved = NOT_CAPTURED if min(sizes) < 0 else byte_count(sum(sizes) / scale.steps)
        parts.append(f"{name} {duration(ns / scale.steps)} ({moved})")
    return Fact("copies", (", ".join(parts),))
