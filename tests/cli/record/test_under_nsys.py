"""`tetrace record` under nsys, which is a stand-in here: it runs the command as nsys does, and leaves a recording of another
program."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.record.scripts import EXPORT, TETRACE, ours, python, run
from tetrace import load


def stand_in(tmp_path: Path, **told: object) -> dict[str, str]:
    """Puts the stand-in first on PATH; returns the environment."""
    import runpy

    write = runpy.run_path(str(Path(__file__).parents[2] / "record" / "stand_in_nsys.py"))["write"]
    write(tmp_path / "bin", EXPORT, **told)
    return {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}


def test_under_nsys_the_script_has_its_streams_and_exit_code(tmp_path: Path) -> None:
    environ = stand_in(tmp_path)
    done = run("--collector", "nsys", "talks.py", "a", input="in", env=environ)
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[0]) == [["talks.py", "a"], str(tmp_path), "in", [False] * 3]
    assert [line for line in done.stderr.splitlines() if "its error" in line] == ["its error"]
    assert "Collecting" not in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc here")
def test_under_nsys_signals_and_descriptors_are_as_without(tmp_path: Path) -> None:
    """The stand-in ignores SIGTERM, and what it starts inherits that."""
    command = ["sh", "-c", "grep -E 'Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd; exit 3"]
    plain = subprocess.run(command, capture_output=True, text=True, check=False)
    done = run("--collector", "nsys", *command, env=stand_in(tmp_path))
    assert (done.returncode, done.stdout) == (plain.returncode, plain.stdout)


def test_under_nsys_a_closed_input_stays_closed_and_a_closed_output_ends(tmp_path: Path) -> None:
    code = "import os, sys, time; print(sys.stdin, flush=True); os.close(1); time.sleep(3); os._exit(6)"
    process = subprocess.Popen(
        ["bash", "-c", 'exec "$@" <&-', "bash", *TETRACE, "--collector", "nsys", *python(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=stand_in(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "None\n"
    assert process.wait(60) == 6


@pytest.mark.parametrize("does", ["os.kill(os.getpid(), signal.SIGSEGV)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_under_nsys_a_killed_script(does: str, tmp_path: Path) -> None:
    done = run("--collector", "nsys", *python(f"import os, signal; {does}"), env=stand_in(tmp_path))
    assert done.returncode in (139, 137)
    assert f"did not finish ({signal.Signals(done.returncode - 128).name})" in done.stderr


def test_under_nsys_signals_reach_the_script_alone(tmp_path: Path) -> None:
    code = """
assert os.getpid() == os.getpgid(0) != os.getsid(0)
try: print("ready", flush=True); time.sleep(60)
except KeyboardInterrupt: print("interrupted"); sys.exit(5)"""
    process = subprocess.Popen(
        [*TETRACE, "--collector", "nsys", *python(f"import os, signal, sys, time\n{code}")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=stand_in(tmp_path),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (5, "interrupted\n"), err
    assert "tetrace: the script has ended; saving the recording" in err


@pytest.mark.usefixtures("torch")
def test_under_nsys_a_whole_recording(tmp_path: Path) -> None:
    done = run("--collector", "nsys", "--keep-nsys-rep", "trains.py", "None", env=stand_in(tmp_path))
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert (tmp_path / "trains.nsys-rep").exists()
    assert not (tmp_path / "trains.tetrace.recording").exists()
    facts = load(tmp_path / "trains.tetrace").metadata.facts
    assert facts["nsys"] == {"version": "2025.3.1.90", "name": "nsys", "arguments": []}
    assert facts["options"]["capture"] == "nvtx"


@pytest.mark.usefixtures("torch")
def test_a_capture_that_nsys_cannot_import_keeps_the_ranges(tmp_path: Path) -> None:
    environ = stand_in(tmp_path, leaves=(".qdstrm",), says="Importation failed.")
    done = run("--collector", "nsys", "trains.py", "None", env=environ)
    assert (done.returncode, done.stdout) == (2, "trained\n"), done.stderr
    kept = tmp_path / "trains.tetrace.recording" / "nsys.qdstrm"
    assert "could not import its own capture (Importation failed.)" in ours(done.stderr)[-1]
    assert str(kept) in ours(done.stderr)[-1]
    assert kept.exists()
    assert "module" in load(tmp_path / "trains.tetrace").words("sites", "kind")


def test_a_capture_that_never_started(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("print('fine')")
    done = run("--collector", "nsys", "plain.py", env=stand_in(tmp_path, leaves=()))
    assert (done.returncode, done.stdout) == (2, "fine\n")
    assert "nothing was recorded: the capture never started" in ours(done.stderr)[-1]
    assert "--steps all" in done.stderr


def test_an_nsys_that_does_not_start_the_script(tmp_path: Path) -> None:
    environ = stand_in(tmp_path, refuses="--nonsense")
    done = run("--collector", "nsys", "--nsys=--nonsense", "talks.py", env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "nsys did not start the script (unrecognised option '--nonsense'); check --nsys" in done.stderr
    assert not (tmp_path / "talks.tetrace.recording").exists()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"version": "2021.3.2.4-027534f"}, "nsys 2021.3.2.4 is too old"),
        (None, "nsys is not on PATH; install Nsight Systems"),
    ],
)
def test_an_nsys_that_cannot_record(told: dict[str, object] | None, says: str, tmp_path: Path) -> None:
    environ = {**os.environ, "PATH": "/usr/bin:/bin", "CUDA_HOME": ""}
    if told is not None:
        environ = stand_in(tmp_path, **told)
    elif any(Path(folder, "nsys").exists() for folder in ("/usr/bin", "/bin", "/usr/local/cuda/bin")):
        pytest.skip("nsys is installed here")
    done = run("--collector", "nsys", "talks.py", env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
