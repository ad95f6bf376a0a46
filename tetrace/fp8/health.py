"""What is wrong with the FP8 of a run, worst first: each problem with its tensor, its steps, a number and what to do."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8 import lost_gradients, nonfinite, nonfinite_advice, origins, scale_health
from tetrace.fp8.advice import clipped_words, whatif_words
from tetrace.fp8.flags import LEVELS, Problem, Recorded, flags, share_words
from tetrace.fp8.observations import (
    DELAYED,
    QUANTIZED,
    WHOLE,
    groups,
    is_gradient,
    non_finite,
    starts_of,
    steps_seen,
    switched_off,
    tensor_name,
    whole_steps,
)
from tetrace.fp8.prediction import FORMATS
from tetrace.units import plural

if TYPE_CHECKING:
    import pandas as pd

    from tetrace.trace.trace import Trace

# Shares of a tensor's elements that are clipped, and of those that are not zero that are flushed: critical, warning, note.
_CLIPPED = (1e-2, 1e-4, 1e-6)
_FLUSHED = (0.2, 1e-2, 1e-3)
# Of FP8 codes alone: an amax that is scaled to the largest code, and what rounds to it, is no loss.
_CODES = (1e-2, 1e-2, 1e-3)
# Delayed scaling clips a few values whenever an amax grows: up to a quarter more than fits costs about what rounding does.
_SLIGHTLY, _FEW = 1.25, 1e-3
# An amax so many times larger than in all steps before, of which there are so many, is news.
_JUMP, _STEPS_BEFORE = 1000.0, 2
# Problems in the order in which they are told where they are equally bad.
KINDS = (
    *(
        "non_finite",
        "frozen_history",
        "scale_changed",
        "lost_gradients",
        "saturation",
        "jump",
        "underflow",
        "never_set",
    ),
    *("stale_scale", "ranks_disagree", "power_of_two", "amax_zero"),
)
COLUMNS = tuple(field.name for field in dataclasses.fields(Problem))


@dataclass(frozen=True)
class Health:
    """All problems, and how much was looked at: of `tensors`, `quantized` were quantized to FP8 in some step."""

    problems: tuple[Problem, ...]
    tensors: int
    steps: tuple[int, ...]
    observations: int
    quantized: int
    whole_steps: int
    switched_off: int | None = None

    @property
    def seen(self) -> str:
        """In words, how many steps were looked at."""
        return steps_seen(self.whole_steps, self.steps)

    def __str__(self) -> str:
        return self.verdict

    @property
    def healthy(self) -> bool:
        """Whether something was quantized, and there is nothing but notes."""
        return bool(self.quantized) and not self._serious

    @property
    def verdict(self) -> str:
        """One sentence: healthy, the worst problem, or that nothing was quantized."""
        looked = f"{plural(self.tensors, 'tensor')} in {self.seen}"
        if self.switched_off is not None:
            looked += f" (inspection switched itself off in step {self.switched_off})"
        notes = len(self.problems) - self._serious
        if self._serious:
            no_fp8 = "" if self.quantized else "Nothing that was looked at was quantized to FP8. "
            worst = self.problems[0]
            where = f"{worst.name} at step {worst.first_step}" if worst.module else "the recipe"
            many = plural(self._serious, "problem") + (f", {plural(notes, 'note')}" if notes else "")
            return f"{no_fp8}{many} in {looked}. The worst: {worst.title}, {where} ({worst.evidence})."
        if not self.quantized:
            return f"Nothing that was looked at was quantized to FP8: {looked}, all finite."
        if notes:
            return f"Healthy: {looked}, with {plural(notes, 'note')}."
        return f"Healthy: nothing of what tetrace looks for in {looked}."

    @property
    def _serious(self) -> int:
        """Problems that are more than a note."""
        return sum(problem.level != "note" for problem in self.problems)

    @property
    def table(self) -> pd.DataFrame:
        """The problems as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(rows_of(self), columns=list(COLUMNS))


def rows_of(health: Health) -> list[dict[str, Any]]:
    """The problems as dictionaries with `COLUMNS`."""
    return [dataclasses.asdict(problem) for problem in health.problems]


def check_health(trace: Trace) -> Health:
    """What is wrong with the FP8 of a recording, worst first. Raises `InputError` where no FP8 statistics were recorded."""
    recorded = Recorded(trace)
    found = [problem for look in _LOOKS for problem in look(recorded)]
    quantized = recorded.rows.isin("source", *WHOLE, QUANTIZED)
    return Health(
        problems=tuple(sorted(found, key=_rank)),
        tensors=len(np.unique(recorded.rows.tensor)),
        steps=tuple(np.unique(recorded.rows["step"]).tolist()),
        observations=len(recorded.rows),
        quantized=len(np.unique(recorded.rows.tensor[quantized])),
        whole_steps=whole_steps(recorded.rows),
        switched_off=switched_off(recorded.trace),
    )


def _rank(problem: Problem) -> tuple[int, int, float, int]:
    number = 0.0 if np.isnan(problem.number) else problem.number
    return LEVELS.index(problem.level), KINDS.index(problem.kind), -number, problem.first_step


def _level(share: float, limits: tuple[float, float, float]) -> str:
    return LEVELS[0] if share >= limits[0] else LEVELS[1] if share >= limits[1] else LEVELS[2]


def _non_finite(recorded: Recorded) -> Iterator[Problem]:
    for origin in nonfinite.find_nonfinite(recorded.trace).origins:
        seen = origin.tensor
        made = f"made by {origin.made_by}" if origin.made_by else origin.after
        others = f", then {plural(origin.tensors - 1, 'more tensor')}" if origin.tensors > 1 else ""
        yield Problem(
            kind="non_finite",
            level="critical",
            title="NaN or Inf begins here",
            module=seen.module,
            role=seen.role,
            ranks=origin.rank,
            first_step=seen.step,
            last_step=origin.last_step,
            steps=origin.last_step - seen.step + 1,
            number=float(seen.nans + seen.infs),
            unit="elements",
            evidence=f"{origins.counts(seen)}, {made}{others}",
            advice="`tetrace fp8 nan RUN` has the whole story; " + nonfinite_advice.advice(origin),
        )


def _saturation(recorded: Recorded) -> Iterator[Problem]:
    rows = recorded.rows
    share = rows["saturated"] / np.maximum(rows["elements"], 1)
    largest = np.where(rows.isin("format", "E5M2"), FORMATS[1].largest, FORMATS[0].largest)
    with np.errstate(invalid="ignore", over="ignore"):
        beyond = rows["amax"] * rows["scale"] / largest
    # Scales of blocks are not known one by one: what they clip is told by its share alone.
    serious = (share >= _FEW) | np.where(np.isfinite(beyond), beyond > _SLIGHTLY, share >= _CLIPPED[1])
    # An amax that is its scale's largest value may be beyond it by a rounding.
    serious &= ~(beyond <= 1 + 1e-5)
    clipped = rows.isin("source", *WHOLE) & (share >= _CLIPPED[2]) & serious
    for flag in flags(recorded, rows, clipped, share):
        unset = rows["scale"][flag.row] == 1.0 and rows.isin("scaling", DELAYED)[flag.row]
        times = (
            f", amax {rows['amax'][flag.row]:.3g} is {beyond[flag.row]:.3g} times what fits"
            if beyond[flag.row] > 1
            else ""
        )
        yield flag.problem(
            kind="saturation",
            level=_level(float(share[flag.row]), _CLIPPED),
            title="Saturation",
            unit="of elements",
            evidence=f"{share_words(float(share[flag.row]))} of elements clipped to ±{largest[flag.row]:g}{times}",
            advice=_unset_words(flag.role) if unset else clipped_words(recorded, flag.row, float(beyond[flag.row])),
        )
    at_end = rows.isin("source", QUANTIZED) & (share >= _CODES[2])
    for flag in flags(recorded, rows, at_end, share):
        yield flag.problem(
            kind="saturation",
            level=_level(float(share[flag.row]), _CODES),
            title="Codes at the largest value",
            unit="of elements",
            evidence=f"{share_words(float(share[flag.row]))} of its FP8 codes are ±{largest[flag.row]:g}: clipped, or near it",
            advice=f"only its FP8 codes were seen; `tetrace fp8 tensor RUN {shlex.quote(tensor_name(flag.module, flag.role))}` "
            "has its amax and scale",
        )


def _unset_words(role: str) -> str:
    """What helps before the first scale. Calibrating runs no backward in FP8: it sets scales of inputs and weights alone."""
    if is_gradient(role):
        return "the scale is still 1, and calibrating sets none of a gradient: run the first steps in BF16, or recipe=current"
    return "the scale is still 1: run the first steps with te.autocast(calibrating=True) or in BF16"


def _underflow(recorded: Recorded) -> Iterator[Problem]:
    rows = recorded.rows
    nonzero = rows["elements"] - np.maximum(rows["zeros"], 0) - non_finite(rows)
    share = rows["flushed"] / np.maximum(nonzero, 1)
    lost = rows.isin("source", *WHOLE) & (share >= _FLUSHED[2]) & ~recorded.unset
    for flag in flags(recorded, rows, lost, share):
        is_e4m3, ran = rows.text("format", flag.row) == "E4M3", rows.text("scaling", flag.row)
        other = "recipe=current" if ran == DELAYED else "recipe=block"
        other = "format=HYBRID" if is_e4m3 and is_gradient(flag.role) else other
        yield flag.problem(
            kind="underflow",
            level=_level(float(share[flag.row]), _FLUSHED),
            title="Underflow",
            unit="of elements that are not zero",
            evidence=f"{share_words(float(share[flag.row]))} of what is not zero becomes zero",
            advice=f"{whatif_words(recorded, other)}; block scaling follows a wider range",
        )


def _jump(recorded: Recorded) -> Iterator[Problem]:
    """The first tensor of each step whose amax is far beyond all that it was before."""
    rows = recorded.rows
    good = np.flatnonzero(np.isfinite(rows["amax"]) & (rows["amax"] > 0))
    order = good[np.lexsort((rows["order"][good], rows.tensor[good], rows["process"][good]))]
    if not len(order):
        return
    grown, before = _growth(rows["process"][order], rows.tensor[order], rows["step"][order], rows["amax"][order])
    jumped = np.zeros(len(rows), np.bool_)
    growth = np.zeros(len(rows))
    jumped[order[(grown >= _JUMP) & (before >= _STEPS_BEFORE)]] = True
    growth[order] = grown
    for step in np.unique(rows["step"][jumped]).tolist():
        at = np.flatnonzero(jumped & (rows["step"] == step))
        first = at[np.argmin(rows["order"][at])]
        alone = np.zeros(len(rows), np.bool_)
        alone[first] = True
        others = len(np.unique(rows.tensor[at])) - 1
        more = f"; then {plural(others, 'more tensor')} in this step" if others else ""
        for flag in flags(recorded, rows, alone, growth):
            yield flag.problem(
                kind="jump",
                level="warning",
                title="Amax jumps",
                unit="times the largest before",
                evidence=f"amax {rows['amax'][first]:.3g} is {growth[first]:.3g} times its largest until then{more}",
                advice="look at what changed it in that step: data, learning rate, a write to it from outside",
            )


def _growth(
    process: np.ndarray[Any, Any], tensor: np.ndarray[Any, Any], step: np.ndarray[Any, Any], amax: np.ndarray[Any, Any]
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """How many times the largest amax of earlier steps each is, and how many earlier steps there were."""
    grown, before = np.zeros(len(amax)), np.zeros(len(amax), np.int64)
    for begin, end in groups(process, tensor):
        own = slice(begin, end)
        new_step = starts_of(step[own])
        largest = np.maximum.accumulate(np.maximum.reduceat(amax[own], new_step))
        number = np.repeat(np.arange(len(new_step)), np.diff(np.append(new_step, end - begin)))
        earlier = np.concatenate([[np.inf], largest[:-1]])
        grown[own], before[own] = amax[own] / earlier[number], number
    return grown, before


def _amax_zero(recorded: Recorded) -> Iterator[Problem]:
    """Tensors that are zero in all of several steps."""
    rows = recorded.rows
    measured = rows.isin("source", *WHOLE, QUANTIZED) & (rows["elements"] > 0)
    empty = measured & (rows["zeros"] == rows["elements"]) & ~rows.sampled
    many = len(rows.keys)
    always = np.bincount(rows.tensor[empty], minlength=many) == np.bincount(rows.tensor[measured], minlength=many)
    for flag in flags(recorded, rows, empty & always[rows.tensor], np.ones(len(rows))):
        if flag.steps < 2:
            continue
        gradient = is_gradient(flag.role)
        yield flag.problem(
            kind="amax_zero",
            level="warning" if gradient else "note",
            title="Amax is zero",
            unit="",
            evidence=f"all elements are zero in all {flag.steps} steps",
            advice="no gradient arrives here: is it detached, masked, or multiplied by zero?"
            if gradient
            else "a tensor of zeros: weights that begin at zero, or a branch that is masked",
        )


_LOOKS: tuple[Callable[[Recorded], Iterator[Problem]], ...] = (
    _non_finite,
    lost_gradients.look,
    _saturation,
    _underflow,
    _jump,
    _amax_zero,
    *scale_health.LOOKS,
)
