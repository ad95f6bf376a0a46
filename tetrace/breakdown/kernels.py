"""Kernels, phases, modules and memory operations: the sums of the selected activities, each activity in one row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.distinct import counts, distinct, first_rows, sums, values_and_codes
from tetrace.attribute.vocabulary import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE
from tetrace.breakdown.gaps import Idle
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.breakdown.tables import KERNELS, MEMORY, MODULES, PHASES, Table

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]

_GEOMETRY = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "registers", "shared_bytes")


def phases_table(scope: Scope) -> Table:
    """Phase by category."""
    (phase, category), index = distinct(scope.phase, scope.category)
    columns = {
        "phase": phase_words(phase),
        "category": [CATEGORIES[code] for code in category.tolist()],
        "count": counts(index, len(phase)),
        "total_ns": sums(index, len(phase), scope.duration),
    }
    return Table(PHASES, columns)


def kernels_table(scope: Scope) -> Table:
    """Every kernel, copy and memset, the longest in sum first."""
    (name, kind, kernel_class), index = distinct(scope.column("name"), scope.column("kind"), scope.kernel_class)
    size = len(name)
    total, count = sums(index, size, scope.duration), counts(index, size)
    shortest, longest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, np.int64)
    np.minimum.at(shortest, index, scope.duration)
    np.maximum.at(longest, index, scope.duration)
    streams, stream = _most_used(index, size, scope.column("stream"))
    geometries, geometry = _geometry(scope, index, size)
    classes = [scope.attribution.classes[code] for code in kernel_class.tolist()]
    names, kinds = scope.trace.words("activities", "name"), scope.trace.words("activities", "kind")
    columns = {
        "name": [names[code] for code in name.tolist()],
        "family": [one.family for one in classes],
        "kind": [kinds[code] for code in kind.tolist()],
        "category": [one.category for one in classes],
        "operation": [one.operation for one in classes],
        "formats": [one.formats for one in classes],
        "fused_quantization": np.array([one.fused_quantization for one in classes], np.int64),
        "count": count,
        "total_ns": total,
        "mean_ns": total // np.maximum(count, 1),
        "min_ns": shortest,
        "max_ns": longest,
        "streams": streams,
        "stream": stream,
        "grid": _dimensions(geometry[:3]),
        "block": _dimensions(geometry[3:6]),
        "geometries": geometries,
        "registers": geometry[6],
        "shared_bytes": geometry[7],
    }
    return Table(KERNELS, columns).sorted_by("total_ns")


def _most_used(index: Codes, size: int, values: npt.NDArray[np.integer]) -> tuple[Times, Times]:
    """How many different `values` each group has, and the one it has most."""
    table, codes = values_and_codes(values)
    (group, code), pair = distinct(index, codes)
    used = counts(pair, len(group))
    order = np.lexsort((-used, group))
    first = order[np.append(True, np.diff(group[order]) != 0)] if len(order) else order
    return counts(group.astype(np.int32), size), table[code[first]].astype(np.int64)


def _geometry(scope: Scope, index: Codes, size: int) -> tuple[Times, list[Times]]:
    """How many launch geometries each group has, and the columns of the one it has most."""
    columns = [scope.column(name) for name in _GEOMETRY]
    code = np.zeros(len(index), np.int32)
    for column in columns:
        # Folded one by one: eight columns at once would not fit one key.
        code = distinct(code, column)[1]
    (_, combination), pair = distinct(index, code)
    how_many, most = _most_used(index, size, pair)
    chosen = first_rows(pair, len(combination))[most]
    return how_many, [column[chosen].astype(np.int64) for column in columns]


def _dimensions(columns: list[Times]) -> list[str]:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return ["×".join(map(str, row)) if min(row) >= 0 else "" for row in rows]


def modules_table(scope: Scope, idle: Idle) -> Table:
    """Every module, `unattributed` included; the longest in sum first."""
    charged_module = np.where(idle.charged_row >= 0, _range_module(scope, idle.charged_row), -1).astype(np.int32)
    (module,), both = distinct(np.concatenate([scope.module, charged_module]))
    index, charged = both[: len(scope.module)], both[len(scope.module) :]
    size = len(module)

    def where(mask: npt.NDArray[np.bool_]) -> Times:
        return sums(index[mask], size, scope.duration[mask])

    named = (FORWARD, RECOMPUTE, BACKWARD, OPTIMIZER)
    (call_module, call), _ = distinct(index[scope.call >= 0], scope.call[scope.call >= 0])
    columns = {
        "module": scope.module_words(module),
        "count": counts(index, size),
        "total_ns": sums(index, size, scope.duration),
        "forward_ns": where(scope.phase == FORWARD),
        "recompute_ns": where(scope.phase == RECOMPUTE),
        "backward_ns": where(scope.phase == BACKWARD),
        "optimizer_ns": where(scope.phase == OPTIMIZER),
        "other_ns": where(~np.isin(scope.phase, named)),
        "gemm_ns": where(scope.in_category("gemm")),
        "attention_ns": where(scope.in_category("attention")),
        "quantization_ns": where(scope.in_category("quantization")),
        "fused_quantization_ns": where(scope.fused),
        "launches": counts(call_module.astype(np.int32), size) if len(call) else np.zeros(size, np.int64),
        "host_bound_ns": sums(charged, size, idle.charged_ns),
    }
    return Table(MODULES, columns).sorted_by("total_ns")


def _range_module(scope: Scope, rows: Codes) -> Codes:
    known = scope.attribution.range_module
    return known[np.maximum(rows, 0)] if len(known) else np.full(len(rows), -1, np.int32)


def memory_table(scope: Scope) -> Table:
    """Copies and memsets by direction and phase."""
    kinds = scope.trace.words("activities", "kind")
    memory = np.array([kind in ("memcpy", "memset") for kind in kinds] or [False], np.bool_)[scope.column("kind")]
    (name, phase), index = distinct(scope.column("name")[memory], scope.phase[memory])
    size = len(name)
    moved = scope.column("bytes")[memory]
    unknown = counts(index[moved < 0], size) > 0
    names = scope.trace.words("activities", "name")
    columns = {
        "name": [names[code] for code in name.tolist()],
        "phase": phase_words(phase),
        "count": counts(index, size),
        "bytes": np.where(unknown, -1, sums(index, size, moved)),
        "total_ns": sums(index, size, scope.duration[memory]),
    }
    return Table(MEMORY, columns).sorted_by("total_ns")
