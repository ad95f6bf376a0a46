"""The window of steps, and the name and kind of a command."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from tetrace.errors import UsageError
from tetrace.record.command import command
from tetrace.record.options import Inspected, Options, Window, inspected, window


@pytest.mark.parametrize(
    ("steps", "seconds", "expected"),
    [
        (None, None, Window(0, 25)),
        ("10:20", None, Window(10, 20)),
        ("10:", None, Window(10)),
        (":20", None, Window(0, 20)),
        ("7", None, Window(7, 8)),
        ("all", None, Window()),
        (None, 2.5, Window(seconds=2.5)),
    ],
)
def test_windows(steps: str | None, seconds: float | None, expected: Window) -> None:
    assert window(steps, seconds, warmup=5) == expected


@pytest.mark.parametrize(
    ("steps", "seconds", "says"),
    [
        ("20:10", None, "--steps 20:10 holds no step"),
        ("5:5", None, "holds no step"),
        (":", None, "--steps : is no window; give 10:20 (steps 10 to 19)"),
        ("-1:3", None, "is no window"),
        ("steady", None, "--steps steady is no window"),
        ("1:2", 3.0, "--steps 1:2 and --seconds 3 exclude each other"),
        (None, 0.0, "--seconds 0 is no length of time"),
        (None, float("nan"), "--seconds nan is no length of time"),
    ],
)
def test_what_is_no_window(steps: str | None, seconds: float | None, says: str) -> None:
    with pytest.raises(UsageError) as error:
        window(steps, seconds, warmup=5)
    assert says in str(error.value)


def test_what_the_recorded_processes_are_told() -> None:
    assert Options(window=Window(10, 20), ranges="coarse").document("nsys", "nvtx") == {
        "collector": "nsys",
        "ranges": "coarse",
        "first_step": 10,
        "last_step": 20,
        "seconds": None,
        "warmup": 5,
        "capture": "nvtx",
    }


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "run.sh").write_text("")
    for name in ("torchrun", "accelerate"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "run", "name"),
    [
        ("train.py --lr 1", f"{sys.executable} train.py --lr 1", "train"),
        ("./train.py -m x", f"{sys.executable} ./train.py -m x", "train"),
        ("-m pkg.train --x", f"{sys.executable} -m pkg.train --x", "train"),
        ("torchrun --nproc-per-node 8 train.py a.b", "torchrun --nproc-per-node 8 train.py a.b", "train"),
        ("torchrun -m pkg.main", "torchrun -m pkg.main", "main"),
        ("accelerate launch sub/finetune.py", "accelerate launch sub/finetune.py", "finetune"),
        ("bash run.sh", "bash run.sh", "run"),
        ("./torchrun", "./torchrun", "torchrun"),
    ],
)
def test_commands(scripts: Path, typed: str, run: str, name: str) -> None:
    found = command(typed.split())
    assert (" ".join(found.typed), " ".join(found.run), found.name) == (typed, run, name)


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("gone.py", "gone.py: no such script; paths are relative to /"),
        ("no-such-command x", "no-such-command: no such script here, and no such command on PATH"),
        ("./run.sh", "./run.sh: is not executable; name what runs it (bash ./run.sh)"),
        ("-m", "-m names no module"),
    ],
)
def test_what_cannot_be_run(scripts: Path, typed: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        command(typed.split())
    assert says in str(error.value)


def test_fp8_reaches_the_recorded_processes():
    options = Options(fp8=inspected(True, 10, r"layers\.3", False, True, 5, 8))
    wanted = {"every": 10, "modules": r"layers\.3", "histogram": False, "blocks": True, "recompute": 5, "rows": 8}
    assert json.loads(options.variable("host", "none"))["fp8"] == wanted
    assert inspected(True, None, None, None, False) == Inspected()
    assert "fp8" not in Options().document("host", "none")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((False, 3, None, None, False), "--fp8-every says how --fp8 inspects; give --fp8 too"),
        ((False, None, "x", None, False), "--fp8-modules"),
        ((False, None, None, False, False), "--fp8-histogram"),
        ((False, None, None, None, True), "--fp8-blocks"),
        ((False, None, None, None, False, 10), "--fp8-recompute"),
        ((True, None, "(", None, False), "'(' is no regular expression"),
    ],
    ids=str,
)
def test_fp8_options_that_make_no_sense(given, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        inspected(*given)
