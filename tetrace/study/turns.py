"""Measures configurations in groups: built side by side, then one at a time, warm-ups first and rounds interleaved."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.study import groups, process, results
from tetrace.study.clocks import Clocks
from tetrace.study.ledger import digests, now
from tetrace.study.process import Process
from tetrace.study.progress import BUILD, RECORDING, ROUND, WARM_UP
from tetrace.study.results import Round
from tetrace.study.steps import Step

if TYPE_CHECKING:
    from tetrace.study.groups import Pair
    from tetrace.study.runner import Run
    from tetrace.study.spec import Planned

# Room that a process takes on a GPU besides what torch reserves: its context, and libraries' workspaces.
_CONTEXT_BYTES = 1 << 30


def measure_all(run: Run, waiting: Sequence[Planned], room: Path) -> None:
    """Measure all of `waiting`. What runs out of memory while others are alive is tried once more alone."""
    left, alone = list(waiting), list[Any]()
    pairs = groups.compared(run.study)
    while left:
        alone.extend(_measure(run, room, left, pairs))
    for planned in alone:
        run.watcher.say(f"{planned.name}: ran out of memory beside others, or was killed; it is tried once more alone")
        _measure(run, room, [planned], set())


def _measure(run: Run, room: Path, left: list[Planned], pairs: set[Pair]) -> list[Planned]:
    """Measure a group out of `left`; returns those that were short of memory while others were alive."""
    group = Group(run, room, pairs)
    try:
        group.fill(left)
        group.rounds()
    finally:
        group.end()
    return group.crowded


class Group:
    """Configurations that are alive together. `crowded`: those that were short of memory while others were alive.

    One that was measured before may be among them, because others are compared with it: then it has more rounds.
    """

    def __init__(self, run: Run, room: Path, pairs: set[Pair]) -> None:
        """`pairs` of configurations that are compared should be in one group."""
        self._run, self._room = run, room
        # Unique over all runs, since rounds of several are in one folder.
        self._name = f"{now()} {secrets.token_hex(4)}"
        self._apart = {pair for pair in pairs if not _together(run, *pair)}
        self._alive: dict[str, Process] = {}
        self._planned: dict[str, Planned] = {}
        # Rounds that each still has to do, and those that had been measured before.
        self._owed: dict[str, int] = {}
        self._again: set[str] = set()
        self._bus_id = ""
        # What the GPU has free, None before that is known (and on a CPU), and what the largest of the warm ones takes.
        self._free_bytes: int | None = None
        self._largest_bytes = _CONTEXT_BYTES
        self.crowded: list[Planned] = []

    def fill(self, left: list[Planned]) -> None:
        """Take configurations out of `left`, build and warm them up, until the group is full or memory is scarce."""
        together = self._run.measure.together
        at_once = max(2, (os.cpu_count() or 2) // 2)
        while len(self._alive) < together:
            count = min(at_once, together - len(self._alive))
            if self._free_bytes is not None:
                count = min(count, self._free_bytes // (2 * self._largest_bytes))
            chunk = self._next(left, count, together)
            if not chunk:
                return
            self._build(chunk)
            put_back = [planned for planned in chunk if planned.name in self._alive and not self._warm_up(planned)]
            left[:0] = [planned for planned in put_back if planned.name not in self._again]
            if put_back:
                return

    def _next(self, left: list[Planned], count: int, together: int) -> list[Planned]:
        """As many as `count` that join the group now, out of `left` or measured before."""
        run, chunk = self._run, list[Any]()
        while len(chunk) < count:
            members = [*self._alive, *(planned.name for planned in chunk)]
            again = [planned for planned in run.measured if planned.name not in self._again]
            found = groups.next_of(members, left, again, self._apart, together - len(members))
            if found is None:
                break
            chunk.append(found)
            if found in left:
                left.remove(found)
                self._owed[found.name] = run.rounds_left(found)
            else:
                self._again.add(found.name)
                self._owed[found.name] = 0
                run.plan.expect(BUILD, 1)
                run.plan.expect(WARM_UP, 1)
        return chunk

    def rounds(self) -> None:
        """All rounds of all that are alive, in turns: forth, then back. Their numbers are the same for all of them."""
        ledger, most = self._run.ledger, max((self._owed[name] for name in self._alive), default=0)
        for name in self._again & self._alive.keys():
            self._owed[name] = most
            self._run.plan.expect(ROUND, most)
        first = 1 + max((each.round for name in self._alive for each in ledger[name].rounds), default=-1)
        for number in range(most):
            order = [name for name in self._alive if self._owed[name]]
            for name in order if number % 2 == 0 else order[::-1]:
                self._round(self._planned[name], first + number)

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
            if planned.name in self._again:
                run.plan.expect(WARM_UP, -1)
            else:
                run.plan.expect(BUILD, 1)
            return False
        with run.plan.working(WARM_UP, planned.name):
            said = self._turn(planned, {"do": "warm_up", "steps": run.measure.warmup, "cpus": run.cpus})
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
        run.ledger.add_losses(planned.name, said["losses"], new_process=True)
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
        done = Round(round=number, steps=len(said["steps"]), group=self._name, **times, **clocks.summary())
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
            state=results.WAITING if run.measure.rounds > len(rounds) else results.MEASURED,
            peak_allocated_bytes=_most(before.peak_allocated_bytes, said["memory"].get("allocated")),
            peak_reserved_bytes=_most(before.peak_reserved_bytes, said["memory"].get("reserved")),
        )
        run.ledger.add_losses(planned.name, said["losses"])
        run.ledger.save()
        self._owed[planned.name] -= 1
        if not run.rounds_left(planned) and planned.name not in self._again:
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
        self._run.plan.expect(ROUND, -self._owed[planned.name])
        self._run.plan.expect(WARM_UP, 0 if warm else -1)
        if planned.name in self._again:
            self._not_again(planned, each.failure.error.message)
            return None
        self._run.plan.expect(RECORDING, -1 if planned.recording else 0)
        self._run.fails(planned, each.failure)
        return None

    def _crowd_out(self, planned: Planned, was_warm: bool) -> None:
        """End a process that had too little memory beside the others; it gets the GPU alone later."""
        self._alive.pop(planned.name).end()
        if planned.name in self._again:
            self._run.plan.expect(ROUND, -self._owed[planned.name])
            self._run.plan.expect(WARM_UP, 0 if was_warm else -1)
            self._not_again(planned, "it ran out of memory")
            return
        self.crowded.append(planned)
        self._run.plan.expect(BUILD, 1)
        self._run.plan.expect(WARM_UP, 1 if was_warm else 0)

    def _not_again(self, planned: Planned, why: str) -> None:
        """One that was measured before could not be measured once more: what is there of it stays."""
        words = " ".join(why.split())[:160]
        self._run.watcher.say(f"{planned.name}: is not measured once more beside what is compared with it ({words})")


def _together(run: Run, one: str, other: str) -> bool:
    """Whether rounds of both took turns already, as many as are measured."""
    return groups.interleaved(run.ledger[one], run.ledger[other]) >= run.measure.rounds


def _most(*values: int | None) -> int | None:
    known = [value for value in values if value is not None]
    return max(known) if known else None
