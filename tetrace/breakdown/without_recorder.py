"""What the recorder adds to the steps that it records: it slows the host, so that a GPU that waits for the host waits
longer. What a step takes without it is known where steps ran on after the recorded ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.breakdown.selection import STEADY

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

# Below this share of wall, waiting for the host is too little to be worth a word.
_OF_WALL = 0.03


@dataclass(frozen=True)
class PlainStep:
    """Median host time of a step: recorded, and of the `steps` whole ones after those.

    With `slowed` CUPTI, which slows calls until the end of its process once it was used, was in these too.
    """

    recorded_ns: int
    plain_ns: int
    steps: int
    slowed: bool

    @property
    def added_ns(self) -> int:
        """What the recorder adds to a step; 0 where recorded steps are no longer."""
        return max(self.recorded_ns - self.plain_ns, 0)


def plain_step(breakdown: Breakdown) -> PlainStep | None:
    """What a step takes without the recorder; None where no steps ran on, or others are counted than the steady ones, which
    those that ran on are compared with."""
    facts = breakdown.attribution.trace.metadata.facts
    plain, recorded = facts.get("plain_step_median_ns"), facts.get("recorded_step_median_ns")
    if not plain or not recorded or breakdown.selection.steps_option != STEADY:
        return None
    return PlainStep(int(recorded), int(plain), int(facts["plain_steps"]), facts.get("collector") == "cupti")


def waiting_ns(breakdown: Breakdown) -> int:
    """What the GPU waits for the host in an average step: until it launches, and for its launches."""
    totals = breakdown.totals
    return totals.per_step(totals.idle_ns["host_bound"] + totals.idle_ns["launch_latency"])


def added_waiting_ns(breakdown: Breakdown) -> int:
    """How much of `waiting_ns` may be the recorder's at most: all of it where nothing says what a step takes without;
    0 where that is too little to be worth a word."""
    if not breakdown.attribution.trace.has("calls"):
        return 0
    plain, most = plain_step(breakdown), waiting_ns(breakdown)
    if plain is not None:
        most = min(most, plain.added_ns)
    return most if most * max(breakdown.totals.steps, 1) >= _OF_WALL * breakdown.totals.wall_ns else 0
