"""How the pages of `tetrace fp8` say numbers, and what was looked at."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tetrace.report.grid import Column, Grid
    from tetrace.trace.trace import Trace

UNKNOWN = "–"
# As tetrace/instrument/process.py says it; `tetrace report` and `tetrace doctor` do.
_NO_NUMBERS = "copies of cuDNN are loaded"
_UNKNOWN_NOTE = f"{UNKNOWN} was not recorded"


def title(trace: Trace, *words: str) -> str:
    """The recording's name and what of it is shown."""
    return " · ".join([trace.metadata.source, *words])


def notices(trace: Trace) -> tuple[str, ...]:
    """The recording's notices, without what is about how fast it was, or whether it ran, and not about numbers."""
    return tuple(line for line in trace.metadata.notices if _NO_NUMBERS not in line)


def by_rows(scalings: Collection[str]) -> tuple[str, ...]:
    """What to know of recipes with scales for blocks, where one is among these."""
    from tetrace.fp8.observations import BLOCK, BY_ROWS, MXFP8

    return (BY_ROWS,) if {BLOCK, MXFP8} & set(scalings) else ()


def number(value: float) -> str:
    """A number of any size with three digits: `0.0123`, `4.5e+06`."""
    return UNKNOWN if math.isnan(value) else f"{value:.3g}"


def share(value: float) -> str:
    """A share as a percentage."""
    from tetrace.fp8.flags import share_words

    return UNKNOWN if math.isnan(value) else share_words(value)


def bounds(lower: float, upper: float) -> str:
    """Two shares as percentages: one where they read the same."""
    words = share(lower), share(upper)
    return words[0] if words[0] == words[1] else f"{words[0]}..{words[1]}"


def decibels(value: float) -> str:
    """A ratio in dB."""
    if math.isnan(value):
        return UNKNOWN
    return "exact" if value == math.inf else f"{value:.1f}"


def steps(first: int, last: int, many: int) -> str:
    """Steps in words: `7`, `7–9`, `3 of 7–20`."""
    if first == last:
        return str(first)
    return f"{first}–{last}" if many == last - first + 1 else f"{many} of {first}–{last}"


def note(left: int, rows: tuple[tuple[str, ...], ...] = ()) -> str:
    """What stands below a table: rows that are left out, and what the dash means."""
    said = [f"{left:,} more row{'' if left == 1 else 's'}: --top 0 shows all"] if left > 0 else []
    if any(UNKNOWN in row for row in rows):
        said.append(_UNKNOWN_NOTE)
    return "; ".join(said)


def recorded(columns: Sequence[Column], rows: Sequence[tuple[str, ...]], always: Collection[str] = ()) -> Grid:
    """A grid without title, of the columns in which something was recorded, and of those with a head in `always`."""
    from tetrace.report.grid import Grid

    kept = [
        place
        for place, column in enumerate(columns)
        if not rows or column.head in always or any(row[place] != UNKNOWN for row in rows)
    ]
    return Grid("", tuple(columns[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows))


def first(rows: int, many: int) -> int:
    """How many of `many` rows are shown where `rows` (0: all) are wanted."""
    return many if rows <= 0 else min(rows, many)
