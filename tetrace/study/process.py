"""A worker as its runner sees it: started, asked, listened to, timed, and ended whatever it does."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tetrace.study.results import Error

_POLL_S = 0.2
# How long a process may take to write where it hangs, and one that was told to leave to do so.
_WORDS_S, _LEAVE_S = 0.5, 10.0
# One that is stuck in the driver does not end when it is killed.
_KILLED_S = 10.0
_TAIL_LINES, _TAIL_BYTES = 20, 8192
_RECEIVED = 1 << 16
# Names the process in its environment, for all that it starts.
_MARK = "TETRACE_STUDY_PROCESS"


@dataclass(frozen=True)
class Failure:
    """Why a worker did not answer. `timed_out`: it was ended at its limit. `code`: files of the workload."""

    error: Error
    timed_out: bool = False
    out_of_memory: bool = False
    code: tuple[str, ...] = ()


class Process:
    """One worker. It is asked one thing at a time; `reply` or `failure` is there once it is not `busy` any more.

    Only the time while it is busy counts against its limit: waiting for a turn costs nothing.
    """

    def __init__(
        self, name: str, command: Sequence[str], environ: Mapping[str, str], folder: Path, room: Path, number: int
    ) -> None:
        """Starts `command` in `folder`, which becomes a worker; `room` is a private folder for socket and output."""
        self.name = name
        self.reply: dict[str, Any] = {}
        self.failure: Failure | None = None
        self.busy = False
        self.stage = "import"
        self._address = room / f"{number}.socket"
        self._output = room / f"{number}.log"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._address))
        self._listener.listen(1)
        self._connection: socket.socket | None = None
        self._received = b""
        self._waiting = b""
        self._worker_pid: int | None = None
        self._worked_s, self._began = 0.0, time.monotonic()
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**environ, "TETRACE_STUDY_SOCKET": str(self._address), _MARK: str(self._address)},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def fileno(self) -> int:
        """What becomes readable when the worker says something."""
        return (self._connection or self._listener).fileno()

    def ask(self, request: Mapping[str, Any]) -> None:
        """Have the worker do something; it gets to know once it listens."""
        self.reply, self.busy, self._began = {}, True, time.monotonic()
        self._waiting += json.dumps(request).encode() + b"\n"
        self._send()

    def attend(self, limit_s: float, readable: bool) -> None:
        """Take what it said; where it ended, or has worked for more than `limit_s`, say so in `failure`."""
        if readable:
            self._receive()
        if not self.busy:
            return
        if self._worked_s + time.monotonic() - self._began > limit_s:
            self._time_out(limit_s)
        elif self._process.poll() is not None:
            # What it said last may still be under way.
            while self.busy and select.select([self], [], [], 0)[0] and self._receive():
                pass
            if self.busy:
                self._fail(self._failure())

    def end(self, leave: bool = False) -> int | None:
        """End it and all that it started: at once, or after it was asked to leave. Returns its exit code, None where it
        cannot be ended."""
        if leave and self._process.poll() is None:
            self.ask({"do": "leave"})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_S)
        self._kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_S)
        self.busy = False
        for one in (self._connection, self._listener):
            if one is not None:
                one.close()
        self._address.unlink(missing_ok=True)
        return self._process.returncode

    def leave(self) -> None:
        """Ask it to leave; see `has_ended`."""
        self.ask({"do": "leave"})

    @property
    def has_ended(self) -> bool:
        """Whether the process is gone."""
        return self._process.poll() is not None

    def tail(self) -> str:
        """The last lines that it wrote to its standard streams."""
        try:
            with self._output.open("rb") as output:
                output.seek(max(0, self._output.stat().st_size - _TAIL_BYTES))
                text = output.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-_TAIL_LINES:])

    def _receive(self) -> bool:
        """Take what is there; False where nothing will ever come any more."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._send()
            return True
        try:
            more = self._connection.recv(_RECEIVED)
        except OSError:
            more = b""
        if not more:
            self._connection_lost()
            return False
        *lines, self._received = (self._received + more).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        return True

    def _connection_lost(self) -> None:
        """The worker closed its end: it ends, and tells how by its exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_WORDS_S)
        if self.busy:
            self._fail(self._failure())

    def _take(self, message: Mapping[str, Any]) -> None:
        if "hello" in message:
            self._worker_pid = int(message["hello"])
        elif "stage" in message:
            self.stage = str(message["stage"])
        elif "failed" in message:
            said = message["failed"]
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_WORDS_S)
            error = Error(said["stage"], said["type"], said["message"], self.tail())
            self._fail(Failure(error, out_of_memory=bool(said["out_of_memory"]), code=tuple(said["code"])))
        elif "reply" in message:
            self.reply = message["reply"]
            self._over()

    def _over(self) -> None:
        self._worked_s += time.monotonic() - self._began
        self.busy = False

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._over()

    def _time_out(self, limit_s: float) -> None:
        stage = self.stage
        if self._worker_pid is not None:
            with contextlib.suppress(OSError):
                os.kill(self._worker_pid, signal.SIGUSR1)
            time.sleep(_WORDS_S)
        self._kill()
        said = f"was not done after {limit_s:g} s of its own work and was ended; --limit gives it more"
        self._fail(Failure(Error(stage, "limit", said, self.tail()), timed_out=True))

    def _failure(self) -> Failure:
        """It ended before it answered. The kernel kills one where the machine runs out of memory."""
        error = self._ended()
        return Failure(error, out_of_memory=error.type == signal.SIGKILL.name)

    def _ended(self) -> Error:
        code = self._process.poll()
        if code is None and self._worker_pid not in (None, self._process.pid):
            what, said = "ended", "the recorded process ended before its last step"
        elif code is None:
            what, said = "closed", "the process closed its connection to tetrace; the workload may not do that"
        elif code < 0:
            what = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            said = f"the process was ended by {what}"
            if what == "SIGKILL":
                said += "; the kernel does so where the machine runs out of memory"
        else:
            what, said = f"exit code {code}", f"the process ended by itself with exit code {code}"
        return Error(self.stage, what, said, self.tail())

    def _send(self) -> None:
        if self._connection is None:
            return
        # A worker that has gone is noticed when it is listened to.
        with contextlib.suppress(OSError):
            self._connection.sendall(self._waiting)
        self._waiting = b""

    def _kill(self) -> None:
        """The groups of what was started and, under `tetrace record`, of the worker: that one is in a session of its own.
        Then whatever else they started, in sessions of its own."""
        worker = self._worker_pid
        if worker not in (None, self._process.pid) and self._process.poll() is None:
            with contextlib.suppress(OSError):
                _kill_group(os.getpgid(worker))
        _kill_group(self._process.pid)
        _kill_marked(f"{_MARK}={self._address}".encode())


def _kill_marked(mark: bytes) -> None:
    """All processes whose environment has it. Only Linux tells, and only of the user's own."""
    for entry in Path("/proc").glob("[0-9]*"):
        # Those that end meanwhile, and those of others.
        with contextlib.suppress(OSError):
            if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                os.kill(int(entry.name), signal.SIGKILL)


def _kill_group(group: int) -> None:
    with contextlib.suppress(OSError):
        if group != os.getpgrp():
            os.killpg(group, signal.SIGKILL)


def attend(processes: Iterable[Process], limit_s: float, tick: Callable[[], None]) -> None:
    """Wait until none of the processes is busy; `tick` is called a few times a second."""
    listed = list(processes)
    while waiting := [process for process in listed if process.busy]:
        readable = select.select(waiting, [], [], _POLL_S)[0]
        for process in waiting:
            process.attend(limit_s, process in readable)
        tick()
