"""Ranges that only the rings hold, put beside those that Nsight Systems recorded, on its clock.

A call to NVTX costs several times a row of the ring, so single calls (quantize, GEMM, attention) go to the ring alone.
Ranges of modules go to both: each is the same moment on two clocks. Between them the difference of the clocks is
interpolated; it is known to a fraction of a microsecond, while a range opens more than that before what it launches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.sites import Process, Sites
from tetrace.trace.arrays import text_column
from tetrace.trace.schema import PUSH_POP

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

# The kinds of instrument.ranges.CALLS.
_ONLY_IN_RINGS = ("quantize", "gemm", "attention")
_PAIRS_IN_A_POINT = 64
_FEWEST_PAIRS = 8
# Clocks that were matched agree far better; what does not was matched wrongly.
_WORST_NS = 20_000
_MARGIN_NS = 1_000_000


def from_rings(recorded: Mapping[str, Any], sites: Sites) -> tuple[list[dict[str, Any]], list[str]]:
    """Parts of table `ranges` that only the rings hold, and notices.

    `recorded`: the columns of the ranges that Nsight Systems recorded (global_tid, start_ns, end_ns, sequence, site).
    """
    parts, notices = [], []
    pids = recorded["global_tid"] // 0x1000000 % 0x1000000
    for process in sites.processes:
        mine = np.flatnonzero((pids == process.pid) & (recorded["site"] >= 0))
        found = _of_process(process, {name: recorded[name][mine] for name in _COLUMNS}, sites) if len(mine) else None
        if isinstance(found, str):
            notices.append(f"{process.label}: {found}: its quantize calls and GEMMs are left out")
        elif found is not None:
            parts += found
    return parts, notices


_COLUMNS = ("global_tid", "start_ns", "end_ns", "sequence", "site")


def _of_process(process: Process, recorded: Mapping[str, Integers], sites: Sites) -> list[dict[str, Any]] | str | None:
    from tetrace import _C

    rings = [_C.read_ring(str(path)) for path in process.rings]
    if not any(len(ring["site"]) for ring in rings):
        return None
    thread = np.concatenate([np.full(len(ring["site"]), int(ring["thread"]) & 0xFFFFFF, np.int64) for ring in rings])
    start, end, local, step = (
        np.concatenate([ring[name].astype(np.int64) for ring in rings])
        for name in ("start_ns", "end_ns", "site", "step")
    )
    site = sites.rows_of(process.key, local)
    kinds = np.array([sites.kind(row) in _ONLY_IN_RINGS for row in range(len(sites))] or [False], np.bool_)
    only = (site >= 0) & kinds[np.maximum(site, 0)]
    # A script that runs under somebody's own command of nsys sends everything to NVTX.
    if not only.any() or kinds[recorded["site"]].any():
        return None
    both = np.flatnonzero((site >= 0) & ~only & (end > 0))
    ring_ns, difference = _differences(recorded, thread[both], start[both], end[both], site[both], step[both])
    if len(ring_ns) < _FEWEST_PAIRS:
        return "too few ranges are in both its rings and Nsight Systems' recording to match the clocks"
    points, offsets, worst = _smooth(ring_ns, difference)
    if worst > _WORST_NS:
        return f"the clocks of its rings and of Nsight Systems differ by {worst:,} ns here and there"
    on_nsys = start + np.rint(np.interp(start, points, offsets)).astype(np.int64)
    low, high = recorded["start_ns"].min() - _MARGIN_NS, recorded["end_ns"].max() + _MARGIN_NS
    chosen = np.flatnonzero(only & (end > 0) & (on_nsys >= low) & (on_nsys <= high))
    return [
        {
            "global_tid": (recorded["global_tid"][0] & ~0xFFFFFF) | thread[chosen],
            "start_ns": on_nsys[chosen],
            "end_ns": on_nsys[chosen] + (end - start)[chosen],
            "sequence": step[chosen],
            "site": site[chosen].astype(np.int32),
            "kind": text_column(np.zeros(len(chosen), np.int32), [PUSH_POP]),
            "name": sites.names(site[chosen]),
        }
    ]


def _differences(
    recorded: Mapping[str, Integers], thread: Integers, start: Integers, end: Integers, site: Integers, step: Integers
) -> tuple[Integers, Integers]:
    """Times on the ring's clock, and how far Nsight Systems' is from it there, from ranges that both hold.

    Ranges of one thread, site and step come in the same order in both, and are compared where there are equally many.
    """
    theirs = np.stack([recorded["global_tid"] & 0xFFFFFF, recorded["site"], recorded["sequence"]])
    ours = np.stack([thread, site, step])
    _, codes = np.unique(np.concatenate([theirs, ours], axis=1), axis=1, return_inverse=True)
    codes = codes.ravel()
    in_theirs, in_ours = codes[: theirs.shape[1]], codes[theirs.shape[1] :]
    size = int(codes.max()) + 1
    equal = np.bincount(in_theirs, minlength=size) == np.bincount(in_ours, minlength=size)
    a, b = np.flatnonzero(equal[in_theirs]), np.flatnonzero(equal[in_ours])
    a = a[np.lexsort((recorded["start_ns"][a], in_theirs[a]))]
    b = b[np.lexsort((start[b], in_ours[b]))]
    # NVTX is told before the ring that a range opens, and after it that it closes: the mean of both has no bias.
    middle = (recorded["start_ns"][a] - start[b] + recorded["end_ns"][a] - end[b]) // 2
    order = np.argsort(start[b], kind="stable")
    return start[b][order], middle[order]


def _smooth(ring_ns: Integers, difference: Integers) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], int]:
    """Points to interpolate between, each the median of many pairs, and how far half of the pairs are from it at most."""
    edges = np.arange(0, len(ring_ns), _PAIRS_IN_A_POINT)
    pieces = np.split(np.arange(len(ring_ns)), edges[1:])
    points = np.array([np.median(ring_ns[piece]) for piece in pieces])
    offsets = np.array([np.median(difference[piece]) for piece in pieces])
    spread = [int(np.median(np.abs(difference[piece] - offset))) for piece, offset in zip(pieces, offsets, strict=True)]
    return points, offsets, max(spread)
