"""Runs a study: what is to be measured, in groups that are alive together, then the recordings.

The slow part of a configuration is the host's: imports, building, compilation. So a group starts side by side, first steps
included, unless the study says how long these take. After that there is one at a time on the GPU: a turn is a warm-up or one
round of steps, and rounds go A B C, C B A, A B C, so that what drifts (clocks, temperature) drifts for all alike.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tetrace.study import processors, results
from tetrace.study.context import changes, context_of, key_of
from tetrace.study.ledger import Ledger, digests, now
from tetrace.study.machine import Machine, versions
from tetrace.study.process import Failure, Process
from tetrace.study.progress import BUILD, FIRST_STEP, RECORDING, ROUND, WARM_UP, Plan, Watcher
from tetrace.study.results import Configuration, Results
from tetrace.study.spec import Measure, Planned, Study

_WORKER = ("-m", "tetrace.study.worker")
_OVER = (results.FAILED, results.TIMED_OUT)
# Why a failure may be gone in the next run: a package is there, nobody kills it, the GPU is free.
_SURROUNDINGS = re.compile(r"(ImportError|ModuleNotFoundError|SIG[A-Z]+|signal \d+)$")
_BUSY = "busy or unavailable"
_TRIED_AGAIN, _NO_MORE = "failed in an earlier run, for what may be gone", "the study has it no more"
_CACHES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
# Longest path of a Unix socket is 104 on some systems; names in the folder are short.
_LONGEST_ROOM = 80


@dataclass(frozen=True)
class Options:
    """How a study is run this time. `only`: patterns of configurations; `collector`: in place of the study's."""

    only: tuple[str, ...] = ()
    quick: bool = False
    fresh: bool = False
    recordings: bool = True
    collector: str = ""
    command: str = "tetrace study"


class Run:
    """One run of a study on this machine, into one folder."""

    def __init__(
        self, study: Study, measure: Measure, machine: Machine, folder: Path, options: Options, watcher: Watcher
    ) -> None:
        self.study, self.measure, self.machine = study, measure, machine
        self.options, self.watcher = options, watcher
        self.plan = Plan()
        self.versions = versions()
        document = machine.document()
        self.context = context_of(document, self.versions, measure, study.device, os.environ)
        self.ledger = Ledger(study, folder, self._head(), options.fresh)
        self._numbers = iter(range(sys.maxsize))
        # Where each configuration is kept while it is measured and recorded.
        self.place = processors.Place(measure.cpus)
        self._chosen = study.chosen(options.only)

    def execute(self) -> Results:
        """Measure and record what is to be; returns everything in the folder.

        After a Ctrl-C what was measured is on disk, and KeyboardInterrupt is raised again.
        """
        from tetrace.study import off_rounds
        from tetrace.study.recordings import record_all
        from tetrace.study.turns import measure_all

        off_rounds.take_back(self)
        to_measure = self._to_measure()
        if not to_measure and not (self.options.recordings and any(map(self._wants, self._chosen))):
            if not any(self.ledger[planned.name].state in _OVER for planned in self._chosen):
                self.watcher.say("everything is measured already; --fresh measures it again")
            return self.ledger.results
        self.ledger.begin(self._head(), self.context)
        self.ledger.save()
        for kind in (BUILD, FIRST_STEP, WARM_UP):
            self.plan.expect(kind, len(to_measure))
        self.plan.expect(ROUND, sum(self.rounds_left(planned) for planned in to_measure))
        if self.machine.others:
            pids = ", ".join(map(str, self.machine.others))
            self.watcher.say(f"others use the GPU meanwhile (process {pids}): what is measured may be slower for it")
        if self.options.recordings:
            measured = {each.name for each in to_measure} | {each.name for each in self._chosen if self._wants(each)}
            recorded = sum(planned.recording for planned in self._chosen if planned.name in measured)
            self.plan.expect(RECORDING, recorded)
        with self._room() as room, self.place:
            try:
                measure_all(self, to_measure, room)
                if self.options.recordings:
                    record_all(self, [planned for planned in self._chosen if self._wants(planned)], room)
            except KeyboardInterrupt:
                self._interrupted()
                raise
        self.ledger.head(ended=now())
        self.ledger.save()
        return self.ledger.results

    def rounds_left(self, planned: Planned) -> int:
        """How many rounds are still to be measured."""
        return max(0, self.measure.rounds - len(self.ledger[planned.name].rounds))

    @property
    def measured(self) -> list[Planned]:
        """What is chosen and measured: it may be measured once more beside what is compared with it."""
        return [planned for planned in self._chosen if self.ledger[planned.name].state == results.MEASURED]

    def start(self, planned: Planned, room: Path, before: Sequence[str] = ()) -> Process:
        """Start a worker for a configuration, by the command `before` where there is one, and have it build."""
        command = [sys.executable, *before, *_WORKER]
        folder = self.study.folder.resolve()
        process = Process(planned.name, command, self._environ(planned, room), folder, room, next(self._numbers))
        request = {"folder": str(folder), "options": dict(planned.options), "device": self.study.device}
        process.ask({"do": "build", **request})
        return process

    def tick(self) -> None:
        """Something may have changed."""
        self.watcher.tick(self.plan)

    def fails(self, planned: Planned, failure: Failure) -> None:
        """A configuration is over with an error."""
        error = failure.error
        text = f"{error.type}: {error.message}\n{error.output}"
        expected = planned.expects is not None and re.search(planned.expects, text) is not None
        state = results.TIMED_OUT if failure.timed_out else results.FAILED
        code = digests(self.study.folder, failure.code)
        self.ledger.change(planned.name, state=state, error=error, expected=expected, code=code)
        self.ledger.save()
        words = " ".join(error.message.split())[:160]
        said = "failed as expected" if expected else state
        self.watcher.say(f"{planned.name}: {said} ({error.stage}: {error.type}: {words})")

    def _head(self) -> Results:
        study = self.study
        return Results(
            study=study.name,
            title=study.title,
            started=now(),
            quick=self.options.quick,
            command=self.options.command,
            options_changed=study.changed,
            measure=asdict(self.measure),
            machine=self.machine.document(),
            versions=self.versions,
            peaks=self._peaks(),
        )

    def _peaks(self) -> Mapping[str, Any] | None:
        from tetrace.record import calibration

        return calibration.load(self.machine.gpu) if self.machine.gpu else None

    def _to_measure(self) -> list[Planned]:
        """What is chosen and not yet measured with these options, code and versions; the rest of it starts over."""
        reasons = {planned.name: self._reason(planned) for planned in self._chosen}
        self._set_aside({name: reason for name, reason in reasons.items() if reason})
        found, failed = [], []
        for planned in self._chosen:
            if reasons[planned.name] is not None:
                self.ledger.start_over(planned, key_of(planned, self.context), self.context.digest)
            elif self.ledger[planned.name].state in _OVER:
                failed.append(planned.name)
                continue
            if self.rounds_left(planned):
                found.append(planned)
            self.ledger.change(planned.name, state=results.WAITING if planned in found else results.MEASURED)
        if failed:
            way = "--fresh with --only NAME runs one again"
            self.watcher.say(f"{', '.join(failed)}: failed in an earlier run and would again; {way}")
        return found

    def _reason(self, planned: Planned) -> str | None:
        """Why a configuration is measured from its first round on, in words: "" where it never was; None where it goes on."""
        stored = self.ledger[planned.name]
        if not stored.key:
            return ""
        if self.options.fresh:
            return "--fresh"
        if stored.key != key_of(planned, self.context):
            before = self.ledger.results.contexts.get(stored.context or "")
            return changes(stored, before, planned, self.context) or "what it was measured with is not known"
        if not stored.code:
            return "the code that ran is not known" if stored.rounds else ""
        code = digests(self.study.folder, stored.code)
        changed = [file for file in code if code[file] != stored.code.get(file)]
        if changed:
            return f"{', '.join(changed[:3])}{' and more' if len(changed) > 3 else ''} changed"
        if stored.state == results.TIMED_OUT:
            more = self.measure.limit_s > self.ledger.results.measure.get("limit_s", 0)
            return "--limit gives it more" if more else None
        return _TRIED_AGAIN if _may_be_gone(stored) else None

    def _set_aside(self, reasons: Mapping[str, str]) -> None:
        """Keep what is to be measured again, and say why it is."""
        ledger = self.ledger
        if ledger.replaced:
            self.watcher.say(f"what was there could not be read; it is in {ledger.replaced}")
        planned = {each.name for each in self.study.configurations}
        gone = [each.name for each in ledger.results.configurations if each.name not in planned]
        if self.options.fresh and not self.options.only:
            reasons = {**reasons, **dict.fromkeys(gone, _NO_MORE)}
        kept = [name for name in reasons if ledger[name].rounds or ledger[name].recording]
        folder = ledger.set_aside(kept) if kept else None
        told = [name for name in reasons if name in kept or ledger[name].error]
        for reason, count in Counter(reasons[name] for name in told).items():
            some = f"{count} configurations are" if count > 1 else f"{told[0] if len(told) == 1 else 'one'} is"
            self.watcher.say(f"{reason}: {some} {'left out' if reason == _NO_MORE else 'measured again'}")
        if folder:
            self.watcher.say(f"what was measured before is in {folder}")
        for name in reasons.keys() - planned:
            ledger.forget(name)

    def _wants(self, planned: Planned) -> bool:
        """Whether a recording of it is still to be made."""
        from tetrace.study.recordings import options

        stored = self.ledger[planned.name]
        there = stored.recording is not None and (self.ledger.folder / stored.recording).exists()
        same = stored.recorded_as == options(self)
        return planned.recording and stored.state == results.MEASURED and not (there and same)

    def _interrupted(self) -> None:
        for planned in self._chosen:
            if self.ledger[planned.name].state == results.WAITING and self.ledger[planned.name].rounds:
                self.ledger.change(planned.name, state=results.INTERRUPTED)
        self.ledger.save()

    def _environ(self, planned: Planned, room: Path) -> dict[str, str]:
        package = str(Path(results.__file__).resolve().parents[2])
        # What another configuration or run compiled before would make this one's first step look fast.
        cache = str(room / f"cache-{planned.file_name}")
        caches = dict.fromkeys(_CACHES, cache) if self.measure.own_caches else {}
        path = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), package])
        # Last lines of a process that is killed would be lost in its buffers.
        ours = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": path}
        return {**os.environ, **caches, **ours, **planned.environment}

    @staticmethod
    @contextlib.contextmanager
    def _room() -> Iterator[Path]:
        """A private folder for sockets and what workers print."""
        folder = tempfile.mkdtemp(prefix="tetrace-study-")
        if len(folder) > _LONGEST_ROOM:
            Path(folder).rmdir()
            folder = tempfile.mkdtemp(prefix="tetrace-study-", dir="/tmp")
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _may_be_gone(stored: Configuration) -> bool:
    """Whether a failure may have come from what was around the configuration, not from itself."""
    error = stored.error
    if stored.state != results.FAILED or stored.expected or error is None:
        return False
    return error.stage == "import" or bool(_SURROUNDINGS.search(error.type)) or _BUSY in error.message
