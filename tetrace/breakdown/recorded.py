"""What tetrace's instrumentation recorded beside the GPU: host time by step and module, calls, attention, memory.

These tables are empty where no process was instrumented.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute.distinct import distinct
from tetrace.attribute.link import is_graph_launch
from tetrace.attribute.vocabulary import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.breakdown.selection import STEADY, host_steps
from tetrace.breakdown.tables import (
    ATTENTION_BACKENDS,
    HOST_MODULES,
    HOST_STEPS,
    MEMORY_PEAKS,
    MODULE_MEMORY,
    RECORDED_CALLS,
    Declaration,
    Table,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.attribute.attribution import Attribution
    from tetrace.trace.trace import Trace

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

NOT_RECORDED = "(not recorded)"
# The engine's own time in backward: between the nodes of modules, and waiting for its threads.
ENGINE = "(autograd)"
_ATTENTION = "DotProductAttention"
_CALL_KINDS = ("quantize", "scale_update", "gemm")
_STEP_BITS = 40
# The first step of a process imports, allocates and compiles, also where no warm-up was declared.
_FIRST_STEADY = 1


def recorded_tables(scope: Scope) -> list[Table]:
    """All tables of this file."""
    host = scope.attribution.host
    in_steps = in_used_steps(scope) if len(host) else np.empty(0, np.bool_)
    return [
        _host_steps(scope),
        _host_modules(scope, in_steps),
        _recorded_calls(scope, in_steps),
        _attention_backends(scope),
        _as_captured(scope, MODULE_MEMORY),
        _as_captured(scope, MEMORY_PEAKS),
    ]


@dataclass(frozen=True)
class GemmRate:
    """What recorded GEMMs do: floating-point operations and GPU time, and the time that they would take at the peak
    that `tetrace doctor --calibrate` measured on this GPU for their formats; -1 where there is no such peak."""

    operations: int
    total_ns: int
    at_peak_ns: int

    @property
    def flops(self) -> float:
        """Operations a second."""
        return self.operations / self.total_ns * 1e9


def gemm_rate(calls: Table, calibration: Mapping[str, Any]) -> GemmRate | None:
    """The rate of the GEMMs in `recorded_calls`; None where none was recorded with its shape and ran."""
    operations = total = 0
    at_peak = 0.0
    for row in calls.rows():
        sizes = [int(size) for size in row["shape"].split("x")] if row["kind"] == "gemm" and row["shape"] else []
        if len(sizes) != 3 or not row["total_ns"]:
            continue
        work = 2 * math.prod(sizes) * row["count"]
        peak = calibration.get(_peak_of(row["format"], row["role"])) or 0
        at_peak = at_peak + work / peak * 1e9 if peak and at_peak >= 0 else -1
        operations, total = operations + work, total + row["total_ns"]
    return GemmRate(operations, total, round(at_peak)) if total else None


def _peak_of(formats: str, role: str) -> str:
    """The calibrated peak of a GEMM: of FP8, gradients sum with split accumulation (TE's default)."""
    if set(formats.split("×")) <= {"E4M3", "E5M2"}:
        return "fp8_flops" if role == "fprop" else "fp8_split_flops"
    return "bf16_flops" if formats == "bfloat16" else ""


def recorded_classes(trace: Trace) -> dict[str, str]:
    """Classes of modules by path, where tetrace's instrumentation recorded them."""
    columns = [
        (trace.words("sites", name), trace.column("sites", name).tolist()) for name in ("kind", "module", "class")
    ]
    rows = zip(*([words[code] for code in codes] for words, codes in columns), strict=True)
    return {module: name for kind, module, name in rows if kind == "module"}


def in_attention(module: str, classes: Mapping[str, str]) -> bool:
    """Whether a module is TE's DotProductAttention or lies in one: by its class and those around it (`classes`, by path),
    by its name where only TE's own ranges name it."""
    outer = itertools.accumulate(module.split("."), "{}.{}".format)
    return module.rsplit("/", 1)[-1].startswith(_ATTENTION) or any(classes.get(path) == _ATTENTION for path in outer)


def refusals(backends: Table) -> dict[str, str]:
    """The first reason for each attention backend that Transformer Engine refused, by the rows of `attention_backends`."""
    reasons: dict[str, str] = {}
    for refused in backends["refused"]:
        for one in refused.split("; "):
            backend, _, reason = one.partition(": ")
            if reason:
                reasons.setdefault(backend, reason)
    return reasons


def _key(process: Codes, step: Times) -> Times:
    return (process.astype(np.int64) << _STEP_BITS) | step


def _used_steps(scope: Scope) -> Times:
    """Keys of the steps that are counted; without activities, of all but the declared warm-up and the last, open one.
    Where those are all, the ones after step 0, which imports and allocates; where that is all, it."""
    steps, windows = scope.attribution.steps, scope.selection.windows
    if scope.trace.rows("activities"):
        rows = np.unique(windows.step[scope.selection.used]) if scope.selection.per_step else np.arange(len(steps))
    elif scope.selection.asked != STEADY:
        rows = np.flatnonzero(host_steps(scope.attribution, scope.selection))
    else:
        asked = host_steps(scope.attribution, scope.selection)
        first = int(scope.trace.metadata.facts.get("options", {}).get("warmup") or _FIRST_STEADY)
        last = np.append(np.diff(steps.process) != 0, True) if len(steps) else np.zeros(0, np.bool_)
        # Outside the recorded window only steps are kept, and what they do is not known.
        host = scope.attribution.host
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
        rows = next((np.flatnonzero(asked & one) for one in of_less_and_less if (asked & one).any()), np.arange(0))
    return _key(steps.process[rows], steps.number[rows])


def in_used_steps(scope: Scope) -> Mask:
    """Which host ranges with a site are of steps that are counted, shape (ranges,)."""
    host = scope.attribution.host
    return (host.site >= 0) & np.isin(_key(host.process, np.maximum(host.sequence, 0)), _used_steps(scope))


def _host_steps(scope: Scope) -> Table:
    host, phase = scope.attribution.host, scope.attribution.range_phase
    steps = np.flatnonzero(host.is_kind("step")) if len(host) else np.empty(0, np.int64)
    if not len(steps):
        return _no_rows(HOST_STEPS)
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


def _host_modules(scope: Scope, in_steps: Mask) -> Table:
    attribution = scope.attribution
    host, module, phase = attribution.host, attribution.range_module, attribution.range_phase
    rows = np.flatnonzero(in_steps & ~host.is_kind("step", "capture")) if len(host) else np.empty(0, np.int64)
    if not len(rows):
        return _no_rows(HOST_MODULES)
    length = host.end - host.start
    inside = np.zeros(len(host), np.int64)
    np.add.at(inside, host.parent[rows][host.parent[rows] >= 0], length[rows][host.parent[rows] >= 0])
    engine = rows[(module[rows] < 0) & (phase[rows] == BACKWARD)]
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


def _recorded_calls(scope: Scope, in_steps: Mask) -> Table:
    attribution = scope.attribution
    host = attribution.host
    if not len(host) or not host.is_kind(*_CALL_KINDS).any():
        return _no_rows(RECORDED_CALLS)
    outer = outermost_calls(scope)
    links = attribution.links
    of_activity = np.where(links.range >= 0, outer[np.maximum(links.range, 0)], -1)[scope.rows]
    of_activity[scope.in_category("inspection")] = -1
    replay = np.where(is_graph_launch(scope.trace, links), links.call, -1)[scope.rows]
    launching = np.flatnonzero(of_activity >= 0)
    # A call that a graph replays is counted once a replay; an eager one by its range, with kernels or without.
    replayed = launching[replay[launching] >= 0]
    (replayed_range, _), _ = distinct(of_activity[replayed].astype(np.int32), replay[replayed].astype(np.int32))
    eager = np.flatnonzero(in_steps & (outer == np.arange(len(host))))
    of_call = np.concatenate([eager, replayed_range]).astype(np.int64)
    counted, at = distinct(host.site[of_call], attribution.range_phase[of_call], attribution.range_module[of_call])
    codes = [column.tolist() for column in counted]
    place = {key: i for i, key in enumerate(zip(*codes, strict=True))}
    sums = np.zeros((2, len(place)), np.int64)
    keys = zip(
        host.site[of_activity[launching]].tolist(),
        attribution.range_phase[of_activity[launching]].tolist(),
        attribution.range_module[of_activity[launching]].tolist(),
        strict=True,
    )
    where = np.array([place.get(key, -1) for key in keys], np.int64)
    np.add.at(sums[0], where[where >= 0], 1)
    np.add.at(sums[1], where[where >= 0], scope.duration[launching[where >= 0]])
    rows = _rows_of_sites(scope, counted[0], counted[1], counted[2])
    columns = {
        **rows,
        "count": np.bincount(at, minlength=len(place)).astype(np.int64),
        "activities": sums[0],
        "total_ns": sums[1],
    }
    return _with_unrecorded(scope, Table(RECORDED_CALLS, columns), of_activity).sorted_by("total_ns")


def outermost_calls(scope: Scope) -> Codes:
    """The range of the recorded call that each host range belongs to, -1 none: the outermost of calls inside calls."""
    host = scope.attribution.host
    is_call = host.is_kind(*_CALL_KINDS)
    nearest = host.inherit(np.where(is_call, np.arange(len(host), dtype=np.int32), -1))
    while True:
        around = np.where(nearest >= 0, host.parent[np.maximum(nearest, 0)], -1)
        outer = np.where(around >= 0, nearest[np.maximum(around, 0)], -1)
        if (outer < 0).all():
            return nearest
        nearest = np.where(outer >= 0, outer, nearest).astype(np.int32)


def _rows_of_sites(scope: Scope, site: Times, phase: Times, module: Times) -> dict[str, list[str]]:
    import json

    def said(name: str) -> list[str]:
        words, codes = scope.trace.words("sites", name), scope.trace.column("sites", name)
        return [words[code] for code in codes[site].tolist()]

    details = [json.loads(text) if text else {} for text in said("detail")]
    kinds = said("kind")
    return {
        "kind": kinds,
        "module": scope.module_words(module),
        "phase": phase_words(phase),
        "role": said("role"),
        "call": [str(detail.get("call", kind)) for detail, kind in zip(details, kinds, strict=True)],
        "format": said("format"),
        "shape": said("shape"),
        "dtype": said("dtype"),
    }


def _with_unrecorded(scope: Scope, table: Table, of_activity: Codes) -> Table:
    """`table` and a row for each module and phase whose quantization or GEMM kernels no recorded call launched."""
    quantizes = scope.in_category("quantization") | scope.fused
    gemm = scope.in_category("gemm")
    kind = np.where(quantizes, 0, np.where(gemm, 1, -1)).astype(np.int32)
    rows = np.flatnonzero((kind >= 0) & (of_activity < 0))
    if not len(rows):
        return table
    (kinds, modules, phases), which = distinct(kind[rows], scope.module[rows], scope.phase[rows])
    total = np.zeros(len(kinds), np.int64)
    np.add.at(total, which, scope.duration[rows])
    empty = [""] * len(kinds)
    more: dict[str, list[str]] = {
        "kind": [("quantize", "gemm")[code] for code in kinds.tolist()],
        "module": scope.module_words(modules),
        "phase": phase_words(phases),
        "role": empty,
        "call": [NOT_RECORDED] * len(kinds),
        "format": empty,
        "shape": empty,
        "dtype": empty,
    }
    numbers = {
        "count": np.zeros(len(kinds), np.int64),
        "activities": np.bincount(which, minlength=len(kinds)).astype(np.int64),
        "total_ns": total,
    }
    words = {name: [*table[name], *more[name]] for name in more}
    return Table(RECORDED_CALLS, {**words, **{n: np.concatenate([table[n], numbers[n]]) for n in numbers}})


def _attention_backends(scope: Scope) -> Table:
    """As selected, beside what the kernels say."""
    from tetrace.breakdown.compute import attention_table

    if not scope.trace.rows("attention_backends"):
        return _no_rows(ATTENTION_BACKENDS)
    by_module: dict[str, list[str]] = {}
    kernels = attention_table(scope)
    for module, backend in zip(kernels["module"], kernels["backend"], strict=True):
        by_module.setdefault(module, []).append(backend)
    columns = _columns(scope, "attention_backends", [c.name for c in ATTENTION_BACKENDS.columns if c.name != "kernels"])
    names = list(by_module)
    columns["kernels"] = [
        ", ".join(dict.fromkeys(b for name in names if _within(name, module) for b in by_module[name]))
        for module in columns["module"]
    ]
    return Table(ATTENTION_BACKENDS, {c.name: columns[c.name] for c in ATTENTION_BACKENDS.columns})


def _within(module: str, outer: str) -> bool:
    return module == outer or module.startswith(f"{outer}.")


def _as_captured(scope: Scope, declaration: Declaration) -> Table:
    if not scope.trace.rows(declaration.name):
        return _no_rows(declaration)
    return Table(declaration, _columns(scope, declaration.name, [column.name for column in declaration.columns]))


def _columns(scope: Scope, table: str, names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        codes, words = scope.trace.column(table, name), scope.trace.words(table, name) if _is_text(table, name) else []
        found[name] = [words[code] for code in codes.tolist()] if words else codes.astype(np.int64)
    return found


def _is_text(table: str, name: str) -> bool:
    from tetrace.trace.schema import BY_NAME

    return BY_NAME[table].column(name).dtype == "text"


def _no_rows(declaration: Declaration) -> Table:
    return Table(declaration, {c.name: np.empty(0, np.int64) if c.unit else [] for c in declaration.columns})
