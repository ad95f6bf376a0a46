"""What a study is doing and what is left of it, for whoever shows it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

# Kinds of work, in the order in which a configuration goes through them.
BUILD, FIRST_STEP, WARM_UP, ROUND, RECORDING = "building", "first step of", "warming up", "measuring", "recording"
_MEASURING = (BUILD, FIRST_STEP, WARM_UP, ROUND)
# Not counted: what a recorder does when its configuration is done.
SAVING = "saving the recording of"


class Watcher(Protocol):
    """Is told what happens. `plan` is the same object all along; `tick` is called a few times a second meanwhile."""

    def tick(self, plan: Plan) -> None:
        """Something may have changed."""

    def say(self, line: str) -> None:
        """A line that stays."""


@dataclass
class Plan:
    """What is left to do, by kind, and how long each kind has taken so far."""

    left: dict[str, int] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    # What is going on now: configuration and kind of work.
    running: dict[str, str] = field(default_factory=dict)
    _seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def expect(self, kind: str, count: int) -> None:
        """`count` more pieces of work of this kind (fewer, where negative)."""
        self.left[kind] = max(0, self.left.get(kind, 0) + count)

    def once_more(self, kind: str) -> None:
        """A configuration does once more what comes up to this kind of work."""
        for each in _MEASURING[: _MEASURING.index(kind) + 1]:
            self.expect(each, 1)

    def give_up(self, kind: str, rounds: int) -> None:
        """A configuration does not do what comes after this kind of work, nor `rounds` that were expected."""
        for each in _MEASURING[_MEASURING.index(kind) + 1 : -1]:
            self.expect(each, -1)
        self.expect(ROUND, -rounds)

    @contextmanager
    def working(self, kind: str, *names: str) -> Iterator[None]:
        """These configurations do work of this kind, side by side, a piece each."""
        began = time.monotonic()
        self.running |= dict.fromkeys(names, kind)
        try:
            yield
        finally:
            self._seconds[kind] += time.monotonic() - began
            self.done[kind] += len(names)
            self.expect(kind, -len(names))
            for name in names:
                self.running.pop(name, None)

    def took(self, kind: str, seconds: float) -> None:
        """Work of this kind took longer than its turns: it had to be prepared."""
        self._seconds[kind] += seconds

    @property
    def seconds_left(self) -> float | None:
        """An estimate, from how long each kind of work has taken so far; None before a configuration was warmed up."""
        known = {kind: self._seconds[kind] / count for kind, count in self.done.items() if count}
        if BUILD not in known or WARM_UP not in known:
            return None if any(self.left.values()) and not known.keys() >= self._wanted() else self._sum(known)
        # Until one was seen: rounds are about as long as a warm-up, and a recording builds and warms up again.
        again = known[BUILD] + known.get(FIRST_STEP, 0) + known[WARM_UP]
        guessed = {ROUND: known[WARM_UP], RECORDING: again + known[WARM_UP]}
        return self._sum({**guessed, **known})

    def _wanted(self) -> set[str]:
        return {kind for kind, count in self.left.items() if count}

    def _sum(self, seconds: Mapping[str, float]) -> float:
        return sum(count * seconds[kind] for kind, count in self.left.items() if count)
