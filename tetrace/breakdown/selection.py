"""Which steps, devices and processes a breakdown counts, and why the others are left out."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.distinct import distinct
from tetrace.attribute.steps import Windows, windows_of_rows
from tetrace.errors import UsageError
from tetrace.trace.schema import LOAD

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

STEADY, ALL = "steady", "all"
# A step this much slower than the median is warming up when it comes first, or when it loaded code.
_WARM_UP_RATIO = 1.5
_OPEN = "last, its end was not recorded"
_INCOMPLETE = "not recorded whole, the recorder was off for a part of it"
_WITH_OTHERS = "with the time of steps after it, which launched nothing"
_SLICE = re.compile(r"^(-?\d*):(-?\d*)$|^(-?\d+)$")


@dataclass(frozen=True)
class Selection:
    """What is counted. `activities` marks them, shape (activities,); `frames` are the stretches of device time.

    With steps chosen, the frames are the windows of those steps; with `all`, one frame a lane spans everything.
    `used` marks rows of `windows`, and `reason` says of each why it is not used (empty when it is).
    `steps` counts steps of a lane over all lanes: averages "per step" divide by it; it is 1 for `all`. `asked` are the steps
    that were asked for, and `process` is the row of the process: where no activity ran they choose steps of the host.
    """

    steps_option: str
    activities: Mask
    windows: Windows
    used: Mask
    reason: tuple[str, ...]
    frames: Windows
    steps: int
    asked: str = STEADY
    process: int | None = None

    @property
    def per_step(self) -> bool:
        """Whether figures are averages over steps; otherwise they are totals of everything."""
        return self.steps_option != ALL


def select(
    attribution: Attribution, steps: str = STEADY, device: int | None = None, process: int | None = None
) -> Selection:
    """Choose `steps` (`steady`, `all`, or a Python slice of step numbers such as `5:10`), a device ordinal, a process.

    `process` is an index of the `processes` table or a pid. Raises `UsageError` when nothing is left.
    """
    trace, windows = attribution.trace, attribution.windows
    in_lane = _lanes(attribution, device, process)
    lane_windows = _is_in_lane(attribution, windows, device, process)
    reason = _reasons(attribution, windows, steps, lane_windows)
    used = np.array([not word for word in reason], np.bool_)
    # Steps may be known on the host while nothing was launched in any of them: all that ran is better than nothing.
    if steps == ALL or not trace.rows("activities") or (steps == STEADY and not len(windows.step)):
        one = None if process is None else process_index(attribution, process)
        found = Selection(ALL, in_lane, windows, lane_windows, reason, _spans(attribution, in_lane), 1, steps, one)
        # Recordings by CUDA events have steps in a table of their own (module_times.py).
        if steps in (STEADY, ALL) or not len(attribution.steps) or host_steps(attribution, found).any():
            return found
    if not used.any():
        numbers = attribution.steps.number
        span = f"it has steps {numbers.min()} to {numbers.max()}" if len(numbers) else "it has no steps"
        raise UsageError(
            f"--steps {steps} leaves no step of {trace.metadata.source}; {span}, --steps all counts everything"
        )
    in_step = np.zeros((trace.rows("processes"), len(attribution.steps)), np.bool_)
    in_step[windows.process[used], windows.step[used]] = True
    activities = in_lane & (attribution.step >= 0)
    activities &= in_step[trace.column("activities", "process"), np.maximum(attribution.step, 0)]
    frames = Windows(*(getattr(windows, field.name)[used] for field in dataclasses.fields(Windows)))
    return Selection(steps, activities, windows, used, reason, frames, int(used.sum()))


def host_steps(attribution: Attribution, selection: Selection) -> Mask:
    """Which steps are asked for, shape (steps,): those of the process, and of the numbers where there are some."""
    found = attribution.steps
    chosen = np.ones(len(found), np.bool_) if selection.process is None else found.process == selection.process
    return chosen if selection.asked in (STEADY, ALL) else chosen & in_slice(found.number, selection.asked)


def _lanes(attribution: Attribution, device: int | None, process: int | None) -> Mask:
    trace = attribution.trace
    chosen = np.ones(trace.rows("activities"), np.bool_)
    if device is not None:
        devices = trace.column("activities", "device")
        chosen &= devices == device
        if not chosen.any():
            raise UsageError(
                f"--device {device}: no activity ran on it; there are devices {np.unique(devices).tolist()}"
            )
    if process is not None:
        own = trace.column("activities", "process") == process_index(attribution, process)
        if device is not None and not (chosen & own).any():
            found = np.unique(trace.column("activities", "device")[own]).tolist()
            raise UsageError(f"--process {process} --device {device}: it ran nothing there; it used devices {found}")
        chosen &= own
    return chosen


def process_index(attribution: Attribution, process: int) -> int:
    pids = attribution.trace.column("processes", "pid").tolist()
    if process in pids:
        return pids.index(process)
    if 0 <= process < len(pids):
        return process
    raise UsageError(f"--process {process}: no such process; there are pids {pids}")


def _is_in_lane(attribution: Attribution, windows: Windows, device: int | None, process: int | None) -> Mask:
    chosen = np.ones(len(windows.step), np.bool_)
    if device is not None:
        chosen &= windows.device == device
    if process is not None:
        chosen &= windows.process == process_index(attribution, process)
    return chosen


def _reasons(attribution: Attribution, windows: Windows, steps: str, in_lane: Mask) -> tuple[str, ...]:
    """Why each window is not counted; empty where it is."""
    if steps == STEADY:
        words = _steady_reasons(attribution, windows)
    elif steps == ALL:
        words = [""] * len(windows.step)
    else:
        chosen = in_slice(attribution.steps.number, steps)
        words = ["" if chosen[step] else "not asked for" for step in windows.step.tolist()]
    return tuple(
        word if inside else "other device or process" for word, inside in zip(words, in_lane.tolist(), strict=True)
    )


def in_slice(numbers: npt.NDArray[np.integer], steps: str) -> Mask:
    """Whether each of these step numbers is among `steps`: one number, or a range such as `5:10`."""
    match = _SLICE.match(steps)
    if not match:
        raise UsageError(f"--steps {steps}: give steady, all, one step number, or a range such as 5:10")
    if match[3] is not None:
        return numbers == int(match[3])
    low = int(match[1]) if match[1] else None
    high = int(match[2]) if match[2] else None
    return (numbers >= low if low is not None else True) & (
        numbers < high if high is not None else np.ones(len(numbers), np.bool_)
    )


def _steady_reasons(attribution: Attribution, windows: Windows) -> list[str]:
    words = [""] * len(windows.step)
    loads = _loads(attribution, windows)
    for process, device in dict.fromkeys(zip(windows.process.tolist(), windows.device.tolist(), strict=True)):
        rows = np.flatnonzero((windows.process == process) & (windows.device == device))
        lane = Windows(*(getattr(windows, field.name)[rows] for field in dataclasses.fields(Windows)))
        for row, word in zip(rows.tolist(), _steady_reasons_of_lane(lane, loads[rows]), strict=True):
            words[row] = word
    return _without_declared_warm_up(attribution, windows, words)


def _without_declared_warm_up(attribution: Attribution, windows: Windows, words: list[str]) -> list[str]:
    """Steps that `tetrace record --warmup` named, unless nothing would be left."""
    first = int(attribution.trace.metadata.facts.get("options", {}).get("warmup") or 0)
    warming = attribution.steps.number[windows.step] < first
    found = [word or ("warm-up" if early else "") for word, early in zip(words, warming.tolist(), strict=True)]
    return found if not all(found) else words


def _steady_reasons_of_lane(lane: Windows, loads: Mask) -> list[str]:
    """Warm-up: far slower than the median and first, or with code loaded. The open last window misses its tail."""
    wall, complete = lane.end - lane.start, lane.closed & lane.recorded
    words = [
        _INCOMPLETE if not there else "" if end else _OPEN
        for there, end in zip(lane.recorded, lane.closed, strict=True)
    ]
    # The open window may be cut short anywhere: a median with it would call whole steps slow.
    whole = wall[complete] if complete.sum() > 1 else wall
    settled = whole[len(whole) // 2 :] if len(whole) > 2 else whole
    slow = wall > _WARM_UP_RATIO * float(np.median(settled))
    first = int(np.argmin(slow)) if not slow.all() else 0
    for i in np.flatnonzero(lane.recorded).tolist():
        if slow[i] and i < first:
            words[i] = "warm-up, far slower than the median"
        elif slow[i] and loads[i]:
            words[i] = "loaded code, far slower than the median"
        elif slow[i] and lane.skips[i]:
            words[i] = words[i] or _WITH_OTHERS
    # One step is better than none: an open or slow window is used when there is nothing else.
    if all(words):
        words[np.flatnonzero(lane.recorded)[-1] if lane.recorded.any() else -1] = ""
    return words


def _loads(attribution: Attribution, windows: Windows) -> Mask:
    """Windows in whose step the host loaded modules or compiled."""
    trace, steps = attribution.trace, attribution.steps
    kinds = list(trace.words("calls", "kind"))
    if LOAD not in kinds:
        return np.zeros(len(windows.step), np.bool_)
    rows = np.flatnonzero(trace.column("calls", "kind") == kinds.index(LOAD))
    start, process = trace.column("calls", "start_ns")[rows], trace.column("calls", "process")[rows]
    return np.array(
        [
            bool(((process == steps.process[s]) & (start >= steps.start[s]) & (start < steps.end[s])).any())
            for s in windows.step.tolist()
        ],
        np.bool_,
    )


def _spans(attribution: Attribution, activities: Mask) -> Windows:
    """One frame a lane, from its first activity to its last."""
    trace = attribution.trace
    process, device = trace.column("activities", "process"), trace.column("activities", "device")
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    (processes, devices), lane_of = distinct(process[activities], device[activities])
    rows = []
    for i, (one, ordinal) in enumerate(zip(processes.tolist(), devices.tolist(), strict=True)):
        lane = lane_of == i
        rows.append((one, ordinal, -1, int(start[activities][lane].min()), int(end[activities][lane].max()), 1))
    return windows_of_rows(rows)
