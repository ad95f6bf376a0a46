"""Explains a difference of two configurations by their recordings, and by what steps and phases take without a recorder."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

from tetrace.breakdown.compare import compare
from tetrace.breakdown.lengths import WHOLE_STEP, Lengths
from tetrace.report.diff import sentence
from tetrace.study.causes import causes_of, largest_first, work_noise_ns
from tetrace.study.explanation import Doubt, Explanation, check

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.study.charged import Timed


def explain(
    a: Breakdown,
    b: Breakdown,
    names: tuple[str, str],
    timed_ns: tuple[float, float] | None = None,
    phases_ns: Mapping[str, tuple[float, float]] | None = None,
    between_ns: tuple[float, float] = (0.0, 0.0),
) -> Explanation:
    """Why `b` takes another time than `a`; `timed_ns` are their steps without a recorder, `phases_ns` the phases of those, the
    first ones first, and `between_ns` what lies between steps: medians of their own, which need not add up. Raises `UsageError`
    where one holds no GPU activity, `ConservationError` where the causes are not both steps."""
    phases = {} if timed_ns is None else _in_all(timed_ns, phases_ns or {}, between_ns)
    lengths = None
    if timed_ns is not None:
        lengths = Lengths(timed_ns, {phase: (float(one), float(two)) for phase, (one, two) in phases.items()})
    comparison = compare(a, b, names, lengths=lengths)
    first, second = (
        {part: Doubt(one.scatter, one.assumed, one.idle_off_by_ns) for part, one in paces.items() if one}
        for paces in comparison.paces
    )
    if WHOLE_STEP in comparison.paces[0]:
        phases = {}
    made = Explanation(
        names=comparison.names,
        sentence=sentence(comparison, {"launches": "waiting for launches"}),
        verdict=comparison.step.verdict,
        step_ns=comparison.step.per_step_ns,
        recorded=tuple(sorted(causes_of(comparison), key=largest_first)),
        work_noise_ns=work_noise_ns(comparison),
        timed_ns=timed_ns,
        clock_doubts=(first, second),
        phases_ns=phases,
        phases_off_by_ns=_off_by(phases, phases_ns or {}),
    )
    check(made)
    return made


def _in_all(
    timed_ns: tuple[float, float], phases_ns: Mapping[str, tuple[float, float]], between_ns: tuple[float, float]
) -> Timed:
    """Both timed steps by phase, in the proportions of `phases_ns`: they add up exactly. What lies between steps belongs to the
    phase that begins the next one, as the GPU waits for that."""
    parts = {phase: (Fraction(a), Fraction(b)) for phase, (a, b) in phases_ns.items()}
    if first := next(iter(parts), ""):
        parts[first] = (parts[first][0] + Fraction(between_ns[0]), parts[first][1] + Fraction(between_ns[1]))
    wholes = [sum((pair[side] for pair in parts.values()), Fraction(0)) for side in (0, 1)]
    if not all(wholes):
        return {}
    scales = [Fraction(ns) / whole for ns, whole in zip(timed_ns, wholes, strict=True)]
    return {phase: (a * scales[0], b * scales[1]) for phase, (a, b) in parts.items()}


def _off_by(phases: Timed, medians_ns: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """By how much the difference of each phase is more, or less, than that of its own medians."""
    own = {phase: medians_ns[phase][1] - medians_ns[phase][0] for phase in phases}
    return {phase: abs(float(pair[1] - pair[0]) - own[phase]) for phase, pair in phases.items()}
