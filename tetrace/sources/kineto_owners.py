"""Who did what in a PyTorch profiler file: its processes, threads and devices.

Host events carry their process and thread. GPU events carry a device in their place, so their process is that of
the call which launched them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.kineto_file import Scan
from tetrace.trace.arrays import column_of, text_column
from tetrace.trace.trace import make_table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

_THREAD_NAME = re.compile(r"thread -?\d+ \((.*)\)", re.DOTALL)  # `thread 25286 (pt_autograd_0)`
# `collect` packs process and thread into one integer. The file's own ids may be too large for that, so both are
# numbered here, and get their own ids back afterwards.
_THREAD_BITS = 24
_THREAD_MASK = (1 << _THREAD_BITS) - 1
# What csrc/kineto/recording.h gives ids that are no numbers.
_FIRST_TEXT_ID = np.iinfo(np.int64).min
_LAST_TEXT_ID = _FIRST_TEXT_ID + (1 << 31)
# Categories whose events carry the pid of a real process; frames of Python and overheads may carry 0 or -1.
_OF_PROCESSES = ("cuda_runtime", "cuda_driver", "cpu_op", "user_annotation")
_OTHERS = ("python_function", "overhead")


class Owners:
    """The processes and threads of one file, numbered."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self.pids = _pids(scan, _OF_PROCESSES) or _pids(scan, _OTHERS)
        only = 0 if len(self.pids) == 1 else -1
        processes = [self.pids.index(pid) if pid in self.pids else only for pid, _ in scan.threads]
        self._thread_process = np.array(processes, np.int64)

    def global_tid(self, thread: npt.NDArray[np.int32]) -> Integers:
        """Process and thread in one integer for threads of the scan; negative where the process is not known."""
        process = self._thread_process[thread]
        return np.where(process >= 0, (process << _THREAD_BITS) + thread, -1)

    def global_pid(
        self, correlation: Integers, device: Integers, launches: Mapping[str, Integers]
    ) -> tuple[Integers, int]:
        """Processes of GPU events with these correlations and devices, and how many of them are guesses.

        `launches` are the calls of the file. Several processes may use one correlation id, and a call may not have
        been recorded; then it is the process that most events of the device belong to.
        """
        if len(self.pids) < 2:
            return np.zeros(len(correlation), np.int64), 0
        process = _by_correlation(correlation, launches)
        unknown = process < 0
        for ordinal in np.unique(device[unknown]).tolist():
            same = device == ordinal
            known = process[same & ~unknown]
            process[same & unknown] = np.bincount(known).argmax() if len(known) else 0
        return process << _THREAD_BITS, int(unknown.sum())

    def thread_names(self) -> dict[int, str]:
        """Names of threads by `global_tid`."""
        named = {
            (pid, tid): name for of_thread, pid, tid, name in self._scan.namings if of_thread and not _is_stream(name)
        }
        names = {}
        for code, thread in enumerate(self._scan.threads):
            text = named.get(thread, b"").decode("utf-8", "replace") or self._text_id(thread[1])
            match = _THREAD_NAME.fullmatch(text)
            names[int(self.global_tid(np.array([code], np.int32))[0])] = match[1] if match else text
        return names

    def process_names(self) -> dict[int, str]:
        """Names of processes by `global_pid`."""
        named = {pid: name for of_thread, pid, _, name in self._scan.namings if not of_thread}
        names = [named.get(pid, b"").decode("utf-8", "replace") or self._text_id(pid) for pid in self.pids]
        # Only the name of the executable: its folder is somebody's file system.
        return {process << _THREAD_BITS: name.rsplit("/", 1)[-1] for process, name in enumerate(names)}

    def processes(self, numbered: pa.Table) -> pa.Table:
        """The table `processes` with the file's own ids in place of `numbered`'s."""
        codes = column_of(numbered.column("global_id")) >> _THREAD_BITS
        pids = [self.pids[code] if code < len(self.pids) else -1 for code in codes.tolist()]
        rank = _integer(self._scan.fact("distributedInfo"), "rank")
        columns = {
            "process": column_of(numbered.column("process")),
            "global_id": np.array(pids, np.int64),
            "pid": np.array([_number(pid) for pid in pids], np.int64),
            # One file is one rank's; files that were put together lose which was whose.
            "rank": np.full(len(pids), rank if len(pids) == 1 else -1, np.int32),
            "name": numbered.column("name").combine_chunks(),
        }
        return make_table("processes", columns, len(pids))

    def threads(self, numbered: pa.Table) -> pa.Table:
        """The table `threads` with the file's own ids in place of `numbered`'s."""
        codes = column_of(numbered.column("global_id")) & _THREAD_MASK
        tids = [self._scan.threads[code][1] for code in codes.tolist()]
        columns = {
            "thread": column_of(numbered.column("thread")),
            "process": column_of(numbered.column("process")),
            "global_id": np.array(tids, np.int64),
            "tid": np.array([_number(tid) for tid in tids], np.int64),
            "name": numbered.column("name").combine_chunks(),
        }
        return make_table("threads", columns, len(tids))

    def devices(self, activities: pa.Table) -> pa.Table:
        """The table `devices`: those that ran something, with what the file says of them."""
        pairs = np.column_stack([column_of(activities.column(name)) for name in ("process", "device")])
        # Neighbours are mostly of one device: what is left to sort is little.
        pairs = np.unique(pairs[np.append(True, (pairs[1:] != pairs[:-1]).any(axis=1))], axis=0)
        found = [_properties(self._scan).get(int(device), {}) for _, device in pairs]

        def fact(key: str, dtype: type[np.generic]) -> npt.NDArray[Any]:
            return np.array([_integer(one, key) for one in found], dtype)

        names = [str(one.get("name", "")) for one in found]
        words = list(dict.fromkeys(names)) or [""]
        major, minor = fact("computeMajor", np.int32), fact("computeMinor", np.int32)
        columns = {
            "process": pairs[:, 0].astype(np.int32),
            "device": pairs[:, 1].astype(np.int32),
            "sm_count": fact("numSms", np.int32),
            "memory_bytes": fact("totalGlobalMem", np.int64),
            "compute_capability": np.where((major < 0) | (minor < 0), -1, 10 * major + minor).astype(np.int32),
            "name": text_column(np.array([words.index(name) for name in names], np.int32), words),
        }
        return make_table("devices", columns, len(pairs))

    def _text_id(self, number: int) -> str:
        if _FIRST_TEXT_ID <= number < _LAST_TEXT_ID:
            return self._scan.text_ids[number - _FIRST_TEXT_ID].decode("utf-8", "replace")
        return ""


def _pids(scan: Scan, categories: tuple[str, ...]) -> list[int]:
    threads = {int(code) for name in categories for code in np.flatnonzero(np.bincount(scan.tables[name][0]["thread"]))}
    return sorted({scan.threads[code][0] for code in threads})


def _by_correlation(correlation: Integers, launches: Mapping[str, Integers]) -> Integers:
    """The process whose calls have each correlation; -1 where there is none, or more than one."""
    calls, process = launches["correlation"], launches["global_tid"] >> _THREAD_BITS
    order = np.lexsort((process, calls))
    calls, process = calls[order], process[order]
    first, behind = np.searchsorted(calls, correlation), np.searchsorted(calls, correlation, "right")
    found = (behind > first) & (correlation >= 0)
    answer = np.full(len(correlation), -1, np.int64)
    answer[found] = np.where(process[first[found]] == process[behind[found] - 1], process[first[found]], -1)
    return answer


def _is_stream(name: bytes) -> bool:
    # Kineto names streams as threads of a process whose pid is the device.
    return name.startswith(b"stream ")


def _number(identity: int) -> int:
    return identity if identity >= 0 else -1


def _integer(value: object, key: str) -> int:
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 1 << 62 else -1


def _properties(scan: Scan) -> dict[int, dict[str, Any]]:
    properties = scan.fact("deviceProperties")
    devices = properties if isinstance(properties, list) else [properties]
    return {_integer(device, "id"): device for device in devices if isinstance(device, dict)}
