"""A grid of words with aligned columns: the one form in which reports lay out rows, on a screen or in Markdown."""

from __future__ import annotations

import textwrap
import unicodedata
from dataclasses import dataclass

_GAP = 2
# Words are cut down to this many columns before columns are left out; names need more to be told apart.
_SHORTEST, _SHORTEST_NAME = 12, 36
_ELLIPSIS = "…"


@dataclass(frozen=True)
class Column:
    """`number` columns are aligned right and never cut; `keep` 0 stays longest when the screen is narrow.

    `code` marks names of kernels, modules, ranges and calls; `prose` sentences, which are cut at their end. Columns of one
    `pair` are left out together. Words are cut down to `least` columns before other columns are left out; 0: to what is
    usual. What is longer in a column that may `wrap` goes on in the next line instead of being cut.
    """

    head: str
    number: bool = True
    keep: int = 0
    code: bool = False
    pair: str = ""
    least: int = 0
    prose: bool = False
    wrap: bool = False

    def shortest(self, name: int) -> int:
        """How far words may be cut; those of `code` to `name` columns."""
        return self.least or (name if self.code else _SHORTEST)


@dataclass(frozen=True)
class Grid:
    """Rows of words under a title; `total` is the row that sums them up, `note` one line below."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    total: tuple[str, ...] = ()
    note: str = ""

    def lines(self, width: int, wide: bool = False) -> list[str]:
        """Head, rows and total as aligned lines of at most `width` columns; with `wide` names are not cut."""
        return self.fitted(width, wide)[0]

    def fitted(self, width: int, wide: bool = False) -> tuple[list[str], int]:
        """The lines, and how many columns had to be left out of them."""
        rows = [tuple(column.head for column in self.columns), *self.rows, *([self.total] if self.total else [])]
        rows = [tuple(printable(word) for word in row) for row in rows]
        shown, widths = self._fit(rows, width, wide)
        lines = [self._line(part, shown, widths) for row in rows for part in self._wrapped(row, shown, widths)]
        return lines, len(self.columns) - len(shown)

    def _fit(self, rows: list[tuple[str, ...]], width: int, wide: bool) -> tuple[list[int], dict[int, int]]:
        """Which columns are shown, and how wide: long words are cut first, then columns left out."""
        widths = {i: max(cells(row[i]) for row in rows) for i in range(len(self.columns))}
        shown = list(widths)
        if wide:
            return shown, widths
        while True:
            cuttable = [i for i in shown if not self.columns[i].number]
            droppable = [i for i in shown if self.columns[i].keep]
            over = sum(widths[i] + _GAP for i in shown) - _GAP - width
            while over > 0 and cuttable:
                least = _SHORTEST if len(shown) == 1 or not droppable else _SHORTEST_NAME
                longest = max(cuttable, key=lambda i: widths[i] - self.columns[i].shortest(least))
                if widths[longest] <= self.columns[longest].shortest(least):
                    break
                widths[longest] -= 1
                over -= 1
            if over <= 0 or not droppable:
                return shown, widths
            first = max(droppable, key=lambda i: (self.columns[i].keep, i))
            pair = self.columns[first].pair
            shown = [i for i in shown if i != first and not (pair and self.columns[i].pair == pair)]
            widths |= {i: max(cells(row[i]) for row in rows) for i in cuttable}

    def _wrapped(self, row: tuple[str, ...], shown: list[int], widths: dict[int, int]) -> list[tuple[str, ...]]:
        """The lines of a row: one where nothing is longer than its column, or nothing may wrap."""
        pieces = {
            i: textwrap.wrap(row[i], widths[i], subsequent_indent="  ", break_on_hyphens=False)
            for i in shown
            if self.columns[i].wrap and cells(row[i]) > widths[i]
        }
        height = max((len(one) for one in pieces.values()), default=1)
        padded = {i: [*one, *[""] * (height - len(one))] for i, one in pieces.items()}
        return [
            tuple(padded[i][k] if i in padded else (word if not k else "") for i, word in enumerate(row))
            for k in range(height)
        ]

    def _line(self, row: tuple[str, ...], shown: list[int], widths: dict[int, int]) -> str:
        words = []
        for i in shown:
            word = (cut_end if self.columns[i].prose else cut)(row[i], widths[i])
            space = " " * (widths[i] - cells(word))
            words.append(space + word if self.columns[i].number else word + space)
        return (" " * _GAP).join(words).rstrip()


def printable(word: str) -> str:
    """`word` on one line and without control characters, which names from a recording may hold."""
    if word.isprintable():
        return word
    return "".join(c if c.isprintable() else (" " if c.isspace() else "�") for c in word)


def cells(word: str) -> int:
    """Columns that `word` takes on a terminal."""
    return len(word) if word.isascii() else sum(_cells_of(c) for c in word)


def _cells_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(word: str, width: int) -> str:
    """`word` in at most `width` columns, its middle left out when it is longer: names differ at both ends."""
    if cells(word) <= width:
        return word
    head, tail = (width + 1) // 2 - 1, width // 2
    if word.isascii():
        return word[:head] + _ELLIPSIS + (word[-tail:] if tail else "")
    return _prefix(word, head) + _ELLIPSIS + _prefix(word[::-1], tail)[::-1]


def cut_end(line: str, width: int) -> str:
    """`line` in at most `width` columns, its end left out when it is longer."""
    return line if cells(line) <= width else _prefix(line, width - 1).rstrip() + _ELLIPSIS


def _prefix(word: str, width: int) -> str:
    taken = 0
    for i, character in enumerate(word):
        taken += _cells_of(character)
        if taken > width:
            return word[:i]
    return word
