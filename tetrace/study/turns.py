"""Measures configurations in groups: built side by side, then one at a time, warm-ups first and rounds interleaved."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.study import process, results
from tetrace.study.clocks import Clocks
from tetrace.study.ledger import digests
from tetrace.study.process import Process
from tetrace.study.progress import BUILD, RECORDING, ROUND, WARM_UP
from tetrace.study.results import Losses, Round, Step

if TYPE_CHECKING:
    from tetrace.study.runner import Run
    from tetrace.study.spec import Planned

# Room that a process takes on a GPU besides what torch reserves: its context, and libraries' workspaces.
_CONTEXT_BYTES = 1 << 30


def measure_all(run: Run, waiting: Sequence[Planned], room: Path) -> None:
    """Measure all of `waiting`. What runs out of memory while others are alive is tried once more alone."""
    left, alone = list(waiting), list[Any]()
    while left:
        group = Group(run, room)
        try:
            group.fill(left)
            group.rounds()
        finally:
            group.end()
        alone.extend(group.crowded)
    for planned in alone:
        run.watcher.say(f"{planned.name}: ran out of memory beside others; it is tried once more alone")
        group = Group(run, room)
        try:
            group.fill([planned])
            group.rounds()
        finally:
            group.end()


class Group:
    """Configurations that are alive together. `crowded`: those that were short of memory while others were alive."""

    def __init__(self, run: Run, room: Path) -> None:
        self._run, self._room = run, room
        self._alive: dict[str, Process] = {}
        self._planned: dict[str, Planned] = {}
        self._bus_id = ""
        # What the GPU has free, None before that is known (and on a CPU), and what the largest of the warm ones takes.
        self._free_bytes: int | None = None
        self._largest_bytes = _CONTEXT_BYTES
        self.crowded: list[Planned] = []

    def fill(self, left: list[Planned]) -> None:
        """Take configurations out of `left`, build and warm them up, until the group is full or memory is scarce."""
        together = self._run.measure.together
        at_once = max(2, (os.cpu_count() or 2) // 2)
        while left and len(self._alive) < together:
            count = min(at_once, together - len(self._alive), len(left))
            if self._free_bytes is not None:
                count = min(count, self._free_bytes // (2 * self._largest_bytes))
                if count < 1:
                    return
            chunk = [left.pop(0) for _ in range(count)]
            self._build(chunk)
            put_back = [planned for planned in chunk if planned.name in self._alive and not self._warm_up(planned)]
            left[:0] = put_back
            if put_back:
                return

    def rounds(self) -> None:
        """All rounds of all that are alive, in turns: forth, then back."""
        for number in range(self._run.measure.rounds):
            order = [name for name in self._alive if number in self._run.rounds_left(self._planned[name])]
            for name in order if number % 2 == 0 else order[::-1]:
                self._round(self._planned[name], number)

    def end(self) -> None:
        """End what is alive."""
        for each in self._alive.values():
            each.end()
        self._alive.clear()

    def _build(self, chunk: Sequence[Planned]) -> None:
        run = self._run
        for planned in chunk:
            self._planned[planned.name] = planned
            self._alive[planned.name] = run.start(planned, self._room)
        started = [self._alive[planned.name] for planned in chunk]
        with run.plan.working(BUILD, *(planned.name for planned in chunk)):
            process.attend(started, run.measure.limit_s, run.tick)
        for planned in chunk:
            said = self._reply(planned)
            if said is None:
                continue
            self._bus_id = said["bus_id"] or self._bus_id
            run.ledger.head(versions={**run.ledger.results.versions, **said["versions"]})
            self._keep(planned, said, ("import_ns", "build_ns", "tokens", "flops", "parameters", "facts"))
        run.ledger.save()

    def _warm_up(self, planned: Planned) -> bool:
        """Warm up; False where the GPU has no room for it beside those that are warm: then it waits for the next group."""
        run = self._run
        if self._free_bytes is not None and self._free_bytes < self._largest_bytes:
            self._alive.pop(planned.name).end()
            run.plan.expect(BUILD, 1)
            return False
        with run.plan.working(WARM_UP, planned.name):
            said = self._turn(planned, {"do": "warm_up", "steps": run.measure.warmup})
        if said is None:
            return True
        memory = said["memory"]
        if memory.get("retries") and len(self._alive) > 1:
            self._crowd_out(planned, was_warm=True)
            return True
        if memory:
            self._free_bytes = memory["free"]
            self._largest_bytes = max(self._largest_bytes, memory["reserved"] + _CONTEXT_BYTES)
        self._keep(planned, said, ("first_step_ns", "warmup_ns", "facts"))
        if not run.ledger[planned.name].losses.by_step:
            run.ledger.change(planned.name, losses=Losses.of(said["losses"]))
        run.ledger.change(planned.name, code=digests(run.study.folder, said["code"]))
        run.ledger.save()
        return True

    def _keep(self, planned: Planned, said: dict[str, Any], figures: Sequence[str]) -> None:
        """Keep figures of a process, unless an earlier one of the same configuration had some: rounds go on with it."""
        ledger = self._run.ledger
        if not ledger[planned.name].rounds:
            ledger.change(planned.name, **{figure: said[figure] for figure in figures})

    def _round(self, planned: Planned, number: int) -> None:
        run = self._run
        with run.plan.working(ROUND, planned.name), Clocks(self._bus_id) as clocks:
            said = self._turn(planned, {"do": "round", "steps": run.measure.steps})
        if said is None:
            return
        before = run.ledger[planned.name]
        times = {figure: said[figure] for figure in ("at", "began_ns", "host_ns")}
        done = Round(round=number, steps=len(said["steps"]), **times, **clocks.summary())
        rounds = tuple(sorted((*before.rounds, done), key=lambda each: each.round))
        run.ledger.add_steps(
            [
                Step(planned.name, number, index, step["total_ns"], step["phases"])
                for index, step in enumerate(said["steps"])
            ]
        )
        run.ledger.change(
            planned.name,
            rounds=rounds,
            losses=Losses.of([*before.losses.by_step, *said["losses"]]),
            state=results.WAITING if run.measure.rounds > len(rounds) else results.MEASURED,
            peak_allocated_bytes=_most(before.peak_allocated_bytes, said["memory"].get("allocated")),
            peak_reserved_bytes=_most(before.peak_reserved_bytes, said["memory"].get("reserved")),
        )
        run.ledger.save()
        if not run.rounds_left(planned):
            run.watcher.say(f"{planned.name}: measured, {len(rounds)} rounds of {run.measure.steps} steps")

    def _turn(self, planned: Planned, request: dict[str, Any]) -> dict[str, Any] | None:
        """Have a process do something on the GPU while the others wait; None where it failed."""
        each = self._alive[planned.name]
        each.ask(request)
        process.attend([each], self._run.measure.limit_s, self._run.tick)
        return self._reply(planned)

    def _reply(self, planned: Planned) -> dict[str, Any] | None:
        """What a process answered; where it failed, it leaves the group."""
        each = self._alive[planned.name]
        if each.failure is None:
            return each.reply
        warm = each.stage not in ("import", "build")
        if each.failure.out_of_memory and len(self._alive) > 1:
            self._crowd_out(planned, was_warm=warm)
            return None
        del self._alive[planned.name]
        each.end()
        self._run.plan.expect(ROUND, -len(self._run.rounds_left(planned)))
        self._run.plan.expect(WARM_UP, 0 if warm else -1)
        self._run.plan.expect(RECORDING, -1 if planned.recording else 0)
        self._run.fails(planned, each.failure)
        return None

    def _crowd_out(self, planned: Planned, was_warm: bool) -> None:
        """End a process that had too little memory beside the others; it gets the GPU alone later."""
        self._alive.pop(planned.name).end()
        self.crowded.append(planned)
        self._run.plan.expect(BUILD, 1)
        self._run.plan.expect(WARM_UP, 1 if was_warm else 0)


def _most(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
