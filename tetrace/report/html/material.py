"""What the charts and sections of one breakdown are made from, each worked out once and when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from tetrace.breakdown.busy_categories import BusyTime, busy_by_category
from tetrace.breakdown.fp8_maps import Fp8Maps, fp8_maps
from tetrace.breakdown.hierarchy import Leaf, hierarchy
from tetrace.breakdown.one_step import OneStep, one_step
from tetrace.report.scale import Scale, scale_of

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown


@dataclass(frozen=True)
class Material:
    """A breakdown, and what only pictures need of it."""

    breakdown: Breakdown

    @cached_property
    def scale(self) -> Scale:
        """In what figures are said: per step, or in all."""
        return scale_of(self.breakdown)

    @cached_property
    def busy(self) -> BusyTime:
        """Busy time by category."""
        return busy_by_category(self.breakdown)

    @cached_property
    def leaves(self) -> list[Leaf]:
        """GPU activity by phase, module, category and kernel."""
        return hierarchy(self.breakdown)

    @cached_property
    def timeline(self) -> OneStep | None:
        """One step as it ran."""
        return one_step(self.breakdown)

    @cached_property
    def fp8(self) -> Fp8Maps | None:
        """FP8 statistics, None where they were not recorded."""
        return fp8_maps(self.breakdown)
