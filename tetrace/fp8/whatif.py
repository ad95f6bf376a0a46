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
from tetrace.fp8.observations import QUANTIZED, WHOLE, tensors
from tetrace.fp8.predicted import LOST, Case, FirstStep
from tetrace.fp8.settings import BLOCK_WISE, Settings
from tetrace.fp8.whatif_rows import Row, summed
from tetrace.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from tetrace.trace.trace import Trace

COLUMNS = (*(field.name for field in dataclasses.fields(Row)), "snr_change_db")
# A tensor counts as clipped, or as flushed, where more than this share of its values is: what health warns of. A change of
# SNR counts from so many dB: below that it is within what the estimate is good for.
NOTABLE_CLIPPED, NOTABLE_FLUSHED, NOTABLE_DB = 1e-4, 1e-2, 1.0


@dataclass(frozen=True)
class Change:
    """Tensors that lose more than `limit` in their worst step: as it ran, and with what is asked for at least and at most.

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
    `first_step` is of a run from scratch, where delayed scaling is asked for and the recording does not hold the start.
    `powers_of_two` says what was taken of them where nobody asks, for current and block scaling.
    """

    settings: Settings
    rows: tuple[Row, ...]
    unanswered: Mapping[str, int]
    wanted_history: int
    sampled: bool
    steps_left_out: tuple[int, ...] = ()
    tensors_left_out: int = 0
    steps_not_finite: tuple[int, ...] = ()
    first_step: FirstStep | None = None
    powers_of_two: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.verdict

    @property
    def clipped(self) -> Change:
        """Tensors of which more than `NOTABLE_CLIPPED` is clipped in some step: an average hides one in a long recording."""
        ran = [row.worst_ran_clipped for row in self.rows]
        return _change(ran, [row.worst_clipped for row in self.rows], NOTABLE_CLIPPED)

    @property
    def flushed(self) -> Change:
        """Tensors of which more than `NOTABLE_FLUSHED` becomes zero in some step."""
        ran = [row.worst_ran_flushed for row in self.rows]
        return _change(ran, [row.worst_flushed for row in self.rows], NOTABLE_FLUSHED)

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
        """In one sentence: in how many tensors something is lost, as it ran and with what is asked for. A second one says
        what a first step would lose that was not recorded."""
        return " ".join(filter(None, (self._verdict, _first_step_words(self.first_step))))

    @property
    def _verdict(self) -> str:
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
                f"{self.settings} {is_it}, so nothing changes: of {many}, each by its worst step, {clipped} in "
                f"{self.clipped.least:,}, {flushed} in {self.flushed.least:,}."
            )
        return (
            f"{self.settings} against what ran, of {many}, each by its worst step: {clipped} in {self.clipped}, {flushed} in "
            f"{self.flushed}; SNR better by {NOTABLE_DB:g} dB or more in {self.better:,}, worse in {self.worse:,}."
        )

    @property
    def table(self) -> pd.DataFrame:
        """The rows as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


def _first_step_words(first: FirstStep | None) -> str:
    if first is None:
        return ""
    begins = "The recording does not hold the run's start: from scratch, delayed scaling begins at scale 1"
    if not first.known:
        return f"{begins}, and how many tensors its first step would lose there is not known."
    unknown = f"; of {first.tensors - first.known:,} more that is not known" if first.tensors > first.known else ""
    half = f"would lose {100 * LOST:g}% or more of what is not zero"
    return f"{begins}, where {first.lost:,} of {plural(first.known, 'tensor')} {half}, by step {first.step}{unknown}."


def _change(ran: list[float], bounds: list[tuple[float, float]], limit: float) -> Change:
    return Change(
        limit=limit,
        ran=sum(share > limit for share in ran),
        ran_unknown=sum(math.isnan(share) for share in ran),
        least=sum(lower > limit for lower, _ in bounds),
        most=sum(upper > limit for _, upper in bounds),
        more=sum(share > limit and lower - share > limit for share, (lower, _) in zip(ran, bounds, strict=True)),
    )


def _powers(case: Case, rows: tuple[Row, ...]) -> tuple[str, ...]:
    """What was taken of powers of two where nobody asked for either."""
    recipes = {row.recipe for row in rows} if case.settings.power_of_two is None else set()
    return tuple(found.words for scaling, found in case.powers.items() if scaling in recipes)


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
    rows = summed(case, found)
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
        case.first_step,
        _powers(case, rows),
    )
