"""What tetrace's collector leaves in a process's folder, in a few readable lines. Times are in ns.

(
    Collected()
    .event(ON, at=1000)
    .launch("_Z4gemmv", call=(1005, 1008), runs=(1010, 1030))
    .range("forward", 1000, 1040)
    .write(folder)
)
"""

from __future__ import annotations

import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from tetrace.sources.cupti_rows import DTYPES, FRAME_MAGIC, KINDS, NO_TEXT, TEXT
from tetrace.trace.trace import Trace

PID, MAIN, AUTOGRAD = 100, 100, 101
CALLS = {
    "cudaLaunchKernel_v7000": 211,
    "cudaMemcpyAsync_v3020": 41,
    "cudaGraphLaunch_v10000": 311,
    "cudaGetDevice_v3020": 16,
}
_NVTX_TEXT = 1 << 31


class Collected:
    """Files of one process in the making; every method returns it."""

    def __init__(self, pid: int = PID, cupti: int = 130000, version: int = 1, program: int = 0) -> None:
        self.pid, self._cupti, self._version = pid, cupti, version
        self._folder = f"process-{pid}" + (f"-{program}" if program else "")
        self._frames: list[tuple[int, int, int, bytes]] = []
        self._texts: dict[str, int] = {}
        self._calls: set[int] = set()
        self._correlations = itertools.count(1)
        self._rings: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        self._sites: list[dict[str, Any]] = []

    def rows(self, kind: str, **columns: Any) -> Collected:
        """A frame of one row as it is; fields that are not given are 0."""
        row = np.zeros(1, DTYPES[kind])
        for name, value in columns.items():
            row[name] = value
        return self.frame(KINDS[kind], row.itemsize, 1, row.tobytes())

    def frame(self, kind: int, row_bytes: int, rows: int, payload: bytes) -> Collected:
        """A frame as it is."""
        self._frames.append((kind, row_bytes, rows, payload))
        return self

    def text(self, text: str, bit: int = 0) -> int:
        """The number of a text, in a frame of its own when it is new."""
        if text not in self._texts:
            self._texts[text] = len(self._texts) | bit
            encoded = text.encode()
            payload = struct.pack("<II", self._texts[text], len(encoded)) + encoded + bytes(-len(encoded) % 4)
            self.frame(TEXT, 0, 1, payload)
        return self._texts[text]

    def event(self, what: int, at: int, detail: str = "", count: int = 0) -> Collected:
        """Something that happened."""
        return self.rows("event", at=at, what=what, detail=self.text(detail) if detail else NO_TEXT, count=count)

    def device(self, device: int = 0, name: str = "NVIDIA H200") -> Collected:
        """What CUPTI says of a device."""
        facts = {"capability_major": 9, "multiprocessors": 132, "memory_bytes": 150 << 30}
        return self.rows(
            "device", device=device, name=self.text(name), bandwidth_bytes_per_s=4_800_000_000_000, **facts
        )

    def call(
        self, name: str, start: int, end: int, correlation: int = 0, thread: int = MAIN, return_value: int = 0
    ) -> Collected:
        """An API call of the runtime; `return_value` is 0 where it succeeded."""
        number = CALLS.setdefault(name, 900 + len(CALLS))
        if number not in self._calls:
            self._calls.add(number)
            self.rows("call_name", call=number, name=self.text(name))
        told = {"correlation": correlation, "thread": thread, "call": number, "return_value": return_value}
        return self.rows("call", start=start, end=end, **told)

    def launch(
        self, name: str, call: tuple[int, int], runs: tuple[int, int], thread: int = MAIN, stream: int = 7, **more: Any
    ) -> Collected:
        """A call that launches a kernel, and the kernel."""
        number = next(self._correlations)
        self.call("cudaLaunchKernel_v7000", *call, correlation=number, thread=thread)
        return self.kernel(name, *runs, correlation=number, stream=stream, **more)

    def kernel(self, name: str, start: int, end: int, **more: Any) -> Collected:
        """A kernel; `more` are columns of its row."""
        size = {"grid": (2, 1, 1), "block": (128, 1, 1), "registers": 32, "static_shared": 16, "dynamic_shared": 1024}
        return self.rows("kernel", start=start, end=end, name=self.text(name), **{"context": 1, **size, **more})

    def range(
        self, text: str, start: int, end: int, thread: int = MAIN, depth: int = 0, sequence: int = -1
    ) -> Collected:
        """An NVTX range of the default domain, or of "DOMAIN:TEXT"; `end` 0 is still open."""
        domain, _, name = text.rpartition(":")
        number = self.text(f"{domain}\x1f{name}", _NVTX_TEXT) - (1 << 32)
        self._rings.setdefault(("nvtx", thread), []).append((start, end, sequence, number, -1, depth))
        return self

    def site(
        self, kind: str, name: str, start: int, end: int, step: int = 0, thread: int = MAIN, **more: Any
    ) -> Collected:
        """A range of tetrace's instrumentation; `more` are phase, module, ... of its site."""
        described = {"kind": kind, "name": name, "phase": "", "module": "", **more}
        if described not in self._sites:
            self._sites.append(described)
        depth = -1 if kind == "step" else 0
        row = (start, end, -1, self._sites.index(described), step, depth)
        self._rings.setdefault(("ranges", thread), []).append(row)
        return self

    def bytes(self) -> bytes:
        """cupti.bin."""
        head = np.zeros(1, DTYPES["file"])
        head["version"], head["cupti"], head["process"] = self._version, self._cupti, self.pid
        whole = b"TETRCUP\0" + head.tobytes()[8:]
        for kind, row_bytes, rows, payload in self._frames:
            whole += struct.pack("<IHHII", FRAME_MAGIC, kind, row_bytes, rows, len(payload))
            whole += payload + bytes(-len(payload) % 8)
        return whole

    def write(self, folder: Path, thread_name: str = "python") -> Path:
        """The process's folder in a working folder, which is returned."""
        own = folder / self._folder
        own.mkdir(parents=True)
        (own / "cupti.bin").write_bytes(self.bytes())
        (own / "process.json").write_text(json.dumps({"pid": self.pid}))
        lines = (json.dumps({"site": number, **site}) + "\n" for number, site in enumerate(self._sites))
        (own / "sites.jsonl").write_text("".join(lines))
        for (prefix, thread), found in self._rings.items():
            (own / f"{prefix}-{thread}.bin").write_bytes(_ring(self.pid, thread, thread_name, found))
        (folder / "run.json").write_text("{}")
        return folder


def _ring(pid: int, thread: int, name: str, rows: list[tuple[Any, ...]]) -> bytes:
    """A ring (csrc/ranges/ring.h) whose ticks are nanoseconds."""
    anchor = struct.pack("<Qq", rows[0][0], rows[0][0])
    header = b"TETRING\0" + struct.pack("<IIqq32sd", 1, 40, pid, thread, name.encode(), 1e9)
    header += struct.pack("<QQQ", len(rows), 0, len(rows)) + anchor + struct.pack("<II", 1, 0) + anchor
    return header.ljust(4096, b"\0") + b"".join(struct.pack("<QQqiiii", *row, 0) for row in sorted(rows))


def table(trace: Trace, name: str, *columns: str) -> list[tuple[Any, ...]]:
    """Rows of a table; columns as named."""
    return list(zip(*trace.tables[name].select(list(columns)).to_pydict().values(), strict=True))
