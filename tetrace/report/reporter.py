"""The seam of reports: what a reporter is, what it can be asked for, and the list of all formats."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown


@dataclass(frozen=True)
class Options:
    """What of a breakdown is wanted, and the screen it is for.

    `by` names a view of `report/views.py` (empty: the whole report), `kernel` is a regular expression on demangled
    names, `top` limits rows (0: all, -1: as many as the format likes), `wide` leaves names uncut, `version` is that of
    tetrace, `run` the recording as it was given: what commands in advice name (empty: they say RUN).
    """

    by: str = ""
    kernel: str = ""
    top: int = -1
    full: bool = False
    wide: bool = False
    width: int = 100
    color: bool = False
    version: str = ""
    run: str = ""


class Reporter(Protocol):
    """One format. Made with options, it turns a breakdown into documents and writes nothing itself."""

    def __init__(self, options: Options) -> None: ...

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """File names and contents; a single document, which can go to standard output, has the name ''."""


@dataclass(frozen=True)
class Format:
    """A format by its name; `module` is imported when the format is asked for."""

    name: str
    module: str
    reporter: str

    def load(self) -> type[Reporter]:
        """The class of the reporter."""
        loaded: type[Reporter] = getattr(importlib.import_module(self.module), self.reporter)
        return loaded


FORMATS = (
    Format("terminal", "tetrace.report.terminal", "Terminal"),
    Format("json", "tetrace.report.tables", "Json"),
    Format("csv", "tetrace.report.tables", "Csv"),
    Format("parquet", "tetrace.report.tables", "Parquet"),
    Format("markdown", "tetrace.report.markdown", "Markdown"),
    Format("html", "tetrace.report.html", "Html"),
)
