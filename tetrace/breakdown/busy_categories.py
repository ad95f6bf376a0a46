"""Busy time by category: a share of time, not of work, so that bars of steps add up to their wall time.

Where activities of several categories run at once, the time counts for the first of `ORDER`. Communication is the last:
what counts for it is exposed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.steps import Windows
from tetrace.breakdown.scope import Scope
from tetrace.errors import ConservationError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.analysis import Breakdown

    Times = npt.NDArray[np.int64]

ORDER = (*(name for name in CATEGORIES if name != "communication"), "communication")


@dataclass(frozen=True)
class BusyTime:
    """ns of busy time by category. `windows` has shape (rows of table `steps`, len(ORDER)), `lanes` (rows of `lanes`,
    len(ORDER)): each row adds up to `busy_ns` of its table's row."""

    windows: Times
    lanes: Times

    def totals(self) -> dict[str, int]:
        """Categories with their time in the selected steps of all lanes, those without any left out."""
        return {name: ns for name, ns in zip(ORDER, self.lanes.sum(axis=0).tolist(), strict=True) if ns}


def busy_by_category(breakdown: Breakdown) -> BusyTime:
    """Busy time of every step and lane by category. Raises `ConservationError` where it is not their busy time."""
    selection, tables = breakdown.selection, breakdown.tables
    scope = Scope(breakdown.attribution, selection)
    source = scope.trace.metadata.source
    of_windows = _shares(scope, selection.windows, tables["steps"]["busy_ns"], source)
    frames = selection.frames
    # The frames are the used windows, unless everything is counted.
    of_frames = of_windows[selection.used] if selection.per_step else _shares(scope, frames, None, source)
    lanes = np.zeros((len(tables["lanes"]), len(ORDER)), np.int64)
    if len(lanes):
        places = np.unique(scope.lanes.of_windows(frames), return_inverse=True)[1]
        np.add.at(lanes, places, of_frames)
    _check(lanes, tables["lanes"]["busy_ns"], source)
    return BusyTime(of_windows, lanes)


def _shares(scope: Scope, windows: Windows, busy: Times | None, source: str) -> Times:
    from tetrace import _C

    shares = np.zeros((len(windows.step), len(ORDER)), np.int64)
    if not len(windows.step):
        return shares
    trace, lane = scope.trace, scope.lanes.of_windows(windows)
    category = scope.attribution.category()
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    seen: tuple[Any, ...] = (np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64))
    before = np.zeros(len(lane), np.int64)
    for place, name in enumerate(ORDER):
        own = np.flatnonzero(category == CATEGORIES.index(name))
        if not len(own):
            continue
        columns = (scope.lanes.of_activity[own], start[own], end[own])
        seen = _C.merge(*(np.concatenate(pair) for pair in zip(seen, columns, strict=True)))
        covered = _C.covered(*seen, lane, windows.start, windows.end)
        shares[:, place] = covered - before
        before = covered
    if busy is not None:
        _check(shares, busy, source)
    return shares


def _check(shares: Times, busy: Times, source: str) -> None:
    wrong = np.flatnonzero(shares.sum(axis=1) != busy)
    if len(wrong):
        one = int(wrong[0])
        raise ConservationError(
            f"{source}: row {one}: categories sum to {shares[one].sum()} ns of {busy[one]} ns busy; please report this"
        )
