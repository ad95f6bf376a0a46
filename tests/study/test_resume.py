"""A study that is stopped goes on; what changed is measured again, and nothing else."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study

NAMES = ("slow:4", "slow:8")
COMMAND = ("small", "--only", "slow:*")


def rounds(said: dict[str, Any], name: str) -> dict[int, int]:
    """When each round of a configuration began."""
    return {each["round"]: each["began_ns"] for each in small_study.configurations(said)[name]["rounds"]}


def stop_when(is_time: Callable[[], bool], folder: Path, arguments: Sequence[str], number: int) -> tuple[int, str]:
    """Run the study and send it a signal once it is time; returns its exit code and words."""
    process = subprocess.Popen(
        [*small_study.TETRACE, *arguments],
        cwd=folder,
        env=small_study.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not is_time():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(number)
    _, words = process.communicate(timeout=60)
    return process.returncode, words


def stop_in_the_middle(folder: Path, study: Path, number: int) -> tuple[int, str]:
    """Stop it once each configuration has a round."""
    file = study / "results" / "cpu" / "study.json"

    def have_rounds() -> bool:
        return file.exists() and all(rounds(small_study.stored(study), name) for name in NAMES)

    return stop_when(have_rounds, folder, [*COMMAND, "--repeat", "8"], number)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, int, str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("stopped")
    study = small_study.write(folder)
    code, words = stop_in_the_middle(folder, study, signal.SIGINT)
    return folder, study, code, words, small_study.stored(study)


def test_what_was_measured_stays(stopped: tuple[Path, Path, int, str, dict[str, Any]]) -> None:
    folder, _, code, words, said = stopped
    assert code == 130
    assert "the same command goes on from there" in words
    assert "Traceback" not in words
    assert said["ended"] is None
    for name in NAMES:
        assert small_study.configurations(said)[name]["state"] == "interrupted"
        assert 1 <= len(rounds(said, name)) < 8
    assert small_study.alive(folder) == []


def test_it_goes_on_and_what_changed_is_measured_again(stopped: tuple[Path, Path, int, str, dict[str, Any]]) -> None:
    folder, study, _, _, before = stopped
    command = small_study.run(folder, *COMMAND, "--repeat", "8")
    assert command.returncode == 0, command.stderr
    whole = small_study.stored(study)
    for name in NAMES:
        assert small_study.configurations(whole)[name]["state"] == "measured"
        assert len(rounds(whole, name)) == 8
        attempts = small_study.configurations(whole)[name]["attempts"]
        assert len(attempts) == 2, "a process each"
        assert attempts[1]["losses"] == small_study.configurations(whole)[name]["losses"]["by_step"]
        assert attempts[0]["losses"][:5] == attempts[1]["losses"][:5], "each from its first step on"
        kept = rounds(before, name)
        assert {number: rounds(whole, name)[number] for number in kept} == kept, "measured twice"
    table = (study / "results" / "cpu" / "steps.csv").read_text().splitlines()[1:]
    keys = [tuple(line.split(",")[:3]) for line in table]
    assert len(keys) == len(set(keys)) == 2 * 8 * 3

    # Another model.py: only what is asked for is measured again, and nothing of the old one is left of it.
    model = study / "model.py"
    model.write_text(model.read_text() + "\n# changed\n")
    assert small_study.run(folder, "small", "--only", NAMES[0], "--repeat", "2").returncode == 0
    changed = small_study.stored(study)
    assert list(rounds(changed, NAMES[0])) == [0, 1]
    assert not set(rounds(changed, NAMES[0]).values()) & set(rounds(whole, NAMES[0]).values())
    assert rounds(changed, NAMES[1]) == rounds(whole, NAMES[1])

    # --fresh starts over, though nothing changed; more rounds do not.
    assert small_study.run(folder, "small", "--only", NAMES[0], "--repeat", "1", "--fresh").returncode == 0
    fresh = rounds(small_study.stored(study), NAMES[0])
    assert list(fresh) == [0]
    assert fresh[0] not in rounds(changed, NAMES[0]).values()


def test_quick_and_options_have_results_of_their_own(stopped: tuple[Path, Path, int, str, dict[str, Any]]) -> None:
    folder, study, *_ = stopped
    before = small_study.stored(study)
    hostile = "[bold]\x1b[31m<script>'\";$(touch gone)"
    command = small_study.run(
        folder,
        "small",
        "--quick",
        "--only",
        "slow:4",
        "--option",
        f"does={hostile}",
        "--option",
        "pause=0",
        "--limit",
        "60",
    )
    assert command.returncode == 0, command.stderr
    assert small_study.stored(study) == before
    (machine,) = [each.name for each in (study / "results").iterdir() if each.name.startswith("cpu-quick-")]
    said = small_study.stored(study, machine)
    assert said["options_changed"] == {"does": hostile, "pause": 0}
    found = small_study.configurations(said)
    assert (found["slow:4"]["state"], len(found["slow:4"]["rounds"])) == ("measured", 1)
    assert found["slow:4"]["options"] == {"does": hostile, "hidden": 4, "pause": 0}
    assert found["works"]["state"] == "waiting"
    assert found["works"]["options"]["does"] == "works", "an axis sets it"
    assert "\x1b" not in command.stdout + command.stderr
    assert not list(folder.rglob("gone"))


def test_a_request_to_end_is_like_ctrl_c(tmp_path: Path) -> None:
    study = small_study.write(tmp_path)
    code, _ = stop_in_the_middle(tmp_path, study, signal.SIGTERM)
    assert code == 130
    assert small_study.configurations(small_study.stored(study))[NAMES[0]]["state"] == "interrupted"
    assert small_study.alive(tmp_path) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells which processes run")
def test_what_was_recorded_when_the_study_stopped_is_saved(tmp_path: Path) -> None:
    study = small_study.write(tmp_path)
    arguments = ["small", "--only", "works", "--only", "talks", "--repeat", "1", "--option", "pause=0.4"]
    # More steps than it is measured in: the other one has been recorded by then.
    code, words = stop_when((study / "talked").exists, tmp_path, arguments, signal.SIGINT)
    assert code == 130, words
    (machine,) = [each.name for each in (study / "results").iterdir() if each.is_dir()]
    found = small_study.configurations(small_study.stored(study, machine))
    assert found["works"]["recording"] == "works.tetrace"
    assert found["talks"]["recording"] is None
    assert "works: recorded" in words
    assert small_study.alive(tmp_path) == []
    assert not list((study / "results").rglob("*.recording"))
