"""How long the GPU idles in a step that no recorder slowed: the timed step less what the GPU works, as recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.breakdown.account import BUSY, account
from tetrace.breakdown.pace import MOST_IDLE

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.study.material import Material

# A recorded step that takes so many times the timed one waits for the host longer than a step of a run does.
SLOWED = 1.3


def works_ns(run: Breakdown) -> float:
    """What the GPU works in an average recorded step, ns, without kernels of tetrace's FP8 statistics alone."""
    found = account(run)
    own = np.array([line.kind == BUSY and line.category == INSPECTION for line in found.lines], np.bool_)
    return float(run.totals.busy_ns - int(found.ns[own[found.line]].sum())) / max(run.totals.steps, 1)


def idle_share(material: Material, name: str) -> float | None:
    """The share of a timed step in which the GPU idles; None where it was not timed, or nothing was recorded.

    Of a step that the GPU works all through, as recorded, its clock sets the length: idle is as recorded there.
    """
    run, alone = material.breakdown(name), material.time(name)
    if run is None or alone is None or not run.totals.activities or not run.totals.wall_ns:
        return None
    recorded = run.totals.all_idle_ns / run.totals.wall_ns
    return recorded if recorded <= MOST_IDLE else max(1 - works_ns(run) / alone.value, 0.0)


def slowed(material: Material, name: str) -> float | None:
    """How many times the timed step the recorded one takes, where that is more than `SLOWED`."""
    run, alone = material.breakdown(name), material.time(name)
    if run is None or alone is None or not run.totals.steps:
        return None
    times = run.totals.wall_ns / run.totals.steps / alone.value
    return times if times > SLOWED else None
