"""Studies and their results, made in a few readable lines; recordings are those under profiles/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tetrace.study import results, spec
from tetrace.study.results import Configuration, Results, Round, Step
from tetrace.study.spec import Study

RECORDINGS = Path(__file__).parent.parent.parent / "profiles/layer_stack/results/nvidia-h200"
MODEL = "def build(**options):\n    raise NotImplementedError\n"
H200 = {"gpu": "NVIDIA H200", "gpus": 1, "driver": "580.1", "cpu": "a processor", "cores": 16}
STARTED = "2026-11-21T10:00:00+00:00"
# Of the clock that began with the machine: it started at nine.
ONE_HOUR_NS = 3600 * 10**9
CALIBRATED = "2026-11-21T09:30:00+00:00"


def study(folder: Path, toml: str) -> Study:
    """The study of a study.toml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.toml").write_text(toml, encoding="utf-8")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    return spec.read(folder)


class Made:
    """Results in the making; every method returns it.

    Made(study).measured("a", forward=[1.0, 1.1, 1.2], backward=[2.0, 2.1, 2.2]).failed("b", "ValueError", "no").write(folder)
    """

    def __init__(self, of: Study, **facts: Any) -> None:
        self._study = of
        self._facts = facts
        self._configurations: list[Configuration] = []
        self._steps: list[Step] = []
        self._recordings: dict[str, Path] = {}

    def measured(
        self, name: str, steps: int = 3, recording: str | Path = "", rounds: Mapping[str, Any] | None = None,
        total: Sequence[float] = (), fields: Mapping[str, Any] | None = None, **phases: Sequence[float],
    ) -> Made:  # fmt: skip
        """A configuration with ms of each round, by phase or in `total`; the steps of a round differ by 1%, its middle one
        is the figure. `recording` names one of `RECORDINGS`, or is a path; `fields` are of the configuration."""
        times = {phase: list(values) for phase, values in phases.items()}
        whole = list(total) or [sum(values) for values in zip(*times.values(), strict=True)]
        for number, ms in enumerate(whole):
            for step in range(steps):
                factor = 1 + 0.01 * (step - steps // 2)
                parts = {phase: round(values[number] * factor * 1e6) for phase, values in times.items()}
                self._steps.append(Step(name, number, step, round(ms * factor * 1e6), parts))
        said = tuple(
            Round(number, STARTED, round(ms * steps * 1e6), steps, **{"began_ns": ONE_HOUR_NS, **(rounds or {})})
            for number, ms in enumerate(whole)
        )
        found = {"state": results.MEASURED, "rounds": said, **(fields or {})}
        if recording:
            path = recording if isinstance(recording, Path) else RECORDINGS / f"{recording}.tetrace"
            found["recording"] = f"{name.replace(':', '.')}.tetrace"
            self._recordings[found["recording"]] = path
        return self._add(name, **found)

    def failed(
        self, name: str, kind: str, message: str, output: str = "", stage: str = "first step", **fields: Any
    ) -> Made:
        """A configuration that failed."""
        return self._add(
            name, **{"state": results.FAILED, "error": results.Error(stage, kind, message, output), **fields}
        )

    def state(self, name: str, state: str, **fields: Any) -> Made:
        """A configuration in a state without a figure."""
        return self._add(name, state=state, **fields)

    def _add(self, name: str, **fields: Any) -> Made:
        planned = self._study.configuration(name)
        own = {"matrix": "", "axes": {}, "options": {}, "environment": {}}
        if planned:
            own = {key: dict(value) if isinstance(value := getattr(planned, key), Mapping) else value for key in own}
        self._configurations.append(Configuration(name=name, **{**own, **fields}))
        return self

    def write(self, folder: Path) -> Path:
        """Into a folder of results, which it returns."""
        facts = {
            "started": STARTED, "ended": "2026-11-21T10:03:00+00:00", "machine": H200,
            "versions": {"torch": "2.11.0", "transformer_engine": "2.20.2", "tetrace": "0.1.0"},
            "command": f"tetrace study {self._study.name}", **self._facts,
        }  # fmt: skip
        made = Results(
            study=self._study.name, title=self._study.title, configurations=tuple(self._configurations), **facts
        )
        results.write(folder, made, self._steps)
        for name, path in self._recordings.items():
            (folder / name).symlink_to(path.resolve(), target_is_directory=True)
        return folder
