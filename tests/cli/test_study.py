"""`tetrace study` as a command: what it lists, starts, and refuses. tests/study runs it."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from tests.study import made, small_study
from tetrace.cli.main import main
from tetrace.cli.study import study as command
from tetrace.study import machine as machines
from tetrace.study import shipped


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return small_study.write(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["study", *arguments])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_studies_are_listed(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys)
    assert code == 0
    assert any(line.split()[:2] == ["small", "Everything"] for line in out.splitlines())
    (study / "study.toml").write_text("titel = 1")
    code, out, _ = call(capsys)
    assert code == 0
    assert any(line.split()[:2] == ["small", "profiles/small/study.toml:"] for line in out.splitlines()), (
        "what is wrong"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("smal",), "smal: is no study and no folder; did you mean small?"),
        (("small", "--only", "work"), "work: fits no configuration of small; did you mean works?"),
        (("small", "--option", "hiden=4"), "--option hiden: small has no such option; did you mean hidden?"),
        (("small", "--option", "hidden"), "--option hidden: has no value; write KEY=VALUE"),
        (("small", "--option", "hidden=abc"), "--option hidden=abc: is not a number, as small has it (hidden = 8)"),
        (("small", "--option", "pause=true"), "--option pause=true: is not a number, as small has it (pause = 0.0)"),
        (("small", "--option", "hidden=nan"), "--option hidden=nan: is not a number, as small has it (hidden = 8)"),
        (("--only", "x y"), "--only needs a NAME: tetrace study NAME --only 'x y'"),
        (("--quick",), "--quick needs a NAME: tetrace study NAME --quick"),
        (("--repeat", "2", "--limit", "5"), "--repeat, --limit need a NAME: tetrace study NAME --repeat 2 --limit 5"),
        (("--option", "a=1", "--option", "b=2"), "--option needs a NAME: tetrace study NAME --option a=1 --option b=2"),
        (("--new", "other", "--quick"), "--quick means nothing beside --new other; leave it out"),
        (("small", "--limit", "0"), "'--limit'"),
        (("small", "--repeat", "0"), "'--repeat'"),
        (("small", "--collector", "nvprof"), "'--collector'"),
        (("small", "--report-only"), "nothing is stored"),
        (("small", "--output", "gone/out"), "gone/out: its folder gone does not exist; make it, or choose another"),
        (("small", "--output", "profiles/small/model.py/out"), "its folder profiles/small/model.py is no folder"),
        (("small", "--new", "other"), "--new other starts a study and small names one; leave one out"),
        (("--new", "../other"), "--new '../other': cannot be a folder's name"),
        (("--new", "small"), "profiles/small: exists; choose another name, or run it: tetrace study small"),
    ],
)
def test_each_mistake_is_one_line(
    study: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, out, err = call(capsys, *arguments)
    assert code == 2
    assert said in err
    assert len(err.splitlines()) == 1
    assert not out
    assert not (study / "results").exists()


def test_every_option_needs_a_study_but_those_of_the_list(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {
        **dict.fromkeys(("--quick", "--fresh", "--no-recordings", "--report-only")),
        "--only": "x", "--repeat": "2", "--option": "a=1", "--collector": "cupti", "--together": "2", "--limit": "1",
        "--output": "x", "--against": ".",
    }  # fmt: skip
    assert {one.opts[0] for one in command.params if one.name not in ("study", "wide", "new", "help")} == set(given)
    for option, value in given.items():
        words = (option, value) if value else (option,)
        code, _, err = call(capsys, *words)
        assert (code, err) == (2, f"tetrace: {option} needs a NAME: tetrace study NAME {' '.join(words)}\n")
    assert call(capsys, "--wide")[0] == 0


def test_help_says_whose_numbers_hold_and_what_is_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    """A study sets its rounds and processes itself, and need not record or explain all of its configurations."""
    text = " ".join(call(capsys, "--help")[1].split())
    assert text.count("[default: the study's own, else 8]") == 2
    assert "records those that the study names, and takes apart the speed-ups that recordings can explain" in text
    assert "every difference" not in text


def test_a_mistake_in_the_file_is_one_line(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (study / "study.toml").write_text((study / "study.toml").read_text().replace("warmup", "warm_up"))
    code, _, err = call(capsys, "small")
    assert code == 2
    assert err == "tetrace: profiles/small/study.toml: 'warm_up' in [measure] is not known; did you mean warmup?\n"


def test_without_a_gpu_and_without_results(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "study.toml").write_text((study / "study.toml").read_text().replace('"cpu"', '"cuda"'))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    code, _, err = call(capsys, "small")
    assert code == 2
    assert "no GPU is visible; run it on a machine with a GPU" in err


def test_two_runs_do_not_write_one_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study / "results" / "cpu"
    folder.mkdir(parents=True)
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        code, _, err = call(capsys, "small", "--only", "works")
    finally:
        os.close(handle)
    assert code == 2
    assert "another tetrace study writes it" in err


def test_a_study_of_ones_own(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "--new", "mine")[0] == 0
    files = {file.name: file.read_text() for file in (study.parent / "mine").iterdir()}
    assert sorted(files) == ["model.py", "study.toml"]
    assert 'title = "mine"' in files["study.toml"]
    assert any(line.split()[0] == "mine" for line in call(capsys)[1].splitlines())


class Words:
    """What a run says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tick(self, _plan: object) -> None:
        """Nothing."""

    def say(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)


def test_peaks_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they cannot be, the study goes on and says so."""
    from tetrace.cli.study import _calibrate
    from tetrace.record import calibration
    from tetrace.study.machine import Machine

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = Words()
    _calibrate(Machine("NVIDIA Test", 1, "580"), said)
    assert said.lines[0] == "measuring the GPU's peaks first, for half a minute"
    assert said.lines[1].startswith(
        "shares of the peak are left out: the GPU could not be measured (tetrace: --calibrate"
    )
    kept = {"format": calibration.FORMAT, "device": "NVIDIA Test"}
    now = datetime.now(timezone.utc)
    # What an earlier start of the machine reached says nothing of this one.
    for at, machine, lines in (
        (now, Machine("NVIDIA Test", 1, "580"), 0),
        (now, Machine(), 0),
        (now - timedelta(days=3650), Machine("NVIDIA Test", 1, "580"), 2),
    ):
        calibration.save({**kept, "measured_at": at.isoformat()})
        said = Words()
        _calibrate(machine, said)
        assert len(said.lines) == lines


@pytest.mark.parametrize(
    "arguments", [("--report-only", "--output"), ("--output",), ("--report-only", "--against"), ("--against",)]
)
def test_a_folder_without_results_is_told_what_it_must_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Measuring again is no way out: nothing is measured here, or not into this folder."""
    monkeypatch.setattr(machines, "find", lambda *_: None)
    code, out, err = call(capsys, "attention", *arguments, str(tmp_path))
    assert (code, out) == (2, "")
    assert err == (
        f"tetrace: {tmp_path / 'study.json'}: cannot be read (No such file or directory); name a folder that holds study.json "
        "and steps.csv, as a run of attention writes them\n"
    )


def test_results_that_tetrace_brings_are_not_written_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shown from anywhere, and a report of a copy says less where the copy has no times of steps."""
    monkeypatch.chdir(tmp_path)
    brought = shipped.folder() / "attention/results/h200"
    before = {file.name: file.stat().st_mtime_ns for file in brought.iterdir()}
    code, _, err = call(capsys, "attention", "--report-only")
    assert code == 2
    assert err.endswith(f"write the report of a copy: cp -r {brought} mine, and --output mine\n")
    assert call(capsys, "attention", "--report-only", "--against", f"{brought}-2026-11-23")[0] == 2
    copy = tmp_path / "mine"
    copy.mkdir()
    shutil.copy(brought / "study.json", copy)
    code, _, err = call(capsys, "attention", "--report-only", "--output", str(copy))
    assert code == 2
    assert err.startswith(
        f"tetrace: {copy}: has no steps.csv, without which a report says less than the one that is there"
    )
    shutil.copy(brought / "steps.csv", copy)
    assert call(capsys, "attention", "--report-only", "--output", str(copy))[0] == 0
    assert (copy / "REPORT.md").is_file()
    assert {file.name: file.stat().st_mtime_ns for file in brought.iterdir()} == before


def two_runs(folder: Path) -> tuple[str, str, str]:
    """A study and two folders of its results."""
    of = made.study(folder / "profiles/two", 'title = "t"\n[[matrix]]\nname = "main"\naxes.way = ["a", "b"]\n')
    for name, ms in (("here", 1.0), ("there", 2.0)):
        (folder / name).mkdir()
        made.Made(of).measured("a", total=[ms] * 8).measured("b", total=[ms / 2] * 8).write(folder / name)
    return "two", str(folder / "here"), str(folder / "there")


def test_a_comparison_without_a_gpu_changes_no_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machines, "find", lambda *_: None)
    study, here, there = two_runs(tmp_path)
    assert call(capsys, study, "--report-only", "--output", here)[0] == 0
    before = {file.name: file.read_bytes() for file in Path(here).iterdir()}
    code, out, err = call(capsys, study, "--output", here, "--against", there)
    assert code == 0
    assert "Against another run of it, there: main:" in out
    assert err == (
        f"tetrace: nothing was measured here (no GPU is visible); these are the stored results of {here} beside those of "
        f"{there}; --report-only writes that into its report\n"
    )
    assert {file.name: file.read_bytes() for file in Path(here).iterdir()} == before
    assert call(capsys, study, "--report-only", "--output", here, "--against", there)[0] == 0
    assert "Against another run of it" in (Path(here) / "REPORT.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("more", [(), ("--report-only",)])
def test_a_run_is_not_compared_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machines, "find", lambda *_: None)
    study, here, _ = two_runs(tmp_path)
    code, out, err = call(capsys, study, *more, "--output", here, "--against", "here")
    assert (code, out) == (2, "")
    assert err == (
        "tetrace: --against here: these are the results that would be compared with it; name those of another run\n"
    )


def on_a_terminal(*arguments: str) -> str:
    """What `tetrace study` writes on a terminal of 100 columns."""
    end, other = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 100, 0, 0))
    command = [sys.executable, "-m", "tetrace", "study", *arguments]
    env = {key: value for key, value in os.environ.items() if key != "COLUMNS"} | {"NO_COLOR": "1"}
    with subprocess.Popen(command, stdout=other, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(other)
        said = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while piece := os.read(end, 65536):
                said += piece
        os.close(end)
    assert process.returncode == 0
    return said.decode()


def test_claims_are_whole_and_on_one_line_where_wide_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    brought = shipped.folder() / "attention/results/h200"
    with (brought / "claims.csv").open(encoding="utf-8") as file:
        longest = max((row["claim"] for row in list(csv.DictReader(file))[:6]), key=len)
    shown = on_a_terminal("attention")
    assert longest not in shown
    head, _, claims = shown.partition("Claims of the note")
    assert head
    assert claims
    assert "…" not in claims
    assert set(longest.split()) <= set(claims.split())
    assert longest not in call(capsys, "attention")[1], (
        "a pipe gets what a terminal of 100 columns does, as from report"
    )
    for said in (on_a_terminal("attention", "--wide"), call(capsys, "attention", "--wide")[1]):
        assert longest in said
        assert "…" not in said[said.index("Claims of the note") :]
        sentences = said[: said.index("main: ms a step")].splitlines()
        assert max(map(len, sentences)) <= 100
