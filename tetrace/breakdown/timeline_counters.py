"""What is counted beside the slices of a timeline: the launch queue, launches, and what FP8 clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.breakdown.selection import Selection
from tetrace.fp8.observations import clipped, tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

QUEUE, LAUNCHES = "launched, not started", "launches per ms"
CLIPPED, MOST_CLIPPED = "FP8 clipped", "FP8 clipped, worst tensor"
_MS = 1_000_000
_PPM = 1e6


@dataclass(frozen=True)
class Counter:
    """A number of a process over time: from each `time` on it is `value`, both of shape (samples,). Integers or ppm."""

    process: int
    name: str
    unit: str
    time: Times
    value: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.time)


def counters(attribution: Attribution, selection: Selection, process: int) -> Iterator[Counter]:
    """The counters of a process, over the time that its chosen steps take on the host and on its devices."""
    span = _span(attribution, selection, process)
    if span is None:
        return
    for counter in (_queue(attribution, process), _launches(attribution, process)):
        if counter is not None:
            yield _within(counter, *span)
    for counter in _clipped(attribution, process):
        yield _within(counter, *span)


def _span(attribution: Attribution, selection: Selection, process: int) -> tuple[int, int] | None:
    """From the first launch that is chosen, or step that is, to the end of the last activity."""
    trace, steps = attribution.trace, attribution.steps
    mine = np.flatnonzero(selection.activities & (trace.column("activities", "process") == process))
    used = np.unique(selection.windows.step[selection.used])
    used = used[steps.process[used] == process]
    if not len(mine):
        return None
    begins = [int(attribution.links.launch_ns[mine].min()), *steps.start[used].tolist()]
    return min(begins), int(trace.column("activities", "end_ns")[mine].max())


def _within(counter: Counter, start: int, end: int) -> Counter:
    """The samples of [start, end], beginning with the value that holds at `start`."""
    first = max(int(np.searchsorted(counter.time, start, side="right")) - 1, 0)
    last = int(np.searchsorted(counter.time, end, side="right"))
    time = np.maximum(counter.time[first:last], start)
    return Counter(counter.process, counter.name, counter.unit, time, counter.value[first:last])


def _queue(attribution: Attribution, process: int) -> Counter | None:
    """Activities that were launched and had not started; those of which no call was captured are in no queue."""
    trace, links = attribution.trace, attribution.links
    mine = np.flatnonzero((trace.column("activities", "process") == process) & (links.call >= 0))
    if not len(mine):
        return None
    launched = links.launch_ns[mine]
    # Clocks of device and host may differ by a little: what starts before its launch was never queued.
    started = np.maximum(trace.column("activities", "start_ns")[mine], launched)
    time = np.concatenate([launched, started])
    del launched, started
    order = np.argsort(time, kind="stable").astype(np.int32)
    time, step = time[order], np.where(order < len(mine), 1, -1).astype(np.int32)
    last = np.append(time[1:] != time[:-1], True)
    return _changes(process, QUEUE, "activities", time[last], np.cumsum(step, dtype=np.int32)[last])


def _launches(attribution: Attribution, process: int) -> Counter | None:
    """Calls that launched work, by the millisecond of the recorder's clock in which they began."""
    trace, links = attribution.trace, attribution.links
    if not trace.rows("calls"):
        return None
    launching = np.bincount(links.call[links.call >= 0], minlength=trace.rows("calls")) > 0
    start = trace.column("calls", "start_ns")[launching & (trace.column("calls", "process") == process)]
    if not len(start):
        return None
    of_ms, count = np.unique(start // _MS, return_counts=True)
    # A millisecond without a launch, behind one with: the number falls to 0 there.
    empty = np.setdiff1d(of_ms + 1, of_ms)
    time, value = np.concatenate([of_ms, empty]), np.concatenate([count, np.zeros(len(empty), np.int64)])
    order = np.argsort(time)
    return _changes(process, LAUNCHES, "launches", time[order] * _MS, value[order])


def _changes(process: int, name: str, unit: str, time: Times, value: Times) -> Counter:
    kept = np.append(True, value[1:] != value[:-1])
    return Counter(process, name, unit, time[kept], value[kept])


def _clipped(attribution: Attribution, process: int) -> Iterator[Counter]:
    """Of the values that were seen before their cast in each step, how many in a million it clipped: over all tensors, and
    in the worst of them. A step's number holds from its begin on the host."""
    trace, steps = attribution.trace, attribution.steps
    if not trace.has("fp8_tensors"):
        return
    rows = tensors(trace)
    rows = rows.take((rows["process"] == process) & (clipped(rows) >= 0) & (rows["elements"] > 0))
    many, elements = clipped(rows), rows["elements"]
    own = np.flatnonzero(steps.process == process)
    if not len(rows) or not len(own):
        return
    number, place = np.unique(rows["step"], return_inverse=True)
    sums = np.zeros((2, len(number)), np.int64)
    np.add.at(sums[0], place, many)
    np.add.at(sums[1], place, elements)
    worst = np.zeros(len(number))
    np.maximum.at(worst, place, many / elements)
    start_of = dict(zip(steps.number[own].tolist(), steps.start[own].tolist(), strict=True))
    known = np.array([one in start_of for one in number.tolist()], np.bool_)
    time = np.array([start_of[one] for one in number[known].tolist()], np.int64)
    order = np.argsort(time)
    for name, share in ((CLIPPED, sums[0] / np.maximum(sums[1], 1)), (MOST_CLIPPED, worst)):
        yield Counter(process, name, "ppm of values", time[order], (share[known] * _PPM)[order])
