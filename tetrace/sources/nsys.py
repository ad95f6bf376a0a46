"""Nsight Systems exports as traces.

Columns are detected, never versions: exports of 2022 to 2026 name and fill them differently. Tables are made
lazily by the exporter, so an absent one was not captured. Rows come in any order.
Source of the meanings: the Nsight Systems User Guide, "SQLite Schema Reference".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.sources import calls, cupti_words, nsys_facts
from tetrace.sources.merge import from_rings
from tetrace.sources.nsys_export import Export, constant, distinct_words, labelled, open_export, small
from tetrace.sources.nsys_tables import RawTables, integers
from tetrace.sources.rows import UNKNOWN, Rows, collect, distinct_values
from tetrace.trace.arrays import column_of, numpy_of
from tetrace.trace.schema import GRAPH, KERNEL, MEMCPY, MEMSET, PUSH_POP, START_END
from tetrace.trace.trace import Metadata, Trace

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from tetrace.sources.sites import Sites

    Integers = npt.NDArray[np.int64]

Progress = Callable[[int, int], None]

_NVTX_KINDS = {59: PUSH_POP, 60: START_END}
_LOW_24_BITS = 0xFFFFFF
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_UNKNOWN_NS, _OPEN_NS = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_TIMES = {"start": _UNKNOWN_NS, "end": _UNKNOWN_NS}

_KERNEL_GEOMETRY = {
    "grid_x": "gridX", "grid_y": "gridY", "grid_z": "gridZ",
    "block_x": "blockX", "block_y": "blockY", "block_z": "blockZ", "registers": "registersPerThread",
}  # fmt: skip


def read(
    raw: RawTables, source: str, source_format: str, progress: Progress | None = None, sites: Sites | None = None
) -> Trace:
    """The trace of a Nsight Systems export.

    `source` is the file's name without its folder. `progress` is told (steps done, steps in all). `sites` are those of
    the instrumented processes; the trace's `sites` table is theirs.
    Raises `InputError` when it is no such export or lacks what nothing can be read without.
    """
    export = open_export(raw, sites)
    parts = _read_tables(export, progress)
    tables, notices = collect(parts, nsys_facts.thread_names(export), nsys_facts.process_names(export))
    tables["devices"] = nsys_facts.devices(export, tables)
    lost, lost_count, perhaps = nsys_facts.lost_records(export)
    metadata = Metadata(
        source=source,
        source_format=source_format,
        recorder=nsys_facts.recorder(export),
        graph_mode=nsys_facts.graph_mode(export) or _graph_mode(tables),
        notices=(*lost, *raw.notices, *export.notices, *notices, *_broken_names(tables), *perhaps),
        dropped_records=lost_count,
        counts=dict(sorted(export.counts.items())),
    )
    return Trace(metadata, tables)


def _graph_mode(tables: Mapping[str, pa.Table]) -> str:
    """How graphs were recorded, by what is there: the capture's own settings go when an export is stripped."""
    if "activities" not in tables:
        return ""
    if column_of(tables["activities"].column("graph_node")).any():
        return "node"
    return "graph" if GRAPH in tables["activities"].column("kind").unique().to_pylist() else ""


def _broken_names(tables: Mapping[str, pa.Table]) -> list[str]:
    words = {
        name: tables[name].column("name").chunk(0).dictionary for name in ("activities", "ranges") if name in tables
    }
    broken = {name: sum(_REPLACEMENT in word for word in found.to_pylist()) for name, found in words.items()}
    return [f"{n:,} names of {name} are not UTF-8; bad bytes show as {_REPLACEMENT}" for name, n in broken.items() if n]


def _read_tables(export: Export, progress: Progress | None) -> list[Rows]:
    """The tables of the trace that hold rows of this export, several read at a time; notices in the order of tables."""
    own = [Export(export.raw, export.strings, export.sites) for _ in _TABLES]
    done = 0
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(read_table, part) for read_table, part in zip(_TABLES, own, strict=True)]
        for future in as_completed(futures):
            future.result()
            done += 1
            if progress:
                progress(done, len(futures))
    for part in own:
        export.notices += part.notices
        export.counts |= part.counts
    return [rows for future in futures if (rows := future.result()) is not None]


def _global_pid(columns: Mapping[str, Any], export: Export, table: str) -> Integers:
    """Full process ids of rows; an export without them is fine while one process made every call."""
    pids: Integers = columns["globalPid"]
    unknown = pids == UNKNOWN
    if not unknown.any():
        return pids
    processes = _processes(export)
    if len(processes) > 1:
        raise InputError(
            f"{export.raw.path}: {table} does not say which of {len(processes)} processes its rows belong to "
            "(no globalPid); export the report again with a newer nsys"
        )
    return np.where(unknown, processes[0] if len(processes) else 0, pids)


def _processes(export: Export) -> Integers:
    """Processes that made calls, or failing those opened ranges."""
    for table in ("CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"):
        if "globalTid" in export.raw.columns(table):
            threads = integers(export.raw.read(table, {"globalTid": UNKNOWN}), "globalTid")
            found = distinct_values(threads[threads != UNKNOWN] & ~_LOW_24_BITS)
            if len(found):
                return found
    return np.empty(0, np.int64)


_ACTIVITY = {**_TIMES, "streamId": -1}
_ACTIVITY_OPTIONAL = {"globalPid": UNKNOWN, "deviceId": -1, "correlationId": -1, "graphNodeId": 0}


def _activity_columns(columns: dict[str, Any], export: Export, table: str, kind: str) -> dict[str, Any]:
    return {
        "global_pid": _global_pid(columns, export, table),
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "device": small(columns["deviceId"]),
        "stream": columns["streamId"],
        "correlation": columns["correlationId"],
        "graph_node": np.maximum(columns["graphNodeId"], 0),
        "kind": constant(kind, len(columns["start"])),
    }


def _activities(export: Export) -> Rows | None:
    found = [part for read_part in (_kernels, _copies, _memsets, _graphs) if (part := read_part(export)) is not None]
    if not found:
        return None
    if not any(export.raw.columns(f"CUPTI_ACTIVITY_KIND_{kind}") for kind in ("KERNEL", "GRAPH_TRACE")):
        export.notices.append("there is no table CUPTI_ACTIVITY_KIND_KERNEL: kernels were not captured")
    return Rows("activities", found)


def _kernels(export: Export) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_KERNEL"
    # Short names are ambiguous (`unary_kernel`, `device_kernel`): the demangled name is the name.
    present = export.raw.columns(table)
    name = next(
        (column for column in ("demangledName", "mangledName", "shortName") if column in present), "demangledName"
    )
    geometry = dict.fromkeys(_KERNEL_GEOMETRY.values(), -1)
    columns = export.read(
        table,
        {**_ACTIVITY, name: -1},
        {**_ACTIVITY_OPTIONAL, **geometry, "staticSharedMemory": -1, "dynamicSharedMemory": -1},
    )
    if columns is None:
        return None
    part = _activity_columns(columns, export, table, KERNEL)
    part["name"] = export.named(columns[name])
    part |= {ours: small(columns[theirs]) for ours, theirs in _KERNEL_GEOMETRY.items()}
    static, dynamic = columns["staticSharedMemory"], columns["dynamicSharedMemory"]
    part["shared_bytes"] = np.where((static < 0) | (dynamic < 0), -1, small(static + dynamic)).astype(np.int32)
    return part


def _copies(export: Export) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_MEMCPY"
    columns = export.read(table, _ACTIVITY, {**_ACTIVITY_OPTIONAL, "bytes": -1, "copyKind": 0})
    if columns is None:
        return None
    part = _activity_columns(columns, export, table, MEMCPY)
    part["bytes"] = columns["bytes"]
    part["name"] = cupti_words.copy_names(columns["copyKind"])
    return part


def _memsets(export: Export) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_MEMSET"
    columns = export.read(table, _ACTIVITY, {**_ACTIVITY_OPTIONAL, "bytes": -1})
    if columns is None:
        return None
    part = _activity_columns(columns, export, table, MEMSET)
    part["bytes"] = columns["bytes"]
    part["name"] = constant("memset", len(columns["start"]))
    return part


def _graphs(export: Export) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
    columns = export.read(table, _ACTIVITY, _ACTIVITY_OPTIONAL)
    if columns is None:
        return None
    part = _activity_columns(columns, export, table, GRAPH)
    part["name"] = constant("CUDA graph (recorded whole)", len(columns["start"]))
    if len(columns["start"]):
        export.notices.append(
            f"{len(columns['start']):,} CUDA graph launches were recorded whole, their kernels were not captured; "
            "record with --cuda-graph-trace=node to see them"
        )
    return part


def _calls(export: Export) -> Rows | None:
    table = "CUPTI_ACTIVITY_KIND_RUNTIME"
    present = export.raw.columns(table)
    if not present:
        return None
    wanted = [i for i, name in export.strings.items() if calls.is_kept(calls.plain_name(name))]
    only = ("nameId", wanted) if "nameId" in present else None
    columns = export.read(table, {**_TIMES, "globalTid": UNKNOWN, "nameId": -1}, {"correlationId": -1}, only=only)
    assert columns is not None
    names = export.named(columns["nameId"], calls.plain_name)
    part = {
        "global_tid": columns["globalTid"],
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "correlation": columns["correlationId"],
        "kind": calls.kinds(names),
        "name": names,
    }
    return Rows("calls", [part])


def _ranges(export: Export) -> Rows | None:
    table = "NVTX_EVENTS"
    optional = {"end": _OPEN_NS, "textId": -1, "eventType": 59, "domainId": 0, "uint64Value": -1}
    if export.sites is None:
        optional = {name: optional[name] for name in ("end", "textId", "eventType")}
    only = ("eventType", list(_NVTX_KINDS)) if "eventType" in export.raw.columns(table) else None
    columns = export.read(table, {"start": _UNKNOWN_NS, "globalTid": UNKNOWN}, optional, texts=["text"], only=only)
    if columns is None:
        return None
    name, sequence = _range_names(export, columns.get("text"), columns["textId"])
    part = {
        "global_tid": columns["globalTid"],
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "sequence": sequence,
        "kind": labelled(columns["eventType"], _NVTX_KINDS, "event type"),
        "name": name,
    }
    if export.sites is not None:
        # Only a domain of its own carries our payloads; the default one is domain 0.
        payload = np.where(columns["domainId"] > 0, columns["uint64Value"], -1)
        part["site"], step = export.sites.match(columns["globalTid"] // 0x1000000 % 0x1000000, payload, name)
        part["sequence"] = np.where(part["site"] >= 0, step, sequence)
        more, notices = from_rings(part, export.sites)
        export.notices += notices
        return Rows("ranges", [part, *more])
    return Rows("ranges", [part])


def _range_names(export: Export, text: pa.ChunkedArray | None, ids: Integers) -> tuple[pa.DictionaryArray, Integers]:
    """Names without autograd's numbers, and the sequence numbers (-1: none), both of shape (rows,)."""
    import pyarrow as pa

    unnamed = np.zeros(len(ids), np.int32), np.full(len(ids), -1, np.int64), [""]
    codes, sequence, words = unnamed if text is None else _encoded(text)
    # A registered string leaves the text empty and names a row of StringIds instead.
    registered = np.flatnonzero((ids >= 0) & (codes == (words.index("") if "" in words else -1)))
    if len(registered):
        strings = export.named(ids[registered])
        own, numbers, names = _encoded(pa.chunked_array([strings.dictionary.cast(pa.binary())]))
        place = numpy_of(strings)
        codes[registered], sequence[registered] = own[place] + len(words), numbers[place]
        words += names
    return distinct_words(codes, words), sequence


def _encoded(text: pa.ChunkedArray) -> tuple[npt.NDArray[np.int32], Integers, list[str]]:
    """Codes, sequence numbers, and the words that the codes stand for, of texts as bytes."""
    import pyarrow as pa

    from tetrace import _C

    if not len(text):
        return np.empty(0, np.int32), np.empty(0, np.int64), []
    whole = text.cast(pa.large_binary()).combine_chunks()
    _, offsets, data = whole.buffers()
    first = np.frombuffer(offsets, np.int64)[whole.offset : whole.offset + len(whole) + 1]
    codes, sequence, words = _C.encode_names(first, np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8))
    return codes, sequence, [word.decode("utf-8", "replace") for word in words]


def _synchronizations(export: Export) -> Rows | None:
    table = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
    columns = export.read(table, {**_TIMES, "syncType": 0}, {**_ACTIVITY_OPTIONAL, "streamId": -1})
    if columns is None:
        return None
    part = {
        "global_pid": _global_pid(columns, export, table),
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "device": small(columns["deviceId"]),
        "stream": np.where(columns["streamId"] == 0xFFFFFFFF, -1, columns["streamId"]),
        "correlation": columns["correlationId"],
        "kind": cupti_words.synchronization_kinds(columns["syncType"]),
    }
    return Rows("synchronizations", [part])


def _overheads(export: Export) -> Rows | None:
    parts = []
    for table in ("PROFILER_OVERHEAD", "CUPTI_ACTIVITY_KIND_OVERHEAD"):
        columns = export.read(table, _TIMES, {"globalTid": UNKNOWN, "nameId": -1, "overheadType": 0})
        if columns is None:
            continue
        parts.append(
            {
                "global_tid": columns["globalTid"],
                "start_ns": columns["start"],
                "end_ns": columns["end"],
                "kind": cupti_words.overhead_kinds(columns["overheadType"]),
                "name": export.named(columns["nameId"]),
            }
        )
    return Rows("overheads", parts) if parts else None


def _graph_nodes(export: Export) -> Rows | None:
    columns = export.read(
        "CUDA_GRAPH_NODE_EVENTS",
        {"start": _UNKNOWN_NS, "graphNodeId": 0, "globalTid": UNKNOWN},
        {"originalGraphNodeId": 0},
    )
    if columns is None:
        return None
    part = {
        "global_tid": columns["globalTid"],
        "created_ns": columns["start"],
        "graph_node": columns["graphNodeId"],
        "original_node": np.maximum(columns["originalGraphNodeId"], 0),
    }
    return Rows("graph_nodes", [part])


_TABLES: tuple[Callable[[Export], Rows | None], ...] = (
    _activities, _calls, _ranges, _synchronizations, _overheads, _graph_nodes,
)  # fmt: skip
