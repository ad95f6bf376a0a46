"""Why one configuration is faster than another: the difference of their timed steps, charged to kernels and host ranges.

What the GPU works is taken from the recordings, what it waits from the steps that were timed without a recorder. Causes add
up to both timed steps exactly, as rationals of nanoseconds, and as recorded to both recorded steps: either is asserted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import NOISE, TOO_FEW
from tetrace.breakdown.lengths import WHOLE_STEP, part_of
from tetrace.errors import ConservationError
from tetrace.study.causes import Cause, Group, grouped, largest_first
from tetrace.study.charged import Charged, Side, Timed, charge

if TYPE_CHECKING:
    pass

# Groups that together are less than this share of the difference may be one row: no row may hide more.
WORTH_A_ROW = Fraction(1, 20)
# Rows of a table whose changes cancel out, where what is left over is small beside the changes and not beside the difference.
MOST_ROWS = 40
# A difference of less than this share of all changes is what is left of their cancelling out: shares of it say nothing. A
# table whose work of the GPU may be off by more than this share of all changes does not tell what makes the difference.
_TELLS = Fraction(1, 10)
# How many times its recorded waiting a step may wait, timed alone, for its split between host ranges to be quoted. Below,
# most of the recorded waiting is the recorder's or a neighbour's, and split as they slow the host; above, the host was
# slowed while it was timed, by more than what makes a processor a disturbed one (`processors.py`).
LEAST_FACTOR, MOST_FACTOR = Fraction(1, 2), Fraction(6, 5)
# A phase with less of the waiting has no say in that.
_PART_OF_WAITING = Fraction(1, 20)
WAITING = "waiting"
NOT_TIMED = "not timed"
NOT_SHOWN = "not shown"
NOT_RECORDED = "not recorded"


class Doubt(NamedTuple):
    """Which part of what a clock adds may be charged to the wrong kernels: by what recorded steps scatter, and by what is assumed
    of them; and how much of it may be waiting (`Pace`)."""

    scatter: float
    assumed: float
    idle_off_by_ns: float = 0.0


@dataclass(frozen=True)
class Explanation:
    """The steps of two configurations, `names`, against each other.

    `recorded` are all causes as recorded, the largest first, and `step_ns` an average recorded step of either; `verdict`
    says whether it is more than noise. `timed_ns` are steps of either as timed without a recorder, None where one was not:
    causes are those of the recorded steps then. `phases_ns` are their phases, which add up to the steps, and `phases_off_by_ns`
    by how much more or less their differences are than those of the phases' own medians; empty where phases were not timed, are
    not those of the recordings, or the GPU works all of both steps, which then are one part. `work_noise_ns` is the noise of
    the difference of what the GPU works, None where too few steps were recorded. `clock_doubts` are those of either recording's
    clock, by phase or for `WHOLE_STEP`: only of what the clock sets the length of.
    """

    names: tuple[str, str]
    sentence: str
    verdict: str
    step_ns: tuple[Fraction, Fraction]
    recorded: tuple[Cause, ...]
    work_noise_ns: float | None
    timed_ns: tuple[float, float] | None = None
    clock_doubts: tuple[Mapping[str, Doubt], Mapping[str, Doubt]] = field(default_factory=lambda: ({}, {}))
    phases_ns: Timed = field(default_factory=dict)
    phases_off_by_ns: Mapping[str, float] = field(default_factory=dict)

    @property
    def explained_ns(self) -> tuple[Fraction, Fraction]:
        """The steps that `causes` add up to: as timed without a recorder, as recorded where one was not."""
        return self.step_ns if self.timed_ns is None else (Fraction(self.timed_ns[0]), Fraction(self.timed_ns[1]))

    @property
    def difference_ns(self) -> Fraction:
        """By how much a step takes longer in the second run."""
        return self.explained_ns[1] - self.explained_ns[0]

    @cached_property
    def charged(self) -> Charged:
        """The causes of both steps, in the order of `recorded`."""
        if self.timed_ns is None:
            return Charged(self.recorded, {WHOLE_STEP: (Side(Fraction(1)), Side(Fraction(1)))})
        return charge(self.recorded, self.phases_ns or {WHOLE_STEP: self.explained_ns})

    @cached_property
    def causes(self) -> tuple[Cause, ...]:
        """The causes of both steps, the largest first."""
        return tuple(sorted(self.charged.causes, key=largest_first))

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All causes by group, the largest first."""
        return grouped(cause for cause in self.causes if cause.before_ns or cause.after_ns)

    @property
    def work_ns(self) -> tuple[Fraction, Fraction]:
        """What the GPU works in a step of either run, without what the recorder launched."""
        return self.of_ns(BUSY)

    @property
    def waiting_ns(self) -> tuple[Fraction, Fraction]:
        """What the GPU waits in a step of either run."""
        return self.of_ns(IDLE)

    def of_ns(self, kind: str, phase: str = "") -> tuple[Fraction, Fraction]:
        """What the GPU works, or waits, in a step of either run or in a phase of it, without what the recorder launched."""
        return _sums(one for one in self.causes if one.kind == kind and _is_of(one, phase) and not one.is_own)

    @cached_property
    def changes_ns(self) -> Fraction:
        """All changes without their signs: of each group in which the GPU works, of waiting in one, and of the rest."""
        works = _changed([group for group in self.groups if group.kind == BUSY])
        return works + abs(_difference(self.waiting_ns)) + self.charged.residue_apart_ns

    @cached_property
    def off_by_ns(self) -> float | None:
        """By how much the difference of the GPU's work, and with it that of waiting, may be off. None where too few steps were
        recorded.

        By its noise, and what the scatter of either recording lets be charged to the wrong kernels or to waiting, which have
        nothing to do with one another; by what is assumed of both recordings alike; and by what timed steps show that recordings
        do not have.
        """
        if self.work_noise_ns is None:
            return None
        scatter = (self._clock_doubts_ns(side, lambda one: one.scatter) for side in (0, 1))
        first, second = (self._clock_doubts_ns(side, lambda one: one.assumed) for side in (0, 1))
        assumed = sum(abs(second.get(part, 0.0) - first.get(part, 0.0)) for part in {**first, **second})
        idle = (one.idle_off_by_ns for side in self.clock_doubts for one in side.values())
        apart = math.hypot(self.work_noise_ns, *idle, *(sum(map(abs, found.values())) for found in scatter))
        return apart + assumed + float(self.charged.residue_apart_ns)

    def clock_off_by_ns(self, side: int, part: str) -> float:
        """How much of what a clock adds to a part of one step may be charged to the wrong kernels."""
        return abs(self._clock_doubts_ns(side, lambda one: one.scatter + one.assumed).get(part, 0.0))

    def _clock_doubts_ns(self, side: int, share: Callable[[Doubt], float]) -> dict[str, float]:
        """A share of what a clock adds to each part of one step, with its sign."""
        parts = self.charged.parts
        return {
            part: float(parts[part][side].by_clock_ns or 0) * share(found)
            for part, found in self.clock_doubts[side].items()
        }

    @property
    def doubt(self) -> str:
        """Why the causes do not explain the timed difference; empty where they do.

        They do where both sides were timed, enough steps recorded, and the GPU's work is off by a tenth of all changes at
        most: the split of the difference into kinds of work and waiting is then known so well. Noise beyond that may make a
        row, or turn its sign. The difference between host ranges is not asked for: it is shared out. Nor may what the recordings
        do not have be over 5% of the difference. And they have to show what is timed: see `is_turned`.
        """
        if self.timed_ns is None:
            return NOT_TIMED
        if self.off_by_ns is None:
            return TOO_FEW
        if self.off_by_ns > _TELLS * self.changes_ns:
            return NOISE
        if self.charged.residue_apart_ns > WORTH_A_ROW * abs(self.difference_ns):
            return NOT_RECORDED
        return NOT_SHOWN if self.is_turned else ""

    @property
    def is_turned(self) -> bool:
        """Whether more than half of the timed difference is waiting, and the recordings wait the other way round: then hosts
        differed between both, and no row of waiting says why the timed step is longer or shorter."""
        if self.timed_ns is None:
            return False
        is_waiting = _difference(self.waiting_ns) / self.difference_ns > Fraction(1, 2) if self.difference_ns else False
        return is_waiting and self.longer_as_recorded_ns(IDLE) * self.difference_ns < 0

    @property
    def is_opposed(self) -> bool:
        """Whether the causes explain the timed difference though the recorded steps differ the other way round: hosts, or
        clocks, were others then, and not all of the difference is from the recordings."""
        return self.explains and self.recorded_difference_ns * self.difference_ns < 0

    def longer_as_recorded_ns(self, kind: str) -> Fraction:
        """By how much the GPU works, or waits, longer in the second recording, without what the recorder launched."""
        own = (cause.recorded_ns for cause in self.recorded if cause.kind == kind and not cause.is_own)
        return sum((after - before for before, after in own), Fraction(0))

    @property
    def recorded_difference_ns(self) -> Fraction:
        """By how much an average recorded step takes longer in the second run, without what the recorder launched."""
        return self.longer_as_recorded_ns(BUSY) + self.longer_as_recorded_ns(IDLE)

    @property
    def explains(self) -> bool:
        """Whether the causes explain the timed difference."""
        return not self.doubt

    @property
    def has_shares(self) -> bool:
        """Whether shares of the difference say anything: not where it is noise, or changes cancel out."""
        is_noise = self.verdict == NOISE if self.timed_ns is None else self.doubt == NOISE
        return not is_noise and abs(self.difference_ns) >= _TELLS * _changed(self.groups)

    def waits_otherwise(self, side: int, phase: str = "") -> list[str]:
        """The parts of a step, or the one that is a phase, that wait otherwise than 0.5 to 1.2 times what is recorded: of those
        that make over 5% of the waiting that is asked for, timed or recorded."""
        asked = [part for part in self.charged.parts if phase in ("", part) or part == WHOLE_STEP]
        timed = {part: self.of_ns(IDLE, part)[side] for part in asked}
        recorded = {part: self._recorded_waiting_ns(side, part) for part in asked}
        found = []
        for part in asked:
            is_little = all(one[part] <= _PART_OF_WAITING * sum(one.values()) for one in (timed, recorded))
            factor = self.charged.parts[part][side].factor
            if not is_little and (factor is None or not LEAST_FACTOR <= factor <= MOST_FACTOR):
                found.append(part)
        return found

    def _recorded_waiting_ns(self, side: int, phase: str) -> Fraction:
        waits = (one for one in self.recorded if one.kind == IDLE and _is_of(one, phase) and not one.is_own)
        return sum((one.recorded_ns[side] for one in waits), Fraction(0))

    def splits_waiting(self, phase: str = "") -> bool:
        """Whether the split of waiting between host ranges may be quoted, of one phase where it is named: both steps wait about
        as recorded."""
        return self.timed_ns is not None and not any(self.waits_otherwise(side, phase) for side in (0, 1))

    def knows_waiting(self, phase: str) -> bool:
        """Whether it is known how long either step waits in a phase."""
        return bool(self.phases_ns) or self.splits_waiting(phase)

    def rows(self, told: bool = False) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        """The groups worth a row of their own, and those that are one together: 5% of the difference at most, or of all
        changes where shares of the difference say nothing. `told`: that timing tells both steps apart; then it is 5% of the
        difference there too, within `MOST_ROWS`, or of all changes where that takes more rows."""
        enough, changed = WORTH_A_ROW * abs(self.difference_ns), WORTH_A_ROW * _changed(self.groups)
        if self.has_shares:
            shown = self._larger_than(enough)
        else:
            shown = self._larger_than(changed)
            shown = max(shown, min(self._larger_than(enough), MOST_ROWS - 1)) if told else shown
        left = self.groups[shown:]
        return (self.groups[:shown], left) if len(left) > 1 else (self.groups, ())

    def _larger_than(self, enough: Fraction) -> int:
        """How many groups have a row where what is left changes by `enough` at most."""
        shown, left = len(self.groups), Fraction(0)
        while shown and left + abs(self.groups[shown - 1].difference_ns) <= enough:
            shown -= 1
            left += abs(self.groups[shown].difference_ns)
        return shown

    def hidden(self, left: Sequence[Group]) -> Fraction | None:
        """Which part of all changes groups of one row are; None where they are 5% of the difference at most."""
        of, all_changes = _changed(left), _changed(self.groups)
        return None if of <= WORTH_A_ROW * abs(self.difference_ns) or not all_changes else of / all_changes


def quotable(explanation: Explanation, phase: str = "") -> Sequence[Group]:
    """The groups that may be quoted as what makes the timed difference, of one phase where it is named, the largest first.

    Groups in which the GPU works, where they differ by more than noise; and waiting as one, where its sum differs by more
    than it may be off by. How much of it is of one phase is known where that was timed; else only as well as its split between
    host ranges.
    """
    causes = [cause for cause in explanation.causes if _is_of(cause, phase)]
    found = [group for group in grouped(one for one in causes if one.kind == BUSY and not one.is_own) if group.is_told]
    waits = Group(WAITING, tuple(one for one in causes if one.kind == IDLE and (one.before_ns or one.after_ns)))
    off_by = explanation.off_by_ns
    is_known = explanation.timed_ns is not None and (not phase or explanation.knows_waiting(phase))
    apart = explanation.phases_off_by_ns.get(phase, 0.0)
    if is_known and waits.causes and off_by is not None and abs(waits.difference_ns) > off_by + apart:
        found.append(waits)
    return sorted(found, key=lambda group: (-abs(group.difference_ns), group.name))


def _is_of(cause: Cause, phase: str) -> bool:
    return not phase or part_of(cause.phase, (phase,)) == phase


def check(explanation: Explanation) -> None:
    """The causes are both steps, as recorded and as timed, to the last fraction of a nanosecond."""
    recorded = [sum((one.recorded_ns[side] for one in explanation.causes), Fraction(0)) for side in (0, 1)]
    shown = _sums(explanation.causes)
    for kind, sums, steps in (
        ("recorded", tuple(recorded), explanation.step_ns),
        ("timed", shown, explanation.explained_ns),
    ):
        if sums != steps:
            said = " and ".join(f"{float(one):.3f} of {float(of):.3f}" for one, of in zip(sums, steps, strict=True))
            names = " and ".join(explanation.names)
            raise ConservationError(f"{names}: {kind} causes sum to {said} ns; please report this")


def _sums(causes: Iterable[Cause]) -> tuple[Fraction, Fraction]:
    found = list(causes)
    return sum((one.before_ns for one in found), Fraction(0)), sum((one.after_ns for one in found), Fraction(0))


def _difference(pair: tuple[Fraction, Fraction]) -> Fraction:
    return pair[1] - pair[0]


def _changed(groups: Sequence[Group]) -> Fraction:
    return sum((abs(group.difference_ns) for group in groups), Fraction(0))
