"""The files that a recording keeps of FP8 in a process' folder: rows of tensors, and scales of delayed scaling.

`fp8-rows.bin` is a header and chunks: each its sizes, then rows (`rows.ROW`), counts of histograms' bins, and counts of
blocks. `fp8-scales.bin` is a header and rows of `SCALE`. A killed process leaves whole chunks and at most a part of one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8.rows import ROW

if TYPE_CHECKING:
    import numpy.typing as npt

ROWS_FILE, SCALES_FILE = "fp8-rows.bin", "fp8-scales.bin"
_VERSION = 1
# Elements of the tensor `order` whose magnitude is in `bin`.
BIN = np.dtype([("order", "<i8"), ("bin", "<i4"), ("count", "<u4")])
# Its blocks of this layout whose amax has this exponent.
BLOCK = np.dtype([("order", "<i8"), ("layout", "<i2"), ("bin", "<i2"), ("count", "<u4")])
# Of one tensor at one update. `history_max` and `used` are of the history before it.
SCALE = np.dtype(
    [
        *(("site", "<i4"), ("step", "<i4"), ("scale", "<f4"), ("next_scale", "<f4"), ("amax", "<f4")),
        *(("history_max", "<f4"), ("length", "<i4"), ("used", "<i4")),
    ]
)
_HEADER = struct.Struct("<8sII")
_CHUNK = struct.Struct("<4sIII")
_CHUNK_MAGIC = b"FP8\n"
ROWS_HEADER = _HEADER.pack(b"TETRFP8\0", _VERSION, ROW.itemsize)
SCALES_HEADER = _HEADER.pack(b"TETRSCL\0", _VERSION, SCALE.itemsize)


@dataclass(frozen=True)
class Rows:
    """What a file of rows holds: arrays of `ROW`, `BIN` and `BLOCK`, in the order of writing."""

    rows: npt.NDArray[Any]
    bins: npt.NDArray[Any]
    blocks: npt.NDArray[Any]


def chunk(rows: bytes, bins: bytes = b"", blocks: bytes = b"") -> bytes:
    """One chunk, whose parts are arrays of the dtypes above as bytes."""
    sizes = len(rows) // ROW.itemsize, len(bins) // BIN.itemsize, len(blocks) // BLOCK.itemsize
    return _CHUNK.pack(_CHUNK_MAGIC, *sizes) + rows + bins + blocks


def read_rows(path: Path) -> Rows:
    """The rows of a file that a crash left whole; none of a file of another kind."""
    data = _content(path, ROWS_HEADER)
    parts: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
    at = 0
    while at + _CHUNK.size <= len(data):
        magic, *sizes = _CHUNK.unpack_from(data, at)
        if magic != _CHUNK_MAGIC:
            break
        at += _CHUNK.size
        for part, size, dtype in zip(parts, sizes, (ROW, BIN, BLOCK), strict=True):
            there = min(size, (len(data) - at) // dtype.itemsize)
            found = np.frombuffer(data, dtype, max(there, 0), min(at, len(data)))
            # Of the tensor at the cut some counts are missing: half a histogram is none.
            part.append(found if there == size or dtype is ROW else found[found["order"] != found["order"][-1:]])
            at += size * dtype.itemsize
    return Rows(*(_joined(part, dtype) for part, dtype in zip(parts, (ROW, BIN, BLOCK), strict=True)))


def read_scales(path: Path) -> npt.NDArray[Any]:
    """The scales of a file, shape (rows,); none of a file of another kind."""
    data = _content(path, SCALES_HEADER)
    return np.frombuffer(data, SCALE, len(data) // SCALE.itemsize)


def _content(path: Path, header: bytes) -> bytes:
    """What follows the header; nothing where there is no such file, or one of another kind."""
    try:
        data = path.read_bytes()
    except OSError:
        return b""
    return data[len(header) :] if data.startswith(header) else b""


def _joined(parts: list[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
