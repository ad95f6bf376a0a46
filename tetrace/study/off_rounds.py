"""Recordings in which the GPU ran at another clock than in the rounds: a GPU at its power cap may be slowed for some steps.

They are made once more, and of both the one is kept whose steps are closer to the timed ones.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tetrace.breakdown.pace import MOST_IDLE
from tetrace.errors import TetraceError
from tetrace.study.material import Material

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.study.runner import Run
    from tetrace.study.spec import Planned
    from tetrace.study.statistics import Estimate

# An average recorded step that is off the timed one by more is recorded once more: rounds themselves scatter by 2 to 4%.
FAR = 0.05
_ASIDE = ".off"


def off_by(material: Material, name: str) -> float | None:
    """By which share of the timed step the average recorded one takes longer, negative for shorter; None where that says
    nothing of the GPU's clock: nothing was timed or recorded, or the step waits for the host, whom a recorder slows."""
    return _off(material.breakdown(name), material.time(name))


def _off(run: Breakdown | None, alone: Estimate | None) -> float | None:
    if run is None or alone is None or not run.totals.steps or not run.totals.wall_ns:
        return None
    if run.totals.all_idle_ns > MOST_IDLE * run.totals.wall_ns:
        return None
    return run.totals.wall_ns / run.totals.steps / alone.value - 1


@contextmanager
def to_record_again(run: Run, recorded: Sequence[Planned]) -> Iterator[list[Planned]]:
    """Those of `recorded` that are far off their rounds. What there is of them is put aside, and put back at the end where
    no other recording was made, or none that is closer."""
    off = [(planned, by) for planned, by in _off_by(run, recorded) if abs(by) > FAR]
    for planned, by in off:
        run.watcher.say(f"{planned.name}: its recorded steps take {1 + by:.3f} times those of its rounds")
        shutil.rmtree(_aside(run, planned), ignore_errors=True)
        _recording(run, planned).rename(_aside(run, planned))
    try:
        yield [planned for planned, _ in off]
    finally:
        made = [planned for planned, _ in off if _recording(run, planned).exists()]
        again = {planned.name: by for planned, by in _off_by(run, made)}
        for planned, by in off:
            if abs(again.get(planned.name, by)) < abs(by):
                shutil.rmtree(_aside(run, planned))
            else:
                _put_back(run, planned)


def take_back(run: Run) -> None:
    """Put back what a run that was killed had put aside: where no other recording is whole, or none that is closer."""
    left = [planned for planned in run.study.configurations if _aside(run, planned).exists()]
    material = Material(run.ledger.folder, run.study) if left else None
    for planned in left:
        before, after = (_read(path(run, planned)) for path in (_aside, _recording))
        if material is None or (before is None and after is None):
            continue
        alone = material.time(planned.name)
        # A recording that tells nothing of the clock is nearer to none.
        by, again = (math.inf if (off := _off(one, alone)) is None else abs(off) for one in (before, after))
        if before is None or (after is not None and again < by):
            shutil.rmtree(_aside(run, planned))
        else:
            _put_back(run, planned)
            run.watcher.say(f"{planned.name}: a run that was killed had put its recording aside; it is back")


def _read(path: Path) -> Breakdown | None:
    """What a recording says; None where it is not whole."""
    from tetrace.attribute.attribution import attribute
    from tetrace.breakdown.analysis import break_down
    from tetrace.trace import store

    try:
        return break_down(attribute(store.read(path)))
    except TetraceError:
        return None


def _off_by(run: Run, recorded: Sequence[Planned]) -> list[tuple[Planned, float]]:
    material = Material(run.ledger.folder, run.study)
    found = [(planned, off_by(material, planned.name)) for planned in recorded]
    return [(planned, by) for planned, by in found if by is not None]


def _put_back(run: Run, planned: Planned) -> None:
    path = _recording(run, planned)
    shutil.rmtree(path, ignore_errors=True)
    _aside(run, planned).rename(path)
    # Of the other one, which is not there.
    run.ledger.change(planned.name, recording=planned.file_name, recording_error=None)
    run.ledger.save()


def _recording(run: Run, planned: Planned) -> Path:
    return run.ledger.folder / planned.file_name


def _aside(run: Run, planned: Planned) -> Path:
    return run.ledger.folder / (planned.file_name + _ASIDE)
