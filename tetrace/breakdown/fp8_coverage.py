"""Is it FP8 at all: modules whose GEMMs ran in another format, why, and norms that leave a cast of their own behind.

Whether an autocast was open around a module's forward is known where tetrace's instrumentation recorded it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute.vocabulary import FORWARD
from tetrace.breakdown.compute import UNFUSED
from tetrace.breakdown.host_tables import in_used_steps
from tetrace.breakdown.recorded import NOT_RECORDED, recorded_classes
from tetrace.breakdown.scope import Scope
from tetrace.breakdown.tables import Column, Declaration, Table

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.analysis import Breakdown
    from tetrace.trace.trace import Trace

    Codes = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

IN_FP8, PARTLY, UNDER, OFF, OUTSIDE, NOT_TE, ATTENTION, UNKNOWN_FORMAT, UNEXPLAINED = (
    "FP8",
    "partly FP8",
    "not FP8 under autocast",
    "autocast is off",
    "outside autocast",
    "no TE module",
    "attention not FP8",
    "format unknown",
    "not FP8",
)
# What brings GEMMs into FP8, by why they are not.
ADVICE = {
    # No recording tells a product with a weight from one of two activations.
    NOT_TE: "TE modules under te.autocast; attention by hand: te.DotProductAttention",
    OUTSIDE: "open te.autocast around them too",
    OFF: "open te.autocast with enabled=True around them",
    UNDER: "see backward_override and calibrating of the recipe, and what the module itself switches off",
    PARTLY: "a backward_override of the recipe runs gradients in high precision",
    ATTENTION: "fp8_dpa of the recipe multiplies in FP8 where the fused backend runs",
}
_NORMS = ("LayerNorm", "RMSNorm")
_LINEARS = ("Linear",)
_ON, _DISABLED, _NONE = "on", "off", "none"

FP8_COVERAGE = Declaration(
    "fp8_coverage",
    "One row a module that ran GEMMs: how much of their time was FP8, and why the rest was not.",
    (
        Column("module", "", "Path of the module, or unattributed."),
        Column("class", "", "Its class, where tetrace's instrumentation recorded it."),
        Column("autocast", "", "Around its forward: on, off (enabled=False), none, both joined by a comma; empty: not recorded."),
        Column("status", "", "FP8, partly FP8, or why it was not."),
        Column("outside", "", "GEMMs outside FP8, by role and formats."),
        Column("gemm_ns", "ns", "Duration of its GEMMs, summed over activities."),
        Column("fp8_ns", "ns", "Part of it in which both operands were FP8."),
        Column("unknown_ns", "ns", "Part of it whose kernels do not tell their format."),
    ),
)  # fmt: skip
FP8_NORMS = Declaration(
    "fp8_norms",
    "One row a norm whose result a module of its own casts: LayerNormLinear does both in one kernel.",
    (
        Column("norm", "", "Path of the norm."),
        Column("class", "", "Class of the norm."),
        Column("linear", "", "Path of the linear that runs next, in FP8."),
        Column("norm_ns", "ns", "Duration of the norm's own activities."),
        Column("cast_ns", "ns", "Duration of the casts of the linear's input; 0 where they were not recorded."),
        Column("gemm_ns", "ns", "Duration of the linear's GEMMs."),
    ),
)


@dataclass
class _Gemms:
    """GEMM time of one module in the making."""

    total: int = 0
    fp8: int = 0
    unknown: int = 0
    outside: dict[str, None] = field(default_factory=dict)


def fp8_coverage(breakdown: Breakdown) -> Table:
    """GEMM time by module and format, the longest outside FP8 first."""
    gemms = _gemms(breakdown)
    classes, autocast = recorded_classes(breakdown.attribution.trace), _autocast(breakdown)
    calls = _calls(breakdown)
    unfused = _unfused_modules(breakdown)
    columns: dict[str, list[Any]] = {column.name: [] for column in FP8_COVERAGE.columns}
    for module, times in gemms.items():
        around = ", ".join(sorted(autocast.get(module, ())))
        words = (module, classes.get(module, ""), around, _status(times, around, calls.get(module), module in unfused))
        for name, value in zip(
            columns, (*words, ", ".join(times.outside), times.total, times.fp8, times.unknown), strict=True
        ):
            columns[name].append(value)
    numbers = {c.name: np.array(columns[c.name], np.int64) for c in FP8_COVERAGE.columns if c.unit}
    table = Table(FP8_COVERAGE, {**columns, **numbers})
    outside = table["gemm_ns"] - table["fp8_ns"] - table["unknown_ns"]
    return table.take(np.lexsort((-table["gemm_ns"], -outside)))


def _gemms(breakdown: Breakdown) -> dict[str, _Gemms]:
    found: dict[str, _Gemms] = {}
    for row in breakdown.tables["gemms"].rows():
        own = found.setdefault(row["module"], _Gemms())
        own.total += row["total_ns"]
        if row["fp8"]:
            own.fp8 += row["total_ns"]
        elif not row["formats"]:
            own.unknown += row["total_ns"]
        else:
            own.outside[" ".join(word for word in (row["role"], row["formats"]) if word)] = None
    return found


def _status(gemms: _Gemms, autocast: str, by_te: Mapping[bool, int] | None, unfused: bool) -> str:
    """Why a module's GEMMs were not FP8. `by_te`: calls of Transformer Engine's GEMM and others, None not recorded."""
    if gemms.fp8 + gemms.unknown == gemms.total:
        return IN_FP8 if gemms.fp8 else UNKNOWN_FORMAT
    if gemms.fp8:
        return PARTLY
    if unfused:
        return ATTENTION
    if by_te is not None and not by_te.get(True):
        return NOT_TE
    if by_te is None or not autocast:
        return UNEXPLAINED
    return {_ON: UNDER, _DISABLED: OFF, _NONE: OUTSIDE}.get(autocast, UNDER)


def _calls(breakdown: Breakdown) -> dict[str, dict[bool, int]]:
    """By module, activities of GEMMs that Transformer Engine's calls launched (True) and of others; empty where calls were
    not recorded at all."""
    rows = [row for row in breakdown.tables["recorded_calls"].rows() if row["kind"] == "gemm"]
    host = breakdown.attribution.host
    # A run whose instrumentation saw modules and not one GEMM of Transformer Engine has none.
    if not len(host) or not host.is_kind("module").any():
        return {}
    found: dict[str, dict[bool, int]] = {module: {} for module in breakdown.tables["gemms"]["module"]}
    for row in rows:
        own, key = found.setdefault(row["module"], {}), row["call"] != NOT_RECORDED
        own[key] = own.get(key, 0) + max(row["activities"], row["count"])
    return found


def _unfused_modules(breakdown: Breakdown) -> set[str]:
    table = breakdown.tables["attention"]
    return {module for module, backend in zip(table["module"], table["backend"], strict=True) if backend == UNFUSED}


def _autocast(breakdown: Breakdown) -> dict[str, set[str]]:
    """By module, what was around its forwards in the steps that are counted: on, off or none. A module that ran in none of
    them (a graph replays it) counts in all steps. Empty where autocasts are not recorded."""
    attribution = breakdown.attribution
    host = attribution.host
    if not len(host) or not host.is_kind("module").any():
        return {}
    rows = np.flatnonzero(_forwards(breakdown) & (attribution.range_module >= 0))
    around = host.inherit(np.where(host.is_kind("autocast"), np.arange(len(host), dtype=np.int32), -1))[rows]
    counted = in_used_steps(Scope(attribution, breakdown.selection))[rows]
    words = _autocast_words(attribution.trace)
    seen = np.stack([counted, attribution.range_module[rows], np.where(around >= 0, host.site[around], -1)])
    found: dict[bool, dict[str, set[str]]] = {False: {}, True: {}}
    for is_counted, module, site in np.unique(seen, axis=1).T.tolist():
        by_module = found[bool(is_counted)]
        by_module.setdefault(attribution.module_names[module], set()).add(words.get(site, _NONE))
    return {**found[False], **found[True]}


def _forwards(breakdown: Breakdown) -> Mask:
    """Ranges of modules' own forwards."""
    host = breakdown.attribution.host
    return host.is_kind("module") & (breakdown.attribution.range_phase == FORWARD)


def _autocast_words(trace: Trace) -> dict[int, str]:
    kinds, details = trace.words("sites", "kind"), trace.words("sites", "detail")
    codes = zip(trace.column("sites", "kind").tolist(), trace.column("sites", "detail").tolist(), strict=True)
    return {
        site: _ON if json.loads(details[detail] or "{}").get("enabled") else _DISABLED
        for site, (kind, detail) in enumerate(codes)
        if kinds[kind] == "autocast"
    }


def fp8_norms(breakdown: Breakdown) -> Table:
    """Norms that a linear in FP8 follows as the next module to run: its input is cast by a kernel of its own."""
    gemms, activity = _gemms(breakdown), _activity(breakdown)
    classes, casts = recorded_classes(breakdown.attribution.trace), _casts(breakdown)
    rows = [
        (norm, classes[norm], linear, activity.get(norm, 0), casts.get(linear, 0), gemms[linear].total)
        for norm, linear in dict(_followers(breakdown, classes)).items()
        if linear in gemms and gemms[linear].fp8
    ]
    columns: dict[str, Any] = {
        column.name: [row[place] for row in rows] for place, column in enumerate(FP8_NORMS.columns)
    }
    numbers = {c.name: np.array(columns[c.name], np.int64) for c in FP8_NORMS.columns if c.unit}
    return Table(FP8_NORMS, {**columns, **numbers}).sorted_by("gemm_ns")


def _activity(breakdown: Breakdown) -> dict[str, int]:
    table = breakdown.tables["modules"]
    return dict(zip(table["module"], table["total_ns"].tolist(), strict=True))


def _casts(breakdown: Breakdown) -> dict[str, int]:
    """Duration of casts of a module's input that no other kernel does, by module."""
    found: dict[str, int] = {}
    for row in breakdown.tables["recorded_calls"].rows():
        if row["kind"] == "quantize" and row["role"] == "input" and "quantize" in row["call"]:
            found[row["module"]] = found.get(row["module"], 0) + row["total_ns"]
    return found


def _followers(breakdown: Breakdown, classes: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(norm, linear): the norm's first forward, and the linear that is the next module without others inside it."""
    attribution = breakdown.attribution
    host, names = attribution.host, attribution.module_names
    if not len(host) or not classes:
        return
    rows = np.flatnonzero(_forwards(breakdown) & (attribution.range_module >= 0))
    # Host ranges are sorted by thread and start.
    modules = attribution.range_module[rows]
    inside = host.inherit(np.where(np.isin(np.arange(len(host)), rows), np.arange(len(host), dtype=np.int32), -1))
    holds = {int(inside[parent]) for parent in host.parent[rows].tolist() if parent >= 0}
    for module in np.unique(modules).tolist():
        if classes.get(names[module]) not in _NORMS:
            continue
        place = int(np.flatnonzero(modules == module)[0])
        norm, after = rows[place], place + 1
        while after < len(rows) and (host.start[rows[after]] < host.end[norm] or int(rows[after]) in holds):
            after += 1
        if after < len(rows) and host.thread[rows[after]] == host.thread[norm]:
            linear = names[modules[after]]
            if classes.get(linear) in _LINEARS:
                yield names[module], linear
