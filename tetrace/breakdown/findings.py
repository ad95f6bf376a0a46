"""The few things that hold a run back, worst first: each with its milliseconds, its evidence and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown


@dataclass(frozen=True)
class Finding:
    """One finding. `ns` is what it costs in an average selected step of one lane (`all`: in the file)."""

    name: str
    ns: int
    title: str
    evidence: str
    advice: str
