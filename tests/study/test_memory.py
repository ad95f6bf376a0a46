"""How many configurations are alive together: as memory of the GPU allows. The processes here are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study
from tetrace.study import process, spec, turns
from tetrace.study.machine import Machine
from tetrace.study.process import Failure
from tetrace.study.results import Error
from tetrace.study.runner import Options, Run

GIB = 1 << 30
SPEC = """
device = "cpu"
[options]
gib = 1
[measure]
rounds = 2
[[matrix]]
axes.gib = [{sizes}]
axes.copy = [{copies}]
recording = false
"""


class Gpu:
    """A GPU of `gib` GiB, and what happens on it."""

    def __init__(self, gib: int) -> None:
        self.free = gib * GIB
        self.rounds: list[list[str]] = []
        self.alive: list[str] = []


class Made:
    """A process that takes 1 GiB of the GPU when it is built, and `gib` more when it warms up."""

    def __init__(self, gpu: Gpu, name: str, gib: int) -> None:
        self.gpu, self.name, self.bytes = gpu, name, gib * GIB
        self.reply: dict[str, Any] = {}
        self.failure: Failure | None = None
        self.busy = False
        self.stage = "build"
        self.held = GIB
        gpu.free -= self.held
        gpu.alive.append(name)
        self.ask({"do": "build"})

    def ask(self, request: Mapping[str, Any]) -> None:
        common = {"versions": {}, "bus_id": "", "tokens": 1, "flops": 1, "parameters": 1, "facts": {}}
        if request["do"] == "build":
            self.reply = {**common, "import_ns": 1, "build_ns": 1}
        elif request["do"] == "warm_up":
            self._warm_up()
        else:
            self.gpu.rounds.append([self.name, *self.gpu.alive])
            step = {"total_ns": 1, "phases": {}}
            self.reply = {"at": "", "began_ns": 1, "host_ns": 1, "steps": [step], "losses": [], "memory": {}}

    def _warm_up(self) -> None:
        self.stage = "warm-up"
        if self.bytes > self.gpu.free:
            self.failure = Failure(Error("warm-up", "OutOfMemoryError", "no"), out_of_memory=True)
            return
        self.held += self.bytes
        self.gpu.free -= self.bytes
        memory = {"reserved": self.bytes, "free": self.gpu.free, "retries": 0}
        self.reply = {"first_step_ns": 1, "warmup_ns": 1, "losses": [], "facts": {}, "code": [], "memory": memory}

    def end(self) -> None:
        self.gpu.free += self.held
        self.gpu.alive.remove(self.name)


class Silent:
    """Nobody watches."""

    def tick(self, _plan: object) -> None:
        """Nothing."""

    def say(self, _line: str) -> None:
        """Nothing."""


def measured(folder: Path, gpu: Gpu, sizes: Sequence[int], copies: int, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a study of configurations of these sizes in GiB, on a machine where four build at once."""
    said = SPEC.format(sizes=", ".join(map(str, sizes)), copies=", ".join(map(str, range(copies))))
    study = spec.read(small_study.write(folder, said))
    run = Run(study, study.measure, Machine(), folder / "results", Options(recordings=False), Silent())
    monkeypatch.setattr(turns.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(process, "attend", lambda *_arguments: None)
    monkeypatch.setattr(run, "start", lambda planned, _room: Made(gpu, planned.name, planned.options["gib"]))
    run.execute()
    return run


def test_small_ones_are_all_alive_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(140)
    measured(tmp_path, gpu, [2], 8, monkeypatch)
    assert [len(alive) for _, *alive in gpu.rounds] == [8] * 16
    assert gpu.free == 140 * GIB


def test_large_ones_are_so_many_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have no room wait for the next group, and none runs out of memory."""
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [40], 6, monkeypatch)
    assert [len(alive) for _, *alive in gpu.rounds] == [3] * 12
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert [name for name, *_ in gpu.rounds[:6]] == ["40-0", "40-1", "40-2", "40-2", "40-1", "40-0"], "in their order"
    assert gpu.free == 140 * GIB
    assert not any(run.plan.left.values())


def test_one_that_does_not_fit_beside_others_gets_the_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [10, 130], 2, monkeypatch)
    alone = [alive for name, *alive in gpu.rounds if name.startswith("130")]
    assert alone == [["130-0"]] * 2 + [["130-1"]] * 2
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert not any(run.plan.left.values())


def test_one_that_does_not_fit_at_all_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [10, 200], 2, monkeypatch)
    states = {each.name: each.state for each in run.ledger.results.configurations}
    assert states == {"10-0": "measured", "10-1": "measured", "200-0": "failed", "200-1": "failed"}
    assert not any(run.plan.left.values())
