"""The files that a recording keeps of FP8 in a process' folder: rows of tensors, and scales of delayed scaling.

`fp8-rows.bin` is a header and chunks: each its sizes, then rows (`rows.ROW`), histograms (`packed`), and counts of blocks.
`fp8-scales.bin` is a header and rows of `SCALE`. A killed process leaves whole chunks and at most a part of one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace import _C
from tetrace.fp8.rows import ROW

if TYPE_CHECKING:
    import numpy.typing as npt

ROWS_FILE, SCALES_FILE = "fp8-rows.bin", "fp8-scales.bin"
_VERSION = 2
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
_WORD = np.dtype("<u4")
_HEADER = struct.Struct("<8sII")
_CHUNK = struct.Struct("<4sIII")
_CHUNK_MAGIC = b"FP8\n"
_ROWS_MAGIC = b"TETRFP8\0"
ROWS_HEADER = _HEADER.pack(_ROWS_MAGIC, _VERSION, ROW.itemsize)
SCALES_HEADER = _HEADER.pack(b"TETRSCL\0", _VERSION, SCALE.itemsize)
# The notice of a trace whose files of rows are of another layout.
UNREADABLE = (
    "the FP8 rows are of another version of tetrace and left out: read the recording with the version that made it, or "
    "record again"
)


@dataclass(frozen=True)
class Rows:
    """What a file of rows holds: arrays of `ROW`, `BIN` and `BLOCK`, in the order of writing."""

    rows: npt.NDArray[Any]
    bins: npt.NDArray[Any]
    blocks: npt.NDArray[Any]


def chunk(rows: bytes, bins: bytes = b"", blocks: bytes = b"") -> bytes:
    """One chunk. `rows` and `blocks` are arrays of the dtypes above as bytes, `bins` are `packed`."""
    sizes = len(rows) // ROW.itemsize, len(bins) // _WORD.itemsize, len(blocks) // BLOCK.itemsize
    return b"".join((_CHUNK.pack(_CHUNK_MAGIC, *sizes), rows, bins, blocks))


def packed(order: int, counts: npt.NDArray[Any]) -> bytes:
    """The histogram of a tensor, shape (bins,), as `_C.fp8_unpack_bins` reads it; nothing where it is empty."""
    places = np.flatnonzero(counts)
    if not len(places):
        return b""
    first, end = int(places[0]), int(places[-1]) + 1
    head = [order & 0xFFFFFFFF, order >> 32, first | (end - first) << 16]
    return np.array([*head, *counts[first:end].tolist()], _WORD).tobytes()


def unpacked(bins: bytes, is_cut: bool = False) -> npt.NDArray[Any]:
    """Histograms as an array of `BIN`; of those that a crash cut off, without the one at the cut."""
    return np.frombuffer(_C.fp8_unpack_bins(bins, is_cut), BIN)


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
        for part, size, dtype in zip(parts, sizes, (ROW, _WORD, BLOCK), strict=True):
            there = max(min(size, (len(data) - at) // dtype.itemsize), 0)
            content = data[at : at + there * dtype.itemsize]
            part.append(_part(content, dtype, there < size))
            at += size * dtype.itemsize
    return Rows(*(_joined(part, dtype) for part, dtype in zip(parts, (ROW, BIN, BLOCK), strict=True)))


def _part(content: bytes, dtype: np.dtype[Any], is_cut: bool) -> npt.NDArray[Any]:
    """What is whole. Of the tensor at a cut some counts are missing: half a histogram is none."""
    if dtype is _WORD:
        return unpacked(content, is_cut)
    found = np.frombuffer(content, dtype)
    return found[found["order"] != found["order"][-1:]] if is_cut and dtype is BLOCK else found


def is_other_version(path: Path) -> bool:
    """Whether it is a file of rows, and of a layout that is not the one read here."""
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER.size)
    except OSError:
        return False
    return len(header) == _HEADER.size and header.startswith(_ROWS_MAGIC) and header != ROWS_HEADER


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
