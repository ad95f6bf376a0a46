"""What every table of a breakdown starts from: the attribution, what is selected of it, and columns used again and again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import UNATTRIBUTED_MODULE, Attribution
from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.roles import ROLES
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.gaps import Lanes, lanes
from tetrace.breakdown.selection import Selection
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scope:
    """Columns of the selected activities, each of shape (selected,), computed when first asked for."""

    attribution: Attribution
    selection: Selection

    @property
    def trace(self) -> Trace:
        """The trace below it all."""
        return self.attribution.trace

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """Rows of the selected activities."""
        return np.flatnonzero(self.selection.activities)

    @cached_property
    def lanes(self) -> Lanes:
        """Lanes of the whole trace."""
        return lanes(self.attribution)

    @cached_property
    def exposed_communication(self) -> tuple[Codes, Times, Times]:
        """Merged time by lane in which communication runs and nothing else does, over the whole trace."""
        from tetrace import _C

        is_communication = self.attribution.category() == CATEGORIES.index("communication")
        if not is_communication.any():
            return np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0, np.int64)
        return _C.subtract(*self._merged(is_communication), *self._merged(~is_communication))

    def _merged(self, activities: Mask) -> tuple[Codes, Times, Times]:
        from tetrace import _C

        chosen = np.flatnonzero(activities)
        lane = self.lanes.of_activity[chosen]
        start = self.trace.column("activities", "start_ns")[chosen]
        end = self.trace.column("activities", "end_ns")[chosen]
        order = _C.order(lane, start, end)
        return _C.merge(lane[order], start[order], end[order])

    def column(self, name: str) -> Codes | Times:
        """A column of table `activities`."""
        return self.trace.column("activities", name)[self.rows]

    @cached_property
    def duration(self) -> Times:
        """End minus start."""
        return self.column("end_ns") - self.column("start_ns")

    @cached_property
    def category(self) -> Codes:
        """Index into CATEGORIES."""
        return self.attribution.category()[self.rows]

    @cached_property
    def kernel_class(self) -> Codes:
        """Index into the attribution's classes."""
        return self.attribution.kernel_class[self.rows]

    @cached_property
    def phase(self) -> Codes:
        """Index into PHASES."""
        return self.attribution.phase[self.rows]

    @cached_property
    def module(self) -> Codes:
        """Index into the attribution's module names, -1 unattributed."""
        return self.attribution.module[self.rows]

    @cached_property
    def role(self) -> Codes:
        """Index into ROLES, -1 unknown."""
        return self.attribution.role[self.rows]

    @cached_property
    def call(self) -> Codes:
        """Row of table `calls`, -1 unknown."""
        return self.attribution.links.call[self.rows]

    @cached_property
    def fused(self) -> Mask:
        """Whether it quantizes beside other work."""
        return self.attribution.of_class([one.fused_quantization for one in self.attribution.classes])[
            self.rows
        ].astype(np.bool_)

    def in_category(self, *names: str) -> Mask:
        """Whether the category is one of `names`."""
        return np.isin(self.category, [CATEGORIES.index(name) for name in names])

    def module_words(self, codes: npt.NDArray[np.integer]) -> list[str]:
        """Names of modules, `unattributed` for -1."""
        return [self.attribution.module_names[code] if code >= 0 else UNATTRIBUTED_MODULE for code in codes.tolist()]


def phase_words(codes: npt.NDArray[np.integer]) -> list[str]:
    """Names of phases."""
    return [PHASES[code] for code in codes.tolist()]


def role_words(codes: npt.NDArray[np.integer]) -> list[str]:
    """Names of roles, empty for -1."""
    return [ROLES[code] if code >= 0 else "" for code in codes.tolist()]
