"""PyTorch profiler (Kineto) files, `.json` and `.json.gz`, as traces.

Source of the format: pytorch/kineto `libkineto/src/output_json.cpp` and `CuptiActivity.cpp`. Values beside the events
may hold a process's whole environment; `csrc/kineto/scanner.cpp` names the three that are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.sources import calls
from tetrace.sources.kineto_file import AGAIN, Progress, Scan, scan
from tetrace.sources.kineto_owners import Owners
from tetrace.sources.rows import Rows, collect
from tetrace.trace.arrays import numpy_of, taken, text_column
from tetrace.trace.schema import ANNOTATION, GRAPH_LAUNCH, KERNEL, LAUNCH, MEMCPY, MEMSET, MODULE, OPERATOR, OTHER_CALL
from tetrace.trace.trace import Metadata, Trace

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

_ACTIVITIES = {"kernel": KERNEL, "gpu_memcpy": MEMCPY, "gpu_memset": MEMSET}
_RANGES = {"cpu_op": OPERATOR, "user_annotation": ANNOTATION, "python_function": MODULE}
# What costs without a profiler too, by the words of Kineto for CUpti_ActivityOverheadKind; the rest is the profiler's own.
_OVERHEADS = {
    "Command Buffer Full": "back_pressure",
    "Driver Compiler": "driver",
    "Lazy Function Loading": "driver",
    "Runtime Triggered Module Loading": "driver",
}
_SYNCHRONIZATIONS = {
    "Event Sync": "event", "Stream Wait Event": "stream_wait", "Stream Sync": "stream", "Context Sync": "context",
}  # fmt: skip
_NO_STREAM = 0xFFFFFFFF  # CUPTI_SYNCHRONIZATION_INVALID_VALUE
_MEMCPY = re.compile(r"Memcpy (\S+)")  # `Memcpy HtoD (Pageable -> Device)`


def read(path: Path, progress: Progress | None = None) -> Trace:
    """The trace in the PyTorch profiler file `path`.

    Times are ns since the epoch where the file says when its clock began (`baseTimeNanoseconds`), so that the files
    of several ranks share one axis. A table whose events do not occur is absent. `progress` is told (bytes done,
    bytes in all). Raises `InputError` when the file is cut short, damaged, or no trace of the PyTorch profiler.
    """
    found = scan(path, progress)
    if not found.has_events_list:
        raise InputError(f"{path}: JSON without 'traceEvents', so no PyTorch profiler trace; {AGAIN}")
    if not found.counts():
        raise InputError(f"{path}: {_nothing_in(found)}; profile at least one training step with torch.profiler")
    tables, notices = _tables(found)
    metadata = Metadata(
        source=path.name,
        source_format="kineto json",
        recorder="PyTorch profiler",
        graph_mode=_graph_mode(tables),
        notices=(*_omissions(found), *notices),
        counts=found.counts(),
    )
    return Trace(metadata, tables)


def _nothing_in(found: Scan) -> str:
    events = found.events + found.malformed
    return f"none of its {events:,} events is one of the PyTorch profiler" if events else "its list of events is empty"


def _omissions(found: Scan) -> Iterator[str]:
    if found.malformed:
        yield f"{found.malformed:,} events are not valid JSON (PyTorch does not escape quotes); they were left out"
    if found.untimed:
        yield f"{found.untimed:,} events have no start or duration that can be read; they were left out"
    if found.unended:
        yield f"{found.unended:,} events begin without an end or end without a beginning; they were left out"
    if found.is_unclosed:
        yield "the list of events is not closed; the file may be cut short"


def _graph_mode(tables: Mapping[str, pa.Table]) -> str:
    # Kineto always records the kernels of a graph one by one.
    kinds = tables["calls"].column("kind").unique().to_pylist() if "calls" in tables else []
    return "node" if GRAPH_LAUNCH in kinds else ""


def _tables(found: Scan) -> tuple[dict[str, pa.Table], list[str]]:
    owners, notices = Owners(found), list[str]()
    reader = _Reader(found, owners, notices)
    activities = [part for category in _ACTIVITIES if (part := _activity(reader, category))]
    api_calls = _calls(reader, activities)
    waits = [part for part in [_synchronization(reader)] if part]
    _give_processes([*activities, *waits], api_calls, owners, notices)
    rows = [
        Rows("activities", activities),
        Rows("calls", api_calls),
        Rows("ranges", [part for category in _RANGES if (part := _range(reader, category))]),
        Rows("synchronizations", waits),
        Rows("overheads", [part for part in [_overhead(reader)] if part]),
    ]
    present = [part for part in rows if part.parts]
    tables, odd_times = collect(present, owners.thread_names(), owners.process_names())
    tables["processes"] = owners.processes(tables["processes"])
    tables["threads"] = owners.threads(tables["threads"])
    if "activities" in tables:
        tables["devices"] = owners.devices(tables["activities"])
    return tables, [*notices, *odd_times]


class _Reader:
    """Columns of a category as the schema wants them: text, times since the epoch, threads with their process."""

    def __init__(self, found: Scan, owners: Owners, notices: list[str]) -> None:
        self._tables = found.tables
        self._owners = owners
        self._notices = notices
        base = found.fact("baseTimeNanoseconds")
        last = max(int(columns["end_ns"].max(initial=0)) for columns, _ in found.tables.values())
        self._base_ns = base if isinstance(base, int) and 0 <= base <= np.iinfo(np.int64).max - last else 0

    def read(self, category: str, rename: Callable[[str], str] = str) -> dict[str, Any] | None:
        """Columns of `category`, its names renamed; None when it has no rows."""
        found, words = self._tables[category]
        if not len(found["start_ns"]):
            return None
        columns = dict(found)
        columns["start_ns"] = columns["start_ns"] + self._base_ns
        columns["end_ns"] = columns["end_ns"] + self._base_ns
        columns["name"] = text_column(*_renamed(columns["name"], self._decoded(category, words), rename))
        if "correlation" in columns:  # CUPTI_CORRELATION_ID_UNKNOWN is 0
            columns["correlation"] = np.where(columns["correlation"] > 0, columns["correlation"], -1)
            columns = self._kept(
                columns, _first_of_repeats(columns), f"{category} events occur twice; each counts once"
            )
        if "thread" in columns:
            tid = self._owners.global_tid(columns.pop("thread"))
            columns = self._kept(
                {**columns, "global_tid": tid},
                tid >= 0,
                f"{category} events are of no known process; they were left out",
            )
        return columns

    def _decoded(self, category: str, words: Sequence[bytes]) -> list[str]:
        texts = [word.decode("utf-8", "replace") for word in words]
        broken = sum(text.encode() != word for text, word in zip(texts, words, strict=True))
        if broken:
            self._notices.append(
                f"{broken:,} names of {category} events are not UTF-8; bad bytes show as \N{REPLACEMENT CHARACTER}"
            )
        return texts

    def _kept(self, columns: dict[str, Any], rows: Mask, otherwise: str) -> dict[str, Any]:
        lost = len(rows) - int(rows.sum())
        if not lost:
            return columns
        self._notices.append(f"{lost:,} {otherwise}")
        return _taken(columns, rows)


def _taken(columns: Mapping[str, Any], rows: Mask) -> dict[str, Any]:
    kept = np.flatnonzero(rows)
    return {name: taken(values, kept) for name, values in columns.items()}


def _renamed(
    codes: npt.NDArray[np.int32], words: Sequence[str], rename: Callable[[str], str]
) -> tuple[npt.NDArray[np.int32], list[str]]:
    renamed = [rename(word) for word in words]
    distinct = {word: code for code, word in enumerate(dict.fromkeys(renamed))}
    if len(distinct) == len(words):
        return codes, renamed
    return np.array([distinct[word] for word in renamed], np.int32)[codes], list(distinct)


def _first_of_repeats(columns: Mapping[str, Any]) -> Mask:
    """False for rows that repeat an earlier one in every column: files put together may hold one event twice."""
    kept = np.ones(len(columns["start_ns"]), np.bool_)
    starts = np.sort(columns["start_ns"])
    again = starts[1:][starts[1:] == starts[:-1]]
    rows = np.flatnonzero(_is_among(columns["start_ns"], again) & (columns["correlation"] >= 0))
    if len(rows):
        integers = [values if isinstance(values, np.ndarray) else numpy_of(values) for values in columns.values()]
        _, first = np.unique(np.column_stack([values[rows] for values in integers]), axis=0, return_index=True)
        kept[rows] = False
        kept[rows[first]] = True
    return kept


def _is_among(values: Integers, ascending: Integers) -> Mask:
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    found: Mask = ascending[np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)] == values
    return found


def _constant(word: str, rows: int) -> pa.DictionaryArray:
    return text_column(np.zeros(rows, np.int32), [word])


def _activity_name(name: str) -> str:
    match = _MEMCPY.match(name)
    if match:
        return f"memcpy {match[1]}"
    return "memset" if name.startswith("Memset") else name


def _activity(reader: _Reader, category: str) -> dict[str, Any] | None:
    kind = _ACTIVITIES[category]
    columns = reader.read(category, str if kind == KERNEL else _activity_name)
    if columns:
        columns["kind"] = _constant(kind, len(columns["start_ns"]))
    return columns


def _range(reader: _Reader, category: str) -> dict[str, Any] | None:
    columns = reader.read(category)
    if columns:
        columns["kind"] = _constant(_RANGES[category], len(columns["start_ns"]))
    return columns


def _overhead(reader: _Reader) -> dict[str, Any] | None:
    columns = reader.read("overhead")
    if columns:
        words = columns["name"].dictionary.to_pylist()
        kinds = [_OVERHEADS.get(word, "profiler") for word in words]
        columns["kind"] = text_column(*_renamed(numpy_of(columns["name"]), kinds, str))
    return columns


def _synchronization(reader: _Reader) -> dict[str, Any] | None:
    columns = reader.read("cuda_sync", lambda name: _SYNCHRONIZATIONS.get(name, name))
    if columns:
        columns["kind"] = columns.pop("name")
        columns["stream"] = np.where(columns["stream"] == _NO_STREAM, -1, columns["stream"])
    return columns


def _calls(reader: _Reader, activities: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Calls that a trace keeps; any call that an activity names as its own is one, whatever it is called."""
    ids = [part["correlation"] for part in activities]
    launched = np.sort(np.concatenate(ids)) if ids else np.empty(0, np.int64)
    launched = launched[launched >= 0]
    runtime, driver = reader.read("cuda_runtime", calls.plain_name), reader.read("cuda_driver", calls.plain_name)
    if runtime and driver:
        driver = _taken(driver, ~_is_nested(driver, runtime) | _is_own(driver, runtime, launched))
    return [_call_kinds(part, launched) for part in (runtime, driver) if part]


def _call_kinds(columns: Mapping[str, Any], launched: Integers) -> dict[str, Any]:
    codes, words = numpy_of(columns["name"]), columns["name"].dictionary.to_pylist()
    unknown = np.array([calls.kind(word) == OTHER_CALL for word in words], np.bool_)[codes]
    launches = np.zeros(len(codes), np.bool_)
    launches[unknown] = _is_among(columns["correlation"][unknown], launched)
    kinds = [*(calls.kind(word) for word in words), LAUNCH]
    kind = text_column(*_renamed(np.where(launches, len(words), codes), kinds, str))
    kept = np.array([calls.is_kept(word) for word in words], np.bool_)[codes] | launches
    return _taken({**columns, "kind": kind}, kept)


def _is_nested(driver: Mapping[str, Any], runtime: Mapping[str, Any]) -> Mask:
    """Which driver calls a runtime call of their thread makes: the outermost counts."""
    nested = np.zeros(len(driver["start_ns"]), np.bool_)
    for tid in np.unique(driver["global_tid"]).tolist():
        outer = np.flatnonzero(runtime["global_tid"] == tid)
        outer = outer[np.argsort(runtime["start_ns"][outer], kind="stable")]
        rows = np.flatnonzero(driver["global_tid"] == tid)
        before = np.searchsorted(runtime["start_ns"][outer], driver["start_ns"][rows], "right") - 1
        ends = np.append(runtime["end_ns"][outer], np.iinfo(np.int64).min)  # -1 finds that none is before
        nested[rows] = ends[before] >= driver["end_ns"][rows]
    return nested


def _is_own(driver: Mapping[str, Any], runtime: Mapping[str, Any], launched: Integers) -> Mask:
    """Which driver calls are named by an activity that names no runtime call: without them it would lose its launch."""
    ids = driver["correlation"]
    return _is_among(ids, launched) & ~_is_among(ids, np.sort(runtime["correlation"]))


def _give_processes(
    parts: Sequence[dict[str, Any]], api_calls: Sequence[Mapping[str, Any]], owners: Owners, notices: list[str]
) -> None:
    """Adds `global_pid` to the parts, which are GPU events."""
    launches = {
        name: np.concatenate([part[name] for part in api_calls]) if api_calls else np.empty(0, np.int64)
        for name in ("correlation", "global_tid")
    }
    guesses = 0
    for part in parts:
        part["global_pid"], unsure = owners.global_pid(part["correlation"], part["device"], launches)
        guesses += unsure
    if guesses:
        notices.append(
            f"{guesses:,} GPU events name no call of a single process; they count for the one that uses their device"
        )
