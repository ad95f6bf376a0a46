"""The figures that a claim may be about: each of one configuration, against another where it is a ratio.

A figure that is not known says why; it is never 0.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from tetrace.study.last_losses import last_loss_over
from tetrace.study.recorded_clock import clocks_apart
from tetrace.study.results import FAILED, MEASURED, TIMED_OUT, WAITING, Configuration
from tetrace.study.statistics import EXACT, NO_SERIES, NONE, STEPS, Estimate, estimate, ratio
from tetrace.study.value import A_STEP, BYTES, COUNT, MS, PERCENT, PLAIN, RATE, SECONDS, TIMES, WORD, Value

if TYPE_CHECKING:
    from tetrace.breakdown.figures import Figure, Run
    from tetrace.study.material import Material

_RECORDED = {
    "backend": "attention_backend",
    "max_saturation_pct": "largest_saturation_pct",
}
# Of all recorded observations: nothing that is drawn.
_OF_ALL = ("largest_saturation_pct",)
# What became of gradients, as recorded: fields of `fp8.gradients.Gradients`, and what their formats are called.
_OF_GRADIENTS = {f"gradient_{name}_pct": name for name in ("error", "flushed", "clipped")}
_GRADIENT_FORMAT = "gradient_format"
# Of losses up to the last step: nothing of a configuration that was stopped before it.
_OF_THE_END = ("finite", "last_loss")


def value(material: Material, figure: str, of: str, against: str = "") -> Value:
    """A figure of configuration `of`. A speed-up is the time of `against`, or of its baseline, over its own; any other
    figure with `against` is its own over that of `against`."""
    is_ratio = figure.endswith("speedup") or figure in ("memory_ratio", "parameters_saved")
    other = against or (material.baseline(of) if is_ratio else "")
    if other and (said := material.apart(of, other)):
        return Value(reason=said)
    if is_ratio:
        return _against(material, figure, of, other)
    if against and figure in _FIRST_STEPS:
        return _first_step_over(material, figure, of, against)
    own = _own(material, figure, of)
    if not against or not own.known or own.estimate is None:
        return own
    if figure == "last_loss":
        its = _own(material, figure, against)
        return last_loss_over(material, of, against) if its.known else its
    if is_timed(material, figure):
        found = material.speedup(against, of, figure.removesuffix("_ms"))
        return Value(found, unit=TIMES) if found else _own(material, figure, against)
    its = _own(material, figure, against)
    over = _over(own, its)
    if is_recorded(material, figure):
        return _at_other_clocks(over, clocks_apart(material, of, against))
    # Of shares that are hardly 0 a ratio alone says little.
    return replace(over, parts=f"{own.words()} and {its.words()}") if figure in _OF_GRADIENTS else over


def _own(material: Material, figure: str, of: str) -> Value:
    found = material.configuration(of)
    if found is None:
        return Value(reason=f"{of} was not run")
    if figure in _OF_ANY:
        return _OF_ANY[figure](material, found)
    if not found.is_timed or (found.state != MEASURED and figure in _OF_THE_END):
        return Value(reason=_state_words(material, found), failed=found.state == FAILED)
    if figure.startswith("fact:"):
        return _fact(found, figure.removeprefix("fact:"))
    if figure in _OF_MEASURED:
        return _OF_MEASURED[figure](material, found)
    if is_timed(material, figure):
        return _timed(material, of, figure.removesuffix("_ms"))
    if figure in (*_OF_GRADIENTS, _GRADIENT_FORMAT):
        return _gradients(material, figure, of)
    return _recorded(material, figure, of)


def backend_words(material: Material, name: str) -> Value:
    """The attention backends that a recording shows, each with its version or sub-backend where that is known:
    `FlashAttention 4.0.0b11`."""
    found, run = value(material, "backend", name), material.breakdown(name)
    if not found.known or run is None:
        return found
    table = run.tables["attention_backends"]
    said: dict[str, None] = {}
    for backend in (part.strip() for part in str(found.word).split(",")):
        details = [str(sub) for one, sub in zip(table["backend"], table["sub_backend"], strict=True) if one == backend]
        said |= dict.fromkeys(f"{backend} {detail}".rstrip() for detail in details or [""])
    return Value(word=", ".join(said), unit=WORD)


def is_timed(material: Material, figure: str) -> bool:
    """Whether it is a time by round; a category of kernels may have the name of a phase that was not timed."""
    return figure.endswith("_ms") and figure.removesuffix("_ms") in ("total", *material.phases)


def is_recorded(material: Material, figure: str) -> bool:
    """Whether a figure is a time of recordings; one that was timed by round is not."""
    from tetrace.breakdown.figures import BY_NAME
    from tetrace.breakdown.figures import MS as TIME

    return figure in BY_NAME and BY_NAME[figure].unit == TIME and not is_timed(material, figure)


def _at_other_clocks(found: Value, apart: float) -> Value:
    """A ratio of recorded times, with an interval that is wider by what the GPU's clock makes of it."""
    one = found.estimate
    if one is None or one.low is None or one.high is None:
        return found
    return replace(found, estimate=replace(one, low=one.low / apart, high=one.high * apart), clocks_apart=apart)


def _over(own: Value, other: Value) -> Value:
    """One figure over another, with an interval that holds whatever lies in theirs."""
    a, b = own.estimate, other.estimate
    if a is None or b is None:
        return other if not other.known else own
    if not b.value:
        return Value(reason="there is nothing to divide by")
    if a.low is None or a.high is None or not b.low or not b.high:
        way, rounds = _why_no_interval(a, b)
        return Value(Estimate(a.value / b.value, None, None, rounds, way), unit=TIMES)
    ends = sorted(one / of for one in (a.low, a.high) for of in (b.low, b.high))
    way = b.way if a.way == EXACT else a.way
    return Value(Estimate(a.value / b.value, ends[0], ends[-1], min(a.rounds, b.rounds), way), unit=TIMES)


def _why_no_interval(*both: Estimate) -> tuple[str, int]:
    """The way and the rounds of what is made of two figures, one of which has no interval."""
    without = [one for one in both if one.low is None]
    short = [one.rounds for one in without if one.way == STEPS]
    if short and len(short) == len(without):
        return STEPS, min(short)
    return (NO_SERIES if any(one.way == NO_SERIES for one in without) else NONE), 0


def _state_words(material: Material, found: Configuration) -> str:
    if material.not_asked(found):
        return f"{found.name} was not asked for in this run"
    said = found.state if found.state != WAITING else "not measured"
    why = f" ({found.error.type}: {found.error.message})" if found.error else ""
    return f"{found.name} {'' if said in (FAILED, TIMED_OUT) else 'is '}{said}{why}"


def _timed(material: Material, name: str, column: str) -> Value:
    found = material.time(name, column)
    if found is None:
        return Value(reason=f"{column} of {name} was not timed")
    return Value(found.mapped(lambda ns: ns / 1e6), unit=MS)


def _against(material: Material, figure: str, of: str, against: str) -> Value:
    pair = [material.configuration(name) for name in (of, against)]
    for name, one in zip((of, against), pair, strict=True):
        if not name or one is None:
            return Value(reason=f"{name} was not run" if name else "it has no baseline")
        if not one.is_timed:
            return Value(reason=_state_words(material, one), failed=one.state == FAILED)
    if figure.endswith("speedup"):
        column = figure.removesuffix("speedup").rstrip("_") or "total"
        found = material.speedup(of, against, column)
        return Value(found, unit=TIMES) if found else Value(reason=f"{column} was not timed in the same rounds")
    own, other = (_own(material, _PLAIN_FIGURE[figure], name) for name in (of, against))
    if figure == "memory_ratio":
        return _over(own, other)
    if own.estimate is None or other.estimate is None:
        return other if own.known else own
    return Value(Estimate.exact(other.estimate.value - own.estimate.value), unit=COUNT)


def _fact(found: Configuration, name: str) -> Value:
    said = found.facts.get(name)
    if said is None:
        return Value(reason=f"{found.name} says nothing of {name}")
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(said)):
            return Value(Estimate.exact(number))
    return Value(word=str(said), unit=WORD)


def _state(material: Material, found: Configuration) -> Value:
    if material.not_asked(found):
        return Value(reason=_state_words(material, found))
    return Value(word=found.state, unit=WORD)


def _error(material: Material, found: Configuration) -> Value:
    if found.error is None:
        return (
            Value(word="no error", unit=WORD)
            if found.state == MEASURED
            else Value(reason=_state_words(material, found))
        )
    return Value(word=f"{found.error.type}: {found.error.message}", also=found.error.output, unit=WORD)


def _finite(_material: Material, found: Configuration) -> Value:
    if not found.losses.by_step:
        return Value(reason=f"losses of {found.name} were not kept")
    return Value(word=found.losses.first_nonfinite_step is None, unit=WORD)


def _loss(place: str) -> Callable[[Material, Configuration], Value]:
    def loss(_material: Material, found: Configuration) -> Value:
        one: float | None = getattr(found.losses, place)
        if one is None:
            return Value(reason=f"losses of {found.name} were not kept")
        return Value(Estimate.exact(one)) if math.isfinite(one) else Value(word=str(one), unit=WORD)

    return loss


def _tokens(material: Material, found: Configuration) -> Value:
    time, tokens = material.time(found.name), found.tokens
    if time is None or not tokens:
        return Value(reason=f"tokens of {found.name} are not known")
    return Value(time.mapped(lambda ns: tokens / ns * 1e9), unit=RATE)


def _tflops(material: Material, found: Configuration) -> Value:
    time, flops = material.time(found.name), found.flops
    if time is None or not flops:
        return Value(reason=f"floating-point operations of {found.name} are not counted")
    return Value(time.mapped(lambda ns: flops / ns / 1e3))


def _peak_share(material: Material, found: Configuration) -> Value:
    rate, peak = _tflops(material, found), material.peak_flops(found.name)
    if rate.estimate is None or peak is None:
        unknown = "the peak of this GPU in its precision was not measured: tetrace doctor --calibrate has BF16 and FP8"
        if material.results.peaks and not material.has_peaks_of_its_own(found.name):
            unknown = f"peaks were measured in another start of the machine than {found.name}, which reaches others"
        return Value(reason=rate.reason or unknown)
    return Value(rate.estimate.mapped(lambda tera: 100 * tera * 1e12 / peak), unit=PERCENT)


def _exact(name: str, unit: str, scale: float = 1) -> Callable[[Material, Configuration], Value]:
    def exact(_material: Material, found: Configuration) -> Value:
        one = getattr(found, name)
        if one is None:
            return Value(reason=f"{name} of {found.name} was not measured")
        return Value(Estimate.exact(one / scale), unit=unit)

    return exact


def _first_step(unit: str, scale: float) -> Callable[[Material, Configuration], Value]:
    """The time of a first step that ran alone: one in each start of the machine, so with one start nobody knows how far it may
    be off."""

    def first_step(material: Material, found: Configuration) -> Value:
        one = _exact("first_step_ns", unit, scale)(material, found)
        if one.estimate is None:
            return one
        if found.first_step_beside:
            return Value(reason=f"the first step of {found.name} ran beside others; --fresh measures it alone")
        known = _of_starts(estimate(list(material.first_steps(found.name).values())))
        return Value(known and known.mapped(lambda ns: ns / scale), unit=unit)

    return first_step


def _first_step_over(material: Material, figure: str, of: str, against: str) -> Value:
    """A first step over another, start by start of the machine: how fast the host is touches both."""
    for name in (of, against):
        if not (own := _own(material, figure, name)).known:
            return own
    found = _of_starts(ratio(material.first_steps(against), material.first_steps(of)))
    return (
        Value(found, unit=TIMES)
        if found
        else Value(reason=f"no start of the machine has first steps of {of} and {against}")
    )


def _of_starts(found: Estimate | None) -> Estimate | None:
    """An estimate over starts of the machine, whose samples are no rounds."""
    return found and replace(found, rounds=0)


def _gradients(material: Material, figure: str, of: str) -> Value:
    """What FP8 made of gradients; counted over all that were recorded."""
    from tetrace.fp8.gradients import gradients

    trace = material.trace(of)
    if isinstance(trace, str):
        return Value(reason=f"{of}: {trace}")
    found = gradients(trace) if trace.has("fp8_tensors") else None
    if found is None:
        return Value(reason=f"{figure} of {of}: not recorded")
    if figure == _GRADIENT_FORMAT:
        return Value(word=", ".join(found.formats) or "not known", unit=WORD)
    return Value(Estimate.exact(getattr(found, _OF_GRADIENTS[figure])), unit=PERCENT)


def _recorded(material: Material, figure: str, of: str) -> Value:
    from tetrace.breakdown import figures

    known = figures.BY_NAME.get(_RECORDED.get(figure, figure))
    if known is None:
        return Value(reason=f"{figure} is no figure that tetrace knows")
    run = material.run(of)
    if isinstance(run, str):
        return Value(reason=f"{of}: {run}")
    found = known.value(run)
    if found is None:
        return Value(reason=f"{figure} of {of}: not recorded")
    if isinstance(found, str):
        return Value(word=found, unit=WORD)
    unit = {"%": PERCENT, "ms": MS, "": COUNT}.get(known.unit, PLAIN)
    if unit == COUNT and known.sentence.endswith("in a step."):
        unit = f"{known.name.replace('_', ' ')}{A_STEP}"
    return Value(_by_step(known, run, found), unit=unit)


def _by_step(known: Figure, run: Run, found: float) -> Estimate:
    """A recorded figure with the interval that its noise from step to step leaves; exact where it is counted, or the same in
    every step; without one where it has no value by step, or too few steps were recorded."""
    from tetrace.breakdown.figures import COUNT as COUNTED
    from tetrace.breakdown.noise import noise

    if known.unit == COUNTED or known.name in _OF_ALL:
        return Estimate.exact(found)
    series = known.series(run)
    if series is not None:
        sums, weights = series.sums[0], series.weights[0]
        each = sums[weights > 0] / weights[weights > 0]
        if (each == each[0]).all():
            return Estimate.exact(found)
        if own := noise(series, series):
            half, most = float(own.a[0]), 100.0 if known.unit == "%" else math.inf
            return Estimate(found, max(found - half, 0.0), min(found + half, most), 0, STEPS)
        return Estimate(found, None, None, series.steps, STEPS)
    return Estimate(found, None, None, 0, NO_SERIES)


_PLAIN_FIGURE = {"memory_ratio": "peak_bytes", "parameters_saved": "parameters"}
# Of configurations in any state, and of those that were measured.
_OF_ANY: dict[str, Callable[[Material, Configuration], Value]] = {"state": _state, "error": _error}
_OF_MEASURED: dict[str, Callable[[Material, Configuration], Value]] = {
    "finite": _finite,
    "first_loss": _loss("first"),
    "last_loss": _loss("last"),
    "tokens_per_s": _tokens,
    "tflops": _tflops,
    "peak_pct": _peak_share,
    "peak_bytes": _exact("peak_allocated_bytes", BYTES),
    "parameters": _exact("parameters", COUNT),
    "first_step_ms": _first_step(MS, 1e6),
    "first_step_s": _first_step(SECONDS, 1e9),
}
_FIRST_STEPS = ("first_step_ms", "first_step_s")
