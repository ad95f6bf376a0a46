"""Measures configurations in groups: built and started side by side, then one at a time, warm-ups first and rounds
interleaved."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.study import first_steps, groups, process, results
from tetrace.study.clocks import Clocks
from tetrace.study.ledger import digests, now
from tetrace.study.process import Process
from tetrace.study.progress import BUILD, FIRST_STEP, RECORDING, ROUND, WARM_UP
from tetrace.study.results import Round
from tetrace.study.steps import Step

if TYPE_CHECKING:
    from tetrace.study.groups import Pair
    from tetrace.study.runner import Run
    from tetrace.study.spec import Planned


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
        self._memory = first_steps.Memory()
        self._one_at_a_time = first_steps.are_alone(run.study, run.measure)
        self.crowded: list[Planned] = []
        # Those that were short of memory while others had their first step too, and those that wait for the next group.
        self._short: list[Planned] = []
        self._later: list[Planned] = []

    def fill(self, left: list[Planned]) -> None:
        """Take configurations out of `left`, build and warm them up, until the group is full or memory is scarce."""
        together = self._run.measure.together
        at_once = max(2, (os.cpu_count() or 2) // 2)
        while len(self._alive) < together:
            count = self._memory.fitting(min(at_once, together - len(self._alive)))
            chunk = self._next(left, count, together)
            if not chunk:
                break
            self._build(chunk)
            if not self._warm(chunk):
                break
        left[:0] = self._later

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
                run.plan.once_more(WARM_UP)
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
        for planned, said in self._work(BUILD, chunk):
            self._bus_id = said["bus_id"] or self._bus_id
            run.ledger.head(versions={**run.ledger.results.versions, **said["versions"]})
            self._keep(planned, said, ("import_ns", "build_ns", "tokens", "flops", "parameters", "facts"))
        run.ledger.save()

    def _warm(self, chunk: Sequence[Planned]) -> bool:
        """First steps, as many side by side as there is room for, and warm-ups one at a time after each such lot.

        False where the GPU has no room for the rest beside those that are warm: they wait for the next group.
        """
        waiting, one_at_a_time = self._built(chunk), self._one_at_a_time
        while waiting:
            if self._memory.is_scarce:
                for planned in waiting:
                    self._put_back(planned)
                return False
            count = 1 if one_at_a_time else self._memory.side_by_side(len(waiting))
            lot, waiting = waiting[:count], waiting[count:]
            for planned in self._first_steps(lot):
                self._warm_up(planned)
            if self._short:
                short, self._short, one_at_a_time = self._short, [], True
                self._build(short)
                waiting += self._built(short)
        return True

    def _built(self, chunk: Sequence[Planned]) -> list[Planned]:
        return [planned for planned in chunk if planned.name in self._alive]

    def _first_steps(self, lot: Sequence[Planned]) -> list[Planned]:
        """First steps side by side; returns those that had theirs."""
        done = self._work(FIRST_STEP, lot, {"do": "first_step"})
        self._memory.take([said["memory"] for _, said in done])
        for planned, said in done:
            beside = {"first_step_beside": len(lot) - 1}
            self._keep(planned, {**said, **beside}, ("first_step_ns", "first_step_beside"))
        self._run.ledger.save()
        return [planned for planned, _ in done]

    def _warm_up(self, planned: Planned) -> None:
        run = self._run
        request = {"do": "warm_up", "steps": run.measure.warmup, "cpus": run.place.settle()}
        for _, said in self._work(WARM_UP, [planned], request):
            self._memory.take([said["memory"]])
            self._keep(planned, said, ("warmup_ns", "facts"))
            run.ledger.add_losses(planned.name, said["losses"], new_process=True)
            run.ledger.change(planned.name, code=digests(run.study.folder, said["code"]))
            run.ledger.save()

    def _keep(self, planned: Planned, said: dict[str, Any], figures: Sequence[str]) -> None:
        """Keep figures of a process, unless an earlier one of the same configuration had some: rounds go on with it."""
        ledger = self._run.ledger
        if not ledger[planned.name].rounds:
            ledger.change(planned.name, **{figure: said[figure] for figure in figures})

    def _round(self, planned: Planned, number: int) -> None:
        run = self._run
        self._owed[planned.name] -= 1
        request = {"do": "round", "steps": run.measure.steps, "cpus": run.place.settle()}
        with Clocks(self._bus_id) as clocks:
            done = self._work(ROUND, [planned], request)
        for _, said in done:
            self._measured(planned, number, said, clocks.summary())

    def _measured(self, planned: Planned, number: int, said: Mapping[str, Any], clocks: Mapping[str, Any]) -> None:
        """Keep a round."""
        run = self._run
        before = run.ledger[planned.name]
        times = {figure: said[figure] for figure in ("at", "began_ns", "host_ns")}
        done = Round(round=number, steps=len(said["steps"]), group=self._name, **times, **clocks)
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
        if not run.rounds_left(planned) and planned.name not in self._again:
            run.watcher.say(f"{planned.name}: measured, {len(rounds)} rounds of {run.measure.steps} steps")

    def _work(
        self, kind: str, chunk: Sequence[Planned], request: Mapping[str, Any] | None = None
    ) -> list[tuple[Planned, dict[str, Any]]]:
        """Have processes do something side by side while the others wait, or what they were asked when they were started.

        Returns what they answered; those that failed leave the group.
        """
        run, are_others = self._run, len(self._alive) > 1
        working = [self._alive[planned.name] for planned in chunk]
        with run.plan.working(kind, *(planned.name for planned in chunk)):
            for each in working:
                if request is not None:
                    each.ask(request)
            process.attend(working, run.measure.limit_s, run.tick)
        # All of them were alive meanwhile, also where one after the other leaves now.
        short = [planned for planned in chunk if are_others and first_steps.is_short(self._alive[planned.name], kind)]
        for planned in short:
            if kind == FIRST_STEP and len(chunk) > 1:
                self._start_over(planned)
            else:
                self._crowd_out(planned, kind)
        replies = [(planned, self._reply(planned, kind)) for planned in chunk if planned not in short]
        return [(planned, said) for planned, said in replies if said is not None]

    def _reply(self, planned: Planned, kind: str) -> dict[str, Any] | None:
        """What a process answered; where it failed, it leaves the group."""
        each = self._alive[planned.name]
        if each.failure is None:
            return each.reply
        del self._alive[planned.name]
        each.end()
        self._run.plan.give_up(kind, self._owed[planned.name])
        if planned.name in self._again:
            self._not_again(planned, each.failure.error.message)
            return None
        self._run.plan.expect(RECORDING, -1 if planned.recording else 0)
        self._run.fails(planned, each.failure)
        return None

    def _start_over(self, planned: Planned) -> None:
        """End a process that got no memory in its first step: one by one there may be enough for all that had theirs."""
        self._alive.pop(planned.name).end()
        self._run.plan.once_more(FIRST_STEP)
        self._short.append(planned)
        why = "ran out of memory while others had their first step, or was killed"
        self._run.watcher.say(f"{planned.name}: {why}; it has its own once more")

    def _put_back(self, planned: Planned) -> None:
        """End a built process that has no room; it is in the next group, unless it was measured before."""
        self._end_early(planned, BUILD)
        if planned.name not in self._again:
            self._later.append(planned)

    def _crowd_out(self, planned: Planned, kind: str) -> None:
        """End a process that had too little memory beside the others; it gets the GPU alone later."""
        self._end_early(planned, kind)
        if planned.name in self._again:
            self._not_again(planned, "it ran out of memory")
        else:
            self.crowded.append(planned)

    def _end_early(self, planned: Planned, kind: str) -> None:
        """End a process after this kind of work: all that it did is done once more, unless it was measured before."""
        self._alive.pop(planned.name).end()
        if planned.name in self._again:
            self._run.plan.give_up(kind, self._owed[planned.name])
        else:
            self._run.plan.once_more(kind)

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
