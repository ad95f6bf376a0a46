"""Would another recipe, format or margin have held? Answered from recorded histograms, for each tensor.

Saturation and underflow are bounds that hold; SNR is an estimate. What ran is said over the same observations.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError, UsageError
from tetrace.fp8.hypothetical_scales import is_unset
from tetrace.fp8.observations import (
    CURRENT,
    DELAYED,
    QUANTIZED,
    WHOLE,
    Rows,
    groups,
    non_finite,
    tensor_name,
    tensors,
)
from tetrace.fp8.predicted import Case, Predicted, nonzero
from tetrace.fp8.prediction import FORMATS
from tetrace.fp8.settings import BLOCK_WISE, Settings

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from tetrace.trace.trace import Trace

    Mask = npt.NDArray[np.bool_]
    Places = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]

_NAMES = [one.name for one in FORMATS]
# A tensor counts as clipped, or as flushed, where more than this share of its values is: what health warns of. A change of
# SNR counts from so many dB: below that it is within what the estimate is good for.
NOTABLE_CLIPPED, NOTABLE_FLUSHED, NOTABLE_DB = 1e-4, 1e-2, 1.0


@dataclass(frozen=True)
class Row:
    """A tensor, over all steps that could be predicted. Shares are of all elements (saturated) and of those that are not
    zero (flushed); `ran_` is what was recorded, NaN where it was not. `history` is how many steps the longest amax
    history had. SNR is in dB, infinite where there is no error. In `unset_steps` half of it or more would become zero
    since delayed scaling had set no scale yet: it is 1 there, whatever format and margin. `as_ran` says that recipe, format
    and scales are those that ran."""

    module: str
    role: str
    ran_recipe: str
    ran_format: str
    recipe: str
    format: str
    steps: int
    elements: int
    amax: float
    ran_saturated: float
    saturated_lower: float
    saturated_upper: float
    ran_flushed: float
    flushed_lower: float
    flushed_upper: float
    ran_snr_db: float
    snr_db: float
    worst_step: int
    history: int
    unset_steps: int
    as_ran: bool

    @property
    def name(self) -> str:
        """Module and role."""
        return tensor_name(self.module, self.role)

    @property
    def snr_change_db(self) -> float:
        """Gain of SNR against what ran, estimated."""
        return self.snr_db - self.ran_snr_db if self.snr_db != self.ran_snr_db else 0.0

    @property
    def ran_clipped(self) -> float:
        """Share of elements that what ran made smaller than they were; NaN where it was not recorded."""
        return 0.0 if self.ran_recipe == CURRENT else self.ran_saturated

    @property
    def clipped(self) -> tuple[float, float]:
        """Bounds of the same under what is asked for. Current scaling puts the amax a rounding above the largest value at
        most: that counts as saturated and loses nothing."""
        return (0.0, 0.0) if self.recipe == CURRENT else (self.saturated_lower, self.saturated_upper)

    @property
    def flushed(self) -> tuple[float, float]:
        """Bounds of what becomes zero, of what is not."""
        return self.flushed_lower, self.flushed_upper


COLUMNS = (*(field.name for field in dataclasses.fields(Row)), "snr_change_db")


@dataclass(frozen=True)
class Change:
    """Tensors that lose more than `limit`: as it ran, and with what is asked for at least and at most.

    `ran_unknown` are those of which it was not recorded; `more` are those that lost more and lose still more, by `limit`
    or more."""

    limit: float
    ran: int
    ran_unknown: int
    least: int
    most: int
    more: int

    def __str__(self) -> str:
        ran = _range(self.ran, self.ran + self.ran_unknown)
        more = f" ({self.more:,} of them by {100 * self.limit:g}% more)" if self.more else ""
        return f"{ran} → {_range(self.least, self.most)}{more}"


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


@dataclass(frozen=True)
class WhatIf:
    """The answer: `rows`, the tensor that would lose most first, and what could not be answered, by reason and tensors.

    `wanted_history` is the length of the amax history that was asked for, 0 where none is needed. In `steps_left_out` some
    tensors, `tensors_left_out` in all, have no scale with what is asked for: its amaxes were not recorded. In
    `steps_not_finite` some tensors that have a row held a NaN or an Inf. What ran counts without those steps too.
    """

    settings: Settings
    rows: tuple[Row, ...]
    unanswered: Mapping[str, int]
    wanted_history: int
    sampled: bool
    steps_left_out: tuple[int, ...] = ()
    tensors_left_out: int = 0
    steps_not_finite: tuple[int, ...] = ()

    def __str__(self) -> str:
        return self.verdict

    @property
    def clipped(self) -> Change:
        """Tensors of which more than `NOTABLE_CLIPPED` is clipped."""
        return _change([row.ran_clipped for row in self.rows], [row.clipped for row in self.rows], NOTABLE_CLIPPED)

    @property
    def flushed(self) -> Change:
        """Tensors of which more than `NOTABLE_FLUSHED` becomes zero."""
        return _change([row.ran_flushed for row in self.rows], [row.flushed for row in self.rows], NOTABLE_FLUSHED)

    @property
    def better(self) -> int:
        """Tensors whose SNR gains `NOTABLE_DB` or more, by an estimate."""
        return sum(row.snr_change_db >= NOTABLE_DB for row in self.rows)

    @property
    def worse(self) -> int:
        """Tensors whose SNR loses so much."""
        return sum(row.snr_change_db <= -NOTABLE_DB for row in self.rows)

    @property
    def verdict(self) -> str:
        """One sentence: in how many tensors something is lost, as it ran and with what is asked for."""
        if not self.rows:
            reasons = ", ".join(f"{reason} ({many:,} tensors)" for reason, many in self.unanswered.items())
            return f"No tensor can be answered for: {reasons or 'none was recorded before it was quantized'}."
        clipped, flushed = (
            f"more than {100 * NOTABLE_CLIPPED:g}% clipped",
            f"more than {100 * NOTABLE_FLUSHED:g}% flushed",
        )
        many = f"{len(self.rows):,} tensor{'' if len(self.rows) == 1 else 's'}"
        if all(row.as_ran for row in self.rows):
            # Another history may have come to the same.
            is_it = "gives the scales that ran" if self.settings.history or self.settings.algorithm else "is what ran"
            return (
                f"{self.settings} {is_it}, so nothing changes: of {many}, {clipped} in {self.clipped.least:,}, {flushed} "
                f"in {self.flushed.least:,}."
            )
        return (
            f"{self.settings} against what ran, of {many}: {clipped} in {self.clipped}, {flushed} in {self.flushed}; SNR "
            f"better by {NOTABLE_DB:g} dB or more in {self.better:,}, worse in {self.worse:,}."
        )

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


def _change(ran: list[float], bounds: list[tuple[float, float]], limit: float) -> Change:
    return Change(
        limit=limit,
        ran=sum(share > limit for share in ran),
        ran_unknown=sum(math.isnan(share) for share in ran),
        least=sum(lower > limit for lower, _ in bounds),
        most=sum(upper > limit for _, upper in bounds),
        more=sum(share > limit and lower - share > limit for share, (lower, _) in zip(ran, bounds, strict=True)),
    )


def rows_of(found: WhatIf) -> list[dict[str, Any]]:
    """The rows as dictionaries with `COLUMNS`."""
    return [{**dataclasses.asdict(row), "snr_change_db": row.snr_change_db} for row in found.rows]


def what_if(
    trace: Trace,
    *,
    recipe: str = "",
    format: str = "",  # noqa: A002 - the word of the command line and of Transformer Engine
    margin: int | None = None,
    history: int | None = None,
    algorithm: str = "",
    power_of_two: bool | None = None,
) -> WhatIf:
    """What a recipe (`current`, `delayed`, `block`, `mxfp8`), format (`E4M3`, `E5M2`, `HYBRID`) or margin would have done.

    What is not given is as it ran. `history` and `algorithm` (`max`, `most_recent`) are those of delayed scaling.
    Raises `UsageError` for what makes no sense of this recording, `InputError` where histograms were not recorded.
    """
    settings = Settings(recipe, format, margin, history, algorithm, power_of_two)
    every = tensors(trace)
    if not every.isin("source", *WHOLE, QUANTIZED).any():
        raise InputError(
            f"{trace.metadata.source}: nothing that was looked at was quantized to FP8, so there is no scale to change; record "
            "a run under te.autocast with `tetrace record --fp8`, and no --fp8-modules that leaves out what is quantized"
        )
    if not trace.has("fp8_histograms"):
        why = "it has no histograms of magnitudes: left out of this copy, or --no-fp8-histogram was given"
        raise InputError(f"{trace.metadata.source}: {why}; record again with `tetrace record --fp8`")
    if settings.recipe in BLOCK_WISE and not trace.rows("fp8_blocks"):
        raise InputError(
            f"{trace.metadata.source}: amaxes of blocks were not recorded; record with `tetrace record --fp8 --fp8-blocks`"
        )
    ran = {every.text("scaling", row) for row in np.unique(every.tensor, return_index=True)[1].tolist()} - {""}
    if settings.power_of_two is not None and not settings.recipe and ran <= {"delayed", "mxfp8"}:
        belongs = f"power_of_two belongs to current and block scaling, and {' and '.join(sorted(ran))} scaling ran"
        raise UsageError(f"{belongs}; give recipe=current with it, or leave it out")
    case = Case(trace, every, settings)
    found = case.predicted()
    rows = _summed(case, found)
    left = every.take(np.setdiff1d(case.rows, found.rows))
    left = left.take(np.flatnonzero(np.isin(left.tensor, every.tensor[found.rows])))
    steps, tensors_left = np.unique(left["step"]), len(np.unique(left.tensor))
    spoilt = case.not_finite & np.isin(every.tensor, every.tensor[found.rows])
    return WhatIf(
        settings,
        rows,
        case.unanswered,
        case.wanted_history,
        case.sampled,
        tuple(steps.tolist()),
        tensors_left,
        tuple(np.unique(every["step"][spoilt]).tolist()),
    )


def _summed(case: Case, found: Predicted) -> tuple[Row, ...]:
    """One row a tensor, summed over its observations; the worst first."""
    rows = case.every.take(found.rows)
    order = np.argsort(rows.tensor, kind="stable")
    unset = is_unset(rows)
    summed = [_row(rows, found, unset, order[begin:end]) for begin, end in groups(rows.tensor[order])]
    return tuple(sorted(summed, key=lambda row: (-(row.saturated_upper + row.flushed_upper), row.snr_db)))


def _row(rows: Rows, found: Predicted, unset: Mask, mine: Places) -> Row:
    module, role = rows.keys[int(rows.tensor[mine[0]])]
    own_nonzero = nonzero(rows)[mine]
    elements, kept = int(rows["elements"][mine].sum()), max(float(own_nonzero.sum()), 1.0)
    signal = float((rows["mean_square"] * (rows["elements"] - non_finite(rows)))[mine].sum())
    flushed = (found.flushed_upper[mine] >= 0.5 * own_nonzero) & (own_nonzero > 0)
    lost = (found.saturated_upper + found.flushed_upper)[mine] / np.maximum(rows["elements"][mine], 1)
    return Row(
        module=module,
        role=role,
        ran_recipe=rows.text("scaling", int(mine[0])),
        ran_format=rows.text("format", int(mine[0])),
        recipe=found.recipe[int(mine[0])],
        format=_NAMES[int(found.kind[mine[0]])],
        steps=len(np.unique(rows["step"][mine])),
        elements=elements,
        amax=float(rows["amax"][mine].max()),
        ran_saturated=_share(rows["saturated"][mine], max(elements, 1)),
        saturated_lower=float(found.saturated[mine].sum()) / max(elements, 1),
        saturated_upper=float(found.saturated_upper[mine].sum()) / max(elements, 1),
        ran_flushed=_share(rows["flushed"][mine], kept),
        flushed_lower=float(found.flushed[mine].sum()) / kept,
        flushed_upper=float(found.flushed_upper[mine].sum()) / kept,
        ran_snr_db=decibels(signal, float(rows["squared_error"][mine].sum())),
        snr_db=decibels(signal, float(found.error[mine].sum())),
        worst_step=int(rows["step"][mine][int(lost.argmax())]),
        history=int(found.history[mine].max()),
        unset_steps=len(np.unique(rows["step"][mine][unset[mine] & flushed]))
        if found.recipe[int(mine[0])] == DELAYED
        else 0,
        as_ran=bool(found.as_ran[mine].all()),
    )


def _share(counts: Places, whole: float) -> float:
    """Share of a whole; NaN where it was not counted."""
    return float(counts.sum()) / whole if (counts >= 0).all() else float("nan")


def decibels(signal: float, error: float) -> float:
    """Signal to noise ratio in dB; infinite where there is no error, NaN where either is not known."""
    if np.isnan(signal) or np.isnan(error):
        return float("nan")
    if error <= 0:
        return float("inf")
    return 10 * float(np.log10(signal / error)) if signal > 0 else float("-inf")
