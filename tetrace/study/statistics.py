"""Medians of a study with their intervals. A round is the unit: its figure is the median of its steps.

Steps of a round follow one another on one warm GPU, so they are no independent draws; rounds of configurations that are
alive together take turns, so what drifts touches them alike. A figure is the median over rounds, a ratio the median over
the ratios within each round that both ran side by side. Where rounds are independent of one another, intervals hold the
true median in 95% of all studies, or more: from six rounds on by order statistics, which ask nothing else; of fewer by
Student's t around the mean of their logarithms, which asks for normal ones. One round has none, and neither has a ratio of
configurations that never ran side by side.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.95
ORDER, STUDENT, EXACT, NONE = "order statistics", "Student's t", "exact", "no interval"
# A ratio of medians: no round of one ran beside a round of the other.
APART = "not interleaved"
# A figure of a recording: its noise from step to step; without an interval `rounds` are its steps, too few to tell.
STEPS = "recorded steps"
# A figure of a recording that has no value by step.
NO_SERIES = "no value by step"
# A figure of one training run: what it differs by where weights and data are drawn anew.
DRAWS = "other draws"
# With five rounds the whole range, smallest to largest, holds the median in 93.75% of all studies only.
FEWEST_FOR_ORDER = 6


@dataclass(frozen=True)
class Estimate:
    """A figure with the interval that holds it; `rounds` it is of, `way` how the interval was made.

    `low` and `high` are None where there is no interval. An exact figure (bytes, a count) has itself as interval.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int
    way: str

    @staticmethod
    def exact(value: float) -> Estimate:
        """A figure that is counted, not sampled."""
        return Estimate(value, value, value, 0, EXACT)

    def mapped(self, function: Callable[[float], float]) -> Estimate:
        """The figure after a monotonic function: a rate of a time, a time in other units."""
        ends = None if self.low is None or self.high is None else sorted((function(self.low), function(self.high)))
        low, high = ends if ends else (None, None)
        return Estimate(function(self.value), low, high, self.rounds, self.way)

    def wider(self, by: float) -> Estimate:
        """The figure with an interval that is wider by a factor either way; one without stays without."""
        if self.low is None or self.high is None:
            return self
        return Estimate(self.value, self.low / by, self.high * by, self.rounds, self.way)

    @property
    def has_interval(self) -> bool:
        """Whether it is known how far it may be off."""
        return self.low is not None

    def overlaps(self, other: Estimate) -> bool:
        """Whether both intervals share a number; a figure without one is its own."""
        mine, its = self._ends(), other._ends()
        return mine[0] <= its[1] and its[0] <= mine[1]

    def _ends(self) -> tuple[float, float]:
        return (self.value if self.low is None else self.low, self.value if self.high is None else self.high)


def estimate(values: Sequence[float], level: float = LEVEL) -> Estimate | None:
    """The median of rounds with its interval; None of no round."""
    known = sorted(values)
    if not known:
        return None
    middle = statistics.median(known)
    if len(known) == 1:
        return Estimate(middle, None, None, 1, NONE)
    if len(known) < FEWEST_FOR_ORDER:
        low, high = _around_mean(known, level)
        return Estimate(middle, min(low, middle), max(high, middle), len(known), STUDENT)
    cut = cut_off(len(known), level)
    return Estimate(middle, known[cut], known[-1 - cut], len(known), ORDER)


def cut_off(rounds: int, level: float = LEVEL) -> int:
    """How many of the smallest and of the largest values an interval of the median leaves out.

    The median lies between the k-th smallest and the k-th largest of n values unless fewer than k fell on one of its
    sides, and each value falls on either with one half: 1 − 2·P(Binomial(n, ½) < k).
    """
    cut, beyond = 0, 2.0 / 2**rounds
    while cut + 1 <= (rounds - 1) // 2 and beyond + 2 * math.comb(rounds, cut + 1) / 2**rounds <= 1 - level:
        cut += 1
        beyond += 2 * math.comb(rounds, cut) / 2**rounds
    return cut


def coverage(rounds: int, level: float = LEVEL) -> float:
    """How often the interval of so many rounds holds the median, at least: 0.984 of seven."""
    if rounds < FEWEST_FOR_ORDER:
        return level if rounds > 1 else 0.0
    return 1 - 2 * sum(math.comb(rounds, below) for below in range(cut_off(rounds, level) + 1)) / 2**rounds


def ratio(of: Mapping[Hashable, float], against: Mapping[Hashable, float]) -> Estimate | None:
    """`against` over `of`, round by round: how many times faster `of` is, where both are times. The same key means that
    both rounds ran side by side; others are left out. Where there is no such pair it is the ratio of both medians, without
    an interval; None where one has no round."""
    own = {key: value for key, value in of.items() if value > 0}
    if shared := own.keys() & against.keys():
        return estimate([against[key] / own[key] for key in shared])
    if not own or not against:
        return None
    value = statistics.median(against.values()) / statistics.median(own.values())
    return Estimate(value, None, None, min(len(own), len(against)), APART)


def ways(estimates: Sequence[Estimate]) -> str:
    """How the intervals of some figures were made, in a sentence; empty where none has one."""
    said = []
    of_order = sorted({one.rounds for one in estimates if one.way == ORDER})
    of_student = sorted({one.rounds for one in estimates if one.way == STUDENT})
    if of_order:
        exact = ", ".join(f"{rounds} rounds: {100 * coverage(rounds):.1f}%" for rounds in of_order)
        said.append(f"order statistics of rounds, which hold the median in at least 95% of all studies ({exact})")
    if of_student:
        said.append(
            f"Student's t over {' or '.join(map(str, of_student))} rounds (95%), fewer than order statistics need"
        )
    return " and ".join(said)


def _around_mean(known: Sequence[float], level: float) -> tuple[float, float]:
    """Where the median of few values lies: Student's t around the mean of their logarithms, since times and ratios are never
    negative. Of normal logarithms that is the median, and the interval holds it as often as it says; around the sample's
    own median it would not."""
    if known[0] <= 0:
        return -math.inf, math.inf
    logs = [math.log(value) for value in known]
    if logs[0] == logs[-1]:
        return known[0], known[-1]
    half = _student(1 - level, len(known) - 1) * statistics.stdev(logs) / math.sqrt(len(known))
    # Beyond any time there is: an interval that says nothing need not overflow.
    low, high = (min(max(statistics.fmean(logs) + end, -700.0), 700.0) for end in (-half, half))
    return math.exp(low), math.exp(high)


def _student(both_tails: float, freedom: int) -> float:
    from tetrace.breakdown.noise import student

    return student(both_tails / 2, float(freedom))
