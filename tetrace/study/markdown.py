"""A study's report as Markdown: what lies beside the results, and reads on any forge."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tetrace.report.grid import printable
from tetrace.report.markdown import escaped, grid_lines

if TYPE_CHECKING:
    from tetrace.study.report import Report
    from tetrace.study.section import Section

_MOST_QUOTED = 40


def document(report: Report, version: str) -> str:
    """The whole report."""
    return "\n".join(_lines(report, version)).rstrip() + "\n"


def _lines(report: Report, version: str) -> Iterator[str]:
    from tetrace.study.surroundings import notices

    yield f"# {escaped(report.title)}"
    yield ""
    if report.study.question:
        yield escaped(report.study.question)
        yield ""
    if report.study.words:
        yield escaped(report.study.glossary)
        yield ""
    for line in notices(report.material):
        yield f"> **Note:** {escaped(line)}"
        yield ""
    # The answer to read first; what else there is to know is a list.
    more = [*report.answers, *report.crossings, *([report.fates] if report.fates else [])]
    more = more if report.answers or report.crossings else []
    yield f"**{escaped(report.lead if more else report.short_verdict)}**"
    yield ""
    if more:
        yield from (f"- {escaped(line)}" for line in more)
        yield ""
    for section in report.sections:
        yield from _section(section)
    yield f"Made by tetrace {escaped(version)}."


def _section(section: Section) -> Iterator[str]:
    yield f"## {escaped(section.title)}"
    yield ""
    for line in section.said:
        yield escaped(line)
        yield ""
    for grid in section.grids:
        yield from grid_lines(grid, wide=True, level=3)
    for title, text in section.quoted:
        yield f"### {escaped(title)}"
        yield ""
        yield from _quoted(text)


def _quoted(text: str) -> Iterator[str]:
    """A text as it is, in a fence that is longer than any of its own."""
    lines = [printable(line) for line in text.splitlines()][-_MOST_QUOTED:]
    fence = "`" * max(3, *(_longest_run(line) + 1 for line in lines)) if lines else "```"
    yield f"{fence}text"
    yield from lines
    yield fence
    yield ""


def _longest_run(line: str) -> int:
    return max((len(run) for run in re.findall("`+", line)), default=0)
