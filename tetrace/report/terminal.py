"""The report on a terminal: by default one screen of 100 columns and 45 rows, the verdict first."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.breakdown.finding import Finding
from tetrace.breakdown.findings import findings
from tetrace.breakdown.verdict import verdict
from tetrace.report import content
from tetrace.report.commands import of_run
from tetrace.report.facts import facts
from tetrace.report.grid import Grid, cells, cut_end, printable
from tetrace.report.grids import grid_of, host_grids, matches_grid, matrix
from tetrace.report.reporter import Options
from tetrace.report.scale import Scale, scale_of
from tetrace.report.views import BY_NAME, VIEWS
from tetrace.units import plural

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.report.content import Stretch
    from tetrace.report.facts import Fact

_ROWS = 45
# Rows of the matrix, host ranges and findings: the first that fits is taken. Where none does, facts are brief: the first
# line of a screen, an empty one, may go.
_SIZES = ((10, 5, 5), (9, 4, 5), (9, 3, 5), (8, 3, 5), (7, 3, 5), (6, 3, 5), (6, 2, 4), (5, 2, 4), (5, 2, 3), (4, 2, 3))
_BRIEF_SIZES = ((5, 2, 4), (4, 2, 3), (3, 2, 3), (3, 1, 3), (3, 1, 2))
# The worst findings are worth more of the screen than the last rows of other sections.
_RESERVED = 2
_NARROWEST = 60
_TOP = 20
_BAR = 40
# Columns of a finding's cost and the space behind it.
_COST = 9
_GAP = 2
_SHORTEST_TITLE = 24
_HEAD, _STRONG, _FAINT, WARNING = "bold cyan", "bold", "dim", "yellow"
_BAR_STYLES = {"busy": "green", "communication": "magenta", "idle": "yellow"}

# A line is pieces of text, each with a style of rich, empty for none.
Line = list[tuple[str, str]]


@dataclass(frozen=True)
class _Parts:
    """What the first screen holds whatever its size, made once."""

    scale: Scale
    above: list[Line]
    facts: list[Line]
    brief_facts: list[Line]
    waits: bool
    found: list[Finding]


class Terminal:
    """Lines of text, in colour when the options say so."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._width = max(options.width, _NARROWEST)

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """The report as one text."""
        return {"": rendered(list(self._lines(breakdown)), self._options.color)}

    def _lines(self, breakdown: Breakdown) -> Iterator[Line]:
        options = self._options
        yield from self._head(breakdown)
        if not breakdown.totals.activities and (options.by or options.kernel):
            yield from self._asked(breakdown)
        elif not breakdown.totals.activities:
            yield from self._verdict(breakdown)
            yield from self._wrapped(content.without_activities(breakdown), "")
            if found := of_run(findings(breakdown), options.run):
                yield []
                yield from self._findings(found, len(found), spare=2 * len(found))
            yield from self._host_tables(breakdown)
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

    def _host_tables(self, breakdown: Breakdown) -> Iterator[Line]:
        """What is known without GPU activities: modules by events or by the host's clock."""
        for grid in host_grids(breakdown, self._top, self._wide):
            yield []
            yield from self._table(grid)

    def _asked(self, breakdown: Breakdown) -> Iterator[Line]:
        """The table that was asked for, where there are no GPU activities."""
        view = BY_NAME.get(self._options.by)
        yield []
        if view and len(breakdown.tables[view.table]):
            yield from self._table(grid_of(breakdown, view, self._top, self._wide))
        else:
            what = f"--by {view.name}" if view else f"--kernel {self._options.kernel}"
            yield from self._wrapped([content.nothing_of(breakdown, what)], "")

    @property
    def _top(self) -> int:
        return self._options.top if self._options.top >= 0 else _TOP

    @property
    def _wide(self) -> bool:
        return self._options.wide or self._options.full

    def _head(self, breakdown: Breakdown) -> Iterator[Line]:
        yield [(cut_end(content.origin(breakdown), self._width), _STRONG)]
        if breakdown.totals.activities:
            used = content.steps_used(breakdown)
            used = used if cells(used) <= self._width else content.steps_used(breakdown, brief=True)
            plain = content.plain_step(breakdown)
            yield from self._wrapped([used, *([plain] if plain else [])], _FAINT)
        yield from self._wrapped([f"! {line}" for line in content.notices(breakdown)], WARNING)

    def _wrapped(self, texts: list[str], style: str) -> Iterator[Line]:
        return wrapped(texts, self._width, style)

    def _verdict(self, breakdown: Breakdown) -> Iterator[Line]:
        yield []
        for line in textwrap.wrap(verdict(breakdown), self._width, break_on_hyphens=False):
            yield [(line, _STRONG)]
        yield []

    def _first_screen(self, breakdown: Breakdown) -> Iterator[Line]:
        """As much as fits the screen below the head; rows that are left go to the findings."""
        room = _ROWS - sum(1 for _ in self._head(breakdown))
        parts = self._parts(breakdown)
        lines = self._fitted(breakdown, parts, _SIZES, room, _RESERVED)
        if len(lines) > room + 1 and not self._options.full:
            brief = dataclasses.replace(parts, facts=parts.brief_facts)
            lines = self._fitted(breakdown, brief, _BRIEF_SIZES, room, -1)
        yield from lines[1:] if len(lines) > room else lines

    def _fitted(
        self, breakdown: Breakdown, parts: _Parts, choice: Sequence[tuple[int, int, int]], room: int, reserved: int
    ) -> list[Line]:
        """The sections in the first size of `choice` that leaves `reserved` rows of the room, or in the last one."""
        for sizes in choice:
            lines = list(self._sections(breakdown, parts, *sizes, spare=0))
            if len(lines) + reserved <= room:
                break
        return list(self._sections(breakdown, parts, *sizes, spare=max(room - len(lines), 0)))

    def _parts(self, breakdown: Breakdown) -> _Parts:
        scale = scale_of(breakdown)
        said = facts(breakdown, scale)
        known = breakdown.totals.idle_ns["host_bound"] and breakdown.attribution.trace.has("calls")
        return _Parts(
            scale=scale,
            above=[*self._verdict(breakdown), *self._lanes(breakdown), *self._time(breakdown, scale), []],
            facts=[*self._facts(said, brief=False), []],
            brief_facts=[*self._facts(said, brief=True), []],
            waits=bool(known),
            found=of_run(findings(breakdown), self._options.run),
        )

    def _sections(
        self, breakdown: Breakdown, parts: _Parts, categories: int, ranges: int, found: int, spare: int
    ) -> Iterator[Line]:
        """From the most to the least telling; the numbers are rows of the matrix, host ranges and findings."""
        yield from parts.above
        grid = matrix(breakdown, parts.scale, categories)
        yield from self._table(
            dataclasses.replace(grid, title=f"{grid.title}; {content.attributed(breakdown)}"), beside=True
        )
        yield []
        yield from parts.facts
        if parts.waits:
            yield from self._held_back(content.held_back(breakdown, parts.scale, ranges))
            yield []
        yield from self._findings(parts.found, found, spare)

    def _lanes(self, breakdown: Breakdown) -> Iterator[Line]:
        if breakdown.totals.lanes > 1:
            yield from self._table(grid_of(breakdown, BY_NAME["lane"], 8), beside=True)

    def _time(self, breakdown: Breakdown, scale: Scale) -> Iterator[Line]:
        stretches = content.time(breakdown, scale, fold=not self._options.full)
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
            space = " " if len(line) > 1 else ""
            line.append(
                (cut_end(f"{space}{stretch.remark}", self._width - sum(cells(text) for text, _ in line)), _FAINT)
            )
        return line

    def _facts(self, said: list[Fact], brief: bool) -> Iterator[Line]:
        label = max(len(fact.label) for fact in said)
        for fact in said:
            lines = [
                part
                for line in (fact.brief if brief else fact.lines)
                for part in textwrap.wrap(printable(line), self._width - label - 2, break_on_hyphens=False)
            ]
            for i, line in enumerate(lines):
                yield [((fact.label if not i else "").ljust(label + 2), _HEAD), (line, "")]

    def _held_back(self, grid: Grid) -> Iterator[Line]:
        """The title of this grid stands over its last column, which saves a row."""
        (head, *lines), left_out = grid.fitted(self._width, self._wide)
        yield [(head, _FAINT), (" " * (2 + cells(head) - len(head)) + grid.title, _HEAD)]
        yield from ([(line, "")] for line in lines)
        if left_out:
            yield [(_left_out(left_out, "--wide"), _FAINT)]

    def _findings(self, found: list[Finding], rows: int, spare: int) -> Iterator[Line]:
        """Each finding on a line; the worst also with a second one where rows are left. What to do is never cut: it may be a
        command."""
        yield [
            (
                "Findings, worst first" if found else "No finding: nothing that tetrace looks for holds this run back",
                _HEAD,
            )
        ]
        shown = found if len(found) <= rows + 1 else found[:rows]
        room = self._width - _COST
        said = [printable(f"{one.title}: {one.advice}") for one in shown]
        # A path that is longer than the screen stays one word.
        wrapped = [textwrap.wrap(one, room, break_on_hyphens=False, break_long_words=False) for one in said]
        for finding, lines in zip(shown, wrapped, strict=True):
            brief = _in_a_line(finding, room)
            is_whole = brief.endswith(printable(finding.advice))
            cut_short = is_whole and not self._wide and len(lines) > 1 and spare < len(lines) - 1
            yield [(f"{finding.cost:>7}  ", _STRONG), (brief if cut_short else lines[0], "")]
            if not cut_short:
                yield from ([(" " * _COST + line, "")] for line in lines[1:])
                spare -= len(lines) - 1
            if spare > sum(len(others) - 1 for others in wrapped):
                yield [(" " * _COST + cut_end(printable(finding.evidence), room), _FAINT)]
                spare -= 1
        if len(found) > len(shown):
            yield [(f"{' ' * _COST}{len(found) - len(shown)} more: --full", _FAINT)]

    def _table(self, grid: Grid, beside: bool = False) -> Iterator[Line]:
        return table_lines(grid, self._width, self._wide, beside=beside)

    def _all_tables(self, breakdown: Breakdown) -> Iterator[Line]:
        yield []
        yield [("Findings with their evidence", _HEAD)]
        for finding in of_run(findings(breakdown), self._options.run):
            yield [(f"{finding.cost:>9}  ", _STRONG), (finding.title, "")]
            yield [(f"           {printable(finding.evidence)}", _FAINT)]
            yield [(f"           {finding.advice}", _FAINT)]
        for view in VIEWS:
            if len(breakdown.tables[view.table]):
                yield []
                yield from self._table(grid_of(breakdown, view, self._top, wide=True))


def _in_a_line(finding: Finding, room: int) -> str:
    """A finding in `room` columns. What to do stays whole: the title loses what follows its first comma or bracket, then
    its end."""
    title, advice = printable(finding.title), printable(finding.advice)
    title = re.split(r", | \(", title)[0]
    left = max(room - cells(f": {advice}"), _SHORTEST_TITLE)
    return cut_end(f"{cut_end(title, left)}: {advice}", room)


def table_lines(
    grid: Grid, width: int, wide: bool = False, way: str = "--wide", beside: bool = False
) -> Iterator[Line]:
    """A grid with its title and note; where columns had to be left out, how many, and the `way` to see them: in a line
    below, or `beside` the title where a screen has no row for it and the title leaves room."""
    lines, left_out = grid.fitted(width, wide) if grid.columns else ([], 0)
    title, told = cut_end(printable(grid.title), width), _left_out(left_out, way)
    beside = beside and bool(left_out) and cells(title) + _GAP + cells(told) <= width
    yield [(title, _HEAD), *([(f"{' ' * _GAP}{told}", _FAINT)] if beside else [])]
    for i, line in enumerate(lines):
        is_total = bool(grid.total) and i == len(lines) - 1
        yield [(line, _FAINT if not i else _STRONG if is_total else "")]
    if grid.note:
        yield [(printable(grid.note), _FAINT)]
    if left_out and not beside:
        yield [(told, _FAINT)]


def _left_out(columns: int, way: str) -> str:
    return f"{plural(columns, 'column')} left out: {way} shows all"


def wrapped(texts: Sequence[str], width: int, style: str) -> Iterator[Line]:
    """Sentences, each on lines of its own."""
    for text in texts:
        for line in textwrap.wrap(printable(text), width, subsequent_indent="  ", break_on_hyphens=False):
            yield [(line, style)]


def _bar(share: float, width: int) -> str:
    halves = round(share * width * 2)
    return "█" * (halves // 2) + "▌" * (halves % 2)


def rendered(lines: list[Line], color: bool) -> str:
    """The lines as one text, in colour or plain."""
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
