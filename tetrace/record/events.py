"""The collector for long runs: CUDA events around modules, in every N-th step, and nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tetrace.errors import InputError
from tetrace.record.running import Running

_FILE = "module-times.bin"
_HEADER_BYTES = 16
_NOTHING = (
    "no time on the GPU was measured: CUDA was not in use (--collector host records ranges and steps without it), or no "
    "step came whose number {} divides, but for step 0 (--every 1 measures each step)"
)


@dataclass(frozen=True)
class Events:
    """Runs the command as it is; its own processes measure every `every`-th step."""

    every: int = 10
    name = "events"
    capture = "none"
    records_gpu = False

    def describe(self) -> dict[str, object]:
        """What run.json says of it."""
        return {"every": self.every}

    def start(self, command: Sequence[str], environ: Mapping[str, str], _folder: Path) -> Running:
        """Start it in a session of its own: a Ctrl-C of the terminal reaches it once, through tetrace."""
        process = subprocess.Popen(command, env=environ, start_new_session=True, close_fds=False)
        return Running(process, process.pid)

    def last_words(self, _folder: Path) -> str:
        """Nothing stands between tetrace and the command."""
        return ""

    def collect(self, folder: Path) -> tuple[str, ...]:
        """The processes have written all there is. Raises `InputError` where that is no time at all."""
        has_rows = any(file.stat().st_size > _HEADER_BYTES for file in folder.glob(f"process-*/{_FILE}"))
        # Where no process was instrumented, that is the reason.
        if not has_rows and any(folder.glob("process-*")):
            raise InputError(_NOTHING.format(self.every))
        return ()
