"""Whether scales of current and block scaling are powers of two, where nobody asks for either: as the recording has it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tetrace.fp8.observations import BLOCK, Rows
from tetrace.units import plural

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.trace.trace import Trace

    Mask = npt.NDArray[np.bool_]

_SCALES = ("scale", "scale_min", "scale_max")


class Powers(NamedTuple):
    """For each observation, whether its scales are powers of two where `scaling` is what scales it; `words` say what was
    taken and why."""

    taken: Mask
    words: str


def powers_of_two(trace: Trace, rows: Rows, scaling: str) -> Powers:
    """What quantizers of this scaling were told; else what its recorded scales are; else Transformer Engine's default.

    NVTE_FP8_CURRENT_SCALING_POWER_2_SCALES and NVTE_FP8_BLOCK_SCALING_FP32_SCALES change it for a run, and a recipe for one
    of input, weight and gradient.
    """
    told = _told(trace, scaling)
    if len(told) == 1:
        return _all(rows, scaling, told == {True}, "as its quantizers were told")
    known, power = _recorded(rows, scaling)
    if not known.any():
        return _all(rows, scaling, scaling == BLOCK, "Transformer Engine's default, since no scale of it was recorded")
    every = not (known & ~power).any()
    if every or scaling == BLOCK or not (known & power).any():
        return _all(rows, scaling, every, "as its recorded scales are")
    # Quantizers differ: a tensor is one of those whose scales are powers of two throughout. If FP32 scales of its own happen
    # to be that, rounding down changes none of them.
    others = np.isin(rows.tensor, rows.tensor[known & ~power])
    taken = np.isin(rows.tensor, rows.tensor[known]) & ~others
    some = plural(len(np.unique(rows.tensor[taken])), "tensor")
    return Powers(
        taken, f"power_of_two=yes for {some} of {scaling} scaling, no for others: as their recorded scales are"
    )


def _all(rows: Rows, scaling: str, taken: bool, why: str) -> Powers:
    return Powers(np.full(len(rows), taken), f"power_of_two={'yes' if taken else 'no'} for {scaling} scaling: {why}")


def _recorded(rows: Rows, scaling: str) -> tuple[Mask, Mask]:
    """Where scales of an amax were recorded (without one a scale is 1), and where these are exact powers of two."""
    scales = np.array([rows[name] for name in _SCALES], np.float64)
    good = np.isfinite(scales) & (scales > 0)
    with np.errstate(invalid="ignore"):
        power = (np.frexp(scales)[0] == 0.5) | ~good
    mine = rows.isin("scaling", scaling) & (rows["amax"] > 0)
    return mine & good.any(axis=0), power.all(axis=0)


def _told(trace: Trace, scaling: str) -> set[bool]:
    """What `force_pow_2_scales` was in quantizers of this scaling; empty where calls were not recorded."""
    details = [json.loads(one) for one in trace.words("sites", "detail") if one]
    return {
        bool(one["force_pow_2_scales"])
        for one in details
        if one.get("scaling") == scaling and "force_pow_2_scales" in one
    }
