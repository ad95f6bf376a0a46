"""What commands that print one page have in common: how it is written, and where it goes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tetrace import __version__
from tetrace.cli.folders import destination
from tetrace.cli.output import SUFFIXES, check_output, write_output
from tetrace.report.reporter import Options

if TYPE_CHECKING:
    from tetrace.report.page import Page

_WIDTH = 100
_TOP = 20
_FORMATS = ("terminal", "json", "csv", "markdown")

_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass(frozen=True)
class Output:
    """Where a page goes and how it is written, as asked for on the command line."""

    format_name: str
    named: str | None
    force: bool
    top: int | None
    wide: bool

    @cached_property
    def path(self) -> Path | None:
        """Its file, called after the command where a folder was named; None for standard output."""
        return self.file(f"{click.get_current_context().info_name}{SUFFIXES[self.format_name]}")

    def file(self, name: str) -> Path | None:
        """The same, `name` in a folder."""
        return None if self.named is None else destination(self.named, name)

    @property
    def rows(self) -> int:
        """Rows of each table for people; 0 is all."""
        return _TOP if self.top is None else self.top

    def check(self, *sources: Path) -> None:
        """Raise `UsageError` where the page cannot go; asked before the work."""
        for source in sources:
            check_output(self.path, self.format_name, True, self.force, source)

    def write(self, page: Page) -> None:
        """Write the page to its file, or to standard output."""
        from tetrace.report.page import written

        write_output({"": written(page, self.format_name, self._options())}, self.path, True)

    def _options(self) -> Options:
        to_file = self.path is not None
        color = sys.stdout.isatty() and not (to_file or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb")
        width = _WIDTH if to_file else shutil.get_terminal_size((_WIDTH, 45)).columns
        return Options(wide=self.wide, width=max(width, 60), color=color, version=__version__)


def output_options(command: _Command) -> _Command:
    """Gives `command` the options of a page; it takes `output`, an `Output`, in place of them."""

    def with_output(format_name: str, as_json: bool, as_csv: bool, **options: Any) -> Any:
        name = "json" if as_json else "csv" if as_csv else format_name
        own = {key: options.pop(key) for key in ("named", "force", "top", "wide")}
        return command(output=Output(name, **own), **options)

    with_output.__doc__, with_output.__name__ = command.__doc__, command.__name__
    with_output.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in reversed(_OPTIONS):
        with_output = option(with_output)
    return with_output  # type: ignore[return-value]


_OPTIONS = (
    click.option("--top", type=click.IntRange(min=0), metavar="N", help="Rows of each table; 0 is all.  [default: 20]"),
    click.option("--wide", is_flag=True, help="Names uncut, lines as long as they get."),
    click.option(
        "--format",
        "format_name",
        type=click.Choice(_FORMATS),
        default="terminal",
        show_default=True,
        help="What to write; json and csv hold all rows.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Short for --format json."),
    click.option("--csv", "as_csv", is_flag=True, help="Short for --format csv."),
    click.option("-o", "--output", "named", type=click.Path(), metavar="FILE", help="Write here instead."),
    click.option("--force", is_flag=True, help="Overwrite the file of --output."),
)
