"""The report as a Markdown page: what one pastes into an issue."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tetrace.breakdown.findings import findings
from tetrace.breakdown.verdict import verdict
from tetrace.report import content
from tetrace.report.commands import of_run
from tetrace.report.facts import facts
from tetrace.report.grid import Grid, cut, printable
from tetrace.report.grids import grid_of, host_grids, matches_grid, matrix
from tetrace.report.reporter import Options
from tetrace.report.scale import Scale, scale_of
from tetrace.report.views import BY_NAME, VIEWS

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

_TOP = 10
_LONGEST = 200
# Code in running words: one back-quote on either side, no pipe between, which would end a table's cell.
_CODE_SPAN = re.compile(r"(?<!`)(`[^`|]+`)(?!`)")
# What the first tables of the page do not say already; the rest comes with --full.
_USUAL = ("kernel", "module", "host")


class Markdown:
    """Sections with pipe tables, names as code."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._top = options.top if options.top >= 0 else _TOP

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """The page as one text."""
        return {"": "\n".join(self._lines(breakdown)) + "\n"}

    def _lines(self, breakdown: Breakdown) -> Iterator[str]:
        options, wide = self._options, self._options.wide or self._options.full
        yield f"# {escaped(breakdown.attribution.trace.metadata.source)}"
        yield ""
        yield from self._head(breakdown)
        if not breakdown.totals.activities and (options.by or options.kernel):
            yield from self._asked(breakdown, wide)
        elif not breakdown.totals.activities:
            yield from [f"- {line}" for line in [verdict(breakdown), *content.without_activities(breakdown)]]
            yield ""
            if findings(breakdown):
                yield from _findings(breakdown, options.run)
            for grid in host_grids(breakdown, self._top, wide):
                yield from grid_lines(grid, wide)
        elif options.kernel:
            yield from grid_lines(matches_grid(breakdown, options.kernel, self._top, wide), wide)
        elif options.by:
            yield from grid_lines(grid_of(breakdown, BY_NAME[options.by], self._top, wide), wide)
        else:
            yield from self._report(breakdown, wide)

    def _asked(self, breakdown: Breakdown, wide: bool) -> Iterator[str]:
        """The table that was asked for, where there are no GPU activities."""
        view = BY_NAME.get(self._options.by)
        if view and len(breakdown.tables[view.table]):
            yield from grid_lines(grid_of(breakdown, view, self._top, wide), wide)
        else:
            what = f"--by {view.name}" if view else f"--kernel {self._options.kernel}"
            yield escaped(content.nothing_of(breakdown, what))

    def _head(self, breakdown: Breakdown) -> Iterator[str]:
        yield f"{escaped(content.origin(breakdown))}; tetrace {self._options.version}"
        yield ""
        if breakdown.totals.activities:
            for line in (content.steps_used(breakdown), content.plain_step(breakdown)):
                yield from [escaped(line), ""] if line else []
        for line in content.notices(breakdown):
            yield f"> **Note:** {escaped(line)}"
            yield ""

    def _report(self, breakdown: Breakdown, wide: bool) -> Iterator[str]:
        scale = scale_of(breakdown)
        yield f"**{escaped(verdict(breakdown))}**"
        yield ""
        if breakdown.totals.lanes > 1:
            yield from grid_lines(grid_of(breakdown, BY_NAME["lane"], 0))
        yield from _time(breakdown, scale)
        yield from grid_lines(matrix(breakdown, scale))
        for fact in facts(breakdown, scale):
            first, *others = fact.lines
            yield f"- **{fact.label}**: {escaped(first)}"
            yield from (f"  - {escaped(line)}" for line in others)
        yield f"- **attribution**: {escaped(content.attributed(breakdown))} of GPU activity"
        yield ""
        yield from _findings(breakdown, self._options.run)
        for view in VIEWS:
            usual = view.name in _USUAL or (self._options.full and view.name not in ("category", "lane"))
            if usual and len(breakdown.tables[view.table]):
                yield from grid_lines(grid_of(breakdown, view, self._top, wide), wide)


def _time(breakdown: Breakdown, scale: Scale) -> Iterator[str]:
    yield "## Time"
    yield ""
    yield f"| | {scale.head} | of wall | |"
    yield "|:---|---:|---:|:---|"
    for stretch in content.time(breakdown, scale):
        yield f"| {stretch.label.strip()} | {stretch.ms} | {stretch.percent} | {stretch.remark} |"
    yield ""


def _findings(breakdown: Breakdown, run: str) -> Iterator[str]:
    yield "## Findings, worst first"
    yield ""
    found = of_run(findings(breakdown), run)
    for i, finding in enumerate(found, 1):
        said = [escaped(words) for words in (finding.title, finding.evidence, finding.advice)]
        yield f"{i}. **{finding.cost}**: {said[0]}. {said[1]}. *{said[2]}*"
    if not found:
        yield "None: nothing that tetrace looks for holds this run back."
    yield ""


def grid_lines(grid: Grid, wide: bool = False, level: int = 2) -> Iterator[str]:
    """A grid as a section with a pipe table; without `wide` very long words are cut. `level` is that of its heading."""
    yield f"{'#' * level} {escaped(grid.title)}"
    yield ""
    if grid.columns:
        yield "| " + " | ".join(escaped(column.head) for column in grid.columns) + " |"
        yield "|" + "|".join("---:" if column.number else ":---" for column in grid.columns) + "|"
        for row in grid.rows:
            row = row if wide else tuple(cut(word, _LONGEST) for word in row)
            cells = zip(grid.columns, row, strict=True)
            words = [_code(word) if column.code else escaped(word) for column, word in cells]
            yield "| " + " | ".join(words) + " |"
        if grid.total:
            yield "| " + " | ".join(f"**{escaped(word)}**" if word else "" for word in grid.total) + " |"
        yield ""
    if grid.note:
        yield escaped(grid.note)
        yield ""


def escaped(word: str) -> str:
    """`word` as plain text: characters that Markdown or HTML would take for markup are escaped. What stands between two
    back-quotes stays code."""
    parts = _CODE_SPAN.split(printable(word))
    return "".join(part if place % 2 else _plain(part) for place, part in enumerate(parts))


def _plain(word: str) -> str:
    return "".join(f"\\{c}" if c in "\\|<>*_`[]" else c for c in word)


def _code(word: str) -> str:
    """`word` as code; a name may hold back-quotes, and in a table even code must escape its pipes."""
    word = printable(word).strip().replace("|", "\\|")
    if not word:
        return ""
    fence = "``" if "`" in word else "`"
    space = " " if "`" in word else ""
    return f"{fence}{space}{word}{space}{fence}"
