"""A track of a timeline, and how slices that overlap become several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Stack = Callable[[Times, Times], Codes]

HOST, STEPS, STREAM = "host", "steps", "stream"
# What is beside a thread's own track.
OVERLAPPING, START_END_RANGES = "overlapping ranges", "start/end ranges"
NO_STEP = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Track:
    """Slices that nest or follow one another, in the order (start, the longer first); columns of shape (slices,).

    `kind` is HOST (ranges and API calls of row `thread` of the trace's threads), STEPS or STREAM (on `device`). `lane`
    counts the tracks of one name: what overlaps without nesting goes beside the first, 0. `label` is an index into
    `Timeline.labels`, `step` a row of the attribution's steps, -1 where it is not known. `flow_count` says how
    many of `flows` are a slice's own: numbers that a call and what it launched have in common.
    """

    process: int
    kind: str
    name: str
    lane: int
    thread: int
    device: int
    start: Times
    end: Times
    label: Codes
    step: Codes
    flow_count: Codes
    flows: Times

    def __len__(self) -> int:
        return len(self.start)


def split(whole: Track, stack: Stack) -> Iterator[Track]:
    """The track as one for each lane that `stack` finds among its slices."""
    if not len(whole):
        return
    lanes = stack(whole.start, whole.end)
    if not lanes.any():
        yield whole
        return
    for lane in range(int(lanes.max()) + 1):
        rows = lanes == lane
        names = ("start", "end", "label", "step", "flow_count")
        flows = whole.flows[np.repeat(rows, whole.flow_count)]
        yield replace(whole, lane=lane, flows=flows, **{name: getattr(whole, name)[rows] for name in names})


def runs(first: npt.NDArray[np.integer[Any]], count: Codes, values: Times) -> Times:
    """`count` of `values` from `first` on, for each row one after another."""
    inside = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    return values[np.repeat(first, count) + inside]
