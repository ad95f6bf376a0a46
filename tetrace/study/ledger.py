"""What a running study has measured so far: every change makes a new `Results`, and all of it is on disk after a turn."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tetrace.study import results
from tetrace.study.results import Configuration, Results, Step
from tetrace.study.spec import MODEL_FILE, Measure, Planned, Study

_MISSING = "missing"


class Ledger:
    """The results in one folder while they grow. Configurations of an earlier run are in it as far as they still count."""

    def __init__(self, study: Study, folder: Path, head: Results) -> None:
        """`head`: this run, without configurations, where the folder holds none yet.

        Raises `InputError` where it holds what cannot be read.
        """
        self.folder = folder
        self._study = study
        before = results.read(folder) if (folder / results.RESULTS_FILE).exists() else None
        stored = {each.name: each for each in before.configurations} if before else {}
        self._steps = results.read_steps(folder) if before else []
        listed = tuple(stored.get(planned.name) or _unmeasured(planned) for planned in study.configurations)
        self._results = replace(before or head, configurations=listed)
        # A run that was killed between the two files left steps of a round that is not in study.json.
        known = {(each.name, done.round) for each in listed for done in each.rounds}
        self._steps = [step for step in self._steps if (step.configuration, step.round) in known]

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

    def begin(self, head: Results) -> None:
        """This run measures: what is said of the whole is `head`, which began when the first of what is kept did."""
        kept = any(each.rounds for each in self._results.configurations)
        started = self._results.started if kept else head.started
        self._results = replace(
            head,
            started=started,
            peaks=head.peaks or self._results.peaks,
            # What only a process with torch knows stays until one says it again.
            versions={**self._results.versions, **head.versions},
            configurations=self._results.configurations,
        )

    def head(self, **changes: Any) -> None:
        """Give fields of the whole other values."""
        self._results = replace(self._results, **changes)

    def add_steps(self, steps: Sequence[Step]) -> None:
        """Keep the steps of a round."""
        self._steps.extend(steps)

    def start_over(self, planned: Planned, key: str) -> None:
        """Forget what was measured of a configuration, and its recording."""
        old = self[planned.name]
        self._steps = [step for step in self._steps if step.configuration != planned.name]
        if old.recording:
            _remove(self.folder / old.recording)
        listed = tuple(
            replace(_unmeasured(planned), key=key) if each.name == planned.name else each
            for each in self._results.configurations
        )
        self._results = replace(self._results, configurations=listed)

    def save(self) -> None:
        """Put everything on disk."""
        order = {each.name: number for number, each in enumerate(self._results.configurations)}
        self._steps.sort(key=lambda step: (order[step.configuration], step.round, step.step))
        results.write(self.folder, self._results, self._steps)


def key_of(
    planned: Planned, measure: Measure, device: str, machine: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """The same for what would measure the same: options, environment, warm-up and steps, GPU, driver and versions."""
    what = {
        "options": planned.options,
        "environment": planned.environment,
        "device": device,
        "warmup": measure.warmup,
        "steps": measure.steps,
        "own_caches": measure.own_caches,
        "machine": {key: machine.get(key) for key in ("gpu", "driver", "cpu", "cores")},
        "versions": versions,
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()[:16]


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


def _remove(recording: Path) -> None:
    """Remove a `.tetrace` that is one, and nothing else."""
    import shutil

    if (recording / "metadata.json").is_file():
        shutil.rmtree(recording, ignore_errors=True)
