"""The zip files that torch.save writes: entries kept as they are, found by the directory at the end of the file.

Nothing is unpacked and every size is held against the file's own, so no entry can be larger than what was stored.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

from tetrace.fp8.pickled import RefusedError

SIGNATURE = b"PK\x03\x04"
# The largest entry, directory or pickle that is read into memory; storages of FP8 states are some ten KiB.
LARGEST_BYTES = 256 << 20

_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _ENTRY_SIZE, _LOCAL_SIZE, _END_SIZE, _LOCATOR_SIZE = b"PK\x01\x02", 46, 30, 22, 20
_COMMENT_MAX = 0xFFFF
_IN_EXTRA = 0xFFFFFFFF
_EXTRA64 = 1


@dataclass(frozen=True)
class Entry:
    """Where an entry's local header begins, and how many bytes it holds; `stored` when they are kept as they are."""

    offset: int
    size: int
    stored: bool


class ZipArchive:
    """A seekable file of `size` bytes as entries by name. Raises `RefusedError` where it is no whole zip file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, os.SEEK_END)
        try:
            self.entries: Mapping[str, Entry] = dict(self._directory())
        except (struct.error, UnicodeDecodeError) as error:
            raise RefusedError(f"its zip directory is damaged ({error})") from error

    def read(self, name: str) -> bytes:
        """The bytes of an entry. Raises `RefusedError` for one that is missing, compressed, cut off or too large."""
        entry = self.entries.get(name)
        if entry is None:
            raise RefusedError(f"its zip has no entry {name[:100]!a}; the file is not whole")
        if not entry.stored:
            raise RefusedError(f"its entry {name[:100]!a} is compressed, and torch.save stores entries as they are")
        if entry.size > LARGEST_BYTES:
            raise RefusedError(
                f"its entry {name[:100]!a} has {entry.size} bytes, more than a state or a pickle can have"
            )
        header = self._at(entry.offset, _LOCAL_SIZE)
        if header[:4] != SIGNATURE:
            raise RefusedError(f"its entry {name[:100]!a} is not where its directory says")
        name_size, extra_size = struct.unpack_from("<HH", header, 26)
        return self._at(entry.offset + _LOCAL_SIZE + name_size + extra_size, entry.size)

    def _at(self, offset: int, size: int) -> bytes:
        if offset < 0 or size < 0 or offset + size > self._size:
            raise RefusedError(f"it ends before byte {offset + size}: the file is cut off")
        self._file.seek(offset)
        found = self._file.read(size)
        if len(found) != size:
            raise RefusedError(f"it ends before byte {offset + size}: the file is cut off")
        return found

    def _directory(self) -> Iterator[tuple[str, Entry]]:
        begin, size, count = self._directory_place()
        if size > LARGEST_BYTES or count * _ENTRY_SIZE > size:
            raise RefusedError(f"its zip directory is damaged ({count} entries in {size} bytes)")
        directory, place = self._at(begin, size), 0
        for _ in range(count):
            if directory[place : place + 4] != _ENTRY:
                raise RefusedError("its zip directory is damaged (an entry does not begin where it must)")
            flags, method = struct.unpack_from("<HH", directory, place + 8)
            packed, unpacked, name_size, extra_size, comment_size = struct.unpack_from("<IIHHH", directory, place + 20)
            (offset,) = struct.unpack_from("<I", directory, place + 42)
            begin_extra = place + _ENTRY_SIZE + name_size
            name = directory[place + _ENTRY_SIZE : begin_extra].decode("utf-8")
            extra = directory[begin_extra : begin_extra + extra_size]
            unpacked, packed, offset = _large_sizes(extra, unpacked, packed, offset)
            yield name, Entry(offset, unpacked, method == 0 and packed == unpacked and not flags & 1)
            place = begin_extra + extra_size + comment_size

    def _directory_place(self) -> tuple[int, int, int]:
        """Offset, bytes and entries of the directory."""
        tail_size = min(self._size, _END_SIZE + _COMMENT_MAX)
        tail = self._at(self._size - tail_size, tail_size)
        end = tail.rfind(_END)
        if end < 0 or len(tail) - end < _END_SIZE:
            raise RefusedError("it has no zip directory at its end: the file is cut off")
        count, size, offset = struct.unpack_from("<HII", tail, end + 10)
        if _IN_EXTRA not in (size, offset) and count != 0xFFFF:
            return offset, size, count
        locator = self._at(self._size - tail_size + end - _LOCATOR_SIZE, _LOCATOR_SIZE)
        if locator[:4] != _LOCATOR64:
            raise RefusedError("its zip directory is damaged (no place of its 64-bit end)")
        record = self._at(struct.unpack_from("<Q", locator, 8)[0], 56)
        if record[:4] != _END64:
            raise RefusedError("its zip directory is damaged (no 64-bit end)")
        count, size, offset = struct.unpack_from("<QQQ", record, 32)
        return offset, size, count


def _large_sizes(extra: bytes, unpacked: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Sizes and offset, those that need 64 bits from the extra field of zip64."""
    sizes, place = [unpacked, packed, offset], 0
    if _IN_EXTRA not in sizes:
        return unpacked, packed, offset
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, place)
        if kind == _EXTRA64:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, place + 4))
            sizes = [next(wide, size) if size == _IN_EXTRA else size for size in sizes]
        place += 4 + length
    return sizes[0], sizes[1], sizes[2]
