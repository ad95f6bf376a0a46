"""The scan of a PyTorch profiler file: one thread reads and inflates it, another scans it, nothing else is kept."""

from __future__ import annotations

import json
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tetrace.errors import InputError

Progress = Callable[[int, int], None]

# The scan of a piece finds it in the second-level cache.
_PIECE_BYTES = 1 << 19
_PIECES_AHEAD = 16
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
AGAIN = "export it again with torch.profiler's export_chrome_trace, or copy it again"


@dataclass(frozen=True)
class Scan:
    """What `_C.KinetoScanner` found: the columns of its categories, before they are a trace.

    `tables` is, by category, columns of shape (rows,) and the words that the codes in `name` stand for;
    `threads` is (pid, tid) by the codes in `thread`; `namings` (of a thread?, pid, tid, name) in the order of the
    file; `facts` the JSON text of the few values beside the events; then what was left out, in events.
    """

    tables: Mapping[str, tuple[Mapping[str, Any], Sequence[bytes]]]
    threads: Sequence[tuple[int, int]]
    namings: Sequence[tuple[bool, int, int, bytes]]
    text_ids: Sequence[bytes]
    facts: Mapping[str, bytes]
    events: int
    has_events_list: bool
    is_unclosed: bool
    malformed: int
    untimed: int
    unended: int

    def counts(self) -> dict[str, int]:
        """Rows of each category that has any."""
        counts = {category: len(columns["start_ns"]) for category, (columns, _) in self.tables.items()}
        return {category: rows for category, rows in counts.items() if rows}

    def fact(self, key: str) -> Any:
        """The value `key` beside the events; None where there is none that can be read."""
        try:
            return json.loads(self.facts.get(key, b"null"))
        except ValueError:
            return None


def scan(path: Path, progress: Progress | None = None) -> Scan:
    """Scan the file `path`, plain or gzip.

    `progress` is told (bytes of the file done, bytes in all).
    Raises `InputError` when it is cut short, damaged, or no JSON that could be a trace.
    """
    from tetrace import _C

    scanner = _C.KinetoScanner()
    total = path.stat().st_size
    try:
        for done, piece in _ahead(_pieces(path)):
            scanner.feed(piece)
            if progress:
                progress(done, total)
        return Scan(**scanner.finish())
    except ValueError as error:
        raise InputError(f"{path}: not a whole JSON trace: {error}; {AGAIN}") from error
    except EOFError as error:
        raise InputError(f"{path}: the gzip file is cut short after {total:,} bytes; {AGAIN}") from error
    except zlib.error as error:
        raise InputError(f"{path}: the gzip file is damaged ({error}); {AGAIN}") from error


def _pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """The text of the file, inflated, in pieces, each with how many bytes of the file it takes to have it."""
    with path.open("rb") as file:
        is_gzip = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
        file.seek(0)
        if is_gzip:
            yield from _inflated(iter(lambda: file.read(_PIECE_BYTES), b""))
            return
        done = 0
        while piece := file.read(_PIECE_BYTES):
            done += len(piece)
            yield done, piece


def _inflated(pieces: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    inflater = zlib.decompressobj(_GZIP_WINDOW)
    done = 0
    for piece in pieces:
        done += len(piece)
        left = piece
        while left:
            if inflater.eof:  # gzip files may stand one behind the other, and be padded with zeros
                left = left.lstrip(b"\0")
                if not left:
                    break
                inflater = zlib.decompressobj(_GZIP_WINDOW)
            yield done, inflater.decompress(left, _PIECE_BYTES)
            left = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
    if not inflater.eof:
        raise EOFError


def _ahead(items: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """`items`, made by a thread of their own; what they raise is raised here."""
    with ThreadPoolExecutor(1, "tetrace-read") as reader:
        made = deque(reader.submit(next, items, None) for _ in range(_PIECES_AHEAD))
        while (item := made.popleft().result()) is not None:
            yield item
            made.append(reader.submit(next, items, None))
