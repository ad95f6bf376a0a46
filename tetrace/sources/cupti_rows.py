"""The files that the collector's library writes in a process's folder: frames of rows (csrc/collector/rows.h).

A process may be killed while it writes. What is whole is read, and the rest is said to be missing.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tetrace.errors import InputError

Integers = npt.NDArray[np.int64]

VERSION = 1
MAGIC, FRAME_MAGIC = b"TETRCUP", 0x4D415246
NO_TEXT = 0xFFFFFFFF
TEXT = 1

_ON_DEVICE = "correlation:u4 stream:u4 device:u4 context:u4"
_LAYOUTS = {
    "file": (0, "magic:(8,)S1 version:u4 cupti:u4 process:i8 reserved:i8"),
    "frame": (0, "magic:u4 kind:u2 row_bytes:u2 rows:u4 payload_bytes:u4"),
    "kernel": (
        2,
        f"start:i8 end:i8 graph_node:u8 {_ON_DEVICE} name:u4 graph:u4 grid:(3,)u4 block:(3,)u2 registers:u2 "
        "static_shared:u4 dynamic_shared:u4 unused:u4",
    ),
    "memcpy": (
        3,
        f"start:i8 end:i8 bytes:u8 graph_node:u8 {_ON_DEVICE} copy_kind:u1 source_kind:u1 destination_kind:u1 flags:u1 "
        "graph:u4",
    ),
    "memset": (4, f"start:i8 end:i8 bytes:u8 graph_node:u8 {_ON_DEVICE} value:u4 graph:u4"),
    "call": (
        5,
        "start:i8 end:i8 correlation:u4 thread:u4 domain:u2 unused:u2 call:u4 return_value:u4 unused_too:u4",
    ),
    "sync": (6, "start:i8 end:i8 correlation:u4 stream:u4 context:u4 event:u4 type:u4 unused:u4"),
    "overhead": (7, "start:i8 end:i8 type:u4 thread:u4"),
    "node": (8, "created:i8 node:u8 original:u8 thread:u4 graph:u4"),
    "device": (
        9,
        "device:u4 capability_major:u4 capability_minor:u4 multiprocessors:u4 memory_bytes:u8 "
        "bandwidth_bytes_per_s:u8 name:u4 unused:u4",
    ),
    "event": (10, "at:i8 what:u4 detail:u4 count:u8"),
    "call_name": (11, "domain:u4 call:u4 name:u4 unused:u4"),
}


def _dtype(fields: str) -> np.dtype[Any]:
    return np.dtype([(name, _format(word)) for name, word in (field.split(":") for field in fields.split())])


def _format(word: str) -> Any:
    shape, _, kind = word.rpartition(")")
    one = kind if kind.startswith("S") else f"<{kind}"
    return (one, tuple(int(size) for size in shape.strip("(").split(",") if size)) if shape else one


DTYPES: Mapping[str, np.dtype[Any]] = {name: _dtype(fields) for name, (_, fields) in _LAYOUTS.items()}
KINDS: Mapping[str, int] = {name: kind for name, (kind, _) in _LAYOUTS.items() if kind}
_NAMES = {kind: name for name, kind in KINDS.items()}


@dataclass
class Recorded:
    """What one process's library wrote. `cupti` is CUPTI's version, 0 where it recorded nothing of the GPU.

    Texts that rows name by number are in `texts`; `torn` says that the last frame was cut off.
    """

    cupti: int = 0
    texts: dict[int, str] = field(default_factory=dict)
    torn: bool = False
    _frames: dict[str, list[npt.NDArray[Any]]] = field(default_factory=dict)

    def count(self, kind: str) -> int:
        """Rows of a kind."""
        return sum(len(frame) for frame in self._frames.get(kind, ()))

    def column(self, kind: str, name: str) -> Integers:
        """A column of the rows of a kind as int64, shape (rows,) or (rows, 3); the bits of ids stay as they are."""
        dtype = DTYPES[kind][name]
        found = [frame[name].astype(np.int64) for frame in self._frames.get(kind, ())]
        return np.concatenate(found) if found else np.empty((0, *dtype.shape), np.int64)

    def text(self, number: int, otherwise: str = "") -> str:
        """The text with a number; `otherwise` where it did not reach the file."""
        return self.texts.get(number, otherwise)

    def add(self, kind: str, frame: npt.NDArray[Any]) -> None:
        """Adds the rows of a frame."""
        self._frames.setdefault(kind, []).append(frame)


def file_of(folder: Path) -> Path | None:
    """The file of frames in a process's folder; None where there is none."""
    path = folder / "cupti.bin"
    return path if path.exists() else None


def read(path: Path) -> Recorded:
    """The rows of one process. Raises `InputError` for a file of another kind or version."""
    recorded = Recorded()
    data = _contents(path)
    header = DTYPES["file"]
    if len(data) < header.itemsize:
        recorded.torn = True
        return recorded
    head = np.frombuffer(data, header, 1)[0]
    if bytes(data[: len(MAGIC)]) != MAGIC:
        raise InputError(f"{path}: not a file of the collector (it begins with {bytes(data[:8])!r}); leave it out")
    if head["version"] != VERSION:
        raise InputError(f"{path}: is of version {head['version']}; this tetrace reads version {VERSION}: update it")
    recorded.cupti = max(recorded.cupti, int(head["cupti"]))
    for kind, row_bytes, rows, begin, payload_bytes in _frames(data, header.itemsize, recorded):
        if kind == TEXT:
            recorded.texts.update(_texts(data[begin : begin + payload_bytes]))
        elif kind in _NAMES:
            name = _NAMES[kind]
            if row_bytes != DTYPES[name].itemsize or rows * row_bytes > payload_bytes:
                raise InputError(
                    f"{path}: rows '{name}' have {row_bytes} bytes, expected {DTYPES[name].itemsize}; "
                    "read it with the tetrace that recorded it"
                )
            recorded.add(name, np.frombuffer(data, DTYPES[name], rows, begin))
    return recorded


def _contents(path: Path) -> Any:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


_FRAME = struct.Struct("<IHHII")


def _frames(data: Any, begin: int, recorded: Recorded) -> Iterator[tuple[int, int, int, int, int]]:
    """Kind, bytes of a row, rows, and where the payload begins and how long it is, of each whole frame."""
    while begin < len(data):
        payload = begin + _FRAME.size
        magic, kind, row_bytes, rows, payload_bytes = (
            _FRAME.unpack_from(data, begin) if payload <= len(data) else (0, 0, 0, 0, 0)
        )
        if magic != FRAME_MAGIC or payload + payload_bytes > len(data):
            recorded.torn = True
            return
        yield kind, row_bytes, rows, payload, payload_bytes
        begin = payload + payload_bytes + -payload_bytes % 8


def _texts(payload: Any) -> Iterator[tuple[int, str]]:
    at = 0
    while at + 8 <= len(payload):
        number, length = struct.unpack_from("<II", payload, at)
        yield number, bytes(payload[at + 8 : at + 8 + length]).decode("utf-8", "replace")
        at += 8 + length + -length % 4
