"""Steps and lanes: wall = busy + idle by cause, busy = compute + exposed communication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.distinct import counts, distinct, sums
from tetrace.attribute.steps import Windows
from tetrace.breakdown.communication import waiting_for_ranks
from tetrace.breakdown.gaps import CAUSES, Idle
from tetrace.breakdown.scope import Scope
from tetrace.breakdown.tables import LANES, STEPS, Table
from tetrace.errors import ConservationError

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]


def exposed_communication(scope: Scope, windows: Windows) -> Times:
    """Time of each window in which only communication runs, shape (windows,)."""
    from tetrace import _C

    exposed = scope.exposed_communication
    return _C.covered(*exposed, scope.lanes.of_windows(windows), windows.start, windows.end)


def steps_table(scope: Scope, idle: Idle) -> Table:
    """Every window of every lane, used or not. `idle` is that of all windows."""
    windows, steps, selection = scope.selection.windows, scope.attribution.steps, scope.selection
    exposed = exposed_communication(scope, windows)
    window = _window_of_activities(scope, windows)
    inside = np.flatnonzero(window >= 0)
    size = len(windows.step)
    call = scope.attribution.links.call[inside]
    (of_window, _), _ = distinct(window[inside][call >= 0], call[call >= 0])
    columns = {
        "process": windows.process.astype(np.int64),
        "device": windows.device.astype(np.int64),
        "step": steps.number[windows.step],
        "name": [steps.name[step] for step in windows.step.tolist()],
        "used": selection.used.astype(np.int64),
        "reason": list(selection.reason),
        "wall_ns": windows.end - windows.start,
        "busy_ns": idle.busy,
        "compute_ns": idle.busy - exposed,
        "exposed_communication_ns": exposed,
        **{f"{cause}_ns": idle.causes[:, i] for i, cause in enumerate(CAUSES)},
        "spill_ns": _spill(scope, windows, window, inside),
        "activities": counts(window[inside], size),
        "launches": counts(of_window.astype(np.int32), size),
    }
    return Table(STEPS, columns)


def _window_of_activities(scope: Scope, windows: Windows) -> Codes:
    """The window of the step that launched each activity of the trace, on its lane; -1 where there is none."""
    lane_of_window = scope.lanes.of_windows(windows)
    table = np.full((len(scope.lanes.process), len(scope.attribution.steps) + 1), -1, np.int32)
    table[lane_of_window, windows.step] = np.arange(len(windows.step), dtype=np.int32)
    return table[scope.lanes.of_activity, scope.attribution.step]


def _spill(scope: Scope, windows: Windows, window: Codes, inside: npt.NDArray[np.int64]) -> Times:
    """Duration of each step's activities outside the step's window."""
    start = scope.trace.column("activities", "start_ns")[inside]
    end = scope.trace.column("activities", "end_ns")[inside]
    own = window[inside]
    within = np.maximum(np.minimum(end, windows.end[own]) - np.maximum(start, windows.start[own]), 0)
    return sums(own, len(windows.step), end - start - within)


def lanes_table(scope: Scope, idle: Idle) -> Table:
    """Every lane over the selected frames. `idle` is that of the frames."""
    frames, trace = scope.selection.frames, scope.trace
    of_frame = scope.lanes.of_windows(frames)
    (lane,), index = distinct(of_frame)
    size = len(lane)
    exposed = exposed_communication(scope, frames)
    position = np.full(len(scope.lanes.process), -1, np.int32)
    position[lane] = np.arange(size, dtype=np.int32)
    of_activity = position[scope.lanes.of_activity[scope.rows]]
    process, device = scope.lanes.process[lane], scope.lanes.device[lane]
    communication = np.flatnonzero(scope.in_category("communication"))
    waiting = waiting_for_ranks(scope, communication)
    columns = {
        "process": process.astype(np.int64),
        "pid": trace.column("processes", "pid")[process],
        "rank": trace.column("processes", "rank")[process].astype(np.int64),
        "device": device.astype(np.int64),
        "gpu": _gpu_names(scope, process, device),
        "steps": counts(index, size) if scope.selection.per_step else np.zeros(size, np.int64),
        "count": counts(of_activity, size),
        "total_ns": sums(of_activity, size, scope.duration),
        "wall_ns": sums(index, size, frames.end - frames.start),
        "busy_ns": sums(index, size, idle.busy),
        "exposed_communication_ns": sums(index, size, exposed),
        **{f"{cause}_ns": sums(index, size, idle.causes[:, i]) for i, cause in enumerate(CAUSES)},
        "communication_ns": sums(of_activity[communication], size, scope.duration[communication]),
        "waiting_ns": np.full(size, -1, np.int64)
        if waiting is None
        else sums(of_activity[communication], size, waiting),
    }
    table = Table(LANES, columns)
    _check(scope, table)
    return table


def _gpu_names(scope: Scope, process: Codes, device: Codes) -> list[str]:
    trace = scope.trace
    words = trace.words("devices", "name")
    keys = zip(trace.column("devices", "process").tolist(), trace.column("devices", "device").tolist(), strict=True)
    names = {key: words[code] for key, code in zip(keys, trace.column("devices", "name").tolist(), strict=True)}
    return [names.get(key, "") for key in zip(process.tolist(), device.tolist(), strict=True)]


def _check(scope: Scope, table: Table) -> None:
    """Every selected activity is in one lane, and busy plus idle is wall."""
    parts = sum(int(table[f"{cause}_ns"].sum()) for cause in CAUSES)
    if int(table["busy_ns"].sum()) + parts != int(table["wall_ns"].sum()) or int(table["total_ns"].sum()) != int(
        scope.duration.sum()
    ):
        raise ConservationError(f"{scope.trace.metadata.source}: lanes do not add up; please report this")
