"""What another format and scale would do to a tensor, from its histogram alone: bounds of counts, an estimate of the error.

A bin holds one magnitude (the lower edge of a quarter of a binade) or all those strictly between two edges, so what lies
above or below a threshold is known exactly but for the one bin that the threshold falls into. The largest and smallest
magnitude and what the cast that ran counted are known exactly too, and bound what lies in a part of that bin. The error is
an estimate: values are taken to be spread evenly within a bin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.formats import E4M3, E5M2, Format

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]
    Singles = npt.NDArray[np.float32]
    Places = npt.NDArray[np.int64]

# The place of a format here is its `kind`.
FORMATS = (E4M3, E5M2)
_BINS = 2048
_LARGEST_SINGLE = np.float32(np.finfo(np.float32).max)
# Rows of histograms that are worked on at once: some hundred megabytes of intermediate columns.
_CHUNK = 1 << 21


@dataclass(frozen=True)
class Histograms:
    """Histograms of several tensors: `row` says which tensor an entry belongs to, in order; bins are not repeated."""

    row: Places
    bin: npt.NDArray[np.int32]
    count: Counts


@dataclass(frozen=True)
class Points:
    """Exact counts, shapes (points, tensors): `count` of a tensor's values that are not zero are at most `limit`.

    A limit is NaN where nothing is known of it.
    """

    limit: Singles
    count: Counts


@dataclass(frozen=True)
class Prediction:
    """For each tensor: least and most values that saturate and that are flushed to zero, and the squared error's sum."""

    saturated_lower: Counts
    saturated_upper: Counts
    flushed_lower: Counts
    flushed_upper: Counts
    squared_error: Numbers


def current_scale(amax: Numbers, largest: Numbers, power_of_two: npt.NDArray[np.bool_]) -> Singles:
    """The scale of current scaling: the amax becomes the format's largest value; 1 where there is no amax.

    Where `power_of_two` it is rounded down to one. In fp32, as Transformer Engine does it.
    """
    scale = _ratio(largest, amax)
    scale = np.where(power_of_two, (scale.view(np.uint32) & np.uint32(0xFF800000)).view(np.float32), scale)
    return np.where((amax > 0) & np.isfinite(amax), scale, np.float32(1))


def delayed_scale(history: Numbers, largest: Numbers, margin: int) -> Singles:
    """The scale of delayed scaling, from the largest amax of the history; NaN where there is none."""
    scale = _ratio(largest * 2.0**-margin, history)
    return np.where((history > 0) & np.isfinite(history), scale, np.float32(np.nan))


def _ratio(largest: Numbers, amax: Numbers) -> Singles:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.minimum(largest.astype(np.float32) / amax.astype(np.float32), _LARGEST_SINGLE)


def predict(
    histograms: Histograms,
    scale: Singles,
    kind: Places,
    amax: Numbers | None = None,
    smallest: Numbers | None = None,
    points: Points | None = None,
) -> Prediction:
    """What casting with `scale` to `FORMATS[kind]` does to each tensor, shapes (tensors,).

    `amax` and `smallest` are the largest and smallest magnitude in each, where they are known: they settle many bins that
    a threshold falls into. `points` are what else is known of the same values. Scales must be positive and finite.
    """
    tensors = _Tensors(scale, kind, amax, smallest)
    counts = np.zeros((4, len(scale)), np.int64)
    error = np.zeros(len(scale))
    for begin in range(0, len(histograms.row), _CHUNK):
        part = Histograms(*(column[begin : begin + _CHUNK] for column in vars(histograms).values()))
        counts += _counts(part, tensors)
        error += _errors(part, tensors)
    whole = np.bincount(histograms.row, histograms.count, len(scale)).astype(np.int64)
    return _tightened(counts, whole, error, tensors, points)


class _Tensors:
    """Tensors that are cast, with the largest magnitudes that fit and that are flushed; NaN for what is not known."""

    def __init__(self, scale: Singles, kind: Places, amax: Numbers | None, smallest: Numbers | None) -> None:
        unknown = np.full(len(scale), np.nan)
        self.scale, self.kind = scale, kind
        self.amax, self.smallest = ((unknown if one is None else one).astype(np.float32) for one in (amax, smallest))
        self.flushed, _, self.fitting = limits(scale, kind)

    def __len__(self) -> int:
        return len(self.scale)


def _counts(part: Histograms, tensors: _Tensors) -> Counts:
    """Values surely and maybe saturated, surely and maybe flushed, of each tensor: shape (4, tensors)."""
    low, high, is_edge = edges(part.bin)
    fitting, flushed = tensors.fitting[part.row], tensors.flushed[part.row]
    # The largest fp32 number is below no finite one.
    with np.errstate(over="ignore"):
        fits_until, flushed_until = (np.nextafter(one, np.float32(np.inf)) for one in (fitting, flushed))
    surely_above = np.where(is_edge, low > fitting, low >= fitting)
    surely_flushed = np.where(is_edge, low <= flushed, high <= flushed_until)
    masks = (
        surely_above,
        surely_above | (~is_edge & (high > fits_until)),
        surely_flushed,
        surely_flushed | (~is_edge & (low < flushed)),
    )
    sums = [np.bincount(part.row, np.where(mask, part.count, 0), len(tensors)) for mask in masks]
    return np.array(sums).astype(np.int64)


def _errors(part: Histograms, tensors: _Tensors) -> Numbers:
    """Sum of squared errors of each tensor. Its largest value is known exactly: where the tail is long that decides."""
    row, (low, high, is_edge) = part.row, edges(part.bin)
    scale, kind, amax = tensors.scale[row], tensors.kind[row], tensors.amax[row]
    is_last = (bins_of(amax) == part.bin) & np.isfinite(amax)
    low, high = np.fmax(low, tensors.smallest[row]), np.fmin(high, amax)
    spread = (part.count - is_last) * _mean_errors(low, high, is_edge | (high <= low), scale, kind)
    alone = _mean_errors(amax[is_last], amax[is_last], is_last[is_last], scale[is_last], kind[is_last])
    whole = np.bincount(row, spread, len(tensors)) + np.bincount(row[is_last], alone, len(tensors))
    return np.asarray(whole, np.float64)


def _tightened(counts: Counts, whole: Counts, error: Numbers, tensors: _Tensors, points: Points | None) -> Prediction:
    """Bounds that the largest and smallest magnitude and `points` allow."""
    amax, smallest, none = tensors.amax, tensors.smallest, np.zeros_like(whole)
    # How many values are at most so large: at least, at most.
    known = [
        (amax, whole, whole),
        (np.nextafter(amax, np.float32(0)), none, np.maximum(whole - 1, 0)),
        (smallest, np.minimum(whole, 1), whole),
        (np.nextafter(smallest, np.float32(0)), none, none),
        *(() if points is None else zip(points.limit, points.count, points.count, strict=True)),
    ]
    fitting = _narrowed(tensors.fitting, whole - counts[1], whole - counts[0], known)
    flushed = _narrowed(tensors.flushed, counts[2], counts[3], known)
    return Prediction(whole - fitting[1], whole - fitting[0], *flushed, squared_error=error)


def _narrowed(
    limit: Singles, least: Counts, most: Counts, known: list[tuple[Singles, Counts, Counts]]
) -> tuple[Counts, Counts]:
    """Bounds of how many values are at most `limit`, by what is known of other limits: the larger, the more values.

    Comparisons with what is not known are false. The histogram of a sample may lack the largest and the smallest value.
    """
    for other, lower, upper in known:
        least = np.where(other <= limit, np.maximum(least, lower), least)
        most = np.where(other >= limit, np.minimum(most, upper), most)
    return np.minimum(least, most), most


def limits(scale: Singles, kind: Places) -> Singles:
    """The largest magnitudes that a cast flushes, that it does not make normal, and that fit: shape (3, tensors).

    Of fp32 numbers; a normal value begins at a tie, which is rounded up to it.
    """
    of_formats = [(one.flush, np.nextafter(np.float32(one.normal), np.float32(0)), one.largest) for one in FORMATS]
    return np.array([last_below(limit[kind], scale) for limit in np.array(of_formats).T])


def last_below(limit: Numbers, scale: Singles) -> Singles:
    """The largest fp32 number whose product with `scale`, rounded to fp32 as the cast does it, is at most `limit`."""
    single = limit.astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        near = np.minimum((limit / scale.astype(np.float64)).astype(np.float32), _LARGEST_SINGLE)
        best = np.zeros_like(near)
        for _ in range(2):
            near = np.nextafter(near, np.float32(0))
        for _ in range(5):
            best = np.where((near * scale <= single) & np.isfinite(near), near, best)
            near = np.nextafter(near, np.float32(np.inf))
    return best


def edges(bins: npt.NDArray[np.int32]) -> tuple[Singles, Singles, npt.NDArray[np.bool_]]:
    """Lower edge, upper edge, and whether the bin holds the lower edge alone."""
    quarter = bins.astype(np.uint32) >> np.uint32(1)
    low = (quarter << np.uint32(21)).view(np.float32)
    high = ((quarter + np.uint32(1)) << np.uint32(21)).view(np.float32)
    return low, high, (bins & 1) == 0


def bins_of(magnitudes: Singles) -> npt.NDArray[np.int32]:
    """The bin of each magnitude."""
    bits = np.ascontiguousarray(magnitudes, np.float32).view(np.uint32) & np.uint32(0x7FFFFFFF)
    return (2 * (bits >> np.uint32(21)) + ((bits & np.uint32(0x1FFFFF)) != 0)).astype(np.int32)


def _mean_errors(low: Singles, high: Singles, alone: npt.NDArray[np.bool_], scale: Singles, kind: Places) -> Numbers:
    """Mean squared error of the values of each bin, in the format of each."""
    found = np.zeros(len(low))
    for place, one in enumerate(FORMATS):
        rows = kind == place
        edges_of_kind = low[rows].astype(np.float64), high[rows].astype(np.float64)
        found[rows] = mean_errors(*edges_of_kind, alone[rows], scale[rows].astype(np.float64), one)
    return found


def mean_errors(low: Numbers, high: Numbers, alone: npt.NDArray[np.bool_], factor: Numbers, one: Format) -> Numbers:
    """Mean squared error of values that are spread evenly from `low` to `high`, or all `low` where they are `alone`; `factor` is
    their scale."""
    begin, end = low * factor, high * factor
    mean = np.empty(begin.shape)
    mean[alone] = rounding_error(begin[alone], one) ** 2
    a, b = begin[~alone], end[~alone]
    mean[~alone] = (_error_until(b, one) - _error_until(a, one)) / (b - a)
    return mean / factor**2


def rounding_error(values: Numbers, one: Format) -> Numbers:
    """Distance of positive values to what they are rounded to."""
    exponent = np.maximum(np.frexp(values)[1] - 1, one.smallest_exponent)
    spacing = np.exp2(exponent - one.mantissa_bits)
    return np.abs(np.minimum(np.rint(values / spacing) * spacing, one.largest) - values)


def _error_until(values: Numbers, one: Format) -> Numbers:
    """Integral of the squared rounding error from 0 to each of `values`."""
    beyond = np.maximum(values - one.largest, 0.0)
    inside = np.minimum(values, one.largest)
    # Codes are as far apart in the smallest normal binade as below it.
    exponent = np.maximum(np.frexp(inside)[1] - 1, one.smallest_exponent)
    spacing = np.exp2(exponent - one.mantissa_bits)
    first = exponent == one.smallest_exponent
    start = np.where(first, 0.0, np.exp2(exponent))
    steps = np.floor((inside - start) / spacing)
    rest = inside - start - steps * spacing
    of_step = spacing**3 / 12
    partial = np.where(rest <= spacing / 2, rest**3 / 3, of_step - (spacing - rest) ** 3 / 3)
    return _error_below(exponent, one) + steps * of_step + partial + beyond**3 / 3


def _error_below(exponent: Places, one: Format) -> Numbers:
    """The integral up to the beginning of a binade: a sum of powers of eight, closed."""
    bits, least = one.mantissa_bits, one.smallest_exponent
    own = 2.0 ** (3 * (least - bits)) / 12  # of one step of the smallest binade
    binades = exponent - least - 1  # whole ones between the smallest and this
    above = 2**bits * own * 8 * (np.exp2(3.0 * np.maximum(binades, 0)) - 1) / 7
    return np.where(exponent > least, 2 ** (bits + 1) * own + above, 0.0)
