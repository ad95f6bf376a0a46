"""The collector that records with CUPTI in the script's own processes: no other program, and no rights, are needed.

CUDA's driver loads a library of tetrace's (csrc/collector) into every process that uses CUDA, and NVTX into every one
that opens a range. What it writes is in the processes' folders when they have ended, however they did.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tetrace.errors import InputError, UsageError
from tetrace.record import build, libcupti
from tetrace.record.running import Running

LIBRARY = build.LIBRARY
INJECTIONS = ("CUDA_INJECTION64_PATH", "NVTX_INJECTION64_PATH")
_NEVER_CUDA = "no GPU activity was recorded because CUDA was never initialised"
_NO_ACTIVITY = "no GPU activity was recorded: none was launched in the recorded steps"
_ACTIVITIES = ("kernel", "memcpy", "memset")


@dataclass(frozen=True)
class Cupti:
    """The collector's library, the files where it may find CUPTI, and what it is to record.

    `calls`: `launches`, or `all` API calls. `whole_run`: from CUDA's start on, also in what is not instrumented.
    """

    library: Path
    candidates: tuple[str, ...]
    calls: str = "launches"
    whole_run: bool = False
    name = "cupti"
    capture = "collector"
    records_gpu = True

    def describe(self) -> dict[str, object]:
        """What run.json says of it: no paths."""
        return {"calls": self.calls, "libraries": [Path(path).name for path in self.candidates]}

    def start(self, command: Sequence[str], environ: Mapping[str, str], _folder: Path) -> Running:
        """Start it as it is, in a session of its own: a Ctrl-C of the terminal reaches it once, through tetrace."""
        process = subprocess.Popen(
            command, env={**environ, **self.variables()}, start_new_session=True, close_fds=False
        )
        return Running(process, process.pid)

    def variables(self) -> dict[str, str]:
        """What the library, and those who load it, look for in the environment."""
        told = {"calls": self.calls, "start": "now" if self.whole_run else "window"}
        return {
            **dict.fromkeys(INJECTIONS, str(self.library)),
            "TETRACE_COLLECTOR": json.dumps(told),
            "TETRACE_CUPTI": ":".join(self.candidates),
        }

    def last_words(self, _folder: Path) -> str:
        """Nothing stands between tetrace and the command."""
        return ""

    def has_activities(self, folder: Path) -> bool:
        """Whether a process left something that ran on the GPU."""
        return _has(folder, *_ACTIVITIES)

    def collect(self, folder: Path) -> tuple[str, ...]:
        """What is to be told of the recording. Raises `InputError` with the reason where the GPU should be in it."""
        if self.has_activities(folder):
            return ()
        processes = [_facts(file) for file in folder.glob("process-*/process.json")]
        reasons = [str(said["reason"]) for said in map(_collector, processes) if said.get("state") == "failed"]
        if reasons:
            raise InputError(f"the GPU was not recorded: {reasons[0]}")
        if _has(folder, "device") or any(process.get("gpu") for process in processes):
            return (_NO_ACTIVITY,)
        if not processes:
            raise InputError(_NEVER_CUDA)
        return (_NEVER_CUDA,)


def find(program: Sequence[str], calls: str, whole_run: bool, environ: Mapping[str, str]) -> Cupti:
    """The collector for the command `program`. Raises `UsageError` with the reason where it cannot record here."""
    if not LIBRARY.is_file():
        raise UsageError("; ".join(build.left_out()[0]))
    if environ.get("NSYS_PROFILING_SESSION_ID"):
        raise UsageError("already under nsys; leave its command out, or call tetrace.instrument() in the script")
    for name in INJECTIONS:
        if value := environ.get(name):
            raise UsageError(f"{name} is set already ({Path(value).name}), and loads one library only; unset {name}")
    found = libcupti.candidates(program, environ)
    if not found:
        raise UsageError(
            "no libcupti.so was found beside torch or in a CUDA toolkit; pip install nvidia-cuda-cupti (for CUDA 12: "
            "nvidia-cuda-cupti-cu12) in the Python that trains, or set CUDA_HOME"
        )
    return Cupti(LIBRARY, found, calls, whole_run)


def _has(folder: Path, *kinds: str) -> bool:
    """Whether a process left rows of one of these kinds."""
    from tetrace.sources import cupti_rows

    # Files are mapped, so that only the heads of frames are read.
    files = filter(None, map(cupti_rows.file_of, sorted(folder.glob("process-*"))))
    return any(one.count(kind) for one in map(cupti_rows.read, files) for kind in kinds)


def _facts(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _collector(process: Mapping[str, Any]) -> Mapping[str, Any]:
    found = process.get("collector")
    return found if isinstance(found, dict) else {}
