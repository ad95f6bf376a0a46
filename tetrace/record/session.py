"""One recording: chooses the collector, runs the command in its working folder, and saves what that holds."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tetrace.errors import InputError, TetraceError, UsageError
from tetrace.instrument import masking, observer
from tetrace.record import environment, folder, uninstrumented
from tetrace.record.collectors import Collector, after, choose
from tetrace.record.command import Command
from tetrace.record.options import Options
from tetrace.record.running import Ended, Relay, tell_end
from tetrace.sources import detect
from tetrace.sources.sites import processes_of
from tetrace.trace import store

if TYPE_CHECKING:
    from tetrace.trace.trace import Trace

_FORMAT = 1
_BOOTSTRAP = Path(__file__).resolve().parent.parent / "instrument" / "bootstrap"
_ONE_STEP = "the whole run is one step: no optimizer drove a loop; call tetrace.step() where a step of the script ends"


@dataclass(frozen=True)
class Run:
    """A command that was run: where, under what, and how it ended. `document` is its run.json."""

    at: folder.Place
    collector: Collector
    ended: Ended
    document: dict[str, object]


@dataclass(frozen=True)
class Saved:
    """What became of a recording. `problem` is why the collector's part of it is missing, "" where it is there; `hint`
    what would have made a better one, "" where nothing is known.
    """

    trace: Trace
    path: Path
    problem: str
    hint: str = ""


def _calibration() -> Mapping[str, object] | None:
    """What `tetrace doctor --calibrate` once measured of the first GPU here; None where it never did."""
    from tetrace.record import calibration, nvidia

    gpus = nvidia.read().gpus
    return calibration.load(gpus[0].name) if gpus else None


def _build_observer() -> None:
    """Build what observes autograd, once for each torch: eight ranks must not start eight compilers.

    Where that fails, the instrumented processes use hooks and say so in the report.
    """
    with contextlib.suppress(TetraceError, OSError):
        observer.build()


@dataclass(frozen=True)
class Session:
    """One call of `tetrace record`. `say` tells the user a line; `relay` has tetrace's signals meanwhile."""

    options: Options
    command: Command
    version: str
    say: Callable[[str], None]
    relay: Relay

    def run(self) -> Run:
        """Run the command to its end under the chosen collector, in a new working folder.

        Raises `UsageError` where it could not be started: then nothing is left behind.
        """
        collector, reason = choose(self.options, self.command.run, os.environ)
        wanted = folder.place(self.options.output, self.command.name)
        keep, force = self.options.keep_nsys_rep, self.options.force
        at = folder.take(wanted, force=force, keep_report=keep, environ=os.environ)
        self._say_choice(collector, reason)
        try:
            if self.options.ranges == "modules":
                _build_observer()
            return self._run(collector, reason, at)
        except (UsageError, KeyboardInterrupt):
            shutil.rmtree(at.working, ignore_errors=True)
            raise

    def _say_choice(self, collector: Collector, reason: str) -> None:
        """What the user would not expect of the choice: nothing of the GPU, or arguments for a collector not taken."""
        if self.options.collector != "auto":
            return
        if not collector.records_gpu:
            self.say(f"no GPU is recorded: {reason}")
        elif self.options.nsys and collector.name != "nsys":
            self.say(f"--nsys is left out, this is recorded with {collector.name}: {reason}")

    def _run(self, collector: Collector, reason: str, at: folder.Place) -> Run:
        run = self._under(collector, reason, at)
        if run is None:
            why = f"{collector.name} did not start the script ({collector.last_words(at.working)})"
            if self.options.collector != "auto" or self.options.nsys:
                raise UsageError(f"{why}; check --{collector.name}, or record without a GPU with --collector host")
            self.say(why)
            collector, reason = after(collector.name, why, self.options, self.command.run, os.environ)
            self._say_choice(collector, reason)
            run = self._under(collector, reason, at)
            assert run is not None, "a command that was started was started"
        return run

    def _under(self, collector: Collector, reason: str, at: folder.Place) -> Run | None:
        """One attempt; None where the collector gave up before the command ever ran."""
        document = self._document(collector, reason)
        folder.write_run(at.working, document)
        try:
            running = collector.start(self.command.run, self._environ(collector, at.working), at.working)
        except OSError as error:
            raise UsageError(f"{self.command.run[0]}: cannot be run ({error.strerror or error})") from error
        self.relay.to(running)
        if collector.records_gpu:
            tell_end(running, lambda: self.say("the script has ended; saving the recording"))
        ended = running.wait()
        self.relay.over()
        return Run(at, collector, ended, document) if running.ever_started else None

    def _environ(self, collector: Collector, working: Path) -> dict[str, str]:
        path = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(_BOOTSTRAP), *([path] if path else [])]),
            "TETRACE_RECORDING": str(working),
            "TETRACE_OPTIONS": self.options.variable(collector.name, collector.capture),
        }

    def _document(self, collector: Collector, reason: str) -> dict[str, object]:
        return {
            "format": _FORMAT,
            "tetrace": self.version,
            "command": masking.words(self.command.typed),
            "collector": collector.name,
            "reason": reason,
            "options": self.options.document(collector.name, collector.capture),
            "started_ns": time.time_ns(),
            collector.name: collector.describe(),
            "calibration": _calibration() if collector.records_gpu else None,
            **environment.describe(os.environ, Path.cwd()),
        }

    def save(self, run: Run) -> Saved:
        """Make the recording of what the working folder holds, which is removed only when nothing is lost by it.

        Raises `InputError` where nothing was recorded, or it cannot be read: then the folder is kept if it holds
        anything, and the message names it.
        """
        working = run.at.working
        instrumented = any(working.glob("process-*/process.json"))
        try:
            problem, notices = self._collect(run)
            waits = run.collector.records_gpu and not self.options.window.whole_run
            missing = "" if instrumented else uninstrumented.why(run.ended, self.command.run, waits)
            self._end(run, notices, missing)
            if missing and (problem or not run.collector.records_gpu):
                raise InputError(_left(working, _nothing(run.ended, problem, missing)))
            trace = self._import(run)
        finally:
            folder.let_go(working)
        hint = _ONE_STEP if run.ended.finished and _is_one_step(working) else ""
        # Without a GPU's recorder the folder holds nothing that is not in the recording.
        if problem and run.collector.records_gpu:
            problem = _left(working, problem)
        else:
            shutil.rmtree(working, ignore_errors=True)
        return Saved(trace, run.at.recording, problem, hint)

    def _collect(self, run: Run) -> tuple[str, Sequence[str]]:
        """Have the collector leave what the importer reads: why it could not ("" where it did), and what to tell."""
        try:
            return "", run.collector.collect(run.at.working)
        except InputError as error:
            return str(error), (str(error),)

    def _end(self, run: Run, notices: Sequence[str], missing: str) -> None:
        notices = [*notices, *([missing] if missing else [])]
        said = {"ended": run.ended.document(), "notices": notices, "uninstrumented": missing}
        try:
            folder.write_run(run.at.working, {**run.document, **said})
        except OSError as error:
            working = run.at.working
            raise InputError(_kept(working, f"{working}: cannot be written ({error.strerror or error})")) from error

    def _import(self, run: Run) -> Trace:
        working = run.at.working
        try:
            trace = detect.load(working)
            store.write(trace, run.at.recording, replace=self.options.force)
            self._keep_report(run)
        except (TetraceError, OSError) as error:
            raise InputError(_kept(working, str(error))) from error
        return trace

    def _keep_report(self, run: Run) -> None:
        report = run.at.working / "nsys.nsys-rep"
        if self.options.keep_nsys_rep and report.exists():
            shutil.copyfile(report, run.at.report)


def _nothing(ended: Ended, problem: str, missing: str) -> str:
    """Why there is no recording at all: what the collector says, and first that the script failed, where it did."""
    reasons = ("" if problem and ended.finished else missing, problem)
    return f"nothing was recorded: {'; '.join(filter(None, reasons))}"


def _kept(working: Path, reason: str) -> str:
    return f"{reason}; what was recorded is kept: tetrace report {working} reads it again"


def _left(working: Path, problem: str) -> str:
    """`problem`, and what can be done with the folder, which is removed where nothing was recorded into it."""
    if str(working) in problem:
        return problem
    if folder.is_empty(working):
        shutil.rmtree(working, ignore_errors=True)
        return problem
    return f"{problem}; {working} is kept: tetrace report reads what is in it, or remove it"


def _is_one_step(working: Path) -> bool:
    """Whether every instrumented process came to its end, and none of them to a second step."""
    processes = [process for process in processes_of(working) if process.is_python]
    return bool(processes) and all(process.document("exit.json").get("step") == 0 for process in processes)
