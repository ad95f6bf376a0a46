"""Recordings of several configurations: which are alive together. The processes here are made up."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.study import small_study
from tetrace.study import process, recordings, spec
from tetrace.study.machine import Machine
from tetrace.study.process import Failure
from tetrace.study.results import MEASURED, Error
from tetrace.study.runner import Options, Run
from tetrace.study.spec import Planned

GIB = 1 << 30
SPEC = """
device = "cpu"
[options]
copy = 0
[[matrix]]
axes.copy = [0, 1, 2, 3]
"""


class Recorded:
    """A process that is recorded. Those in `crowded` run out of memory unless they are alone."""

    alive: ClassVar[list[str]] = []
    together: ClassVar[list[list[str]]] = []
    asked: ClassVar[list[tuple[str, str, int]]] = []
    crowded: tuple[str, ...] = ()

    def __init__(self, name: str, output: Path) -> None:
        self.name, self.output = name, output
        self.failure: Failure | None = None
        self.busy = self.has_ended = False
        self.alive.append(name)

    def ask(self, request: dict[str, Any]) -> None:
        self.asked.append((self.name, request["do"], request.get("steps", 0)))
        if request["do"] == "record_first":
            if self.name in self.crowded and len(self.alive) > 1:
                self.failure = Failure(Error("first step", "OutOfMemoryError", "no"), out_of_memory=True)
            self.together.append(list(self.alive))

    def leave(self) -> None:
        self.output.mkdir(parents=True)
        self.has_ended = True

    def end(self) -> int:
        self.alive.remove(self.name)
        return 0

    def tail(self) -> str:
        return ""


class Silent:
    def tick(self, _plan: Any) -> None:
        pass

    def say(self, _words: str) -> None:
        pass


def recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, gib: int = 0, free: int = 0, crowded: tuple[str, ...] = ()
) -> tuple[Run, list[list[str]]]:
    """The run, and which were alive at each first step. Each took `gib` GiB when it was measured."""
    study = spec.read(small_study.write(folder, SPEC))
    run = Run(study, study.measure, Machine(free_bytes=free * GIB), folder / "results", Options(), Silent())
    for planned in study.configurations:
        run.ledger.change(planned.name, state=MEASURED, peak_reserved_bytes=gib * GIB)

    def start(planned: Planned, _room: Path, before: tuple[str, ...]) -> Recorded:
        return Recorded(planned.name, run.ledger.folder / planned.file_name)

    Recorded.alive.clear()
    Recorded.together, Recorded.asked = [], []
    Recorded.crowded = crowded
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(process, "attend", lambda *_arguments: None)
    monkeypatch.setattr(run, "start", start)
    recordings.record_all(run, study.configurations, folder)
    assert Recorded.alive == []
    return run, Recorded.together


def kept(run: Run) -> dict[str, Any]:
    return {each.name: each.recording for each in run.ledger.results.configurations}


ALL = {str(copy): f"{copy}.tetrace" for copy in range(4)}


def test_as_many_are_alive_as_the_gpu_has_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, together = recorded(tmp_path / "a", monkeypatch, gib=40, free=139)
    assert kept(run) == ALL
    assert max(map(len, together)) == 3, "42 GiB each"
    run, together = recorded(tmp_path / "b", monkeypatch, gib=200, free=139)
    assert kept(run) == ALL
    assert max(map(len, together)) == 1, "one at least"
    _, together = recorded(tmp_path / "c", monkeypatch, gib=200)
    assert max(map(len, together)) == 4, "nothing is known of the GPU"


def test_all_warm_up_before_any_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As before rounds. The last two steps of each warm-up are of the turn that is recorded, which are its lead-in."""
    run, _ = recorded(tmp_path, monkeypatch)
    assert (run.measure.warmup, run.study.recording.steps) == (10, 10)
    assert Recorded.asked == [
        *((name, "record_first", 0) for name in ALL),
        *((name, "record_warm_up", 8) for name in ALL),
        *((name, "record", 2 + 10 + 2) for name in ALL),
    ]
    assert recordings.options(run)[2:4] == ("--steps", "11:21")


def test_all_that_run_out_of_memory_together_are_recorded_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, together = recorded(tmp_path, monkeypatch, crowded=("0", "1", "2", "3"))
    assert kept(run) == ALL
    assert [names for names in together if len(names) == 1] == [["0"], ["1"], ["2"], ["3"]]
    assert not any(each.recording_error for each in run.ledger.results.configurations)
    assert dataclasses.asdict(run.ledger["0"])["recorded_as"]
