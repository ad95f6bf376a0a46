"""How far apart two runs may be by chance: a block bootstrap over their steps, for all rows of a comparison at once.

Steps follow one another, so blocks of them are drawn, and the same blocks for all rows. The largest deviation over all
rows, each in its own standard errors, has a 95th percentile: a difference below it is noise, and the chance that any row
of two equal runs is called a change is 5% (family-wise). Few steps make standard errors themselves uncertain: the
percentile is carried over to Student's t with the steps' degrees of freedom. A run that drifts differs from itself:
what its halves differ by is noise too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Numbers = npt.NDArray[np.float64]

FEWEST_STEPS = 8
LEVEL = 0.05
_RESAMPLES = 2000
_SEED = 20_240_901
# Longer runs are cut in so many pieces: the bootstrap gains nothing from more.
_MOST_PIECES = 128
# Overlapping blocks tell the variance as so many times more blocks that do not overlap would. By simulation: of two runs of
# 8 to 20 equal steps with 50 to 400 rows, 4 to 5% then have a row that is called a change.
_OVERLAP_GAIN = 1.2
_ROWS_AT_ONCE = 4096
_NEARLY_NORMAL = 200


@dataclass(frozen=True)
class Series:
    """Rows of a run, step by step: `sums` of shape (rows, steps), over `weights` of shape (steps,) or (rows, steps).

    The figure of a row is the sum of its sums over that of its weights.
    """

    sums: Numbers
    weights: Numbers

    @property
    def steps(self) -> int:
        """Steps that it has."""
        return self.sums.shape[1]


@dataclass(frozen=True)
class Noise:
    """Half-widths of rows, shape (rows,): of each run's own figure, and of the difference between the two."""

    a: Numbers
    b: Numbers
    difference: Numbers


def noise(a: Series, b: Series, level: float = LEVEL) -> Noise | None:
    """The noise of both runs and of their difference; None where a run has fewer than `FEWEST_STEPS` steps."""
    if min(a.steps, b.steps) < FEWEST_STEPS:
        return None
    random = np.random.default_rng(_SEED)
    draws = [_Draws(one, random) for one in (a, b)]
    errors, largest = _spread(draws)
    critical = float(np.quantile(largest, 1 - level))
    own = [draw.error for draw in draws]
    freedom = _freedom(own, [draw.freedom for draw in draws])
    times = _critical(critical, freedom)
    half = np.maximum(times * errors, np.maximum(draws[0].drift, draws[1].drift))
    sides = [np.maximum(times * draw.error, draw.drift) for draw in draws]
    return Noise(sides[0], sides[1], half)


class _Draws:
    """Resampled figures of one run, made row by row when they are asked for."""

    def __init__(self, series: Series, random: np.random.Generator) -> None:
        self._series = _in_pieces(series)
        pieces = self._series.steps
        block = max(1, round(pieces ** (1 / 3)))
        self._picks = _picks(pieces, block, random)
        # A block bootstrap forgets what blocks have in common with the mean.
        self.correction = pieces / max(pieces - block, 1)
        self.freedom = max(_OVERLAP_GAIN * pieces / block - 1, 2.0)
        self.error = np.empty(series.sums.shape[0])
        self.drift = _drift(self._series)

    def deviations(self, rows: slice) -> Numbers:
        """Deviations of the resampled figures from the figure, shape (resamples, rows)."""
        sums = self._series.sums[rows]
        weights = self._series.weights if self._series.weights.ndim == 1 else self._series.weights[rows]
        whole = weights.sum(axis=-1)
        figure = sums.sum(axis=1) / whole
        # Of the steps' deviations: the same as of the figures for one weight a step, and right to first order for others.
        apart = sums - (figure[:, None] * weights if weights.ndim > 1 else np.outer(figure, weights))
        deviations = self._picks @ apart.T / whole
        self.error[rows] = np.sqrt((deviations**2).mean(axis=0) * self.correction)
        return deviations


def _in_pieces(series: Series) -> Series:
    """At most `_MOST_PIECES` runs of steps, each with its sums."""
    if series.steps <= _MOST_PIECES:
        return series
    starts = np.linspace(0, series.steps, _MOST_PIECES, endpoint=False).astype(np.int64)
    return Series(np.add.reduceat(series.sums, starts, axis=1), np.add.reduceat(series.weights, starts, axis=-1))


def _picks(pieces: int, block: int, random: np.random.Generator) -> Numbers:
    """How often each piece is in each resample, shape (resamples, pieces): blocks begin anywhere, and wrap around."""
    blocks = -(-pieces // block)
    starts = random.integers(0, pieces, (_RESAMPLES, blocks))
    drawn = ((starts[:, :, None] + np.arange(block)) % pieces).reshape(_RESAMPLES, -1)[:, :pieces]
    picks = np.zeros((_RESAMPLES, pieces))
    np.add.at(picks, (np.arange(_RESAMPLES)[:, None], drawn), 1)
    return picks


def _drift(series: Series) -> Numbers:
    """By how much the figures of the first and the second half of a run differ, shape (rows,)."""
    middle = series.steps // 2
    halves = [
        series.sums[:, half].sum(axis=1) / np.maximum(series.weights[..., half].sum(axis=-1), 1e-300)
        for half in (slice(None, middle), slice(middle, None))
    ]
    return np.abs(halves[0] - halves[1])


def _spread(draws: list[_Draws]) -> tuple[Numbers, Numbers]:
    """Standard errors of the differences, shape (rows,), and the largest deviation of each resample in those."""
    rows = len(draws[0].error)
    errors, largest = np.zeros(rows), np.zeros(_RESAMPLES)
    for part in _slices(rows):
        a, b = (draw.deviations(part) for draw in draws)
        errors[part] = np.hypot(draws[0].error[part], draws[1].error[part])
        apart = b * np.sqrt(draws[1].correction) - a * np.sqrt(draws[0].correction)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = np.abs(apart) / errors[part]
        np.maximum(largest, np.nan_to_num(scaled).max(axis=1, initial=0.0), out=largest)
    return errors, largest


def _slices(rows: int) -> Iterator[slice]:
    for start in range(0, rows, _ROWS_AT_ONCE):
        yield slice(start, start + _ROWS_AT_ONCE)


def _freedom(errors: list[Numbers], freedom: list[float]) -> Numbers:
    """Degrees of freedom of differences, after Welch and Satterthwaite."""
    variances = [error**2 for error in errors]
    both = sum(variances) ** 2
    parts = sum(variance**2 / one for variance, one in zip(variances, freedom, strict=True))
    return np.where(both > 0, both / np.where(parts > 0, parts, 1), min(freedom))


def _critical(normal: float, freedom: Numbers) -> Numbers:
    """Student's t that is exceeded as rarely as `normal` is by a normal variable, for each number of degrees."""
    beyond = NormalDist().cdf(-max(normal, 0.0))
    known = np.geomspace(max(float(freedom.min(initial=2.0)), 1.0), max(float(freedom.max(initial=2.0)), 1.0) + 1, 24)
    return np.interp(freedom, known, [student(beyond, float(one)) for one in known])


def student(beyond: float, freedom: float) -> float:
    """Student's t that is exceeded with the probability `beyond` (at most 0.5), by the tail of cos^(freedom - 1)."""
    angle, tail = _tail(round(freedom, 3))
    if freedom > _NEARLY_NORMAL:
        return -NormalDist().inv_cdf(max(beyond, 1e-12))
    return float(np.sqrt(freedom) / np.tan(np.interp(np.log(max(beyond, 1e-12)), tail, angle)))


@lru_cache(maxsize=256)
def _tail(freedom: float) -> tuple[Numbers, Numbers]:
    """Angles from the far end, and the logarithm of the probability beyond each: t = sqrt(freedom) / tan(angle)."""
    angle = np.geomspace(1e-7, np.pi / 2, 4000)
    density = np.sin(angle) ** (freedom - 1)
    steps = np.diff(angle) * (density[1:] + density[:-1]) / 2
    tail = np.concatenate([[density[0] * angle[0] / freedom], density[0] * angle[0] / freedom + np.cumsum(steps)])
    return angle, np.log(np.maximum(tail / (2 * tail[-1]), 1e-300))
