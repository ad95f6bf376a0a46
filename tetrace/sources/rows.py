"""From the rows of a recorder, which name processes and threads by 64-bit ids, to the tables of a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.waits import by_their_calls
from tetrace.trace.arrays import taken, text_column
from tetrace.trace.schema import BY_NAME
from tetrace.trace.trace import make_table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

_LOW_24_BITS = 0xFFFFFF
# 104 days: sums over what lies in such a span stay far from the end of int64. Nanoseconds since 1970 are below 2^61.
_LONGEST_NS = 1 << 53
_LARGEST_NS = 1 << 62
# The `global_tid` of a row whose thread the recorder did not know.
UNKNOWN = -1


@dataclass(frozen=True)
class Rows:
    """Rows of one table in parts that are put one after the other.

    Columns are those of the schema, but for `process` and `thread`: a part carries `global_tid` (its thread, whose
    low 24 bits are the thread id and the rest the process; `UNKNOWN` is none) or `global_pid`. Times may come in any
    order; an `end_ns` of the largest int64 means "still open", a time of the smallest "not recorded".
    """

    table: str
    parts: Sequence[Mapping[str, Any]]


def collect(
    rows: Sequence[Rows], thread_names: Mapping[int, str], process_names: Mapping[int, str]
) -> tuple[dict[str, pa.Table], list[str]]:
    """Tables of a trace, processes and threads included, sorted by process and start; and notices on odd rows.

    Rows without a thread, and rows whose times cannot be of this recording, are left out, and a notice counts them.
    """
    notices: list[str] = []
    joined = {part.table: _joined(part) for part in rows}
    low, high = _span(joined)
    joined = {name: _usable(name, columns, low, high, notices) for name, columns in joined.items()}
    pids = _recorded_processes(joined)
    joined = {name: _of_processes(columns, pids) for name, columns in joined.items()}
    tids = _distinct([columns["global_tid"] for columns in joined.values() if "global_tid" in columns])
    last = _last_time(joined, high)
    tables = {
        "processes": _processes(pids, process_names),
        "threads": _threads(tids, pids, thread_names),
    }
    for name, columns in joined.items():
        _repair_times(name, columns, last, notices)
        columns["process"] = np.searchsorted(pids, _pids(columns)).astype(np.int32)
        if "global_tid" in columns:
            columns["thread"] = np.searchsorted(tids, columns["global_tid"]).astype(np.int32)
    if "synchronizations" in joined and "calls" in joined:
        joined["synchronizations"] = by_their_calls(joined["synchronizations"], joined["calls"])
    tables |= {name: _sorted(name, columns) for name, columns in joined.items()}
    return tables, notices


def _joined(rows: Rows) -> dict[str, Any]:
    if len(rows.parts) == 1:
        return dict(rows.parts[0])
    sizes = [len(next(iter(part.values()))) for part in rows.parts]
    names = dict.fromkeys(name for part in rows.parts for name in part)
    return {name: _concatenated(rows.table, name, rows.parts, sizes) for name in names}


def _concatenated(table: str, name: str, parts: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> Any:
    import pyarrow as pa

    if name in ("global_tid", "global_pid"):
        return np.concatenate([part[name] for part in parts])
    column = BY_NAME[table].column(name)
    if column.dtype == "text":
        return pa.chunked_array([part[name] for part in parts]).unify_dictionaries().combine_chunks()
    dtype = np.dtype(column.dtype)
    missing = column.missing if column.missing is not None else 0
    return np.concatenate(
        [part[name] if name in part else np.full(size, missing, dtype) for part, size in zip(parts, sizes, strict=True)]
    )


def _pids(columns: Mapping[str, Any]) -> Integers:
    return columns["global_pid"] if "global_pid" in columns else columns["global_tid"] & ~_LOW_24_BITS


def _recorded_processes(joined: Mapping[str, Mapping[str, Any]]) -> Integers:
    """Processes that ran something or opened a range: a recorder also sees helpers that only initialize CUDA."""
    active = [_pids(joined[name]) for name in ("activities", "ranges") if name in joined]
    pids = _distinct(active)
    return pids if len(pids) else _distinct([_pids(columns) for columns in joined.values()])


def _of_processes(columns: dict[str, Any], pids: Integers) -> dict[str, Any]:
    own = _pids(columns)
    kept = (
        pids[np.minimum(np.searchsorted(pids, own), len(pids) - 1)] == own
        if len(pids)
        else np.zeros(len(own), np.bool_)
    )
    if kept.all():
        return columns
    return _taken(columns, kept)


def _taken(columns: Mapping[str, Any], kept: npt.NDArray[np.bool_]) -> dict[str, Any]:
    rows = np.flatnonzero(kept)
    return {name: taken(values, rows) for name, values in columns.items()}


def _begins(columns: Mapping[str, Any]) -> Integers:
    return columns["start_ns"] if "start_ns" in columns else columns["created_ns"]


def _span(joined: Mapping[str, Mapping[str, Any]]) -> tuple[int, int]:
    """The earliest and latest time that can be of this recording."""
    starts = [times for columns in joined.values() if len(times := _begins(columns))]
    low, high = (
        min((int(part.min()) for part in starts), default=0),
        max((int(part.max()) for part in starts), default=0),
    )
    if high - low > _LONGEST_NS:
        # A damaged time or two must not decide what all the others are.
        times = np.concatenate(starts)
        middle = int(np.partition(times, len(times) // 2)[len(times) // 2])
        low, high = middle - _LONGEST_NS // 2, middle + _LONGEST_NS // 2
    return max(low, -_LARGEST_NS), min(high + _LONGEST_NS, _LARGEST_NS)


def _usable(table: str, columns: dict[str, Any], low: int, high: int, notices: list[str]) -> dict[str, Any]:
    start = _begins(columns)
    kept = (start >= low) & (start <= high)
    if not kept.all():
        count, example = int((~kept).sum()), int(start[np.argmin(kept)])
        word = "no start" if example == np.iinfo(np.int64).min else f"times that cannot be (such as {example} ns)"
        notices.append(f"{count:,} {table} have {word}; they are left out")
    if "global_tid" in columns and (columns["global_tid"] == UNKNOWN).any():
        known = columns["global_tid"] != UNKNOWN
        notices.append(f"{int((kept & ~known).sum()):,} {table} do not say their thread; they are left out")
        kept &= known
    return columns if kept.all() else _taken(columns, kept)


def distinct_values(values: Integers) -> Integers:
    """The distinct values in ascending order."""
    from tetrace import _C

    return _C.distinct(np.ascontiguousarray(values))[0]


def _distinct(arrays: Sequence[Integers]) -> Integers:
    return (
        distinct_values(np.concatenate([distinct_values(array) for array in arrays]))
        if arrays
        else np.empty(0, np.int64)
    )


def _last_time(joined: Mapping[str, Mapping[str, Any]], high: int) -> int:
    last = -_LARGEST_NS
    for columns in joined.values():
        for name in ("start_ns", "end_ns", "created_ns"):
            times = columns.get(name, np.empty(0, np.int64))
            times = times[times <= high]
            last = max(last, int(times.max())) if len(times) else last
    return last


def _repair_times(table: str, columns: dict[str, Any], last: int, notices: list[str]) -> None:
    if "end_ns" not in columns:
        return
    start, end = columns["start_ns"], columns["end_ns"]
    still_open = int((end > last).sum())
    if still_open:
        notices.append(f"{still_open:,} {table} were still open when recording ended; they end with the recording")
        columns["end_ns"] = end = np.minimum(end, last)
    backwards = end < start
    if backwards.any():
        notices.append(f"{int(backwards.sum()):,} {table} end before they start; they count as empty")
        columns["end_ns"] = np.where(backwards, start, end)


def _sorted(name: str, columns: dict[str, Any]) -> pa.Table:
    from tetrace import _C

    start = _begins(columns)
    end = columns.get("end_ns", start)
    order = _C.order(columns["process"], np.ascontiguousarray(start), np.ascontiguousarray(end))
    declared = {column.name for column in BY_NAME[name].columns}
    kept = {column: values for column, values in columns.items() if column in declared}
    if not (np.diff(order) == 1).all():
        kept = {column: taken(values, order) for column, values in kept.items()}
    return make_table(name, kept, len(start))


def _processes(pids: Integers, names: Mapping[int, str]) -> pa.Table:
    words, codes = _words([names.get(pid, "") for pid in pids.tolist()])
    columns = {
        "process": np.arange(len(pids), dtype=np.int32),
        "global_id": pids,
        "pid": pids // 0x1000000 % 0x1000000,
        "name": text_column(codes, words),
    }
    return make_table("processes", columns, len(pids))


def _threads(tids: Integers, pids: Integers, names: Mapping[int, str]) -> pa.Table:
    words, codes = _words([names.get(tid, "") for tid in tids.tolist()])
    columns = {
        "thread": np.arange(len(tids), dtype=np.int32),
        "process": np.searchsorted(pids, tids & ~_LOW_24_BITS).astype(np.int32),
        "global_id": tids,
        "tid": tids & _LOW_24_BITS,
        "name": text_column(codes, words),
    }
    return make_table("threads", columns, len(tids))


def _words(values: Sequence[str]) -> tuple[list[str], npt.NDArray[np.int32]]:
    distinct = {word: code for code, word in enumerate(dict.fromkeys(values))}
    return list(distinct) or [""], np.array([distinct[value] for value in values], np.int32)
