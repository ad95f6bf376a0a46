"""A small report of its own: a verdict, tables and what to do, for people, and the same as rows for programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tetrace.report import markdown, terminal
from tetrace.report.grid import Grid, cut_end, printable
from tetrace.report.plain import csv_text, json_text
from tetrace.report.reporter import Options

FORMAT_VERSION = 1
_TITLE, _VERDICT, _FAINT = "bold", "bold", "dim"


@dataclass(frozen=True)
class Page:
    """What a command has to say.

    `title` is what was looked at, `verdict` one sentence, `notices` what to know before any number, `said` lines between
    verdict and tables, `advice` sentences below them. `columns` and `rows` are the same for programs, with None for what
    was not recorded; `facts` are what a JSON document holds beside them.
    """

    title: str
    verdict: str
    grids: tuple[Grid, ...] = ()
    said: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


def written(page: Page, format_name: str, options: Options) -> str:
    """The page as `terminal`, `markdown`, `json` or `csv`."""
    return _WRITERS[format_name](page, options)


def _terminal(page: Page, options: Options) -> str:
    lines: list[terminal.Line] = [[(cut_end(printable(page.title), options.width), _TITLE)]]
    lines += terminal.wrapped([f"! {line}" for line in page.notices], options.width, terminal.WARNING)
    lines += [[], *terminal.wrapped([page.verdict], options.width, _VERDICT)]
    if page.said:
        lines += [[], *terminal.wrapped(page.said, options.width, "")]
    for grid in page.grids:
        lines += [[], *terminal.table_lines(grid, options.width, options.wide)]
    if page.advice:
        lines += [[], *terminal.wrapped(page.advice, options.width, "")]
    return terminal.rendered(lines, options.color)


def _markdown(page: Page, options: Options) -> str:
    return "\n".join(_markdown_lines(page, options)) + "\n"


def _markdown_lines(page: Page, options: Options) -> Iterator[str]:
    yield f"# {markdown.escaped(page.title)}"
    yield ""
    for line in page.notices:
        yield f"> **Note:** {markdown.escaped(line)}"
        yield ""
    yield f"**{markdown.escaped(page.verdict)}**"
    yield ""
    for lines in (page.said, page.advice):
        yield from (f"- {markdown.escaped(line)}" for line in lines)
        yield from [""] if lines else []
    for grid in page.grids:
        yield from markdown.grid_lines(grid, wide=True)


def _json(page: Page, options: Options) -> str:
    document = {
        "tetrace": options.version,
        "format": FORMAT_VERSION,
        "source": page.title,
        "notices": list(page.notices),
        "verdict": page.verdict,
        "rows": [dict(row) for row in page.rows],
    }
    if taken := document.keys() & page.facts.keys():
        raise ValueError(f"facts of a page may not be called {', '.join(sorted(taken))}")
    document = {**document, **page.facts}
    return json_text(_plain(document))


def _plain(value: Any) -> Any:
    """`value` without what JSON cannot hold: NaN is null, an infinity is the word."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _csv(page: Page, _options: Options) -> str:
    return csv_text(
        page.columns, (["" if _is_absent(row[name]) else row[name] for name in page.columns] for row in page.rows)
    )


def _is_absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


_WRITERS: Mapping[str, Callable[[Page, Options], str]] = {
    "terminal": _terminal,
    "markdown": _markdown,
    "json": _json,
    "csv": _csv,
}
