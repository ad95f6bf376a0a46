"""Times of steps and their phases: by CUDA events on a GPU, by the host's clock elsewhere. Measuring waits for nothing.

torch is given, not imported: only `tetrace/study/worker.py` does that here.
"""

from __future__ import annotations

import itertools
import time
from typing import Any, Protocol


class Stopwatch(Protocol):
    """`begin` before each step, `mark` at the end of a phase, `end` after the last step; then `read`."""

    def begin(self) -> None:
        """A step begins here, and the one before it ends."""

    def mark(self, phase: str) -> None:
        """The phase of that name ends here: it is what lies since the mark before, or since the step began."""

    def end(self) -> None:
        """The last step ends here."""

    def read(self) -> list[dict[str, Any]]:
        """`total_ns` and `phases` of each step, then starts anew. A phase marked several times in a step is their sum."""


class HostStopwatch:
    """For a CPU: when Python gets there is when it is done."""

    def __init__(self) -> None:
        self._marks: list[tuple[str | None, int]] = []

    def begin(self) -> None:
        """See `Stopwatch`."""
        self._marks.append((None, time.perf_counter_ns()))

    def mark(self, phase: str) -> None:
        """See `Stopwatch`."""
        self._marks.append((phase, time.perf_counter_ns()))

    def end(self) -> None:
        """See `Stopwatch`."""
        self.begin()

    def read(self) -> list[dict[str, Any]]:
        """See `Stopwatch`."""
        marks, self._marks = self._marks, []
        return _steps([(phase, after - before) for (_, before), (phase, after) in itertools.pairwise(marks)])


class CudaStopwatch:
    """For a GPU: events on the current stream, reused from round to round and read when all have happened."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._events: list[Any] = []
        self._phases: list[str | None] = []

    def begin(self) -> None:
        """See `Stopwatch`."""
        self._record(None)

    def mark(self, phase: str) -> None:
        """See `Stopwatch`."""
        self._record(phase)

    def end(self) -> None:
        """See `Stopwatch`."""
        self._record(None)

    def read(self) -> list[dict[str, Any]]:
        """See `Stopwatch`. Waits for the last event."""
        phases, self._phases = self._phases, []
        if not phases:
            return []
        events = self._events[: len(phases)]
        events[-1].synchronize()
        pairs = itertools.pairwise(events)
        # CUDA gives milliseconds as a float whose resolution is about half a microsecond.
        times = [round(before.elapsed_time(after) * 1e6) for before, after in pairs]
        return _steps(list(zip(phases[1:], times, strict=True)))

    def _record(self, phase: str | None) -> None:
        if len(self._phases) == len(self._events):
            self._events.append(self._torch.cuda.Event(enable_timing=True))
        self._events[len(self._phases)].record()
        self._phases.append(phase)


def _steps(pieces: list[tuple[str | None, int]]) -> list[dict[str, Any]]:
    """Steps from pieces of time, each with the phase that it ends; None ends a step, and belongs to no phase."""
    steps: list[dict[str, Any]] = []
    phases: dict[str, int] = {}
    total = 0
    for phase, elapsed in pieces:
        total += elapsed
        if phase is None:
            steps.append({"total_ns": total, "phases": phases})
            phases, total = {}, 0
        else:
            phases[phase] = phases.get(phase, 0) + elapsed
    return steps
