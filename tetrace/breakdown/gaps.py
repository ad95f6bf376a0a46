"""Where a device idles, and why: every gap split into causes that add up to it, in integers.

A gap [a, b) ends with activity K, launched by call [c0, c1). Until c0 the host had not asked: host-bound, charged to
the host range then running, or synchronization where the launching thread sat in a synchronizing call, or the
profiler's own work. From c0 on it is launch latency: until the call returns, or for as long as the floor, whichever is
longer. A launch that was done before the gap began points elsewhere: to the graph that is being replayed, or to another
stream that K's stream waited for. Where K stood in its stream's queue behind the activity before the gap, a short gap is
what the GPU takes from the one to the other. The rest is unexplained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.distinct import distinct, sums
from tetrace.attribute.link import is_graph_launch
from tetrace.attribute.steps import Windows
from tetrace.breakdown.stream_waits import told_to_wait
from tetrace.breakdown.synchronizing import synchronizing_calls
from tetrace.errors import ConservationError
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

CAUSES = ("host_bound", "synchronization", "launch_latency", "dependency", "graph", "profiler", "queued", "unexplained")
HOST_BOUND, SYNCHRONIZATION, LATENCY, DEPENDENCY, GRAPH, PROFILER, QUEUED, UNEXPLAINED = range(len(CAUSES))
# Rows of the host's time line that are no ranges.
_NO_RANGE, _IN_SYNC, _IN_PROFILER = -1, -2, -3


@dataclass(frozen=True)
class Lanes:
    """Activities by lane (process and device), and the merged time in which each lane is busy.

    `of_activity` is the lane of each activity, shape (activities,); the merged intervals have the shape (intervals,).
    """

    process: Codes
    device: Codes
    of_activity: Codes
    busy_lane: Codes
    busy_start: Times
    busy_end: Times

    def of_windows(self, windows: Windows) -> Codes:
        """Lane of each window, shape (windows,)."""
        places = {pair: i for i, pair in enumerate(zip(self.process.tolist(), self.device.tolist(), strict=True))}
        pairs = zip(windows.process.tolist(), windows.device.tolist(), strict=True)
        return np.array([places[pair] for pair in pairs], np.int32)


@dataclass(frozen=True)
class Idle:
    """Idle time of windows by cause. `causes` has shape (windows, len(CAUSES)); busy + causes = wall, each row.

    `charged_row` and `charged_ns` say which host range (row of Host, -1 where none was open) host-bound idle is charged
    to, with the window and the activity that ended the gap. `charged_longest` marks one piece of each gap, its longest: those
    are as many as there are gaps.
    """

    busy: Times
    causes: Times
    charged_window: Codes
    charged_row: Codes
    charged_activity: Codes
    charged_ns: Times
    charged_longest: Mask

    def of(self, used: Mask) -> Idle:
        """The idle time of the windows that `used` marks."""
        kept = used[self.charged_window]
        place = np.cumsum(used, dtype=np.int32) - 1
        return Idle(
            self.busy[used],
            self.causes[used],
            place[self.charged_window[kept]],
            self.charged_row[kept],
            self.charged_activity[kept],
            self.charged_ns[kept],
            self.charged_longest[kept],
        )


def lanes(attribution: Attribution) -> Lanes:
    """The lanes of the trace, and when each is busy."""
    from tetrace import _C

    trace = attribution.trace
    (process, device), lane = distinct(trace.column("activities", "process"), trace.column("activities", "device"))
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    order = _C.order(lane, start, end)
    merged = _with_ends(lane[order], start[order], end[order], *_C.merge(lane[order], start[order], end[order]))
    return Lanes(process.astype(np.int32), device.astype(np.int32), lane, *merged)


def _with_ends(
    lane: Codes, start: Times, end: Times, busy_lane: Codes, busy_start: Times, busy_end: Times
) -> tuple[Codes, Times, Times]:
    """Busy time with an empty stretch where a lane begins or ends with an activity of no length: gaps lie between two."""
    if not len(lane):
        return busy_lane, busy_start, busy_end
    first = np.flatnonzero(np.append(True, lane[1:] != lane[:-1]))
    of_lane = lane[first]
    place, after = np.searchsorted(busy_lane, of_lane), np.searchsorted(busy_lane, of_lane, side="right")
    last = np.maximum.reduceat(end, first)
    idle = place == after
    early = idle | (start[first] < np.append(busy_start, 0)[place])
    late = idle | (last > np.append(busy_end, 0)[after - 1])
    of = np.concatenate([of_lane[early], of_lane[late]])
    if not len(of):
        return busy_lane, busy_start, busy_end
    order = np.argsort(of, kind="stable")
    where = np.concatenate([place[early], after[late]])[order]
    times = np.concatenate([start[first][early], last[late]])[order]
    return (
        np.insert(busy_lane, where, of[order]),
        np.insert(busy_start, where, times),
        np.insert(busy_end, where, times),
    )


def idle(attribution: Attribution, lanes: Lanes, windows: Windows, floor_ns: int) -> Idle:
    """Idle time of `windows` by cause. `floor_ns` is the launch latency of this machine on an idle stream.

    Raises `ConservationError` when busy and causes do not add up to the windows.
    """
    from tetrace import _C

    lane = lanes.of_windows(windows)
    busy = _C.covered(lanes.busy_lane, lanes.busy_start, lanes.busy_end, lane, windows.start, windows.end)
    gaps = _gaps(attribution, lanes, lane, windows)
    causes = np.zeros((len(lane), len(CAUSES)), np.int64)

    def add(cause: int, ns: Times) -> None:
        # Summed at once: a column a cause for millions of gaps would be most of the memory.
        causes[:, cause] += sums(gaps.window, len(lane), ns)

    charged = _causes(attribution, gaps, floor_ns, add)
    wrong = np.flatnonzero(busy + causes.sum(axis=1) != windows.end - windows.start)
    if len(wrong):
        one = int(wrong[0])
        raise ConservationError(
            f"{attribution.trace.metadata.source}: window {one}: busy {busy[one]} + idle {causes[one].sum()} ns is not its "
            f"wall time of {windows.end[one] - windows.start[one]} ns; please report this"
        )
    gap, row, ns = charged
    return Idle(busy, causes, gaps.window[gap], row, gaps.activity[gap], ns, _longest(gap, ns, len(gaps.start)))


@dataclass(frozen=True)
class Charges:
    """Idle time piece by piece, shape (pieces,): its window, its cause (index of CAUSES), the host range it is charged to
    (row of Host, -1 where none was open) and the activity that ended the gap. `longest` marks one piece of each gap and
    cause, its longest: those are as many as there are gaps that idle for this cause."""

    window: Codes
    cause: Codes
    row: Codes
    activity: Codes
    ns: Times
    longest: Mask


def charges(attribution: Attribution, lanes: Lanes, windows: Windows, floor_ns: int) -> Charges:
    """Idle time of `windows` as pieces, each with the host range that explains it.

    Host-bound idle is charged as in `idle`, waiting in a call to the range around the call, and what passes from the
    launch on to the range that launched.
    """
    gaps = _gaps(attribution, lanes, lanes.of_windows(windows), windows)
    found: list[tuple[Codes, Codes, Codes, Times, Mask]] = []

    def add(cause: int, ns: Times) -> None:
        if cause == HOST_BOUND:
            return
        here = np.flatnonzero(ns)
        activity = gaps.activity[here]
        if cause in (SYNCHRONIZATION, PROFILER):
            row = attribution.host.innermost(attribution.links.thread[activity], gaps.start[here])
        else:
            row = attribution.links.launch_range[activity]
        once = np.ones(len(here), np.bool_)
        found.append((here.astype(np.int32), np.full(len(here), cause, np.int32), row, ns[here], once))

    gap, row, ns = _causes(attribution, gaps, floor_ns, add)
    longest = _longest(gap, ns, len(gaps.start))
    found.append((gap, np.full(len(gap), HOST_BOUND, np.int32), row, ns, longest))
    gap, cause, row, ns, longest = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return Charges(gaps.window[gap], cause, row, gaps.activity[gap], ns, longest)


def _longest(gap: Codes, ns: Times, gaps: int) -> Mask:
    """The longest piece of each gap, the first of several as long, shape (pieces,)."""
    most = np.zeros(gaps, np.int64)
    np.maximum.at(most, gap, ns)
    longest = np.flatnonzero(ns == most[gap])[::-1]
    first = np.full(gaps, -1)
    first[gap[longest]] = longest  # of several the last that is written, which is the first piece
    result = np.zeros(len(gap), np.bool_)
    result[first[first >= 0]] = True
    return result


@dataclass(frozen=True)
class _Gaps:
    """Idle stretches inside windows, shape (gaps,); `activity` is the one that ends it, `before` one that precedes it."""

    window: Codes
    start: Times
    end: Times
    activity: Codes
    before: Codes


def _gaps(attribution: Attribution, lanes: Lanes, lane: Codes, windows: Windows) -> _Gaps:
    from tetrace import _C

    trace = attribution.trace
    # The complement of busy time in the windows; windows of a lane do not overlap, and empty ones hold no gaps.
    follows = np.flatnonzero(lanes.busy_lane[1:] == lanes.busy_lane[:-1])
    order = _C.order(lane, windows.start, windows.end)
    order = order[windows.end[order] > windows.start[order]]
    gap, window, _ = _C.overlaps(
        lanes.busy_lane[follows],
        lanes.busy_end[follows],
        lanes.busy_start[follows + 1],
        lane[order],
        windows.start[order],
        windows.end[order],
    )
    window = order[window]
    whole_end = lanes.busy_start[follows + 1][gap]
    start = np.maximum(lanes.busy_end[follows][gap], windows.start[window])
    end = np.minimum(whole_end, windows.end[window])
    gap_lane = lane[window]
    return _Gaps(
        window,
        start,
        end,
        _activity_at(lanes.of_activity, trace.column("activities", "start_ns"), gap_lane, whole_end),
        _activity_at(lanes.of_activity, trace.column("activities", "end_ns"), gap_lane, lanes.busy_end[follows][gap]),
    )


def _activity_at(lane_of_activity: Codes, times: Times, lane: Codes, wanted: Times) -> Codes:
    """An activity of `lane` whose time is exactly `wanted`, shape (wanted,); the first in the table of several."""
    from tetrace import _C

    order = _C.order(lane_of_activity, times, times)
    found = np.empty(len(wanted), np.int32)
    edges = np.searchsorted(lane_of_activity[order], np.arange(int(lane.max(initial=-1)) + 2))
    for one, (a, b) in enumerate(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)):
        mine = lane == one
        found[mine] = order[a + np.searchsorted(times[order[a:b]], wanted[mine])]
    return found


def _causes(
    attribution: Attribution, gaps: _Gaps, floor_ns: int, add: Callable[[int, Times], None]
) -> tuple[Codes, Codes, Times]:
    """Gives `add` the time of every gap by cause, cause by cause; returns what host ranges are charged with."""
    links, trace = attribution.links, attribution.trace
    call = links.call[gaps.activity]
    launched = call >= 0
    called = _values(trace.column("calls", "start_ns"), call)
    asked = np.where(launched, np.clip(called, gaps.start, gaps.end), gaps.start)
    charged = _host_side(attribution, gaps, asked, add)
    rest = gaps.end - asked
    returned = np.where(launched, _values(trace.column("calls", "end_ns"), call), gaps.start)
    in_graph = _inside_graph(attribution, gaps)
    early = np.flatnonzero(launched & ~in_graph & (returned < gaps.start))
    waited = np.zeros(len(gaps.start), np.bool_)
    waited[early] = told_to_wait(attribution, gaps.activity[early])
    by_launch = launched & ~in_graph & ~waited
    # Counted from the call, not from the gap: an activity that was queued long before waits for no launch.
    launching = np.maximum(returned, called + floor_ns) - asked
    latency = np.where(by_launch, np.clip(launching, 0, rest), 0)
    # A start from an empty stream takes no longer than the floor: what does was held up by something else.
    in_queue = by_launch & (launching <= 0) & (rest <= floor_ns) & _on_one_stream(trace, gaps)
    add(GRAPH, np.where(in_graph, rest, 0))
    add(DEPENDENCY, np.where(waited, rest, 0))
    add(LATENCY, latency)
    add(QUEUED, np.where(in_queue, rest, 0))
    add(UNEXPLAINED, np.where(in_graph | waited | in_queue, 0, rest - latency))
    return charged


def _on_one_stream(trace: Trace, gaps: _Gaps) -> Mask:
    """Gaps between two activities of one stream."""
    stream = trace.column("activities", "stream")
    return stream[gaps.activity] == stream[gaps.before]


def _values(column: Times, rows: Codes) -> Times:
    return column[np.maximum(rows, 0)] if len(column) else np.zeros(len(rows), np.int64)


def _host_side(
    attribution: Attribution, gaps: _Gaps, asked: Times, add: Callable[[int, Times], None]
) -> tuple[Codes, Codes, Times]:
    """Split [start of gap, launch) by what the launching thread was in; `add` takes the time of three causes."""
    from tetrace import _C

    thread = attribution.links.thread[gaps.activity]
    waiting = np.flatnonzero((asked > gaps.start) & (thread >= 0)).astype(np.int32)
    order = waiting[_C.order(thread[waiting], gaps.start[waiting], asked[waiting])]
    line = _time_line(attribution)
    gap, piece, ns = _C.overlaps(thread[order], gaps.start[order], asked[order], *line[:3])
    gap, row = order[gap], line[3][piece]
    size = len(gaps.start)
    left = asked - gaps.start
    for cause, place in ((SYNCHRONIZATION, _IN_SYNC), (PROFILER, _IN_PROFILER)):
        here = row == place
        if here.any():
            spent = sums(gap[here], size, ns[here])
            add(cause, spent)
            left -= spent
    add(HOST_BOUND, left)
    in_range = row >= 0
    if not in_range.all():
        gap, row, ns = gap[in_range], row[in_range], ns[in_range]
    left -= sums(gap, size, ns)
    bare = np.flatnonzero(left).astype(np.int32)
    return (
        np.concatenate([gap, bare]),
        np.concatenate([row, np.full(len(bare), _NO_RANGE, np.int32)]),
        np.concatenate([ns, left[bare]]),
    )


def _time_line(attribution: Attribution) -> tuple[Codes, Times, Times, Codes]:
    """Each thread's time cut by what it is in: a range (its row), a synchronizing call, the profiler."""
    from tetrace import _C

    trace, host = attribution.trace, attribution.host
    sync, profiler = synchronizing_calls(trace), _profiler_records(trace)
    if not len(sync) and not len(profiler):
        return _C.segments(host.thread, host.start, host.end, _C.nest(host.thread, host.start, host.end))
    thread = np.concatenate(
        [host.thread, trace.column("calls", "thread")[sync], trace.column("overheads", "thread")[profiler]]
    )
    start = np.concatenate(
        [host.start, trace.column("calls", "start_ns")[sync], trace.column("overheads", "start_ns")[profiler]]
    )
    end = np.concatenate(
        [host.end, trace.column("calls", "end_ns")[sync], trace.column("overheads", "end_ns")[profiler]]
    )
    row = np.concatenate(
        [
            np.arange(len(host), dtype=np.int32),
            np.full(len(sync), _IN_SYNC, np.int32),
            np.full(len(profiler), _IN_PROFILER, np.int32),
        ]
    )
    order = _C.order(thread, start, end)
    thread, start, end = thread[order], start[order], end[order]
    group, begins, ends, which = _C.segments(thread, start, end, _C.nest(thread, start, end))
    return group, begins, ends, row[order][which]


def _profiler_records(trace: Trace) -> npt.NDArray[np.int64]:
    kinds = list(trace.words("overheads", "kind"))
    if "profiler" not in kinds:
        return np.empty(0, np.int64)
    return np.flatnonzero(trace.column("overheads", "kind") == kinds.index("profiler"))


def _inside_graph(attribution: Attribution, gaps: _Gaps) -> Mask:
    """Gaps between two activities of one launch of a CUDA graph."""
    call = attribution.links.call
    same = (call[gaps.activity] == call[gaps.before]) & (call[gaps.activity] >= 0)
    node = attribution.trace.column("activities", "graph_node")
    graph = is_graph_launch(attribution.trace, attribution.links) | (node != 0)
    return same & graph[gaps.activity]
