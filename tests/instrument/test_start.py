"""How instrumentation gets into a process, what the process leaves, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

import tetrace
from tests.descent import DESCENT
from tests.instrument.runs import names, process_folder, read
from tetrace import loaded
from tetrace.instrument import process, start

TRAIN = (
    DESCENT
    + """
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.GELU())
optimizer = Descent(model.parameters(), {})
for _ in range(2):
    model(torch.randn(2, 8)).sum().backward()
    optimizer.step()
"""
)


def run(tmp_path: Path, script: str, *arguments: str, **variables: str) -> tuple[int, str, Path]:
    """Exit code, stderr and the recording of a script that is instrumented by its first line."""
    file = tmp_path / "train.py"
    file.write_text("import tetrace\ntetrace.instrument()\n" + textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, str(file), *arguments],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stderr, tmp_path / "train.tetrace.recording"


def written(recording: Path, name: str) -> Any:
    return json.loads((process_folder(recording) / name).read_text())


@pytest.mark.parametrize("optimizer", ["Descent(model.parameters(), {})", "torch.optim.SGD(model.parameters(), 0.1)"])
def test_one_line_instruments_whatever_is_imported_later(optimizer: str, tmp_path: Path) -> None:
    code, said, recording = run(tmp_path, TRAIN.replace("Descent(model.parameters(), {})", optimizer))
    assert (code, said) == (0, "")
    assert names(read(recording), phase="forward")[:3] == ["Sequential", "0", "1"]
    assert written(recording, "exit.json") == {"reason": "end", "step": 2}


def test_one_line_instruments_what_was_imported_before(tmp_path: Path) -> None:
    code, said, recording = run(
        tmp_path, TRAIN.replace("optimizer =", "import tetrace; tetrace.instrument(); optimizer =")
    )
    assert (code, said) == (0, "")
    assert names(read(recording))[:3] == ["Sequential", "0", "1"]


def test_a_process_without_torch_leaves_nothing(tmp_path: Path) -> None:
    code, said, recording = run(tmp_path, "import json")
    assert (code, said) == (0, "")
    assert list(recording.iterdir()) == []


def test_the_folder_of_a_recording_around_is_taken(tmp_path: Path) -> None:
    folder = tmp_path / "around"
    run(tmp_path, TRAIN, TETRACE_RECORDING=str(folder))
    assert names(read(folder))


@pytest.mark.parametrize(
    ("ending", "code", "expected"),
    [
        ("raise ValueError('lost\\nlines')", 1, {"reason": "exception", "exception": "ValueError: lost"}),
        ("import sys; sys.exit(3)", 3, {"reason": "end"}),
        ("import os; os._exit(7)", 7, {"reason": "os._exit", "code": 7}),
        ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -signal.SIGINT, {"reason": "exception"}),
    ],
    ids=["exception", "exit", "os._exit", "interrupt"],
)
def test_how_the_script_ends_is_written(ending: str, code: int, expected: dict[str, Any], tmp_path: Path) -> None:
    found, _, recording = run(tmp_path, TRAIN + ending)
    assert found == code
    left = written(recording, "exit.json")
    assert {name: left[name] for name in expected} == expected
    assert [row.step for row in read(recording) if row.kind == "step"] == [0, 1, 2]


def test_a_killed_process_keeps_its_ranges(tmp_path: Path) -> None:
    code, _, recording = run(tmp_path, TRAIN + "import os; os.kill(os.getpid(), 9)")
    assert code == -signal.SIGKILL
    assert not (process_folder(recording) / "exit.json").exists()
    assert [bool(row.end_ns) for row in read(recording) if row.kind == "step"] == [True, True, False]


def test_a_forked_child_writes_nothing_into_its_parents_recording(tmp_path: Path) -> None:
    script = TRAIN + textwrap.dedent("""
        import os
        if os.fork() == 0:
            optimizer.zero_grad()  # a forked child cannot compute: torch's threads are not there
            torch.nn.Identity()(None)
            optimizer.step()
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
    """)
    code, said, recording = run(tmp_path, script)
    assert (code, said) == (0, "")
    assert written(recording, "exit.json")["reason"] == "end"
    assert len([row for row in read(recording) if row.kind == "optimizer"]) == 2


def test_no_secret_and_no_other_variable_is_stored(tmp_path: Path) -> None:
    secrets = {"NCCL_AUTH_TOKEN": "hunter2", "MY_PASSWORD": "hunter2", "CUDA_API_KEY": "hunter2"}
    options = ("--api-key", "hunter2", "--token=hunter2", "--lr", "0.1")
    _, _, recording = run(tmp_path, TRAIN, *options, NCCL_DEBUG="WARN", RANK="3", **secrets)
    assert "hunter2" not in "".join(path.read_text() for path in recording.rglob("*.json*"))
    about = written(recording, "process.json")
    assert about["environment"]["NCCL_DEBUG"] == "WARN"
    assert about["rank"] == 3
    assert about["argv"][1:] == ["--api-key", "***", "--token=***", "--lr", "0.1"]


def test_what_fails_in_tetrace_is_a_warning_and_a_notice(tmp_path: Path) -> None:
    breaking = "from tetrace.instrument import names\ndef fail(*_): raise KeyError('broken')\nnames.Names.name = fail\n"
    code, said, recording = run(tmp_path, TRAIN.replace("optimizer =", breaking + "optimizer ="))
    assert code == 0
    assert said == "tetrace: naming a module failed and is left out (KeyError: 'broken')\n"
    assert said.removeprefix("tetrace: ").strip() in written(recording, "process.json")["notices"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["python", "/usr/bin/torchrun", "train.py"], True),
        (["python", "-m", "torch.distributed.run", "train.py"], True),
        (["python", "-u", "-m", "accelerate.commands.launch", "train.py"], True),
        (["python", "/lib/torch/_inductor/compile_worker/__main__.py"], True),
        (["python", "train.py"], False),
        (["python", "-m", "mymodels.train", "torchrun"], False),
        (["python", "train.py", "--launcher", "-m", "torch.distributed.run"], False),
    ],
)
def test_launchers_are_left_alone(words: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "orig_argv", words)
    assert process.is_launcher() is expected


def test_two_copies_of_cudnn_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [f"{path}/libcudnn{part}.so.9" for path in ("/home/me/cudnn/lib", "/usr/lib") for part in ("", "_ops")]
    monkeypatch.setattr(loaded, "mapped", lambda: paths)
    process.open(tmp_path)
    process.finish("end", 3)
    notices = written(tmp_path, "process.json")["notices"]
    process.close()
    assert notices == ["2 copies of cuDNN are loaded, from cudnn/lib and usr/lib"]


def test_a_wrong_level_is_an_error_with_its_way_out() -> None:
    with pytest.raises(tetrace.UsageError, match="choose one of modules, coarse, off"):
        tetrace.instrument(ranges="all")


def test_stopping_without_a_start_does_nothing() -> None:
    start.stop()


def test_a_second_run_does_not_mix_with_the_first(tmp_path: Path) -> None:
    (tmp_path / "train.tetrace.recording" / "process-999999999").mkdir(parents=True)
    assert start._of_this_run(tmp_path, "train") == tmp_path / "train-2.tetrace.recording"
    (tmp_path / "train-2.tetrace.recording" / f"process-{os.getpid()}").mkdir(parents=True)
    assert start._of_this_run(tmp_path, "train") == tmp_path / "train-2.tetrace.recording"
