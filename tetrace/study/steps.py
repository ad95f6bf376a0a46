"""`steps.csv`: the measured steps of a study, a row each."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tetrace.errors import InputError

STEPS_FILE = "steps.csv"
COLUMNS = ("configuration", "round", "step", "total_ns")


@dataclass(frozen=True)
class Step:
    """One measured step: on the GPU from its first event to that of the next step. `phases`: ns by phase, in order."""

    configuration: str
    round: int
    step: int
    total_ns: int
    phases: Mapping[str, int] = field(default_factory=dict)


def read_steps(folder: Path) -> list[Step]:
    """The steps in `folder`, without pandas; empty where there are none."""
    file = folder / STEPS_FILE
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            return [_step(row) for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{file}: cannot be read ({reason}); measure again with --fresh") from error


def _step(row: Mapping[str, str]) -> Step:
    phases = {
        key.removesuffix("_ns"): int(value)
        for key, value in row.items()
        if key not in COLUMNS and value not in ("", None)
    }
    return Step(row["configuration"], int(row["round"]), int(row["step"]), int(row["total_ns"]), phases)


def table(steps: Sequence[Step]) -> str:
    """The file's text."""
    phases = list(dict.fromkeys(phase for step in steps for phase in step.phases))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*COLUMNS, *(f"{phase}_ns" for phase in phases)])
    for step in steps:
        times = [step.phases.get(phase, "") for phase in phases]
        rows.writerow([step.configuration, step.round, step.step, step.total_ns, *times])
    return text.getvalue()
