"""What a run says first: what its step is bound by, in one sentence with its numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tetrace.breakdown.host_run import host_verdict
from tetrace.breakdown.module_times import STEP
from tetrace.breakdown.ranks import late_rank
from tetrace.breakdown.without_recorder import PlainStep, added_waiting_ns, plain_step, waiting_ns
from tetrace.trace.schema import GRAPH
from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

_LAUNCH_BOUND = 0.30
_GPU_BOUND = 0.85
_COPY_BOUND = 0.50
HOST_COPIES = ("memcpy HtoD", "memcpy DtoH")
_LENGTHS = (("mean", "mean"), ("95% within", "p95"), ("longest", "max"))


def verdict(breakdown: Breakdown) -> str:
    """One sentence with its numbers: what the step is bound by."""
    totals = breakdown.totals
    if not totals.activities:
        if breakdown.attribution.trace.has("module_times"):
            return _sampled_steps(breakdown.tables["module_times"])
        return host_verdict(breakdown)
    return late_rank(breakdown) or f"{_bound_by(breakdown)}{_caveat(breakdown)}."


def _bound_by(breakdown: Breakdown) -> str:
    """What the step is bound by, by the step without the recorder where that is known."""
    totals, plain = breakdown.totals, plain_step(breakdown)
    busy = totals.per_step(totals.busy_ns)
    wall = plain.plain_ns if plain else totals.per_step(totals.wall_ns)
    if not wall:
        return "What binds it cannot be told: the chosen time has no length"
    works = f"the GPU works {duration(busy)} of {_span(breakdown)}"
    idles = f"and idles {percent(max(wall - busy, 0), wall)}"
    if not breakdown.attribution.trace.has("calls"):
        return f"{works[0].upper()}{works[1:]} {idles}; API calls were not captured, so why it idles cannot be told"
    late = waiting_ns(breakdown) - (added_waiting_ns(breakdown) if plain else 0)
    if late >= _LAUNCH_BOUND * wall and busy < _GPU_BOUND * wall:
        late_ns = totals.per_step(totals.idle_ns["host_bound"])
        if plain:
            return f"Launch-bound: {works} {idles} of it, because the host launches late"
        return f"Launch-bound: {works} {idles}, {duration(late_ns)} of it because the host had not launched yet"
    if plain and busy > wall:
        # Tracing the nodes of CUDA graphs makes the GPU's own work longer too.
        recorded = duration(totals.per_step(totals.wall_ns))
        works = f"a step takes {duration(wall)} without the recorder, less than the {duration(busy)} that the GPU works"
        idles = f"in the {recorded} with it"
    # No more than the step idles without the recorder.
    waits = min(totals.per_step(totals.idle_ns["synchronization"]), max(wall - busy, 0))
    if waits >= _LAUNCH_BOUND * wall:
        return f"Synchronization-bound: {works} {idles}, {percent(waits, wall)} while the host waits for it"
    exposed = totals.per_step(totals.exposed_communication_ns)
    if exposed >= _LAUNCH_BOUND * wall:
        return f"Communication-bound: {works}, {duration(exposed)} of them on communication that nothing hides"
    copied = copied_ns(breakdown)
    if copied >= _COPY_BOUND * totals.busy_ns:
        return f"Copy-bound: {works}, {percent(copied, totals.activity_ns)} of it copies between host and device"
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
    wall = duration(totals.per_step(totals.wall_ns))
    plain = plain_step(breakdown)
    if plain:
        return f"a step that takes {_without_and_with(plain, wall)}"
    marked_by = {breakdown.attribution.steps.source[step] for step in breakdown.selection.frames.step.tolist()}
    return f"{'a window' if marked_by == {'none'} else 'a step'} of {wall}"


def _without_and_with(plain: PlainStep, wall: str) -> str:
    return f"{duration(plain.plain_ns)} without the recorder ({wall} with it)"


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


def copied_ns(breakdown: Breakdown) -> int:
    """Sum of copies between host and device, in ns."""
    table = breakdown.tables["memory"]
    return sum(ns for name, ns in zip(table["name"], table["total_ns"].tolist(), strict=True) if name in HOST_COPIES)
