"""The machine that a study runs on: its GPU, versions, and the name of its folder of results. Imports no torch."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from tetrace.record import nvidia
from tetrace.record.calibration import processor

# Packages whose versions decide how fast a step is; those that are installed are noted.
_PACKAGES = (
    *("torch", "transformer-engine", "transformer-engine-torch", "transformer-engine-cu12", "transformer-engine-cu13"),
    *("flash-attn", "flash-attn-3", "flash-attn-4", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cudnn-frontend"),
    *("nvidia-cublas-cu12", "nvidia-cublas", "triton", "tetrace"),
)
_VENDORS = ("nvidia", "amd", "intel")


@dataclass(frozen=True)
class Machine:
    """`gpu` is the name of the first GPU that is visible, "" where a study needs none or there is none. `others`: ids of
    the processes that used the visible GPUs before any of the study's did; `free_bytes`: what they left of the first one's
    memory, 0 where that is not known."""

    gpu: str = ""
    gpus: int = 0
    driver: str = ""
    others: tuple[int, ...] = ()
    free_bytes: int = 0

    @property
    def slug(self) -> str:
        """Name of its folder of results: `h200`, `h200-x2` for two, `cpu`."""
        words = [word for word in re.split(r"[^a-z0-9]+", self.gpu.lower()) if word and word not in _VENDORS]
        name = "-".join(words) or ("gpu" if self.gpu else "cpu")
        return f"{name}-x{self.gpus}" if self.gpus > 1 else name

    def document(self) -> dict[str, Any]:
        """What study.json says of it."""
        return {
            "gpu": self.gpu,
            "gpus": self.gpus,
            "driver": self.driver,
            "cpu": processor(),
            "cores": _cores(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        }


def _cores() -> int | None:
    """Those that this process may use: under taskset, or in a cpuset, fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def find(device: str, environ: Mapping[str, str]) -> Machine | None:
    """This machine, for a study on `device`; None where that is a GPU and none is visible."""
    if device == "cpu":
        return Machine()
    driver = nvidia.read()
    visible = _visible(driver.gpus, environ.get("CUDA_VISIBLE_DEVICES"))
    if not visible:
        return None
    others = {pid for gpu in visible for pid in gpu.processes}
    first = visible[0]
    free_bytes = first.memory_bytes - first.memory_used_bytes
    return Machine(first.name, len(visible), driver.version, tuple(sorted(others)), free_bytes)


def _visible(gpus: Sequence[nvidia.Gpu], variable: str | None) -> list[nvidia.Gpu]:
    """The GPUs that CUDA shows: as far as the first entry that is none."""
    if variable is None:
        return list(gpus)
    found = []
    for entry in (word.strip() for word in variable.split(",")):
        # An entry may also be the beginning of a UUID; all GPUs of a machine are nearly always of one kind.
        index = int(entry) if entry.isdecimal() else 0 if entry.upper().startswith(("GPU-", "MIG-")) else -1
        if not 0 <= index < len(gpus):
            break
        found.append(gpus[index])
    return found


def versions() -> dict[str, str]:
    """Versions of what is installed for this Python, with underscores in the names: `transformer_engine`."""
    found = {"python": platform.python_version()}
    installed = {package: version for package in _PACKAGES if (version := _version(package))}
    return found | {package.replace("-", "_"): version for package, version in installed.items()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
