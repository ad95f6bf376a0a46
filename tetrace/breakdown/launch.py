"""Launch costs: host time inside launching calls, latency on an idle stream, and the idle the host is charged with.

The three are never added up. A long call while the device has work queued is back-pressure, not cost.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.distinct import counts, distinct, sums, values_and_codes
from tetrace.attribute.vocabulary import UNATTRIBUTED
from tetrace.breakdown.gaps import Idle
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.breakdown.stream_waits import told_to_wait
from tetrace.breakdown.tables import HOST_RANGES, LAUNCHES, Table

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

NO_RANGE, STEP_RANGE = "(no range)", "(step)"
QUANTIZING_RANGE = re.compile(
    r"^nvte_\w*(quantize|amax|compute_scale|scale_update|transpose|swizzle|cast)"
    r"|(input_cast_comm|grad_output_preprocess|reduce_and_update_fp8_tensors)$|autocast"
)
# The launch queue holds about a thousand launches; a call that waits with this many before it waits for room.
_FULL_QUEUE = 512
_LONG_CALL = 10
# Launches on idle streams that tell the floor of the selected steps, and those that tell any latency at all: a median of
# fewer is that of a place or two in the script.
_FEWEST_LAUNCHES, _FEWEST_TOLD = 30, 10
# The floor where a recording does not tell its own: what launches on idle streams take on the machines of profiles/, where
# medians are 7.1 to 12.7 µs and most are between 7.8 and 9.
_UNTOLD_FLOOR_NS = 8_000


@dataclass(frozen=True)
class LaunchCosts:
    """Launch figures over the selected steps; -1 where nothing was captured to tell.

    `latency_*_ns`: from the start of the call to the start of the activity, on streams that were idle at the call, the
    first node only for graphs; -1 too where `latency_samples`, the number of such launches, is below 10. `queue_depth`:
    median number of launched, unfinished activities before a launch.
    """

    calls: int
    activities: int
    host_ns: int
    back_pressure_ns: int
    latency_median_ns: int
    latency_p95_ns: int
    latency_samples: int
    queue_depth: int


def idle_stream_latency(attribution: Attribution) -> Times:
    """Launch latency of each activity whose stream was idle when it was called, -1 for the others; shape (activities,).

    What a stream did before its first recorded activity is not known: recording may begin while its queue is deep. One that
    was told to wait for an event of another stream is not idle, though nothing runs on it.
    """
    from tetrace import _C

    trace, links = attribution.trace, attribution.links
    start, end = trace.column("activities", "start_ns"), trace.column("activities", "end_ns")
    _, stream = distinct(
        trace.column("activities", "process"), values_and_codes(trace.column("activities", "stream"))[1]
    )
    order = _C.order(stream, start, end)
    same = np.append(False, stream[order][1:] == stream[order][:-1]) if len(order) else np.zeros(0, np.bool_)
    previous_end = np.append(0, end[order][:-1]) if len(order) else end
    previous_call = np.append(-1, links.call[order][:-1]) if len(order) else links.call
    own_call, launched = links.call[order], links.launch_ns[order]
    first_of_call = own_call != previous_call
    idle = same & (own_call >= 0) & first_of_call & (previous_end <= launched) & (start[order] >= launched)
    rows = order[idle]
    rows = rows[~told_to_wait(attribution, rows)]
    latency = np.full(len(order), -1, np.int64)
    latency[rows] = start[rows] - links.launch_ns[rows]
    return latency


def told_latency(latency: Times) -> Times:
    """The known ones of `latency`, shape (samples,); none where they are too few to tell a median."""
    known = latency[latency >= 0]
    return known if len(known) >= _FEWEST_TOLD else known[:0]


def floor(latency: Times, rows: npt.NDArray[np.int64]) -> int:
    """The launch latency floor in ns: the median on idle streams, a usual one where too few streams were idle."""
    known = told_latency(latency[rows])
    if len(known) < _FEWEST_LAUNCHES:
        # A busy device is rarely idle at a launch: warm-up and what surrounds the steps tell more of the machine.
        known = told_latency(latency)
    return int(np.median(known)) if len(known) else _UNTOLD_FLOOR_NS


def queue_depths(attribution: Attribution) -> Times:
    """Activities of the process launched but not started when each activity was launched, shape (activities,)."""
    trace, links = attribution.trace, attribution.links
    process, start = trace.column("activities", "process"), trace.column("activities", "start_ns")
    depth = np.zeros(len(start), np.int64)
    for one in range(trace.rows("processes")):
        mine = np.flatnonzero(process == one)
        launched, started = np.sort(links.launch_ns[mine]), np.sort(start[mine])
        at = links.launch_ns[mine]
        depth[mine] = np.searchsorted(launched, at) - np.searchsorted(started, at)
    return depth


def launches_table(scope: Scope, depth: Times) -> Table:
    """Calls that launched the selected activities, by name."""
    trace = scope.trace
    (call,), index = distinct(scope.call[scope.call >= 0])
    name = trace.column("calls", "name")[call] if len(call) else np.empty(0, np.int32)
    length = (trace.column("calls", "end_ns") - trace.column("calls", "start_ns"))[call]
    waited = _back_pressure(scope, call, length, depth, index)
    (word,), group = distinct(name)
    size = len(word)
    names = trace.words("calls", "name")
    columns = {
        "call": [names[code] for code in word.tolist()],
        "count": counts(group, size),
        "activities": sums(group, size, counts(index, len(call))),
        "total_ns": sums(group, size, length),
        "median_ns": np.array([int(np.median(length[group == i])) for i in range(size)], np.int64),
        "max_ns": np.array([int(length[group == i].max()) for i in range(size)], np.int64),
        "back_pressure_ns": sums(group, size, np.where(waited, length, 0)),
    }
    return Table(LAUNCHES, columns).sorted_by("total_ns")


def _back_pressure(scope: Scope, call: Times, length: Times, depth: Times, index: Codes) -> Mask:
    """Calls that waited for room in the launch queue: by the driver's own records, or long ones with a full queue."""
    deep = np.zeros(len(call), np.int64)
    np.maximum.at(deep, index, depth[scope.rows[scope.call >= 0]])
    long = length > _LONG_CALL * np.median(length) if len(length) else np.zeros(0, np.bool_)
    return (long & (deep >= _FULL_QUEUE)) | _recorded_back_pressure(scope, call)


def _recorded_back_pressure(scope: Scope, call: Times) -> Mask:
    from tetrace import _C

    trace = scope.trace
    kinds = list(trace.words("overheads", "kind"))
    result = np.zeros(len(call), np.bool_)
    if "back_pressure" not in kinds or not len(call):
        return result
    rows = np.flatnonzero(trace.column("overheads", "kind") == kinds.index("back_pressure"))
    full = [trace.column("overheads", name)[rows] for name in ("thread", "start_ns", "end_ns")]
    order = _C.order(*full)
    merged = _C.merge(*(column[order] for column in full))
    calls = [trace.column("calls", name)[call] for name in ("thread", "start_ns", "end_ns")]
    order = _C.order(*calls)
    thread, start, end = (column[order] for column in calls)
    hit, _, _ = _C.overlaps(thread, start, end, *merged)
    result[order[hit]] = True
    return result


def launch_costs(scope: Scope, table: Table, latency: Times, depth: Times) -> LaunchCosts:
    """Launch figures of the selected activities."""
    known = told_latency(latency[scope.rows])
    return LaunchCosts(
        calls=int(table["count"].sum()),
        activities=int(table["activities"].sum()),
        host_ns=int(table["total_ns"].sum()) if scope.trace.has("calls") else -1,
        back_pressure_ns=int(table["back_pressure_ns"].sum()),
        latency_median_ns=int(np.median(known)) if len(known) else -1,
        latency_p95_ns=int(np.percentile(known, 95)) if len(known) else -1,
        latency_samples=int((latency[scope.rows] >= 0).sum()),
        queue_depth=int(np.median(depth[scope.rows])) if len(scope.rows) and scope.trace.has("calls") else -1,
    )


def host_ranges_table(scope: Scope, idle: Idle) -> Table:
    """Host ranges by the host-bound idle charged to them, the worst first."""
    attribution = scope.attribution
    word, module, phase = places(attribution, idle.charged_row, idle.charged_activity)
    (code, in_module, in_phase), index = distinct(word, module, phase)
    names = place_words(attribution, code)
    columns = {
        "range": names,
        "module": scope.module_words(in_module),
        "phase": phase_words(in_phase),
        "gaps": sums(index, len(names), idle.charged_longest.astype(np.int64)),
        "host_bound_ns": sums(index, len(names), idle.charged_ns),
        "quantizes": np.array([bool(QUANTIZING_RANGE.search(name)) for name in names], np.int64),
    }
    return Table(HOST_RANGES, columns).sorted_by("host_bound_ns")


def places(
    attribution: Attribution, row: Codes, activity: Codes
) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], npt.NDArray[np.integer]]:
    """Word, module and phase of the host ranges `row` (-1 none) that idle time before `activity` is charged to."""
    # Where no range was open, the work that was waited for says the phase.
    phase: npt.NDArray[np.integer] = attribution.phase[activity]
    word: npt.NDArray[np.integer] = np.full(len(row), -1, np.int32)
    module = word
    if len(attribution.host):
        known, place = row >= 0, np.maximum(row, 0)
        own = attribution.range_phase[place]
        phase = np.where(known & (own >= 0), own, phase)
        word = np.where(known, attribution.host.word[place], -1)
        module = np.where(known, attribution.range_module[place], -1)
    return _with_steps_as_one(attribution, word), module, np.where(phase < 0, UNATTRIBUTED, phase)


def place_words(attribution: Attribution, word: npt.NDArray[np.integer]) -> list[str]:
    """Texts of the ranges whose words `places` gives."""
    words = [*attribution.host.words, STEP_RANGE]
    return [words[code] if code >= 0 else NO_RANGE for code in word.tolist()]


def _with_steps_as_one(attribution: Attribution, word: npt.NDArray[np.integer]) -> npt.NDArray[np.integer]:
    """Words of ranges with all step ranges as one: `step_3` and `step_4` are the same place in the script."""
    host = attribution.host
    is_step = np.array([meaning.step is not None for meaning in host.meanings] + [False], np.bool_)
    return np.where(is_step[word] & (word >= 0), len(host.words), word)
