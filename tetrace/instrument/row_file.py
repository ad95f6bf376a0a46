"""Rows of times of modules in a file without buffers, so that a killed process leaves what it wrote.

A header of 16 bytes (`HEADER`), then rows of `ROW`, little endian. tetrace/sources/events.py reads them.
"""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

MAGIC = b"TETRTIM\0"
HEADER = MAGIC + struct.pack("<II", 1, 24)
ROW = np.dtype([("site", "<i4"), ("step", "<i4"), ("count", "<i4"), ("skipped", "<i4"), ("stream_elapsed_ns", "<i8")])
_AT_ONCE = 1 << 18


class RowFile:
    """Appends rows to `file`, which is open for it; stops without a word where its disk is full."""

    def __init__(self, file: IO[bytes] | io.FileIO) -> None:
        self._file: Any = file
        self.rows = 0
        self._write(HEADER)

    def append(self, rows: bytes) -> None:
        """Rows as `tetrace._C.timing_rows` gives them."""
        if self._write(rows):
            self.rows += len(rows) // ROW.itemsize

    def _write(self, data: bytes) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._file.write(data) == len(data)
        return False

    def read(self) -> Iterator[Any]:
        """All rows, some hundred thousand at a time; the file must be open for reading too."""
        self._file.seek(len(HEADER))
        left = self.rows
        while left > 0:
            data = self._file.read(min(left, _AT_ONCE) * ROW.itemsize)
            if not data:
                break
            yield np.frombuffer(data[: len(data) // ROW.itemsize * ROW.itemsize], ROW)
            left -= len(data) // ROW.itemsize
        self._file.seek(0, io.SEEK_END)
