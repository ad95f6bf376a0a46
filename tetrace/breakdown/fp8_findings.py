"""What recorded FP8 statistics say is wrong, as findings: one for each kind of problem, with its worst tensor.

All recorded steps count, whichever were selected: a NaN in the warm-up is one.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from tetrace.breakdown.finding import Finding

if TYPE_CHECKING:
    from tetrace.fp8.flags import Problem
    from tetrace.fp8.health import Health

_MARKS = {"non_finite": "NaN", "saturation": "clipped", "underflow": "flushed", "lost_gradients": "flushed"}
_OTHER_MARK = "FP8"
# The recording in the commands of advice. A breakdown knows no path: a trace may have been moved, or never stored.
_called: ContextVar[str] = ContextVar("_called", default="RUN")


@contextmanager
def called(run: Path) -> Iterator[None]:
    """Meanwhile advice names the recording as the user did, so that its commands can be pasted."""
    before = _called.set(shlex.quote(str(run)))
    try:
        yield
    finally:
        _called.reset(before)


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
            advice=f"tetrace fp8 {'nan' if kind == 'non_finite' else 'health'} {_called.get()}",
            mark=_MARKS.get(kind, _OTHER_MARK),
            urgent=worst.level == "critical",
        )
