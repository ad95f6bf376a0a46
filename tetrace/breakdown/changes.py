"""Tables of changes: what each row took in one run and in another, and whether they differ by more than noise."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

SAME, NOISE, CHANGED, TOO_FEW = "same", "noise", "changed", "too few steps"
BOTH_KINDS, ALL_BUSY, ALL_IDLE = "step", "busy", "idle"


@dataclass(frozen=True)
class Change:
    """One row. Pairs are of the run that is compared with, and of the one that is compared.

    `total_ns` are integer sums over the used steps, of which each run has `steps`; `work_ns` are durations summed over
    streams (0 of idle time); `count` are activities, or idle stretches. `median_ns` are of single steps. `noise_ns` is
    the half-width of either run's figure; `difference_noise_ns` that of their difference. None: too few steps.
    """

    labels: tuple[str, ...]
    steps: tuple[int, int]
    total_ns: tuple[int, int]
    work_ns: tuple[int, int]
    count: tuple[int, int]
    median_ns: tuple[Fraction, Fraction]
    noise_ns: tuple[float, float] | None
    difference_noise_ns: float | None

    @property
    def per_step_ns(self) -> tuple[Fraction, Fraction]:
        """What an average step takes, exactly."""
        return Fraction(self.total_ns[0], self.steps[0]), Fraction(self.total_ns[1], self.steps[1])

    @property
    def difference_ns(self) -> Fraction:
        """By how much an average step takes longer, exactly."""
        return self.per_step_ns[1] - self.per_step_ns[0]

    @property
    def verdict(self) -> str:
        """same, noise, changed, or too few steps."""
        if not self.difference_ns:
            return SAME
        if self.difference_noise_ns is None:
            return TOO_FEW
        return NOISE if abs(self.difference_ns) <= self.difference_noise_ns else CHANGED


@dataclass(frozen=True)
class Changes:
    """One table: `keys` name the labels of its rows. The rows add up to the change of `whole`: step, busy, idle, or to
    nothing that has a name."""

    name: str
    title: str
    keys: tuple[str, ...]
    whole: str
    rows: tuple[Change, ...]

    @property
    def difference_ns(self) -> Fraction:
        """The sum of all differences."""
        return sum((row.difference_ns for row in self.rows), Fraction(0))

    @property
    def absolute_ns(self) -> Fraction:
        """The sum of all differences without their signs: what shares of rows are of."""
        return sum((abs(row.difference_ns) for row in self.rows), Fraction(0))

    def largest(self) -> tuple[Change, ...]:
        """The rows, those that differ most first."""
        return tuple(sorted(self.rows, key=lambda row: (-abs(row.difference_ns), -max(row.per_step_ns), row.labels)))
