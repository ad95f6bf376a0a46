"""Forward, recompute, backward, optimizer: which phase each GPU activity belongs to, and how that is known.

Nearly all backward launches come from autograd's worker threads, where nobody opens a range. So, in this order:
the range around the launch; the phase open at that time on another thread of the process (the one that called
backward), if there is exactly one; and last the structure of training, where autograd's threads show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.host import Host
from tetrace.attribute.link import Links
from tetrace.attribute.vocabulary import BACKWARD, FORWARD, OPTIMIZER, OTHER, RECOMPUTE, UNATTRIBUTED
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

_C_BACKWARD = (
    "nvte_layernorm_bwd",
    "nvte_rmsnorm_bwd",
    "nvte_fused_attn_bwd",
    "nvte_flash_attn_bwd",
    "nvte_quantize_dbias",
)
_C_FORWARD = ("nvte_layernorm_fwd", "nvte_rmsnorm_fwd", "nvte_fused_attn_fwd", "nvte_flash_attn_fwd")


@dataclass(frozen=True)
class Phases:
    """`of_range` per host range (-1 unknown), `of_activity` per activity (index of PHASES), `autograd` per thread.

    `inferred` marks activities whose phase no range says: it follows from threads and optimizer kernels.
    """

    of_range: Codes
    of_activity: Codes
    inferred: Mask
    autograd: Mask


def phases(trace: Trace, host: Host, links: Links, is_optimizer: Mask, is_forward: Mask, is_either: Mask) -> Phases:
    """The phase of every range and activity.

    `is_optimizer` marks optimizer kernels, `is_forward` those of the forward of attention and norms, `is_either` what
    runs in both ways: casts to the format of forward; each of shape (activities,).
    """
    autograd = autograd_threads(trace, host)
    of_range = _of_ranges(host, autograd)
    known = _of_rows(of_range, links.range)
    _beside_marked_phases(trace, host, links, known)
    conflicting = _from_other_threads(trace, host, links, of_range, known)
    missing = (known < 0) & ~conflicting
    _recomputed_between(trace, host, links, of_range, autograd, known)
    _of_captures(links, autograd, known, missing)
    _from_structure(trace, links, autograd, is_optimizer, known, missing)
    _recomputed_by_kernels(trace, links, autograd, is_forward, is_either, _of_rows(of_range, links.range) >= 0, known)
    inferred = missing & (known >= 0)
    return Phases(of_range, np.where(known < 0, UNATTRIBUTED, known).astype(np.int32), inferred, autograd)


def autograd_threads(trace: Trace, host: Host) -> Mask:
    """Threads that autograd runs backward on, shape (threads,): by their name, else by what happens on them."""
    threads = trace.rows("threads")
    words = trace.words("threads", "name")
    by_name = np.array([word.startswith("pt_autograd") for word in words], np.bool_)[trace.column("threads", "name")]
    if not len(host):
        return by_name
    module = host.says("begins") | host.is_kind("module", "compiled", "loss")
    backward = (module & (host.say("phase") == BACKWARD)) | _named(host, _C_BACKWARD)
    forward = (module & (host.say("phase") == FORWARD)) | _named(host, _C_FORWARD)
    first = np.full((2, threads), np.iinfo(np.int64).max)
    np.minimum.at(first[0], host.thread[backward], host.start[backward])
    np.minimum.at(first[1], host.thread[forward], host.start[forward])
    # A worker may run forward again (recompute), but the thread that builds the graph ran it before.
    process = trace.column("threads", "process")
    named = np.bincount(process[by_name], minlength=trace.rows("processes")) > 0
    earliest = np.full(trace.rows("processes"), np.iinfo(np.int64).max)
    np.minimum.at(earliest, process, first[1])
    has_backward = first[0] < np.iinfo(np.int64).max
    by_ranges = has_backward & ((first[1] > earliest[process]) | (first[0] < first[1]))
    return by_name | (by_ranges & ~named[process])


def _named(host: Host, prefixes: tuple[str, ...]) -> Mask:
    return np.array([word.startswith(prefixes) for word in host.words], np.bool_)[host.word]


def _of_ranges(host: Host, autograd: Mask) -> Codes:
    own = host.say("phase")
    begins = host.says("begins") & (own == FORWARD)
    around = _of_rows(host.inherit(own), host.parent)
    again = begins & (autograd[host.thread] | (around == BACKWARD) | (around == RECOMPUTE))
    own[again] = RECOMPUTE
    of_range = host.inherit(own)
    # A forward part inside a recomputed module is recomputed too.
    inside = host.inherit(np.where(again, 0, -1)) == 0
    of_range[inside & (of_range == FORWARD)] = RECOMPUTE
    return of_range


def _of_rows(values: Codes, rows: Codes) -> Codes:
    if not len(values):
        return np.full(len(rows), -1, np.int32)
    return np.where(rows >= 0, values[np.maximum(rows, 0)], -1).astype(np.int32)


def _from_other_threads(trace: Trace, host: Host, links: Links, of_range: Codes, known: Codes) -> Mask:
    """Fill `known` from the phase open on other threads of the process; true where those disagree."""
    missing = np.flatnonzero((known < 0) & (links.call >= 0))
    found = np.full(len(missing), -1, np.int32)
    conflict = np.zeros(len(missing), np.bool_)
    process = trace.column("activities", "process")[missing]
    for thread in np.flatnonzero(np.bincount(host.thread[of_range >= 0])).tolist():
        same = process == trace.column("threads", "process")[thread]
        asked = np.flatnonzero(same & (links.origin_thread[missing] != thread))
        rows = host.innermost(np.full(len(asked), thread, np.int32), links.origin_ns[missing[asked]])
        phase = _of_rows(of_range, rows)
        conflict[asked] |= (phase >= 0) & (found[asked] >= 0) & (phase != found[asked])
        found[asked] = np.where(phase >= 0, phase, found[asked])
    found[conflict] = -1
    known[missing] = found
    result = np.zeros(len(known), np.bool_)
    result[missing] = conflict
    return result


def _beside_marked_phases(trace: Trace, host: Host, links: Links, known: Codes) -> None:
    """Where a thread's phases are marked by its user, what runs in another range of that user is none of them."""
    if not len(host):
        return
    marked = [m.phase >= 0 and not (m.begins or m.part or m.operator or m.c_call) for m in host.meanings]
    by_user = np.zeros(trace.rows("threads"), np.bool_)
    by_user[host.thread[np.array(marked, np.bool_)[host.word]]] = True
    scope = host.inherit(np.where(host.says("scope") & ~host.operator, 0, -1)) == 0
    inside = (links.range >= 0) & scope[np.maximum(links.range, 0)]
    known[(known < 0) & inside & (links.thread >= 0) & by_user[np.maximum(links.thread, 0)]] = OTHER


def _recomputed_between(trace: Trace, host: Host, links: Links, of_range: Codes, autograd: Mask, known: Codes) -> None:
    """Work launched on autograd's threads between recomputed modules is recomputed too, though no range says so.

    A stretch begins with a recomputed module and ends with the first backward of one. Behind its last module, only
    kernels that forward launches and backward never does belong to it.
    """
    begins = np.flatnonzero(host.says("begins")) if len(host) else np.empty(0, np.int64)
    begins = begins[autograd[host.thread[begins]] & np.isin(of_range[begins], (RECOMPUTE, BACKWARD))]
    if not len(begins) or not (of_range[begins] == RECOMPUTE).any():
        return
    rows = np.flatnonzero((links.thread >= 0) & autograd[np.maximum(links.thread, 0)] & (known != RECOMPUTE))
    previous, following = _around(host, begins, links.thread[rows], links.launch_ns[rows])
    after = _of_rows(of_range[begins], previous) == RECOMPUTE
    between = after & (_of_rows(of_range[begins], following) == RECOMPUTE)
    known[rows[between]] = RECOMPUTE
    name = trace.column("activities", "name")
    size = len(trace.words("activities", "name"))
    in_forward = np.bincount(name[known == FORWARD], minlength=size) > 0
    in_backward = np.bincount(name[rows[~after]], minlength=size) > 0
    tail = rows[after & ~between]
    known[tail[in_forward[name[tail]] & ~in_backward[name[tail]]]] = RECOMPUTE


def _around(host: Host, begins: npt.NDArray[np.int64], thread: Codes, time: Times) -> tuple[Codes, Codes]:
    """Of the ranges `begins`, the places of the last that started before each point of a thread, and of the next."""
    previous, following = np.full(len(time), -1, np.int32), np.full(len(time), -1, np.int32)
    for one in np.flatnonzero(np.bincount(host.thread[begins])).tolist():
        places = np.flatnonzero(host.thread[begins] == one)
        mine = thread == one
        at = np.searchsorted(host.start[begins[places]], time[mine], side="right")
        previous[mine] = np.where(at > 0, places[np.maximum(at - 1, 0)], -1)
        following[mine] = np.where(at < len(places), places[np.minimum(at, len(places) - 1)], -1)
    return previous, following


def _of_captures(links: Links, autograd: Mask, known: Codes, missing: Mask) -> None:
    """Kernels of graphs whose nodes were made on an autograd thread are backward, whoever launches the graph."""
    if len(autograd):
        captured = missing & (links.origin_ns != links.launch_ns) & (links.origin_thread >= 0)
        known[captured & autograd[np.maximum(links.origin_thread, 0)]] = BACKWARD


def _from_structure(
    trace: Trace, links: Links, autograd: Mask, is_optimizer: Mask, known: Codes, missing: Mask
) -> None:
    """Fill `known` from the order of training, in processes where autograd's threads launch work.

    Between two stretches of backward the other threads launch the optimizer first, then the next forward; where they
    launch no optimizer kernel it is all forward (gradient accumulation).
    """
    process = trace.column("activities", "process")
    known[missing & is_optimizer] = OPTIMIZER
    if not autograd.any():
        return
    on_autograd = (links.thread >= 0) & autograd[np.maximum(links.thread, 0)]
    known[missing & on_autograd & (known < 0)] = BACKWARD
    for one in np.flatnonzero(np.bincount(process[on_autograd])).tolist():
        mine = process == one
        backward = np.sort(links.launch_ns[mine & on_autograd])
        stretch = np.searchsorted(backward, links.launch_ns)
        last = np.full(len(backward) + 1, np.iinfo(np.int64).min)
        optimizer = mine & is_optimizer & ~on_autograd
        np.maximum.at(last, stretch[optimizer], links.launch_ns[optimizer])
        rest = mine & missing & (known < 0) & (links.call >= 0)
        known[rest] = np.where(links.launch_ns[rest] <= last[stretch[rest]], OPTIMIZER, FORWARD)


def _recomputed_by_kernels(
    trace: Trace, links: Links, autograd: Mask, is_forward: Mask, is_either: Mask, said: Mask, known: Codes
) -> None:
    """Forward kernels on autograd's threads, where no range says their phase: a checkpoint that computes forward again.

    Its stretch runs between kernels that forward never launches, and has the forward of an attention or a norm in it.
    """
    on_autograd = (links.thread >= 0) & autograd[np.maximum(links.thread, 0)] if len(autograd) else is_forward & False
    rows = np.flatnonzero(on_autograd & (known == BACKWARD) & ~said)
    if not is_forward[rows].any():
        return
    rows = rows[np.lexsort((links.launch_ns[rows], links.thread[rows]))]
    name = trace.column("activities", "name")
    in_forward = np.bincount(name[known == FORWARD], minlength=len(trace.words("activities", "name"))) > 0
    # A checkpointed forward casts for itself alone, its recompute also for backward: by another kernel.
    perhaps = in_forward[name[rows]] | is_either[rows]
    # Runs of kernels that forward launches too; the first and the last of another thread part them as well.
    change = np.append(True, (perhaps[1:] != perhaps[:-1]) | (links.thread[rows][1:] != links.thread[rows][:-1]))
    run = np.cumsum(change) - 1
    has_forward = np.bincount(run, weights=is_forward[rows]) > 0
    known[rows[perhaps & has_forward[run]]] = RECOMPUTE
