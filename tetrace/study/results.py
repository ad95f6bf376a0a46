"""What a study measured on one machine, as it lies in `results/<machine>/`: `study.json` and `steps.csv`.

`study.json` has everything but the steps; `steps.csv` a row a step: configuration, round, step, total_ns, and one column
for each phase. Both are replaced whole, so that a reader never sees half of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.errors import InputError, UsageError
from tetrace.study.statistics import FEWEST_FOR_ORDER
from tetrace.study.steps import COLUMNS, STEPS_FILE, Step, table

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
RESULTS_FILE = "study.json"
# States of a configuration. Those before the comma are over; the next run does not start them again.
MEASURED, FAILED, TIMED_OUT = "measured", "failed", "timed out"
INTERRUPTED, WAITING = "interrupted", "waiting"


@dataclass(frozen=True)
class Round:
    """`steps` steps back to back. `host_ns`: from before the first step until the GPU had done the last.

    Clock, power and temperature are means and the maximum of what the driver said meanwhile; None where it said nothing.
    `throttled`: what slowed the GPU, in words. `at`: when it began (UTC); `began_ns` on the clock that all processes of
    this machine share. `group`: of the processes that were alive together; rounds of two configurations were interleaved
    only where both number and group are the same.
    """

    round: int
    at: str
    host_ns: int
    steps: int
    began_ns: int = 0
    sm_mhz: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] = ()
    group: str | None = None


@dataclass(frozen=True)
class Error:
    """Why a configuration failed. `stage`: import, build, first step, warm-up, measuring or recording. `output`: the
    last lines that the process wrote."""

    stage: str
    type: str
    message: str
    output: str = ""


@dataclass(frozen=True)
class Attempt:
    """One process of a configuration: its losses by step, from its first step on, warm-up too."""

    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class Losses:
    """Losses by step of the last process that measured, from its first step on, warm-up too; steps are numbered from 0.
    NaN and infinities stay what they are. `first_nonfinite_step` is the earliest of all processes."""

    first: float | None = None
    last: float | None = None
    first_nonfinite_step: int | None = None
    by_step: tuple[float, ...] = ()

    @property
    def lost(self) -> str:
        """What became of the loss, and in which step first: `NaN in step 3`; empty where it stays finite."""
        step = self.first_nonfinite_step
        if step is None:
            return ""
        loss = self.by_step[step] if step < len(self.by_step) else math.nan
        # An earlier process lost it where the last one did not.
        word = "not finite" if math.isfinite(loss) else "NaN" if math.isnan(loss) else "Inf"
        return f"{word} in step {step}"

    def over_its(self, base: Losses) -> tuple[float, int] | None:
        """How many times that of another a loss is at the last step that both have, and which step that is; None where that
        is no number."""
        step = min(len(self.by_step), len(base.by_step)) - 1
        if step < 0 or not base.by_step[step] > 0:
            return None
        times = self.by_step[step] / base.by_step[step]
        return (times, step) if math.isfinite(times) else None

    @classmethod
    def of(cls, by_step: Sequence[float]) -> Losses:
        """From the values alone."""
        if not by_step:
            return cls()
        return cls.over([Attempt(tuple(by_step))])

    @classmethod
    def over(cls, attempts: Sequence[Attempt]) -> Losses:
        """From those of every process, the last one last."""
        last = attempts[-1].losses if attempts else ()
        nonfinite = [step for each in attempts for step, loss in enumerate(each.losses) if not math.isfinite(loss)]
        return cls(last[0] if last else None, last[-1] if last else None, min(nonfinite, default=None), last)


@dataclass(frozen=True)
class Configuration:
    """What one configuration did. Figures are None where they were not measured.

    `key` says what it ran with: the same options, environment and versions have the same. `context` names what of it must
    be alike for two configurations to be compared, see `Results.contexts`. `code`: digests of the workload's files,
    relative to the study's folder. `expected`: it failed as study.toml says that it would. `import_ns` and `build_ns` are
    the host's time for model.py and its `build`, `first_step_ns` the first step until the GPU had done it, with compilation
    and autotuning, `first_step_beside` how many others had theirs meanwhile, `warmup_ns` all warm-up steps after it. Peaks
    are of the measured rounds. `recording`: name of the folder in this one; `recorded_as`: the options of `tetrace record`
    that it was made with.
    """

    name: str
    matrix: str
    axes: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    key: str = ""
    context: str | None = None
    code: Mapping[str, str] = field(default_factory=dict)
    state: str = WAITING
    error: Error | None = None
    expected: bool = False
    tokens: int | None = None
    flops: int | None = None
    parameters: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    import_ns: int | None = None
    build_ns: int | None = None
    first_step_ns: int | None = None
    first_step_beside: int = 0
    warmup_ns: int | None = None
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    losses: Losses = Losses()
    attempts: tuple[Attempt, ...] = ()
    rounds: tuple[Round, ...] = ()
    recording: str | None = None
    recording_error: str | None = None
    recorded_as: tuple[str, ...] = ()

    @property
    def is_timed(self) -> bool:
        """Whether its rounds count: it was measured to its end, or stopped after as many as order statistics need."""
        is_stopped = self.state in (INTERRUPTED, WAITING)
        return self.state == MEASURED or (is_stopped and len(self.rounds) >= FEWEST_FOR_ORDER)


@dataclass(frozen=True)
class Results:
    """What is in one folder of results. `peaks`: what `tetrace doctor --calibrate` measured of the GPU in
    the first start that knew it, of those that what is here was measured in; None without it.

    `machine`: gpu, gpus, driver, cpu, cores. `ended`: None while configurations wait. `measure`: how it was measured.
    These are of the last run; `contexts`, by `Configuration.context`, say what each configuration was measured with.
    """

    study: str
    title: str
    started: str
    ended: str | None = None
    quick: bool = False
    command: str = ""
    options_changed: Mapping[str, Any] = field(default_factory=dict)
    measure: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    peaks: Mapping[str, Any] | None = None
    contexts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    configurations: tuple[Configuration, ...] = ()
    folder: Path | None = None

    def configuration(self, name: str) -> Configuration | None:
        """The configuration of that name; None where there is none."""
        return next((found for found in self.configurations if found.name == name), None)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """`steps.csv`: configuration, round, step, total_ns and a column for each phase, NaN where one is absent."""
        import pandas as pd

        if self.folder is None or not (self.folder / STEPS_FILE).exists():
            return pd.DataFrame({name: [] for name in COLUMNS})
        # A configuration may be named None or NA: only what is empty is not there.
        options: Any = {"keep_default_na": False, "na_values": [""]}
        return pd.read_csv(self.folder / STEPS_FILE, dtype={"configuration": str}, **options)


def read(folder: Path, study: str = "", way: str = "measure again with --fresh") -> Results:
    """The results in `folder`. Raises `InputError`, with the `way` out, where there are none that this version reads, and
    `UsageError` where they are of another study than `study`."""
    file = folder / RESULTS_FILE
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: cannot be read ({_reason(error)}); {way}") from error
    version = said.get("version") if isinstance(said, dict) else None
    if version != VERSION:
        raise InputError(f"{file}: is of version {version}, this tetrace reads {VERSION}; {way}")
    try:
        configurations = tuple(_configuration(each) for each in said.get("configurations", []))
        found = Results(**_known(Results, said) | {"configurations": configurations, "folder": folder})
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{file}: has not what results have ({error}); {way}") from error
    if study and found.study != study:
        raise UsageError(
            f"{folder}: holds results of the study {found.study}, not of {study}; name another, or move it away"
        )
    return found


def write(folder: Path, results: Results, steps: Sequence[Step]) -> None:
    """Replace what is in `folder`. Raises `UsageError` where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The steps first: a round that study.json has is in steps.csv, also after a crash in between.
        _replace(folder / STEPS_FILE, table(steps))
        _replace(folder / RESULTS_FILE, json.dumps(document(results), indent=1, allow_nan=False) + "\n")
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be written ({error.strerror}); name another folder with --output"
        ) from error


def document(results: Results) -> dict[str, Any]:
    """`study.json` as plain values. What is not finite is written as text (`nan`, `inf`, `-inf`): JSON has no such numbers."""
    said = {key: value for key, value in dataclasses.asdict(results).items() if key != "folder"}
    plain: dict[str, Any] = _finite({"version": VERSION, **said})
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _configuration(said: Mapping[str, Any]) -> Configuration:
    known = _known(Configuration, said)
    error, losses = said.get("error"), said.get("losses") or {}
    rounds = tuple(
        Round(**_known(Round, each) | {"throttled": tuple(each.get("throttled", ()))})
        for each in said.get("rounds", ())
    )
    known["error"] = Error(**_known(Error, error)) if error else None
    attempts = tuple(Attempt(tuple(map(float, each.get("losses", ())))) for each in said.get("attempts", ()))
    known["attempts"] = attempts
    by_step = tuple(map(float, losses.get("by_step", ())))
    known["losses"] = Losses.over(attempts) if attempts else Losses.of(by_step)
    known["rounds"] = rounds
    known["recorded_as"] = tuple(said.get("recorded_as", ()))
    return Configuration(**known)


def _known(kind: type[Any], said: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in dataclasses.fields(kind)}
    return {key: value for key, value in said.items() if key in names}


def _replace(file: Path, text: str) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(file)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error)
