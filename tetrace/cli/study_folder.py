"""A folder of results while a study writes it: by one run at a time, which may be stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tetrace.errors import UsageError


@contextmanager
def stoppable() -> Iterator[None]:
    """A request to end (SIGTERM, a closed terminal) is answered as Ctrl-C is: what is measured stays."""
    before: dict[int, Callable[..., Any] | int | None] = {}
    for number in (int(signal.SIGTERM), int(signal.SIGHUP)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Two runs that write one folder would disturb each other. Raises `UsageError` where another one does."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror}); name another with --output") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UsageError(f"{folder}: another tetrace study writes it; wait, or name another with --output") from error
    except OSError:
        # Some network file systems have no locks.
        pass
    try:
        yield
    finally:
        os.close(handle)
