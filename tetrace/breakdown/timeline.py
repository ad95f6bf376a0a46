"""The chosen steps as tracks of slices: what each host thread and each stream did when, and which call launched what.

Tracks are made one at a time and only when asked for, so that a long recording can be written as it goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.distinct import distinct
from tetrace.breakdown.host_tables import counted_steps
from tetrace.breakdown.selection import ALL, STEADY, Selection, select
from tetrace.breakdown.stacking import side_by_side, stacked
from tetrace.breakdown.timeline_counters import Counter, counters
from tetrace.breakdown.timeline_labels import Label, Labels, of_activities, of_calls, of_ranges, of_windows
from tetrace.breakdown.timeline_track import HOST, NO_STEP, START_END_RANGES, STEPS, STREAM, Track, runs, split
from tetrace.errors import UsageError
from tetrace.trace.schema import START_END
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.timeline_track import Stack

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]
    Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Timeline:
    """What is drawn of an attribution; `processes` are rows of the trace's processes, `steps` rows of the chosen steps,
    None where everything is drawn."""

    attribution: Attribution
    selection: Selection
    processes: tuple[int, ...]
    steps: Rows | None

    @property
    def trace(self) -> Trace:
        """The trace below it all."""
        return self.attribution.trace

    @cached_property
    def activities(self) -> Rows:
        """Rows of the activities that are drawn."""
        return np.flatnonzero(self.selection.activities)

    @cached_property
    def host_rows(self) -> Rows:
        """Ranges that are drawn, as rows of `Host`: those that share time with the chosen steps."""
        host = self.attribution.host
        if not len(host):
            return np.empty(0, np.int64)
        # The range that opens a recorder's capture is tetrace's own, and lasts as long as the recording.
        return np.flatnonzero(self._in_steps(host.process, host.start, host.end) & ~host.is_kind("capture"))

    @cached_property
    def calls(self) -> Rows:
        """Rows of the calls that are drawn: those in the chosen steps, and those that launched what is drawn."""
        trace, call = self.trace, self.attribution.links.call[self.activities]
        times = (trace.column("calls", name) for name in ("process", "start_ns", "end_ns"))
        chosen = self._in_steps(*times)
        chosen[call[call >= 0]] = True
        return np.flatnonzero(chosen)

    @property
    def slices(self) -> int:
        """How many slices there are on all tracks."""
        return len(self.activities) + len(self.host_rows) + len(self.calls) + int(self.selection.used.sum())

    @cached_property
    def begins_ns(self) -> int:
        """When the first of it begins, by the recorder's clock."""
        trace, steps = self.trace, self.attribution.steps
        used = np.unique(self.selection.windows.step[self.selection.used])
        starts = (
            trace.column("activities", "start_ns")[self.activities],
            trace.column("calls", "start_ns")[self.calls],
            self.attribution.host.start[self.host_rows],
            steps.start[used],
        )
        return min((int(start.min()) for start in starts if len(start)), default=0)

    @cached_property
    def labels(self) -> Sequence[Label]:
        """What slices are called; `Track.label` points here."""
        return tuple(label for part in self._labels for label in part.labels)

    @cached_property
    def _labels(self) -> tuple[Labels, ...]:
        return (
            of_ranges(self.attribution, self.host_rows),
            of_calls(self.attribution, self.calls),
            of_windows(self.attribution, self.selection),
            of_activities(self.attribution, self.activities),
        )

    def _codes(self, part: int) -> Codes:
        """Of each row of a part of the labels, its place among all of them."""
        return self._labels[part].of_row + np.int32(sum(len(earlier.labels) for earlier in self._labels[:part]))

    def _in_steps(self, process: Codes, start: Times, end: Times) -> Mask:
        """Whether host rows share time with the chosen steps of their process; all of it where none is chosen."""
        if self.steps is None:
            return np.isin(process, np.array(self.processes, np.int32))
        steps, used, found = self.attribution.steps, self.steps, np.zeros(len(start), np.bool_)
        for one in self.processes:
            mine, own = np.flatnonzero(process == one), used[steps.process[used] == one]
            begins, ends = steps.start[own], steps.end[own]
            next_end = np.searchsorted(ends, start[mine], side="right")
            inside = np.append(begins, np.iinfo(np.int64).max)[next_end] < np.maximum(end[mine], start[mine] + 1)
            found[mine[inside]] = True
        return found

    def step_numbers(self, steps: Codes) -> Times:
        """The numbers of these steps (`Track.step`), NO_STEP for -1."""
        return np.append(self.attribution.steps.number, NO_STEP)[steps]

    def _steps_at(self, process: int, time: Times) -> Codes:
        """The step that each point of a process's time is in, -1 outside of all."""
        steps = self.attribution.steps
        own = np.flatnonzero(steps.process == process).astype(np.int32)
        if not len(own):
            return np.full(len(time), -1, np.int32)
        place = own[np.maximum(np.searchsorted(steps.start[own], time, side="right") - 1, 0)]
        inside = (time >= steps.start[place]) & (time < steps.end[place])
        return np.where(inside, place, -1).astype(np.int32)

    def tracks(self) -> Iterator[Track]:
        """Every track that holds a slice, by process: host threads, then of each device its steps and its streams."""
        for process in self.processes:
            yield from self._host_tracks(process)
            yield from self._step_tracks(process)
            yield from self._stream_tracks(process)

    def counters(self) -> Iterator[Counter]:
        """Every counter, by process."""
        for process in self.processes:
            yield from counters(self.attribution, self.selection, process)

    def _host_tracks(self, process: int) -> Iterator[Track]:
        host, trace = self.attribution.host, self.trace
        range_thread, call_thread = host.thread[self.host_rows], trace.column("calls", "thread")[self.calls]
        threads = np.flatnonzero(trace.column("threads", "process") == process)
        words = list(trace.words("ranges", "kind"))
        start_end = words.index(START_END) if START_END in words else -1
        for thread in threads.tolist():
            ranges, calls = np.flatnonzero(range_thread == thread), np.flatnonzero(call_thread == thread)
            kinds = trace.column("ranges", "kind")[host.row[self.host_rows[ranges]]]
            # Start/end ranges owe no order to what else the thread opens: they have tracks of their own.
            free = kinds == start_end
            yield from self._of_thread(process, thread, ranges[~free], calls, "", stacked)
            yield from self._of_thread(process, thread, ranges[free], calls[:0], START_END_RANGES, side_by_side)

    def _of_thread(
        self, process: int, thread: int, ranges: Rows, calls: Rows, name: str, stack: Stack
    ) -> Iterator[Track]:
        """Tracks of a thread's ranges (places in `host_rows`) and calls (places in `calls`)."""
        yield from split(
            Track(process, HOST, name, 0, thread, -1, *self._columns_of_thread(process, ranges, calls)), stack
        )

    def _columns_of_thread(
        self, process: int, ranges: Rows, calls: Rows
    ) -> tuple[Times, Times, Codes, Codes, Codes, Times]:
        from tetrace import _C

        host, trace, call = self.attribution.host, self.trace, self.calls[calls]
        start = np.concatenate([host.start[self.host_rows[ranges]], trace.column("calls", "start_ns")[call]])
        end = np.concatenate([host.end[self.host_rows[ranges]], trace.column("calls", "end_ns")[call]])
        label = np.concatenate([self._codes(0)[ranges], self._codes(1)[calls]])
        launched = np.concatenate([np.full(len(ranges), -1, np.int32), call.astype(np.int32)])
        order = _C.order(np.zeros(len(start), np.int32), start, end)
        start, end = start[order], end[order]
        return start, end, label[order], self._steps_at(process, start), *self._launched(launched[order])

    @cached_property
    def _by_call(self) -> tuple[Rows, Rows]:
        """Drawn activities in the order of their calls, and for each call of the trace where its own begin."""
        call = self.attribution.links.call[self.activities]
        known = np.flatnonzero(call >= 0)
        order = known[np.argsort(call[known], kind="stable")]
        counts = np.bincount(call[known], minlength=self.trace.rows("calls"))
        return self.activities[order], np.append(0, np.cumsum(counts))

    def _launched(self, call: Codes) -> tuple[Codes, Times]:
        """How many drawn activities each call launched, none for -1, and the flows to them one after another."""
        by_call, begins = self._by_call
        first = np.where(call >= 0, begins[call], 0)
        count = np.where(call >= 0, begins[call + 1] - first, 0).astype(np.int32)
        return count, runs(first, count, by_call) + 1

    def _step_tracks(self, process: int) -> Iterator[Track]:
        windows, used = self.selection.windows, np.flatnonzero(self.selection.used)
        for device in np.unique(windows.device[used[windows.process[used] == process]]).tolist():
            mine = np.flatnonzero((windows.process[used] == process) & (windows.device[used] == device))
            rows = used[mine]
            columns = (windows.start[rows], windows.end[rows], self._codes(2)[mine], windows.step[rows])
            nothing = (np.zeros(len(rows), np.int32), np.empty(0, np.int64))
            yield from split(Track(process, STEPS, "steps", 0, -1, device, *columns, *nothing), side_by_side)

    def _stream_tracks(self, process: int) -> Iterator[Track]:
        trace, rows = self.trace, self.activities
        mine = np.flatnonzero(trace.column("activities", "process")[rows] == process)
        device, stream = (trace.column("activities", name)[rows[mine]] for name in ("device", "stream"))
        names, place = np.unique(stream, return_inverse=True)
        (devices, streams), which = distinct(device, place.astype(np.int32))
        for one, (ordinal, code) in enumerate(zip(devices.tolist(), streams.tolist(), strict=True)):
            yield from self._of_stream(process, ordinal, int(names[code]), mine[which == one])

    def _of_stream(self, process: int, device: int, stream: int, places: Rows) -> Iterator[Track]:
        name = f"stream {stream}" if stream >= 0 else "stream not captured"
        yield from split(Track(process, STREAM, name, 0, -1, device, *self._columns_of_stream(places)), side_by_side)

    def _columns_of_stream(self, places: Rows) -> tuple[Times, Times, Codes, Codes, Codes, Times]:
        """Columns of a track of these places in `activities`."""
        from tetrace import _C

        rows = self.activities[places]
        start, end = (self.trace.column("activities", name)[rows] for name in ("start_ns", "end_ns"))
        order = _C.order(np.zeros(len(rows), np.int32), start, end)
        rows = rows[order]
        has_flow = self.attribution.links.call[rows] >= 0
        label, step = self._codes(3)[places[order]], self.attribution.step[rows]
        return start[order], end[order], label, step, has_flow.astype(np.int32), rows[has_flow] + 1


def timeline(
    attribution: Attribution, *, steps: str = STEADY, device: int | None = None, process: int | None = None
) -> Timeline:
    """What `steps` (`steady`, `all`, or step numbers such as `5:10`) are drawn as, on a device and process or on all.

    Raises `UsageError` when the choice leaves nothing, or the trace has neither GPU activity nor ranges nor calls.
    """
    trace = attribution.trace
    if not any(trace.rows(table) for table in ("activities", "ranges", "calls")):
        raise UsageError(
            f"{trace.metadata.source}: it has no GPU activity, range or API call to draw; `tetrace report` shows what it has"
        )
    selection = select(attribution, steps, device, process)
    chosen = _chosen(attribution, selection)
    processes: Iterator[int] | range = range(trace.rows("processes"))
    if chosen is not None:
        processes = np.unique(attribution.steps.process[chosen]).tolist()
    elif selection.process is not None:
        processes = range(selection.process, selection.process + 1)
    elif device is not None:
        processes = np.unique(trace.column("activities", "process")[selection.activities]).tolist()
    return Timeline(attribution, selection, tuple(processes), chosen)


def _chosen(attribution: Attribution, selection: Selection) -> Rows | None:
    """Rows of the steps to draw, None for everything; without GPU activities those that a report counts on the host."""
    trace, asked = attribution.trace, selection.asked
    on_host = not trace.rows("activities") and asked != ALL and (len(attribution.steps) > 0 or asked != STEADY)
    if not selection.per_step and not on_host:
        return None
    rows = counted_steps(attribution, selection)
    if not len(rows):
        raise UsageError(f"--steps {asked} leaves no step of {trace.metadata.source}; --steps all draws everything")
    return rows
