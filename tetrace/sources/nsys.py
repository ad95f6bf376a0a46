"""Nsight Systems exports as traces.

Columns are detected, never versions: exports of 2022 to 2026 name and fill them differently. Tables are made
lazily by the exporter, so an absent one was not captured. Rows come in any order.
Source of the meanings: the Nsight Systems User Guide, "SQLite Schema Reference".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.sources import calls
from tetrace.sources.nsys_tables import RawTables, integers
from tetrace.sources.rows import UNKNOWN, Rows, collect, distinct_values
from tetrace.trace.schema import GRAPH, KERNEL, MEMCPY, MEMSET, PUSH_POP, START_END
from tetrace.trace.trace import Metadata, Trace, make_table, text_column

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

Progress = Callable[[int, int], None]

# CUpti_ActivityMemcpyKind.
_COPY_KINDS = {
    1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD", 9: "HtoH", 10: "PtoP",
    11: "HtoD (unified)", 12: "DtoH (unified)", 13: "DtoD (unified)",
}  # fmt: skip
# CUpti_ActivitySynchronizationType.
_SYNC_KINDS = {1: "event", 2: "stream_wait", 3: "stream", 4: "context"}
_NVTX_KINDS = {59: PUSH_POP, 60: START_END}
_BACK_PRESSURE = 8  # CUPTI_ACTIVITY_OVERHEAD_COMMAND_BUFFER_FULL
_LOW_24_BITS = 0xFFFFFF
_UNKNOWN_NS, _OPEN_NS = np.iinfo(np.int64).min, np.iinfo(np.int64).max
_TIMES = {"start": _UNKNOWN_NS, "end": _UNKNOWN_NS}
_LOST = re.compile(r"\b(drop|dropped|lost|discard|truncat|overflow)", re.IGNORECASE)
# Nsight Systems says so of every capture that cudaProfilerStop ended, whole or not.
_PERHAPS_LOST = re.compile(r"\bnot all .* collected", re.IGNORECASE)
_HOW_MANY = re.compile(r"(\d[\d,]*) (?:\w+ ){0,2}(?:event|record|range|activit|sample)|(?:event|record)s\w*: *(\d[\d,]*)")
# A folder may have spaces in it: all from the first word with a slash to the last; and what looks like a setting.
_PRIVATE = re.compile(r"""\S*[/\\].*[/\\]\S*|\S*[/\\@=]\S*|"[^"]*"|'[^']*'""")
_WARNING = 2

_KERNEL_GEOMETRY = {
    "grid_x": "gridX", "grid_y": "gridY", "grid_z": "gridZ",
    "block_x": "blockX", "block_y": "blockY", "block_z": "blockZ", "registers": "registersPerThread",
}  # fmt: skip


@dataclass
class _Import:
    """What one import gathers on its way: raw tables, strings, and the facts that become metadata."""

    raw: RawTables
    source: str
    strings: dict[int, str]
    notices: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def read(
        self, table: str, required: Mapping[str, int], optional: Mapping[str, int] | None = None, **more: Any
    ) -> dict[str, Any] | None:
        """Integer columns of `table` as arrays, None when the table is absent; text columns as they come.

        Raises `InputError` when a required column is missing.
        """
        present = self.raw.columns(table)
        if not present:
            return None
        missing = [name for name in required if name not in present]
        if missing:
            raise InputError(
                f"{self.source}: table {table} has no column '{missing[0]}' (it has {', '.join(sorted(present))}); "
                "export the report again with the nsys that recorded it"
            )
        wanted = {**required, **{name: value for name, value in (optional or {}).items() if name in present}}
        texts = [name for name in more.pop("texts", ()) if name in present]
        rows = self.raw.read(table, wanted, texts, **more)
        self.counts[table] = rows.num_rows
        columns: dict[str, Any] = {name: integers(rows, name) for name in wanted}
        for name, value in (optional or {}).items():
            if name not in columns:
                columns[name] = np.full(rows.num_rows, value, np.int64)
        return {**columns, **{name: rows.column(name) for name in texts}}


def read(raw: RawTables, source: str, source_format: str, progress: Progress | None = None) -> Trace:
    """The trace of a Nsight Systems export.

    `source` is the file's name for messages. `progress` is told (steps done, steps in all).
    Raises `InputError` when it is no such export or lacks what nothing can be read without.
    """
    strings = _strings(raw, source)
    gathered = _Import(raw, source, strings)
    parts = _read_tables(gathered, progress)
    tables, notices = collect(parts, _thread_names(gathered), _process_names(gathered))
    tables["devices"] = _devices(gathered, tables)
    lost, perhaps = _lost_records(gathered, _LOST), _lost_records(gathered, _PERHAPS_LOST)
    metadata = Metadata(
        source=source,
        source_format=source_format,
        recorder=_recorder(gathered),
        graph_mode=_graph_mode(gathered),
        notices=tuple([*lost, *gathered.notices, *notices, *(f"nsys warns: {text}" for text in perhaps)]),
        dropped_records=len(lost),
        counts=dict(sorted(gathered.counts.items())),
    )
    return Trace(metadata, tables)


def _read_tables(gathered: _Import, progress: Progress | None) -> list[Rows]:
    """The tables of the trace that hold rows of this export, several read at a time; notices in the order of tables."""
    own = [_Import(gathered.raw, gathered.source, gathered.strings) for _ in _TABLES]
    done = 0
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(read_table, part) for read_table, part in zip(_TABLES, own, strict=True)]
        for future in as_completed(futures):
            future.result()
            done += 1
            if progress:
                progress(done, len(futures))
    for part in own:
        gathered.notices += part.notices
        gathered.counts |= part.counts
    return [rows for future in futures if (rows := future.result()) is not None]


def _strings(raw: RawTables, source: str) -> dict[int, str]:
    if not {"id", "value"} <= raw.columns("StringIds"):
        raise InputError(
            f"{source}: no table StringIds, so nothing in it has a name; it is not a whole Nsight Systems export: "
            "export again with nsys export --type sqlite (or parquetdir) REPORT.nsys-rep"
        )
    rows = raw.read("StringIds", {"id": -1}, ["value"])
    values = rows.column("value").to_pylist()
    return {i: value.decode("utf-8", "replace") for i, value in zip(integers(rows, "id").tolist(), values, strict=True)}


def _named(ids: Integers, strings: Mapping[int, str], rename: Callable[[str], str] = lambda name: name) -> pa.DictionaryArray:
    """Ids into StringIds, shape (rows,), as a text column; two ids of one name share a word."""
    from tetrace import _C

    used, codes = _C.distinct(ids)
    words = [rename(strings.get(i, f"(unnamed {i})")) for i in used.tolist()]
    distinct = {word: code for code, word in enumerate(dict.fromkeys(words))}
    return text_column(np.array([distinct[word] for word in words], np.int32)[codes], list(distinct))


def _labelled(values: Integers, labels: Mapping[int, str], other: str) -> pa.DictionaryArray:
    from tetrace import _C

    used, codes = _C.distinct(values)
    return text_column(codes, [labels.get(value, f"{other} {value}") for value in used.tolist()])


def _constant(word: str, rows: int) -> pa.DictionaryArray:
    return text_column(np.zeros(rows, np.int32), [word])


def _global_pid(columns: Mapping[str, Any], gathered: _Import, table: str) -> Integers:
    """Full process ids of activities; an export without them is fine while one process made every call."""
    if (columns["globalPid"] >= 0).all():
        return columns["globalPid"]  # type: ignore[no-any-return]
    runtime = gathered.read("CUPTI_ACTIVITY_KIND_RUNTIME", {"globalTid": -1})
    pids = distinct_values(runtime["globalTid"] & ~_LOW_24_BITS) if runtime else np.zeros(1, np.int64)
    if len(pids) > 1:
        raise InputError(
            f"{gathered.source}: {table} does not say which of {len(pids)} processes its rows belong to (no globalPid); "
            "export the report again with a newer nsys"
        )
    return np.where(columns["globalPid"] >= 0, columns["globalPid"], pids[0] if len(pids) else 0)


_ACTIVITY = {"start": 0, "end": 0, "streamId": -1}
_ACTIVITY_OPTIONAL = {"globalPid": -1, "deviceId": -1, "correlationId": -1, "graphNodeId": 0}


def _activity_columns(columns: dict[str, Any], gathered: _Import, table: str, kind: str) -> dict[str, Any]:
    return {
        "global_pid": _global_pid(columns, gathered, table),
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "device": columns["deviceId"].astype(np.int32),
        "stream": columns["streamId"],
        "correlation": columns["correlationId"],
        "graph_node": np.maximum(columns["graphNodeId"], 0),
        "kind": _constant(kind, len(columns["start"])),
    }


def _activities(gathered: _Import) -> Rows | None:
    parts = [part(gathered) for part in (_kernels, _copies, _memsets, _graphs)]
    found = [part for part in parts if part is not None]
    return Rows("activities", found) if found else None


def _kernels(gathered: _Import) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_KERNEL"
    # Short names are ambiguous (`unary_kernel`, `device_kernel`): the demangled name is the name.
    present = gathered.raw.columns(table)
    name = next((column for column in ("demangledName", "mangledName", "shortName") if column in present), "demangledName")
    geometry = {column: -1 for column in _KERNEL_GEOMETRY.values()}
    columns = gathered.read(
        table,
        {**_ACTIVITY, name: -1},
        {**_ACTIVITY_OPTIONAL, **geometry, "staticSharedMemory": -1, "dynamicSharedMemory": -1},
    )
    if columns is None:
        return None
    part = _activity_columns(columns, gathered, table, KERNEL)
    part["name"] = _named(columns[name], gathered.strings)
    part |= {ours: columns[theirs].astype(np.int32) for ours, theirs in _KERNEL_GEOMETRY.items()}
    static, dynamic = columns["staticSharedMemory"], columns["dynamicSharedMemory"]
    part["shared_bytes"] = np.where((static < 0) | (dynamic < 0), -1, static + dynamic).astype(np.int32)
    return part


def _copies(gathered: _Import) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_MEMCPY"
    columns = gathered.read(table, _ACTIVITY, {**_ACTIVITY_OPTIONAL, "bytes": -1, "copyKind": 0})
    if columns is None:
        return None
    part = _activity_columns(columns, gathered, table, MEMCPY)
    part["bytes"] = columns["bytes"]
    part["name"] = _labelled(columns["copyKind"], {kind: f"memcpy {word}" for kind, word in _COPY_KINDS.items()}, "memcpy kind")
    return part


def _memsets(gathered: _Import) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_MEMSET"
    columns = gathered.read(table, _ACTIVITY, {**_ACTIVITY_OPTIONAL, "bytes": -1})
    if columns is None:
        return None
    part = _activity_columns(columns, gathered, table, MEMSET)
    part["bytes"] = columns["bytes"]
    part["name"] = _constant("memset", len(columns["start"]))
    return part


def _graphs(gathered: _Import) -> dict[str, Any] | None:
    table = "CUPTI_ACTIVITY_KIND_GRAPH_TRACE"
    columns = gathered.read(table, _ACTIVITY, _ACTIVITY_OPTIONAL)
    if columns is None:
        return None
    part = _activity_columns(columns, gathered, table, GRAPH)
    part["name"] = _constant("CUDA graph (recorded whole)", len(columns["start"]))
    if len(columns["start"]):
        gathered.notices.append(
            f"{len(columns['start']):,} CUDA graph launches were recorded whole, their kernels were not captured; "
            "record with --cuda-graph-trace=node to see them"
        )
    return part


def _calls(gathered: _Import) -> Rows | None:
    table = "CUPTI_ACTIVITY_KIND_RUNTIME"
    present = gathered.raw.columns(table)
    if not present:
        return None
    wanted = [i for i, name in gathered.strings.items() if calls.is_kept(calls.plain_name(name))]
    only = ("nameId", wanted) if "nameId" in present else None
    columns = gathered.read(
        table, {"start": 0, "end": 0, "globalTid": -1, "nameId": -1}, {"correlationId": -1}, only=only
    )
    assert columns is not None
    names = _named(columns["nameId"], gathered.strings, calls.plain_name)
    kinds = [calls.kind(word) for word in names.dictionary.to_pylist()]
    distinct = {kind: code for code, kind in enumerate(dict.fromkeys(kinds))}
    codes = np.array([distinct[kind] for kind in kinds], np.int32)[names.indices.to_numpy()]
    part = {
        "global_tid": columns["globalTid"],
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "correlation": columns["correlationId"],
        "kind": text_column(codes, list(distinct)),
        "name": names,
    }
    return Rows("calls", [part])


def _ranges(gathered: _Import) -> Rows | None:
    optional = {"end": -1, "textId": -1, "eventType": 59}
    columns = gathered.read("NVTX_EVENTS", {"start": 0, "globalTid": -1}, optional, texts=["text"], only=_range_types(gathered))
    if columns is None:
        return None
    open_ranges = int((columns["end"] < 0).sum())
    if open_ranges:
        gathered.notices.append(f"{open_ranges:,} NVTX ranges were still open when recording ended; they end with the recording")
    rows = len(columns["start"])
    codes, sequence, words = _range_names(columns.get("text"), rows)
    # A registered string leaves the text empty and names a row of StringIds instead.
    registered = (columns["textId"] >= 0) & (codes == (words.index("") if "" in words else -1))
    if registered.any():
        codes, words = _with_registered(codes, words, columns["textId"], registered, gathered.strings)
    part = {
        "global_tid": columns["globalTid"],
        "start_ns": columns["start"],
        "end_ns": np.where(columns["end"] < 0, np.iinfo(np.int64).max, columns["end"]),
        "sequence": sequence,
        "kind": _labelled(columns["eventType"], _NVTX_KINDS, "event type"),
        "name": text_column(codes, words),
    }
    return Rows("ranges", [part])


def _range_types(gathered: _Import) -> tuple[str, Sequence[int]] | None:
    return ("eventType", list(_NVTX_KINDS)) if "eventType" in gathered.raw.columns("NVTX_EVENTS") else None


def _range_names(text: pa.ChunkedArray | None, rows: int) -> tuple[npt.NDArray[np.int32], Integers, list[str]]:
    """Names without autograd's numbers, as codes and words, and the sequence numbers (-1: none)."""
    import pyarrow as pa

    from tetrace import _C

    words: dict[bytes, int] = {}
    if text is None or rows == 0:
        return np.zeros(rows, np.int32), np.full(rows, -1, np.int64), [""]
    codes, sequence = np.empty(rows, np.int32), np.empty(rows, np.int64)
    first = 0
    # Chunk by chunk: with emit_nvtx nearly all texts differ, and in one piece they would be most of the memory.
    for chunk in text.chunks:
        plain = chunk.cast(pa.large_binary())
        _, offsets, data = plain.buffers()
        edges = np.frombuffer(offsets, np.int64)[plain.offset :][: len(chunk) + 1] if len(chunk) else np.zeros(1, np.int64)
        own, numbers, found = _C.encode_names(edges, np.frombuffer(data, np.uint8) if data else np.empty(0, np.uint8))
        place = np.array([words.setdefault(word, len(words)) for word in found], np.int32)
        last = first + len(chunk)
        codes[first:last], sequence[first:last] = place[own] if len(own) else own, numbers
        first = last
    return codes, sequence, [word.decode("utf-8", "replace") for word in words]


def _with_registered(
    codes: npt.NDArray[np.int32], words: list[str], ids: Integers, registered: npt.NDArray[np.bool_], strings: Mapping[int, str]
) -> tuple[npt.NDArray[np.int32], list[str]]:
    names = _named(ids[registered], strings)
    codes = codes.copy()
    codes[registered] = names.indices.to_numpy() + len(words)
    return codes, [*words, *names.dictionary.to_pylist()]


def _synchronizations(gathered: _Import) -> Rows | None:
    table = "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
    columns = gathered.read(table, {"start": 0, "end": 0, "syncType": 0}, {**_ACTIVITY_OPTIONAL, "streamId": -1})
    if columns is None:
        return None
    part = {
        "global_pid": _global_pid(columns, gathered, table),
        "start_ns": columns["start"],
        "end_ns": columns["end"],
        "device": columns["deviceId"].astype(np.int32),
        "stream": np.where(columns["streamId"] == 0xFFFFFFFF, -1, columns["streamId"]),
        "correlation": columns["correlationId"],
        "kind": _labelled(columns["syncType"], _SYNC_KINDS, "synchronization kind"),
    }
    return Rows("synchronizations", [part])


def _overheads(gathered: _Import) -> Rows | None:
    parts = []
    for table in ("PROFILER_OVERHEAD", "CUPTI_ACTIVITY_KIND_OVERHEAD"):
        columns = gathered.read(table, {"start": 0, "end": 0, "globalTid": -1, "nameId": -1}, {"overheadType": 0})
        if columns is None:
            continue
        pressure = (columns["overheadType"] == _BACK_PRESSURE).astype(np.int32)
        parts.append(
            {
                "global_tid": columns["globalTid"],
                "start_ns": columns["start"],
                "end_ns": columns["end"],
                "kind": text_column(pressure, ["profiler", "back_pressure"]),
                "name": _named(columns["nameId"], gathered.strings),
            }
        )
    return Rows("overheads", parts) if parts else None


def _graph_nodes(gathered: _Import) -> Rows | None:
    columns = gathered.read(
        "CUDA_GRAPH_NODE_EVENTS", {"start": 0, "graphNodeId": 0, "globalTid": -1}, {"originalGraphNodeId": 0}
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


def _thread_names(gathered: _Import) -> dict[int, str]:
    columns = gathered.read("ThreadNames", {}, {"nameId": -1, "globalTid": -1})
    if columns is None:
        return {}
    pairs = zip(columns["globalTid"].tolist(), columns["nameId"].tolist(), strict=True)
    return {thread: gathered.strings.get(name, "") for thread, name in pairs}


def _process_names(gathered: _Import) -> dict[int, str]:
    columns = gathered.read("PROCESSES", {}, {"globalPid": -1}, texts=["name"])
    if columns is None or "name" not in columns:
        return {}
    names = (name.decode("utf-8", "replace") for name in columns["name"].to_pylist())
    # Only the name of the executable: its folder is somebody's file system.
    return {pid: name.rsplit("/", 1)[-1] for pid, name in zip(columns["globalPid"].tolist(), names, strict=True)}


def _devices(gathered: _Import, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Devices that ran something, with what the export says of the GPU behind each."""
    activities = tables.get("activities")
    pairs = np.empty((0, 2), np.int64)
    if activities is not None:
        process, device = (activities.column(name).to_numpy().astype(np.int64) for name in ("process", "device"))
        keys = distinct_values(process << 32 | (device + 1))
        pairs = np.column_stack([keys >> 32, (keys & 0xFFFFFFFF) - 1])
    facts = {"id": -1, "cuDevice": -1, "smCount": -1, "totalMemory": -1, "memoryBandwidth": -1, "computeMajor": -1, "computeMinor": -1}
    gpus = gathered.read("TARGET_INFO_GPU", {}, facts, texts=["name"])
    mapping = gathered.read("TARGET_INFO_CUDA_DEVICE", {}, {"gpuId": -1, "cudaId": -1, "pid": -1})
    pids = tables["processes"].column("pid").to_numpy()
    rows = [_gpu_row(gpus, mapping, int(pids[process]), int(device)) for process, device in pairs]
    found = [None if gpus is None or row is None else row for row in rows]

    def fact(name: str) -> Integers:
        assert gpus is not None or not any(row is not None for row in found)
        return np.array([-1 if row is None or gpus is None else gpus[name][row] for row in found], np.int64)

    names = ["" if row is None or gpus is None or "name" not in gpus else gpus["name"][row].as_py().decode("utf-8", "replace") for row in found]
    words = list(dict.fromkeys(names)) or [""]
    major, minor = fact("computeMajor"), fact("computeMinor")
    columns = {
        "process": pairs[:, 0].astype(np.int32),
        "device": pairs[:, 1].astype(np.int32),
        "gpu": fact("id").astype(np.int32),
        "sm_count": fact("smCount").astype(np.int32),
        "memory_bytes": fact("totalMemory"),
        "bandwidth_bytes_per_s": fact("memoryBandwidth"),
        "compute_capability": np.where(major < 0, -1, 10 * major + minor).astype(np.int32),
        "name": text_column(np.array([words.index(name) for name in names], np.int32), words),
    }
    return make_table("devices", columns, len(pairs))


def _gpu_row(gpus: Mapping[str, Any] | None, mapping: Mapping[str, Any] | None, pid: int, device: int) -> int | None:
    """Row of TARGET_INFO_GPU behind CUDA ordinal `device` of process `pid`."""
    if gpus is None:
        return None
    gpu = device
    if mapping is not None:
        same = np.flatnonzero((mapping["cudaId"] == device) & (mapping["pid"] == pid))
        if len(same):
            gpu = int(mapping["gpuId"][same[0]])
    elif (gpus["cuDevice"] == device).any():
        return int(np.flatnonzero(gpus["cuDevice"] == device)[0])
    rows = np.flatnonzero(gpus["id"] == gpu)
    return int(rows[0]) if len(rows) else None


def _export_facts(gathered: _Import, table: str) -> dict[str, str]:
    if not {"name", "value"} <= gathered.raw.columns(table):
        return {}
    rows = gathered.raw.read(table, {}, ["name", "value"])
    pairs = zip(rows.column("name").to_pylist(), rows.column("value").to_pylist(), strict=True)
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in pairs}


def _recorder(gathered: _Import) -> str:
    # These tables also carry folders, user and host names: only the product and its version are taken.
    for table in ("META_DATA_EXPORT", "EXPORT_META_DATA"):
        facts = _export_facts(gathered, table)
        if "EXPORT_PRODUCT_VERSION" in facts:
            schema = facts.get("EXPORT_SCHEMA_VERSION", "unknown")
            return f"Nsight Systems {facts['EXPORT_PRODUCT_VERSION']} (schema {schema})"
    return "Nsight Systems"


def _graph_mode(gathered: _Import) -> str:
    facts = _export_facts(gathered, "META_DATA_CAPTURE")
    modes = {value.lower() for name, value in facts.items() if name.endswith("CUDA_GRAPH_TRACE_OPTIONS:MODE")}
    return modes.pop() if len(modes) == 1 else ""


def _lost_records(gathered: _Import, words: re.Pattern[str]) -> list[str]:
    """Diagnostics that speak of lost records in these words, without the paths in them."""
    columns = gathered.read("DIAGNOSTIC_EVENT", {}, {"severity": 0}, texts=["text"])
    if columns is None or "text" not in columns:
        return []
    texts = (text.decode("utf-8", "replace") for text in columns["text"].to_pylist())
    lost = [text for text, level in zip(texts, columns["severity"], strict=True) if level >= _WARNING and words.search(text)]
    return [re.sub(r"\S*/\S+", "…", " ".join(text.split()))[:200] for text in dict.fromkeys(lost)]


_TABLES: tuple[Callable[[_Import], Rows | None], ...] = (
    _activities, _calls, _ranges, _synchronizations, _overheads, _graph_nodes,
)  # fmt: skip
