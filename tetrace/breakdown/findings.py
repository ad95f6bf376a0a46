"""The few things that hold a run back, worst first: each with its milliseconds, its evidence and what to do; what makes
its results wrong before those.

A finding is one function from a breakdown to `Finding` or None; it is gone when its cause is. Thresholds are shares
below which the thing is not worth a line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from tetrace.attribute.attribution import UNATTRIBUTED_MODULE
from tetrace.breakdown.compute import UNFUSED
from tetrace.breakdown.finding import OF_BUSY, OF_WALL, Finding, step_word
from tetrace.breakdown.fp8_coverage import ADVICE, NOT_TE, fp8_coverage, fp8_norms
from tetrace.breakdown.fp8_findings import fp8_findings
from tetrace.breakdown.launch import NO_RANGE
from tetrace.breakdown.ranks import amax_findings, communication_findings
from tetrace.breakdown.recorded import in_attention, recorded_classes, refusals
from tetrace.breakdown.verdict import HOST_COPIES, copied_ns
from tetrace.breakdown.without_recorder import added_waiting_ns, plain_step
from tetrace.units import byte_count, duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

_OF_NORMS = 0.005
_WEIGHTS = {"LayerNormMLP": 2}


def findings(breakdown: Breakdown) -> list[Finding]:
    """What holds the selected steps back, the costliest first; before it what makes results wrong."""
    found = [finding for look in _LOOKS for finding in look(breakdown)] if breakdown.totals.activities else []
    found += fp8_findings(breakdown.fp8_health) if breakdown.fp8_health else []
    return sorted(found, key=lambda finding: (not finding.urgent, -finding.ns))


def _place(row: dict[str, Any]) -> str:
    """A host range in words; where none was open the phase says more."""
    return f"{row['range']} in {row['phase']}" if row["range"] == NO_RANGE else str(row["range"])


def _recorders_part(breakdown: Breakdown, ns: int) -> str:
    """What follows the title of a finding about `ns` of waiting for the host: that the recorder has a part in it."""
    added = min(added_waiting_ns(breakdown), ns)
    if not added:
        return ""
    if plain_step(breakdown):
        return f", up to {duration(added)} of it for the recorder"
    return ", which the recorder slows (time steps without it first)"


def _launches(breakdown: Breakdown) -> Iterator[Finding]:
    totals = breakdown.totals
    late, latency = totals.idle_ns["host_bound"], totals.idle_ns["launch_latency"]
    plain, added = plain_step(breakdown), added_waiting_ns(breakdown) * max(totals.steps, 1)
    if late < OF_WALL * totals.wall_ns or not breakdown.launch.calls:
        return
    if plain and late - added < OF_WALL * totals.wall_ns:
        return  # without the recorder it hardly waits
    per_step = breakdown.totals.per_step(late)
    calls = breakdown.launch.calls / max(totals.steps, 1)
    hosts = breakdown.tables["host_ranges"]
    worst = ", ".join(
        f"{_place(row)} {duration(breakdown.totals.per_step(row['host_bound_ns']))}"
        for row in hosts.take(range(min(2, len(hosts)))).rows()
    )
    yield Finding(
        "host_bound",
        per_step,
        f"the GPU waits for the host to launch{_recorders_part(breakdown, per_step)}",
        f"{percent(late, totals.wall_ns)} of wall, and {percent(latency, totals.wall_ns)} launch latency; "
        f"{calls:,.0f} launches {step_word(breakdown)}; most in {worst}",
        "capture the rest of the step in CUDA graphs too"
        if any("GraphLaunch" in call for call in breakdown.tables["launches"]["call"])
        else "CUDA graphs, or a larger batch",
    )


def _synchronizations(breakdown: Breakdown) -> Iterator[Finding]:
    totals = breakdown.totals
    ns = max(totals.drained_ns, totals.idle_ns["synchronization"])
    if ns >= OF_WALL * totals.wall_ns and ns:
        calls = totals.synchronizing_calls / max(totals.steps, 1)
        yield Finding(
            "synchronization",
            breakdown.totals.per_step(ns),
            "the host waits for the GPU, which then runs dry",
            f"{percent(ns, totals.wall_ns)} of wall idles from {calls:.1f} synchronizing calls {step_word(breakdown)} on, "
            "until the host has launched again (part of the host-bound time"
            f"{', which the recorder lengthens' if added_waiting_ns(breakdown) else ''})",
            "no .item(), .cpu() or print(loss) in every step",
        )


def _copies(breakdown: Breakdown) -> Iterator[Finding]:
    ns = copied_ns(breakdown)
    if ns >= OF_BUSY * breakdown.totals.activity_ns and ns:
        table = breakdown.tables["memory"]
        rows = [row for row in table.rows() if row["name"] in HOST_COPIES]
        sizes = [row["bytes"] for row in rows]
        moved = "bytes not captured" if min(sizes) < 0 else byte_count(breakdown.totals.per_step(sum(sizes)))
        yield Finding(
            "copies",
            breakdown.totals.per_step(ns),
            "copies between host and device",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity; {moved} {step_word(breakdown)}",
            "pinned memory and non_blocking=True; offload less, or overlap it",
        )


def _quantization(breakdown: Breakdown) -> Iterator[Finding]:
    bounds, totals = breakdown.quantization_bounds, breakdown.totals
    best = bounds.estimate_ns if bounds.estimate_ns >= 0 else bounds.lower_ns
    if best >= OF_BUSY * totals.busy_ns and best:
        low, high = (duration(breakdown.totals.per_step(ns)) for ns in (bounds.lower_ns, bounds.upper_ns))
        yield Finding(
            "quantization_gpu",
            breakdown.totals.per_step(best),
            "quantizing on the GPU",
            f"{low} to {high} {step_word(breakdown)}, {percent(best, totals.activity_ns)} of GPU activity",
            "larger GEMMs repay it; fused modules quantize cheapest",
        )
    host = totals.quantization_host_ns
    if host >= OF_WALL * totals.wall_ns and host:
        yield Finding(
            "quantization_host",
            breakdown.totals.per_step(host),
            f"the GPU waits while the host quantizes{', which the recorder slows' if added_waiting_ns(breakdown) else ''}",
            f"{percent(host, totals.wall_ns)} of wall: idle charged to quantize and scale-update ranges, part of host-bound",
            "CUDA graphs; cached weight casts",
        )


def _class_of(module: str) -> str:
    """Class of a module by its name: `Linear.3`, or `TransformerLayer_0/Linear_3` of the PyTorch profiler."""
    return re.sub(r"[._]\d+$", "", module.rsplit("/", 1)[-1])


def _weight_casts(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["quantization"]
    casts: dict[str, list[int]] = {}
    recorded = recorded_classes(breakdown.attribution.trace)

    def class_of(module: str) -> str:
        return recorded.get(module) or _class_of(module)

    for row in table.rows():
        kind = class_of(row["module"])
        if (
            row["role"] == "weight"
            and row["operation"] in ("cast", "cast_transpose", "block_cast")
            and kind != "GroupedLinear"
        ):
            count_and_time = casts.setdefault(row["module"], [0, 0])
            count_and_time[0] += row["count"]
            count_and_time[1] += row["total_ns"]
    again, wasted = 0.0, 0
    for module, (count, ns) in casts.items():
        once = _WEIGHTS.get(class_of(module), 1) * breakdown.totals.steps
        if breakdown.selection.per_step and count > 1.5 * once:
            again = max(again, count / once)
            wasted += ns * (count - once) // count
    if again:
        yield Finding(
            "weight_casts",
            breakdown.totals.per_step(wasted),
            "weights are cast more than once a step",
            f"up to {again:.1f} casts of a weight in each optimizer step",
            "pass is_first_microbatch; recompute casts again",
        )


def _outside_fp8(breakdown: Breakdown) -> Iterator[Finding]:
    covered = breakdown.fp8_coverage
    unfused = UNFUSED in breakdown.tables["attention"]["backend"]
    # Unfused attention multiplies matrices in BF16 whatever the recipe: that is its own finding. Its backward has no module.
    classes = recorded_classes(breakdown.attribution.trace)

    def may_be_attention(module: str) -> bool:
        return unfused and (module == UNATTRIBUTED_MODULE or in_attention(module, classes))

    rows = [
        row
        for row in breakdown.tables["gemms"].rows()
        if not row["fp8"] and row["formats"] and not may_be_attention(row["module"])
    ]
    outside = sum(row["total_ns"] for row in rows)
    if covered.fp8_ns and outside > OF_BUSY * covered.gemm_ns:
        worst = ", ".join(dict.fromkeys(" ".join((row["module"], row["role"], row["formats"])) for row in rows[:3]))
        why = {row["module"]: row["status"] for row in fp8_coverage(breakdown).rows()}
        yield Finding(
            "outside_fp8",
            breakdown.totals.per_step(outside),
            "GEMMs outside FP8",
            f"{percent(outside, covered.gemm_ns)} of GEMM time: {worst}",
            ADVICE.get(why.get(rows[0]["module"], ""), ADVICE[NOT_TE]),
        )


def _unfused_norms(breakdown: Breakdown) -> Iterator[Finding]:
    norms, totals = fp8_norms(breakdown), breakdown.totals
    ns = int(norms["cast_ns"].sum())
    if ns and ns >= _OF_NORMS * totals.busy_ns:
        first = norms.rows()[0]
        gemms = percent(int(norms["gemm_ns"].sum()), breakdown.fp8_coverage.gemm_ns)
        yield Finding(
            "unfused_norms",
            breakdown.totals.per_step(ns),
            "norms leave the cast to their linears",
            f"{len(norms)} linears with {gemms} of GEMM time cast what a norm before them wrote, first {first['linear']} "
            f"after {first['norm']}",
            "LayerNormLinear and LayerNormMLP normalize and cast in one kernel",
        )


def _unfused_attention(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["attention"]
    rows = [i for i, backend in enumerate(table["backend"]) if backend == UNFUSED]
    ns = int(table["total_ns"][rows].sum())
    if rows:
        backends = breakdown.tables["attention_backends"]
        chosen = [i for i, backend in enumerate(backends["backend"]) if backend.startswith("Unfused")]
        refused = refusals(backends.take(chosen))
        # The fused backend is the one that most configurations run on.
        first = min(refused, key=lambda backend: backend != "FusedAttention", default="")
        yield Finding(
            "unfused_attention",
            breakdown.totals.per_step(ns),
            "attention runs unfused",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity in its GEMMs and softmax",
            f"{first} was refused: {refused[first]}" if first else "NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 says why",
        )


def _transposes(breakdown: Breakdown) -> Iterator[Finding]:
    ns = breakdown.quantization_bounds.transpose_ns
    if ns >= 0.01 * breakdown.totals.busy_ns and ns:
        yield Finding(
            "transposes",
            breakdown.totals.per_step(ns),
            "FP8 data is transposed by kernels of its own",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity: Hopper's FP8 GEMMs take row-major operands only",
            "casts that write both layouts avoid it",
        )


def _scale_updates(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["quantization"]
    rows = [
        i
        for i, (op, m) in enumerate(zip(table["operation"], table["module"], strict=True))
        if op == "scale_update" and m == "(scale_update)"
    ]
    count, ns = int(table["count"][rows].sum()), int(table["total_ns"][rows].sum())
    per_step = count / max(breakdown.totals.steps, 1)
    if breakdown.selection.per_step and per_step > 4 and ns >= 0.01 * breakdown.totals.busy_ns:
        yield Finding(
            "scale_updates",
            breakdown.totals.per_step(ns),
            "delayed scales are updated many times a step",
            f"{per_step:.0f} updates a step, where forward and backward need one each: every autocast that ends updates all, "
            "also inside te.checkpoint",
            "open te.autocast once around the step",
        )


def _recompute(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["phases"]
    ns = sum(t for phase, t in zip(table["phase"], table["total_ns"].tolist(), strict=True) if phase == "recompute")
    if ns >= OF_BUSY * breakdown.totals.activity_ns and ns:
        yield Finding(
            "recompute",
            breakdown.totals.per_step(ns),
            "forward is computed again in backward",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity is recompute",
            "checkpoint fewer layers if memory allows",
        )


_LOOKS: tuple[Callable[[Breakdown], Iterator[Finding]], ...] = (
    _launches, _synchronizations, _copies, communication_findings, amax_findings, _quantization, _weight_casts, _outside_fp8,
    _unfused_norms, _unfused_attention, _transposes, _scale_updates, _recompute,
)  # fmt: skip
