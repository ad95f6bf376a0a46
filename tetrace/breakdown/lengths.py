"""How long steps are by other means than their recordings, such as timed without a recorder."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field

# Among the parts of a step: all of it. No phase has an empty name.
WHOLE_STEP = ""
# Phases that run while another one is timed.
_INSIDE = {"recompute": "backward"}


@dataclass(frozen=True)
class Lengths:
    """An average step of either of two runs, ns, and its phases, which add up to it; none where they are not known."""

    step_ns: tuple[float, float]
    phases_ns: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def part_of(phase: str, parts: Container[str]) -> str:
    """The part of a step whose length is known that a recorded phase belongs to: itself, the one it runs in, or all of it."""
    if phase in parts:
        return phase
    inside = _INSIDE.get(phase, WHOLE_STEP)
    return inside if inside in parts else WHOLE_STEP
