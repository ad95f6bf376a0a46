"""What a what-if says of each tensor: its observations in a row, what ran beside what would have been."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.hypothetical_scales import is_unset
from tetrace.fp8.observations import CURRENT, Rows, groups, non_finite, tensor_name
from tetrace.fp8.predicted import LOST, Case, Predicted, nonzero
from tetrace.fp8.prediction import FORMATS

if TYPE_CHECKING:
    import numpy.typing as npt

    Places = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.float64]

_NAMES = [one.name for one in FORMATS]


@dataclass(frozen=True)
class Row:
    """A tensor, over all steps that could be predicted. Shares are of all elements (saturated) and of those that are not
    zero (flushed); `ran_` is what was recorded, NaN where it was not. Those of `worst_` are the largest of one step (of a
    cast: a rank, a micro-batch), as `health` judges: before the first scale what is flushed counts from half on. `worst_step`
    loses most with what is asked for. `history` is how many steps the longest amax history had. SNR is in dB, infinite where
    there is no error. In `unset_steps` half of it or more would become zero since delayed scaling had set no scale yet: it is
    1 there, whatever format and margin. `as_ran` says that recipe, format and scales are those that ran."""

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
    worst_ran_saturated: float
    worst_saturated_lower: float
    worst_saturated_upper: float
    worst_ran_flushed: float
    worst_flushed_lower: float
    worst_flushed_upper: float

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

    @property
    def worst_ran_clipped(self) -> float:
        """As `ran_clipped`, in the worst step."""
        return 0.0 if self.ran_recipe == CURRENT else self.worst_ran_saturated

    @property
    def worst_clipped(self) -> tuple[float, float]:
        """As `clipped`, in the worst step."""
        return (0.0, 0.0) if self.recipe == CURRENT else (self.worst_saturated_lower, self.worst_saturated_upper)

    @property
    def worst_flushed(self) -> tuple[float, float]:
        """As `flushed`, in the worst step."""
        return self.worst_flushed_lower, self.worst_flushed_upper

    @property
    def worst_first(self) -> tuple[float, float, float]:
        """What rows are sorted by: what is lost in the worst step, in all of them, and the SNR."""
        return -(self.worst_clipped[1] + self.worst_flushed[1]), -(self.clipped[1] + self.flushed[1]), self.snr_db


def summed(case: Case, found: Predicted) -> tuple[Row, ...]:
    """One row a tensor, summed over its observations; the worst first."""
    rows = case.every.take(found.rows)
    order = np.argsort(rows.tensor, kind="stable")
    ran_unset = is_unset(rows)
    found_rows = [_row(rows, found, ran_unset, order[begin:end]) for begin, end in groups(rows.tensor[order])]
    return tuple(sorted(found_rows, key=lambda row: row.worst_first))


def _row(rows: Rows, found: Predicted, ran_unset: Mask, mine: Places) -> Row:
    module, role = rows.keys[int(rows.tensor[mine[0]])]
    own_nonzero = nonzero(rows)[mine]
    elements, kept = int(rows["elements"][mine].sum()), max(float(own_nonzero.sum()), 1.0)
    signal = float((rows["mean_square"] * (rows["elements"] - non_finite(rows)))[mine].sum())
    flushed = (found.flushed_upper[mine] >= LOST * own_nonzero) & (own_nonzero > 0)
    own_elements = np.maximum(rows["elements"][mine], 1)
    recipe, own_kept = found.recipe[int(mine[0])], np.maximum(own_nonzero, 1.0)
    ran_judged = _judged(rows["flushed"][mine], own_kept, ran_unset[mine])
    lower, upper = (_judged(one[mine], own_kept, found.unset[mine]) for one in (found.flushed, found.flushed_upper))
    lost = found.flushed_upper[mine] / own_kept + (recipe != CURRENT) * found.saturated_upper[mine] / own_elements
    return Row(
        module=module,
        role=role,
        ran_recipe=rows.text("scaling", int(mine[0])),
        ran_format=rows.text("format", int(mine[0])),
        recipe=recipe,
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
        unset_steps=len(np.unique(rows["step"][mine][found.unset[mine] & flushed])),
        as_ran=bool(found.as_ran[mine].all()),
        worst_ran_saturated=_most(rows["saturated"][mine], own_elements),
        worst_saturated_lower=_most(found.saturated[mine], own_elements),
        worst_saturated_upper=_most(found.saturated_upper[mine], own_elements),
        worst_ran_flushed=_most(ran_judged, own_kept),
        worst_flushed_lower=_most(lower, own_kept),
        worst_flushed_upper=_most(upper, own_kept),
    )


def _share(counts: Places, whole: float) -> float:
    """Share of a whole; NaN where it was not counted."""
    return float(counts.sum()) / whole if (counts >= 0).all() else float("nan")


def _judged(flushed: Numbers | Places, kept: Numbers, unset: Mask) -> Numbers | Places:
    """What counts of each cast: before a first scale that comes, none where less than half is flushed. Weights lose some
    percent of their smallest values there, once, and `health` passes that by."""
    passed = unset & (not unset.all()) & (flushed >= 0) & (flushed < LOST * kept)
    return np.where(passed, 0, flushed)


def _most(counts: Numbers | Places, whole: Numbers | Places) -> float:
    """The largest share of all casts; NaN where one was not counted."""
    return float((counts / whole).max()) if (counts >= 0).all() else float("nan")


def decibels(signal: float, error: float) -> float:
    """Signal to noise ratio in dB; infinite where there is no error, NaN where either is not known."""
    if np.isnan(signal) or np.isnan(error):
        return float("nan")
    if error <= 0:
        return float("inf")
    return 10 * float(np.log10(signal / error)) if signal > 0 else float("-inf")
