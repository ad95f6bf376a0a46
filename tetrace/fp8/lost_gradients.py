"""Gradients that became zero since nothing had set their scale yet: the first steps of delayed scaling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.flags import Problem, Recorded, rank_words, share_words
from tetrace.fp8.observations import DELAYED, QUANTIZED, WHOLE, Rows, is_gradient, non_finite, tensor_name

if TYPE_CHECKING:
    import numpy.typing as npt

    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.float64]

# Of the elements that are not zero, so many become zero where a gradient counts as lost.
_LOST = 0.5
# Nothing of a gradient goes on where such a share of its sum of squares is lost.
_WHOLLY = 0.99
_STEPS_TOLD = 3


@dataclass(frozen=True)
class LostStep:
    """Of `gradients` under delayed scaling `lost` were lost in this step, and of these `wholly` left nothing, or were zero
    since one before them had left nothing."""

    step: int
    lost: int
    wholly: int
    gradients: int


@dataclass(frozen=True)
class LostGradients:
    """The steps in which gradients were lost before their first scale, and the first of them in the order in which things
    ran: its amax, how many of its elements that are not zero became zero, and the squared error as a share of its sum of
    squares (NaN where it was not recorded). `worst` is module and role of the one of which that share, `worst_error`, is
    the largest; empty where it was recorded of none."""

    module: str
    role: str
    format: str
    ranks: str
    amax: float
    flushed: int
    nonzero: int
    error: float
    steps: tuple[LostStep, ...]
    worst: tuple[str, str] = ("", "")
    worst_error: float = float("nan")

    @property
    def name(self) -> str:
        """Module and role of the first."""
        return tensor_name(self.module, self.role)

    @property
    def wholly(self) -> bool:
        """Whether nothing was left of some gradient."""
        return any(step.wholly for step in self.steps)

    @property
    def steps_words(self) -> str:
        """How many in which steps: `17 of 17 gradients in step 0, 16 in step 1, 8 in step 2`."""
        first, *others = self.steps
        noun = "gradient" if first.gradients == 1 else "gradients"
        words = [f"{first.lost} of {first.gradients} {noun} in step {first.step}"]
        words += [f"{one.lost} in step {one.step}" for one in others]
        left = len(words) - _STEPS_TOLD
        return ", ".join(words if left <= 1 else [*words[:_STEPS_TOLD], f"and more until step {self.steps[-1].step}"])

    @property
    def first_words(self) -> str:
        """What became of the first: `amax 0.000244 at scale 1, 206,041,088 of 206,045,184 elements become zero, ...`."""
        kept = self.flushed < self.nonzero and not np.isnan(self.error)
        squares = f", {share_words(self.error)} of its sum of squares" if kept else ""
        return f"amax {self.amax:.3g} at scale 1, {self.flushed:,} of {self.nonzero:,} elements become zero{squares}"


def lost_gradients(recorded: Recorded) -> LostGradients | None:
    """The gradients that were lost before their first scale; None where none was."""
    rows = recorded.rows
    nonzero = rows["elements"] - np.maximum(rows["zeros"], 0) - non_finite(rows)
    gradient = np.array([is_gradient(role) for _, role in rows.keys], np.bool_)[rows.tensor]
    gradient &= rows.isin("scaling", DELAYED) & rows.isin("source", *WHOLE, QUANTIZED)
    unset = gradient & recorded.unset
    measured = unset & rows.isin("source", *WHOLE) & (nonzero > 0)
    flushed = measured & (rows["flushed"] >= _LOST * nonzero)
    if not flushed.any():
        return None
    wholly = flushed & ((rows["flushed"] >= nonzero) | (_error(rows) >= _WHOLLY))
    where = _places(rows)
    zero = unset & (rows["zeros"] == rows["elements"]) & ~rows.sampled
    # What is zero since what came before it left nothing; and what is seen by its FP8 codes alone, which are zero as they
    # are not later.
    after = zero & (rows["order"] > _first_order(rows, wholly, where))
    few_codes = rows.isin("source", QUANTIZED) & (rows["zeros"] >= _LOST * rows["elements"])
    codes = unset & few_codes & np.isin(where, where[flushed]) & ~_later(rows, gradient & ~unset & few_codes)
    worst = int(np.argmax(np.where(flushed, np.nan_to_num(_error(rows), nan=-1.0), -1.0)))
    worst_error = float(_error(rows)[worst])
    lost, wholly = flushed | after | codes, wholly | after | (codes & zero)
    at = np.flatnonzero(flushed)
    first = int(at[np.lexsort((rows["order"][at], rows["step"][at]))[0]])
    module, role = rows.keys[int(rows.tensor[first])]
    return LostGradients(
        module=module,
        role=role,
        format=rows.text("format", first),
        ranks=rank_words(recorded, np.unique(rows["process"][lost]).tolist()),
        amax=float(rows["amax"][first]),
        flushed=int(rows["flushed"][first]),
        nonzero=int(nonzero[first]),
        error=float(_error(rows)[first]),
        steps=tuple(
            LostStep(step, *(_tensors(rows, mask, step) for mask in (lost, wholly, gradient)))
            for step in np.unique(rows["step"][lost]).tolist()
        ),
        worst=("", "") if np.isnan(worst_error) else rows.keys[int(rows.tensor[worst])],
        worst_error=worst_error,
    )


def _tensors(rows: Rows, mask: Mask, step: int) -> int:
    """How many tensors have a row of this step where `mask` holds."""
    return len(np.unique(rows.tensor[mask & (rows["step"] == step)]))


def _error(rows: Rows) -> Numbers:
    """The squared error of each cast as a share of the tensor's sum of squares."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error: Numbers = rows["squared_error"] / (rows["elements"] * rows["mean_square"])
    return error


def _places(rows: Rows) -> npt.NDArray[np.int64]:
    """A number for each step of each process."""
    pairs = np.stack((rows["process"].astype(np.int64), rows["step"].astype(np.int64)))
    return np.unique(pairs, axis=1, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _first_order(rows: Rows, mask: Mask, where: npt.NDArray[np.int64]) -> Numbers:
    """For each row: the order of the first of its step and process where `mask` holds; infinite where it does nowhere."""
    first = np.full(int(where.max()) + 1, np.inf)
    np.minimum.at(first, where[mask], rows["order"][mask])
    return first[where]


def _later(rows: Rows, mask: Mask) -> Mask:
    """Whether a row's tensor has a row where `mask` holds."""
    return np.isin(rows.tensor, rows.tensor[mask])


def look(recorded: Recorded) -> Iterator[Problem]:
    """One problem for all of them: of the first, by its elements; where none is lost wholly, of the one that loses the
    largest share of its sum of squares."""
    found = lost_gradients(recorded)
    if found is None:
        return
    by_squares = not found.wholly and not np.isnan(found.worst_error)
    module, role = found.worst if by_squares else (found.module, found.role)
    how = "" if found.wholly else ", none wholly"
    if by_squares:
        how += f" (at most {share_words(found.worst_error)} of a sum of squares, of {tensor_name(module, role)})"
    first = "the first of them" + (f", {found.name}" if (module, role) != (found.module, found.role) else "")
    yield Problem(
        kind="lost_gradients",
        level="warning" if found.wholly else "note",
        title="Gradients lost" if found.wholly else "Gradients lost in part",
        module=module,
        role=role,
        ranks=found.ranks,
        first_step=found.steps[0].step,
        last_step=found.steps[-1].step,
        steps=len(found.steps),
        number=found.worst_error if by_squares else found.flushed / found.nonzero,
        unit="of a sum of squares" if by_squares else "of elements that are not zero",
        evidence=f"{found.steps_words}{how}, before their first scale; {first}: {found.first_words}",
        advice=advice(found),
        tensors=max(step.lost for step in found.steps),
    )


def advice(found: LostGradients) -> str:
    """What helps: a wider format, a scale that needs no step before, or first steps that do not count."""
    passes = (
        "" if found.wholly else "a note: of each something is left, so every layer gets a gradient and sets its scale; "
    )
    wider = "Format.HYBRID gives gradients E5M2, which loses less; " if found.format == "E4M3" else ""
    # calibrating=True sets scales of inputs and weights alone.
    return (
        f"{passes}{wider}current scaling needs no step before; else begin with a learning rate of nearly 0, until scales "
        "are set"
    )
