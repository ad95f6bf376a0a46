"""Whether a run keeps to a budget: every limit with its value, and against a baseline with the noise of both runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.breakdown.budget import STEP_RATIO, Budget, Limit, RowLimit
from tetrace.breakdown.figures import BY_NAME, Figure, Run, words
from tetrace.breakdown.noise import Noise, Series, noise

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

KEPT, BROKEN, SKIPPED = "ok", "broken", "skipped"
_MAY_BE = "may be"
NOT_RECORDED, FEW_STEPS = "not recorded", "too few steps to tell noise"


@dataclass(frozen=True)
class Check:
    """One limit and how the run does. `value`, `limit` and `baseline` are in words of `unit`; `ratio` is of the run to
    the baseline and `ratio_noise` by how much it may be off by chance; None where there is none."""

    name: str
    sentence: str
    status: str
    value: str
    limit: str
    baseline: str = ""
    ratio: float | None = None
    ratio_noise: float | None = None
    remark: str = ""

    @property
    def words(self) -> str:
        """What happened, in one line."""
        against = f", {self.ratio:.3f} × the baseline's {self.baseline}" if self.ratio is not None else ""
        remark = f" ({self.remark})" if self.remark else ""
        limit = self.limit if self.limit.startswith(_MAY_BE) else f"the limit is {self.limit}"
        return f"{self.name} is {self.value}{against}; {limit}{remark}"


@dataclass(frozen=True)
class Result:
    """All checks of a run, in the order of the budget."""

    run: str
    baseline: str
    checks: tuple[Check, ...]

    @property
    def broken(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == BROKEN)


def check(
    breakdown: Breakdown, budget: Budget, baseline: Breakdown | None = None, names: tuple[str, str] = ("", "")
) -> Result:
    """How a run does by a budget. A ratio is broken when it is beyond its limit and the difference beyond noise.

    A figure that was not recorded breaks every limit on it. Without a baseline, ratios are skipped. `names` are what to
    call run and baseline.
    """
    run = Run(breakdown)
    other = Run(baseline) if baseline else None
    checks = [
        *(_limited(BY_NAME[name], run, limit) for name, limit in budget.limits.items()),
        *(_row(breakdown, limit) for limit in budget.rows),
        *_ratios(budget, run, other),
    ]
    source = breakdown.attribution.trace.metadata.source
    base = baseline.attribution.trace.metadata.source if baseline else ""
    return Result(names[0] or source, names[1] or base, tuple(checks))


def _limited(figure: Figure, run: Run, limit: Limit) -> Check:
    value = figure.value(run)
    said = _limit_words(figure, limit)
    remark = _why_not(figure, run) if value is None else ""
    return Check(figure.name, figure.sentence, _status(value, limit), words(figure, value), said, remark=remark)


def _status(value: float | str | None, limit: Limit) -> str:
    if value is None:
        return BROKEN
    if isinstance(value, str):
        return KEPT if all(word in limit.allowed for word in value.split(", ")) else BROKEN
    above = limit.most is not None and value > limit.most
    below = limit.least is not None and value < limit.least
    return BROKEN if above or below else KEPT


def _limit_words(figure: Figure, limit: Limit) -> str:
    if limit.allowed:
        return f"{_MAY_BE} {' or '.join(limit.allowed)}"
    parts = [("at most", limit.most), ("at least", limit.least)]
    return ", ".join(f"{word} {words(figure, number)}" for word, number in parts if number is not None)


def _why_not(figure: Figure, run: Run) -> str:
    if figure.name == "largest_saturation_pct":
        if run.scope.trace.rows("fp8_tensors"):
            return "no tensor was seen before its cast: tetrace record --fp8 --fp8-recompute N"
        return "tetrace record --fp8 records it"
    if not run.breakdown.totals.activities:
        return "no GPU activity was captured"
    if run.breakdown.totals.hidden_ns:
        return "CUDA graphs were recorded whole"
    if figure.name == "launch_latency_us" and run.scope.trace.has("calls"):
        return "hardly a stream was idle at a launch"
    return ""


def _row(breakdown: Breakdown, row: RowLimit) -> Check:
    table = breakdown.tables[row.table]
    fits = np.ones(len(table), np.bool_)
    for name, wanted in row.where.items():
        fits &= np.array([value == wanted for value in list(table[name])], np.bool_)
    unit = next(column.unit for column in table.declaration.columns if column.name == row.column)
    scale = max(breakdown.totals.steps, 1) * (1_000_000 if unit == "ns" else 1)
    column = np.asarray(table[row.column])[fits]
    value = float(column.sum()) / scale if len(column) and (column >= 0).all() else None
    figure = Figure(row.name, "ms" if unit == "ns" else "", "")
    where = ", ".join(f"{name} {wanted}" for name, wanted in row.where.items()) or "all rows"
    return Check(
        name=row.name,
        sentence=f"Sum of {row.column} of {row.table}, {where}, in a step.",
        status=_status(value, row.limit),
        value=words(figure, value),
        limit=_limit_words(figure, row.limit),
        remark="" if value is not None else "no row fits" if not len(column) else "",
    )


def _ratios(budget: Budget, run: Run, other: Run | None) -> Iterator[Check]:
    limits = budget.baseline
    if other and not limits:
        limits = {"step_ms": Limit(most=STEP_RATIO)}
    known: dict[str, Noise | None] = {}
    if other:
        known = _noise_of([BY_NAME[name] for name in limits], run, other)
    for name, limit in limits.items():
        yield _ratio(BY_NAME[name], run, other, limit, known.get(name), name in known)


def _noise_of(figures: list[Figure], run: Run, other: Run) -> dict[str, Noise | None]:
    """The noise of those figures that have a value in every step, worked out for all of them at once."""
    series = {figure.name: (figure.series(other), figure.series(run)) for figure in figures}
    both = {name: pair for name, pair in series.items() if pair[0] is not None and pair[1] is not None}
    if not both:
        return {}
    stacked = [
        Series(*(np.concatenate([getattr(pair[side], part) for pair in both.values()]) for part in ("sums", "weights")))
        for side in (0, 1)
    ]
    found = noise(stacked[0], stacked[1])
    return {
        name: None if found is None else Noise(*(half[i : i + 1] for half in (found.a, found.b, found.difference)))
        for i, name in enumerate(both)
    }


def _ratio(figure: Figure, run: Run, other: Run | None, limit: Limit, known: Noise | None, by_step: bool) -> Check:
    value = figure.value(run)
    parts = [("at most", limit.most), ("at least", limit.least)]
    said = ", ".join(f"{word} {number:g} × baseline" for word, number in parts if number is not None)
    name = f"{figure.name} against the baseline"
    if other is None:
        return Check(name, figure.sentence, SKIPPED, words(figure, value), said, remark="no --baseline was given")
    base = figure.value(other)
    if not isinstance(value, int | float) or not isinstance(base, int | float):
        why = NOT_RECORDED + (" in the baseline" if base is None else "")
        return Check(name, figure.sentence, BROKEN, words(figure, value), said, words(figure, base), remark=why)
    ratio = value / base if base else 1.0 if not value else float("inf")
    status, half = _status(ratio, limit), float(known.difference[0]) if known else None
    remark = FEW_STEPS if by_step and known is None else ""
    if half is not None and status == BROKEN and abs(value - base) <= half:
        status, remark = KEPT, "within noise"
    off = half / base if half is not None and base else None
    return Check(name, figure.sentence, status, words(figure, value), said, words(figure, base), ratio, off, remark)
