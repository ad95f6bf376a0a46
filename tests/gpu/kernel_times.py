"""Whether kernels last as long in recordings of one collector as in those of another, of the same workload.

A GPU runs at another clock in each process, and kernels behind longer gaps find less in its caches: a factor that all
kernels of a run share is taken out, and its size is told. What a recorder does to kernels, or misreads of them, is left;
that one clock is read as wrongly for all is seen against CUDA's events (`test_a_kernel_lasts_as_long_as_events_say`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A median is the same within 2%, or what CUPTI's clock rounds: it ticks every 32 ns, and a start and an end may be a tick off.
SAME, ROUNDING_NS = 0.02, 64
# Small kernels scatter by more than that from process to process; of the GPU's time so much must be the same.
LEAST_SHARE = 0.90
# No kernel may be so far off in each of the turns, all in one direction.
FAR, FAR_NS = 0.08, 300
MOST_CLOCK = 0.05
# ns by kernel: of each step, each time that it ran.
Lengths = Mapping[Any, Sequence[Sequence[int]]]


@dataclass(frozen=True)
class Kernel:
    """A kernel in both: ns by the first collector (the mean of a step's, median over steps) in an average turn, how much of
    the GPU's time it takes there, and by which factor it is longer by the second one, turn by turn, without what all kernels
    of a turn share."""

    key: Any
    ns: float
    share: float
    ratios: tuple[float, ...]

    @property
    def is_same(self) -> bool:
        """Whether it lasts as long by both, in the middle one of the turns."""
        off = abs(statistics.median(self.ratios) - 1)
        return off <= SAME or off * self.ns <= ROUNDING_NS

    @property
    def is_far(self) -> bool:
        """Whether it is off in each turn, by more than processes differ."""
        off = [ratio - 1 for ratio in self.ratios]
        closest = min(map(abs, off))
        return len({one > 0 for one in off}) == 1 and closest > FAR and closest * self.ns > FAR_NS

    def __str__(self) -> str:
        """One line of a table."""
        ratios = " ".join(f"{ratio:.3f}" for ratio in self.ratios)
        return f"{self.ns:10.0f} ns {self.share:6.2%} {ratios}  {self.key}"


@dataclass(frozen=True)
class Compared:
    """`clocks`: by which factor all kernels of a turn are longer by the second collector."""

    clocks: tuple[float, ...]
    kernels: tuple[Kernel, ...]

    @property
    def same_share(self) -> float:
        """How much of the GPU's time is of kernels that last as long by both."""
        return sum(one.share for one in self.kernels if one.is_same)

    @property
    def problems(self) -> list[str]:
        """What is not the same, in words, each with the kernels that show it; none where all is."""
        found = []
        if self.same_share < LEAST_SHARE:
            off = [one for one in self.kernels if not one.is_same]
            found.append(_words(f"only {self.same_share:.1%} of the time is of kernels that last as long", off))
        if far := [one for one in self.kernels if one.is_far]:
            found.append(_words(f"off by more than {FAR:.0%} in each of {len(self.clocks)} turns", far))
        if abs(statistics.median(self.clocks) - 1) > MOST_CLOCK:
            found.append(f"all kernels are longer by these factors: {self.clocks}")
        return found


def compare(turns: Sequence[tuple[Lengths, Lengths]]) -> Compared:
    """Each turn is a recording by either collector. Only kernels that are in all of them are compared."""
    keys = set.intersection(*(lengths.keys() & others.keys() for lengths, others in turns))
    medians = [tuple({key: _median(side[key]) for key in keys} for side in turn) for turn in turns]
    time = {key: sum(map(sum, turns[0][0][key])) for key in keys}
    clocks = [_clock(first, second, time) for first, second in medians]
    whole = sum(time.values())
    kernels = [
        Kernel(
            key,
            statistics.mean(first[key] for first, _ in medians),
            time[key] / whole,
            tuple(second[key] / first[key] / clock for (first, second), clock in zip(medians, clocks, strict=True)),
        )
        for key in keys
    ]
    return Compared(tuple(clocks), tuple(sorted(kernels, key=lambda one: -one.share)))


def _median(steps: Sequence[Sequence[int]]) -> float:
    """One name may be of kernels of several lengths in a step, so that a median over all would jump between them."""
    return statistics.median(statistics.mean(step) for step in steps if step)


def _clock(first: Mapping[Any, float], second: Mapping[Any, float], time: Mapping[Any, float]) -> float:
    """The median of the kernels' factors, by the GPU's time."""
    ratios = sorted((math.log(second[key] / first[key]), key) for key in first)
    left = sum(time.values()) / 2
    for ratio, key in ratios:
        left -= time[key]
        if left <= 0:
            return math.exp(ratio)
    raise ValueError("no kernel is in all recordings")


def _words(what: str, kernels: Sequence[Kernel]) -> str:
    return "\n".join([f"{what}:", *map(str, kernels)])
