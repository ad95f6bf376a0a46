"""Builds a trace in a few readable lines: who opened which range, who launched what, and when it ran. Times are in µs.

trace = (
    Recording()
    .range("step_0", 0, 100)
    .range("forward", 0, 40)
    .launch("gemm", call=(5, 8), runs=(10, 30))
    .trace()
)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tetrace.sources.rows import Rows, collect
from tetrace.sources.sites import Process, Sites
from tetrace.trace.arrays import text_column
from tetrace.trace.trace import Metadata, Trace, make_table

MAIN, AUTOGRAD = 1, 2
_PROCESS = 1 << 24


@dataclass
class Recording:
    """Rows of a recording in the making; every method returns it."""

    activities: list[dict[str, Any]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    ranges: list[dict[str, Any]] = field(default_factory=list)
    waits: list[dict[str, Any]] = field(default_factory=list)
    overheads: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)
    thread_names: dict[int, str] = field(default_factory=dict)
    sites: list[dict[str, Any]] = field(default_factory=list)

    def site(
        self,
        kind: str,
        name: str,
        start: float,
        end: float,
        thread: int = MAIN,
        process: int = 1,
        step: int = 0,
        **attributes: Any,
    ) -> Recording:
        """A range of tetrace's instrumentation: `attributes` are phase, module, role, ... of its site."""
        described = {"kind": kind, "name": name, **attributes}
        if described not in self.sites:
            self.sites.append(described)
        self.range(name, start, end, thread, process, sequence=step)
        self.ranges[-1]["site"] = self.sites.index(described)
        return self

    def range(
        self,
        name: str,
        start: float,
        end: float,
        thread: int = MAIN,
        process: int = 1,
        sequence: int = -1,
        kind: str = "push_pop",
    ) -> Recording:
        """A range on a thread."""
        row = {"global_tid": _tid(process, thread), "start_ns": _ns(start), "end_ns": _ns(end)}
        self.ranges.append({**row, "sequence": sequence, "site": -1, "kind": kind, "name": name})
        return self

    def call(
        self,
        name: str,
        start: float,
        end: float,
        kind: str = "launch",
        thread: int = MAIN,
        process: int = 1,
        correlation: int = -1,
    ) -> Recording:
        """An API call."""
        row = {"global_tid": _tid(process, thread), "start_ns": _ns(start), "end_ns": _ns(end)}
        self.calls.append({**row, "correlation": correlation, "kind": kind, "name": name})
        return self

    def launch(
        self,
        name: str,
        call: tuple[float, float],
        runs: tuple[float, float],
        thread: int = MAIN,
        process: int = 1,
        device: int = 0,
        stream: int = 7,
        kind: str = "kernel",
        correlation: int | None = None,
        node: int = 0,
        size: int = -1,
    ) -> Recording:
        """A call that launches an activity, and the activity. Correlation ids are counted within a process."""
        own = (
            correlation
            if correlation is not None
            else 1 + sum(row["global_tid"] >> 24 == process for row in self.calls)
        )
        if not any(row["correlation"] == own and row["global_tid"] >> 24 == process for row in self.calls):
            self.call(
                "cudaGraphLaunch" if node else "cudaLaunchKernel",
                *call,
                "graph_launch" if node else "launch",
                thread,
                process,
                own,
            )
        return self.activity(name, *runs, process, device, stream, kind, own, node, size)

    def activity(
        self,
        name: str,
        start: float,
        end: float,
        process: int = 1,
        device: int = 0,
        stream: int = 7,
        kind: str = "kernel",
        correlation: int = -1,
        node: int = 0,
        size: int = -1,
    ) -> Recording:
        """An activity whose call is not recorded, or recorded apart."""
        row = {
            "global_pid": process * _PROCESS,
            "start_ns": _ns(start),
            "end_ns": _ns(end),
            "device": device,
            "stream": stream,
        }
        self.activities.append(
            {**row, "correlation": correlation, "kind": kind, "name": name, "graph_node": node, "bytes": size}
        )
        return self

    def stream_wait(self, at: float, stream: int, process: int = 1, device: int = 0) -> Recording:
        """A stream is told to wait for an event of another."""
        row = {
            "global_pid": process * _PROCESS,
            "start_ns": _ns(at),
            "end_ns": _ns(at),
            "device": device,
            "stream": stream,
        }
        self.waits.append({**row, "correlation": -1, "kind": "stream_wait"})
        return self

    def profiler(
        self, start: float, end: float, kind: str = "profiler", thread: int = MAIN, process: int = 1
    ) -> Recording:
        """Work of the profiler itself, or back-pressure."""
        row = {"global_tid": _tid(process, thread), "start_ns": _ns(start), "end_ns": _ns(end)}
        self.overheads.append({**row, "kind": kind, "name": "overhead"})
        return self

    def node(self, node: int, created: float, original: int = 0, thread: int = MAIN, process: int = 1) -> Recording:
        """Creation of a CUDA graph node, or its clone."""
        row = {"global_tid": _tid(process, thread), "created_ns": _ns(created)}
        self.nodes.append({**row, "graph_node": node, "original_node": original})
        return self

    def named(self, name: str, thread: int, process: int = 1) -> Recording:
        """Give a thread its name."""
        self.thread_names[_tid(process, thread)] = name
        return self

    def trace(self) -> Trace:
        """The trace. Tables that nothing was put in were not captured."""
        rows = {
            "activities": self.activities,
            "calls": self.calls,
            "ranges": self.ranges,
            "synchronizations": self.waits,
            "overheads": self.overheads,
            "graph_nodes": self.nodes,
        }
        parts = [Rows(table, [_columns(entries)]) for table, entries in rows.items() if entries]
        tables, notices = collect(parts, self.thread_names, {})
        tables["devices"] = make_table("devices", _devices(), 1)
        if self.sites:
            numbered = [{"site": number, **site} for number, site in enumerate(self.sites)]
            tables["sites"] = Sites([Process(Path(), {"pid": 1}, numbered)]).table({1: 0})
        return Trace(Metadata(source="made", source_format="test", notices=tuple(notices)), tables)


def _tid(process: int, thread: int) -> int:
    return process * _PROCESS + thread


def _ns(us: float) -> int:
    return round(us * 1000)


def _columns(entries: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, first in entries[0].items():
        values = [entry[name] for entry in entries]
        if isinstance(first, str):
            words = list(dict.fromkeys(values))
            columns[name] = text_column(np.array([words.index(value) for value in values], np.int32), words)
        else:
            columns[name] = np.array(values, np.int32 if name in ("device", "site") else np.int64)
    return columns


def _devices() -> dict[str, Any]:
    return {
        "process": np.zeros(1, np.int32),
        "device": np.zeros(1, np.int32),
        "name": text_column(np.zeros(1, np.int32), ["NVIDIA H200"]),
    }
