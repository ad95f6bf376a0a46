"""Lets the `nsys` that a recording would use record and export a program of a moment, and sees how far it comes.

tetrace's own collector is tried on the same program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tetrace.errors import TetraceError
from tetrace.record import cupti, gpu_touch, nsys
from tetrace.record.finding import Nsys, Own

# The whole trial takes 3 to 10 seconds; what needs longer than this for a part of it is in trouble.
_PATIENCE_S = 90
_GPU_ACTIVITY = ("CUPTI_ACTIVITY_KIND_MEMSET", "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY")
_SESSION = "NSYS_PROFILING_SESSION_ID"


def run(environment: Mapping[str, str], gpu: bool, trial: bool = True) -> Nsys:
    """The nsys that a recording would find and, with `trial`, how a recording of a program goes, which uses a GPU or not.

    Never raises: what keeps nsys from recording is in the result.
    """
    # Being under nsys has a finding of its own, which says more.
    environment = {n: v for n, v in environment.items() if n != _SESSION and not n.startswith("TETRACE_")}
    try:
        found = nsys.find((), True, environment)
    except TetraceError as error:
        return Nsys(error=str(error))
    if not trial:
        return Nsys(path=found.path, version=found.version)
    try:
        with tempfile.TemporaryDirectory(prefix="tetrace-doctor-") as folder:
            stage, error_text = _stages(found, Path(folder), environment, gpu)
    except OSError as error:
        stage, error_text = "profile", f"no temporary folder for it: {error.strerror or error}"
    done = "" if stage else "gpu" if gpu else "host"
    return Nsys(found.path, found.version, trial=done, stage=stage, trial_error=error_text)


def run_own(environment: Mapping[str, str], trial: bool = True) -> Own:
    """The collector of tetrace as a recording would find it and, with `trial`, whether it records a program on the GPU.

    Never raises: what keeps it from recording is in the result.
    """
    # Who else would be loaded has a finding of its own.
    others = (_SESSION, *cupti.INJECTIONS)
    environment = {n: v for n, v in environment.items() if n not in others and not n.startswith("TETRACE_")}
    try:
        found = cupti.find([sys.executable], "launches", True, environment)
    except TetraceError as error:
        return Own(error=str(error))
    first = found.candidates[0]
    if not trial:
        return Own(first)
    try:
        with tempfile.TemporaryDirectory(prefix="tetrace-doctor-") as folder:
            error_text = _record(found, Path(folder), environment)
    except OSError as error:
        error_text = f"no temporary folder for it: {error.strerror or error}"
    return Own(first, trial="" if error_text else "gpu", trial_error=error_text)


def _record(found: cupti.Cupti, folder: Path, environment: Mapping[str, str]) -> str:
    """Why the collector did not record a program on the GPU; empty where it did."""
    told = {**environment, **found.variables(), "TETRACE_RECORDING": str(folder)}
    code = _run([sys.executable, "-I", gpu_touch.__file__], told, folder, "own.log")
    if found.has_activities(folder):
        return ""
    # The library says on standard error what keeps it from recording.
    lines = (folder / "own.log").read_text(encoding="utf-8", errors="replace").splitlines()
    said = [line.removeprefix("tetrace: ") for line in lines if line.startswith("tetrace: ")]
    if code is None:
        return f"it did not end within {_PATIENCE_S} s"
    return said[-1] if said else f"the GPU worked, and nothing of it was recorded (exit code {code})"


def _stages(found: nsys.Nsys, folder: Path, environment: Mapping[str, str], gpu: bool) -> tuple[str, str]:
    """The stage that failed and why; two empty texts where none did."""
    program = [sys.executable, "-I", gpu_touch.__file__] if gpu else [sys.executable, "-I", "-c", ""]
    code = _run([*found.command(folder), *program], environment, folder)
    report, export = folder / "nsys.nsys-rep", folder / "nsys.parquetdir"
    if not report.exists():
        return ("import" if any(folder.glob("*.qdstrm")) else "profile"), _why(code, folder)
    code = _run(
        [found.path, "export", "--type", "parquetdir", "--output", str(export), str(report)], environment, folder
    )
    if code or not export.is_dir():
        return "export", _why(code, folder)
    if gpu and not any((export / f"{table}.parquet").exists() for table in _GPU_ACTIVITY):
        return "activity", "the GPU worked, and nothing of it was recorded"
    return "", ""


def _run(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log_name: str = "nsys.log"
) -> int | None:
    """The exit code, None where it took too long; what it says goes to the log. Raises OSError where it does not start."""
    with (folder / log_name).open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
        try:
            return process.wait(_PATIENCE_S)
        except BaseException as stopped:
            # The whole group: nsys leaves a launcher and the program behind when only it is killed.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(stopped, subprocess.TimeoutExpired):
                return None
            raise


def _why(code: int | None, folder: Path) -> str:
    if code is None:
        return f"it did not end within {_PATIENCE_S} s"
    return f"{nsys.last_words(folder)} (exit code {code})"
