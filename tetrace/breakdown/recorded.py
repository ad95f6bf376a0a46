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
from tetrace.breakdown.host_tables import host_modules_table, host_steps_table, in_used_steps
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.breakdown.tables import (
    ATTENTION_BACKENDS,
    MEMORY_PEAKS,
    MODULE_MEMORY,
    RECORDED_CALLS,
    Declaration,
    Table,
    no_rows,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.trace.trace import Trace

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

NOT_RECORDED = "(not recorded)"
_ATTENTION = "DotProductAttention"
_CALL_KINDS = ("quantize", "scale_update", "gemm")


def recorded_tables(scope: Scope) -> list[Table]:
    """All tables of this file."""
    host = scope.attribution.host
    in_steps = in_used_steps(scope) if len(host) else np.empty(0, np.bool_)
    return [
        host_steps_table(scope),
        host_modules_table(scope, in_steps),
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


def _recorded_calls(scope: Scope, in_steps: Mask) -> Table:
    attribution = scope.attribution
    host = attribution.host
    if not len(host) or not host.is_kind(*_CALL_KINDS).any():
        return no_rows(RECORDED_CALLS)
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
        return no_rows(ATTENTION_BACKENDS)
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
        return no_rows(declaration)
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
