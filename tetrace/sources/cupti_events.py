"""What happened to a process's recording: when it was on, what was lost, and what that means in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.cupti_rows import Recorded
from tetrace.sources.rings import OPEN_NS

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

# csrc/collector/rows.h, Happened.
ON, OFF, YIELDED, RESUMED, FAILED, DROPPED_BY_CUPTI, DROPPED_HERE, UNWRITTEN, FLUSHED, TEXTS_FULL = range(1, 11)
# cuptiGetVersion of 13.0, the first with which the collector notices that another tool takes CUPTI's buffers
# (csrc/collector/canary.h).
_NOTICES_TAKING = 130_000
_LOST = (DROPPED_BY_CUPTI, DROPPED_HERE, UNWRITTEN)


@dataclass(frozen=True)
class Event:
    """One thing that happened; `detail` says who or why."""

    at_ns: int
    what: int
    detail: str
    count: int


def events_of(recorded: Recorded) -> list[Event]:
    """Events by time."""
    columns = (recorded.column("event", name).tolist() for name in ("at", "what", "detail", "count"))
    found = [
        Event(at, what, recorded.text(detail), count) for at, what, detail, count in zip(*columns, strict=True) if what
    ]
    return sorted(found, key=lambda event: event.at_ns)


def has_recorded(events: Sequence[Event]) -> bool:
    """Whether GPU activity was ever recorded, or would have been if there had been any."""
    return any(event.what == ON for event in events)


def lost(events: Sequence[Event]) -> int:
    """Records that are missing."""
    return sum(event.count for event in events if event.what in _LOST)


@dataclass(frozen=True)
class Window:
    """When a process was recorded: `begin` and `end` of the stretches, shape (stretches,), sorted.

    From `lacking` of a stretch on, which is its end where nothing is missing, some launches left no record. What was opened
    around the creation of a graph's node counts too, whenever that was: replayed kernels are told by it. `nodes` are the
    times of that, sorted.
    """

    begin: Integers
    end: Integers
    nodes: Integers
    lacking: Integers

    def gaps(self) -> list[tuple[int, int, int]]:
        """From when to when nothing was recorded behind a stretch, and since when launches lack their records.

        Another tool had CUPTI, or the window was shut. Behind the last stretch there is a gap only if launches lack theirs.
        """
        found = zip(self.end.tolist(), [*self.begin[1:].tolist(), OPEN_NS], self.lacking.tolist(), strict=True)
        return [gap for gap in found if gap[1] != OPEN_NS or gap[2] < gap[0]]

    def choose(self, rows: Mapping[str, Any], steps: Mask) -> Mask:
        """Which rows of a ring belong to the recording, shape (rows,)."""
        start, end = rows["start_ns"], rows["end_ns"]
        stretch = np.minimum(np.searchsorted(self.end, start, side="right"), len(self.end) - 1)
        inside = (self.end[stretch] > start) & (self.begin[stretch] < end)
        captures = np.searchsorted(self.nodes, end) > np.searchsorted(self.nodes, start)
        return np.where(steps, self._choose_steps(start, end), inside | captures)

    def _choose_steps(self, start: Integers, end: Integers) -> Mask:
        """Those that begin in the recording or are mostly in it: recording begins with CUDA, somewhere in a step.

        Steps between two stretches are kept: they part the steps around them.
        """
        begin, last = self.begin[0], self.end[-1]
        inside = np.minimum(end, last) - np.maximum(start, begin)
        return ((start >= begin) & (start < last)) | (inside > end - start - inside)


def stretches(events: Sequence[Event]) -> list[tuple[Event, Event | None]]:
    """What began and what ended each stretch that was recorded; None where nothing ended it.

    Whoever takes CUPTI back says so before recording goes on, which it does only within the window.
    """
    found: list[tuple[Event, Event | None]] = []
    begun: Event | None = None
    for event in events:
        if event.what == ON and begun is None:
            begun = event
        elif event.what in (OFF, YIELDED, FAILED) and begun is not None:
            found.append((begun, event))
            begun = None
    return found if begun is None else [*found, (begun, None)]


def window_of(events: Sequence[Event], nodes: Integers, lacking: Mapping[int, int] | None = None) -> Window | None:
    """When the process of these events was recorded; None where that is not known.

    `lacking`: by the time of the event that ended a stretch, since when launches left no record.
    """
    found = stretches(events)
    if not found:
        return None
    begin = np.array([begun.at_ns for begun, _ in found], np.int64)
    end = np.array([OPEN_NS if ended is None else ended.at_ns for _, ended in found], np.int64)
    since = np.array([(lacking or {}).get(at, at) for at in end.tolist()], np.int64)
    return Window(begin, end, np.sort(nodes), since)


def around(windows: Sequence[Window]) -> Window | None:
    """From the first moment that any was recorded to the last."""
    if not windows:
        return None
    begin = min(int(window.begin[0]) for window in windows)
    end = max(int(window.end[-1]) for window in windows)
    bounds = np.array([begin], np.int64), np.array([end], np.int64)
    return Window(*bounds, np.empty(0, np.int64), bounds[1])


def notices(recorded: Recorded, events: Sequence[Event], step_at: Mapping[int, int]) -> Iterator[str]:
    """What is missing, and from when. `step_at`: the step that ran at the time of an event, where it is known.

    Who had CUPTI meanwhile, the instrumentation has told by steps.
    """
    first = next((event.at_ns for event in events if event.what == ON), None)
    for event in events:
        when = "" if first is None else moment(event.at_ns, first, step_at)
        if event.what == TEXTS_FULL:
            yield _too_many_texts(event, when)
        elif event.what == FAILED:
            reason = f"the collector failed: {event.detail or 'no reason is known'}"
            yield f"{reason}; nothing of the GPU was recorded{f' from {when} on' if when else ''}"
        elif event.what == RESUMED and event.detail:
            yield f"after {when}: {event.detail}" if when else event.detail
    yield from _lost_notices(events)
    if recorded.torn:
        yield "the collector's file is cut off: the process was killed while it was written"
    elif _ended_recording(events):
        yield "the process was killed while it was recorded: what CUPTI had not handed over is missing"


def moment(at_ns: int, first_ns: int, step_at: Mapping[int, int]) -> str:
    """A time in words, by when recording began and the step that ran then."""
    step = f" (step {step_at[at_ns]})" if at_ns in step_at else ""
    return f"{(at_ns - first_ns) / 1e9:.3f} s after recording began{step}"


def silence(recorded: Recorded, events: Sequence[Event], steps: Sequence[tuple[Any, Any, Any]]) -> Iterator[str]:
    """That the last steps left no record, where nobody notices that another tool takes CUPTI's buffers.

    `steps`: start, end and number of those that ran.
    """
    found = [recorded.column(kind, "end") for kind in ("kernel", "memcpy", "memset", "call")]
    if not 0 < recorded.cupti < _NOTICES_TAKING or not any(len(end) for end in found):
        return
    begun, ended = stretches(events)[-1] if has_recorded(events) else (None, None)
    ended = ended or next((event for event in events if event.what == FLUSHED), None)
    if begun is None or ended is None or ended.what == FAILED:
        return  # what a killed process had not handed over is missing, which is told
    since = max(begun.at_ns, *(int(end.max()) for end in found if len(end)))
    silent = [number[(start >= since) & (end <= ended.at_ns)].tolist() for start, end, number in steps]
    numbers = sorted(number for part in silent for number in part)
    if len(numbers) > 1:
        yield (
            f"from step {numbers[0]} on neither a launch nor GPU activity was recorded: where the script launched any, "
            "another tool took CUPTI's buffers, which is noticed from CUPTI 13.0 on only"
        )


def _too_many_texts(event: Event, when: str) -> str:
    since = f"from {when} on" if when else "at some time"
    kept = f"{event.detail} have more different texts than the {event.count >> 20} MiB that are kept"
    way_out = "; leave numbers out of the texts of ranges" if event.detail == "NVTX ranges" else ""
    return f"{kept}: {since} new ones are called (unnamed){way_out}"


def _lost_notices(events: Sequence[Event]) -> Iterator[str]:
    by_cupti, here, unwritten = (sum(e.count for e in events if e.what == what) for what in _LOST)
    if by_cupti:
        yield f"CUPTI dropped {by_cupti:,} records: its buffers were full"
    if here:
        why = next(
            (event.detail for event in events if event.what == DROPPED_HERE and event.detail), "no reason is known"
        )
        yield f"{here:,} records were dropped: {why}"
    if unwritten:
        why = next((event.detail for event in events if event.what == UNWRITTEN and event.detail), "no reason is known")
        yield f"{unwritten:,} records could not be written: {why}"


def _ended_recording(events: Sequence[Event]) -> bool:
    """Whether the process ended while recording was on, without a word."""
    window = window_of(events, np.empty(0, np.int64))
    return window is not None and int(window.end[-1]) == OPEN_NS and all(event.what != FLUSHED for event in events)
