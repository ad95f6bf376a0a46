"""The report on a terminal. By default one screen of 100 columns and 45 rows: the verdict first, then what it rests on."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tetrace.breakdown.findings import Finding, findings, verdict
from tetrace.report import content
from tetrace.report.grid import Grid, cells, cut_end, printable
from tetrace.report.reporter import Options
from tetrace.report.scale import Scale, scale_of
from tetrace.report.views import BY_NAME, VIEWS, grid_of, matches_grid, matrix
from tetrace.units import duration

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.report.content import Stretch

_ROWS = 45
_NARROWEST = 60
_TOP = 20
_BAR = 40
_HEAD, _STRONG, _FAINT, _WARNING = "bold cyan", "bold", "dim", "yellow"
_BAR_STYLES = {"busy": "green", "communication": "magenta", "idle": "yellow"}

# A line is pieces of text, each with a style of rich, empty for none.
Line = list[tuple[str, str]]


class Terminal:
    """Lines of text, in colour when the options say so."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._width = max(options.width, _NARROWEST)

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """The report as one text."""
        return {"": _rendered(list(self._lines(breakdown)), self._options.color)}

    def _lines(self, breakdown: Breakdown) -> Iterator[Line]:
        options = self._options
        yield from self._head(breakdown)
        if not breakdown.totals.activities:
            yield from self._verdict(breakdown)
            yield from self._wrapped(content.without_activities(breakdown), "")
        elif options.kernel:
            yield []
            yield from self._table(matches_grid(breakdown, options.kernel, self._top, self._wide))
        elif options.by:
            yield []
            yield from self._table(grid_of(breakdown, BY_NAME[options.by], self._top, self._wide))
        else:
            yield from self._first_screen(breakdown)
            if options.full:
                yield from self._all_tables(breakdown)

    @property
    def _top(self) -> int:
        return self._options.top if self._options.top >= 0 else _TOP

    @property
    def _wide(self) -> bool:
        return self._options.wide or self._options.full

    def _head(self, breakdown: Breakdown) -> Iterator[Line]:
        yield [(cut_end(content.origin(breakdown), self._width), _STRONG)]
        if breakdown.totals.activities:
            yield from self._wrapped([content.steps_used(breakdown)], _FAINT)
        yield from self._wrapped([f"! {line}" for line in content.notices(breakdown)], _WARNING)

    def _wrapped(self, texts: list[str], style: str) -> Iterator[Line]:
        for text in texts:
            for line in textwrap.wrap(printable(text), self._width, subsequent_indent="  ", break_on_hyphens=False):
                yield [(line, style)]

    def _verdict(self, breakdown: Breakdown) -> Iterator[Line]:
        yield []
        for line in textwrap.wrap(verdict(breakdown), self._width, break_on_hyphens=False):
            yield [(line, _STRONG)]
        yield []

    def _first_screen(self, breakdown: Breakdown) -> Iterator[Line]:
        """Sections from the most to the least telling; matrix, ranges and findings share the rows that are left."""
        scale = scale_of(breakdown)
        fixed = [*self._verdict(breakdown), *self._lanes(breakdown), *self._time(breakdown, scale), []]
        facts = [*self._facts(breakdown, scale), []]
        found = findings(breakdown)
        head_rows = sum(1 for _ in self._head(breakdown))
        left = _ROWS - head_rows - len(fixed) - len(facts)
        # Two rows of heads and one of sums for the matrix, two and a blank one for ranges, one for findings.
        shown_findings = min(len(found), 5)
        left -= 4 + 3 + 1 + shown_findings + (len(found) > shown_findings)
        ranges = max(2, min(4, left - 7))
        categories = max(4, min(10, left - ranges))
        yield from fixed
        yield from self._table(matrix(breakdown, scale, categories))
        yield []
        yield from facts
        if breakdown.totals.idle_ns["host_bound"] and breakdown.attribution.trace.has("calls"):
            grid = content.held_back(breakdown, scale, ranges)
            yield from self._table(Grid(grid.title, grid.columns, grid.rows, note=""))
            yield []
            left -= len(grid.rows)
        else:
            left += 3
        spare = left - min(categories, _categories(breakdown))
        yield from self._findings(found[:shown_findings], len(found), spare)

    def _lanes(self, breakdown: Breakdown) -> Iterator[Line]:
        if breakdown.totals.lanes > 1:
            yield from self._table(grid_of(breakdown, BY_NAME["lane"], 8))
            yield []

    def _time(self, breakdown: Breakdown, scale: Scale) -> Iterator[Line]:
        stretches = content.time(breakdown, scale)
        lanes = f", {breakdown.totals.lanes} lanes together" if breakdown.totals.lanes > 1 else ""
        label = max(cells(s.label) for s in stretches)
        ms = max(len(scale.head), *(len(s.ms) for s in stretches))
        title = f"Time{lanes}"
        room = max(label, cells(title))
        yield [(title.ljust(room), _HEAD), (f"  {scale.head:>{ms}}  of wall", _FAINT)]
        for stretch in stretches:
            yield self._stretch(stretch, room, ms)

    def _stretch(self, stretch: Stretch, label: int, ms: int) -> Line:
        width = min(_BAR, self._width - label - ms - 14)
        line: Line = [(f"{stretch.label:<{label}}  {stretch.ms:>{ms}}  {stretch.percent:>7}  ", "")]
        if stretch.kind in _BAR_STYLES and width > 5:
            line.append((_bar(stretch.of_wall, width), _BAR_STYLES[stretch.kind]))
        if stretch.remark:
            line.append((stretch.remark if stretch.kind == "median" else f" {stretch.remark}", _FAINT))
        return line

    def _facts(self, breakdown: Breakdown, scale: Scale) -> Iterator[Line]:
        facts = content.facts(breakdown, scale)
        label = max(len(fact.label) for fact in facts)
        for fact in facts:
            lines = [part for line in fact.lines for part in textwrap.wrap(printable(line), self._width - label - 2, break_on_hyphens=False)]
            for i, line in enumerate(lines):
                yield [((fact.label if not i else "").ljust(label + 2), _HEAD), (line, "")]

    def _findings(self, shown: list[Finding], found: int, spare: int) -> Iterator[Line]:
        """Each finding on a line; the worst also with their evidence where rows are left."""
        yield [("Findings, worst first", _HEAD)] if found else [("No finding: nothing that tetrace looks for holds this run back", _HEAD)]
        for finding in shown:
            cost = f"{duration(finding.ns):>9}  "
            yield [(cost, _STRONG), (cut_end(f"{finding.title}: {finding.advice}", self._width - len(cost)), "")]
            if spare > 0:
                yield [(" " * len(cost) + cut_end(finding.evidence, self._width - len(cost)), _FAINT)]
                spare -= 1
        if found > len(shown):
            yield [(f"           {found - len(shown)} more: --full", _FAINT)]

    def _table(self, grid: Grid) -> Iterator[Line]:
        yield [(cut_end(grid.title, self._width), _HEAD)]
        lines = grid.lines(self._width, self._wide) if grid.columns else []
        for i, line in enumerate(lines):
            is_total = bool(grid.total) and i == len(lines) - 1
            yield [(line, _FAINT if not i else _STRONG if is_total else "")]
        if grid.note:
            yield [(grid.note, _FAINT)]

    def _all_tables(self, breakdown: Breakdown) -> Iterator[Line]:
        yield []
        yield [("Findings with their evidence", _HEAD)]
        for finding in findings(breakdown):
            yield [(f"{duration(finding.ns):>9}  ", _STRONG), (finding.title, "")]
            yield [(f"           {printable(finding.evidence)}", _FAINT)]
            yield [(f"           {finding.advice}", _FAINT)]
        for view in VIEWS:
            if len(breakdown.tables[view.table]):
                yield []
                yield from self._table(grid_of(breakdown, view, self._top, wide=True))


def _categories(breakdown: Breakdown) -> int:
    return len(set(breakdown.tables["phases"]["category"]))


def _bar(share: float, width: int) -> str:
    halves = round(share * width * 2)
    return "█" * (halves // 2) + "▌" * (halves % 2)


def _rendered(lines: list[Line], color: bool) -> str:
    if not color:
        return "".join("".join(text for text, _ in line).rstrip() + "\n" for line in lines)
    import io

    from rich.console import Console
    from rich.text import Text

    # Lines are laid out already: rich colours them and must not wrap.
    console = Console(file=io.StringIO(), force_terminal=True, highlight=False, soft_wrap=True, legacy_windows=False)
    for line in lines:
        console.print(Text.assemble(*line))
    return console.file.getvalue()  # type: ignore[attr-defined]
