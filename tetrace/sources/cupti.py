"""What tetrace's own collector left in a working folder as a trace: GPU activity and NVTX ranges of each process.

Rows are those of CUPTI (csrc/collector), on the clock of the rings: nothing has to be matched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.sources import cupti_events, cupti_rows, cupti_tables, cupti_unfinished, rings
from tetrace.sources.cupti_events import ON, Event, Window
from tetrace.sources.cupti_rows import Recorded
from tetrace.sources.cupti_unfinished import Unfinished
from tetrace.sources.nsys_export import small
from tetrace.sources.nsys_facts import lanes
from tetrace.sources.rows import Rows, collect
from tetrace.sources.sites import Process, Sites, words
from tetrace.trace.arrays import column_of
from tetrace.trace.trace import Metadata, Trace, make_table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

Progress = Callable[[int, int], None]

# What cuptiGetVersion says of CUDA 12; from 13.0 on it says 130000 and so on.
_CUDA_12 = {19: "12.0", 20: "12.2", 21: "12.3", 22: "12.4", 23: "12.5", 24: "12.6", 26: "12.8", 27: "12.9", 28: "12.9"}
_SEPARATOR = "\x1f"  # between the domain of an NVTX range and its text


@dataclass
class _Gathered:
    """Parts of tables, and what else is said of the processes."""

    parts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    thread_names: dict[int, str] = field(default_factory=dict)
    said: dict[str, list[str]] = field(default_factory=dict)  # by text: the processes that it is said of
    dropped: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, table: str, part: dict[str, Any] | None) -> None:
        if part is not None:
            self.parts.setdefault(table, []).append(part)


def read(processes: Sequence[Process], sites: Sites, first_step: int, progress: Progress | None = None) -> Trace | None:
    """The trace of what the collector recorded of `processes`; None when it left no file.

    `progress` is told (processes done, processes in all). Where it is not known when a process was recorded, its ranges
    count from `first_step` on. Raises `InputError` for files of another version, and when nothing is in them.
    """
    files = {process.key: cupti_rows.file_of(process.folder) for process in processes}
    recorded = {key: cupti_rows.read(found) for key, found in files.items() if found}
    if not recorded:
        return None
    events = {key: cupti_events.events_of(one) for key, one in recorded.items()}
    unfinished = {key: cupti_unfinished.unfinished_of(one, events[key]) for key, one in recorded.items()}
    windows = {
        key: cupti_events.window_of(
            events[key], one.column("node", "created"), {found.end.at_ns: found.since_ns for found in unfinished[key]}
        )
        for key, one in recorded.items()
    }
    whole = cupti_events.around([window for window in windows.values() if window is not None])
    gathered = _Gathered()
    for done, process in enumerate(processes):
        one = recorded.get(process.key, Recorded())
        said = events.get(process.key, [])
        if cupti_events.has_recorded(said):
            for table, part in cupti_tables.parts_of(process.key, one):
                gathered.add(table, part)
        steps = _add_ranges(gathered, process, one, sites, _choices(windows.get(process.key) or whole, first_step))
        _add_facts(gathered, process, one, said, unfinished.get(process.key, []), steps)
        if progress:
            progress(done + 1, len(processes))
    gaps = [(key << 24, *gap) for key, window in windows.items() if window is not None for gap in window.gaps()]
    return _trace(gathered, recorded, processes, gaps)


def _choices(window: Window | None, first_step: int) -> tuple[rings.Choice, rings.Choice]:
    """Which ranges of the instrumentation and which of NVTX belong to the recording."""
    if window is not None:
        return window.choose, window.choose
    # The instrumentation's rings hold the whole run, those of NVTX only what was recorded.
    return lambda rows, steps: steps | (rows["step"] >= first_step), lambda rows, steps: np.ones_like(steps)


def _trace(
    gathered: _Gathered,
    recorded: Mapping[int, Recorded],
    processes: Sequence[Process],
    gaps: Sequence[tuple[int, ...]],
) -> Trace:
    said = _worded(gathered.said, len(recorded))
    parts = [Rows(name, found) for name, found in gathered.parts.items()]
    if not any(
        len(part["start_ns"]) for rows in parts if rows.table in ("activities", "ranges") for part in rows.parts
    ):
        raise InputError("; ".join(said) or "the collector saw neither GPU activity nor a range")
    executables = {process.key << 24: "python" for process in processes if process.is_python}
    tables, notices = collect(parts, gathered.thread_names, executables)
    tables["devices"] = _devices(tables, recorded)
    version = max(one.cupti for one in recorded.values())
    metadata = Metadata(
        "",
        "tetrace recording with its collector",
        f"tetrace collector (CUPTI {_version(version)})" if version else "tetrace collector (NVTX only)",
        graph_mode="node" if version else "",
        notices=(*said, *notices),
        dropped_records=gathered.dropped,
        counts=dict(sorted(gathered.counts.items())),
        facts={"unrecorded": [list(gap) for gap in gaps]} if gaps else {},
    )
    return Trace(metadata, tables)


def _version(number: int) -> str:
    if number >= 10_000:
        return f"{number // 10_000}.{number // 100 % 100}"
    return _CUDA_12.get(number, f"API {number}")


def _worded(said: Mapping[str, Sequence[str]], processes: int) -> list[str]:
    """Notices, with the process where there are several."""
    several = {text: f" (in {len(labels)} processes)" if len(labels) > 1 else "" for text, labels in said.items()}
    return [
        f"{text}{several[text]}" if several[text] or processes == 1 else f"{labels[0]}: {text}"
        for text, labels in said.items()
    ]


_Steps = list[tuple[Any, Any, Any]]


def _add_ranges(
    gathered: _Gathered,
    process: Process,
    recorded: Recorded,
    sites: Sites,
    choices: tuple[rings.Choice, rings.Choice],
) -> _Steps:
    """Adds the ranges of all threads; returns start, end and number of the steps."""
    steps: _Steps = []

    def name_of(number: int) -> str:
        return recorded.text(number, f"{_SEPARATOR}(unnamed)").partition(_SEPARATOR)[2]

    for path in process.rings:
        rows = rings.read_ring(path)
        _add_ring(gathered, process.key, rows, rings.part_of_sites(process, rows, sites, choices[0]))
        chosen = rings.is_step(process, rows)
        steps.append(tuple(rows[name][chosen] for name in ("start_ns", "end_ns", "step")))
    for path in process.nvtx_rings:
        rows = rings.read_ring(path)
        _add_ring(gathered, process.key, rows, rings.part_of_texts(process.key, rows, name_of, choices[1]))
    return steps


def _add_ring(gathered: _Gathered, key: int, rows: Mapping[str, Any], part: dict[str, Any] | None) -> None:
    gathered.add("ranges", part)
    gathered.dropped += int(rows["dropped"])
    if rows["name"]:
        gathered.thread_names[rings.global_tid(key, int(rows["thread"]))] = str(rows["name"])


def _add_facts(
    gathered: _Gathered,
    process: Process,
    recorded: Recorded,
    events: Sequence[Event],
    unfinished: Sequence[Unfinished],
    steps: _Steps,
) -> None:
    step_at = {
        at: int(number[inside[-1]])
        for at in [*(event.at_ns for event in events), *(one.since_ns for one in unfinished)]
        for start, end, number in steps
        if len(inside := np.flatnonzero((start <= at) & (at < end)))
    }
    began = next((event.at_ns for event in events if event.what == ON), 0)
    said = [
        *cupti_events.notices(recorded, events, step_at),
        *cupti_unfinished.notices(unfinished, began, step_at),
        *cupti_events.silence(recorded, events, steps),
    ]
    for text in said:
        gathered.said.setdefault(text, []).append(process.label)
    gathered.dropped += cupti_events.lost(events) + cupti_unfinished.uncounted(unfinished, events)
    for kind in cupti_rows.KINDS:
        if kind != "event" and recorded.count(kind):
            gathered.counts[kind] = gathered.counts.get(kind, 0) + recorded.count(kind)


def _devices(tables: Mapping[str, pa.Table], recorded: Mapping[int, Recorded]) -> pa.Table:
    """Devices that ran something. Processes number them as they see them: which GPU it is, is not recorded."""
    process, device = lanes(tables.get("activities"))
    keys = (column_of(tables["processes"].column("global_id")) >> 24).tolist()
    known = {
        (key, number): (one, row)
        for key, one in recorded.items()
        for row, number in enumerate(one.column("device", "device").tolist())
    }
    found = [known.get((keys[p], d)) for p, d in zip(process.tolist(), device.tolist(), strict=True)]

    def fact(name: str) -> Integers:
        return np.array([-1 if one is None else one[0].column("device", name)[one[1]] for one in found], np.int64)

    names = ["" if one is None else one[0].text(int(one[0].column("device", "name")[one[1]])) for one in found]
    major = fact("capability_major")
    columns = {
        "process": process.astype(np.int32),
        "device": device.astype(np.int32),
        "sm_count": small(fact("multiprocessors")),
        "memory_bytes": fact("memory_bytes"),
        "bandwidth_bytes_per_s": fact("bandwidth_bytes_per_s"),
        "compute_capability": np.where(major < 0, -1, 10 * major + fact("capability_minor")).astype(np.int32),
        "name": words(names),
    }
    return make_table("devices", columns, len(found))
