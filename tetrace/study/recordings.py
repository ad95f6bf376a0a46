"""A short recording of each configuration, by `tetrace record`: built side by side, one after the other on the GPU, as in a
round.

All of those save together, once the last one has run: what saves would disturb the host of the next one.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.study import first_steps, off_rounds, process
from tetrace.study.process import Process
from tetrace.study.progress import BUILD, FIRST_STEP, RECORDING, SAVING, WARM_UP
from tetrace.study.worker import LEAD_IN

if TYPE_CHECKING:
    from tetrace.study.runner import Run
    from tetrace.study.spec import Planned

# Steps after the last recorded one, so that the window closes before the process does.
_MORE_STEPS = 2
_POLL_S = 0.1
# Room that one takes on a GPU besides the memory that it reserved when it was measured: its context, libraries', ours.
_MORE_BYTES = 2 << 30


def record_all(run: Run, waiting: Sequence[Planned], room: Path) -> None:
    """Record all of `waiting`, once more those in which the GPU ran at another clock than in their rounds. One that fails
    has its error in the results, and the others go on."""
    _record_each(run, waiting, room)
    with off_rounds.to_record_again(run, waiting) as again:
        run.plan.expect(RECORDING, len(again))
        _record_each(run, again, room)


def _record_each(run: Run, waiting: Sequence[Planned], room: Path) -> None:
    left = list(waiting)
    while left:
        chunk = left[: _fitting(run, left)]
        left = left[len(chunk) :]
        crowded = _record(run, chunk, room)
        for planned in crowded:
            run.plan.expect(RECORDING, 1)
            _record(run, [planned], room)


def _fitting(run: Run, left: Sequence[Planned]) -> int:
    """How many of the next ones are alive at once: one at least, and as many as have room on the GPU."""
    most, taken = min(run.measure.together, max(2, (os.cpu_count() or 2) // 2)), 0
    for count, planned in enumerate(left[:most]):
        taken += _MORE_BYTES + (run.ledger[planned.name].peak_reserved_bytes or 0)
        if count and 0 < run.machine.free_bytes < taken:
            return count
    return min(most, len(left))


def options(run: Run) -> tuple[str, ...]:
    """The options of `tetrace record` that decide what a recording of this study holds."""
    recording = run.study.recording
    first = _first(run)
    return (
        *("--collector", run.options.collector or recording.collector),
        *("--steps", f"{first}:{first + recording.steps}", "--warmup", str(first)),
        *recording.arguments,
    )


def _command(run: Run, planned: Planned) -> list[str]:
    """`-m tetrace record` and its options, up to the command that is recorded."""
    output = str(run.ledger.folder.resolve() / planned.file_name)
    return ["-m", "tetrace", "record", "--force", "-o", output, *options(run)]


def _first(run: Run) -> int:
    """The first recorded step: the first one and the warm-up come before."""
    return 1 + run.measure.warmup


def _lead_in(run: Run) -> int:
    """How many steps of the warm-up are in the turn that is recorded, as many as come before those of a round."""
    return min(LEAD_IN, run.measure.warmup)


def _warm_up(run: Run, alive: Mapping[str, Process], one_at_a_time: bool) -> None:
    """All before any is recorded, so that recordings have the rhythm of rounds: a GPU at its power cap is faster in the steps
    after a pause than in those that follow on many others. What is off its rounds all the same is in `off_rounds.py`."""
    steps = run.measure.warmup - _lead_in(run)
    for name, each in alive.items():
        if one_at_a_time:
            run.plan.running[name] = FIRST_STEP
            _turn(run, [each], {"do": "record_first"})
        run.plan.running[name] = WARM_UP
        _turn(run, [each], {"do": "record_warm_up", "steps": steps, "cpus": run.place.settle()})
        del run.plan.running[name]


def _record(run: Run, chunk: Sequence[Planned], room: Path) -> list[Planned]:
    """Record these side by side; returns those that ran out of memory while others were alive."""
    alive: dict[str, Process] = {}
    recorded: list[tuple[Planned, Process]] = []
    crowded = []
    try:
        for planned in chunk:
            alive[planned.name] = run.start(planned, room, before=_command(run, planned))
        run.plan.running |= dict.fromkeys(alive, BUILD)
        began = time.monotonic()
        process.attend(alive.values(), run.measure.limit_s, run.tick)
        one_at_a_time = first_steps.are_alone(run.study, run.measure)
        if not one_at_a_time:
            _turn(run, alive.values(), {"do": "record_first"})
        run.plan.running.clear()
        _warm_up(run, alive, one_at_a_time)
        run.plan.took(RECORDING, time.monotonic() - began)
        for planned in chunk:
            each = alive[planned.name]
            with run.plan.working(RECORDING, planned.name):
                steps = _lead_in(run) + run.study.recording.steps + _MORE_STEPS
                _turn(run, [each], {"do": "record", "steps": steps, "cpus": run.place.settle()})
            if each.failure is None:
                recorded.append((planned, each))
            # All of a chunk were alive meanwhile, whoever is left by now.
            elif each.failure.out_of_memory and len(chunk) > 1:
                each.end()
                crowded.append(planned)
            else:
                error = each.failure.error
                each.end()
                _failed(run, planned, f"{error.stage}: {error.type}: {error.message}")
            if each.failure is not None:
                _remove_unfinished(run, planned)
                del alive[planned.name]
    except KeyboardInterrupt:
        if recorded:
            run.watcher.say("saving what was recorded; Ctrl-C leaves that out")
        raise
    finally:
        kept = {planned.name for planned, _ in recorded}
        _end(run, [planned for planned in chunk if planned.name not in kept], alive)
        try:
            # A study that is stopped has what was recorded by then.
            for planned, each in recorded:
                each.leave()
                run.plan.running[planned.name] = SAVING
            for planned, each in recorded:
                _await_saved(run, planned, each)
                del alive[planned.name]
        finally:
            _end(run, chunk, alive)
    return crowded


def _end(run: Run, chunk: Sequence[Planned], alive: dict[str, Process]) -> None:
    """End those that are still alive."""
    for planned in chunk:
        run.plan.running.pop(planned.name, None)
        if planned.name in alive:
            alive.pop(planned.name).end()
            _remove_unfinished(run, planned)


def _turn(run: Run, processes: Iterable[Process], request: dict[str, Any]) -> None:
    """Have those do something that have not failed."""
    listed = [each for each in processes if each.failure is None]
    for each in listed:
        each.ask(request)
    process.attend(listed, run.measure.limit_s, run.tick)


def _remove_unfinished(run: Run, planned: Planned) -> None:
    """Remove the recorder's working folder where it was ended before it could."""
    shutil.rmtree(run.ledger.folder / f"{planned.file_name}.recording", ignore_errors=True)


def _await_saved(run: Run, planned: Planned, each: Process) -> None:
    """Wait until the recorder has saved."""
    until = time.monotonic() + run.measure.limit_s
    while not each.has_ended and time.monotonic() < until:
        time.sleep(_POLL_S)
        run.tick()
    _saved(run, planned, each)


def _saved(run: Run, planned: Planned, each: Process) -> None:
    """Note the recording; one that is not there has an error instead."""
    code = each.end()
    if code == 0 and (run.ledger.folder / planned.file_name).exists():
        run.ledger.change(planned.name, recording=planned.file_name, recording_error=None, recorded_as=options(run))
        run.ledger.save()
        run.watcher.say(f"{planned.name}: recorded")
    else:
        said = [line for line in each.tail().splitlines() if line.startswith("tetrace:")]
        _failed(run, planned, said[-1] if said else f"tetrace record ended with exit code {code}")


def _failed(run: Run, planned: Planned, why: str) -> None:
    # An earlier recording stays until there is another.
    run.ledger.change(planned.name, recording_error=" ".join(why.split()))
    run.ledger.save()
    run.watcher.say(f"{planned.name}: not recorded ({' '.join(why.split())[:160]})")
