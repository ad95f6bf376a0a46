"""Gathers what the checks of `tetrace doctor` look at. It starts programs, and changes nothing that stays."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tetrace.errors import TetraceError
from tetrace.instrument import observer
from tetrace.record import build, calibration, nvidia, probe, trial
from tetrace.record.finding import Place, Surroundings

_KERNEL = {
    "perf_event_paranoid": Path("/proc/sys/kernel/perf_event_paranoid"),
    "nvidia": Path("/proc/driver/nvidia/params"),
    "status": Path("/proc/self/status"),
}


def gather(folder: Path, quick: bool = False) -> Surroundings:
    """This machine, for a recording in `folder`. Takes up to a minute; two seconds with `quick`, which starts no program."""
    environment = dict(os.environ)
    driver = nvidia.read()
    # Programs that mostly wait for the disk and the GPU: side by side they take as long as the slowest.
    with ThreadPoolExecutor() as pool:
        tried = pool.submit(trial.run, environment, bool(driver.gpus), not quick)
        own = pool.submit(trial.run_own, environment, bool(driver.gpus) and not quick)
        probed = None if quick else pool.submit(probe.facts)
        built = None if quick else pool.submit(_observer)
    name = driver.gpus[0].name if driver.gpus else ""
    return Surroundings(
        environment=environment,
        driver=driver,
        nsys=tried.result(),
        own=own.result(),
        probe=probed.result() if probed else {},
        observer=built.result() if built else None,
        reads_tensors=observer.reads_tensors(),
        places=places(folder),
        kernel={name: text for name, path in _KERNEL.items() if (text := _text(path))},
        instrumentation=_instrumentation(),
        left_out=tuple(build.left_out()),
        calibration=calibration.load(name) if name else None,
    )


def places(folder: Path) -> tuple[Place, ...]:
    """Where a recording writes: its folder, the temporary folder that nsys fills first, and tetrace's cache."""
    mounts = _text(Path("/proc/mounts"))
    uses = {
        "recordings": folder,
        "temporary files of nsys": Path(tempfile.gettempdir()),
        "cache": calibration.cache(os.environ),
    }
    return tuple(_place(use, path, mounts) for use, path in uses.items())


def _place(use: str, path: Path, mounts: str) -> Place:
    """`path`, or the nearest folder above it that exists: what is missing gets made."""
    path = path.absolute()
    there = next((folder for folder in (path, *path.parents) if folder.exists()), path)
    try:
        free = shutil.disk_usage(there).free
    except OSError:
        free = -1
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Place(use, path, free, writable, file_system(there, mounts))


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that holds `path` (`ext4`, `nfs4`), by the lines of /proc/mounts."""
    real, best, kind = path.resolve(), Path(), ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Spaces and other separators are octal there.
        point = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]))
        # Of two on one point the later one is on top.
        if (real == point or point in real.parents) and len(point.parts) >= len(best.parts):
            best, kind = point, fields[2]
    return kind


def _observer() -> str:
    """Why the autograd observer cannot be built; empty where it is."""
    try:
        observer.build()
    except (TetraceError, OSError) as error:
        return str(error)
    return ""


def _instrumentation() -> str:
    """Why the instrumentation cannot be imported; empty where it can."""
    try:
        from tetrace.instrument import ranges

        return "" if callable(ranges.push) else "tetrace._C has no ranges"
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
