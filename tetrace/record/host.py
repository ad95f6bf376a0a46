"""The collector for machines without a GPU: the instrumentation's own ranges are the recording."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tetrace.record.running import Running


class Host:
    """Runs the command as it is."""

    name = "host"
    capture = "none"
    records_gpu = False

    def describe(self) -> dict[str, object]:
        """Nothing to tell beyond the name."""
        return {}

    def start(self, command: Sequence[str], environ: Mapping[str, str], _folder: Path) -> Running:
        """Start it in a session of its own: a Ctrl-C of the terminal reaches it once, through tetrace."""
        process = subprocess.Popen(command, env=environ, start_new_session=True, close_fds=False)
        return Running(process, process.pid)

    def last_words(self, _folder: Path) -> str:
        """Nothing stands between tetrace and the command."""
        return ""

    def collect(self, _folder: Path) -> tuple[str, ...]:
        """The processes have written all there is."""
        return ()
