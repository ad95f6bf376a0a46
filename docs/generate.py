"""Writes docs/tables.md from the declared tables, docs/cli.md from the commands, and the report in README.md.

tests/test_docs.py checks that all three are current.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from tetrace import analyze, load
from tetrace.breakdown import tables as results
from tetrace.breakdown.fp8_coverage import FP8_COVERAGE, FP8_NORMS
from tetrace.breakdown.kernel_search import KERNEL_MATCHES
from tetrace.cli.main import tetrace
from tetrace.report.reporter import Options
from tetrace.report.terminal import Terminal
from tetrace.trace import schema

_FOLDER = Path(__file__).resolve().parent
_README = _FOLDER.parent / "README.md"
_SHOWN = "$ tetrace report "
_MADE = "<!-- Made by docs/generate.py: change the source and run make docs. -->"


def tables() -> str:
    """docs/tables.md."""
    parts = [_MADE, "", "# Tables", "", *_results(), *_trace()]
    return "\n".join(parts).rstrip() + "\n"


def _results() -> Iterator[str]:
    yield "## Results"
    yield ""
    yield "What `tetrace.analyze(trace)` returns, as pandas (`analyze(trace).kernels`), and what `--format` writes."
    yield _paragraph(results.__doc__, skip=1)
    yield ""
    for declaration in (*results.DECLARATIONS, KERNEL_MATCHES, FP8_COVERAGE, FP8_NORMS):
        rows = ((c.name, "text" if not c.unit else "int64", c.unit, c.sentence) for c in declaration.columns)
        yield from _table(declaration.name, declaration.sentence, rows)


def _trace() -> Iterator[str]:
    yield "## Trace"
    yield ""
    yield "What `tetrace.load(path)` returns and a `.tetrace` folder holds. " + _paragraph(schema.__doc__, skip=1)
    yield ""
    for table in schema.TABLES:
        rows = ((c.name, c.dtype, c.unit, c.sentence + _absent(c.missing)) for c in table.columns)
        yield from _table(table.name, table.sentence, rows)


def _absent(missing: float | None) -> str:
    return "" if missing is None else f" {'NaN' if missing != missing else missing} when not recorded."


def _table(name: str, sentence: str, rows: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    yield f"### {name}"
    yield ""
    yield sentence
    yield ""
    yield "| column | type | unit | |"
    yield "|:---|:---|:---|:---|"
    for column, kind, unit, said in rows:
        yield f"| `{column}` | {kind} | {unit} | {said.replace('|', chr(92) + '|')} |"
    yield ""


def _paragraph(docstring: str | None, skip: int) -> str:
    """A docstring without its first `skip` paragraphs, as one line."""
    return " ".join(" ".join((docstring or "").split("\n\n")[skip:]).split())


def cli() -> str:
    """docs/cli.md."""
    parts = [_MADE, "", "# Command line", "", *_help(tetrace, "tetrace")]
    context = click.Context(tetrace, info_name="tetrace", **tetrace.context_settings)
    for name in tetrace.list_commands(context):
        parts += _command(tetrace.get_command(context, name), name, context)
    return "\n".join(parts).rstrip() + "\n"


def _command(command: click.Command, name: str, parent: click.Context, level: int = 2) -> Iterator[str]:
    """A command's help; behind it that of each command of a group."""
    context = click.Context(command, info_name=name, parent=parent)
    yield f"{'#' * level} {context.command_path}"
    yield ""
    yield from _help(command, name, parent)
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _command(command.get_command(context, inner), inner, context, level + 1)


def _help(command: click.Command, name: str, parent: click.Context | None = None) -> list[str]:
    settings = {**command.context_settings, "terminal_width": 100, "max_content_width": 100}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    return ["```text", command.get_help(context), "```", ""]


def readme() -> str:
    """README.md with the report of the recording that its command names."""
    before, command, rest = _README.read_text(encoding="utf-8").partition(_SHOWN)
    name, _, rest = rest.partition("\n")
    report = Terminal(Options(width=100)).documents(analyze(load(_README.parent / name)))[""]
    return f"{before}{command}{name}\n{str(report).rstrip()}\n```{rest.partition('```')[2]}"


PAGES = {_FOLDER / "tables.md": tables, _FOLDER / "cli.md": cli, _README: readme}

if __name__ == "__main__":
    for page, write in PAGES.items():
        page.write_text(write(), encoding="utf-8")
