"""Where the time of steps goes that were timed without a recorder: the work of the GPU as recorded, and what is left.

A recorder, and whoever shares the host while it runs, slow the host and hardly the kernels. So a kernel takes what it took
in the recording, and waiting what the timed step leaves for it, shared out as it was recorded: a host that is slowed is
slowed in all that it does. That is assumed for how waiting is split, not for its sum. Where phases of the step were timed
too, it holds phase by phase: a host that is late in forward has nothing to catch up with in backward.

Where the GPU works all of a step, or phase, nothing is left for waiting, and what differs from run to run is the GPU's
clock. Kernels then are longer, or shorter, as those of the recorded steps were when these were (`breakdown/pace.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.lengths import WHOLE_STEP, part_of
from tetrace.study.causes import Cause
from tetrace.study.payoff import LAUNCH_BOUND

# What a timed step shows of itself that its recording does not have: neither work as recorded nor waiting as recorded.
RESIDUE = "residue"
FASTER = "kernels at another speed than recorded"
LONGER = "waiting or slower kernels that the recording does not have"
# By so much of their time at most may kernels differ from the recording for that to be the clock's doing.
_MOST_BY_CLOCK = Fraction(3, 20)

# Timed ns of either step by part: by phase, or of `WHOLE_STEP` alone.
Timed = Mapping[str, tuple[Fraction, Fraction]]


@dataclass(frozen=True)
class Side:
    """What a part of one timed step is, against its recording: how many times the recorded waiting it waits, None where none
    was recorded; how much longer kernels take since the GPU's clock was another, None where the clock does not set the
    part's length; what is neither work nor waiting as recorded."""

    factor: Fraction | None
    by_clock_ns: Fraction | None = None
    residue_ns: Fraction = Fraction(0)


@dataclass(frozen=True)
class Charged:
    """Both timed steps by cause, in the order of the recorded ones, and both sides of each part of them."""

    causes: tuple[Cause, ...]
    parts: Mapping[str, tuple[Side, Side]]

    @property
    def by_clock_ns(self) -> tuple[Fraction | None, Fraction | None]:
        """How much longer kernels of either step take since the GPU's clock was another; None where it sets no part's length."""
        known = [[pair[side].by_clock_ns for pair in self.parts.values()] for side in (0, 1)]
        first, second = (
            sum((ns for ns in own if ns is not None), Fraction(0)) if any(ns is not None for ns in own) else None
            for own in known
        )
        return first, second

    @property
    def residue_ns(self) -> tuple[Fraction, Fraction]:
        """What of either step is neither work nor waiting as recorded."""
        first, second = (sum((pair[side].residue_ns for pair in self.parts.values()), Fraction(0)) for side in (0, 1))
        return first, second

    @property
    def residue_apart_ns(self) -> Fraction:
        """By how much both steps differ in what is neither work nor waiting as recorded: of all parts, without their signs."""
        return sum((abs(b.residue_ns - a.residue_ns) for a, b in self.parts.values()), Fraction(0))


def charge(recorded: Sequence[Cause], timed_ns: Timed) -> Charged:
    """The causes of two timed steps, which they add up to exactly."""
    parts = {}
    for part, (before, after) in timed_ns.items():
        own = [cause for cause in recorded if part_of(cause.phase, timed_ns) == part]
        parts[part] = _side(own, 0, before), _side(own, 1, after)
    # What ran wholly beside other work takes no time of its own: the phases that do need not be all that are recorded.
    nothing = parts.get(WHOLE_STEP, (Side(None), Side(None)))
    rows = [_timed(cause, parts.get(part_of(cause.phase, timed_ns), nothing)) for cause in recorded]
    for part, sides in parts.items():
        for name, sign in ((FASTER, -1), (LONGER, 1)):
            before, after = (one.residue_ns if one.residue_ns * sign > 0 else Fraction(0) for one in sides)
            if before or after:
                rows.append(Cause(RESIDUE, name, part, name, before, after, (Fraction(0),) * 2, (Fraction(0),) * 2))
    return Charged(tuple(rows), parts)


def _side(recorded: Sequence[Cause], side: int, timed_ns: Fraction) -> Side:
    """A step of kernels leaves less for waiting than it takes where they ran faster than in the recording. It leaves more
    than it waited while the host was slowed by a recorder where they ran slower, or somebody else slowed the host: a step
    that hardly waits cannot tell, unless its kernels' rates are known."""
    own = [one for one in recorded if not one.is_own]
    work = sum((one.recorded_ns[side] for one in own if one.kind == BUSY), Fraction(0))
    idle = sum((one.recorded_ns[side] for one in own if one.kind == IDLE), Fraction(0))
    longer = timed_ns - work - idle
    if any(one.rates[side] for one in own) and abs(longer) <= _MOST_BY_CLOCK * work:
        return Side(Fraction(1) if idle else None, longer)
    left = timed_ns - work
    if left < 0:
        return Side(Fraction(0) if idle else None, residue_ns=left)
    if not idle:
        return Side(None, residue_ns=left)
    if longer > 0 and idle < Fraction(LAUNCH_BOUND) * (work + idle):
        return Side(Fraction(1), residue_ns=longer)
    return Side(left / idle)


def _timed(cause: Cause, sides: tuple[Side, Side]) -> Cause:
    if cause.is_own:
        return replace(cause, before_ns=Fraction(0), after_ns=Fraction(0))
    if cause.kind == BUSY:
        before, after = (
            ns + rate * (side.by_clock_ns or 0)
            for ns, rate, side in zip(cause.recorded_ns, cause.rates, sides, strict=True)
        )
        return replace(cause, before_ns=before, after_ns=after)
    factors = (sides[0].factor or Fraction(0), sides[1].factor or Fraction(0))
    before, after = (ns * factor for ns, factor in zip(cause.recorded_ns, factors, strict=True))
    noise = None if cause.noise_ns is None else cause.noise_ns * float(max(factors))
    return replace(cause, before_ns=before, after_ns=after, noise_ns=noise)
