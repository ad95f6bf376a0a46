"""What would stop or spoil a recording on this machine: one list of checks, each from the surroundings to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tetrace.record import checks_device, checks_recorder, checks_software
from tetrace.record.finding import Finding, Surroundings
from tetrace.record.surroundings import gather

Check = Callable[[Surroundings], Iterator[Finding]]

# Sections of the screen with their checks, in the order of both.
CHECKS: tuple[tuple[str, tuple[Check, ...]], ...] = (
    (
        "Recorder",
        (
            checks_recorder.nsys,
            checks_recorder.own,
            checks_recorder.other_profilers,
            checks_recorder.cupti,
            checks_recorder.rights,
            checks_recorder.variables,
            checks_recorder.extension,
        ),
    ),
    ("GPU", (checks_device.driver, checks_device.gpus, checks_device.clocks, checks_device.calibrated)),
    ("Software", (checks_software.torch, checks_software.cudnn, checks_software.observer)),
    (
        "Transformer Engine",
        (checks_software.transformer_engine, checks_software.recipes, checks_software.attention),
    ),
    ("Folders", (checks_recorder.folders, checks_recorder.nsys_lock)),
)


@dataclass(frozen=True)
class Diagnosis:
    """Findings by section. `collector` is what a recording here would use: as in `Surroundings`."""

    sections: tuple[tuple[str, tuple[Finding, ...]], ...]
    collector: str

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, in the order of the screen."""
        return tuple(finding for _, findings in self.sections for finding in findings)

    @property
    def possible(self) -> bool:
        """Whether nothing stops a recording."""
        return not any(finding.level == "fail" for finding in self.findings)


def examine(folder: Path, quick: bool = False) -> Diagnosis:
    """Look at this machine for a recording in `folder`; `quick` starts no program. Never raises for what it finds."""
    return diagnose(gather(folder, quick))


def diagnose(around: Surroundings) -> Diagnosis:
    """Every check over `around`."""
    sections = tuple(
        (title, tuple(finding for check in checks for finding in check(around))) for title, checks in CHECKS
    )
    return Diagnosis(sections, around.collector)
