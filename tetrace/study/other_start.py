"""Where results of another start of a machine lie.

Results of `results/h200` that were timed in another start lie beside it, in `results/h200-2026-11-21`: the same name with
a date appended. They are what a report compares with; they are no results of the study by themselves.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from tetrace.errors import TetraceError
from tetrace.study.results import RESULTS_FILE, Results, read

_DATED = re.compile(r"(?P<name>.+)-\d{4}-\d{2}-\d{2}")


def other_start(folder: Path, study: str) -> Path | None:
    """The folder with the results of another start than those in `folder`, the latest by its name; None where there is none
    that can be read."""
    return next((one.folder for one in other_starts(folder, study)), None)


def other_starts(folder: Path, study: str) -> Iterator[Results]:
    """The results of all other starts than that of those in `folder` that can be read, the latest by its name first."""
    for file in sorted(folder.resolve().parent.glob(f"*/{RESULTS_FILE}"), reverse=True):
        dated = _DATED.fullmatch(file.parent.name)
        if dated is None or dated["name"] != folder.resolve().name:
            continue
        with contextlib.suppress(TetraceError):
            yield read(file.parent, study)


def is_other_start(folder: Path) -> bool:
    """Whether a folder holds results of another start than others beside it."""
    dated = _DATED.fullmatch(folder.name)
    return dated is not None and (folder.with_name(dated["name"]) / RESULTS_FILE).is_file()
