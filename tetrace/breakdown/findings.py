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
from tetrace.breakdown.finding import Finding
from tetrace.breakdown.fp8_coverage import ADVICE, NOT_TE, fp8_coverage, fp8_norms, recorded_classes
from tetrace.breakdown.fp8_findings import fp8_findings
from tetrace.breakdown.host_run import host_verdict
from tetrace.breakdown.launch import NO_RANGE
from tetrace.breakdown.module_times import STEP
from tetrace.breakdown.without_recorder import PlainStep, added_waiting_ns, plain_step, waiting_ns
from tetrace.trace.schema import GRAPH
from tetrace.units import byte_count, duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

_OF_WALL = 0.03
_OF_BUSY = 0.03
_LAUNCH_BOUND = 0.30
_GPU_BOUND = 0.85
_WAITS = 0.15
_COPY_BOUND = 0.50
_OF_NORMS = 0.005
_HOST_COPIES = ("memcpy HtoD", "memcpy DtoH")
_WEIGHTS = {"LayerNormMLP": 2}
_LENGTHS = (("mean", "mean"), ("95% within", "p95"), ("longest", "max"))


def findings(breakdown: Breakdown) -> list[Finding]:
    """What holds the selected steps back, the costliest first; before it what makes results wrong."""
    found = [finding for look in _LOOKS for finding in look(breakdown)] if breakdown.totals.activities else []
    found += fp8_findings(breakdown.fp8_health) if breakdown.fp8_health else []
    return sorted(found, key=lambda finding: (not finding.urgent, -finding.ns))


def verdict(breakdown: Breakdown) -> str:
    """One sentence with its numbers: what the step is bound by."""
    totals = breakdown.totals
    if not totals.activities:
        if breakdown.attribution.trace.has("module_times"):
            return _sampled_steps(breakdown.tables["module_times"])
        return host_verdict(breakdown)
    late_rank = _late_rank(breakdown)
    if late_rank:
        return late_rank
    return f"{_bound_by(breakdown)}{_caveat(breakdown)}."


def _bound_by(breakdown: Breakdown) -> str:
    """What the step is bound by, by the step without the recorder where that is known."""
    totals, plain = breakdown.totals, plain_step(breakdown)
    busy = _per_step(breakdown, totals.busy_ns)
    wall = plain.plain_ns if plain else _per_step(breakdown, totals.wall_ns)
    works = f"the GPU works {duration(busy)} of {_span(breakdown)}"
    idles = f"and idles {percent(max(wall - busy, 0), wall)}"
    share = {cause: ns / max(totals.wall_ns, 1) for cause, ns in totals.idle_ns.items()}
    if not breakdown.attribution.trace.has("calls"):
        return f"{works[0].upper()}{works[1:]} {idles}; API calls were not captured, so why it idles cannot be told"
    late = waiting_ns(breakdown) - (added_waiting_ns(breakdown) if plain else 0)
    if late >= _LAUNCH_BOUND * wall and busy < _GPU_BOUND * wall:
        late_ns = _per_step(breakdown, totals.idle_ns["host_bound"])
        if plain:
            return f"Launch-bound: {works} {idles} of it, because the host launches late"
        return f"Launch-bound: {works} {idles}, {duration(late_ns)} of it because the host had not launched yet"
    if share["synchronization"] >= _LAUNCH_BOUND:
        waits = percent(totals.idle_ns["synchronization"], totals.wall_ns)
        return f"Synchronization-bound: {works} {idles}, {waits} while the host waits for it"
    if totals.exposed_communication_ns >= _LAUNCH_BOUND * totals.wall_ns:
        exposed = duration(_per_step(breakdown, totals.exposed_communication_ns))
        return f"Communication-bound: {works}, {exposed} of them on communication that nothing hides"
    copied = _copied(breakdown)
    if copied >= _COPY_BOUND * totals.busy_ns:
        return f"Copy-bound: {works}, {percent(copied, totals.activity_ns)} of it copies between host and device"
    if plain and busy > wall:
        # Tracing the nodes of CUDA graphs makes the GPU's own work longer too.
        recorded = duration(_per_step(breakdown, totals.wall_ns))
        works = f"a step takes {duration(wall)} without the recorder, less than the {duration(busy)} that the GPU works"
        idles = f"in the {recorded} with it"
    bound = "GPU-bound" if busy >= _GPU_BOUND * wall else "Mostly GPU-bound"
    return f"{bound}: {works} {idles}; {_largest_categories(breakdown)}"


def _caveat(breakdown: Breakdown) -> str:
    """That waiting for the host may be the recorder's, where the step without it is not known."""
    added = added_waiting_ns(breakdown)
    if not added or plain_step(breakdown):
        return ""
    return f"; the recorder slows the host, so up to {duration(added)} of that idling may be its own: time steps without it"


def _sampled_steps(times: Table) -> str:
    """The verdict of a recording with CUDA events: what a step takes, by its own row."""
    step = next((row for row in times.rows() if row["module"] == STEP and row["steps"]), None)
    if step is None:
        return "Modules were measured with CUDA events; no whole step was."
    lengths = ", ".join(f"{word} {duration(step[f'{name}_ns'])}" for word, name in _LENGTHS)
    return f"A step takes {duration(step['median_ns'])} on its stream (median of {step['steps']} sampled steps; {lengths})."


def _span(breakdown: Breakdown) -> str:
    """What the wall time is of, in words: a step, the one window there is, or everything."""
    totals = breakdown.totals
    if not breakdown.selection.per_step:
        return duration(totals.wall_ns)
    wall = duration(_per_step(breakdown, totals.wall_ns))
    plain = plain_step(breakdown)
    if plain:
        return f"a step that takes {_without_and_with(plain, wall)}"
    marked_by = {breakdown.attribution.steps.source[step] for step in breakdown.selection.frames.step.tolist()}
    return f"{'a window' if marked_by == {'none'} else 'a step'} of {wall}"


def _without_and_with(plain: PlainStep, wall: str) -> str:
    return f"{duration(plain.plain_ns)} without the recorder ({wall} with it)"


def _late_rank(breakdown: Breakdown) -> str:
    """The verdict when ranks wait long for one of them; empty otherwise."""
    lanes = breakdown.tables["lanes"]
    waiting, wall = lanes["waiting_ns"], lanes["wall_ns"]
    if len(lanes) < 2 or (waiting < 0).any() or waiting.max() < _WAITS * wall.max():
        return ""
    late, steps = int(waiting.argmin()), max(int(lanes["steps"].max()), 1)
    others = waiting.sum() - waiting[late]
    longest = duration(int(others) // (len(lanes) - 1) // steps)
    step = (
        f"a step of {duration(int(wall.max()) // steps)}" if breakdown.selection.per_step else duration(int(wall.max()))
    )
    plain = plain_step(breakdown)
    without = f"; without the recorder a step takes {duration(plain.plain_ns)}" if plain else ""
    return (
        f"Held back by one rank: {_who(breakdown, late)} on device {lanes['device'][late]} arrives last at collectives, "
        f"the others wait {longest} for it in {step}; {_why_late(breakdown, late)}{without}."
    )


def _who(breakdown: Breakdown, lane: int) -> str:
    """The process of a lane: `rank 1 (pid 2034)`, or by its id alone."""
    lanes = breakdown.tables["lanes"]
    pid, rank = int(lanes["pid"][lane]), int(lanes["rank"][lane])
    return f"pid {pid}" if rank < 0 else f"rank {rank} (pid {pid})"


def _why_late(breakdown: Breakdown, late: int) -> str:
    """Whether the late rank's GPU works longer than the others', or its host keeps it waiting."""
    lanes = breakdown.tables["lanes"]
    works = lanes["busy_ns"] - lanes["exposed_communication_ns"]
    others = [i for i in range(len(lanes)) if i != late]
    longer = int(works[late]) - int(works[others].mean())
    if longer > 0.3 * int(lanes["waiting_ns"][others].mean()):
        return f"its GPU computes {duration(longer // max(int(lanes['steps'][late]), 1))} longer than theirs"
    idle = percent(int(lanes["host_bound_ns"][late]), int(lanes["wall_ns"][late]))
    caveat = ", which the recorder lengthens: time steps without it" if not plain_step(breakdown) else ""
    return f"its host leaves it idle {idle} of the time{caveat}"


def _largest_categories(breakdown: Breakdown) -> str:
    phases = breakdown.tables["phases"]
    total: dict[str, int] = {}
    for category, ns in zip(phases["category"], phases["total_ns"].tolist(), strict=True):
        total[category] = total.get(category, 0) + ns
    kernels = breakdown.tables["kernels"]
    graphs = sum(ns for kind, ns in zip(kernels["kind"], kernels["total_ns"].tolist(), strict=True) if kind == GRAPH)
    if graphs:
        total["CUDA graphs recorded whole"] = graphs
        total["other"] -= graphs
    largest = sorted(total.items(), key=lambda item: -item[1])[:3]
    words = ", ".join(f"{category} {percent(ns, breakdown.totals.activity_ns)}" for category, ns in largest)
    return f"of its activity {words}"


def _per_step(breakdown: Breakdown, ns: int) -> int:
    return ns // max(breakdown.totals.steps, 1)


def _step_word(breakdown: Breakdown) -> str:
    return "a step" if breakdown.selection.per_step else "in all"


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
    if late < _OF_WALL * totals.wall_ns or not breakdown.launch.calls:
        return
    if plain and late - added < _OF_WALL * totals.wall_ns:
        return  # without the recorder it hardly waits
    per_step = _per_step(breakdown, late)
    calls = breakdown.launch.calls / max(totals.steps, 1)
    hosts = breakdown.tables["host_ranges"]
    worst = ", ".join(
        f"{_place(row)} {duration(_per_step(breakdown, row['host_bound_ns']))}"
        for row in hosts.take(range(min(2, len(hosts)))).rows()
    )
    yield Finding(
        "host_bound",
        per_step,
        f"the GPU waits for the host to launch{_recorders_part(breakdown, per_step)}",
        f"{percent(late, totals.wall_ns)} of wall, and {percent(latency, totals.wall_ns)} launch latency; "
        f"{calls:,.0f} launches {_step_word(breakdown)}; most in {worst}",
        "capture the rest of the step in CUDA graphs too"
        if any("GraphLaunch" in call for call in breakdown.tables["launches"]["call"])
        else "CUDA graphs, or a larger batch",
    )


def _synchronizations(breakdown: Breakdown) -> Iterator[Finding]:
    totals = breakdown.totals
    ns = max(totals.drained_ns, totals.idle_ns["synchronization"])
    if ns >= _OF_WALL * totals.wall_ns and ns:
        calls = totals.synchronizing_calls / max(totals.steps, 1)
        yield Finding(
            "synchronization",
            _per_step(breakdown, ns),
            "the host waits for the GPU, which then runs dry",
            f"{percent(ns, totals.wall_ns)} of wall idles from {calls:.1f} synchronizing calls {_step_word(breakdown)} on, "
            "until the host has launched again (part of the host-bound time"
            f"{', which the recorder lengthens' if added_waiting_ns(breakdown) else ''})",
            "no .item(), .cpu() or print(loss) in every step",
        )


def _copied(breakdown: Breakdown) -> int:
    """Sum of copies between host and device, in ns."""
    table = breakdown.tables["memory"]
    return sum(ns for name, ns in zip(table["name"], table["total_ns"].tolist(), strict=True) if name in _HOST_COPIES)


def _copies(breakdown: Breakdown) -> Iterator[Finding]:
    ns = _copied(breakdown)
    if ns >= _OF_BUSY * breakdown.totals.activity_ns and ns:
        table = breakdown.tables["memory"]
        rows = [row for row in table.rows() if row["name"] in _HOST_COPIES]
        moved = byte_count(_per_step(breakdown, sum(max(row["bytes"], 0) for row in rows)))
        yield Finding(
            "copies",
            _per_step(breakdown, ns),
            "copies between host and device",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity; {moved} {_step_word(breakdown)}",
            "pinned memory and non_blocking=True; offload less, or overlap it",
        )


def _communication(breakdown: Breakdown) -> Iterator[Finding]:
    wall, table = breakdown.totals.wall_ns, breakdown.tables["communication"]
    # Waiting for a late rank is a finding of its own; where ranks cannot be matched it is in here, and the line says so.
    known = len(table) > 0 and bool((table["waiting_ns"] >= 0).all())
    waited = int(table["waiting_ns"].sum()) if known else 0
    ns = max(breakdown.totals.exposed_communication_ns - waited, 0)
    if ns >= _OF_WALL * wall and ns:
        yield Finding(
            "exposed_communication",
            _per_step(breakdown, ns),
            "communication that nothing hides",
            f"{percent(ns, wall)} of wall runs communication alone"
            + ("" if known else ", waiting for other ranks included"),
            "larger buckets, overlap with backward, fewer bytes",
        )
    lanes = breakdown.tables["lanes"]
    waiting = lanes["waiting_ns"].clip(min=0)
    if len(lanes) < 2 or waiting.max(initial=0) < _OF_WALL * lanes["wall_ns"].max(initial=1):
        return
    longest, late = int(waiting.argmax()), int(waiting.argmin())
    yield Finding(
        "straggler",
        int(waiting[longest]) // max(int(lanes["steps"][longest]), 1),
        "ranks wait for the last one",
        f"{_who(breakdown, longest)} spends {percent(int(waiting[longest]), int(lanes['communication_ns'][longest]))} of its "
        f"communication until the last rank arrives, {_who(breakdown, late)} least",
        f"see what holds {_who(breakdown, late)} back: --process {lanes['pid'][late]}",
    )


def _amax_reductions(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["communication"]
    rows = [i for i, operation in enumerate(table["operation"]) if operation == "amax_reduce"]
    waited = int(table["waiting_ns"][rows].clip(min=0).sum())
    ns, count = int(table["total_ns"][rows].sum()) - waited, int(table["count"][rows].sum())
    if count:
        yield Finding(
            "amax_reduction",
            _per_step(breakdown, ns),
            "amax values are reduced across ranks",
            f"{count / max(breakdown.totals.steps, 1):.0f} all-reduces {_step_word(breakdown)} of a few bytes each, "
            f"and {duration(_per_step(breakdown, waited))} waiting in them for the last rank",
            "a smaller amax_reduction_group, or current scaling",
        )


def _quantization(breakdown: Breakdown) -> Iterator[Finding]:
    bounds, totals = breakdown.quantization_bounds, breakdown.totals
    best = bounds.estimate_ns if bounds.estimate_ns >= 0 else bounds.lower_ns
    if best >= _OF_BUSY * totals.busy_ns and best:
        low, high = (duration(_per_step(breakdown, ns)) for ns in (bounds.lower_ns, bounds.upper_ns))
        yield Finding(
            "quantization_gpu",
            _per_step(breakdown, best),
            "quantizing on the GPU",
            f"{low} to {high} {_step_word(breakdown)}, {percent(best, totals.activity_ns)} of GPU activity",
            "larger GEMMs repay it; fused modules quantize cheapest",
        )
    host = totals.quantization_host_ns
    if host >= _OF_WALL * totals.wall_ns and host:
        yield Finding(
            "quantization_host",
            _per_step(breakdown, host),
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
            _per_step(breakdown, wasted),
            "weights are cast more than once a step",
            f"up to {again:.1f} casts of a weight in each optimizer step",
            "pass is_first_microbatch; recompute casts again",
        )


def _outside_fp8(breakdown: Breakdown) -> Iterator[Finding]:
    covered = breakdown.fp8_coverage
    unfused = UNFUSED in breakdown.tables["attention"]["backend"]
    # Unfused attention multiplies matrices in BF16 whatever the recipe: that is its own finding. Its backward has no module.
    rows = [
        row
        for row in breakdown.tables["gemms"].rows()
        if not row["fp8"] and row["formats"] and not (unfused and _may_be_attention(row["module"]))
    ]
    outside = sum(row["total_ns"] for row in rows)
    if covered.fp8_ns and outside > _OF_BUSY * covered.gemm_ns:
        worst = ", ".join(dict.fromkeys(" ".join((row["module"], row["role"], row["formats"])) for row in rows[:3]))
        why = {row["module"]: row["status"] for row in fp8_coverage(breakdown).rows()}
        yield Finding(
            "outside_fp8",
            _per_step(breakdown, outside),
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
            _per_step(breakdown, ns),
            "norms leave the cast to their linears",
            f"{len(norms)} linears with {gemms} of GEMM time cast what a norm before them wrote, first {first['linear']} "
            f"after {first['norm']}",
            "LayerNormLinear and LayerNormMLP normalize and cast in one kernel",
        )


def _may_be_attention(module: str) -> bool:
    return module == UNATTRIBUTED_MODULE or module.rsplit("/", 1)[-1].startswith("DotProductAttention")


def _unfused_attention(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["attention"]
    rows = [i for i, backend in enumerate(table["backend"]) if backend == UNFUSED]
    ns = int(table["total_ns"][rows].sum())
    if rows:
        yield Finding(
            "unfused_attention",
            _per_step(breakdown, ns),
            "attention runs unfused",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity in its GEMMs and softmax",
            "NVTE_DEBUG=1 NVTE_DEBUG_LEVEL=2 says why",
        )


def _transposes(breakdown: Breakdown) -> Iterator[Finding]:
    ns = breakdown.quantization_bounds.transpose_ns
    if ns >= 0.01 * breakdown.totals.busy_ns and ns:
        yield Finding(
            "transposes",
            _per_step(breakdown, ns),
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
            _per_step(breakdown, ns),
            "delayed scales are updated many times a step",
            f"{per_step:.0f} updates a step, where forward and backward need one each: every autocast that ends updates all, "
            "also inside te.checkpoint",
            "open te.autocast once around the step",
        )


def _recompute(breakdown: Breakdown) -> Iterator[Finding]:
    table = breakdown.tables["phases"]
    ns = sum(t for phase, t in zip(table["phase"], table["total_ns"].tolist(), strict=True) if phase == "recompute")
    if ns >= _OF_BUSY * breakdown.totals.activity_ns and ns:
        yield Finding(
            "recompute",
            _per_step(breakdown, ns),
            "forward is computed again in backward",
            f"{percent(ns, breakdown.totals.activity_ns)} of GPU activity is recompute",
            "checkpoint fewer layers if memory allows",
        )


_LOOKS: tuple[Callable[[Breakdown], Iterator[Finding]], ...] = (
    _launches, _synchronizations, _copies, _communication, _amax_reductions, _quantization, _weight_casts, _outside_fp8,
    _unfused_norms, _unfused_attention, _transposes, _scale_updates, _recompute,
)  # fmt: skip
