"""Calls in which the host waits until the device is done, and how long the device idles from them on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.trace.schema import LAUNCH, SYNCHRONIZE
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.scope import Scope

# A host thread notices the end of the device's work some microseconds later.
_JITTER_NS = 20_000


def synchronizing_calls(trace: Trace) -> npt.NDArray[np.int64]:
    """Calls that block until the device is done: synchronizations, and copies that are not asynchronous."""
    kinds, names = list(trace.words("calls", "kind")), trace.words("calls", "name")
    blocking = [
        name.startswith(("cudaMemcpy", "cuMemcpy")) and "Async" not in name and "Peer" not in name for name in names
    ]
    kind, name = trace.column("calls", "kind"), trace.column("calls", "name")
    is_sync = (
        np.array([word == SYNCHRONIZE for word in kinds], np.bool_)[kind] if kinds else np.zeros(len(kind), np.bool_)
    )
    is_launch = np.array([word == LAUNCH for word in kinds], np.bool_)[kind] if kinds else is_sync
    is_copy = is_launch & (np.array(blocking, np.bool_)[name] if names else is_launch)
    return np.flatnonzero(is_sync | is_copy)


def drains(scope: Scope) -> tuple[int, int]:
    """Synchronizing calls of the selected frames, and the idle ns that begin while the host sits in them.

    The device runs dry during such a call, and idles until the host has launched again: more than the call itself.
    """
    trace, lanes, frames = scope.trace, scope.lanes, scope.selection.frames
    rows = synchronizing_calls(trace)
    process = trace.column("calls", "process")[rows]
    start, end = trace.column("calls", "start_ns")[rows], trace.column("calls", "end_ns")[rows]
    of_frame = lanes.of_windows(frames)
    calls, drained = 0, 0
    for lane, first, last in zip(of_frame.tolist(), frames.start.tolist(), frames.end.tolist(), strict=True):
        mine = np.flatnonzero((process == lanes.process[lane]) & (start >= first) & (start < last))
        calls += len(mine)
        if not len(mine):
            continue
        busy = slice(*np.searchsorted(lanes.busy_lane, [lane, lane + 1]))
        begins, ends = lanes.busy_start[busy], lanes.busy_end[busy]
        # The last busy stretch that ends by the return of a call, if it ends within that call.
        place = np.searchsorted(ends, end[mine] + _JITTER_NS, side="right") - 1
        dry = (place >= 0) & (place + 1 < len(begins)) & (ends[np.maximum(place, 0)] >= start[mine])
        place = np.unique(place[dry])
        drained += int((np.minimum(begins[place + 1], last) - np.minimum(ends[place], last)).sum())
    return calls, drained
