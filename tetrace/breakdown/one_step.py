"""One step as it ran: the activities of each stream and the calls that launched them, few enough to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.classify import CATEGORIES
from tetrace.breakdown.scope import Scope
from tetrace.trace.schema import GRAPH_LAUNCH, LAUNCH

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.analysis import Breakdown

    Rows = npt.NDArray[np.int64]

LAUNCHING = "launching calls"
_MOST_BARS, _MOST_STREAMS = 1500, 12
# Neighbours of one kind that are closer than this part of the window are drawn as one, where there are too many.
_RESOLUTION = 1000


@dataclass(frozen=True)
class Bar:
    """A stretch of `count` activities of a category, or launching calls. Times in ns from the start of the window."""

    track: str
    kind: str
    name: str
    start_ns: int
    end_ns: int
    count: int

    @property
    def length_ns(self) -> int:
        """End minus start."""
        return self.end_ns - self.start_ns


@dataclass(frozen=True)
class OneStep:
    """A window as bars. `step` is its number, -1 where no step is known; `merged` whether neighbours are one bar."""

    step: int
    pid: int
    device: int
    wall_ns: int
    bars: tuple[Bar, ...]
    merged: bool


def one_step(breakdown: Breakdown) -> OneStep | None:
    """The selected step whose wall time is nearest to the median; None where nothing ran."""
    scope, frames = Scope(breakdown.attribution, breakdown.selection), breakdown.selection.frames
    wall = frames.end - frames.start
    if not len(wall):
        return None
    one = int(np.argmin(np.abs(wall - np.median(wall))))
    start, end = int(frames.start[one]), int(frames.end[one])
    process, device = int(frames.process[one]), int(frames.device[one])
    found = _activities(scope, process, device, start, end) + _calls(scope, process, start, end)
    bars, closest = found, max((end - start) // _RESOLUTION, 1)
    while len(bars) > _MOST_BARS:
        bars, closest = _merged(found, closest), closest * 2
    number = breakdown.attribution.steps.number
    return OneStep(
        step=int(number[frames.step[one]]) if frames.step[one] >= 0 else -1,
        pid=int(scope.trace.column("processes", "pid")[process]),
        device=device,
        wall_ns=end - start,
        bars=tuple(bars),
        merged=bars is not found,
    )


def _overlapping(scope: Scope, table: str, process: int, start: int, end: int) -> Rows:
    """Rows of a process that share time with [start, end)."""
    trace = scope.trace
    rows = np.flatnonzero((trace.column(table, "start_ns") < end) & (trace.column(table, "end_ns") > start))
    return rows[trace.column(table, "process")[rows] == process]


def _activities(scope: Scope, process: int, device: int, start: int, end: int) -> list[Bar]:
    trace = scope.trace
    rows = _overlapping(scope, "activities", process, start, end)
    rows = rows[trace.column("activities", "device")[rows] == device]
    streams = trace.column("activities", "stream")[rows]
    known, used = np.unique(streams, return_counts=True)
    rows = rows[np.isin(streams, known[np.argsort(-used, kind="stable")[:_MOST_STREAMS]])]
    begins = trace.column("activities", "start_ns")
    rows = rows[np.lexsort((begins[rows], trace.column("activities", "stream")[rows]))]
    classes = scope.attribution.classes
    columns = zip(
        trace.column("activities", "stream")[rows].tolist(),
        scope.attribution.category()[rows].tolist(),
        scope.attribution.kernel_class[rows].tolist(),
        (begins[rows] - start).tolist(),
        (trace.column("activities", "end_ns")[rows] - start).tolist(),
        strict=True,
    )
    return [
        Bar(f"stream {stream}", CATEGORIES[kind], classes[code].family, max(a, 0), min(b, end - start), 1)
        for stream, kind, code, a, b in columns
    ]


def _calls(scope: Scope, process: int, start: int, end: int) -> list[Bar]:
    """Launching calls of the process, on one track."""
    trace = scope.trace
    launching = [code for code, kind in enumerate(trace.words("calls", "kind")) if kind in (LAUNCH, GRAPH_LAUNCH)]
    rows = _overlapping(scope, "calls", process, start, end)
    rows = rows[np.isin(trace.column("calls", "kind")[rows], launching)]
    begins, names = trace.column("calls", "start_ns"), trace.words("calls", "name")
    rows = rows[np.argsort(begins[rows], kind="stable")]
    columns = zip(
        trace.column("calls", "name")[rows].tolist(),
        (begins[rows] - start).tolist(),
        (trace.column("calls", "end_ns")[rows] - start).tolist(),
        strict=True,
    )
    return [Bar(LAUNCHING, LAUNCHING, names[code], max(a, 0), min(b, end - start), 1) for code, a, b in columns]


def _merged(bars: list[Bar], closest: int) -> list[Bar]:
    """`bars` with neighbours of a track as one: those of a kind that are close, and those too short to be seen."""
    merged: list[Bar] = []
    for bar in bars:
        last = merged[-1] if merged else None
        if last is None or last.track != bar.track or bar.start_ns - last.end_ns > closest:
            merged.append(bar)
        elif last.kind == bar.kind or min(last.length_ns, bar.length_ns) < closest:
            longer = max(bar, last, key=lambda one: one.length_ns)
            name = bar.name if bar.name == last.name else ""
            end = max(last.end_ns, bar.end_ns)
            merged[-1] = Bar(bar.track, longer.kind, name, last.start_ns, end, last.count + bar.count)
        else:
            merged.append(bar)
    return merged
