"""What is known of one tensor, for people: counts, shares and the signal-to-noise ratio of a cast."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import UsageError
from tetrace.fp8 import rows
from tetrace.fp8.formats import FORMATS, format_named

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]

_BINS = 2048
_ADDED = (
    *("elements", "zeros", "nans", "infs", "saturated", "flushed", "subnormal"),
    *("sum", "square_sum", "squared_error"),
)


@dataclass(frozen=True)
class TensorStats:
    """What a tensor holds and what casting it to FP8 does; docs/fp8.md says what is counted.

    `saturated`, `flushed`, `subnormal` and `squared_error` are about casting to `format` with `scale` (0 where each block
    has its own, from `scale_min` to `scale_max`). Where `source` is `quantized` they are about the codes that were found:
    those at the largest value and the subnormal ones, and nothing of what was lost.
    """

    elements: int
    zeros: int
    nans: int
    infs: int
    amax: float  # of finite values
    smallest: float  # magnitude that is not zero; 0 where there is none
    mean: float  # of finite values; NaN where there are none
    mean_square: float
    format: str
    scale: float
    scale_min: float
    scale_max: float
    saturated: int
    flushed: int
    subnormal: int
    squared_error: float
    source: str = "input"
    copied: bool = False  # it was no matrix of evenly spaced rows
    histogram: Counts | None = field(default=None, repr=False, compare=False)  # (2048,), None: not asked for

    @property
    def finite(self) -> int:
        """Elements that are neither NaN nor infinite."""
        return self.elements - self.nans - self.infs

    @property
    def saturated_pct(self) -> float:
        """Of all elements, those beyond the format's largest value."""
        return _share(self.saturated, self.elements)

    @property
    def underflow_pct(self) -> float:
        """Of all elements, those that are not zero and become zero."""
        return _share(self.flushed, self.elements)

    @property
    def subnormal_pct(self) -> float:
        """Of all elements, those that become a subnormal value."""
        return _share(self.subnormal, self.elements)

    @property
    def zeros_pct(self) -> float:
        """Of all elements, those that are zero."""
        return _share(self.zeros, self.elements)

    @property
    def snr_db(self) -> float:
        """Squares of all finite values over squares of what the cast loses, in decibels; infinite where it loses
        nothing, NaN where that is not known (`quantized`) or nothing is finite."""
        if self.source == "quantized" or not self.finite or math.isnan(self.squared_error) or self.squared_error < 0:
            return math.nan
        if self.squared_error == 0:
            return math.inf
        signal = self.mean_square * self.finite
        return 10 * math.log10(signal / self.squared_error) if signal > 0 else -math.inf

    def __repr__(self) -> str:
        if not self.elements:
            return "TensorStats(no values)"
        bad = f", {self.nans:,} NaN, {self.infs:,} Inf" if self.nans or self.infs else ""
        shown = f"{self.elements:,} elements, {self.zeros:,} zero{bad}; amax {self.amax:.6g}, mean {self.mean:.4g}"
        if not self.format:
            return f"TensorStats({shown})"
        blocks = f"scales {self.scale_min:.6g} to {self.scale_max:.6g}"
        shown += f"; {self.format}, {blocks if self.scale_max else f'scale {self.scale:.6g}'}"
        if self.source == "quantized":
            return f"TensorStats({shown}: {self.saturated_pct:.3g}% at the largest value; quantized)"
        lost = f"{self.saturated_pct:.3g}% saturated, {self.underflow_pct:.3g}% flushed to zero"
        snr = "not told" if math.isnan(self.snr_db) else f"{self.snr_db:.2f} dB"
        return f"TensorStats({shown}: {lost}, SNR {snr})"


@dataclass(frozen=True)
class Estimate:
    """What a cast would do, from a histogram: counts as (least, most), and an estimate of the error.

    A count is exact where its least and most are the same, as they are of what saturates and what is flushed for a scale
    that is a power of two. `estimated_snr_db` takes values to be spread evenly within a bin.
    """

    format: str
    scale: float
    elements: int  # in the histogram: finite, not zero
    saturated: tuple[int, int]
    flushed: tuple[int, int]
    subnormal: tuple[int, int]
    estimated_squared_error: float
    estimated_snr_db: float


def _share(count: int, whole: int) -> float:
    return 100 * count / whole if whole else 0.0


def stats_of(row: Any, histogram: Counts | None = None, copied: bool = False) -> TensorStats:
    """A row of `rows.ROW` for people."""
    finite = int(row["elements"]) - int(row["nans"]) - int(row["infs"])
    number = int(row["flags"]) >> rows.FORMAT_SHIFT & 0xFF
    fields: dict[str, Any] = {name: int(row[name]) for name in _ADDED[:7]}
    fields |= {
        name: float(row[name]) for name in ("amax", "smallest", "scale", "scale_min", "scale_max", "squared_error")
    }
    return TensorStats(
        **fields,
        mean=float(row["sum"]) / finite if finite else math.nan,
        mean_square=float(row["square_sum"]) / finite if finite else math.nan,
        format=next((name for name, one in FORMATS.items() if one.number == number), ""),
        source="quantized" if int(row["flags"]) & rows.QUANTIZED else "input",
        histogram=histogram,
        copied=copied,
    )


def combined(parts: npt.NDArray[Any]) -> Any:
    """The row of a tensor that was counted in parts, shape (parts,)."""
    whole = parts[0].copy()
    for name in _ADDED:
        whole[name] = parts[name].sum()
    present = parts["smallest"][parts["smallest"] > 0]
    whole["amax"] = parts["amax"].max()
    whole["smallest"] = present.min() if len(present) else 0
    return whole


def from_histogram(histogram: Counts, format: str = "E4M3", scale: float = 1.0) -> Estimate:  # noqa: A002
    """What casting the tensor of `histogram`, shape (2048,), to `format` with `scale` would do, without the tensor.

    `UsageError` for another shape, a format that is none, or a scale that is no finite positive fp32 number.
    """
    from tetrace.fp8 import prediction

    counts, number_format, factor = np.asarray(histogram), format_named(format), _single(scale)
    if counts.shape != (_BINS,):
        raise UsageError(f"a histogram of shape {counts.shape}; give one of ({_BINS},)")
    if not (np.isfinite(factor[0]) and factor[0] > 0):
        raise UsageError(f"the scale {scale} is no finite positive fp32 number; give one that is")
    bins = np.flatnonzero(counts).astype(np.int32)
    held = prediction.Histograms(np.zeros(len(bins), np.int64), bins, counts[bins].astype(np.int64))
    whole = int(held.count.sum())
    fitting, flushed = (_within(held, limit, factor) for limit in (number_format.largest, number_format.flush))
    below = _within(held, float(np.nextafter(np.float32(number_format.normal), np.float32(0))), factor)
    kind = np.array([list(FORMATS).index(number_format.name)])
    error = float(prediction.predict(held, factor, kind, *_range(bins)).squared_error[0])
    return Estimate(
        format=number_format.name,
        scale=float(factor[0]),
        elements=whole,
        saturated=(whole - fitting[1], whole - fitting[0]),
        flushed=flushed,
        subnormal=(max(below[0] - flushed[1], 0), below[1] - flushed[0]),
        estimated_squared_error=error,
        estimated_snr_db=10 * math.log10(_signal(held) / error) if error > 0 else math.inf,
    )


def _single(scale: Any) -> npt.NDArray[np.float32]:
    """Shape (1,)."""
    try:
        with np.errstate(over="ignore"):
            found = np.array([scale], np.float32).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        found = np.empty(0, np.float32)
    if isinstance(scale, str) or len(found) != 1:
        raise UsageError(f"the scale {scale!r} is no number; give one that is finite and positive")
    return found


def _range(bins: npt.NDArray[np.int32]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Largest and smallest magnitude that the bins allow, shapes (1,)."""
    from tetrace.fp8 import prediction

    if not len(bins):
        return np.zeros(1), np.zeros(1)
    low, high, is_edge = prediction.edges(bins)
    largest = low[-1] if is_edge[-1] else np.nextafter(high[-1], np.float32(0))
    smallest = low[0] if is_edge[0] else np.nextafter(low[0], np.float32(np.inf))
    return np.array([largest], np.float64), np.array([smallest], np.float64)


def _signal(held: Any) -> float:
    """An estimate of the sum of squares: values spread evenly within a bin."""
    from tetrace.fp8 import prediction

    low, high, is_edge = (column.astype(np.float64) for column in prediction.edges(held.bin))
    high = np.minimum(high, np.finfo(np.float32).max)  # the last bin has no other upper edge
    mean = np.where(is_edge > 0, low**2, (low**2 + low * high + high**2) / 3)
    return float((mean * held.count).sum())


def _within(held: Any, limit: float, factor: npt.NDArray[np.float32]) -> tuple[int, int]:
    """Least and most values whose product with the scale is at most `limit`; different only by the bin that it falls into."""
    from tetrace.fp8 import prediction

    last = prediction.last_below(np.array([limit]), factor)[0]
    low, high, is_edge = prediction.edges(held.bin)
    # The largest fp32 number is below no finite one.
    with np.errstate(over="ignore"):
        above = np.nextafter(last, np.float32(np.inf))
    surely = np.where(is_edge, low <= last, high <= above)
    maybe = surely | (~is_edge & (low < last))
    return int(held.count[surely].sum()), int(held.count[maybe].sum())
