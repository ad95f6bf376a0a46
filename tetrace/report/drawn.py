"""What tracks and slices are called in files that other programs draw."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tetrace.report.grid import cut, printable

if TYPE_CHECKING:
    from tetrace.trace.trace import Trace

# Characters of a name that are kept: what tells kernels apart stands in front, and behind.
LONGEST = 4000
_LARGEST_PID = (1 << 31) - 1


def safe(word: str) -> str:
    """`word` on one line, without characters that command a screen, and its middle left out (`…`) where it is very long."""
    return cut(printable(word), LONGEST) if len(word) > LONGEST else printable(word)


class Numbers:
    """Numbers of processes and threads that tell them apart, the recorded ones where those do, by row of the tables."""

    def __init__(self, trace: Trace) -> None:
        self.pids = _apart(trace.column("processes", "pid").tolist())
        self.tids = _apart(trace.column("threads", "tid").tolist())


def _apart(numbers: list[int]) -> list[int]:
    """The numbers themselves, those that occur twice or are none of a process replaced: 0 is the kernel's own."""
    used: set[int] = set()
    spare = max([number for number in numbers if number < _LARGEST_PID // 2], default=0)
    found = []
    for number in numbers:
        if number in used or not 0 < number <= _LARGEST_PID:
            spare = max(spare, 0) + 1
            number = spare
        used.add(number)
        found.append(number)
    return found


def process_name(trace: Trace, process: int) -> str:
    """`rank 0 · python3`, with the pid as it was recorded."""
    rank, pid = (int(trace.column("processes", name)[process]) for name in ("rank", "pid"))
    word = trace.words("processes", "name")[int(trace.column("processes", "name")[process])]
    parts = [f"rank {rank}" if rank >= 0 else "", word or "process", f"pid {pid}" if pid >= 0 else ""]
    return safe(" · ".join(filter(None, parts)))


def thread_name(trace: Trace, thread: int) -> str:
    """The thread's own name, or its number."""
    word = trace.words("threads", "name")[int(trace.column("threads", "name")[thread])]
    tid = int(trace.column("threads", "tid")[thread])
    return safe(word or (f"thread {tid}" if tid >= 0 else "thread"))


def device_name(trace: Trace, process: int, device: int) -> str:
    """`GPU 0 · NVIDIA H200`; the number is that of the process."""
    rows = zip(*(trace.column("devices", name).tolist() for name in ("process", "device", "name")), strict=True)
    words = trace.words("devices", "name")
    named = next((words[code] for owner, ordinal, code in rows if (owner, ordinal) == (process, device)), "")
    return safe(" · ".join(filter(None, (f"GPU {device}" if device >= 0 else "GPU", named))))


def stream_number(name: str) -> int:
    """The number in a stream's name for its place among others, 0 where there is none."""
    found = re.search(r"\d+", name)
    return min(int(found[0]), _LARGEST_PID - 1) if found else 0
