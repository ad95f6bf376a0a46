"""What this machine's GPU can do at best, measured once and kept: the peaks that a report divides by.

One file for each kind of GPU and processor under `$XDG_CACHE_HOME/tetrace/calibration` (`~/.cache` by default): a GPU's
peaks go with its name, and the cost of a launch goes with the processor. Nothing here imports torch but `measure`.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tetrace.errors import UsageError
from tetrace.record import nvidia

FORMAT = 1
_CPUINFO = Path("/proc/cpuinfo")
_NO_TORCH = "--calibrate runs torch on the GPU"


def cache(environment: Mapping[str, str]) -> Path:
    """The folder of tetrace in the user's cache; it need not exist."""
    root = environment.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    folder = Path(root) if Path(root).is_absolute() else Path("~/.cache").expanduser()
    return folder / "tetrace"


def path(device_name: str) -> Path:
    """Where the calibration of GPUs of this name with this machine's processor is kept."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") or "gpu"
    processor_hash = hashlib.sha256(processor().encode()).hexdigest()[:8]
    return cache(os.environ) / "calibration" / f"{slug}-{processor_hash}.json"


def load(device_name: str) -> dict[str, Any] | None:
    """What `measure` returned for GPUs of this name on this kind of machine; None where none did, or not readably."""
    try:
        kept = json.loads(path(device_name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return kept if isinstance(kept, dict) and kept.get("format") == FORMAT and "measured_at" in kept else None


def save(measured: Mapping[str, Any]) -> Path:
    """Keep `measured`, in place of what was kept. Returns the file; raises `UsageError` where it cannot be written."""
    file = path(measured["device"])
    unfinished = file.with_suffix(f".{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(file)
    except OSError as error:
        raise UsageError(
            f"{file}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder that can"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return file


def measure(device: int = 0) -> dict[str, Any]:
    """Measure CUDA device `device` for half a minute. Nothing is kept: see `save`.

    The result can be written as JSON: `device` (its name), `processor`, `measured_at` (UTC), `versions`, `before` and
    `after` (clocks, temperature, power, what slows it), and the figures of `tetrace.record.peaks`, whose docstrings
    define them: bytes and floating-point operations a second, integer nanoseconds, None where something is not there.
    Raises `UsageError` where there is no GPU, no torch for it, or no device of that number.
    """
    driver = nvidia.read()
    if not driver.gpus:
        why = "none is visible here" if "cannot open" in driver.error else driver.error
        raise UsageError(f"--calibrate needs an NVIDIA GPU ({why}); run it on the machine that trains")
    torch = _torch(device)
    from tetrace.record import peaks

    properties = torch.cuda.get_device_properties(device)
    bus_id = f"{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}" if hasattr(properties, "pci_bus_id") else ""
    before = _state(nvidia.read(), bus_id)
    figures = peaks.measure(device)
    return {
        "format": FORMAT,
        "device": torch.cuda.get_device_name(device),
        "memory_bytes": int(properties.total_memory),
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": int(properties.multi_processor_count),
        "processor": processor(),
        "measured_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "versions": _versions(torch, driver.version),
        "before": before,
        "after": _state(nvidia.read(), bus_id),
        **figures,
    }


def _torch(device: int) -> Any:
    """The module torch, when it reaches `device`."""
    try:
        import torch
    except Exception as error:
        said = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{_NO_TORCH}, and it cannot be imported ({said}); run tetrace with the Python that trains"
        ) from error
    if not torch.cuda.is_available():
        cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
        raise UsageError(f"{_NO_TORCH}, and torch {torch.__version__} ({cuda}) reaches none; tetrace doctor says why")
    count = torch.cuda.device_count()
    if device >= count:
        raise UsageError(f"--device {device}: torch sees {count}, numbered from 0; choose one of them")
    return torch


def _versions(torch: Any, driver: str) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        tetrace = version("tetrace")
    except PackageNotFoundError:
        tetrace = ""
    return {
        "tetrace": tetrace,
        "torch": torch.__version__,
        "cuda": torch.version.cuda or "",
        "driver": driver,
        "python": platform.python_version(),
    }


def _state(driver: nvidia.Driver, bus_id: str) -> dict[str, Any] | None:
    """Clocks, temperature and power of the GPU at `bus_id` (`bus:device`); the only one where it has no other."""
    gpu = next((gpu for gpu in driver.gpus if bus_id and f":{bus_id}." in gpu.bus_id), None)
    if gpu is None and len(driver.gpus) == 1:
        gpu = driver.gpus[0]
    if gpu is None:
        return None
    return {
        "sm_mhz": gpu.sm_mhz,
        "memory_mhz": gpu.memory_mhz,
        "temperature_c": gpu.temperature_c,
        "power_mw": gpu.power_mw,
        "power_limit_mw": gpu.power_limit_mw,
        "slowed": list(gpu.slowed),
        "other_processes": sum(pid != os.getpid() for pid in gpu.processes),
    }


def processor() -> str:
    """The processor's name, as far as this machine tells it."""
    with contextlib.suppress(OSError):
        for line in _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
