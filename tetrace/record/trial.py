"""Lets the `nsys` that a recording would use record and export a program of a moment, and sees how far it comes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tetrace.errors import TetraceError
from tetrace.record import gpu_touch, nsys
from tetrace.record.finding import Nsys

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


def _run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> int | None:
    """The exit code, None where it took too long; what it says goes to nsys.log. Raises OSError where it does not start."""
    with (folder / "nsys.log").open("wb") as log:
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
