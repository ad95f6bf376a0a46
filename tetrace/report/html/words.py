"""Names from a recording as charts and pages may show them: any text may be in them, of any length."""

from __future__ import annotations

from tetrace.report.grid import printable

LONGEST = 1200
_LONGEST_LABEL = 60
_ELLIPSIS = "…"


def shortened(word: str, longest: int = LONGEST) -> str:
    """`word` on one line, without control characters, its middle left out where it is longer than `longest`."""
    if len(word) > longest:
        head = (longest - 1) // 2
        word = word[:head] + _ELLIPSIS + word[len(word) - (longest - 1 - head) :]
    return printable(word)


def label(word: str, longest: int = _LONGEST_LABEL) -> str:
    """`word` as plotly shows it: it would take `<b>` and `<a href>` for markup, and `%{` for a field."""
    plain = shortened(word, longest).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return plain.replace("%{", "%\u200b{")
