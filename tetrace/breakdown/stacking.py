"""Which slices can share a track: a track holds slices that nest or follow one another, and no others.

Rows come in the order (start, the longer first). A row of no length is inside whatever is open at its time.
"""

from __future__ import annotations

import heapq
import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]

# Each turn looks at all rows: many that each outlive the one before would take as many turns.
_GENTLE_TURNS = 4


def side_by_side(start: Times, end: Times) -> Codes:
    """The track of each row, shape (rows,): rows of one track share no time. As few tracks as there can be."""
    track = np.zeros(len(start), np.int32)
    if not len(start):
        return track
    reached = np.maximum.accumulate(end)
    begins = np.flatnonzero(np.append(True, start[1:] >= reached[:-1]))
    lengths = np.diff(np.append(begins, len(start)))
    # What shares time with nothing stays where it is: mostly that is all of it.
    for first, rows in zip(begins[lengths > 1].tolist(), lengths[lengths > 1].tolist(), strict=True):
        track[first : first + rows] = _packed(start[first : first + rows].tolist(), end[first : first + rows].tolist())
    return track


def _packed(starts: list[int], ends: list[int]) -> list[int]:
    """The lowest track that is free at each start."""
    busy: list[tuple[int, int]] = []
    free: list[int] = []
    tracks = []
    for start, end in zip(starts, ends, strict=True):
        while busy and busy[0][0] <= start:
            heapq.heappush(free, heapq.heappop(busy)[1])
        track = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (end, track))
        tracks.append(track)
    return tracks


def stacked(start: Times, end: Times) -> Codes:
    """The track of each row, shape (rows,): rows of track 0 nest; those that begin in one of them and outlive it are
    side by side on the others."""
    from tetrace import _C

    track = np.zeros(len(start), np.int32)
    kept = np.arange(len(start))
    for turn in itertools.count():
        parent = _C.nest(np.zeros(len(kept), np.int32), start[kept], end[kept])
        crossing = (parent >= 0) & (end[kept] > end[kept][np.maximum(parent, 0)])
        if not crossing.any():
            break
        if turn < _GENTLE_TURNS:
            # What outlives one that must go itself may be able to stay.
            crossing &= ~crossing[np.maximum(parent, 0)]
        track[kept[crossing]] = 1
        kept = kept[~crossing]
    moved = np.flatnonzero(track)
    track[moved] += side_by_side(start[moved], end[moved])
    return track
