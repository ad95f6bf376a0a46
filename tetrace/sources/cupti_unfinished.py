"""Launches that left no record, because CUPTI was given away or lost before the GPU had finished them.

Whoever takes CUPTI gets it at once: waiting for the GPU first would empty the queue that the other tool is to see, and
would never end where queued work needs what the host does next. So what the GPU still had to do is missing, though the
host launched it in steps before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.sources import calls
from tetrace.sources.cupti_events import DROPPED_HERE, FAILED, YIELDED, Event, moment, stretches
from tetrace.sources.cupti_rows import Recorded
from tetrace.sources.cupti_tables import call_names
from tetrace.sources.rows import distinct_values
from tetrace.trace.arrays import numpy_of
from tetrace.trace.schema import GRAPH_LAUNCH, LAUNCH

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Unfinished:
    """`count` launches, the first at `since_ns`, that had no record when `end` happened."""

    since_ns: int
    count: int
    end: Event


def unfinished_of(recorded: Recorded, events: Sequence[Event]) -> list[Unfinished]:
    """One for each time that CUPTI was given away or lost while the GPU still had something to do."""
    ends = [(begin, end) for begin, end in stretches(events) if end is not None and end.what in (YIELDED, FAILED)]
    return list(_found(recorded, ends)) if ends else []


def _found(recorded: Recorded, ends: Sequence[tuple[Event, Event]]) -> Iterator[Unfinished]:
    start = recorded.column("call", "start")
    rows = np.flatnonzero(_launches(recorded))
    rows = rows[~np.isin(recorded.column("call", "correlation")[rows], _seen(recorded))]
    rows = rows[~_captured(recorded, rows)]
    for begin, end in ends:
        inside = start[rows[(start[rows] >= begin.at_ns) & (start[rows] < end.at_ns)]]
        if len(inside):
            yield Unfinished(int(inside.min()), len(inside), end)


def _launches(recorded: Recorded) -> Mask:
    """Which calls launched a kernel or a graph, shape (calls,). Copies are left out: one of no bytes leaves no record."""
    names = call_names(recorded)
    words = names.dictionary.to_pylist()
    wanted = [calls.kind(word) in (LAUNCH, GRAPH_LAUNCH) and "Mem" not in word for word in words]
    of_call = np.array([*wanted, False], np.bool_)[numpy_of(names)]
    return of_call & (recorded.column("call", "return_value") == 0)


def _seen(recorded: Recorded) -> Integers:
    """Correlation ids of what the GPU did."""
    kinds = ("kernel", "memcpy", "memset")
    return distinct_values(np.concatenate([recorded.column(kind, "correlation") for kind in kinds]))


def _captured(recorded: Recorded, rows: Integers) -> Mask:
    """Which of the calls `rows` were captured into a graph, shape (rows,): a node was made in them."""
    start, end, thread = (recorded.column("call", name)[rows] for name in ("start", "end", "thread"))
    created, by = recorded.column("node", "created"), recorded.column("node", "thread")
    result = np.zeros(len(rows), np.bool_)
    for one in np.intersect1d(thread, by).tolist():
        mine, times = thread == one, np.sort(created[by == one])
        result[mine] = np.searchsorted(times, end[mine], side="right") > np.searchsorted(times, start[mine])
    return result


def uncounted(found: Sequence[Unfinished], events: Sequence[Event]) -> int:
    """How many launches of `found` are not among the records that the collector counted as dropped."""
    counted = sum(event.count for event in events if event.what == DROPPED_HERE)
    return max(sum(one.count for one in found) - counted, 0)


def notices(found: Sequence[Unfinished], first_ns: int, step_at: Mapping[int, int]) -> Iterator[str]:
    """What is missing, from the launch on that it begins with, and why. `first_ns`: when recording began."""
    for one in found:
        who = f"{one.end.detail or 'another tool'} took CUPTI" if one.end.what == YIELDED else "the collector failed"
        when = moment(one.since_ns, first_ns, step_at)
        yield f"from {when} on {one.count:,} launches left no record: the GPU had not finished them when {who}"
