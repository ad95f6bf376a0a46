"""Which processors a configuration runs on while it is measured.

A step that launches small kernels takes as long as its host, and a host is not equally fast everywhere: a processor of a
rented machine may share its core with somebody else's work, for seconds at a time, and then takes nearly twice as long for
everything; and to wake the thread of the backward on another processor costs more than to switch to it on the same one.
So all configurations are kept on the same processors; before each turn these are looked at, and where they are disturbed
others take their place. Whatever else works for the study, such as a recorder that saves, is kept off them, and off
what shares their cores.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

# Threads that launch: Python's own, and those of torch's autograd. Others, such as a recorder's, stay where they are.
_LAUNCHING = "pt_autograd"
# The work that tells how fast a processor is just now, a millisecond or so, and how often it is done by each.
_WORK, _PASSES = 50_000, 5
# Against the least time of that work: clocks differ by less, and a core that is shared takes half as long again.
_DISTURBED = 1.2


class Place:
    """`count` of the processors that this process may use, for all configurations alike; none for 0, and off Linux.

    As a context it keeps the calling thread, and the processes that it starts, off them, as far as there are others.
    """

    def __init__(self, count: int) -> None:
        """Looks at nothing yet."""
        self._usable = sorted(os.sched_getaffinity(0)) if count and hasattr(os, "sched_getaffinity") else []
        self._count = min(count, len(self._usable))
        self._cpus: tuple[int, ...] = ()
        self._least_ns = 0.0

    def __enter__(self) -> Self:
        # Also what is built before the first turn is kept off them.
        self.settle()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._usable:
            os.sched_setaffinity(0, self._usable)

    def settle(self) -> tuple[int, ...]:
        """Where the next turn is: where the last one was, unless that is disturbed now."""
        if self._count == len(self._usable):
            return tuple(self._usable)
        if not self._cpus or self._are_disturbed():
            took = self._times(self._usable)
            # Interrupts go to the first ones: of equals, the last.
            best = sorted(self._usable, key=lambda cpu: (took[cpu], -cpu))
            self._cpus = tuple(sorted(best[: self._count]))
        others = set(self._usable) - set(self._cpus)
        os.sched_setaffinity(0, others - _beside(self._cpus) or others)
        return self._cpus

    def _are_disturbed(self) -> bool:
        return max(self._times(self._cpus).values()) > _DISTURBED * self._least_ns

    def _times(self, cpus: Sequence[int]) -> dict[int, float]:
        """Median time of the same work on each, in turns."""
        took: dict[int, list[int]] = {cpu: [] for cpu in cpus}
        for _ in range(_PASSES):
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                began = time.perf_counter_ns()
                for _ in range(_WORK):
                    pass
                took[cpu].append(time.perf_counter_ns() - began)
        found = {cpu: statistics.median(times) for cpu, times in took.items()}
        self._least_ns = min(filter(None, (self._least_ns, *found.values())))
        return found


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


def _beside(cpus: Collection[int]) -> set[int]:
    """Processors that are threads of the same cores, where the system says."""
    found = set[int]()
    for cpu in cpus:
        # Ranges and single ones: `0,8` or `0-1`.
        with contextlib.suppress(OSError):
            listed = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
            for part in listed.strip().split(","):
                first, _, last = part.partition("-")
                found.update(range(int(first), int(last or first) + 1))
    return found - set(cpus)
