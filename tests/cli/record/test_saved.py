"""`tetrace record`: mistakes are told before anything runs, and nothing that was recorded is lost."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.cli.record.scripts import ours, run
from tetrace import load

# Options and what is in the way.


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Missing argument 'COMMAND...'. Try 'tetrace record --help'."),
        (["--stps", "3", "talks.py"], "No such option '--stps'."),
        (["gone.py"], "gone.py: no such script"),
        (["--steps", "9:3", "talks.py"], "--steps 9:3 holds no step"),
        (["--seconds", "3", "--steps", "1", "talks.py"], "exclude each other"),
        (["--collector", "host", "--calls", "all", "talks.py"], "--calls all has no meaning with --collector host"),
        (["--collector", "host", "--nsys", "-d 3", "talks.py"], "--nsys has no meaning with --collector host"),
        (["--nsys", "-o x", "talks.py"], "name the recording with -o"),
        (["-o", "talks.py/x", "talks.py"], "talks.py is no folder; choose one with -o"),
        (["-o", "gone/x", "talks.py"], "gone does not exist; make it, or choose another with -o"),
        (["-o", "gone/x/", "talks.py"], "gone does not exist; make it, or choose another"),
        (["-o", "made/", "gone.py"], "gone.py: no such script"),
        (["-o", "made/", "--collector", "host", "--calls", "all", "talks.py"], "--calls all has no meaning"),
    ],
)
def test_mistakes_are_told_before_anything_runs(arguments: list[str], says: str, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_script_without_torch_is_told_to_be_unrecorded(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("print('fine')")
    done = run("plain.py")
    assert (done.returncode, done.stdout) == (2, "fine\n")
    assert ours(done.stderr)[-1].startswith("tetrace: nothing was recorded: no Python process was instrumented")
    assert run("plain.py").returncode == 2  # what is left is in nobody's way


# With torch: what was recorded is there, however the script ended.


@pytest.mark.usefixtures("torch")
def test_a_folder_or_a_slash_names_where_the_recording_goes(tmp_path: Path) -> None:
    """A recording is no such folder, whatever follows its name; the folder of a slash is made."""
    (tmp_path / "there").mkdir()
    for named, saved in (
        ("there", "there/trains.tetrace"), ("made/", "made/trains.tetrace"), ("made/trains.tetrace/", "made/trains.tetrace"),
    ):  # fmt: skip
        done = run("-o", named, "--collector", "host", "--force", "trains.py", "None")
        assert f"tetrace: saved {saved}" in ours(done.stderr), done.stderr
        assert load(tmp_path / saved).metadata.facts["command"] == ["trains.py", "None"]
    assert not list(tmp_path.glob("*.tetrace"))


@pytest.mark.usefixtures("torch")
def test_a_recording_of_a_cpu_run(tmp_path: Path) -> None:
    done = run("--collector", "host", "trains.py", "None")
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert "tetrace: saved trains.tetrace" in ours(done.stderr)
    assert "No GPU was captured" in done.stderr
    assert not (tmp_path / "trains.tetrace.recording").exists()
    trace = load(tmp_path / "trains.tetrace")
    facts = trace.metadata.facts
    assert facts["command"] == ["trains.py", "None"]
    assert (facts["collector"], facts["reason"]) == ("host", "asked for")
    assert facts["ended"]["finished"] is True
    assert {"step", "module", "backward", "optimizer"} <= set(trace.words("sites", "kind"))
    again = run("--collector", "host", "trains.py", "None")
    assert (again.returncode, again.stdout) == (2, "")
    assert "trains.tetrace: exists; choose another name with -o or pass --force" in again.stderr
    assert run("--force", "--collector", "host", "trains.py", "None").returncode == 0


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("window", [("--steps", "1:3"), ("--seconds", "0.000001")])
def test_the_script_goes_on_after_the_recorded_window(window: tuple[str, str]) -> None:
    done = run("--collector", "host", *window, "trains.py", "None")
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(("does", "code"), [("None", 2), ("sys.exit(3)", 3)])
def test_a_window_that_is_never_reached_is_told_at_the_end(does: str, code: int, tmp_path: Path) -> None:
    """What ran is saved; the script's own exit code is what counts where it failed."""
    done = run("--collector", "host", "--steps", "100:110", "trains.py", does)
    assert done.returncode == code, done.stderr
    line = ours(done.stderr)[-1]
    assert line.startswith("tetrace: The steps 100:110 that were asked for were never reached: the script ended ")
    assert line.endswith("; record with --steps within 0:8, or without --steps" if code == 2 else "or without --steps")
    assert load(tmp_path / "trains.tetrace").rows("ranges")
    assert not (tmp_path / "trains.tetrace.recording").exists()


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(
    ("does", "code", "says"),
    [
        ("[][1]", 1, "exit code 1"),
        ("sys.exit(3)", 3, "exit code 3"),
        ("os._exit(7)", 7, "exit code 7"),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "SIGINT"),
        ("os.kill(os.getppid(), signal.SIGTERM) or time.sleep(60)", 143, "SIGTERM"),
    ],
)
def test_what_was_recorded_before_the_end_is_saved(does: str, code: int, says: str, tmp_path: Path) -> None:
    done = run("-o", "run", "--collector", "host", "trains.py", does)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert f"tetrace: the script did not finish ({says}); saving what was recorded" in ours(done.stderr)
    assert "the run did not finish" in done.stderr
    trace = load(tmp_path / "run.tetrace")
    assert trace.metadata.facts["ended"]["finished"] is False
    assert "module" in trace.words("sites", "kind")


@pytest.mark.usefixtures("torch")
def test_torchrun_is_one_recording(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "trains.py",
        "None",
    ]
    done = run("--collector", "host", *command)
    assert done.returncode == 0, done.stderr
    trace = load(tmp_path / "trains.tetrace")
    assert sorted(trace.tables["processes"].column("rank").to_pylist()) == [0, 1]
