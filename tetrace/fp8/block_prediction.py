"""What block scaling would do to a tensor, from the histogram of its elements and that of its blocks' amaxes.

Which element lies in which block is not recorded: the bounds hold however they are arranged, as long as no element is
larger than its block's amax.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tetrace.fp8.formats import Format
from tetrace.fp8.prediction import edges, mean_errors

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]
    Bins = npt.NDArray[np.int32]
    Numbers = npt.NDArray[np.float64]

_BIAS = 127
_LARGEST_POWER = 2.0**127  # of fp32
SIZES = {"1x128": 128, "128x128": 128 * 128, "1x32": 32}


@dataclass(frozen=True)
class BlockPrediction:
    """Least and most values that are flushed to zero; none saturates. The squared error is an estimate."""

    flushed_lower: int
    flushed_upper: int
    squared_error: float


def predict_blocks(
    bins: Bins, counts: Counts, binades: Bins, blocks: Counts, size: int, one: Format, power_of_two: bool = True
) -> BlockPrediction:
    """What scales of blocks of `size` elements do to a tensor.

    `bins` and `counts` are its histogram, `binades` and `blocks` how many blocks have an amax with which exponent field;
    both in rising order.
    """
    exponent = binades.astype(np.int64) - _BIAS
    room = blocks * size
    # A block of amax in [2^e, 2^(e+1)) has this scale or half of it; one in between, below twice this, if not powers of 2.
    scale = np.minimum(np.exp2(np.floor(np.log2(one.largest)) - exponent), _LARGEST_POWER)
    low, high, is_edge = edges(bins)
    elements = _Elements(low.astype(np.float64), high.astype(np.float64), is_edge, counts)
    threshold = one.flush / scale
    kept = _most_kept(elements, threshold if power_of_two else threshold / 2, np.exp2(exponent + 1.0), room)
    return BlockPrediction(
        flushed_lower=int(counts.sum()) - kept,
        flushed_upper=_most_flushed(elements, 2 * threshold, room - room // size),
        squared_error=_error(elements, scale, exponent, room, one),
    )


class _Elements(NamedTuple):
    """A histogram with the edges of its bins."""

    low: Numbers
    high: Numbers
    is_edge: npt.NDArray[np.bool_]
    counts: Counts

    @property
    def last(self) -> Numbers:
        """What no element of the bin exceeds: an element of an open bin stays below it."""
        return np.where(self.is_edge, self.low, self.high)

    @property
    def first(self) -> Numbers:
        """What no element of the bin falls below."""
        return np.where(self.is_edge, self.low, np.nextafter(self.low, np.inf))


def _most_flushed(elements: _Elements, threshold: Numbers, room: Counts) -> int:
    """The most elements that blocks can flush, those up to `threshold`, with `room` for so many.

    Thresholds rise with the blocks' amax, so what a block can take the next one can too: filling them in this order is
    best. An amax itself is never flushed.
    """
    below = np.concatenate([[0], np.cumsum(elements.counts)])[np.searchsorted(elements.first, threshold, side="right")]
    flushed = 0
    for available, places in zip(below.tolist(), room.tolist(), strict=True):
        flushed += max(min(places, available - flushed), 0)
    return flushed


def _most_kept(elements: _Elements, threshold: Numbers, limit: Numbers, room: Counts) -> int:
    """The most elements that blocks can hold without flushing them: above `threshold` and below `limit`.

    Both rise with the blocks' amax, so each block takes the smallest elements that are left: they fit fewest others.
    """
    left, kept = elements.counts.copy(), 0
    begins = np.searchsorted(elements.last, threshold, side="right")
    ends = np.searchsorted(elements.low, limit, side="left")
    for begin, end, places in zip(begins.tolist(), ends.tolist(), room.tolist(), strict=True):
        taken = np.diff(np.minimum(np.cumsum(left[begin:end]), places), prepend=0)
        left[begin:end] -= taken
        kept += int(taken.sum())
    return kept


def _error(elements: _Elements, scale: Numbers, exponent: Counts, room: Counts, one: Format) -> float:
    """The squared error, where elements of any size are in all blocks that can hold them alike."""
    low, high = elements.low[:, None], elements.high[:, None]
    share = (low < np.exp2(exponent + 1.0)) * room
    share = share / np.maximum(share.sum(axis=1, keepdims=True), 1)
    # A block's largest value fits: with more than 1.75 times its power of two it has half of the scale.
    fitting = np.where(high * scale > one.largest, scale / 2, scale)
    low, high, alone, factor = np.broadcast_arrays(low, high, elements.is_edge[:, None], fitting)
    return float((elements.counts[:, None] * share * mean_errors(low, high, alone, factor, one)).sum())
