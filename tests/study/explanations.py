"""Explanations of steps of two kernels and a call or two: what the GPU works and waits, recorded and timed, in ms."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import CHANGED
from tetrace.breakdown.lengths import WHOLE_STEP
from tetrace.study.causes import Cause
from tetrace.study.explanation import Doubt, Explanation

HOST, GEMMS = "GPU waits for the host: GEMM calls", "GEMMs"
PYTHON = "GPU waits for the host: Python of modules"
ONCE = (Fraction(1), Fraction(1))


def ns(ms: float) -> Fraction:
    return Fraction(round(ms * 1000)) * 1000


def cause(
    kind: str, group: str, name: str, before: float, after: float, phase: str = "forward", noise: float | None = 0.01
) -> Cause:
    """One of recorded steps, in ms."""
    pair = (ns(before), ns(after))
    return Cause(kind, group, phase, name, *pair, ONCE, pair, None if noise is None else noise * 1e6)


def explained(
    busy: tuple[float, float], idle: tuple[float, float], timed: tuple[float, float] | None, noise: float | None = 0.01,
    more: tuple[Cause, ...] = (), **fields: Any,
) -> Explanation:  # fmt: skip
    """Of steps in which the GPU works in one kernel and waits in one call, recorded ms before and after; and `more`."""
    causes = (
        cause(BUSY, GEMMS, "nvjet", *busy, noise=noise),
        cause(IDLE, HOST, "gemm", *idle, phase="backward", noise=noise),
        *more,
    )
    step = tuple(sum((one.recorded_ns[side] for one in causes), Fraction(0)) for side in (0, 1))
    alone = None if timed is None else (timed[0] * 1e6, timed[1] * 1e6)
    known = None if noise is None else noise * 1e6
    return replace(Explanation(("a", "b"), "Said.", CHANGED, (step[0], step[1]), causes, known, alone), **fields)


def doubts(*scatter: float, assumed: float = 0.0, part: str = WHOLE_STEP) -> Any:
    """Of the rates of a part of either step."""
    return tuple({part: Doubt(one, assumed)} for one in scatter)


def paced(before: float, after: float) -> Explanation:
    """Of steps in which the GPU works in GEMMs and copies, 18 and 16 ms, and hardly waits: of what they are longer, four fifths
    are GEMMs. As timed, ms."""
    causes = (
        replace(cause(BUSY, GEMMS, "nvjet", 15, 13), rates=(Fraction(4, 5),) * 2),
        replace(cause(BUSY, "memory", "copy", 2.5, 2.5), rates=(Fraction(1, 5),) * 2),
        cause(IDLE, HOST, "gemm", 0.5, 0.5, phase="backward"),
    )
    made = explained((0, 0), (0, 0), (before, after), clock_doubts=doubts(0.25, 0.5))
    return replace(made, recorded=causes, step_ns=(ns(18), ns(16)))


def factors(found: Explanation, part: str = WHOLE_STEP) -> tuple[Fraction | None, ...]:
    """How many times its recorded waiting each step, or a phase of it, waits."""
    return tuple(side.factor for side in found.charged.parts[part])


def by_phase(found: Explanation, **timed: tuple[float, float]) -> Explanation:
    """The same with its phases timed, ms before and after."""
    phases = {phase: (ns(a), ns(b)) for phase, (a, b) in timed.items()}
    whole = [float(sum(pair[side] for pair in phases.values())) for side in (0, 1)]
    return replace(found, phases_ns=phases, timed_ns=(whole[0], whole[1]))


def table(found: Explanation) -> dict[str, tuple[float, float]]:
    """Groups of a difference, ms before and after."""
    return {one.name: (float(one.before_ns) / 1e6, float(one.after_ns) / 1e6) for one in found.groups}
