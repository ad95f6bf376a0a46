"""How many first steps run side by side: as many as the study and the memory of the GPU allow.

A first step imports, compiles and loads kernels: seconds of the host's work, most of it on one processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tetrace.study.process import Process
from tetrace.study.progress import FIRST_STEP, WARM_UP
from tetrace.study.spec import Measure, Study

# Room that a process takes on a GPU besides what torch reserves: its context, and libraries' workspaces.
_CONTEXT_BYTES = 1 << 30


def are_alone(study: Study, measure: Measure) -> bool:
    """Whether each has the machine for itself: the study says how long first steps take, in a claim, a note or a sweep, or
    has each configuration compile for itself."""
    figures = {claim.figure for claim in study.claims} | {sweep.figure for sweep in study.sweeps}
    noted = {column for note in study.notes for row in note.rows for column in row.values}
    return measure.own_caches or any(figure.startswith("first_step") for figure in figures | noted)


def is_short(process: Process, kind: str) -> bool:
    """Whether it had too little memory for this kind of work: it failed for that, or torch had to give cached memory back
    before it got some. What did so in a round was measured all the same."""
    if process.failure is not None:
        return process.failure.out_of_memory
    return kind in (FIRST_STEP, WARM_UP) and bool(process.reply["memory"].get("retries"))


class Memory:
    """Memory of the GPU, as the processes of a group tell it after their first step and their warm-up."""

    def __init__(self) -> None:
        """Nobody has told anything."""
        self._is_told = False
        # What the GPU has free, None before that is known (and on a CPU), and what the largest process takes.
        self._free_bytes: int | None = None
        self._largest_bytes = _CONTEXT_BYTES

    def take(self, told: Sequence[Mapping[str, int]]) -> None:
        """What processes told that worked side by side: the last one saw what all of them took, and so the least free."""
        self._is_told = self._is_told or bool(told)
        known = [each for each in told if each]
        if known:
            self._free_bytes = min(each["free"] for each in known)
            self._largest_bytes = max(self._largest_bytes, *(each["reserved"] + _CONTEXT_BYTES for each in known))

    @property
    def is_scarce(self) -> bool:
        """Whether there is no room for one more like the largest."""
        return self._free_bytes is not None and self._free_bytes < self._largest_bytes

    def fitting(self, count: int) -> int:
        """How many of `count` have room, though each may take twice what the largest does."""
        if self._free_bytes is None:
            return count
        return min(count, self._free_bytes // (2 * self._largest_bytes))

    def side_by_side(self, count: int) -> int:
        """How many of `count` first steps run now: one until memory is known, so that there is something to go by."""
        return max(1, self.fitting(count)) if self._is_told else 1
