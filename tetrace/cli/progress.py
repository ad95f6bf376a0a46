"""A bar on standard error while something long runs; none where nobody looks at it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tetrace.report.grid import printable

_PATIENCE_S = 0.4


class _Bar:
    """Shown once work has taken long enough to wonder about: what is quick should not flicker."""

    def __init__(self, what: str) -> None:
        self._what, self._began = printable(what), time.monotonic()
        self._progress: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._progress is None and time.monotonic() - self._began > _PATIENCE_S:
            self._start()
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total)

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(self._what, total=None)
        self._progress.start()

    def stop(self) -> None:
        """Take the bar off the screen."""
        if self._progress is not None:
            self._progress.stop()


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Called with how much is done and how much there is: `what` (`reading run.sqlite`) and a bar."""
    if not sys.stderr.isatty():
        yield None
        return
    bar = _Bar(what)
    try:
        yield bar
    finally:
        bar.stop()
