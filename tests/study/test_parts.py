"""The parts of a run that need no process: results on disk, names of machines, clocks, times, estimates."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tetrace.cli import study_progress
from tetrace.errors import InputError, UsageError
from tetrace.record import nvidia
from tetrace.study import clocks, machine, own_code, process, resolve, results
from tetrace.study.context import context_of
from tetrace.study.machine import Machine
from tetrace.study.progress import BUILD, FIRST_STEP, RECORDING, ROUND, WARM_UP, Plan
from tetrace.study.results import Attempt, Configuration, Error, Losses, Results, Round
from tetrace.study.spec import Measure
from tetrace.study.steps import Step, read_steps
from tetrace.study.stopwatch import CudaStopwatch, HostStopwatch

ROUND_0 = Round(0, "2026-01-01T00:00:00+00:00", 1_000, 2, 5, 1980.0, 700.5, 61.0, ("power cap",))
MEASURED = Configuration(
    "fused-none",
    "main",
    {"modules": "fused"},
    {"batch": 8, "margin": float("inf")},
    {"A": "1"},
    state=results.MEASURED,
    losses=Losses.of([1.5, float("nan"), float("-inf")]),
    rounds=(ROUND_0,),
    recording="fused-none.tetrace",
)
FAILED = Configuration(
    "b", "main", state=results.FAILED, error=Error("build", "ValueError", "no", "words"), expected=True
)
WHOLE = Results("fusion", "Fusion", "2026-01-01", machine={"gpu": "NVIDIA H200"}, configurations=(MEASURED, FAILED))
STEPS = [
    Step("fused-none", 0, 0, 900, {"forward": 300, "backward": 600}),
    Step("fused-none", 0, 1, 800, {"forward": 800}),
]


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results.write(tmp_path, WHOLE, STEPS)
    read = results.read(tmp_path)
    assert read.configurations[1] == FAILED
    assert read.configurations[0].rounds == (ROUND_0,)
    assert read.configurations[0].losses.first_nonfinite_step == 1
    assert [str(loss) for loss in read.configurations[0].losses.by_step] == ["1.5", "nan", "-inf"]
    assert read_steps(tmp_path) == STEPS
    assert json.loads((tmp_path / "study.json").read_text())["version"] == 1
    assert sorted(file.name for file in tmp_path.iterdir()) == ["steps.csv", "study.json"]


def test_a_phase_that_a_step_has_not_is_missing_and_not_0(tmp_path: Path) -> None:
    results.write(tmp_path, WHOLE, STEPS)
    frame = results.read(tmp_path).steps
    assert list(frame.columns) == ["configuration", "round", "step", "total_ns", "forward_ns", "backward_ns"]
    assert frame.backward_ns.isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is of version None"),
        ('{"version": 2}', "is of version 2, this tetrace reads 1"),
        ('{"version": 1}', "has not what results have"),
        (
            '{"version": 1, "study": "a", "title": "b", "started": "c", "configurations": [1]}',
            "has not what results have",
        ),
    ],
)
def test_results_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match=said) as error:
        results.read(tmp_path)
    assert "--fresh" in str(error.value)


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--output"):
        results.write(tmp_path / "file" / "results", WHOLE, STEPS)


@pytest.mark.parametrize(
    ("found", "slug"),
    [
        (Machine("NVIDIA H200", 1), "h200"),
        (Machine("NVIDIA H200", 2), "h200-x2"),
        (Machine("NVIDIA H100 80GB HBM3", 1), "h100-80gb-hbm3"),
        (Machine(), "cpu"),
        (Machine("../.."), "gpu"),
    ],
)
def test_the_folder_of_a_machine(found: Machine, slug: str) -> None:
    assert found.slug == slug


@pytest.mark.parametrize(
    ("variable", "gpus"),
    [(None, 2), ("0", 1), ("1,0", 2), ("", 0), ("-1", 0), ("0,-1,1", 1), ("0,7", 1), ("GPU-1234", 1), ("none", 0)],
)
def test_which_gpus_are_visible(variable: str | None, gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    both = tuple(nvidia.Gpu(index, "NVIDIA H200") for index in range(2))
    monkeypatch.setattr(nvidia, "read", lambda: nvidia.Driver("580.1", "13.0", both))
    found = machine.find("cuda", {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable})
    assert (found.gpus if found else 0) == gpus
    assert machine.find("cpu", {}) == Machine()


def test_versions_of_what_is_installed() -> None:
    found = machine.versions()
    assert found["python"]
    assert found["torch"].startswith("2.")
    assert "flash_attn_3" not in found, "what is not installed has no version"


def test_what_the_driver_says_during_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the right GPU, until the round is over."""
    other = nvidia.Gpu(0, "H200", bus_id="00000000:1b:00.0", sm_mhz=300)
    ours = nvidia.Gpu(
        1, "H200", bus_id="00000000:4c:00.0", sm_mhz=1980, power_mw=700_500, temperature_c=61, slowed=("heat",)
    )
    asked = []
    monkeypatch.setattr(nvidia, "read", lambda: asked.append(1) or nvidia.Driver("1", "1", (other, ours)))
    with clocks.Clocks("4c:00") as watched:
        until = time.monotonic() + 30
        while len(asked) < 2 and time.monotonic() < until:
            time.sleep(0.01)
    assert watched.summary() == {"sm_mhz": 1980, "power_w": 700.5, "temperature_c": 61, "throttled": ("heat",)}
    asked.clear()
    with clocks.Clocks("") as watched:
        pass
    assert watched.summary() == {"sm_mhz": None, "power_w": None, "temperature_c": None, "throttled": ()}
    assert not asked, "a study on a CPU asks no driver"


class Event:
    """A CUDA event of a GPU whose clock is at `Event.now`, in ms."""

    now = 0.0
    made = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        Event.made += 1

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


class Torch:
    class cuda:  # noqa: N801
        Event = Event


def test_times_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A phase marked twice is a sum, and what comes after the last mark is in the step alone."""
    monkeypatch.setattr(Event, "now", 0.0)
    monkeypatch.setattr(Event, "made", 0)
    watch = CudaStopwatch(Torch)

    def after(ms: float, then: Callable[..., None], *arguments: Any) -> None:
        Event.now += ms
        then(*arguments)

    for _ in range(2):
        watch.begin()
        for phase, ms in (("forward", 1), ("backward", 2), ("forward", 3), ("backward", 4)):
            after(ms, watch.mark, phase)
        after(5, watch.begin)
        after(7, watch.mark, "forward")
        watch.end()
        first = {"total_ns": 15_000_000, "phases": {"forward": 4_000_000, "backward": 6_000_000}}
        assert watch.read() == [first, {"total_ns": 7_000_000, "phases": {"forward": 7_000_000}}]
    assert Event.made == 8, "events are used again"
    assert watch.read() == []


def test_times_on_a_cpu() -> None:
    watch = HostStopwatch()
    watch.begin()
    watch.mark("forward")
    watch.end()
    (step,) = watch.read()
    assert 0 <= step["phases"]["forward"] <= step["total_ns"]
    assert watch.read() == []


def test_losses_in_memory_that_is_used_again() -> None:
    """As with CUDA graphs: each step writes its loss to the same place."""
    import torch

    from tetrace.study.losses import UnreadLosses

    same, losses = torch.zeros(()), UnreadLosses(torch)
    for step in range(3):
        losses.keep(same.fill_(step))
    losses.warmed_up()
    for step in range(3, 6):
        losses.keep(same.fill_(step))
    losses.keep(None)
    assert losses.read() == [0, 1, 2, 3, 4, 5]
    others = UnreadLosses(torch)
    for step in range(3):
        others.keep(torch.full((2,), float(step)))
    others.warmed_up()
    kept = torch.ones((), requires_grad=True)
    others.keep(kept)
    assert others._kept[-1].data_ptr() == kept.data_ptr(), "no copy where none is needed"
    assert others.read() == [0, 1, 2, 1]


def test_what_is_left_and_for_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tetrace.study.progress.time.monotonic", lambda: now[0])
    plan = Plan()
    for kind, count in ((BUILD, 2), (WARM_UP, 2), (ROUND, 4), (RECORDING, 1)):
        plan.expect(kind, count)

    def work(kind: str, seconds: float, *names: str) -> None:
        with plan.working(kind, *names):
            now[0] += seconds

    assert study_progress.remaining(plan) == "2 to build, 2 to warm up, 4 rounds, 1 recording"
    with plan.working(BUILD, "a", "[bold]\x1b"):
        assert study_progress.running(plan) == "building a, [bold]�"
        now[0] += 6
    work(WARM_UP, 10, "a")
    # Rounds like a warm-up, the recording like a build and two of them.
    assert plan.seconds_left == 10 + 4 * 10 + (3 + 2 * 10)
    work(WARM_UP, 10, "b")
    work(ROUND, 40, "a")
    plan.took(RECORDING, 5)
    assert plan.seconds_left == 3 * 40 + (3 + 2 * 10)
    assert study_progress.remaining(plan) == "3 rounds, 1 recording; about 2 min"
    assert study_progress.running(plan) == ""
    plan.expect(ROUND, -3)
    work(RECORDING, 7, "a")
    assert study_progress.remaining(plan) == ""
    assert plan.seconds_left == 0


def test_first_steps_are_left_too(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tetrace.study.progress.time.monotonic", lambda: now[0])
    plan = Plan()
    for kind in (BUILD, FIRST_STEP, WARM_UP):
        plan.expect(kind, 3)
    with plan.working(BUILD, "a", "b", "c"):
        now[0] += 6
    assert study_progress.remaining(plan) == "3 first steps, 3 to warm up"
    with plan.working(FIRST_STEP, "a", "b"):
        assert study_progress.running(plan) == "first step of a, b"
        now[0] += 8
    with plan.working(WARM_UP, "a"):
        now[0] += 1
    assert plan.seconds_left == 4 + 2 * 1
    # One that ran out of memory in its warm-up comes again; one that failed in its first step has none.
    plan.once_more(WARM_UP)
    assert plan.left == {BUILD: 1, FIRST_STEP: 2, WARM_UP: 3}
    plan.give_up(FIRST_STEP, 2)
    assert plan.left == {BUILD: 1, FIRST_STEP: 2, WARM_UP: 2, ROUND: 0}
    plan.once_more(ROUND)
    assert plan.left == {BUILD: 2, FIRST_STEP: 3, WARM_UP: 3, ROUND: 1}


def test_only_recordings_are_left() -> None:
    """As after an interrupt: nothing was built, so nothing is known."""
    plan = Plan()
    plan.expect(RECORDING, 2)
    assert plan.seconds_left is None
    with plan.working(RECORDING, "a"):
        pass
    assert plan.seconds_left is not None


def test_results_that_are_not_of_the_whole_study_have_another_name() -> None:
    assert resolve.results_name("h200", False, {}) == "h200"
    assert resolve.results_name("h200", True, {"batch": 4, "kind": "../x y"}) == "h200-quick-batch-4-kind-.._x_y"


def test_which_study_a_word_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ./profiles, then a folder, then one that tetrace brings, whose results go to ./profiles all the same."""
    shipped = tmp_path / "shipped"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(resolve, "_shipped", lambda: shipped)
    for folder in (shipped / "fusion", shipped / "hybrid", tmp_path / "profiles" / "fusion", tmp_path / "mine"):
        folder.mkdir(parents=True)
        (folder / "study.toml").touch()
    assert resolve.names() == ["fusion", "hybrid"]
    assert resolve.find("fusion").folder == Path("profiles/fusion")
    assert resolve.find("hybrid").folder == shipped / "hybrid"
    assert resolve.find("hybrid").results == Path("profiles/hybrid/results")
    assert resolve.find("mine").results == Path("mine/results")
    assert resolve.find(str(tmp_path / "mine")).folder == tmp_path / "mine"
    with pytest.raises(UsageError, match=r"^fuson: is no study and no folder; did you mean fusion\?"):
        resolve.find("fuson")
    with pytest.raises(UsageError, match=r"shipped: has no study\.toml"):
        resolve.find("shipped")


def test_the_newest_whole_results_are_shown_first(tmp_path: Path) -> None:
    for name, ended, quick in (("a", "2026-02", False), ("b", "2026-03", False), ("c", "2026-04", True)):
        results.write(tmp_path / "results" / name, dataclasses.replace(WHOLE, ended=ended, quick=quick), [])
    (tmp_path / "results" / "d").mkdir()
    place = resolve.Place(tmp_path / "fusion", tmp_path / "results", (tmp_path / "results",))
    assert [folder.name for folder in resolve.stored(place).folders] == ["b", "a", "c"]


def test_a_configuration_may_be_named_like_nothing(tmp_path: Path) -> None:
    names = ["None", "NA", "nan", "null"]
    results.write(tmp_path, WHOLE, [Step(name, 0, 0, 900, {"forward": 300}) for name in names])
    frame = results.read(tmp_path).steps
    assert list(frame.configuration) == names
    assert frame.total_ns.sum() == 4 * 900


def test_losses_are_judged_over_all_processes() -> None:
    """Steps are numbered within a process; by step are those of the last."""
    attempts = [Attempt((3.0, 2.0, float("nan"))), Attempt((3.0, float("inf"))), Attempt((3.0, 2.0, 1.0, 0.5))]
    losses = Losses.over(attempts)
    assert (losses.first, losses.last, losses.first_nonfinite_step) == (3.0, 0.5, 1)
    assert losses.by_step == (3.0, 2.0, 1.0, 0.5)
    assert Losses.over([]) == Losses.of([]) == Losses()


def test_losses_of_all_processes_are_read_as_they_were_written(tmp_path: Path) -> None:
    attempts = (Attempt((3.0, float("inf"))), Attempt((3.0, 2.0)))
    one = dataclasses.replace(MEASURED, attempts=attempts, losses=Losses.over(attempts))
    results.write(tmp_path, dataclasses.replace(WHOLE, configurations=(one,)), [])
    read = results.read(tmp_path).configurations[0]
    assert (read.attempts, read.losses) == (attempts, one.losses)


def test_stored_results_are_of_what_was_asked_for(tmp_path: Path) -> None:
    for name, quick, changed in (("a", False, {}), ("b", True, {}), ("c", False, {"batch": 4})):
        whole = dataclasses.replace(WHOLE, quick=quick, options_changed=changed)
        results.write(tmp_path / "results" / name, whole, [])
    results.write(tmp_path / "results" / "other", dataclasses.replace(WHOLE, study="hybrid"), [])
    results.write(tmp_path / "results" / "a" / "earlier" / "2026", WHOLE, [])
    (tmp_path / "results" / "a" / "study.json").write_text("{")
    place = resolve.Place(tmp_path / "fusion", tmp_path / "results", (tmp_path / "results",))

    def names(*arguments: Any) -> list[str]:
        return [folder.name for folder in resolve.stored(place, *arguments).folders]

    assert names() == ["b", "c"]
    assert names(True) == ["b"]
    assert names(False, {"batch": 4}) == ["c"]
    assert names(True, {"batch": 4}) == []
    unreadable, other = resolve.stored(place).unreadable
    assert "a/study.json: cannot be read" in unreadable
    assert "other: holds results of the study hybrid" in other


def test_processes_on_a_gpu_before_the_study_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (nvidia.Gpu(0, "H200", processes=(9,)), nvidia.Gpu(1, "H200", processes=(7, 5)))
    monkeypatch.setattr(nvidia, "read", lambda: nvidia.Driver("580.1", "13.0", gpus))
    assert machine.find("cuda", {"CUDA_VISIBLE_DEVICES": "1"}) == Machine("H200", 1, "580.1", (5, 7))
    assert machine.find("cpu", {}) == Machine()


def test_variables_that_change_what_is_measured() -> None:
    environ = {"NVTE_A": "1", "CUDA_HOME": "/x", "TORCHINDUCTOR_CACHE_DIR": "/y", "HOME": "/z", "OMP_NUM_THREADS": "2"}
    base = context_of({}, {}, Measure(), "cpu", {})
    said = context_of({"gpu": "H200", "system": "Linux"}, {"torch": "1"}, Measure(), "cpu", environ)
    assert said.document["environment"] == {"NVTE_A": "1", "OMP_NUM_THREADS": "2"}
    assert said.document["machine"]["gpu"] == "H200"
    others = [
        context_of({}, {}, Measure(), "cpu", {"NVTE_A": "1"}),
        context_of({}, {"torch": "1"}, Measure(), "cpu", {}),
        context_of({"gpu": "H200"}, {}, Measure(), "cpu", {}),
        context_of({}, {}, Measure(steps=3), "cpu", {}),
    ]
    assert len({base.digest, *(each.digest for each in others)}) == 5
    assert base.digest == context_of({}, {}, Measure(rounds=2, limit_s=1, together=1), "cpu", {"HOME": "/"}).digest


def test_own_code_is_what_lies_in_the_study_and_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's library may lie there too: it fills no places, and nothing is cut."""
    study = tmp_path / "mine"
    files = ["mine/model.py", "mine/lib/python3/own.py", "recipes.py", "venv/lib/site-packages/a.py", "python/json.py"]
    files += [f"python/lib{number}.py" for number in range(300)] + [f"beside/part{number}.py" for number in range(300)]
    for number, name in enumerate(files):
        module = types.ModuleType(f"made_{number}")
        module.__file__ = str(tmp_path / name)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "python"))
    found = own_code.files_of(study)
    expected = {"model.py", "lib/python3/own.py", "../recipes.py", *(f"../beside/part{n}.py" for n in range(300))}
    assert set(found) == expected


def test_a_process_that_cannot_be_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is stuck in the driver."""
    stuck = process.Process("a", [sys.executable, "-c", "import time; time.sleep(1000)"], {}, tmp_path, tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(stuck, "_kill", lambda: None)
        patch.setattr(process, "_KILLED_S", 0.01)
        assert stuck.end() is None
    stuck._kill()
    assert stuck._process.wait(60) == -9
