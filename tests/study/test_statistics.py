"""Intervals of medians, against enumeration and simulation."""

from __future__ import annotations

import itertools
import math
import random
import statistics

import pytest

from tetrace.study.statistics import (
    APART,
    EXACT,
    NONE,
    ORDER,
    STUDENT,
    Estimate,
    coverage,
    cut_off,
    estimate,
    ratio,
    ways,
)

# Two-sided 95% of Student's t, from any table, by degrees of freedom.
T_TABLE = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


def covered_by_enumeration(rounds: int, cut: int) -> float:
    """Of all ways in which values can fall on both sides of the median: those whose interval holds it."""
    held = 0
    for sides in itertools.product((-1, 1), repeat=rounds):
        ordered = sorted(sides)
        held += ordered[cut] < 0 < ordered[-1 - cut]
    return held / 2**rounds


@pytest.mark.parametrize("rounds", range(6, 15))
def test_order_statistics_cover_what_they_say(rounds):
    cut = cut_off(rounds)
    assert coverage(rounds) == pytest.approx(covered_by_enumeration(rounds, cut))
    assert coverage(rounds) >= 0.95
    # One value more on each side would be too many.
    assert covered_by_enumeration(rounds, cut + 1) < 0.95


def test_seven_rounds_are_smallest_to_largest():
    assert estimate([5, 1, 4, 2, 3, 9, 6]) == Estimate(4, 1, 9, 7, ORDER)
    assert coverage(7) == 1 - 2 / 2**7


def test_nine_rounds_leave_the_extremes_out():
    assert estimate([float(one) for one in range(9)]) == Estimate(4.0, 1.0, 7.0, 9, ORDER)


@pytest.mark.parametrize("rounds", [2, 3, 4, 5])
def test_few_rounds_are_students(rounds):
    values = [10.0 + 0.3 * one**2 for one in range(rounds)]
    found = estimate(values)
    logs = [math.log(value) for value in values]
    half = T_TABLE[rounds - 1] * statistics.stdev(logs) / rounds**0.5
    assert found.way == STUDENT
    assert found.value == statistics.median(values)
    ends = [math.exp(statistics.fmean(logs) + side * half) for side in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(ends, rel=2e-3)


@pytest.mark.parametrize("values", [[1.0, 90.0], [1.0, 2.0, 300.0], [1e-9, 1e9], [1.0, 1.0, 1.0]])
def test_times_that_scatter_stay_times(values):
    found = estimate(values)
    assert 0 < found.low <= found.value <= found.high < math.inf


def test_one_round_has_no_interval_and_none_has_no_figure():
    assert estimate([7.0]) == Estimate(7.0, None, None, 1, NONE)
    assert estimate([]) is None


@pytest.mark.parametrize("rounds", [2, 3, 4, 5])
def test_few_rounds_cover_as_often_as_they_say(rounds):
    """Around the median it would be 94.1% of three rounds: the median of a sample scatters more than its mean."""
    chance = random.Random(17)
    many = 20_000
    held = 0
    for _ in range(many):
        found = estimate([chance.lognormvariate(0, 0.02) for _ in range(rounds)])
        held += found.low <= 1 <= found.high
    # 95%, give or take 0.15 points; three of those.
    assert 0.9454 <= held / many <= 0.9546


@pytest.mark.parametrize("values", [[1.0, 1.0, 9.0], [1.0, 9.0, 9.0, 9.0], [1.0, 1.0, 1.0, 1.0, 2.0]])
def test_the_median_is_in_its_interval(values):
    found = estimate(values)
    assert found.low <= found.value <= found.high


@pytest.mark.parametrize("rounds", [3, 7, 10])
def test_intervals_of_noise_hold_the_median(rounds):
    chance = random.Random(3)
    held = 0
    for _ in range(2000):
        found = estimate([chance.gauss(100, 2) for _ in range(rounds)])
        held += found.low <= 100 <= found.high
    # Of 2000 studies with 95%: 1900, give or take 20.
    assert held >= 1870


def test_a_ratio_pairs_rounds_so_that_drift_cancels():
    against = {0: 10.0, 1: 20.0, 2: 40.0}
    of = {0: 5.0, 1: 10.0, 2: 20.0, 9: 1.0}
    found = ratio(of, against)
    assert (found.value, found.low, found.high, found.rounds) == (2.0, 2.0, 2.0, 3)
    assert ratio({0: 0.0}, {0: 1.0}) is None
    assert ratio({}, {0: 1.0}) is None


def test_rounds_that_never_ran_side_by_side_are_no_pairs():
    """The ratio of both medians, and no interval: the same number in another group is another time."""
    of = {(number, "monday"): 5.0 + number for number in range(7)}
    against = {(number, "friday"): 10.0 + 2 * number for number in range(7)}
    assert ratio(of, against) == Estimate(2.0, None, None, 7, APART)
    both = {**against, (0, "monday"): 15.0, (1, "monday"): 18.0}
    assert (ratio(of, both).value, ratio(of, both).rounds) == (3.0, 2)


def test_a_rate_turns_its_interval_around():
    found = Estimate(4.0, 2.0, 8.0, 7, ORDER).mapped(lambda ns: 16 / ns)
    assert (found.value, found.low, found.high) == (4.0, 2.0, 8.0)
    assert Estimate(4.0, None, None, 1, NONE).mapped(lambda ns: 2 * ns) == Estimate(8.0, None, None, 1, NONE)


def test_exact_figures_and_overlaps():
    assert Estimate.exact(3).way == EXACT
    assert Estimate(3, 2, 4, 7, ORDER).overlaps(Estimate(5, 4, 6, 7, ORDER))
    assert not Estimate(3, 2, 4, 7, ORDER).overlaps(Estimate(5, 4.1, 6, 7, ORDER))
    assert Estimate(3, 2, 4, 7, ORDER).overlaps(Estimate(4, None, None, 1, NONE))


def test_ways_say_what_was_done():
    found = [estimate([1.0, 2.0, 3.0]), estimate([float(one) for one in range(7)]), estimate([1.0])]
    assert ways(found) == (
        "order statistics of rounds, which hold the median in at least 95% of all studies (7 rounds: 98.4%) and "
        "Student's t over 3 rounds (95%), fewer than order statistics need"
    )
