"""In which start of a machine something was measured: peaks of another start are not what its GPU reached."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tetrace.study.results import Round

# The time of day may be set while a machine runs: starts that lie closer together are one.
_SAME = timedelta(minutes=2)


@dataclass(frozen=True)
class Start:
    """A start of a machine: when it began (UTC), and when the last round known of it did."""

    began: datetime
    last: datetime

    def had(self, moment: datetime) -> bool:
        """Whether that moment was in it for certain: what came after its last round may be of a later one."""
        return self.began - _SAME <= moment <= self.last

    def is_that_of(self, other: Start) -> bool:
        """Whether both are the same start."""
        return abs(self.began - other.began) < _SAME


def moment_of(text: object) -> datetime | None:
    """A time with its zone, as results have it; None where it is none."""
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None


def this_start() -> datetime:
    """When this machine started, but for what it slept."""
    return datetime.now(timezone.utc) - timedelta(seconds=time.monotonic())


def starts_of(rounds: Iterable[Round]) -> list[Start]:
    """The starts that rounds were timed in, first ones first: the clock that all processes share began with each. None of
    a round that does not say what that clock showed."""
    found: list[Start] = []
    known = [(at - timedelta(microseconds=one.began_ns / 1e3), at) for one in rounds if (at := _at(one)) is not None]
    for began, at in sorted(known):
        if found and found[-1].is_that_of(Start(began, at)):
            found[-1] = Start(found[-1].began, max(found[-1].last, at))
        else:
            found.append(Start(began, at))
    return found


def is_outside(moment: datetime, own: Iterable[Start], known: Iterable[Start]) -> bool:
    """Whether a moment was in none of the starts `own` for certain: before them, or since one of those known began that began
    after the last round of each. Hosts may have been up for long before anybody timed on them, so starts may overlap."""
    own = list(own)
    before = all(moment < one.began - _SAME for one in own)
    later = [one.began for one in known if all(each.last < one.began - _SAME for each in own)]
    return before or any(began - _SAME <= moment for began in later)


def _at(one: Round) -> datetime | None:
    return moment_of(one.at) if one.began_ns else None
