"""First steps of a study side by side, with real processes: each waits for another one that has its first step too."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study
from tetrace.study import first_steps, spec

MODEL = """
import os
import pathlib
import time

import torch

from tetrace.study import Workload


def build(*, does: str, wait: float) -> Workload:
    alive = pathlib.Path(os.environ["ALIVE"])
    (alive / str(os.getpid())).touch()
    weight = torch.ones(2, requires_grad=True)
    facts, calls = {}, 0

    def others(mark: str = "") -> bool:
        pids = [file.name.removesuffix(mark) for file in alive.iterdir() if file.name.endswith(mark)]
        return any(pid.isdigit() and int(pid) != os.getpid() and runs(pid) for pid in pids)

    def runs(pid: str) -> bool:
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def meets() -> str:
        until = time.monotonic() + wait
        while time.monotonic() < until:
            if others(".in"):
                return "yes"
            time.sleep(0.01)
        return "no"

    def first_step() -> None:
        inside = alive / f"{os.getpid()}.in"
        inside.touch()
        facts["met"] = meets()
        # The other one looks a few times a second.
        time.sleep(0.5 if wait else 0)
        inside.unlink()
        if does == "breaks":
            raise RuntimeError("no first step")
        if does == "hangs":
            time.sleep(1000)
        if does == "crowded" and others():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def step(mark):
        nonlocal calls
        calls += 1
        if calls == 1:
            facts["begins_on"] = str(len(os.sched_getaffinity(0)))
            first_step()
        elif "processors" not in facts:
            facts["processors"] = str(len(os.sched_getaffinity(0)))
        loss = weight.square().sum() * calls
        loss.backward()
        return loss

    return Workload(step=step, tokens=1, model=None, facts=facts)
"""
SPEC = """
device = "cpu"
[options]
does = "works"
wait = 0.0
[environment]
ALIVE = "{alive}"
[measure]
warmup = 2
steps = 2
rounds = 2
cpus = 1
together = 16
[[matrix]]
recording = false
axes.does.first = {{}}
"""
# Whatever the number of processors is, each of those that wait for long has another one beside it.
PAIRS = """
axes.does.second = {{wait = 3.0}}
axes.does.one = {{wait = 30.0}}
axes.does.other = {{wait = 30.0}}
axes.does.breaks = {{does = "breaks", wait = 30.0}}
axes.does.beside_breaks = {{wait = 30.0}}
axes.does.hangs = {{does = "hangs", wait = 30.0}}
axes.does.beside_hangs = {{wait = 30.0}}
axes.does.crowded = {{does = "crowded", wait = 3.0}}
axes.does.beside_crowded = {{wait = 3.0}}
"""
ALONE = """
axes.does.second = {{}}
axes.does.one = {{wait = 1.0}}
axes.does.other = {{wait = 1.0}}
"""


@dataclass(frozen=True)
class Done:
    """A study that was run."""

    folder: Path
    command: subprocess.CompletedProcess[str]
    found: Mapping[str, Mapping[str, Any]]

    def facts(self, *names: str) -> list[tuple[str, int]]:
        """Of each configuration, whether it met another one in its first step, and beside how many that is said to be."""
        return [(self.found[name]["facts"]["met"], self.found[name]["first_step_beside"]) for name in names]


def run(folder: Path, said: str, *arguments: str) -> Done:
    study = small_study.write(folder, said)
    (study / "model.py").write_text(MODEL)
    command = small_study.run(folder, "small", *arguments)
    assert command.returncode == 0, command.stderr
    return Done(folder, command, small_study.configurations(small_study.stored(study)))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    return run(tmp_path_factory.mktemp("first"), SPEC + PAIRS, "--limit", "20")


def test_first_steps_are_side_by_side_but_for_the_first_of_all(done: Done) -> None:
    assert done.facts("first")[0] == ("no", 0)
    for met, beside in done.facts("one", "other"):
        assert met == "yes"
        assert beside >= 1


def test_one_that_fails_or_hangs_leaves_the_others(done: Done) -> None:
    works = [name for name in done.found if name not in ("breaks", "hangs")]
    assert {name: done.found[name]["state"] for name in works} == dict.fromkeys(works, "measured")
    assert [done.found[name]["facts"]["met"] for name in ("beside_breaks", "beside_hangs")] == ["yes", "yes"]
    failed = [(done.found[name]["state"], done.found[name]["error"]["stage"]) for name in ("breaks", "hangs")]
    assert failed == [("failed", "first step"), ("timed out", "first step")]
    assert small_study.alive(done.folder) == []


def test_one_that_runs_out_of_memory_is_tried_again_and_then_alone(done: Done) -> None:
    assert "crowded: ran out of memory while others had their first step" in done.command.stderr
    assert "crowded: ran out of memory beside others, or was killed; it is tried once more alone" in done.command.stderr
    assert done.facts("crowded") == [("no", 0)]


def test_what_follows_a_first_step_is_as_ever(done: Done) -> None:
    one = done.found["other"]
    assert one["losses"]["by_step"] == [2.0 * step for step in range(1, 1 + 1 + 2 + 2 * (2 + 2))]
    assert one["facts"]["processors"] == "1", "from its second step on"
    begins_on = {each["facts"]["begins_on"] for each in done.found.values() if "begins_on" in each.get("facts", {})}
    assert len(begins_on) == 1, "first steps are alike"
    assert one["first_step_ns"] > one["warmup_ns"] > 0
    turns = small_study.turns({"configurations": list(done.found.values())}, ["one", "other"])
    assert [(name, number) for name, number, *_ in turns] == [("one", 0), ("other", 0), ("other", 1), ("one", 1)]


CLAIM = '[[claim]]\nsays = "x"\nfigure = "first_step_s"\nof = "one"\nat_least = 1\n'


@pytest.mark.parametrize(
    "said",
    [SPEC.replace("cpus = 1", "own_caches = true") + ALONE, SPEC + ALONE + CLAIM],
    ids=["own_caches", "claim"],
)
def test_first_steps_that_are_compared_do_not_meet(said: str, tmp_path: Path) -> None:
    assert run(tmp_path, said).facts("one", "other") == [("no", 0), ("no", 0)]


@pytest.mark.parametrize(
    ("name", "alone"),
    [("attention", False), ("fusion", False), ("gated", False), ("hybrid", True), ("stability", False)],
)
def test_of_the_shipped_studies(name: str, alone: bool) -> None:
    study = spec.read(Path(__file__).parents[2] / "profiles" / name)
    assert first_steps.are_alone(study, study.measure) is alone


def test_memory_of_a_cpu_is_not_known() -> None:
    memory = first_steps.Memory()
    assert (memory.fitting(8), memory.side_by_side(8)) == (8, 1)
    memory.take([])
    assert memory.side_by_side(8) == 1, "the first one failed"
    memory.take([{}])
    assert (memory.side_by_side(8), memory.is_scarce) == (8, False)


@pytest.mark.parametrize(
    ("told", "many", "scarce"),
    [
        ([(10, 100)], 4, False),
        ([(10, 23)], 1, False),
        ([(10, 12)], 1, False),
        ([(10, 10)], 1, True),
        ([(10, 60), (20, 44)], 1, False),
    ],
)
def test_memory_of_a_gpu(told: Sequence[tuple[int, int]], many: int, scarce: bool) -> None:
    memory = first_steps.Memory()
    memory.take([{"reserved": gib << 30, "free": free << 30} for gib, free in told])
    assert (memory.side_by_side(8), memory.is_scarce) == (many, scarce)
