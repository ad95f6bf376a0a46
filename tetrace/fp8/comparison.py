"""Two recordings side by side: how amax, scale, losses and SNR of each tensor differ, and the step at which they part."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8.backward_order import in_order_of_backward
from tetrace.fp8.observations import (
    CHECK,
    QUANTIZED,
    RECOMPUTE,
    Rows,
    clipped,
    non_finite,
    starts_of,
    tensor_name,
    tensors,
)
from tetrace.fp8.whatif_rows import decibels

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from tetrace.trace.trace import Trace

_UNKNOWN = float("nan")
_DIFFERENCE = 0.1


@dataclass(frozen=True)
class Side:
    """A tensor in one recording, over the steps that both have. Shares as in a history; NaN where not recorded."""

    format: str
    scaling: str
    amax: float
    scale: float
    saturated: float
    clipped: float
    at_max: float
    flushed: float
    snr_db: float
    non_finite: int


@dataclass(frozen=True)
class Difference:
    """A tensor of both recordings. `parts_at` is the first step in which they differ, -1 where they do not; `place` is
    where in that step it was observed in the first recording: the smallest is where the runs part. `a_amax_there` and
    `b_amax_there` are the amaxes of that step, NaN where they do not part; `amax_ratio` is of those over all steps."""

    module: str
    role: str
    steps: int
    parts_at: int
    place: int
    amax_ratio: float
    a_amax_there: float
    b_amax_there: float
    a: Side
    b: Side

    @property
    def name(self) -> str:
        """Module and role."""
        return tensor_name(self.module, self.role)


@dataclass(frozen=True)
class Comparison:
    """`differences`, in the order in which they part; tensors that only one recording has; the steps that both have.

    Two amaxes differ when they are more than `tolerance` of the larger one apart, or one side alone is not finite. Amaxes
    of tensors `sampled_apart`, of which the two looked at other shares of the rows (`--fp8-rows`), are not compared.
    """

    differences: tuple[Difference, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    steps: tuple[int, ...]
    tolerance: float
    sampled_apart: tuple[str, ...] = ()

    @property
    def first(self) -> Difference | None:
        """Where the runs part; None where they do not."""
        return self.differences[0] if self.differences and self.differences[0].parts_at >= 0 else None

    @property
    def table(self) -> pd.DataFrame:
        """The differences as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


_SIDE = tuple(field.name for field in dataclasses.fields(Side))
COLUMNS = (
    *("module", "role", "steps", "parts_at", "amax_ratio", "a_amax_there", "b_amax_there"),
    *(f"{side}_{name}" for name in _SIDE for side in ("a", "b")),
)


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """The differences as dictionaries with `COLUMNS`."""
    return [
        {
            **{name: getattr(one, name) for name in COLUMNS[:7]},
            **{f"{side}_{name}": getattr(getattr(one, side), name) for name in _SIDE for side in ("a", "b")},
        }
        for one in comparison.differences
    ]


def compare(a: Trace, b: Trace, *, tolerance: float = _DIFFERENCE) -> Comparison:
    """Compare the tensors of two recordings that have the same module and role.

    `tolerance` is the share by which amaxes may differ. Raises `InputError` where FP8 statistics were not recorded.
    """
    rows_a, rows_b = _measured(a), _measured(b)
    steps = np.intersect1d(rows_a["step"], rows_b["step"])
    of_a, of_b = _by_name(rows_a, steps), _by_name(rows_b, steps)
    both = [key for key in of_a if key in of_b]
    found = [_difference(key, rows_a.take(of_a[key]), rows_b.take(of_b[key]), of_a[key], tolerance) for key in both]
    found = _as_backward_made(found, rows_a)
    return Comparison(
        differences=tuple(sorted(found, key=_rank)),
        only_a=tuple(tensor_name(*key) for key in rows_a.keys if key not in rows_b.keys),
        only_b=tuple(tensor_name(*key) for key in rows_b.keys if key not in rows_a.keys),
        steps=tuple(steps.tolist()),
        tolerance=tolerance,
        sampled_apart=tuple(
            tensor_name(*key) for key in both if _sampled_apart(rows_a.take(of_a[key]), rows_b.take(of_b[key]))
        ),
    )


def _as_backward_made(found: list[Difference], rows: Rows) -> list[Difference]:
    """Gradients are read together, before the optimizer's step: among themselves they come in the order of backward."""
    gradient = np.array([role.rpartition(".")[2] == "gradient" for _, role in rows.keys], np.bool_)[rows.tensor]
    places: dict[int, int] = {}
    parted = {
        (one.parts_at, int(rows["process"][one.place])) for one in found if one.parts_at >= 0 and gradient[one.place]
    }
    for step, process in parted:
        of_step = np.flatnonzero((rows["step"] == step) & (rows["process"] == process))
        together = of_step[gradient[of_step]].tolist()
        places |= dict(zip(in_order_of_backward(rows, of_step.tolist(), together), together, strict=True))
    return [dataclasses.replace(one, place=places.get(one.place, one.place)) for one in found]


def _sampled_apart(a: Rows, b: Rows) -> bool:
    """Whether the two looked at other shares of a tensor's rows: then the larger amax may be in a row of one side only."""
    return not np.array_equal(_shares(a), _shares(b))


def _shares(rows: Rows) -> npt.NDArray[np.float64]:
    """The distinct shares of a tensor that were looked at, without a check's, which is of the whole."""
    rows = rows.take(~rows.isin("source", CHECK))
    return np.unique(np.where(rows.sampled, rows["elements"] / np.maximum(rows["tensor_elements"], 1), 1.0).round(3))


def _rank(one: Difference) -> tuple[bool, int, int, float]:
    apart = abs(float(np.log(one.amax_ratio))) if one.amax_ratio > 0 else 0.0
    return one.parts_at < 0, one.parts_at, one.place if one.parts_at >= 0 else 0, -apart


def _measured(trace: Trace) -> Rows:
    """Observations without recomputed ones."""
    rows = tensors(trace)
    return rows.take(~rows.isin("phase", RECOMPUTE))


def _by_name(rows: Rows, steps: npt.NDArray[Any]) -> dict[tuple[str, str], npt.NDArray[np.int64]]:
    """Rows of each tensor in the steps that both recordings have, in order."""
    places = np.flatnonzero(np.isin(rows["step"], steps))
    places = places[np.argsort(rows.tensor[places], kind="stable")]
    begins = starts_of(rows.tensor[places])
    parts = np.split(places, begins[1:]) if len(begins) else []
    return {rows.keys[int(rows.tensor[part[0]])]: part for part in parts}


def _difference(key: tuple[str, str], a: Rows, b: Rows, places: npt.NDArray[np.int64], tolerance: float) -> Difference:
    steps = np.intersect1d(a["step"], b["step"])
    parted, a_there, b_there = _parts_at(a, b, steps, tolerance)
    first = int(places[np.argmax(a["step"] == parted)]) if parted >= 0 else -1
    sides = _side(a), _side(b)
    ratio = sides[1].amax / sides[0].amax if sides[0].amax > 0 and not _sampled_apart(a, b) else _UNKNOWN
    return Difference(*key, len(steps), parted, first, ratio, a_there, b_there, *sides)


def _parts_at(a: Rows, b: Rows, steps: npt.NDArray[Any], tolerance: float) -> tuple[int, float, float]:
    """The first step in which the two differ, and their amaxes there; -1 where they do not."""
    amaxes, bad = zip(*(_by_step(rows, steps) for rows in (a, b)), strict=True)
    if _sampled_apart(a, b):
        amaxes = (np.full(len(steps), np.nan),) * 2
    larger = np.fmax(*amaxes)
    with np.errstate(invalid="ignore"):
        apart = (np.abs(amaxes[0] - amaxes[1]) > tolerance * larger) | (bad[0] != bad[1])
    found = np.flatnonzero(apart)
    if not len(found):
        return -1, _UNKNOWN, _UNKNOWN
    return int(steps[found[0]]), float(amaxes[0][found[0]]), float(amaxes[1][found[0]])


def _by_step(rows: Rows, steps: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Largest amax in each step, NaN where it was not measured, and whether something was not finite."""
    amax, bad = np.full(len(steps), np.nan), np.zeros(len(steps), np.bool_)
    place = np.searchsorted(steps, rows["step"])
    mine = (place < len(steps)) & np.isin(rows["step"], steps)
    np.fmax.at(amax, place[mine], rows["amax"][mine])
    np.logical_or.at(bad, place[mine], non_finite(rows)[mine] > 0)
    return amax, bad


def _side(rows: Rows) -> Side:
    measured = rows.take(~rows.isin("source", CHECK))
    measured = measured if len(measured) else rows
    elements = int(measured["elements"].sum())
    codes = measured.take(measured.isin("source", QUANTIZED))
    finite = measured["elements"] - non_finite(measured)
    nonzero = int((finite - np.maximum(measured["zeros"], 0)).sum())
    last, known = len(measured) - 1, measured["amax"][~np.isnan(measured["amax"])]
    return Side(
        format=measured.text("format", last),
        scaling=measured.text("scaling", last),
        amax=float(known.max()) if len(known) else _UNKNOWN,
        scale=float(measured["scale"][last]),
        saturated=_share(measured["saturated"], elements),
        clipped=_share(clipped(measured), elements),
        at_max=_share(codes["saturated"], int(codes["elements"].sum())) if len(codes) else _UNKNOWN,
        flushed=_share(measured["flushed"], nonzero),
        snr_db=decibels(float((measured["mean_square"] * finite).sum()), float(measured["squared_error"].sum())),
        non_finite=int(non_finite(rows).sum()),
    )


def _share(counts: npt.NDArray[np.int64], whole: int) -> float:
    return float(counts.sum()) / max(whole, 1) if (counts >= 0).all() else _UNKNOWN
