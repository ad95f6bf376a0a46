"""What a running study has measured so far: every change makes a new `Results`, and all of it is on disk after a turn."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tetrace.errors import InputError
from tetrace.study import earlier, results
from tetrace.study.context import MACHINE, Context
from tetrace.study.results import Attempt, Configuration, Losses, Results
from tetrace.study.spec import MODEL_FILE, Planned, Study
from tetrace.study.steps import Step, read_steps

_MISSING = "missing"
# Versions that only a process with torch knows: they stay until one says them again.
_TOLD_BY_TORCH = ("cuda", "cudnn")


class Ledger:
    """The results in one folder while they grow. Configurations of an earlier run are in it as far as they still count.

    Those that the study has no more come last. `replaced`: where results are that could not be read, None without any.
    """

    def __init__(self, study: Study, folder: Path, head: Results, fresh: bool = False) -> None:
        """`head`: this run, without configurations, where the folder holds none yet.

        Raises `InputError` where it holds what cannot be read, unless it is to be measured afresh, and `UsageError` where
        it holds another study's.
        """
        self.folder = folder
        self.replaced: Path | None = None
        before, steps = self._before(study, fresh)
        stored = {each.name: each for each in before.configurations} if before else {}
        planned = {each.name: each for each in study.configurations}
        listed = [_as_planned(stored.get(name), each) for name, each in planned.items()]
        listed += [each for name, each in stored.items() if name not in planned and each.key]
        self._results = replace(before or head, configurations=tuple(listed))
        # A run that was killed between the two files left steps of a round that is not in study.json.
        known = {(each.name, done.round) for each in listed for done in each.rounds}
        self._steps = [step for step in steps if (step.configuration, step.round) in known]

    def _before(self, study: Study, fresh: bool) -> tuple[Results | None, list[Step]]:
        """What the folder holds, and its steps."""
        if not (self.folder / results.RESULTS_FILE).exists():
            return None, []
        try:
            return results.read(self.folder, study.name), read_steps(self.folder)
        except InputError:
            if not fresh:
                raise
            self.replaced = earlier.set_all_aside(self.folder, now())
            return None, []

    @property
    def results(self) -> Results:
        """Everything so far."""
        return self._results

    def __getitem__(self, name: str) -> Configuration:
        found = self._results.configuration(name)
        assert found is not None, f"{name} is a configuration of the study"
        return found

    def change(self, name: str, **changes: Any) -> Configuration:
        """Give fields of a configuration other values; returns what it is now."""
        changed = replace(self[name], **changes)
        listed = tuple(changed if each.name == name else each for each in self._results.configurations)
        self._results = replace(self._results, configurations=listed)
        return changed

    def begin(self, head: Results, context: Context) -> None:
        """This run measures: what is said of the whole is `head`, which began when the first of what is kept did."""
        before = self._results
        kept = any(each.rounds for each in before.configurations)
        alike = all(before.machine.get(name) == head.machine.get(name) for name in MACHINE)
        told = {name: before.versions[name] for name in _TOLD_BY_TORCH if name in before.versions}
        contexts = {**before.contexts, context.digest: context.document}
        used = {each.context for each in before.configurations}
        self._results = replace(
            head,
            started=before.started if kept else head.started,
            machine=before.machine if kept and alike else head.machine,
            # Shares of a peak are of the first start that was calibrated, not of a later one's, while any of it is kept.
            peaks=(before.peaks if kept else None) or head.peaks,
            versions={**told, **head.versions},
            contexts={digest: said for digest, said in contexts.items() if digest in used},
            configurations=before.configurations,
        )

    def head(self, **changes: Any) -> None:
        """Give fields of the whole other values."""
        self._results = replace(self._results, **changes)

    def add_steps(self, steps: Sequence[Step]) -> None:
        """Keep the steps of a round."""
        self._steps.extend(steps)

    def add_losses(self, name: str, losses: Sequence[float], new_process: bool = False) -> None:
        """Losses of the steps that the last process of a configuration went on with, or that a new one began with."""
        attempts = list(self[name].attempts)
        if new_process or not attempts:
            attempts.append(Attempt())
        attempts[-1] = Attempt((*attempts[-1].losses, *losses))
        self.change(name, attempts=tuple(attempts), losses=Losses.over(attempts))

    def set_aside(self, names: Collection[str]) -> Path:
        """Keep everything as it is now in `earlier/`, with the recordings of these configurations; returns the folder."""
        recordings = [each.recording for each in self._results.configurations if each.recording and each.name in names]
        # A name, never a path that leads out of the folder.
        return earlier.set_aside(self.folder, [Path(name).name for name in recordings], now())

    def forget(self, name: str) -> None:
        """Leave out a configuration that the study has no more."""
        self._steps = [step for step in self._steps if step.configuration != name]
        listed = tuple(each for each in self._results.configurations if each.name != name)
        self._results = replace(self._results, configurations=listed)

    def start_over(self, planned: Planned, key: str, context: str) -> None:
        """Forget what was measured of a configuration: it is to be measured with this key and context."""
        self._steps = [step for step in self._steps if step.configuration != planned.name]
        listed = tuple(
            replace(_unmeasured(planned), key=key, context=context) if each.name == planned.name else each
            for each in self._results.configurations
        )
        self._results = replace(self._results, configurations=listed)

    def save(self) -> None:
        """Put everything on disk."""
        order = {each.name: number for number, each in enumerate(self._results.configurations)}
        self._steps.sort(key=lambda step: (order[step.configuration], step.round, step.step))
        results.write(self.folder, self._results, self._steps)


def digests(folder: Path, files: Iterable[str] = ()) -> dict[str, str]:
    """Digests of `model.py` and the other files of a workload, by their path relative to the study's folder."""
    return {file: _digest(folder / file) for file in sorted({MODEL_FILE, *files})}


def now() -> str:
    """The time, UTC."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    except OSError:
        return _MISSING


def _unmeasured(planned: Planned) -> Configuration:
    return Configuration(
        name=planned.name,
        matrix=planned.matrix,
        axes=planned.axes,
        options=planned.options,
        environment=planned.environment,
    )


def _as_planned(stored: Configuration | None, planned: Planned) -> Configuration:
    """What is stored of a configuration; as it is planned now where nobody has asked for it yet."""
    return stored if stored is not None and stored.key else _unmeasured(planned)
