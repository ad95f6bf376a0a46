"""Activity to API call to host range: who launched what, from where.

Correlation ids are unique within a process only. Kernels replayed by a CUDA graph share the launch of the graph; what
they mean is said by the range under which their node was captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.host import Host
from tetrace.trace.schema import GRAPH_LAUNCH
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]

_CORRELATION_BITS = 40


@dataclass(frozen=True)
class Links:
    """For each activity, shape (activities,), -1 where it is not known.

    `call` and `thread` are rows of the trace's tables; `launch_ns` is the start of the call, or of the activity itself
    where no call was captured. `launch_range` is the innermost range (row of `Host`) around the launch, `range` the one
    that says what the work is: the same, but for graph replays that of the node's capture on `origin_thread`
    at `origin_ns`.
    """

    call: Codes
    thread: Codes
    launch_ns: Times
    launch_range: Codes
    range: Codes
    origin_thread: Codes
    origin_ns: Times
    call_range: Codes


def link(trace: Trace, host: Host) -> Links:
    """Join every activity of `trace` to its call and to the ranges of `host`."""
    call = _calls_of_activities(trace)
    known = call >= 0
    call_thread, call_start = trace.column("calls", "thread"), trace.column("calls", "start_ns")
    call_range = host.innermost(call_thread, call_start)
    thread = np.where(known, _at(call_thread, call), -1).astype(np.int32)
    launch_ns = np.where(known, _at(call_start, call), trace.column("activities", "start_ns"))
    launch_range = np.where(known, _at(call_range, call), -1).astype(np.int32)
    origin_thread, origin_ns, origin_range = thread.copy(), launch_ns.copy(), launch_range.copy()
    _link_graph_nodes(trace, host, origin_thread, origin_ns, origin_range)
    return Links(call, thread, launch_ns, launch_range, origin_range, origin_thread, origin_ns, call_range)


def _at(values: npt.NDArray[np.generic], rows: Codes) -> npt.NDArray[np.generic]:
    """`values[rows]`, whatever for rows of -1."""
    return values[np.maximum(rows, 0)] if len(values) else np.zeros(len(rows), values.dtype)


def _key(process: Codes, number: Times) -> Times:
    return (process.astype(np.int64) << _CORRELATION_BITS) | number


def _calls_of_activities(trace: Trace) -> Codes:
    correlation = trace.column("activities", "correlation")
    call_correlation = trace.column("calls", "correlation")
    found = np.full(len(correlation), -1, np.int32)
    candidates = np.flatnonzero(call_correlation > 0)
    if not len(candidates):
        return found
    keys = _key(trace.column("calls", "process")[candidates], call_correlation[candidates])
    # Stable: of a runtime call and the driver call inside it, which may share the id, the outer one comes first.
    order = np.argsort(keys, kind="stable")
    keys, candidates = keys[order], candidates[order]
    wanted = _key(trace.column("activities", "process"), correlation)
    position, match = _find(keys, wanted)
    match &= correlation > 0
    found[match] = candidates[position[match]]
    return found


def _link_graph_nodes(trace: Trace, host: Host, thread: Codes, time: Times, ranges: Codes) -> None:
    """Give the activities of replayed graphs the thread, time and range of their node's capture, in place."""
    node = trace.column("activities", "graph_node")
    replayed = np.flatnonzero(node)
    if not len(replayed) or not trace.rows("graph_nodes"):
        return
    # Node ids are 64 bits wide (graph and node): their place among all that occur is a key that fits.
    made, original = trace.column("graph_nodes", "graph_node"), trace.column("graph_nodes", "original_node")
    values, codes = np.unique(np.concatenate([made, original, node[replayed]]), return_inverse=True)
    made_code, original_code, wanted_code = np.split(codes.ravel(), [len(made), 2 * len(made)])
    process = trace.column("graph_nodes", "process").astype(np.int64) * len(values)
    # A clone is reported twice, first as if it were new: the row that names its original counts.
    order = np.lexsort((original == 0, process + made_code))
    keys = (process + made_code)[order]
    origin = _origins(keys, (process + original_code)[order], original[order] > 0)
    wanted = trace.column("activities", "process")[replayed].astype(np.int64) * len(values) + wanted_code
    position, match = _find(keys, wanted)
    row = order[origin[position[match]]]
    replayed = replayed[match]
    thread[replayed] = trace.column("graph_nodes", "thread")[row]
    time[replayed] = trace.column("graph_nodes", "created_ns")[row]
    ranges[replayed] = host.innermost(thread[replayed], time[replayed])


def _find(keys: Times, wanted: Times) -> tuple[Times, npt.NDArray[np.bool_]]:
    """First position of each wanted key among sorted keys, and whether it is there."""
    position = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return position, keys[position] == wanted


def _origins(keys: Times, original: Times, is_clone: npt.NDArray[np.bool_]) -> Times:
    """For nodes in the order of `keys`, the position of the node each was first cloned from."""
    position, known = _find(keys, original)
    origin = np.where(is_clone & known, position, np.arange(len(keys)))
    while True:
        further = origin[origin]
        if (further == origin).all():
            return origin
        origin = further


def is_graph_launch(trace: Trace, links: Links) -> npt.NDArray[np.bool_]:
    """Whether each activity was launched as part of a CUDA graph, shape (activities,)."""
    words = list(trace.words("calls", "kind"))
    if GRAPH_LAUNCH not in words:
        return np.zeros(len(links.call), np.bool_)
    kinds = _at(trace.column("calls", "kind"), links.call)
    return (links.call >= 0) & (kinds == words.index(GRAPH_LAUNCH))
