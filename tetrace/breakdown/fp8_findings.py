"""What recorded FP8 statistics say is wrong, as findings: one for each kind of problem, with its worst tensor.

All recorded steps count, whichever were selected: a NaN in the warm-up is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tetrace.breakdown.finding import Finding

if TYPE_CHECKING:
    from tetrace.fp8.flags import Problem
    from tetrace.fp8.health import Health

_MARKS = {"non_finite": "NaN", "saturation": "clipped", "underflow": "flushed", "lost_gradients": "flushed"}
_OTHER_MARK = "FP8"


def fp8_findings(health: Health) -> Iterator[Finding]:
    """Findings from all that is more than a note, worst first."""
    by_kind: dict[str, list[Problem]] = {}
    for problem in health.problems:
        if problem.level != "note":
            by_kind.setdefault(problem.kind, []).append(problem)
    for kind, problems in by_kind.items():
        worst = problems[0]
        tensors = len({problem.name for problem in problems})
        where = f"{worst.name} at step {worst.first_step}: " if worst.name else ""
        more = f"; {tensors} tensors in all" if tensors > 1 else ""
        yield Finding(
            name=f"fp8_{kind}",
            ns=0,
            title=f"FP8: {worst.title}",
            evidence=f"{where}{worst.evidence}{more}",
            advice=f"tetrace fp8 {'nan' if kind == 'non_finite' else 'health'} RUN",
            mark=_MARKS.get(kind, _OTHER_MARK),
            urgent=worst.level == "critical",
        )
