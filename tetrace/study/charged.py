"""Where the time of steps goes that were timed without a recorder: the work of the GPU as recorded, and what is left.

A recorder, and whoever shares the host while it runs, slow the host and hardly the kernels. So a kernel takes what it took
in the recording, and waiting what the timed step leaves for it, shared out as it was recorded: a host that is slowed is
slowed in all that it does. That is assumed for how waiting is split, not for its sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from tetrace.breakdown.account import BUSY, IDLE
from tetrace.study.causes import Cause
from tetrace.study.payoff import LAUNCH_BOUND

# What a timed step shows of itself that its recording does not have: neither work as recorded nor waiting as recorded.
RESIDUE = "residue"
FASTER = "kernels at another speed than recorded"
LONGER = "waiting or slower kernels that the recording does not have"


@dataclass(frozen=True)
class Charged:
    """Both timed steps by cause, in the order of the recorded ones. `factors` say how many times its recorded waiting each
    waits, None where none was recorded; `residue_ns` what is neither work nor waiting as recorded."""

    causes: tuple[Cause, ...]
    factors: tuple[Fraction | None, Fraction | None]
    residue_ns: tuple[Fraction, Fraction]


def charge(recorded: Sequence[Cause], timed_ns: tuple[Fraction, Fraction]) -> Charged:
    """The causes of two timed steps, which they add up to exactly."""
    sides = [_waits(recorded, side, timed_ns[side]) for side in (0, 1)]
    (first, _), (second, _) = sides
    factors = (first or Fraction(0), second or Fraction(0))
    residue = (sides[0][1], sides[1][1])
    rows = [_timed(cause, factors) for cause in recorded]
    for name, sign in ((FASTER, -1), (LONGER, 1)):
        before, after = (left if left * sign > 0 else Fraction(0) for left in residue)
        if before or after:
            rows.append(Cause(RESIDUE, name, "", name, before, after, (Fraction(0),) * 2, (Fraction(0),) * 2))
    return Charged(tuple(rows), (first, second), residue)


def _waits(recorded: Sequence[Cause], side: int, timed_ns: Fraction) -> tuple[Fraction | None, Fraction]:
    """How many times its recorded waiting a timed step waits, and what it takes beside that and its work.

    A step of kernels leaves less than they took in the recording where they ran faster. It leaves more than it waited while
    the host was slowed by a recorder where they ran slower, or somebody else slowed the host: a step that hardly waits
    cannot tell.
    """
    work = sum((one.recorded_ns[side] for one in recorded if one.kind == BUSY and not one.is_own), Fraction(0))
    idle = sum((one.recorded_ns[side] for one in recorded if one.kind == IDLE and not one.is_own), Fraction(0))
    left = timed_ns - work
    if left < 0:
        return (Fraction(0) if idle else None), left
    if not idle:
        return None, left
    if left > idle and idle < Fraction(LAUNCH_BOUND) * (work + idle):
        return Fraction(1), left - idle
    return left / idle, Fraction(0)


def _timed(cause: Cause, factors: tuple[Fraction, Fraction]) -> Cause:
    if cause.is_own:
        return replace(cause, before_ns=Fraction(0), after_ns=Fraction(0))
    if cause.kind == BUSY:
        return cause
    before, after = (ns * factor for ns, factor in zip(cause.recorded_ns, factors, strict=True))
    noise = None if cause.noise_ns is None else cause.noise_ns * float(max(factors))
    return replace(cause, before_ns=before, after_ns=after, noise_ns=noise)
