"""`tetrace study` from end to end, with real processes: one run of a study in which everything happens."""

from __future__ import annotations

import csv
import itertools
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study
from tetrace import analyze, load
from tetrace.study import results

WORK = ("works", "talks", "nan", "crowded")
FAIL = ("import", "build", "first", "later", "killed", "leaves")


@dataclass(frozen=True)
class Done:
    """A study that was run: where, what the command said, and what study.json says."""

    folder: Path
    study: Path
    command: subprocess.CompletedProcess[str]
    said: dict[str, Any]

    def __getitem__(self, name: str) -> dict[str, Any]:
        return small_study.configurations(self.said)[name]


@pytest.fixture(scope="module")
def done(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("run")
    study = small_study.write(folder)
    only = [word for name in (*WORK, *FAIL) for word in ("--only", name)]
    command = small_study.run(folder, "small", *only, XDG_CACHE_HOME=str(cache))
    assert command.returncode == 0, command.stderr
    return Done(folder, study, command, small_study.stored(study))


def test_what_works_is_measured(done: Done) -> None:
    assert {name: done[name]["state"] for name in WORK} == dict.fromkeys(WORK, "measured")
    assert all([each["steps"] for each in done[name]["rounds"]] == [3, 3, 3] for name in WORK)
    assert all(done[name]["tokens"] == 4 and done[name]["flops"] == 1024 for name in WORK)
    assert done["works"]["parameters"] == 8 * 8
    assert all(done["works"][figure] > 0 for figure in ("import_ns", "build_ns", "first_step_ns", "warmup_ns"))
    assert done["works"]["peak_allocated_bytes"] is None, "no GPU has measured it"
    assert done.said["ended"]


def test_rounds_are_interleaved_and_one_runs_at_a_time(done: Done) -> None:
    """All but the one that had to be alone were alive together."""
    order = ["works", "talks", "nan"]
    turns = small_study.turns(done.said, order)
    assert [(name, number) for name, number, _, _ in turns] == [
        *((name, 0) for name in order),
        *((name, 1) for name in reversed(order)),
        *((name, 2) for name in order),
    ]
    every = small_study.turns(done.said, WORK)
    assert all(ended <= began for (_, _, _, ended), (_, _, began, _) in itertools.pairwise(every))


def test_what_was_alive_together_is_known(done: Done) -> None:
    groups = {name: {each["group"] for each in done[name]["rounds"]} for name in WORK}
    assert all(len(each) == 1 for each in groups.values())
    assert groups["works"] == groups["talks"] == groups["nan"] != groups["crowded"]


def test_what_each_was_measured_with_is_known(done: Done) -> None:
    (context,) = {done[name]["context"] for name in (*WORK, *FAIL)}
    said = done.said["contexts"]
    assert list(said) == [context]
    assert said[context]["machine"]["cpu"] == done.said["machine"]["cpu"]
    assert said[context]["versions"]["torch"]
    assert said[context]["measure"] == {"device": "cpu", "warmup": 2, "steps": 3, "own_caches": True, "cpus": 1}


def test_options_and_environment_reach_the_worker(done: Done) -> None:
    assert done["works"]["facts"]["variable"] == "to the first"
    assert done["talks"]["facts"]["variable"] == ""
    caches = {done[name]["facts"]["cache"] for name in WORK}
    assert len(caches) == len(WORK), "each has one of its own"
    assert not any(Path(cache).exists() for cache in caches), "and none is left"
    assert done["works"]["facts"]["processors"] == "1", "from its second step on"
    assert done["works"]["options"] == {"does": "works", "hidden": 8, "pause": 0.0}


@pytest.mark.parametrize(
    ("name", "stage", "kind", "message"),
    [
        ("import", "import", "ImportError", "a package that is not there"),
        ("build", "build", "ValueError", "hidden does not fit\x1b[31m"),
        ("first", "first step", "RuntimeError", "no first step"),
        ("later", "measuring", "RuntimeError", "a later step"),
        ("killed", "measuring", "SIGKILL", "the process was ended by SIGKILL"),
        ("leaves", "measuring", "exit code 7", "the process ended by itself with exit code 7"),
    ],
)
def test_a_failure_is_a_row_with_its_error(done: Done, name: str, stage: str, kind: str, message: str) -> None:
    error = done[name]["error"]
    assert (done[name]["state"], error["stage"], error["type"]) == ("failed", stage, kind)
    assert error["message"].startswith(message)
    assert done[name]["expected"] is (name == "later")


def test_the_last_lines_of_a_failed_process_are_kept(done: Done) -> None:
    assert done["leaves"]["error"]["output"].splitlines() == ["last words"]
    assert done["build"]["error"]["output"].endswith("ValueError: hidden does not fit\x1b[31m")


def test_what_runs_out_of_memory_beside_others_is_tried_again_alone(done: Done) -> None:
    assert "crowded: ran out of memory beside others" in done.command.stderr
    others = small_study.turns(done.said, ["works", "talks", "nan"])
    alone = small_study.turns(done.said, ["crowded"])
    assert alone[0][2] > others[-1][3]


def test_what_is_killed_beside_others_is_tried_again_alone(done: Done) -> None:
    """As the kernel does where the machine runs out of memory."""
    assert "killed: ran out of memory beside others, or was killed; it is tried" in done.command.stderr


def test_what_a_workload_prints_is_its_own(done: Done) -> None:
    assert "printed to standard output" not in done.command.stdout + done.command.stderr
    assert "\x1b" not in done.command.stdout + done.command.stderr, "a message must not reach the terminal as it is"


def test_losses_of_every_step(done: Done) -> None:
    losses = done["works"]["losses"]
    # The first step, the warm-up, and three rounds with their lead-in.
    assert len(losses["by_step"]) == 1 + 2 + 3 * (2 + 3)
    assert losses["first"] == pytest.approx((8 * 0.01) ** 2)
    assert losses["by_step"] == sorted(losses["by_step"], reverse=True)
    assert losses["first_nonfinite_step"] is None


def test_a_loss_that_is_nan(done: Done) -> None:
    losses = done["nan"]["losses"]
    assert losses["first_nonfinite_step"] == 3
    assert losses["by_step"][3] == "nan"
    read = results.read(done.study / "results" / "cpu").configuration("nan")
    assert read is not None
    assert read.losses.by_step[3] != read.losses.by_step[3]


def test_steps_and_their_phases(done: Done) -> None:
    with (done.study / "results" / "cpu" / "steps.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0]) == ["configuration", "round", "step", "total_ns", "forward_ns", "backward_ns"]
    measured = [row for row in rows if row["configuration"] in WORK]
    assert len(measured) == len(WORK) * 3 * 3
    for row in measured:
        phases = int(row["forward_ns"]) + int(row["backward_ns"])
        assert 0 < phases <= int(row["total_ns"]), "a phase marked twice is the sum, and no more than the step"
    frame = results.read(done.study / "results" / "cpu").steps
    assert frame[frame.configuration == "works"].total_ns.min() > 0


def test_what_was_measured_is_recorded(done: Done) -> None:
    for name in ("works", "talks", "nan"):
        assert done[name]["recording"] == f"{name}.tetrace"
        assert done[name]["recording_error"] is None
    trace = load(done.study / "results" / "cpu" / "works.tetrace")
    facts = trace.metadata.facts
    assert facts["command"] == ["-m", "tetrace.study.worker"]
    # The first step and the warm-up are not recorded, and each step of the study is one of the recording.
    steps = analyze(trace).host_steps
    assert list(steps.step[steps.used.astype(bool)]) == list(range(3, 11)), steps


def test_what_failed_is_not_recorded(done: Done) -> None:
    assert not any(done[name]["recording"] for name in FAIL)
    assert not list((done.study / "results" / "cpu").glob("*.recording"))


def test_the_report_is_written_and_shown(done: Done) -> None:
    folder = done.study / "results" / "cpu"
    assert "Everything that may happen" in (folder / "REPORT.md").read_text()
    assert (folder / "report.html").stat().st_size > 1000
    assert "Everything that may happen" in done.command.stdout
    assert all(name in done.command.stdout for name in WORK)


def test_no_process_is_left(done: Done) -> None:
    assert small_study.alive(done.folder) == []


def test_one_that_hangs_is_ended_and_the_others_stay(done: Done, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    study = folder / "profiles" / "small"
    command = small_study.run(folder, "small", "--only", "hangs", "--limit", "8")
    assert command.returncode == 1, "nothing that was asked for is measured"
    said = small_study.stored(study)
    found = small_study.configurations(said)
    assert (found["hangs"]["state"], found["hangs"]["error"]["type"]) == ("timed out", "limit")
    assert "--limit" in found["hangs"]["error"]["message"]
    assert {name: found[name] for name in WORK} == {name: done[name] for name in WORK}
    assert small_study.alive(folder) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a process was started with")
def test_what_a_workload_starts_speaks_for_nobody_and_is_ended(done: Done, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    command = small_study.run(folder, "small", "--only", "children:*", "--repeat", "1", ALIVE=str(folder / "alive"))
    assert command.returncode == 0, command.stderr
    found = small_study.configurations(small_study.stored(folder / "profiles" / "small"))
    names = ("children:forks_and_exits", "children:forks_and_returns", "children:detaches")
    assert {name: found[name]["state"] for name in names} == dict.fromkeys(names, "measured")
    assert found[names[0]]["facts"]["child"] == "3", "it left as it wished"
    assert len(found[names[0]]["losses"]["by_step"]) == 1 + 2 + 2 + 3, "losses of the parent alone"
    assert small_study.alive(done.folder) == [], "those in a session of their own too"


def test_everything_measured_is_not_measured_again(done: Done) -> None:
    command = small_study.run(done.folder, "small", "--only", "works", "--only", "first")
    assert command.returncode == 0
    assert "first: failed in an earlier run" in command.stderr
    assert "everything is measured already" not in command.stderr, "one is not"
    assert small_study.run(done.folder, "small", "--only", "works").stderr.count("everything is measured already") == 1
    assert small_study.stored(done.study) == done.said


def test_without_a_gpu_stored_results_are_shown(done: Done, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(done.folder, folder)
    spec = folder / "profiles" / "small" / "study.toml"
    spec.write_text(spec.read_text().replace('device = "cpu"', 'device = "cuda"'))
    before = small_study.stored(spec.parent)
    command = small_study.run(folder, "small", CUDA_VISIBLE_DEVICES="")
    assert command.returncode == 0, command.stderr
    assert "works" in command.stdout
    assert "nothing was measured here (no GPU is visible)" in command.stderr
    assert small_study.stored(spec.parent) == before
