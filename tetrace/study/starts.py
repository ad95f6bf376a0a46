"""Starts of a machine: in which one something was timed, and where results of an earlier one lie.

Results of `results/h200` that were timed in an earlier start lie beside it, in `results/h200-2026-11-21`: the same name with
a date appended. They are what a report compares with; they are no results of the study by themselves.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from tetrace.errors import TetraceError
from tetrace.study.results import RESULTS_FILE, Configuration, read

_DATED = re.compile(r"(?P<name>.+)-\d{4}-\d{2}-\d{2}")
# The clock of a machine is set now and then, which moves what is worked out from it.
_SAME = timedelta(minutes=2)


def starts(configurations: Iterable[Configuration]) -> tuple[datetime, ...]:
    """When the machine was started, each time that rounds of these were timed in, the first one first: a round's time of day
    less that of the clock which all processes of a start share. Empty where rounds do not say."""
    rounds = (one for each in configurations for one in each.rounds if one.at and one.began_ns)
    found: list[datetime] = []
    for start in sorted(datetime.fromisoformat(one.at) - timedelta(seconds=one.began_ns / 1e9) for one in rounds):
        if not found or start - found[-1] > _SAME:
            found.append(start)
    return tuple(found)


def earlier_start(folder: Path, study: str) -> Path | None:
    """The folder with the results of the latest earlier start of those in `folder`; None where there is none that can be
    read."""
    for file in sorted(folder.resolve().parent.glob(f"*/{RESULTS_FILE}"), reverse=True):
        dated = _DATED.fullmatch(file.parent.name)
        if dated is None or dated["name"] != folder.resolve().name:
            continue
        with contextlib.suppress(TetraceError):
            return read(file.parent, study).folder
    return None


def is_earlier_start(folder: Path) -> bool:
    """Whether a folder holds results of an earlier start of others beside it."""
    dated = _DATED.fullmatch(folder.name)
    return dated is not None and (folder.with_name(dated["name"]) / RESULTS_FILE).is_file()
