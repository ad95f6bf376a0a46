"""A figure of a study as a value: a number with its interval and unit, a word, or why there is neither."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tetrace.study.results import FAILED, MEASURED
from tetrace.study.statistics import APART, Estimate

TIMES, PERCENT, MS, SECONDS, RATE, BYTES, COUNT, PLAIN, WORD = "×", "%", "ms", "s", "/s", "bytes", "", "plain", "word"
# The end of the unit of what is counted in a step: `launches a step`.
A_STEP = " a step"
_SUFFIXES = {TIMES: "×", PERCENT: "%", MS: " ms", SECONDS: " s", RATE: "/s"}


@dataclass(frozen=True)
class Value:
    """A figure: a number with its interval, or a word; or `reason`, why there is neither. `failed`: it is because the
    configuration failed. `also`: what a claim on the word may name too, which is too long to be said."""

    estimate: Estimate | None = None
    word: str | bool | None = None
    unit: str = PLAIN
    reason: str = ""
    failed: bool = False
    also: str = ""
    # What a ratio is of: `0.2% and 0.1%`.
    parts: str = ""
    # By how many times the interval of a ratio of recorded times is wider, either way: the GPU's clock was another in each.
    clocks_apart: float = 1.0

    @property
    def known(self) -> bool:
        """Whether there is a figure."""
        return self.estimate is not None or self.word is not None

    def words(self) -> str:
        """The figure with its interval and unit."""
        if self.estimate is None:
            return self.reason or word_of(self.word)
        one = self.estimate
        if math.isinf(one.value) and one.low is not None and one.high is not None:
            return _beyond(one.low, one.high, self.unit)
        said = number(one.value, self.unit)
        if one.low is None or one.high is None:
            return f"{said} ({APART if one.way == APART else 'no interval'})"
        if one.low == one.high:
            return f"{said} ({self.parts})" if self.parts else said
        if math.isinf(one.low) and one.high == one.value:
            return f"always from {said} on"
        ends = (number(end, self.unit).removesuffix(_SUFFIXES.get(self.unit, "")) for end in (one.low, one.high))
        return f"{said} ({' to '.join(ends)})"


def _beyond(low: float, high: float, unit: str) -> str:
    """Of a place that lies beyond all that were measured: `never up to 8,192`."""
    if math.isfinite(low):
        return f"never up to {number(low, unit)}"
    return f"always from {number(high, unit)} on" if math.isfinite(high) else "beyond what was measured"


def state_word(value: str | bool | float | None) -> str:
    """The state of a configuration as claims say it: it runs, or fails."""
    return {MEASURED: "runs", FAILED: "fails"}.get(str(value), word_of(value))


def finite_word(value: str | bool | float | None) -> str:
    """Whether losses stay finite, as claims say it: `yes` would be the opposite of what some of them ask."""
    return {True: "finite", False: "NaN"}[value] if isinstance(value, bool) else word_of(value)


def word_of(value: str | bool | float | None) -> str:
    """A word, a truth or a number as the report writes it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def number(value: float, unit: str) -> str:
    """A number with its unit."""
    from tetrace.units import byte_count, three_digits

    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "beyond what was measured" if value > 0 else "below what was measured"
    if unit == TIMES:
        return f"{value:.3f}×"
    if unit == MS:
        return f"{value:,.3f} ms"
    if unit == SECONDS:
        return f"{value:,.2f} s"
    if unit == BYTES:
        return byte_count(value)
    if unit == RATE:
        return f"{value:,.0f}/s"
    if unit == PERCENT:
        return f"{value:.3g}%"
    if unit.endswith(A_STEP):
        return f"{value:,.0f} {unit}" if value == int(value) else f"{three_digits(value)} {unit}"
    return f"{value:,.0f}" if unit == COUNT and value == int(value) else three_digits(value)
