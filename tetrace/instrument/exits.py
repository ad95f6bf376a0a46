"""Notices how the script ends, on the ways out that run Python code, and changes none of them."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tetrace.instrument import masking, process


def install(finished: Callable[..., None]) -> Callable[[], None]:
    """Calls `finished(reason, **facts)` once, at the end of this process; returns the function that takes it out.

    The interpreter leaves an unhandled exception in `sys.last_value` before it runs `atexit`, so that neither
    `sys.excepthook` nor a signal handler has to be replaced. A signal that kills runs nothing: no `finished` then.
    """
    owner, plain = os.getpid(), os._exit

    def leave(status: int) -> NoReturn:
        if os.getpid() == owner:
            with process.guarded("ending the recording"):
                finished("os._exit", code=status)
        plain(status)

    def end() -> None:
        if os.getpid() == owner:
            with process.guarded("ending the recording"):
                finished(*_reason())

    def restore() -> None:
        atexit.unregister(end)
        if os._exit is leave:
            os._exit = plain

    atexit.register(end)
    os._exit = leave
    return restore


def _reason() -> tuple[Any, ...]:
    return ("exception",) if getattr(sys, "last_value", None) is not None else ("end",)


def exception() -> str | None:
    """The exception that ends the script, in one line, None when there is none."""
    value = getattr(sys, "last_value", None)
    if value is None:
        return None
    name = type(value).__name__
    try:
        return masking.plain(f"{name}: {value}".split("\n")[0][:500])
    except Exception:  # what str() of the script's exception raises is not ours to judge
        return name
