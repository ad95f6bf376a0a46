"""The account of a run: every nanosecond of its steps, charged to the kernel that ran or to why none did.

Two accounts can be subtracted line by line, and the differences add up to that of the steps. Where activities of several
categories run at once, the time counts for the first of `busy_categories.ORDER`, within a category for the latest to
start. Idle time is charged to the host range that explains it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.distinct import counts, distinct, first_rows, sums
from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.breakdown.busy_categories import ORDER
from tetrace.breakdown.gaps import CAUSES, charges
from tetrace.breakdown.launch import (
    QUANTIZING_RANGE,
    idle_stream_latency,
    place_words,
    places,
    told_latency,
)
from tetrace.breakdown.recorded import outermost_calls
from tetrace.breakdown.scope import Scope, phase_words, role_words
from tetrace.errors import ConservationError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.attribute.attribution import Attribution
    from tetrace.breakdown.analysis import Breakdown

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]

BUSY, IDLE = "busy", "idle"
ONLY, FUSED = "only", "fused"
_A_MODULE = "a module"


class Line(NamedTuple):
    """What time is charged to. Of busy time, `category`, `operation`, `role`, `shape`, `name` (the kernel's family) and
    `formats` are the kernels'; of idle time `category` is the cause, `name` the host range and `module` its, but that of
    tetrace's FP8 inspection for all idle time that ends in what it launched.

    `quantizes`: `only`, `fused` (beside other work), or empty; of idle time `only` where the range quantizes.
    """

    kind: str
    phase: str
    module: str
    category: str
    operation: str
    role: str
    shape: str
    name: str
    formats: str
    quantizes: str


@dataclass(frozen=True)
class Account:
    """The used steps of a run. `line`, `frame` and `ns` say what is charged in which frame (step of a lane).

    `count` (activities, or gaps: each once for a cause, where its longest piece is) and `work_ns` (durations summed over
    streams) are sums over the steps of a line, `order` is the place at which it first comes in a step. `period` is the step
    of each frame: lanes share steps.
    `latency_ns` is the launch latency of each frame on idle streams: their median is the floor that tells launch latency
    from other idle time, and scatters too. `kernels` are the names of the kernels of a family, those that ran longest first.
    """

    breakdown: Breakdown
    lines: tuple[Line, ...]
    count: Times
    work_ns: Times
    order: Times
    line: Codes
    frame: Codes
    ns: Times
    period: Codes
    latency_ns: npt.NDArray[np.float64]
    kernels: Mapping[str, tuple[str, ...]]

    @property
    def frames(self) -> int:
        """Steps of all lanes."""
        return len(self.period)


def account(breakdown: Breakdown) -> Account:
    """The account of a breakdown's used steps. Raises `ConservationError` where it is not their wall time."""
    scope = Scope(breakdown.attribution, breakdown.selection)
    busy, idle = _busy(scope), _idle(scope, breakdown.totals.latency_floor_ns)
    frames = scope.selection.frames
    shift = len(busy.lines)
    result = Account(
        breakdown=breakdown,
        lines=busy.lines + idle.lines,
        count=np.concatenate([busy.count, idle.count]),
        work_ns=np.concatenate([busy.work_ns, np.zeros(len(idle.lines), np.int64)]),
        order=np.concatenate([busy.order, idle.order]),
        line=np.concatenate([busy.line, idle.line + shift]).astype(np.int32),
        frame=np.concatenate([busy.frame, idle.frame]),
        ns=np.concatenate([busy.ns, idle.ns]),
        period=np.unique(_step_numbers(scope), return_inverse=True)[1].astype(np.int32),
        latency_ns=_latency(scope, breakdown.totals.latency_floor_ns),
        kernels=_kernels(breakdown),
    )
    wall = frames.end - frames.start
    charged = sums(result.frame, len(wall), result.ns)
    if not np.array_equal(charged, wall):
        one = int(np.flatnonzero(charged != wall)[0])
        raise ConservationError(
            f"{scope.trace.metadata.source}: {charged[one]} ns charged of a step of {wall[one]} ns; please report this"
        )
    return result


def _step_numbers(scope: Scope) -> Times:
    """The number of each frame's step; frames that are no steps are one."""
    step = scope.selection.frames.step
    numbers = scope.attribution.steps.number
    return np.where(step >= 0, numbers[np.maximum(step, 0)], -1) if len(numbers) else step.astype(np.int64)


def _latency(scope: Scope, floor_ns: int) -> npt.NDArray[np.float64]:
    """Median launch latency on idle streams in each frame; the floor where a frame has no such launch, or all too few."""
    frames, start = scope.selection.frames, scope.column("start_ns")
    latency = idle_stream_latency(scope.attribution)[scope.rows]
    lane, of_frame = scope.lanes.of_activity[scope.rows], scope.lanes.of_windows(frames)
    found = np.full(len(of_frame), float(floor_ns))
    rows = np.flatnonzero(latency >= 0) if len(told_latency(latency)) else np.empty(0, np.int64)
    for one in np.unique(of_frame).tolist():
        mine = rows[lane[rows] == one]
        mine = mine[np.argsort(start[mine], kind="stable")]
        own = np.flatnonzero(of_frame == one)
        edges = np.searchsorted(start[mine], [frames.start[own], frames.end[own]])
        for frame, first, last in zip(own.tolist(), *edges.tolist(), strict=True):
            if last > first:
                found[frame] = float(np.median(latency[mine[first:last]]))
    return found


def _kernels(breakdown: Breakdown) -> dict[str, tuple[str, ...]]:
    table = breakdown.tables["kernels"]
    names: dict[str, list[str]] = {}
    for family, name in zip(table["family"], table["name"], strict=True):
        names.setdefault(family, []).append(name)
    return {family: tuple(dict.fromkeys(found)) for family, found in names.items()}


@dataclass(frozen=True)
class _Part:
    """The lines of busy or of idle time, and what is charged to them; as in `Account`."""

    lines: tuple[Line, ...]
    count: Times
    work_ns: Times
    order: Times
    line: Codes
    frame: Codes
    ns: Times


def _busy(scope: Scope) -> _Part:
    activity, frame, ns = _charged_activities(scope)
    fields, of_activity = _fields(scope)
    rows = scope.rows
    seen = np.zeros(len(fields), np.bool_)
    seen[of_activity[rows]] = True
    seen[of_activity[activity]] = True
    place = (np.cumsum(seen) - 1).astype(np.int32)
    own, size = place[of_activity[rows]], int(seen.sum())
    frames = len(scope.selection.frames.step)
    (line, in_frame), index = distinct(place[of_activity[activity]], frame)
    return _Part(
        lines=tuple(one for one, kept in zip(fields, seen.tolist(), strict=True) if kept),
        count=counts(own, size),
        work_ns=sums(own, size, scope.duration),
        order=first_rows(own, size),
        line=line.astype(np.int32),
        frame=in_frame.astype(np.int32) if frames else np.empty(0, np.int32),
        ns=sums(index, len(line), ns),
    )


def _fields(scope: Scope) -> tuple[list[Line], Codes]:
    """All lines of busy time in the trace, and the line of each activity."""
    attribution = scope.attribution
    shape, shapes = _shapes(scope)
    (kernel_class, phase, module, role, size), index = distinct(
        attribution.kernel_class, attribution.phase, attribution.module, attribution.role, shape
    )
    rows = zip(
        [attribution.classes[code] for code in kernel_class.tolist()],
        phase_words(phase),
        scope.module_words(module),
        role_words(role),
        size.tolist(),
        strict=True,
    )
    lines = [
        Line(
            BUSY, in_phase, path, one.category, one.operation, word, shapes[code] if code >= 0 else "", one.family,
            one.formats, ONLY if one.category == "quantization" else FUSED if one.fused_quantization else "",
        )
        for one, in_phase, path, word, code in rows
    ]  # fmt: skip
    return lines, index


def _shapes(scope: Scope) -> tuple[Codes, list[str]]:
    """The shape of the recorded call that launched each activity, as a code (-1 not recorded), and the words."""
    host, links = scope.attribution.host, scope.attribution.links
    if not scope.trace.rows("sites") or not len(host):
        return np.full(len(links.range), -1, np.int32), []
    call = np.where(links.range >= 0, outermost_calls(scope)[np.maximum(links.range, 0)], -1)
    site = np.where(call >= 0, host.site[np.maximum(call, 0)], -1)
    words, codes = scope.trace.words("sites", "shape"), scope.trace.column("sites", "shape")
    shape = np.where(site >= 0, codes[np.maximum(site, 0)], -1)
    return shape.astype(np.int32), list(words)


def _charged_activities(scope: Scope) -> tuple[Codes, Codes, Times]:
    """Busy time of the frames in pieces: the activity that each is charged to, its frame, its ns."""
    from tetrace import _C

    frames, lane = scope.selection.frames, scope.lanes.of_activity
    start, end = scope.trace.column("activities", "start_ns"), scope.trace.column("activities", "end_ns")
    of_frame = scope.lanes.of_windows(frames)
    order = _C.order(of_frame, frames.start, frames.end)
    free = (of_frame[order], frames.start[order], frames.end[order])
    frame = order
    found: list[tuple[Codes, Codes, Times]] = []
    alone = int((end - start).sum()) == int((scope.lanes.busy_end - scope.lanes.busy_start).sum())
    category = scope.attribution.category()
    # Where nothing ever runs beside anything else, no category goes first.
    turns = [np.arange(len(lane))] if alone else [np.flatnonzero(category == CATEGORIES.index(one)) for one in ORDER]
    for turn in turns:
        if not len(turn):
            continue
        rows = turn[_C.order(lane[turn], start[turn], end[turn])]
        columns = lane[rows], start[rows], end[rows]
        of_lane, begins, ends, row = _C.segments(*columns, _C.nest(*columns))
        pieces = of_lane, begins, ends
        piece, place, ns = _C.overlaps(*pieces, *free)
        found.append((rows[row[piece]].astype(np.int32), frame[place], ns))
        if not alone:
            free, frame = _cut(_C.subtract(*free, *pieces), free, frame)
    activity, in_frame, ns = (np.concatenate(columns) for columns in zip(*found, strict=True))
    return activity, in_frame, ns


def _cut(
    left: tuple[Codes, Times, Times], free: tuple[Codes, Times, Times], frame: Codes
) -> tuple[tuple[Codes, Times, Times], Codes]:
    """What is left of the free time, cut where frames meet, and the frame of each piece."""
    from tetrace import _C

    piece, place, _ = _C.overlaps(*left, *free)
    start, end = np.maximum(left[1][piece], free[1][place]), np.minimum(left[2][piece], free[2][place])
    return (left[0][piece], start, end), frame[place]


def _idle(scope: Scope, floor_ns: int) -> _Part:
    attribution = scope.attribution
    found = charges(attribution, scope.lanes, scope.selection.frames, floor_ns)
    word, module, phase = places(attribution, found.row, found.activity)
    # Where no range was open, or none but the step's, what the device waited for says where in the script the host was: the
    # kernel, and of a step whether a module or the loss launched it, since another run may launch another kernel there.
    classes = attribution.classes
    owners = [name if name.startswith("(") else _A_MODULE for name in attribution.module_names]
    own = list(dict.fromkeys(owners))
    owner = np.array([*(len(classes) + own.index(name) for name in owners), -1])[attribution.module[found.activity]]
    # Whatever the host did: what the recorder launched is nothing that a module waits for.
    module = np.where(_is_inspection(attribution)[found.activity], attribution.module[found.activity], module)
    in_step = (found.row >= 0) & (word == len(attribution.host.words))
    until = np.where(found.row < 0, attribution.kernel_class[found.activity], np.where(in_step, owner, -1))
    (cause, code, in_module, in_phase, kernel), index = distinct(found.cause, word, module, phase, until)
    lines = []
    rows = zip(
        [CAUSES[one] for one in cause.tolist()],
        place_words(attribution, code),
        scope.module_words(in_module),
        phase_words(in_phase),
        kernel.tolist(),
        strict=True,
    )
    for why, name, path, said, waited in rows:
        place = name
        if waited >= 0:
            before = classes[waited].family if waited < len(classes) else own[waited - len(classes)]
            place = f"{name} before {before}"
        quantizes = ONLY if waited < 0 and QUANTIZING_RANGE.search(name) else ""
        lines.append(Line(IDLE, said, path, why, "", "", "", place, "", quantizes))
    (line, in_frame), both = distinct(index, found.window)
    return _Part(
        lines=tuple(lines),
        count=sums(index, len(lines), found.longest.astype(np.int64)),
        work_ns=np.zeros(len(lines), np.int64),
        order=first_rows(index, len(lines)),
        line=line.astype(np.int32),
        frame=in_frame.astype(np.int32),
        ns=sums(both, len(line), found.ns),
    )


def _is_inspection(attribution: Attribution) -> npt.NDArray[np.bool_]:
    """Which activities tetrace's own FP8 inspection launched."""
    own = np.array([one.category == INSPECTION for one in attribution.classes], np.bool_)
    return own[attribution.kernel_class]
