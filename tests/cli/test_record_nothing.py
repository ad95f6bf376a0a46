"""What `tetrace record` says and leaves of scripts in which there was nothing to record, or no step to tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tetrace.record import session, uninstrumented

NO_STEPS = """
import torch
model = torch.nn.Linear(8, 8)
for _ in range(3):
    model(torch.randn(4, 8))
    {}
"""
# In the report's notices where a loop was seen, else as tetrace's last words.
HINT = "the whole run is one step: no optimizer drove a loop; "
NOTICE, LAST_WORDS = f"! {HINT}tetrace.step() in the script ends one", f"tetrace: {HINT}call tetrace.step() where"


def record(folder: Path, source: str) -> subprocess.CompletedProcess[str]:
    """`tetrace record` of a script `train.py` of this source."""
    (folder / "train.py").write_text(source)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TETRACE", "NSYS", "PYTHONPATH"))
    }
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "host", "train.py"]
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
    said = " ".join(done.stderr.split())
    assert (NOTICE in said) == hinted, done.stderr
    assert LAST_WORDS not in said, "once is enough"


def test_where_the_report_does_not_say_so_the_last_words_do(tmp_path: Path) -> None:
    """No module was called, so nothing says that there was a loop."""
    pytest.importorskip("torch")
    done = record(tmp_path, "import torch, tetrace\nwith tetrace.annotate('all'):\n    torch.ones(2).sum()\n")
    assert done.stderr.count("the whole run is one step") == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith(LAST_WORDS)


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
    assert uninstrumented.why(failed, ["torchrun", "train.py"]) == early
    assert session._nothing(failed, "", early) == f"nothing was recorded: {early}"
    assert session._nothing(failed, "no right to record", early) == f"nothing was recorded: {early}; no right to record"
    assert session._nothing(session.Ended(0, 0, None, 0), "no right to record", "x").endswith(
        "recorded: no right to record"
    )


WELL, FAILED = session.Ended(0, 0, None, 0), session.Ended(1, 1, None, 0)
MISSING = "torch is not installed in the Python that runs tetrace and the script: install tetrace beside torch"


@pytest.mark.parametrize("word", ["-I", "-E", "-S"])
def test_an_option_that_keeps_tetrace_out_is_named(word: str) -> None:
    said = f"{word} of python3 leaves out what starts tetrace in it; run it without {word}"
    for options in ([word], ["-u", word], [f"-u{word[1]}"], ["-X", "dev", word], ["-Wignore", word]):
        why = uninstrumented.why(WELL, ["/usr/bin/python3", *options, "train.py"])
        assert why == f"no Python process was instrumented: {said}"


@pytest.mark.parametrize(
    "run",
    [
        ["python3", "train.py", "-I"],
        ["python3", "-m", "train", "-E"],
        ["python3", "-c", "-S"],
        ["python3", "-XI", "train.py"],
        ["python3", "-W", "-I", "train.py"],
        ["torchrun", "-I", "train.py"],
    ],
)
def test_what_is_not_known_has_all_its_possibilities(run: list[str]) -> None:
    why = uninstrumented.why(WELL, run)
    assert why.startswith(
        "no Python process was instrumented: none imported torch, which may be missing there, or it ran"
    )
    assert uninstrumented.why(WELL, run, waits=True) == f"{why}; --steps all records the GPU of a program without torch"


def test_a_python_without_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the Python that runs tetrace that is known, of another one it is not."""
    run = [sys.executable, "train.py"]
    early = "the script failed (exit code 1) before it imported torch, as far as could be seen"
    monkeypatch.setattr(uninstrumented, "_has_torch", lambda: True)
    assert uninstrumented.why(FAILED, run) == early
    monkeypatch.setattr(uninstrumented, "_has_torch", lambda: False)
    assert uninstrumented.why(FAILED, run) == f"{early}; {MISSING}"
    assert uninstrumented.why(WELL, run) == f"no Python process was instrumented: {MISSING}"
    assert uninstrumented.why(FAILED, ["/opt/other/bin/python", "train.py"]) == early
