"""Communication: exposed time, amax reductions apart from gradients, and how long ranks wait for the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.distinct import counts, distinct, sums
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.breakdown.tables import COMMUNICATION, Table

# Share of collectives that may seem not to overlap: the root of a small broadcast can leave early.
_APART = 0.05

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]


def communication_table(scope: Scope) -> Table:
    """Communication of the selected activities by operation, phase and kernel family."""
    chosen = np.flatnonzero(scope.in_category("communication"))
    classes = scope.attribution.classes
    labels = [(one.operation, one.family) for one in classes]
    words = list(dict.fromkeys(labels)) or [("", "")]
    code = np.array([words.index(label) for label in labels] or [0], np.int32)[scope.kernel_class[chosen]]
    (phase, label), index = distinct(scope.phase[chosen], code)
    size = len(phase)
    waiting = waiting_for_ranks(scope, chosen)
    columns = {
        "operation": [words[c][0] for c in label.tolist()],
        "phase": phase_words(phase),
        "kernel": [words[c][1] for c in label.tolist()],
        "count": counts(index, size),
        "total_ns": sums(index, size, scope.duration[chosen]),
        "exposed_ns": sums(index, size, _exposed(scope, chosen)),
        "waiting_ns": np.full(size, -1, np.int64) if waiting is None else sums(index, size, waiting),
    }
    return Table(COMMUNICATION, columns).sorted_by("total_ns")


def _exposed(scope: Scope, chosen: npt.NDArray[np.int64]) -> Times:
    """Part of each communication activity in which nothing but communication runs on its lane."""
    from tetrace import _C

    trace = scope.trace
    if not len(chosen):
        return np.empty(0, np.int64)
    others = np.flatnonzero(scope.attribution.category() != CATEGORIES.index("communication"))
    lane = scope.lanes.of_activity
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    order = others[_C.order(lane[others], start[others], end[others])]
    compute = _C.merge(lane[order], start[order], end[order])
    rows = scope.rows[chosen]
    return scope.duration[chosen] - _C.covered(*compute, lane[rows], start[rows], end[rows])


def waiting_for_ranks(scope: Scope, chosen: npt.NDArray[np.int64]) -> Times | None:
    """Part of each collective until its last rank arrived; None where ranks cannot be matched.

    The n-th collective of one kernel family on each lane of the whole recording is taken as one operation: they are
    issued in one order. As no rank can leave before the last has arrived, pairs that never overlap show that the
    recording does not hold the same operations of every rank; then nothing is told.
    """
    rows = scope.rows[chosen]
    lanes = np.unique(scope.lanes.of_activity[rows])
    if len(lanes) < 2 or len(lanes) < len(np.unique(scope.lanes.of_activity[scope.rows])):
        return None
    attribution = scope.attribution
    is_communication = np.array([*(one.category == "communication" for one in attribution.classes), False], np.bool_)
    every = np.flatnonzero(is_communication[attribution.kernel_class])
    every = every[np.isin(scope.lanes.of_activity[every], lanes)]
    lane = scope.lanes.of_activity[every]
    start, end = scope.trace.column("activities", "start_ns")[every], scope.trace.column("activities", "end_ns")[every]
    numbers = {family: i for i, family in enumerate(dict.fromkeys(one.family for one in attribution.classes))}
    families = np.array([numbers[one.family] for one in attribution.classes], np.int64)[attribution.kernel_class[every]]
    arrived = np.full(len(every), -1, np.int64)
    apart, matched = 0, 0
    for family in np.unique(families).tolist():
        per_lane = [np.flatnonzero((families == family) & (lane == one)) for one in lanes.tolist()]
        # The end of a recording may cut the last of them on one rank.
        count = min(len(places) for places in per_lane)
        ordered = np.stack([places[np.argsort(start[places], kind="stable")][:count] for places in per_lane])
        last = start[ordered].max(axis=0)
        arrived[ordered] = last
        apart, matched = apart + int((end[ordered].min(axis=0) < last).sum()), matched + count
    of_row = np.searchsorted(every, rows)
    known = arrived[of_row]
    if apart > _APART * matched or (known < 0).any():
        return None
    return np.clip(known - start[of_row], 0, (end - start)[of_row])
