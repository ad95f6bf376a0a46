"""A finding: one thing that holds a run back, with what it costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.units import duration

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

# Below these shares of wall, or of what the GPU works, a thing is not worth a finding.
OF_WALL = OF_BUSY = 0.03


@dataclass(frozen=True)
class Finding:
    """One finding. `ns` is what it costs in an average selected step of one lane (with `--steps all`: in the file).

    What makes results wrong has no cost in time: `ns` is 0, and `mark` is a word that stands in its place. What is
    `urgent` comes before all others.
    """

    name: str
    ns: int
    title: str
    evidence: str
    advice: str
    mark: str = ""
    urgent: bool = False

    @property
    def cost(self) -> str:
        """What it costs in words: a duration, or the mark."""
        return self.mark or duration(self.ns)


def step_word(breakdown: Breakdown) -> str:
    """What the costs of findings are of."""
    return "a step" if breakdown.selection.per_step else "in all"
