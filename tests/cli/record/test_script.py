"""`tetrace record` as a user meets it: the script is left alone, whatever happens to it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.record.scripts import TALKS, TETRACE, ours, python, run, started, terminal


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
