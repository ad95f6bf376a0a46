"""In what the figures of a report are said: per step, or in all; and how many, of what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.units import milliseconds

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

NOT_CAPTURED = "not captured"


@dataclass(frozen=True)
class Scale:
    """Figures are divided by `steps`; `each` says so: ` per step`, ` per lane`, or nothing."""

    steps: int
    each: str

    @property
    def head(self) -> str:
        """Head of a column of milliseconds."""
        return "ms" + self.each.replace(" per ", "/")

    def ms(self, ns: int) -> str:
        """Milliseconds of an average step."""
        return milliseconds(ns / self.steps)

    def count(self, number: int) -> str:
        """A count in an average step: whole where it is the same in all."""
        if number % self.steps == 0:
            return f"{number // self.steps:,}"
        return f"{number / self.steps:,.1f}"


def scale_of(breakdown: Breakdown) -> Scale:
    """Averages per step where steps were found and chosen; otherwise the file as it is."""
    totals = breakdown.totals
    on_host = int(breakdown.tables["host_steps"]["used"].sum())
    if not totals.activities and on_host:
        return Scale(on_host, " per step")
    if breakdown.selection.per_step and has_steps(breakdown):
        return Scale(max(totals.steps, 1), " per step")
    return Scale(max(totals.steps, 1), " per lane" if totals.steps > 1 else "")


def has_steps(breakdown: Breakdown) -> bool:
    """Whether the recording shows training steps; without any, each process is one window."""
    return any(source != "none" for source in breakdown.attribution.steps.source)
