"""What the host did, by step and by module, as tetrace's instrumentation recorded it; and which steps are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.distinct import distinct
from tetrace.attribute.vocabulary import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.breakdown.selection import STEADY, Selection, host_steps
from tetrace.breakdown.tables import HOST_MODULES, HOST_STEPS, Table, no_rows

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.attribute.attribution import Attribution

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

# The engine's own time in backward, between the nodes of modules, on its threads too.
ENGINE = "(autograd)"
_STEP_BITS = 40
# The first step of a process imports, allocates and compiles, also where no warm-up was declared.
_FIRST_STEADY = 1


def _key(process: Codes, step: Times) -> Times:
    return (process.astype(np.int64) << _STEP_BITS) | step


def counted_steps(attribution: Attribution, selection: Selection) -> Times:
    """Rows of the steps that are counted; without activities, of all but the declared warm-up and the last, open one.
    Where those are all, the ones after step 0, which imports and allocates; where that is all, it."""
    steps, windows = attribution.steps, selection.windows
    if attribution.trace.rows("activities"):
        return np.unique(windows.step[selection.used]) if selection.per_step else np.arange(len(steps))
    asked = host_steps(attribution, selection)
    if selection.asked != STEADY:
        return np.flatnonzero(asked)
    first = int(attribution.trace.metadata.facts.get("options", {}).get("warmup") or _FIRST_STEADY)
    last = np.append(np.diff(steps.process) != 0, True) if len(steps) else np.zeros(0, np.bool_)
    # Outside the recorded window only steps are kept, and what they do is not known.
    host = attribution.host
    held = np.flatnonzero(host.is_kind("module")) if len(host) else np.empty(0, np.int64)
    if len(held):
        last |= ~np.isin(
            _key(steps.process, steps.number), _key(host.process[held], np.maximum(host.sequence[held], 0))
        )
    of_less_and_less = (
        (steps.number >= first) & ~last,
        (steps.number >= _FIRST_STEADY) & ~last,
        ~last,
        np.ones(len(steps), np.bool_),
    )
    return next((np.flatnonzero(asked & one) for one in of_less_and_less if (asked & one).any()), np.arange(0))


def _used_steps(scope: Scope) -> Times:
    """Keys of the steps that are counted."""
    steps, rows = scope.attribution.steps, counted_steps(scope.attribution, scope.selection)
    return _key(steps.process[rows], steps.number[rows])


def in_used_steps(scope: Scope) -> Mask:
    """Which host ranges with a site are of steps that are counted, shape (ranges,)."""
    host = scope.attribution.host
    return (host.site >= 0) & np.isin(_key(host.process, np.maximum(host.sequence, 0)), _used_steps(scope))


def host_steps_table(scope: Scope) -> Table:
    """Each step as the host's clock has it, and its phases."""
    host, phase = scope.attribution.host, scope.attribution.range_phase
    steps = np.flatnonzero(host.is_kind("step")) if len(host) else np.empty(0, np.int64)
    if not len(steps):
        return no_rows(HOST_STEPS)
    steps = steps[np.lexsort((host.start[steps], host.process[steps]))]
    keys = _key(host.process[steps], host.sequence[steps])
    outer = np.flatnonzero((host.site >= 0) & (phase >= 0) & ~_inside_phase(scope))
    place = np.searchsorted(keys, _key(host.process[outer], np.maximum(host.sequence[outer], 0)))
    known = (place < len(keys)) & (
        keys[np.minimum(place, len(keys) - 1)] == _key(host.process[outer], host.sequence[outer])
    )
    length = host.end - host.start

    def summed(*phases: int) -> Times:
        rows = known & np.isin(phase[outer], phases)
        total = np.zeros(len(steps), np.int64)
        np.add.at(total, place[rows], length[outer[rows]])
        return total

    calls = known & host.is_kind("backward")[outer]
    # Outside the recorded window only steps are kept: what they hold was not captured, which is not 0.
    seen = _between_captured(host.process[steps], np.bincount(place[known], minlength=len(steps)) > 0)

    def where_seen(values: Times) -> Times:
        return np.where(seen, values, -1)

    return Table(
        HOST_STEPS,
        {
            "process": host.process[steps].astype(np.int64),
            "step": host.sequence[steps],
            "used": np.isin(keys, _used_steps(scope)).astype(np.int64),
            "wall_ns": length[steps],
            "forward_ns": where_seen(summed(FORWARD, RECOMPUTE)),
            "backward_ns": where_seen(summed(BACKWARD)),
            "optimizer_ns": where_seen(summed(OPTIMIZER)),
            "backwards": where_seen(np.bincount(place[calls], minlength=len(steps)).astype(np.int64)),
        },
    )


def _between_captured(process: Codes, holds: Mask) -> Mask:
    """Which steps are in their process's recorded window: from its first step that holds anything to its last."""
    seen = np.zeros(len(process), np.bool_)
    for one in np.unique(process):
        rows = np.flatnonzero(process == one)
        held = np.flatnonzero(holds[rows])
        if len(held):
            seen[rows[held[0] : held[-1] + 1]] = True
    return seen


def _inside_phase(scope: Scope) -> Mask:
    """Ranges inside another range whose phase is known, and ranges of threads that only serve another's backward."""
    host, phase = scope.attribution.host, scope.attribution.range_phase
    around = np.where(host.parent >= 0, phase[np.maximum(host.parent, 0)], -1)
    return (around >= 0) | scope.attribution.phases.autograd[host.thread]


def host_modules_table(scope: Scope, in_steps: Mask) -> Table:
    """Host time by module and phase, of the ranges `in_steps`."""
    attribution = scope.attribution
    host, module, phase = attribution.host, attribution.range_module, attribution.range_phase
    rows = np.flatnonzero(in_steps & ~host.is_kind("step", "capture")) if len(host) else np.empty(0, np.int64)
    if not len(rows):
        return no_rows(HOST_MODULES)
    length = host.end - host.start
    inside = np.zeros(len(host), np.int64)
    np.add.at(inside, host.parent[rows][host.parent[rows] >= 0], length[rows][host.parent[rows] >= 0])
    engine = rows[host.is_kind("backward")[rows]]
    inside[engine] = _inside_of_engine(attribution, rows, engine)
    own_code = host.say("phase")
    own = np.array([bool(m.path) and m.kind in ("module", "loss", "optimizer", "compiled", "zero_grad", "grad_clip")
                    for m in host.meanings], np.bool_)[host.word]  # fmt: skip
    own &= own_code >= 0
    # A wrapper (DDP, a compiled module) has the name of what it wraps: one call, not two.
    outer = np.maximum(host.parent, 0)
    own &= ~((host.parent >= 0) & own[outer] & (module[outer] == module) & (phase[outer] == phase))
    (modules, phases), which = distinct(module[rows], phase[rows])
    sums = np.zeros((3, len(modules)), np.int64)
    np.add.at(sums[0], which, own[rows])
    np.add.at(sums[1], which, np.where(own[rows], length[rows], 0))
    np.add.at(sums[2], which, np.maximum(length[rows] - inside[rows], 0))
    known = np.flatnonzero((modules >= 0) | (sums[2] > 0))
    table = Table(
        HOST_MODULES,
        {
            "module": [
                ENGINE if code < 0 and phase == BACKWARD else word
                for word, code, phase in zip(
                    scope.module_words(modules[known]), modules[known].tolist(), phases[known].tolist(), strict=True
                )
            ],
            "phase": phase_words(phases[known]),
            "calls": sums[0][known],
            "total_ns": np.maximum(sums[1], sums[2])[known],  # what has no range of its own has nothing inside
            "self_ns": sums[2][known],
        },
    )
    return table.sorted_by("self_ns")


def _inside_of_engine(attribution: Attribution, rows: Times, engine: Times) -> Times:
    """Of each of `engine`, calls of backward, the ns in which ranges are open in it, or on autograd's own threads while it
    waits for them; shape (engine,)."""
    from tetrace import _C

    host = attribution.host
    parent, is_own = host.parent[rows], attribution.phases.autograd[host.thread[rows]]
    seen = rows[np.isin(parent, engine) | ((parent < 0) & is_own)]
    seen = seen[~np.isin(seen, engine)]
    return _C.covered(
        host.process[seen], host.start[seen], host.end[seen], host.process[engine], host.start[engine], host.end[engine]
    )
