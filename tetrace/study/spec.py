"""A study as its `study.toml` says it: the matrix of configurations, how they are measured, the note and its claims.

title = "Fused against unfused modules"
question = "What do fused modules gain, with and without FP8?"
device = "cuda"                    # or "cpu": then the host's clock measures
redraws = ["vocabulary"]           # options that draw weights and data anew, and change little else
[words]                            # what names in reports mean: values and names of axes, matrices, options
none = "BF16, without FP8"
[options]                          # keyword arguments of model.py's build, in every configuration
batch = 8
[environment]                      # variables of every configuration
[measure]                          # see Measure
[quick]                            # what --quick changes: keys of [measure], and only = [patterns of configurations]
[recording]                        # see Recording
[[matrix]]                         # see Matrix
[[note]]                           # see Note
[[claim]]                          # see Claim
[[sweep]]                          # see Sweep
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tetrace.errors import UsageError

SPEC_FILE, MODEL_FILE = "study.toml", "model.py"
DEVICES = ("cuda", "cpu")
# What a claim may be about. `none`: nothing that is measured here; the verdict is that it cannot be told, `why` says so.
FIGURES = (
    "speedup",
    "forward_speedup",
    "backward_speedup",
    "forward_ms",
    "backward_ms",
    "optimizer_ms",
    "total_ms",
    "first_step_s",
    "tokens_per_s",
    "tflops",
    "peak_pct",
    "peak_bytes",
    "memory_ratio",
    "parameters",
    "parameters_saved",
    "fp8_coverage_pct",
    "launches",
    "quantization_pct",
    "idle_pct",
    "backend",
    "state",
    "error",
    "finite",
    "first_loss",
    "last_loss",
    "max_saturation_pct",
    "gradient_error_pct",
    "gradient_flushed_pct",
    "gradient_clipped_pct",
    "gradient_format",
    "crossing",
    "none",
)
# `forward_ms` and `rope_speedup` of any phase that a workload marks; a fact of its `Workload.facts`.
_FIGURE = re.compile(r"[a-z]\w*_(?:ms|speedup)|fact:.+")


@dataclass(frozen=True)
class Measure:
    """How each configuration is measured.

    `warmup` steps after the first are not measured; then come `rounds` of `steps` steps each, an even number so that what
    drifts evenly cancels between those that go first and last. After `limit_s` seconds of
    its own work a configuration is ended. At most `together` are alive at a time. With `own_caches` each compiles into an
    empty cache of its own (Inductor's, Triton's), so that first steps can be compared: for studies of what compiling costs.
    Then they run one at a time, as they do where a claim, a note or a sweep is about `first_step_s`; else side by side.
    After its first step each is kept on `cpus` processors that nobody else disturbs; 0: wherever the system runs it.
    """

    warmup: int = 10
    steps: int = 20
    rounds: int = 8
    limit_s: float = 600
    together: int = 8
    own_caches: bool = False
    cpus: int = 0


@dataclass(frozen=True)
class Recording:
    """How each configuration is recorded: by which collector of `tetrace record`, and how many steady steps.

    `arguments` are further arguments of `tetrace record`; they come last, so that theirs count.
    """

    collector: str = "cupti"
    steps: int = 10
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Value:
    """What one value of an axis sets."""

    options: Mapping[str, Any]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Expected:
    """A failure that is a finding: of configurations that fit the pattern, with an error in which the regex is found."""

    configuration: str
    error: str = ""


@dataclass(frozen=True)
class Matrix:
    """Configurations: one for each combination of the axes' values that `exclude` does not name.

    `axes`: name of the axis, then label of the value. `exclude`: axis and labels. `baseline`: a configuration's name as
    in `Planned.name`, or labels by axis: then the configuration that differs only in those. `recording` False: timed only;
    patterns: only configurations that fit one are recorded.
    """

    name: str
    options: Mapping[str, Any]
    environment: Mapping[str, str]
    axes: Mapping[str, Mapping[str, Value]]
    baseline: str | Mapping[str, str]
    exclude: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    expected: tuple[Expected, ...] = ()
    recording: bool | tuple[str, ...] = True


@dataclass(frozen=True)
class Planned:
    """A configuration as it is to be run.

    `name`: its values' labels (`unfused-none`), after the first matrix with the matrix' name (`length:flash-2048`).
    `axes`: labels by axis. `baseline`: name of the configuration that its speed-up is against; its own for a baseline, ""
    where that was excluded. `expects`: regex of the error it is expected to fail with, None where it shall run.
    """

    name: str
    matrix: str
    axes: Mapping[str, str]
    options: Mapping[str, Any]
    environment: Mapping[str, str]
    baseline: str
    expects: str | None = None
    recording: bool = True

    @property
    def file_name(self) -> str:
        """Name of its recording, without a folder."""
        return f"{self.name.replace(':', '.')}.tetrace"


@dataclass(frozen=True)
class NoteRow:
    """A row of a note's table: `values` by the note's columns (`total_ms`, `speedup`), as the note has them."""

    configuration: str
    label: str
    values: Mapping[str, float | str | bool]


@dataclass(frozen=True)
class Note:
    """A table that somebody published, with what it was measured on. `facts`: whatever else the note says by key."""

    title: str
    hardware: str
    rows: tuple[NoteRow, ...]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """What a note claims, as a condition on a figure of configuration `of` (against `against`): exactly one of
    `at_least`, `at_most`, `equals`, `between`, `one_of`; none for figure `none`, which may say with `holds` what is told
    without a run, such as arithmetic; `why` says how.

    For figure `crossing`, `sweep` names the matrix of a sweep, `of` and `against` values of its group. `noted`: the
    note's number, or its word or range as it writes it. `why`: a sentence for when it does not hold or cannot be told.
    `beside`: kernels' time in recordings, of which a claim on a speed-up is judged too; that is said, and is no verdict on
    the claim. `study`: another study, whose results on the same machine `of` and `against` are of. `otherwise`: of a
    condition that suffices for the claim and is not needed for it, why it cannot be told where the condition is missed.
    """

    says: str
    figure: str
    of: str = ""
    against: str = ""
    sweep: str = ""
    noted: float | str | bool | None = None
    at_least: float | None = None
    at_most: float | None = None
    equals: float | str | bool | None = None
    between: tuple[float, float] | None = None
    one_of: tuple[float | str | bool, ...] = ()
    holds: bool | None = None
    why: str = ""
    beside: str = ""
    study: str = ""
    otherwise: str = ""


@dataclass(frozen=True)
class Sweep:
    """A matrix read along the numeric axis `along`, a line for each value of the axis `group` ("" for one line).

    `baseline`: the value of `group` that crossings are against. `figure`: what is drawn.
    """

    matrix: str
    along: str
    group: str = ""
    baseline: str = ""
    figure: str = "total_ms"
    title: str = ""


@dataclass(frozen=True)
class Study:
    """One `study.toml`. `name` is the folder's. `quick`: the measure of `--quick`; `quick_only`: its patterns."""

    name: str
    folder: Path
    title: str
    question: str
    device: str
    measure: Measure
    recording: Recording
    matrices: tuple[Matrix, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    quick: Measure = Measure()
    quick_only: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    claims: tuple[Claim, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    # Options that draw weights and data anew: what else is alike tells what last losses scatter by.
    redraws: tuple[str, ...] = ()
    # What names of values, axes, matrices and options mean.
    words: Mapping[str, str] = field(default_factory=dict)
    # What --option changed.
    changed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def glossary(self) -> str:
        """What its words mean, on one line: `none: BF16, without FP8; hybrid: ...`; empty without any."""
        return "; ".join(f"{word}: {meaning}" for word, meaning in self.words.items())

    @cached_property
    def configurations(self) -> tuple[Planned, ...]:
        """All configurations, in the order of the file. Their names are unique."""
        from tetrace.study.matrix import configurations

        return configurations(self)

    def configuration(self, name: str) -> Planned | None:
        """The configuration of that name; None where there is none."""
        return next((planned for planned in self.configurations if planned.name == name), None)

    def matrix(self, name: str) -> Matrix:
        """The matrix of that name; KeyError where there is none."""
        return {matrix.name: matrix for matrix in self.matrices}[name]

    def chosen(self, patterns: Sequence[str]) -> tuple[Planned, ...]:
        """The configurations whose names fit one of the patterns; all of them without any.

        Raises `UsageError` for a pattern that fits none.
        """
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(planned.name, pattern) for planned in self.configurations):
                raise UsageError(f"{pattern}: fits no configuration of {self.name}; {_names(self, pattern)}")
        return tuple(
            planned
            for planned in self.configurations
            if not patterns or any(fnmatch.fnmatchcase(planned.name, pattern) for pattern in patterns)
        )

    def with_options(self, changed: Mapping[str, Any]) -> Study:
        """This study with other values of options, wherever no axis sets them.

        Raises `UsageError` for an option that no configuration has, or that every configuration takes from an axis, and for
        a value that is no number, or neither true nor false, where the study has such.
        """
        known = {option for planned in self.configurations for option in planned.options}
        for option, value in changed.items():
            if option not in known:
                close = _like(option, known)
                raise UsageError(f"--option {option}: {self.name} has no such option; {close}")
            free = [one for one in self.configurations if not _by_axis(self.matrix(one.matrix), one, option)]
            if not free:
                raise UsageError(f"--option {option}: is an axis of {self.name}; choose its values with --only")
            _check_kind(self.name, option, value, [one.options[option] for one in free if option in one.options])
        return replace(self, changed=dict(changed))


def read(folder: Path) -> Study:
    """The study in `folder`. Raises `InputError` with the file, the key and the way out."""
    from tetrace.study import spec_file

    return spec_file.read(folder)


def knows_figure(figure: str) -> bool:
    """Whether a claim may be about it: FIGURES, times of any phase, facts of a workload, figures of `tetrace check`."""
    from tetrace.breakdown.figures import BY_NAME

    return figure in FIGURES or figure in BY_NAME or _FIGURE.fullmatch(figure) is not None


def _by_axis(matrix: Matrix, planned: Planned, option: str) -> bool:
    return any(option in matrix.axes[axis][label].options for axis, label in planned.axes.items())


def _names(study: Study, pattern: str) -> str:
    return _like(pattern, [planned.name for planned in study.configurations])


def _like(word: str, known: Iterable[str]) -> str:
    """`did you mean a?` or what there is."""
    listed = list(known)
    close = difflib.get_close_matches(word, listed, 3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(listed[:8])}{' and more' if len(listed) > 8 else ''}" if listed else "there is none"


def _check_kind(study: str, option: str, value: Any, own: Sequence[Any]) -> None:
    """Raises `UsageError` where all of the study's `own` values of an option are numbers and `value` is none, or are true or
    false and it is neither."""
    for kind, is_one in (("true or false", _is_bool), ("a number", _is_number)):
        if own and all(map(is_one, own)) and not is_one(value):
            said, its = (str(one).lower() if _is_bool(one) else str(one) for one in (value, own[0]))
            raise UsageError(f"--option {option}={said}: is not {kind}, as {study} has it ({option} = {its})")


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and not _is_bool(value)
