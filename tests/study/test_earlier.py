"""What was measured is never lost to a run that measures it again, nor to one of another study."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.study import small_study


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where one configuration was measured and recorded, and two were only measured."""
    folder = tmp_path_factory.mktemp("earlier")
    study = small_study.write(folder)
    with (study / "study.toml").open("a") as spec:
        spec.write('[[claim]]\nsays = "It works"\nfigure = "state"\nof = "works"\nequals = "measured"\n')
    only = ("--only", "works", "--only", "slow:*")
    assert small_study.run(folder, "small", *only, "--repeat", "2").returncode == 0
    assert "1 claim holds" in (study / "results" / "cpu" / "REPORT.md").read_text()
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(measured, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("arguments", "more", "reason"),
    [
        ((), {"NVTE_MADE_UP": "1"}, "NVTE_MADE_UP not there -> 1: works is measured again"),
        (("--fresh",), {}, "--fresh: works is measured again"),
    ],
    ids=["environment", "fresh"],
)
def test_a_run_that_is_stopped_loses_nothing(
    folder: Path, arguments: tuple[str, ...], more: dict[str, str], reason: str
) -> None:
    results = folder / "profiles" / "small" / "results" / "cpu"
    before, steps = small_study.stored(folder / "profiles" / "small"), (results / "steps.csv").read_text()
    process = subprocess.Popen(
        [*small_study.TETRACE, "small", "--only", "works", *arguments],
        cwd=folder,
        env=small_study.environ(**more),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    until = time.monotonic() + 60
    while not (found := list((results / "earlier").glob("2*/study.json"))) or "waiting" not in _state(folder):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert reason in words
    kept = found[0].parent
    assert f"what was measured before is in {kept.relative_to(folder)}" in words
    assert small_study.json.loads((kept / "study.json").read_text()) == before
    assert (kept / "steps.csv").read_text() == steps
    assert (kept / "works.tetrace" / "metadata.json").is_file()
    assert "1 claim holds" in (kept / "REPORT.md").read_text()
    assert {"report.html", "report.json", "claims.csv", "effects.csv"} <= {file.name for file in kept.iterdir()}
    assert "1 claim holds" not in (results / "REPORT.md").read_text(), "the report is of what is there now"
    slow = small_study.configurations(before)["slow:4"]
    assert small_study.configurations(small_study.stored(folder / "profiles" / "small"))["slow:4"] == slow


def _state(folder: Path) -> str:
    said = small_study.stored(folder / "profiles" / "small")
    return str(small_study.configurations(said)["works"]["state"])


def test_another_study_does_not_write_or_read_it(folder: Path) -> None:
    other = folder / "profiles" / "other"
    shutil.copytree(folder / "profiles" / "small", other, ignore=shutil.ignore_patterns("results"))
    results = folder / "profiles" / "small" / "results" / "cpu"
    before = {file.name: file.read_bytes() for file in results.iterdir() if file.is_file()}
    for arguments in (
        ("--output", str(results)),
        ("--output", str(results), "--fresh"),
        ("--output", str(results), "--report-only"),
        ("--against", str(results)),
    ):
        command = small_study.run(folder, "other", "--only", "works", *arguments)
        assert command.returncode == 2, arguments
        assert "holds results of the study small, not of other; name another" in command.stderr
        assert "Traceback" not in command.stderr
    assert {file.name: file.read_bytes() for file in results.iterdir() if file.is_file()} == before


def test_results_that_cannot_be_read_are_named(folder: Path) -> None:
    file = folder / "profiles" / "small" / "results" / "cpu" / "study.json"
    file.write_text('{"version": 0}')
    said = "cpu/study.json: is of version 0, this tetrace reads 1; measure again with --fresh"
    listed = small_study.run(folder)
    assert listed.returncode == 0
    assert said in listed.stderr
    shown = small_study.run(folder, "small", "--report-only")
    assert shown.returncode == 2
    assert said in shown.stderr
    assert "GPU" not in shown.stderr, "that is not why"
    assert "small: nothing is stored that can be read, and nothing is measured here: --report-only" in shown.stderr
    fresh = small_study.run(folder, "small", "--only", "slow:4", "--repeat", "1", "--fresh", "--no-recordings")
    assert fresh.returncode == 0, fresh.stderr
    assert "what was there could not be read; it is in profiles/small/results/cpu/earlier/2" in fresh.stderr
    assert _state(folder) == "waiting"


def test_a_report_of_quick_or_changed_results_is_written_beside_them(folder: Path) -> None:
    whole = folder / "profiles" / "small" / "results" / "cpu"
    quick = whole.with_name("cpu-quick")
    shutil.copytree(whole, quick)
    said = (quick / "study.json").read_text()
    (quick / "study.json").write_text(said.replace('"quick": false', '"quick": true'))
    for results in (whole, quick):
        (results / "REPORT.md").write_text("old")
    assert small_study.run(folder, "small", "--report-only", "--quick").returncode == 0
    assert (whole / "REPORT.md").read_text() == "old"
    assert (quick / "REPORT.md").read_text() != "old"
    command = small_study.run(folder, "small", "--report-only", "--option", "pause=1")
    assert command.returncode == 2
    assert "nothing is stored of these options" in command.stderr
    assert (whole / "REPORT.md").read_text() == "old"
