"""What of earlier results still counts, and what is to be measured or recorded."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study
from tetrace.study import results, spec
from tetrace.study.ledger import digests, key_of
from tetrace.study.machine import Machine, versions
from tetrace.study.recordings import options
from tetrace.study.results import Configuration, Error, Results, Round, Step
from tetrace.study.runner import Options, Run

SPEC = """
device = "cpu"
[options]
hidden = 4
[measure]
rounds = 2
limit_s = 10
[recording]
arguments = ["--fp8"]
[[matrix]]
axes.hidden = [4]
"""
RECORDED = ("--collector", "host", "--steps", "11:21", "--warmup", "11", "--fp8")


class Words:
    """What a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tick(self, _plan: object) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)


def run(folder: Path, stored: Configuration, options: Options | None = None, **measure: Any) -> tuple[Run, Words]:
    """A run in a folder where one of `limit_s` 10 left `stored`."""
    study = spec.read(folder / "profiles" / "small")
    rows = [Step("4", each.round, 0, 1) for each in stored.rounds]
    before = Results("small", "", "2026-01-01", "2026-01-02", measure={"limit_s": 10}, configurations=(stored,))
    results.write(folder / "results", before, rows)
    words = Words()
    changed = dataclasses.replace(study.measure, **measure)
    return Run(study, changed, Machine(), folder / "results", options or Options(), words), words


@pytest.fixture
def stored(tmp_path: Path) -> Configuration:
    """A configuration that was measured and recorded."""
    folder = small_study.write(tmp_path, SPEC)
    study = spec.read(folder)
    (planned,) = study.configurations
    key = key_of(planned, study.measure, "cpu", Machine().document(), versions())
    rounds = (Round(0, "", 1, 20), Round(1, "", 1, 20))
    recording = tmp_path / "results" / planned.file_name
    recording.mkdir(parents=True)
    (recording / "metadata.json").touch()
    return Configuration(
        "4",
        "main",
        key=key,
        code=digests(folder),
        state=results.MEASURED,
        rounds=rounds,
        recording=planned.file_name,
        recorded_as=RECORDED,
    )


def left(run: Run) -> tuple[list[str], list[str]]:
    """Configurations to measure, and to record of those that are measured."""
    return [each.name for each in run._to_measure()], [each.name for each in run._chosen if run._wants(each)]


def test_nothing_is_left(tmp_path: Path, stored: Configuration) -> None:
    again, _ = run(tmp_path, stored)
    assert options(again) == RECORDED
    assert left(again) == ([], [])
    assert again.execute().ended == "2026-01-02", "nothing was measured, so nothing is said to be"


def test_more_and_fewer_rounds(tmp_path: Path, stored: Configuration) -> None:
    more, _ = run(tmp_path, stored, rounds=5)
    assert left(more)[0] == ["4"]
    assert more.rounds_left(more.study.configurations[0]) == [2, 3, 4]
    fewer, _ = run(tmp_path, dataclasses.replace(stored, state=results.INTERRUPTED), rounds=1)
    assert left(fewer)[0] == []
    assert fewer.ledger["4"].state == results.MEASURED


@pytest.mark.parametrize(
    "change", [{"key": "other"}, {"code": {"model.py": "other"}}, {"code": {}}], ids=["options", "code", "unknown code"]
)
def test_what_ran_otherwise_starts_over(tmp_path: Path, stored: Configuration, change: dict[str, Any]) -> None:
    again, _ = run(tmp_path, dataclasses.replace(stored, **change))
    assert left(again)[0] == ["4"]
    assert again.ledger["4"].rounds == ()
    assert again.ledger["4"].recording is None
    assert not (tmp_path / "results" / "4.tetrace").exists()
    again.ledger.save()
    assert results.read_steps(tmp_path / "results") == []


def test_a_file_beside_the_model_counts_too(tmp_path: Path, stored: Configuration) -> None:
    beside = tmp_path / "profiles" / "recipes.py"
    beside.write_text("x = 1")
    code = digests(tmp_path / "profiles" / "small", ["../recipes.py"])
    same, _ = run(tmp_path, dataclasses.replace(stored, code=code))
    assert left(same)[0] == []
    beside.write_text("x = 2")
    other, _ = run(tmp_path, dataclasses.replace(stored, code=code))
    assert left(other)[0] == ["4"]


def test_fresh_starts_over(tmp_path: Path, stored: Configuration) -> None:
    assert left(run(tmp_path, stored, Options(fresh=True))[0])[0] == ["4"]


def test_what_failed_is_not_run_again(tmp_path: Path, stored: Configuration) -> None:
    failed = dataclasses.replace(stored, state=results.FAILED, rounds=(), error=Error("build", "ValueError", "no"))
    again, words = run(tmp_path, failed)
    assert left(again) == ([], [])
    assert words.lines == [
        "4: failed in an earlier run and would again; --fresh with --only NAME runs one again",
    ]


@pytest.mark.parametrize(("limit_s", "again"), [(10, []), (20, ["4"])])
def test_what_timed_out_is_run_again_with_more_time(
    tmp_path: Path, stored: Configuration, limit_s: float, again: list[str]
) -> None:
    late = dataclasses.replace(stored, state=results.TIMED_OUT, rounds=(), error=Error("build", "limit", "no"))
    assert left(run(tmp_path, late, limit_s=limit_s)[0])[0] == again


def test_a_recording_that_is_gone_or_made_otherwise_is_made_again(tmp_path: Path, stored: Configuration) -> None:
    assert left(run(tmp_path, dataclasses.replace(stored, recording="gone.tetrace"))[0]) == ([], ["4"])
    assert left(run(tmp_path, dataclasses.replace(stored, recording=None))[0]) == ([], ["4"])
    assert left(run(tmp_path, stored, Options(collector="nsys"))[0]) == ([], ["4"])


def test_steps_of_a_round_that_was_not_kept_are_dropped(tmp_path: Path, stored: Configuration) -> None:
    """As after a run that was killed between the two files."""
    run(tmp_path, stored)
    file = tmp_path / "results" / "steps.csv"
    file.write_text(file.read_text() + "4,2,0,1\nother,0,0,1\n")
    study = spec.read(tmp_path / "profiles" / "small")
    again = Run(study, study.measure, Machine(), tmp_path / "results", Options(), Words())
    again.ledger.save()
    assert {(step.configuration, step.round) for step in results.read_steps(tmp_path / "results")} == {
        ("4", 0),
        ("4", 1),
    }
