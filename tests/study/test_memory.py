"""How many configurations are alive together: as memory of the GPU allows. The processes here are made up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study
from tetrace.study import groups, process, spec, turns
from tetrace.study.machine import Machine
from tetrace.study.process import Failure
from tetrace.study.results import Error
from tetrace.study.runner import Options, Run
from tetrace.study.spec import Planned, Study

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
        # What had its first step side by side.
        self.lots: list[list[str]] = []
        # These have to give memory back in their first step, unless they are alone, and beside other first steps.
        self.short: tuple[str, ...] = ()
        self.short_beside: tuple[str, ...] = ()


class Made:
    """A process that takes 1 GiB of the GPU when it is built, and `gib` more in its first step."""

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
        elif request["do"] == "first_step":
            self._first_step()
        elif request["do"] == "warm_up":
            self.stage = "warm-up"
            self.reply = {"warmup_ns": 1, "losses": [], "facts": {}, "code": [], "memory": self._memory()}
        else:
            self.gpu.rounds.append([self.name, *self.gpu.alive])
            step = {"total_ns": 1, "phases": {}}
            self.reply = {"at": "", "began_ns": 1, "host_ns": 1, "steps": [step], "losses": [], "memory": {}}

    def _first_step(self) -> None:
        self.stage = "first step"
        if self.bytes > self.gpu.free:
            self.failure = Failure(Error("first step", "OutOfMemoryError", "no"), out_of_memory=True)
            return
        self.held += self.bytes
        self.gpu.free -= self.bytes
        self.reply = {"first_step_ns": 1, "memory": self._memory()}

    def _memory(self) -> dict[str, int]:
        retries = int(self.name in self.gpu.short and len(self.gpu.alive) > 1)
        return {"reserved": self.bytes, "free": self.gpu.free, "retries": retries}

    def end(self) -> None:
        self.gpu.free += self.held
        self.gpu.alive.remove(self.name)


class Silent:
    """Nobody watches."""

    def tick(self, _plan: object) -> None:
        """Nothing."""

    def say(self, _line: str) -> None:
        """Nothing."""


def measured(
    folder: Path, gpu: Gpu, sizes: Sequence[int], copies: int, monkeypatch: pytest.MonkeyPatch,
    only: tuple[str, ...] = (), claims: Sequence[tuple[str, str]] = (), more: str = "", once: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    """Run a study of configurations of these sizes in GiB, on a machine where four build at once."""
    said = SPEC.format(sizes=", ".join(map(str, sizes)), copies=", ".join(map(str, range(copies))))
    for of, against in claims:
        more += f'[[claim]]\nsays = "x"\nfigure = "speedup"\nof = "{of}"\nagainst = "{against}"\nat_least = 1\n'
    study = spec.read(small_study.write(folder, said + more))
    return executed(study, folder / "results", gpu, monkeypatch, Options(only=only, recordings=False), once=once)


def again(run: Run, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, options: Options, fails: tuple[str, ...] = ()) -> Run:
    """Run the same study into the same folder."""
    return executed(run.study, run.ledger.folder, gpu, monkeypatch, options, fails=fails)


def executed(
    study: Study, folder: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch, options: Options,
    gib: int = 0, fails: tuple[str, ...] = (), once: tuple[str, ...] = (),
) -> Run:  # fmt: skip
    """Run a study with processes that are made up, of `gib` GiB or of their option `gib`; those in `fails` do, and those in
    `once` run out of memory when they are built first."""
    left = list(once)

    def start(planned: Planned, _room: Path) -> Made:
        process = Made(gpu, planned.name, gib or planned.options["gib"])
        if planned.name in fails:
            process.failure = Failure(Error("build", "ValueError", "no"))
        if planned.name in left:
            left.remove(planned.name)
            process.failure = Failure(Error("build", "OutOfMemoryError", "no"), out_of_memory=True)
        return process

    def attend(working: Sequence[Made], *_: object) -> None:
        if {each.stage for each in working} == {"first step"}:
            gpu.lots.append([each.name for each in working])
            for each in working:
                if each.name in gpu.short_beside and len(working) > 1:
                    each.reply["memory"]["retries"] = 1

    monkeypatch.setattr(turns.os, "cpu_count", lambda: 8)
    run = Run(study, study.measure, Machine(), folder, options, Silent())
    monkeypatch.setattr(process, "attend", attend)
    monkeypatch.setattr(run, "start", start)
    run.execute()
    return run


def interleaved_with_the_first(run: Run) -> dict[str, int]:
    """Rounds that each configuration shares with the first one."""
    first, *others = run.ledger.results.configurations
    return {each.name: groups.interleaved(first, each) for each in others}


def test_small_ones_are_all_alive_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(140)
    measured(tmp_path, gpu, [2], 8, monkeypatch)
    assert [len(alive) for _, *alive in gpu.rounds] == [8] * 16
    assert gpu.free == 140 * GIB


def test_the_first_step_of_the_first_one_tells_how_many_are_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where four build at once."""
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [2], 8, monkeypatch)
    names = [f"2-{copy}" for copy in range(8)]
    assert gpu.lots == [names[:1], names[1:4], names[4:]]
    assert [run.ledger[name].first_step_beside for name in names] == [0, 2, 2, 2, 3, 3, 3, 3]
    assert not any(run.plan.left.values())


CLAIM = '[[claim]]\nsays = "x"\nfigure = "first_step_s"\nof = "2-0"\nat_least = 1\n'
NOTE = '[[note]]\ntitle = "x"\n[[note.row]]\nconfiguration = "2-0"\nlabel = "x"\nfirst_step_s = 1.0\n'


@pytest.mark.parametrize("more", [CLAIM, NOTE], ids=["claim", "note"])
def test_first_steps_that_something_is_said_about_are_alone(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [2], 6, monkeypatch, more=more)
    assert gpu.lots == [[f"2-{copy}"] for copy in range(6)]
    assert {each.first_step_beside for each in run.ledger.results.configurations} == {0}


def test_one_that_has_no_room_beside_other_first_steps_is_in_the_next_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would be where first steps are one after the other."""
    gpu = Gpu(130)
    run = measured(tmp_path, gpu, [13, 53], 2, monkeypatch)
    assert gpu.lots == [["13-0"], ["13-1", "53-0", "53-1"], ["53-1"], ["13-0"]]
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert interleaved_with_the_first(run) == {"13-1": 2, "53-0": 2, "53-1": 2}
    assert gpu.free == 130 * GIB
    assert not any(run.plan.left.values())


def test_one_that_has_room_alone_beside_what_is_warm_stays_in_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was short of memory while others took theirs."""
    gpu = Gpu(140)
    gpu.short_beside = ("2-1", "2-2")
    run = measured(tmp_path, gpu, [2], 4, monkeypatch)
    assert gpu.lots == [["2-0"], ["2-1", "2-2", "2-3"], ["2-1"], ["2-2"]]
    assert [len(alive) for _, *alive in gpu.rounds] == [4] * 8
    assert [each.first_step_beside for each in run.ledger.results.configurations] == [0, 0, 0, 2]
    assert not any(run.plan.left.values())


def test_all_of_a_lot_that_have_no_memory_are_measured_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(130)
    run = measured(tmp_path, gpu, [13, 102], 2, monkeypatch)
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert [alive for name, *alive in gpu.rounds if name == "102-1"] == [["102-1"]] * 2
    assert not any(run.plan.left.values())


def test_one_that_gives_memory_back_in_its_first_step_is_not_measured_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside other first steps, then beside what is warm: after that it gets the GPU alone."""
    gpu = Gpu(140)
    gpu.short = ("2-2",)
    run = measured(tmp_path, gpu, [2], 4, monkeypatch)
    assert [alive for name, *alive in gpu.rounds if name == "2-2"] == [["2-2"]] * 2
    assert gpu.lots == [["2-0"], ["2-1", "2-2", "2-3"], ["2-2"], ["2-2"]]
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert not any(run.plan.left.values())


def test_one_of_before_that_is_short_of_memory_beside_others_starts_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(140)
    part = measured(tmp_path, gpu, [2], 4, monkeypatch, only=("2-0",))
    gpu.lots.clear()
    gpu.short_beside = ("2-0",)
    run = again(part, gpu, monkeypatch, Options(recordings=False))
    assert gpu.lots == [["2-1"], ["2-0", "2-2", "2-3"], ["2-0"]]
    assert interleaved_with_the_first(run) == {"2-1": 2, "2-2": 2, "2-3": 2}
    assert not any(run.plan.left.values())


def test_two_that_take_each_others_memory_are_both_tried_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When one leaves, the other is the last that is alive: it was not when it ran out of memory."""
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [2], 2, monkeypatch, once=("2-0", "2-1"))
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert [len(alive) for _, *alive in gpu.rounds] == [1] * 4
    assert not any(run.plan.left.values())


def test_large_ones_are_so_many_as_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that have no room wait for the next group, and none runs out of memory."""
    gpu = Gpu(140)
    run = measured(tmp_path, gpu, [40], 6, monkeypatch)
    # The first one is there in each group: the others are compared with it.
    assert [len(alive) for _, *alive in gpu.rounds] == [3] * 12 + [2] * 4
    assert {each.state for each in run.ledger.results.configurations} == {"measured"}
    assert [name for name, *_ in gpu.rounds[:6]] == ["40-0", "40-1", "40-2", "40-2", "40-1", "40-0"], "in their order"
    assert interleaved_with_the_first(run) == {f"40-{copy}": 2 for copy in range(1, 6)}
    assert gpu.free == 140 * GIB
    assert not any(run.plan.left.values())


def test_what_is_compared_is_alive_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more than may be alive at a time, in a run of a part and in one of the rest."""
    gpu = Gpu(140)
    part = measured(tmp_path, gpu, [2], 12, monkeypatch, only=("2-0", "2-1"), claims=[("2-11", "2-1"), ("2-3", "2-1")])
    assert len(gpu.rounds) == 4
    run = again(part, gpu, monkeypatch, Options(recordings=False))
    assert max(len(alive) for _, *alive in gpu.rounds) == 8
    assert all(shared >= 2 for shared in interleaved_with_the_first(run).values())
    for name in ("2-11", "2-3"):
        assert groups.interleaved(run.ledger["2-1"], run.ledger[name]) == 2
    rows = [(step.configuration, step.round) for step in run.ledger._steps]
    assert len(rows) == len(set(rows)) == len(gpu.rounds), "each round has a number of its own"
    assert not any(run.plan.left.values())


def test_one_that_fails_when_it_is_measured_once_more_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu(140)
    part = measured(tmp_path, gpu, [100], 2, monkeypatch, only=("100-0",))
    before = part.ledger["100-0"]
    run = again(part, gpu, monkeypatch, Options(recordings=False), fails=("100-0",))
    assert run.ledger["100-0"] == before
    assert run.ledger["100-1"].state == "measured"
    assert interleaved_with_the_first(run) == {"100-1": 0}
    assert not any(run.plan.left.values())


@pytest.mark.parametrize("name", ["fusion", "hybrid", "attention", "gated", "stability"])
def test_what_the_shipped_studies_compare_takes_turns(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = spec.read(Path(__file__).parents[2] / "profiles" / name)
    study = dataclasses.replace(study, measure=dataclasses.replace(study.measure, rounds=2))
    gpu = Gpu(140)
    run = executed(study, tmp_path / "results", gpu, monkeypatch, Options(recordings=False), gib=2)
    ledger = run.ledger
    apart = [sorted(pair) for pair in groups.compared(study) if not groups.interleaved(*(ledger[one] for one in pair))]
    assert apart == []
    most = len(study.configurations) * study.measure.rounds
    assert len(gpu.rounds) < 1.15 * most, "measured too often for it"


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
