"""The user's command while it runs: signals go to it, and how it ended is its own."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_RELAYED = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
_POLL_S = 0.2
_WORD_S = 1.0


@dataclass(frozen=True)
class Ended:
    """How the command ended: an exit code, or the signal that ended it. `code` is what a shell would show."""

    code: int
    exit_code: int | None
    signal: str | None
    ended_ns: int

    @property
    def finished(self) -> bool:
        """Whether it ran to its own, successful end."""
        return self.exit_code == 0

    @property
    def how(self) -> str:
        """In words: `exit code 1`, or the name of the signal."""
        return self.signal or f"exit code {self.exit_code}"

    def document(self) -> dict[str, object]:
        """What run.json says."""
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "finished": self.finished,
            "ended_ns": self.ended_ns,
        }


class Running:
    """A started command. `process` is what was started, `group` the process group of the user's command in it."""

    def __init__(self, process: subprocess.Popen[bytes], group: int | None = None) -> None:
        self.process = process
        self.group = group
        self.known = threading.Event()
        self._pending: deque[int] = deque()
        if group is not None:
            self.known.set()

    def started(self, group: int) -> None:
        """The command itself runs now: what was sent to it before is delivered."""
        self.group = group
        self.known.set()
        self._deliver()

    @property
    def ever_started(self) -> bool:
        """Whether the command itself ever ran; asked after `wait`, when word of it may still be under way."""
        return self.known.wait(_WORD_S)

    def send(self, number: int) -> bool:
        """Send a signal to the command and what it started; False where nothing of it is left."""
        # Kept first and delivered then: `started` may come from another thread at any time in between.
        self._pending.append(number)
        return self._deliver()

    def _deliver(self) -> bool:
        if self.group is None:
            return True
        try:
            while self._pending:
                os.killpg(self.group, self._pending.popleft())
        except IndexError:
            return True
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def wait(self) -> Ended:
        """Wait until it has ended. 128 + n is a death by signal n, also where the shell in between says so."""
        code = self.process.wait()
        number = -code if code < 0 else code - 128
        try:
            name = signal.Signals(number).name if code < 0 or code > 128 else None
        except ValueError:
            name = None
        return Ended(128 + number if code < 0 else code, None if name else code, name, time.time_ns())


class Relay:
    """Takes tetrace's signals while it is open: each goes to the command, and none ends tetrace.

    Signals that the user ignores (nohup) stay ignored. A stop stops the command, then tetrace. Once the command has
    ended, an interrupt is answered in words; SIGQUIT stays the way out of a save that takes too long.
    """

    def __init__(self, said: Callable[[str], None]) -> None:
        self._said = said
        self._running: Running | None = None
        self._early: list[int] = []
        self._over = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        handlers = {**dict.fromkeys(_RELAYED, self._send), "SIGTSTP": self._stop}
        for name, handler in handlers.items():
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def to(self, running: Running) -> None:
        """Signals go to `running` from here on, those that came before it too."""
        self._running, self._over = running, False
        while self._early:
            running.send(self._early.pop(0))

    def over(self) -> None:
        """The command has ended: its process group may soon be another's."""
        self._over, self._running = True, None

    def _send(self, number: int, _frame: FrameType | None) -> None:
        if self._running is None and not self._over:
            self._early.append(number)
        elif self._running is None or not self._running.send(number):
            self._answer(number)

    def _answer(self, number: int) -> None:
        if number == signal.SIGQUIT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._said("the recording is being saved; Ctrl-\\ (SIGQUIT) leaves without it")

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        # A process group whose parents are in another session ignores SIGTSTP.
        if self._running is not None:
            self._running.send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._running is not None:
            self._running.send(signal.SIGCONT)


def tell_end(running: Running, ended: Callable[[], None]) -> None:
    """Call `ended` from another thread once the command itself has ended, whatever still runs around it."""

    def watch() -> None:
        running.known.wait()
        if running.group is not None:
            _wait_for(running.group)
            ended()

    threading.Thread(target=watch, daemon=True).start()


def _wait_for(pid: int) -> None:
    if sys.platform == "linux" and hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            try:
                select.select([handle], [], [])
            finally:
                os.close(handle)
            return
    with contextlib.suppress(OSError):
        while True:
            os.kill(pid, 0)
            time.sleep(_POLL_S)
