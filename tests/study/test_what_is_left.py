"""What of earlier results still counts, and what is to be measured or recorded."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from tests.study import small_study
from tetrace.errors import InputError, UsageError
from tetrace.study import results, spec
from tetrace.study.context import context_of, key_of
from tetrace.study.ledger import digests
from tetrace.study.machine import Machine, versions
from tetrace.study.recordings import options
from tetrace.study.results import Configuration, Error, Results, Round
from tetrace.study.runner import Options, Run
from tetrace.study.steps import Step, read_steps

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
    rows = [Step(stored.name, each.round, 0, 1) for each in stored.rounds]
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
    key = key_of(planned, context_of(Machine().document(), versions(), study.measure, "cpu", os.environ))
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
    assert more.rounds_left(more.study.configurations[0]) == 3
    fewer, _ = run(tmp_path, dataclasses.replace(stored, state=results.INTERRUPTED), rounds=1)
    assert left(fewer)[0] == []
    assert fewer.ledger["4"].state == results.MEASURED


@pytest.mark.parametrize(
    "change", [{"key": "other"}, {"code": {"model.py": "other"}}, {"code": {}}], ids=["options", "code", "unknown code"]
)
def test_what_ran_otherwise_starts_over(tmp_path: Path, stored: Configuration, change: dict[str, Any]) -> None:
    again, words = run(tmp_path, dataclasses.replace(stored, **change))
    assert left(again)[0] == ["4"]
    assert again.ledger["4"].rounds == ()
    assert again.ledger["4"].recording is None
    assert not (tmp_path / "results" / "4.tetrace").exists()
    (kept,) = (tmp_path / "results" / "earlier").glob("2*")
    assert (kept / "4.tetrace" / "metadata.json").is_file()
    assert [len(each.rounds) for each in results.read(kept).configurations] == [2]
    assert len(read_steps(kept)) == 2
    assert (kept.parent / ".gitignore").read_text() == "*\n"
    assert words.lines[1] == f"what was measured before is in {kept}"
    again.ledger.save()
    assert read_steps(tmp_path / "results") == []


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
    assert {(step.configuration, step.round) for step in read_steps(tmp_path / "results")} == {
        ("4", 0),
        ("4", 1),
    }


def test_it_is_said_what_changed(tmp_path: Path, stored: Configuration) -> None:
    again, words = run(tmp_path, dataclasses.replace(stored, key="other", context="old", options={"hidden": 2}))
    before = {**again.context.document, "versions": {"torch": "2.10"}, "environment": {"NVTE_X": "1"}}
    now = {**again.context.document, "versions": {"torch": "2.11"}, "environment": {}}
    again.ledger.head(contexts={"old": before})
    again.context = dataclasses.replace(again.context, document=now)
    assert left(again)[0] == ["4"]
    changes = "hidden 2 -> 4, torch 2.10 -> 2.11, NVTE_X 1 -> not there"
    assert words.lines[0] == f"{changes}: 4 is measured again"


@pytest.mark.parametrize(
    ("error", "tried"),
    [
        (Error("import", "ModuleNotFoundError", "No module named 'x'"), True),
        (Error("build", "ImportError", "no"), True),
        (Error("measuring", "SIGKILL", "was killed"), True),
        (Error("warm-up", "RuntimeError", "CUDA-capable device(s) is/are busy or unavailable"), True),
        (Error("warm-up", "RuntimeError", "no"), False),
    ],
    ids=["import", "import in build", "killed", "busy", "its own"],
)
@pytest.mark.parametrize("expected", [False, True])
def test_what_failed_for_its_surroundings_is_tried_again(
    tmp_path: Path, stored: Configuration, error: Error, tried: bool, expected: bool
) -> None:
    failed = dataclasses.replace(
        stored, state=results.FAILED, rounds=(), recording=None, error=error, expected=expected
    )
    again, words = run(tmp_path, failed)
    assert left(again)[0] == (["4"] if tried and not expected else [])
    said = "measured again" if tried and not expected else "failed in an earlier run and would again"
    assert len(words.lines) == 1
    assert said in words.lines[0]
    assert not (tmp_path / "results" / "earlier").exists(), "nothing was measured"


def test_what_the_study_has_no_more_stays_until_all_is_fresh(tmp_path: Path, stored: Configuration) -> None:
    old = dataclasses.replace(stored, name="8", recording=None)
    kept, _ = run(tmp_path, old)
    assert left(kept)[0] == ["4"]
    kept.ledger.save()
    assert [each.name for each in results.read(tmp_path / "results").configurations] == ["4", "8"]
    assert {step.configuration for step in read_steps(tmp_path / "results")} == {"8"}
    fresh, words = run(tmp_path, old, Options(fresh=True))
    left(fresh)
    assert words.lines[0] == "the study has it no more: 8 is left out"
    assert [each.name for each in fresh.ledger.results.configurations] == ["4"]


def test_what_nobody_asked_for_is_as_it_is_planned_now(tmp_path: Path) -> None:
    small_study.write(tmp_path, SPEC)
    again, _ = run(tmp_path, Configuration("4", "main", options={"hidden": 2}))
    assert again.ledger["4"].options == {"hidden": 4}


def test_results_of_another_study_are_left_alone(tmp_path: Path, stored: Configuration) -> None:
    again, _ = run(tmp_path, stored)
    study = dataclasses.replace(again.study, name="other")
    before = (tmp_path / "results" / "study.json").read_bytes()
    for fresh in (False, True):
        with pytest.raises(UsageError, match="holds results of the study small, not of other; name another"):
            Run(study, study.measure, Machine(), tmp_path / "results", Options(fresh=fresh), Words())
    assert (tmp_path / "results" / "study.json").read_bytes() == before


def test_results_that_cannot_be_read_are_put_away_to_measure_afresh(tmp_path: Path, stored: Configuration) -> None:
    again, _ = run(tmp_path, stored)
    file = tmp_path / "results" / "study.json"
    file.write_text('{"version": 0}')
    with pytest.raises(InputError, match=r"is of version 0, .*; measure again with --fresh"):
        Run(again.study, again.measure, Machine(), tmp_path / "results", Options(), Words())
    words = Words()
    fresh = Run(again.study, again.measure, Machine(), tmp_path / "results", Options(fresh=True), words)
    assert left(fresh)[0] == ["4"]
    (kept,) = (tmp_path / "results" / "earlier").glob("2*")
    assert words.lines == [f"what was there could not be read; it is in {kept}"]
    assert (kept / "study.json").read_text() == '{"version": 0}'
    assert (kept / "4.tetrace").is_dir()
    assert not file.exists()


def test_other_processes_on_the_gpu_are_said(tmp_path: Path, stored: Configuration) -> None:
    again, words = run(tmp_path, stored, rounds=3)
    again.machine = dataclasses.replace(again.machine, others=(17, 18))
    again.start = lambda *_arguments: pytest.fail("far enough")  # type: ignore[method-assign]
    with pytest.raises(pytest.fail.Exception):
        again.execute()
    assert words.lines[0].startswith("others use the GPU meanwhile (process 17, 18)")


def test_versions_are_those_of_this_run(tmp_path: Path, stored: Configuration) -> None:
    """But for those that only a process with torch can tell."""
    again, _ = run(tmp_path, stored)
    again.ledger.head(versions={"flash_attn": "2.0", "torch": "1.0", "cudnn": "91000"})
    again.ledger.begin(again._head(), again.context)
    assert again.ledger.results.versions == {**versions(), "cudnn": "91000"}
