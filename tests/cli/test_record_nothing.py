"""What `tetrace record` says and leaves of scripts in which there was nothing to record, or no step to tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tetrace.record import session

NO_STEPS = """
import torch
model = torch.nn.Linear(8, 8)
for _ in range(3):
    model(torch.randn(4, 8))
    {}
"""
HINT = (
    "tetrace: the whole run is one step: no optimizer drove a loop; call tetrace.step() where a step of the script ends"
)


def record(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """`tetrace record` of a script `train.py` of this source."""
    (folder / "train.py").write_text(source)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TETRACE", "NSYS", "PYTHONPATH"))
    }
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "host", "train.py"]
    environ["XDG_CACHE_HOME"] = str(folder / "cache")
    environ["CXX"] = "/nonexistent"  # hooks do as well here, and need no compiler
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("source", "how"),
    [
        ("import no_such_package, torch", "exit code 1"),
        ("def (", "exit code 1"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
def test_a_script_that_failed_early(tmp_path: Path, source: str, how: str) -> None:
    done = record(tmp_path, source)
    assert done.returncode == (137 if how == "SIGKILL" else 1)
    said = f"the script failed ({how}) before it imported torch, as far as could be seen"
    assert done.stderr.splitlines()[-1] == f"tetrace: nothing was recorded: {said}"
    assert not (tmp_path / "train.tetrace.recording").exists()


def test_a_script_without_torch_leaves_no_folder(tmp_path: Path) -> None:
    done = record(tmp_path, "print('fine')")
    assert (done.returncode, done.stdout) == (2, "fine\n")
    assert "nothing was recorded: no Python process was instrumented" in done.stderr
    assert not (tmp_path / "train.tetrace.recording").exists()


@pytest.mark.parametrize(
    ("statement", "hinted"), [("pass", True), ("import tetrace; tetrace.step()", False), ("raise SystemExit(1)", False)]
)
def test_a_run_of_one_step_has_a_hint(tmp_path: Path, statement: str, hinted: bool) -> None:
    pytest.importorskip("torch")
    done = record(tmp_path, NO_STEPS.format(statement))
    assert "tetrace: saved train.tetrace" in done.stderr.splitlines()
    assert (HINT in done.stderr.splitlines()) == hinted, done.stderr


def test_what_is_left_is_named_once(tmp_path: Path) -> None:
    folder = tmp_path / "run.tetrace.recording"
    (folder / "process-7").mkdir(parents=True)
    kept = f"no report; {folder} is kept: tetrace report reads what is in it, or remove it"
    assert session._left(folder, "no report") == kept
    named = f"nsys left no report; its words are in {folder / 'nsys.log'}"
    assert session._left(folder, named) == named
    assert folder.exists()
    (folder / "process-7").rmdir()
    assert session._left(folder, "no report") == "no report"
    assert not folder.exists()


def test_a_script_that_failed_is_told_before_what_the_collector_lacks() -> None:
    failed = session.Ended(1, 1, None, 0)
    early = "the script failed (exit code 1) before it imported torch, as far as could be seen"
    assert session._not_instrumented(failed) == early
    assert session._nothing(failed, "", early) == f"nothing was recorded: {early}"
    assert session._nothing(failed, "no right to record", early) == f"nothing was recorded: {early}; no right to record"
    assert session._nothing(session.Ended(0, 0, None, 0), "no right to record", "x").endswith(
        "recorded: no right to record"
    )
