"""Becomes the user's command, under a profiler that has taken the standard streams and the signals for itself.

Run as `python -I -S launch.py SOCKET IGNORED BLOCKED COMMAND...` and therefore without anything of tetrace. SOCKET is
inherited: the standard streams come through it, so that the profiler never holds them, and `pid N` goes back, after it
`errno N` where the command cannot be executed. IGNORED and BLOCKED are signals as the user had them, with commas between.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys


def main() -> None:
    """Replaces this process by the command."""
    number, ignored, blocked = sys.argv[1:4]
    command = sys.argv[4:]
    tetrace = socket.socket(fileno=int(number))
    tetrace.set_inheritable(False)
    _restore_streams(tetrace)
    _restore_signals(set(_numbers(ignored)), set(_numbers(blocked)))
    # A group of its own: signals meant for the command, and for all that it starts, do not reach the profiler.
    # Nsight Systems starts a command as the leader of a session, which has a group of its own already.
    if os.getpgrp() != os.getpid():
        os.setpgid(0, 0)
    tetrace.sendall(f"pid {os.getpid()}\n".encode())
    try:
        os.execvp(command[0], command)
    except OSError as error:
        tetrace.sendall(f"errno {error.errno}\n".encode())
        os._exit(127)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _restore_streams(tetrace: socket.socket) -> None:
    """Put the streams where they belong: the message lists those that come with it, the user had closed the others."""
    message, sources, _, _ = socket.recv_fds(tetrace, 64, 3)
    targets = _numbers(message.decode())
    for closed in {0, 1, 2}.difference(targets):
        with contextlib.suppress(OSError):
            os.close(closed)
    for target, source in zip(targets, sources, strict=True):
        os.dup2(source, target)
    for source in sources:
        if source > 2:
            os.close(source)


def _restore_signals(ignored: set[int], blocked: set[int]) -> None:
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # Those that the C library keeps for itself are listed and refused.
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


if __name__ == "__main__":
    main()
