"""Training steps: on the host from optimizer step to optimizer step (or the user's range), on a device as windows.

Windows run from the first activity launched in a step on its main stream to that of the next step, so that they tile
the device's timeline. Without ranges the optimizer's kernels mark the steps, without those the period of the
sequence of kernel names, and without that there is one window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.distinct import distinct, values_and_codes
from tetrace.attribute.host import Host
from tetrace.attribute.link import Links
from tetrace.trace.schema import KERNEL
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

_WORDS = {
    "ranges": "step ranges",
    "optimizer": "optimizer kernels",
    "period": "the period of the kernel names",
    "none": "one window",
}
# A marker kernel must come at regular places: this share of the distances between its launches are equal.
_REGULAR = 0.8
_FEWEST_PERIODS = 3
# Layers repeat too: periods are steps only when they last about as long as each other and make up the recording.
_ALIKE = 0.25
_COVERED = 0.8
_EVER = -(1 << 62)


@dataclass(frozen=True)
class Steps:
    """Steps of all processes, one after the other; shape (steps,).

    `index` counts within the process, `number` is the one in the range's name where names are numbered and distinct,
    else the index. `[start, end)` is host time; `source` says what marked them: ranges, optimizer, period or none.
    """

    process: Codes
    index: Codes
    number: Times
    name: tuple[str, ...]
    start: Times
    end: Times
    source: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.index)

    def marked_by(self) -> str:
        """In words, what marked the steps."""
        return " and ".join(dict.fromkeys(_WORDS[source] for source in self.source))


@dataclass(frozen=True)
class Windows:
    """Stretches of a device's time, one a step and lane (process and device); shape (windows,).

    `step` is a row of `Steps`. `closed` is false for the last window of a lane, which ends with its last activity
    instead of the next step's first. `recorded` is false where the recorder was off for a part of the step, `skips` true
    where steps follow that launched nothing there, whose time is in this window.
    """

    process: Codes
    device: Codes
    step: Codes
    start: Times
    end: Times
    closed: Mask
    recorded: Mask
    skips: Mask


def find_steps(trace: Trace, host: Host, links: Links, is_optimizer: Mask, is_heavy: Mask) -> tuple[Steps, Codes]:
    """The steps of `trace`, and the row of `Steps` that launched each activity, shape (activities,), -1 outside.

    `is_heavy` marks GEMMs and attention, which part one optimizer block from the next.
    """
    process = trace.column("activities", "process")
    parts, of_activity = [], np.full(len(process), -1, np.int32)
    offset = 0
    for one in range(trace.rows("processes")):
        mine = np.flatnonzero(process == one).astype(np.int32)
        found = _steps_of_process(trace, host, links, one, mine, is_optimizer, is_heavy)
        if found is None:
            continue
        position = np.searchsorted(found.start, links.launch_ns[mine], side="right") - 1
        inside = (position >= 0) & (links.launch_ns[mine] < found.end[position])
        of_activity[mine[inside]] = position[inside] + offset
        offset += len(found)
        parts.append(found)
    return _concatenated(parts), of_activity


def find_windows(trace: Trace, of_activity: Codes, steps: Steps) -> Windows:
    """Device windows of `steps`. A step without an activity on a lane's main stream has no window there."""
    stream = values_and_codes(trace.column("activities", "stream"))[1]
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    (processes, devices), lane_of = distinct(
        trace.column("activities", "process"), trace.column("activities", "device")
    )
    columns: list[list[int]] = []
    for one, (process, device) in enumerate(zip(processes.tolist(), devices.tolist(), strict=True)):
        lane = np.flatnonzero((lane_of == one) & (of_activity >= 0))
        if not len(lane):
            continue
        main = lane[stream[lane] == np.argmax(np.bincount(stream[lane]))]
        first = np.full(len(steps), np.iinfo(np.int64).max)
        np.minimum.at(first, of_activity[main], start[main])
        used = np.flatnonzero(first < np.iinfo(np.int64).max)
        last = int(end[lane[of_activity[lane] == used[-1]]].max())
        # A step that was launched later cannot begin earlier: streams are queues.
        begins = np.maximum.accumulate(first[used])
        ends = np.append(begins[1:], max(last, int(begins[-1])))
        columns += [
            [process, device, step, a, b, i + 1 < len(used)]
            for i, (step, a, b) in enumerate(zip(used.tolist(), begins.tolist(), ends.tolist(), strict=True))
        ]
    windows = windows_of_rows(columns)
    return dataclasses.replace(windows, recorded=_recorded(trace, windows, steps), skips=_skips(windows))


def _recorded(trace: Trace, windows: Windows, steps: Steps) -> Mask:
    """Whether nothing of a step falls into the time in which its process' recorder was off, on host and device.

    Nor may it have launched anything of which the record is missing since the recorder was off when the GPU came to it.
    """
    recorded = np.ones(len(windows.step), np.bool_)
    row_of = {number: row for row, number in enumerate(trace.column("processes", "global_id").tolist())}
    launched, done = steps.start[windows.step], steps.end[windows.step]
    first, last = np.minimum(windows.start, launched), np.maximum(windows.end, done)
    for process, begin, end, *since in trace.metadata.facts.get("unrecorded", ()):
        is_off = (last > begin) & (first < end)
        is_lacking = (done > (since[0] if since else begin)) & (launched < end)
        recorded &= (windows.process != row_of.get(process, -1)) | ~(is_off | is_lacking)
    return recorded


def _skips(windows: Windows) -> Mask:
    """Windows of a lane are rows one after the other."""
    follows = (windows.process[1:] == windows.process[:-1]) & (windows.device[1:] == windows.device[:-1])
    return np.append(follows & (windows.step[1:] > windows.step[:-1] + 1), False)[: len(windows.step)]


def windows_of_rows(rows: Sequence[Sequence[int]]) -> Windows:
    """Windows from rows of (process, device, step, start, end, closed), all recorded whole."""
    columns = np.array(rows, np.int64).reshape(-1, 6).T
    process, device, step = (np.ascontiguousarray(column, np.int32) for column in columns[:3])
    everywhere, nowhere = np.ones(len(rows), np.bool_), np.zeros(len(rows), np.bool_)
    return Windows(process, device, step, columns[3].copy(), columns[4].copy(), columns[5] > 0, everywhere, nowhere)


def _steps_of_process(
    trace: Trace, host: Host, links: Links, process: int, mine: Codes, is_optimizer: Mask, is_heavy: Mask
) -> Steps | None:
    ranges = _from_sites(host, process) or _from_ranges(host, process)
    if ranges is not None and len(ranges) > 1:
        return ranges
    if not len(mine):
        return ranges
    mine = mine[np.argsort(links.launch_ns[mine], kind="stable")]
    times = links.launch_ns[mine]
    found = _from_optimizer(process, times, is_optimizer[mine], is_heavy[mine])
    if ranges is not None and (found is None or len(found) < 2):
        return ranges
    return found or _from_period(trace, process, mine, times) or _one_window(process, times)


def _from_sites(host: Host, process: int) -> Steps | None:
    """Steps that tetrace's instrumentation marked, by their own numbers."""
    if not len(host):
        return None
    rows = np.flatnonzero(host.is_kind("step") & (host.process == process))
    rows = rows[np.argsort(host.start[rows], kind="stable")]
    if not len(rows):
        return None
    number = host.sequence[rows]
    return Steps(
        process=np.full(len(rows), process, np.int32),
        index=np.arange(len(rows), dtype=np.int32),
        number=number,
        name=tuple(f"step {one}" for one in number.tolist()),
        start=host.start[rows],
        end=np.append(host.start[rows][1:], host.end[rows[-1]]),
        source=("ranges",) * len(rows),
    )


def _from_ranges(host: Host, process: int) -> Steps | None:
    is_step = (
        np.array([meaning.step is not None for meaning in host.meanings], np.bool_)[host.word]
        if len(host)
        else np.zeros(0, bool)
    )
    inside = host.inherit(np.where(is_step, 1, -1))
    outermost = is_step & ~((host.parent >= 0) & (inside[np.maximum(host.parent, 0)] == 1))
    rows = np.flatnonzero(outermost & (host.process == process))
    if not len(rows):
        return None
    # One thread drives the steps; the profiler's own annotation is exact where there are several kinds.
    threads, counts = np.unique(host.thread[rows], return_counts=True)
    rows = rows[host.thread[rows] == threads[np.argmax(counts)]]
    profiler = np.array([host.words[word].startswith("ProfilerStep") for word in host.word[rows].tolist()])
    rows = rows[profiler] if profiler.sum() > 1 else rows
    start, end = host.start[rows], host.end[rows]
    meanings = [host.meanings[word] for word in host.word[rows].tolist()]
    numbers = [meaning.step for meaning in meanings]
    distinct = all(meaning.numbered for meaning in meanings) and len(set(numbers)) == len(numbers)
    return Steps(
        process=np.full(len(rows), process, np.int32),
        index=np.arange(len(rows), dtype=np.int32),
        number=np.array(numbers if distinct else range(len(rows)), np.int64),
        name=tuple(host.words[word] for word in host.word[rows].tolist()),
        start=start,
        end=np.append(start[1:], end[-1]),
        source=("ranges",) * len(rows),
    )


def _unnamed(process: int, start: Times, end: Times, source: str) -> Steps:
    index = np.arange(len(start), dtype=np.int32)
    process_column = np.full(len(start), process, np.int32)
    return Steps(process_column, index, index.astype(np.int64), ("",) * len(start), start, end, (source,) * len(start))


def _from_optimizer(process: int, times: Times, is_optimizer: Mask, is_heavy: Mask) -> Steps | None:
    """Steps that end with the last optimizer launch before the next GEMM or attention; what follows is no whole step."""
    marks = np.flatnonzero(is_optimizer | is_heavy)
    optimizer = is_optimizer[marks]
    last = marks[np.flatnonzero(optimizer & ~np.append(optimizer[1:], False))]
    if len(last) < 2:
        return None
    ends = times[last] + 1
    # The first step has no end of another before it: whatever came earlier belongs to it.
    return _unnamed(process, np.append(_EVER, ends[:-1]), ends, "optimizer")


def _from_period(trace: Trace, process: int, mine: Codes, times: Times) -> Steps | None:
    """Steps that begin with the rarest kernel that comes at regular places."""
    words = list(trace.words("activities", "kind"))
    kernels = np.flatnonzero(
        trace.column("activities", "kind")[mine] == (words.index(KERNEL) if KERNEL in words else -1)
    )
    if not len(kernels):
        return None
    names = trace.column("activities", "name")[mine][kernels]
    order = np.argsort(names, kind="stable")
    distance = np.diff(order)
    same = names[order][1:] == names[order][:-1]
    best: tuple[int, int] | None = None
    edges = np.flatnonzero(np.append(True, ~same))
    for first, last in zip(edges.tolist(), [*edges[1:].tolist(), len(names)], strict=True):
        if last - first < _FEWEST_PERIODS:
            continue
        values, counts = np.unique(distance[first : last - 1], return_counts=True)
        period, share = int(values[np.argmax(counts)]), counts.max() / (last - first - 1)
        if share >= _REGULAR and period > 1 and (best is None or period > best[0]):
            best = (period, int(names[order[first]]))
    if best is None:
        return None
    starts = times[kernels[np.sort(order[names[order] == best[1]])]]
    lengths = np.diff(starts)
    alike = np.abs(lengths - np.median(lengths)) <= _ALIKE * np.median(lengths)
    if alike.mean() < _REGULAR or starts[-1] - starts[0] < _COVERED * (times[-1] - times[0]):
        return None
    # What was launched before the first marker belongs to no whole period.
    return _unnamed(process, starts, np.append(starts[1:], times[-1] + 1), "period")


def _one_window(process: int, times: Times) -> Steps:
    return _unnamed(process, times[:1], times[-1:] + 1, "none")


def _concatenated(parts: list[Steps]) -> Steps:
    empty32, empty64 = np.empty(0, np.int32), np.empty(0, np.int64)
    return Steps(
        process=np.concatenate([empty32, *(part.process for part in parts)]),
        index=np.concatenate([empty32, *(part.index for part in parts)]),
        number=np.concatenate([empty64, *(part.number for part in parts)]),
        name=tuple(name for part in parts for name in part.name),
        start=np.concatenate([empty64, *(part.start for part in parts)]),
        end=np.concatenate([empty64, *(part.end for part in parts)]),
        source=tuple(source for part in parts for source in part.source),
    )
