"""`tetrace record` as a user meets it: the script is left alone, whatever happens is told, and nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.descent import DESCENT
from tetrace import load

TETRACE = [sys.executable, "-m", "tetrace", "record"]
EXPORT = Path(__file__).parent.parent / "data" / "te4-fp8.sqlite"
# Ends with an exit code of its own, since without torch there is nothing to record and a 0 becomes a 2.
TALKS = """
import json, os, sys
print(json.dumps([sys.argv, os.getcwd(), sys.stdin.read(), [s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)]]))
sys.stdout.buffer.write(b"\\xff\\x00\\r\\n")
print("its error", file=sys.stderr)
sys.exit(3)
"""
TRAINS = (
    DESCENT
    + """
import os, signal, sys, time
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU())
optimizer = Descent(model.parameters(), {})
for step in range(8):
    optimizer.zero_grad()
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    if step == 5:
        eval(sys.argv[1])
print("trained")
"""
)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests: the observer of autograd is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("TETRACE", "NSYS", "PYTHONPATH")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    (tmp_path / "talks.py").write_text(TALKS)
    (tmp_path / "trains.py").write_text(TRAINS)


@pytest.fixture
def torch() -> None:
    pytest.importorskip("torch")


def run(*arguments: str, **how: object) -> subprocess.CompletedProcess[str]:
    given = {"capture_output": True, "text": True, "encoding": "utf-8", "errors": "replace", "check": False, **how}
    return subprocess.run([*TETRACE, *arguments], **given)  # type: ignore[call-overload, no-any-return]


def python(code: str) -> tuple[str, str, str]:
    return (sys.executable, "-c", code)


def ours(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("tetrace: ")]


# The command belongs to the user.


def test_streams_arguments_folder_and_exit_code_are_the_scripts() -> None:
    plain = subprocess.run([sys.executable, "talks.py", "--steps", "--", "-o"], input=b"in", capture_output=True)
    with_us = subprocess.run([*TETRACE, "talks.py", "--steps", "--", "-o"], input=b"in", capture_output=True)
    assert (with_us.returncode, with_us.stdout) == (plain.returncode, plain.stdout) != (0, b"")
    assert [line for line in with_us.stderr.splitlines() if not line.startswith(b"tetrace: ")] == [b"its error"]


@pytest.mark.parametrize("separator", [[], ["--"]])
def test_modules_and_commands(separator: list[str], tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "talks.py").write_text(TALKS)
    done = run("-o", "a", *separator, "-m", "pkg.talks", "--collector", "x", input="")
    assert done.returncode == 3
    assert json.loads(done.stdout.splitlines()[0])[0] == [str(tmp_path / "pkg" / "talks.py"), "--collector", "x"]
    done = run("-o", "b", *separator, "sh", "-c", 'echo "$0 $1"; exit 4', "x", "-o")
    assert (done.returncode, done.stdout) == (4, "x -o\n")


def test_open_descriptors_and_ignored_signals_are_inherited() -> None:
    code = "import os, signal; os.write(9, b'here'); print(signal.getsignal(signal.SIGHUP).name); os._exit(5)"
    read, write = os.pipe()
    shell = f"exec 9>&{write}; trap '' HUP; exec \"$@\""
    command = ["bash", "-c", shell, "bash", *TETRACE, *python(code)]
    done = subprocess.run(command, pass_fds=[write], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (5, "SIG_IGN\n"), done.stderr
    assert os.read(read, 9) == b"here"


def test_a_closed_input_stays_closed() -> None:
    code = "import os, sys; print(sys.stdin); sys.exit(6)"
    done = subprocess.run(
        ["bash", "-c", 'exec "$@" <&-', "bash", *TETRACE, *python(code)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (6, "None\n")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_script_that_is_killed(name: str) -> None:
    done = run(*python(f"import os, signal; os.kill(os.getpid(), signal.{name})"))
    assert done.returncode == 128 + signal.Signals[name]
    assert f"tetrace: the script did not finish ({name}); saving what was recorded" in ours(done.stderr)


def started(code: str, **how: object) -> subprocess.Popen[str]:
    """A recorder whose script has printed `ready`."""
    process = subprocess.Popen(  # type: ignore[call-overload]
        [*TETRACE, *python(f"import signal, sys, time, os\n{code}")],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True, **how},
    )
    assert process.stdout.readline() == "ready\n"
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH"])
def test_each_signal_reaches_the_script_once(name: str) -> None:
    code = f"""
n = []
signal.signal(signal.{name}, lambda *_: n.append(1))
print("ready", flush=True)
while not n: time.sleep(0.01)
time.sleep(0.2)
print(n); sys.exit(9)"""
    process = started(code)
    process.send_signal(signal.Signals[name])
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (9, "[1]\n")


def test_what_the_script_started_is_reached_too() -> None:
    """As by the terminal: the workers of torchrun hear a Ctrl-C."""
    child = """
import sys, time
sys.stdin.read()
try: print("ready", flush=True); time.sleep(60)
except KeyboardInterrupt: print("child")"""
    code = f"""
import subprocess
p = subprocess.Popen([sys.executable, "-c", {child!r}], stdin=subprocess.PIPE)
try: p.stdin.close(); p.wait()
except KeyboardInterrupt: p.wait(); print("parent"); sys.exit(8)"""
    process = started(code)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (8, "child\nparent\n")


def test_a_stopped_recorder_stops_its_script() -> None:
    process = started(
        "print('ready', flush=True)\nfor i in range(20): print(i, flush=True); time.sleep(0.1)\nsys.exit(7)"
    )
    process.send_signal(signal.SIGTSTP)
    assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
    time.sleep(0.3)
    os.set_blocking(process.stdout.fileno(), False)  # type: ignore[union-attr]
    with contextlib.suppress(BlockingIOError):
        os.read(process.stdout.fileno(), 9999)  # type: ignore[union-attr]
    time.sleep(0.5)
    with pytest.raises(BlockingIOError):
        os.read(process.stdout.fileno(), 1)  # type: ignore[union-attr]
    os.set_blocking(process.stdout.fileno(), True)  # type: ignore[union-attr]
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 7


def terminal(code: str, typed: Callable[[bytes], bytes | None]) -> tuple[int, str]:
    """Run a script on a terminal of its own; `typed` is given what came so far and says what to type."""
    terminal_fd, its_end = pty.openpty()
    # A new session has no terminal until it takes one, which only its leader can do. Not `pty.fork()`: a process of
    # tests can have claimed so much memory that no copy of it is granted.
    take = "import fcntl, os, sys, termios\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\nos.execvp(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", take, *TETRACE, *python(f"import os, signal, sys, time\n{code}")],
        stdin=its_end,
        stdout=its_end,
        stderr=its_end,
        start_new_session=True,
    )
    os.close(its_end)
    out, sent = b"", set()
    with contextlib.suppress(OSError):
        while part := os.read(terminal_fd, 9999):
            out += part
            keys = typed(out)
            if keys and keys not in sent:
                sent.add(keys)
                os.write(terminal_fd, keys)
    os.close(terminal_fd)
    return process.wait(), out.decode()


def test_a_terminal_is_still_one_and_can_be_read() -> None:
    code = "print([s.isatty() for s in (sys.stdin, sys.stdout, sys.stderr)], os.get_terminal_size() is not None)\n"
    code += "print('said', input('ask: ')); sys.exit(3)"
    exit_code, out = terminal(code, lambda out: b"word\n" if b"ask: " in out else None)
    assert exit_code == 3
    assert "[True, True, True] True" in out
    assert "said word" in out


def test_ctrl_c_on_a_terminal_reaches_the_script_once() -> None:
    code = """
n = []
signal.signal(signal.SIGINT, lambda *_: n.append(1))
print("rea" + "dy", flush=True)
while not n: time.sleep(0.01)
time.sleep(0.2)
print("count", len(n)); sys.exit(4)"""
    exit_code, out = terminal(code, lambda out: b"\x03" if b"ready" in out else None)
    assert exit_code == 4
    assert "count 1" in out


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


# Under nsys, which is a stand-in here: it runs the command as nsys does, and leaves a recording of another program.


def stand_in(tmp_path: Path, **told: object) -> dict[str, str]:
    """Puts the stand-in first on PATH; returns the environment."""
    import runpy

    write = runpy.run_path(str(Path(__file__).parent.parent / "record" / "stand_in_nsys.py"))["write"]
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
