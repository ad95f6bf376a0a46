"""Protocol buffers written by the column: one call encodes a field of many messages.

A million messages as Python objects take minutes; as arrays of bytes they take seconds. `Cells` are the bytes of one
field, or of several, of many messages; `joined` puts the fields of each message one after another.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Lengths = npt.NDArray[np.int64]

_VARINT, _FIXED64, _LENGTH_DELIMITED = 0, 1, 2
_SEVEN_BITS = np.uint64(7)


# --- one message ------------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A whole number >= 0, seven bits a byte, the lowest first."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def key(number: int, wire_type: int) -> bytes:
    """What stands before field `number`."""
    return varint(number << 3 | wire_type)


def field(number: int, value: float | str | bytes) -> bytes:
    """Field `number`: a whole number >= 0 as varint, a float as fixed64, text as UTF-8, bytes (a message) as they are."""
    if isinstance(value, float):
        return key(number, _FIXED64) + struct.pack("<d", value)
    if isinstance(value, int):
        return key(number, _VARINT) + varint(value)
    encoded = value.encode("utf-8", "replace") if isinstance(value, str) else value
    return key(number, _LENGTH_DELIMITED) + varint(len(encoded)) + encoded


# --- many messages ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cells:
    """Bytes of many messages: of row i the first `length[i]` of `cells[i]` count. Shapes (rows, width) and (rows,).

    `whole` says that all of them do.
    """

    cells: Bytes
    length: Lengths
    whole: bool = False

    def at(self, rows: npt.NDArray[Any]) -> Cells:
        """Those of these rows."""
        return Cells(self.cells[rows], self.length[rows])


def constant(content: bytes, rows: int) -> Cells:
    """The same bytes in each row."""
    cells = np.broadcast_to(np.frombuffer(content, np.uint8), (rows, len(content)))
    return Cells(cells, np.full(rows, len(content)), whole=True)


def table(contents: Sequence[bytes]) -> Cells:
    """Bytes of different length, one a row."""
    length = np.array([len(one) for one in contents], np.int64)
    width = int(length.max(initial=0))
    padded = b"".join(one.ljust(width, b"\0") for one in contents)
    return Cells(np.frombuffer(padded, np.uint8).reshape(len(contents), width), length)


def varints(values: npt.NDArray[Any]) -> Cells:
    """A whole number >= 0 in each row."""
    rest = values.astype(np.uint64)
    width = max(1, -(-int(rest.max(initial=0)).bit_length() // 7))
    cells = np.empty((len(rest), width), np.uint8)
    length = np.ones(len(rest), np.int64)
    for place in range(width):
        cells[:, place] = rest & np.uint64(0x7F)
        rest = rest >> _SEVEN_BITS
        more = rest > 0
        cells[:, place] |= more.astype(np.uint8) << 7
        length += more
    return Cells(cells, length)


def fixed64(number: int, values: npt.NDArray[Any]) -> Bytes:
    """Field `number` of eight bytes (int64, uint64 or float64), shape (rows, width)."""
    head = np.frombuffer(key(number, _FIXED64), np.uint8)
    cells = np.empty((len(values), len(head) + 8), np.uint8)
    cells[:, : len(head)] = head
    cells[:, len(head) :] = (
        np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<")).view(np.uint8).reshape(-1, 8)
    )
    return cells


def where(present: npt.NDArray[np.bool_], cells: Cells) -> Cells:
    """`cells` in the rows that have them, nothing in the others."""
    return Cells(cells.cells, np.where(present, cells.length, 0))


def side_by_side(*parts: Cells) -> Cells:
    """The parts of each row one after another, still apart: the bytes that count are in front in each row."""
    flat = joined(parts)
    length = np.sum([part.length for part in parts], axis=0)
    cells = np.zeros((len(length), int(length.max(initial=0))), np.uint8)
    cells[_kept(cells.shape[1], length)] = flat
    return Cells(cells, length)


def joined(parts: Sequence[Cells]) -> Bytes:
    """All bytes that count, row by row, in each row part by part."""
    rows, width = len(parts[0].length), sum(part.cells.shape[1] for part in parts)
    cells, kept = np.empty((rows, width), np.uint8), np.empty((rows, width), np.bool_)
    first = 0
    for part in parts:
        last = first + part.cells.shape[1]
        cells[:, first:last] = part.cells
        kept[:, first:last] = True if part.whole else _kept(last - first, part.length)
        first = last
    return cells[kept]


def with_tails(content: Bytes, length: Lengths, tails: Bytes, count: npt.NDArray[Any]) -> Bytes:
    """`content`, whose rows have these lengths, with `count` of the rows of `tails`, shape (tails, width), behind each."""
    if not len(tails):
        return content
    width = tails.shape[1]
    whole = np.empty(len(content) + tails.size, np.uint8)
    ends = np.cumsum(length)
    of_row = np.repeat(np.arange(len(length)), count)
    begins = ends[of_row] + np.arange(len(tails)) * width
    is_tail = np.zeros(len(whole), np.bool_)
    places = begins[:, None] + np.arange(width)
    is_tail[places] = True
    whole[places] = tails
    whole[~is_tail] = content
    return whole


def _kept(width: int, length: Lengths) -> npt.NDArray[np.bool_]:
    # Bytes compare faster than numbers of eight: no message here is as wide as that.
    dtype: Any = np.uint16 if width > 0xFF else np.uint8
    kept: npt.NDArray[np.bool_] = np.arange(width, dtype=dtype) < length.astype(dtype)[:, None]
    return kept
