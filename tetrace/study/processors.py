"""Which processors a configuration runs on while it is measured.

A step that launches small kernels takes as long as its host, and a host is not equally fast everywhere: a processor of a
rented machine may share its core with somebody else's work, and to wake the thread of the backward on another processor
costs more there than to switch to it on the same one. Kept on the same processors, all configurations meet the same host;
whatever else works for the study, such as a recorder that saves, is kept off them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

# Threads that launch: Python's own, and those of torch's autograd. Others, such as a recorder's, stay where they are.
_LAUNCHING = "pt_autograd"


def chosen(count: int) -> tuple[int, ...]:
    """`count` of those that this process may use, the last ones: interrupts go to the first. None for 0, and off Linux."""
    if count == 0 or not hasattr(os, "sched_getaffinity"):
        return ()
    return tuple(sorted(os.sched_getaffinity(0))[-count:])


@contextlib.contextmanager
def kept_off(cpus: Collection[int]) -> Iterator[None]:
    """Keep the calling thread, and the processes that it starts meanwhile, off `cpus`, as far as there are others."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before - set(cpus) or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def kept_on(cpus: Collection[int]) -> Iterator[None]:
    """`stay_on`, and back where the calling thread was."""
    before = os.sched_getaffinity(0) if cpus else set()
    stay_on(cpus)
    try:
        yield
    finally:
        if cpus:
            os.sched_setaffinity(0, before)


def stay_on(cpus: Collection[int]) -> None:
    """Keep the calling thread, which torch's are started by, on `cpus`, and the threads of autograd that there are.

    Does nothing for none. Threads that the calling one starts later stay there too.
    """
    if not cpus:
        return
    os.sched_setaffinity(0, cpus)
    for task in Path("/proc/self/task").iterdir():
        # A thread may end while it is looked at.
        with contextlib.suppress(OSError):
            if (task / "comm").read_text().startswith(_LAUNCHING):
                os.sched_setaffinity(int(task.name), cpus)
