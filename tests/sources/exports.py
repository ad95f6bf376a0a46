"""Nsight Systems exports in a few readable lines, with the table and column names of nsys. Times are in ns.

    path = (
        Export()
        .range("forward", 0, 40)
        .launch("gemm", call=(5, 8), runs=(10, 30))
        .sqlite(tmp_path / "run.sqlite")
    )

A table that nothing was put in is not there, as nsys makes them.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tetrace.trace.schema import BY_NAME
from tetrace.trace.trace import Trace

MAIN, AUTOGRAD = 1, 2
_HOST = 1 << 48

_ACTIVITY = "start end deviceId contextId greenContextId streamId correlationId globalPid"
TABLES = {
    "CUPTI_ACTIVITY_KIND_KERNEL": f"{_ACTIVITY} demangledName shortName mangledName registersPerThread gridX gridY gridZ "
    "blockX blockY blockZ staticSharedMemory dynamicSharedMemory graphNodeId",
    "CUPTI_ACTIVITY_KIND_MEMCPY": f"{_ACTIVITY} bytes copyKind graphNodeId",
    "CUPTI_ACTIVITY_KIND_MEMSET": f"{_ACTIVITY} bytes graphNodeId",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": f"{_ACTIVITY} graphId graphExecId",
    "CUPTI_ACTIVITY_KIND_RUNTIME": "start end eventClass globalTid correlationId nameId returnValue callchainId",
    "NVTX_EVENTS": "start end eventType rangeId text globalTid endGlobalTid textId domainId uint64Value",
    "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": f"{_ACTIVITY} syncType eventId",
    "CUPTI_ACTIVITY_KIND_OVERHEAD": "start end globalTid correlationId nameId overheadType",
    "PROFILER_OVERHEAD": "start end globalTid nameId returnValue",
    "CUDA_GRAPH_NODE_EVENTS": "start end eventClass globalTid nameId graphNodeId originalGraphNodeId",
    "StringIds": "id value",
    "ThreadNames": "nameId priority globalTid",
    "PROCESSES": "globalPid pid name",
    "TARGET_INFO_GPU": "vmId id name totalMemory memoryBandwidth smCount cuDevice computeMajor computeMinor",
    "TARGET_INFO_CUDA_DEVICE": "gpuId cudaId pid",
    "DIAGNOSTIC_EVENT": "timestamp source severity text",
    "META_DATA_CAPTURE": "name value",
    "META_DATA_EXPORT": "name value",
    "EXPORT_META_DATA": "name value",
    "TARGET_INFO_SYSTEM_ENV": "devStateName name nameEnum value",
    "ProcessStreams": "globalPid filenameId contentId",
    "ANALYSIS_FILE": "id filename contentId globalPid",
}
TEXTS = {"text", "value", "name", "filename", "devStateName"}
# The types of nsys export --type parquetdir; ids are unsigned 64-bit numbers there.
_TYPES = {
    "start": pa.int64(),
    "end": pa.int64(),
    "deviceId": pa.uint32(),
    "eventType": pa.uint32(),
    "textId": pa.uint32(),
}


def process_id(process: int) -> int:
    """The 64-bit id of a process."""
    return _HOST + (process << 24)


def thread_id(process: int, thread: int) -> int:
    """The 64-bit id of a thread."""
    return process_id(process) + thread


class Export:
    """Rows of an export in the making; every method returns it."""

    def __init__(self) -> None:
        self.tables: dict[str, list[dict[str, Any]]] = {"StringIds": []}
        self._columns = {table: columns.split() for table, columns in TABLES.items()}
        self._string_ids: dict[Any, int] = {}
        self._correlations = itertools.count(1)

    def text_id(self, text: str | bytes) -> int:
        """The row of StringIds that holds `text`."""
        if text not in self._string_ids:
            self._string_ids[text] = len(self._string_ids)
            self.rows("StringIds", {"id": self._string_ids[text], "value": text})
        return self._string_ids[text]

    def rows(self, table: str, *rows: dict[str, Any]) -> Export:
        """Rows as they are; columns that are not given are NULL. Without any, the table is there and empty."""
        self.tables.setdefault(table, []).extend(rows)
        return self

    def without(self, *names: str) -> Export:
        """Leave out tables, or columns given as TABLE.column."""
        for name in names:
            table, _, column = name.partition(".")
            if column:
                self._columns[table].remove(column)
            else:
                self.tables.pop(table, None)
        return self

    def launch(
        self, name: str | bytes, call: tuple[int, int], runs: tuple[int, int], thread: int = MAIN, process: int = 1,
        correlation: int | None = None, **more: Any,
    ) -> Export:  # fmt: skip
        """A call that launches a kernel, and the kernel."""
        number = next(self._correlations) if correlation is None else correlation
        self.call("cudaLaunchKernel_v7000", *call, thread=thread, process=process, correlation=number)
        return self.kernel(name, *runs, process=process, correlation=number, **more)

    def call(
        self, name: str | bytes, start: int | None, end: int | None, thread: int = MAIN, process: int = 1,
        correlation: int | None = None, **more: Any,
    ) -> Export:  # fmt: skip
        """A call of the runtime or the driver."""
        row = {"start": start, "end": end, "eventClass": int(not str(name).startswith("cuda")), "returnValue": 0}
        row |= {"globalTid": thread_id(process, thread), "correlationId": correlation, "nameId": self.text_id(name)}
        return self.rows("CUPTI_ACTIVITY_KIND_RUNTIME", {**row, **more})

    def kernel(self, name: str | bytes, start: int | None, end: int | None, **more: Any) -> Export:
        """A kernel; its grid is (8, 1, 1), its blocks (128, 1, 1)."""
        row = {"demangledName": self.text_id(name), "shortName": self.text_id("short"), "registersPerThread": 90}
        row |= {"gridX": 8, "gridY": 1, "gridZ": 1, "blockX": 128, "blockY": 1, "blockZ": 1}
        row |= {"staticSharedMemory": 1000, "dynamicSharedMemory": 24}
        return self._activity("KERNEL", {**row, "start": start, "end": end}, more)

    def copy(self, start: int, end: int, size: int = 64, kind: int = 1, **more: Any) -> Export:
        """A memcpy."""
        return self._activity("MEMCPY", {"start": start, "end": end, "bytes": size, "copyKind": kind}, more)

    def memset(self, start: int, end: int, size: int = 64, **more: Any) -> Export:
        """A memset."""
        return self._activity("MEMSET", {"start": start, "end": end, "bytes": size}, more)

    def graph(self, start: int, end: int, **more: Any) -> Export:
        """A CUDA graph recorded as one activity."""
        return self._activity("GRAPH_TRACE", {"start": start, "end": end, "graphId": 1, "graphExecId": 2}, more)

    def synchronization(self, start: int, end: int, kind: int, **more: Any) -> Export:
        """A synchronization: 1 event, 2 stream wait, 3 stream, 4 context."""
        return self._activity("SYNCHRONIZATION", {"start": start, "end": end, "syncType": kind, "eventId": 0}, more)

    def range(
        self, name: str | bytes | None, start: int | None, end: int | None, thread: int = MAIN, process: int = 1,
        kind: int = 59, registered: str | None = None, **more: Any,
    ) -> Export:  # fmt: skip
        """An NVTX event: 59 is a push/pop range, 60 a start/end range; `registered` names a row of StringIds."""
        row = {"start": start, "end": end, "eventType": kind, "text": name, "globalTid": thread_id(process, thread)}
        row["textId"] = None if registered is None else self.text_id(registered)
        return self.rows("NVTX_EVENTS", {**row, **more})

    def node(
        self, node: int, created: int, original: int | None = None, thread: int = MAIN, process: int = 1
    ) -> Export:
        """The creation of a node of a CUDA graph, or its clone."""
        row = {"start": created, "end": created + 1, "globalTid": thread_id(process, thread), "graphNodeId": node}
        return self.rows("CUDA_GRAPH_NODE_EVENTS", {**row, "originalGraphNodeId": original})

    def overhead(self, name: str, start: int, end: int, kind: int | None = None, thread: int = MAIN) -> Export:
        """Work of the profiler by its own table, or by CUPTI's, which says what kind of work."""
        row = {"start": start, "end": end, "globalTid": thread_id(1, thread), "nameId": self.text_id(name)}
        if kind is None:
            return self.rows("PROFILER_OVERHEAD", {**row, "returnValue": 0})
        return self.rows("CUPTI_ACTIVITY_KIND_OVERHEAD", {**row, "overheadType": kind})

    def sqlite(self, path: Path, types: dict[str, str] | None = None) -> Path:
        """Write a SQLite database; `types` declares other types for some columns."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(path) as database:
            for table, rows in self.tables.items():
                columns = self._columns[table]
                declared = [f'"{name}" {_declared(name, types or {})}' for name in columns]
                database.execute(f"CREATE TABLE {table} ({', '.join(declared)})")
                values = ", ".join(_as_text(name) for name in columns)
                lines = [tuple(row.get(name) for name in columns) for row in rows]
                database.executemany(f"INSERT INTO {table} VALUES ({values})", lines)
        database.close()
        return path

    def parquetdir(self, path: Path, types: dict[str, pa.DataType] | None = None) -> Path:
        """Write a folder of Parquet files; `types` gives other types to some columns."""
        path.mkdir(parents=True)
        for table, rows in self.tables.items():
            arrays = {name: _array([row.get(name) for row in rows], name, types or {}) for name in self._columns[table]}
            pq.write_table(pa.table(arrays), path / f"{table}.parquet")
        return path

    def _activity(self, table: str, row: dict[str, Any], more: dict[str, Any]) -> Export:
        process, names = (
            more.pop("process", 1),
            {"device": "deviceId", "stream": "streamId", "correlation": "correlationId"},
        )
        row |= {"deviceId": 0, "contextId": 1, "streamId": 7, "globalPid": process_id(process)}
        row |= {names.get(name, name): value for name, value in more.items()}
        return self.rows(f"CUPTI_ACTIVITY_KIND_{table}", row)


def _declared(column: str, types: dict[str, str]) -> str:
    return types.get(column, "TEXT" if column in TEXTS else "INTEGER")


def _as_text(column: str) -> str:
    # Bytes are stored as text, so that names need not be UTF-8.
    return "CAST(? AS TEXT)" if column in TEXTS else "?"


def _array(values: list[Any], column: str, types: dict[str, pa.DataType]) -> pa.Array:
    wanted = types.get(column, pa.large_string() if column in TEXTS else _TYPES.get(column, pa.uint64()))
    if any(isinstance(value, bytes) for value in values):
        return pa.array([value.encode() if isinstance(value, str) else value for value in values], pa.large_binary())
    if pa.types.is_large_string(wanted):
        values = [value if value is None else str(value) for value in values]
    return pa.array(values, wanted)


def shown(trace: Trace, table: str) -> list[dict[str, Any]]:
    """The rows of a table in words, without the values that mean "not recorded"."""
    declared = BY_NAME[table]
    unsaid = {column.name: "" if column.dtype == "text" else column.missing for column in declared.columns}
    return [
        {name: value for name, value in row.items() if unsaid[name] is None or value != unsaid[name]}
        for row in trace.tables[table].to_pylist()
    ]


def columns(trace: Trace, table: str, *names: str) -> list[tuple[Any, ...]]:
    """Some columns of a table, as rows."""
    return [tuple(row[name] for name in names) for row in trace.tables[table].select(list(names)).to_pylist()]


def all_rows(trace: Trace) -> dict[str, Iterable[dict[str, Any]]]:
    """Every table of a trace in words, to compare two."""
    return {name: table.to_pylist() for name, table in trace.tables.items()}
