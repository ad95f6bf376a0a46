"""What FP8 makes of the gradients of a recording: how coarsely they are rounded, what becomes zero, what is clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.flags import Recorded
from tetrace.fp8.observations import DELAYED, WHOLE, clipped, is_gradient, non_finite

if TYPE_CHECKING:
    from tetrace.trace.trace import Trace


@dataclass(frozen=True)
class Gradients:
    """Of gradients as they were quantized, in percent: `error` is the root of the squared error over the sum of squares, the
    median of all; `flushed` the share of elements that are not zero and become zero, `clipped` that of elements that
    are. `formats` are those that they were cast to."""

    error: float
    flushed: float
    clipped: float
    formats: tuple[str, ...]


def gradients(trace: Trace) -> Gradients | None:
    """Of all recorded gradients but those that delayed scaling had no scale for yet: what is lost at a scale of 1 is so in any
    format. None where none was seen whole. Raises `InputError` where no FP8 statistics were recorded."""
    recorded = Recorded(trace)
    rows = recorded.rows
    chosen = np.array([is_gradient(role) for _, role in rows.keys], np.bool_)[rows.tensor] & rows.isin("source", *WHOLE)
    chosen &= ~(recorded.unset & rows.isin("scaling", DELAYED)) & (rows["mean_square"] > 0)
    if not chosen.any():
        return None
    rows = rows.take(chosen)
    elements = rows["elements"]
    nonzero = elements - np.maximum(rows["zeros"], 0) - non_finite(rows)
    error = np.sqrt(rows["squared_error"] / (rows["mean_square"] * elements))
    formats = sorted({rows.words["format"][code] for code in np.unique(rows["format"]).tolist()} - {""})
    return Gradients(
        error=100 * float(np.nanmedian(error)),
        flushed=100 * float(np.maximum(rows["flushed"], 0).sum() / max(int(nonzero.sum()), 1)),
        clipped=100 * float(np.maximum(clipped(rows), 0).sum() / elements.sum()),
        formats=tuple(formats),
    )
