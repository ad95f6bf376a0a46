"""What a check of this machine found, and what a check may look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tetrace.record.nvidia import Driver

# ok: as it should be. warn: spoils a recording or a part of it. fail: stops it. absent: is not here, and need not be.
Level = Literal["ok", "warn", "fail", "absent"]


@dataclass(frozen=True)
class Finding:
    """One line of `tetrace doctor`: `title` names the thing and `detail` its state; `way_out` is what to do about it.

    `way_out` is empty where nothing needs doing.
    """

    level: Level
    title: str
    detail: str
    way_out: str = ""


@dataclass(frozen=True)
class Nsys:
    """The nsys that a recording would use, or in `error` why there is none (`reason; way out`), and a trial with it.

    `trial` is `gpu` where the trial's GPU activity was in its export, `host` where it recorded and exported a program
    that uses no GPU, empty where it failed or was not made. `stage` is where it failed: `profile`, `import`, `export`,
    or `activity` when no GPU activity was in the export; `trial_error` says why.
    """

    path: str = ""
    version: str = ""
    error: str = ""
    trial: str = ""
    stage: str = ""
    trial_error: str = ""


@dataclass(frozen=True)
class Own:
    """The collector of tetrace: in `error` why it cannot record here (`reason; way out`), and a trial with it.

    `cupti` is the libcupti that it would load in a process that has none. `trial` is `gpu` where the trial's GPU
    activity was recorded, empty where it failed or was not made; `trial_error` says why it failed.
    """

    cupti: str = ""
    error: str = ""
    trial: str = ""
    trial_error: str = ""

    @property
    def usable(self) -> bool:
        """Whether nothing is known that keeps it from recording."""
        return not self.error and not self.trial_error


@dataclass(frozen=True)
class Place:
    """A folder that a recording writes to; `free_bytes` is -1 where nobody can say; `kind` is its file system."""

    use: str
    path: Path
    free_bytes: int
    writable: bool
    kind: str = ""


@dataclass(frozen=True)
class Surroundings:
    """This machine as the checks see it: gathered once, then only read.

    `probe` is what a child process found that imported torch and Transformer Engine (`tetrace.record.probe`), empty where
    nobody asked. `observer` says why the autograd observer cannot be built, empty where it is, None where nobody tried;
    `reads_tensors`: it reads tensors, too. `instrumentation` says why ranges cannot be recorded. `left_out` is what this
    build lacks, each with its way out. `kernel` are short files of the kernel, by name.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    driver: Driver = field(default_factory=Driver)
    nsys: Nsys = field(default_factory=Nsys)
    own: Own = field(default_factory=lambda: Own(error="the collector was not looked at"))
    probe: Mapping[str, Any] = field(default_factory=dict)
    observer: str | None = None
    reads_tensors: bool = True
    places: tuple[Place, ...] = ()
    kernel: Mapping[str, str] = field(default_factory=dict)
    instrumentation: str = ""
    left_out: tuple[tuple[str, str], ...] = ()
    calibration: Mapping[str, Any] | None = None

    @property
    def has_gpu(self) -> bool:
        """Whether the driver shows a GPU."""
        return bool(self.driver.gpus)

    @property
    def collector(self) -> str:
        """What a recording here would use, as --collector names it: `nsys`, `cupti`, or `host` where no GPU is recorded."""
        if self.has_gpu and self.nsys.version and self.nsys.stage in ("", "export"):
            return "nsys"
        return "cupti" if self.has_gpu and self.own.usable else "host"
