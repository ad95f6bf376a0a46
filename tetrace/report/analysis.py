"""A breakdown that a notebook can show: as a short page of its own, and as plotly figures."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.breakdown.analysis import Breakdown
from tetrace.breakdown.findings import findings
from tetrace.breakdown.verdict import verdict
from tetrace.report import content
from tetrace.report.grid import printable
from tetrace.report.scale import scale_of

if TYPE_CHECKING:
    from tetrace.report.html.figures import Figures

_MOST_FINDINGS = 5
_LONGEST = 400


@dataclass(frozen=True, repr=False)
class Analysis(Breakdown):
    """What `tetrace.analyze` returns: a `Breakdown` with `figures`."""

    @classmethod
    def of(cls, breakdown: Breakdown) -> Analysis:
        """The same breakdown as an analysis."""
        return cls(**{field.name: getattr(breakdown, field.name) for field in dataclasses.fields(breakdown)})

    @property
    def figures(self) -> Figures:
        """Charts as plotly figures: `figures.steps()`, `figures.icicle()`, ..."""
        from tetrace.report.html.figures import Figures

        return Figures(self)

    def _repr_html_(self) -> str:
        """Verdict, time and findings. Every word is escaped: names from a recording may hold anything."""
        return f'<div style="max-width:60em;line-height:1.5">{"".join(_parts(self))}</div>'


def _parts(analysis: Analysis) -> Iterator[str]:
    yield f'<p style="margin:0;opacity:.7">{_text(content.origin(analysis))}</p>'
    yield f'<p style="margin:.4em 0;font-size:1.15em"><b>{_text(verdict(analysis))}</b></p>'
    for line in content.notices(analysis):
        yield f'<p style="margin:0">Note: {_text(line)}</p>'
    if not analysis.totals.activities:
        return
    scale = scale_of(analysis)
    yield f'<p style="margin:0;opacity:.7">{_text(content.steps_used(analysis, brief=True))}</p>'
    yield '<table style="margin:.6em 0;border-collapse:collapse">'
    yield _row("th", ("time", scale.head, "of wall", ""))
    for stretch in content.time(analysis, scale, fold=True):
        yield _row("td", (stretch.label.strip(), stretch.ms, stretch.percent, stretch.remark))
    yield "</table>"
    found = findings(analysis)
    if found:
        yield '<ol style="margin:.4em 0">'
        for finding in found[:_MOST_FINDINGS]:
            yield f"<li><b>{_text(finding.cost)}</b>: {_text(finding.title)} ({_text(finding.advice)})</li>"
        yield "</ol>"
    yield f'<p style="margin:0;opacity:.7">Tables: {_text(", ".join(analysis.tables))}. Charts: .figures</p>'


def _row(tag: str, words: tuple[str, str, str, str]) -> str:
    sides = ("left", "right", "right", "left")
    return f"<tr>{''.join(_cell(tag, word, side) for word, side in zip(words, sides, strict=True))}</tr>"


def _cell(tag: str, word: str, side: str) -> str:
    return f'<{tag} style="padding:1px 14px 1px 0;text-align:{side};white-space:nowrap">{_text(word)}</{tag}>'


def _text(word: str) -> str:
    """`word` cut where it is very long, on one line and without markup."""
    short = word if len(word) <= _LONGEST else f"{word[: _LONGEST // 2]}…{word[-_LONGEST // 2 :]}"
    return html.escape(printable(short))
