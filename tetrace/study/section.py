"""A section of a study's report, and how its numbers are written: the same for Markdown and the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tetrace.report.grid import Grid
from tetrace.study.statistics import APART, Estimate

Json = dict[str, Any]

NOTHING = "–"
# Names of configurations and errors are for reading: longer ones are cut.
LONGEST = 400
# A sign before a number, not the dash in a name or a date; and one before what rounds to 0.
_MINUS = re.compile(r"(?<![\w.)\]-])-(?=\d)")
_SIGNED_ZERO = re.compile(r"(?<![\w.])[+−](?=0(?:\.0+)?(?!\.?\d))")


@dataclass(frozen=True)
class Section:
    """`said` are sentences above the grids, `quoted` texts as they are (title, text), such as the end of an output.
    `charts` are blocks of the page and `more` grids of the page alone."""

    id: str
    title: str
    said: tuple[str, ...] = ()
    grids: tuple[Grid, ...] = ()
    quoted: tuple[tuple[str, str], ...] = ()
    charts: tuple[Json, ...] = ()
    more: tuple[Grid, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.said or self.grids or self.quoted or self.charts)

    def typeset(self) -> Section:
        """The section with one minus sign everywhere, and no sign before 0; code and quoted texts as they are."""
        grids, more = (tuple(map(_typeset, found)) for found in (self.grids, self.more))
        return replace(self, said=tuple(map(signs, self.said)), grids=grids, more=more)


def signs(text: str) -> str:
    """A text whose negative numbers have a proper minus, and whose zeros have no sign."""
    return _SIGNED_ZERO.sub("", _MINUS.sub("−", text))


def _typeset(grid: Grid) -> Grid:
    is_code = [column.code for column in grid.columns]
    rows = tuple(
        tuple(word if code else signs(word) for word, code in zip(row, is_code, strict=True)) for row in grid.rows
    )
    return replace(grid, title=signs(grid.title), rows=rows, total=tuple(map(signs, grid.total)), note=signs(grid.note))


def value_cell(found: Estimate | None, digits: int = 3) -> str:
    """The median; a dash where it was not measured."""
    return NOTHING if found is None else f"{found.value:,.{digits}f}"


def interval_cell(found: Estimate | None, digits: int = 3) -> str:
    """The interval; empty where there is none, and why where rounds were not side by side."""
    if found is not None and found.way == APART:
        return APART
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{found.low:,.{digits}f}–{found.high:,.{digits}f}"


def milliseconds(found: Estimate | None) -> Estimate | None:
    """An estimate of nanoseconds in milliseconds."""
    return None if found is None else found.mapped(lambda ns: ns / 1e6)


def times(found: Estimate | None) -> str:
    """A ratio with its interval in words: `1.203× (1.198 to 1.210)`."""
    if found is None:
        return "not measured"
    said = f"{found.value:.3f}×"
    if found.way == APART:
        return f"{said} ({APART})"
    return said if found.low is None or found.high is None else f"{said} ({found.low:.3f} to {found.high:.3f})"


def cut(text: str, longest: int = LONGEST) -> str:
    """The beginning of a text that nobody reads to its end."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def several(names: Sequence[str], most: int = 3) -> str:
    """Some names in few words: `a, b, c and 21 more`."""
    left = len(names) - most
    return ", ".join(names) if left <= 1 else f"{', '.join(names[:most])} and {left} more"


def without_empty(
    heads: Sequence[Any], rows: Sequence[tuple[str, ...]]
) -> tuple[tuple[Any, ...], tuple[tuple[str, ...], ...]]:
    """The columns that say something in some row, and the rows of those."""
    kept = [place for place in range(len(heads)) if any(row[place] not in ("", NOTHING) for row in rows)]
    return tuple(heads[place] for place in kept), tuple(tuple(row[place] for place in kept) for row in rows)
