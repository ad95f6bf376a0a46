"""Shows on standard error what a study is doing, what is left of it, and for how long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import cut, printable

if TYPE_CHECKING:
    from tetrace.study.progress import Plan, Watcher

_LONGEST = 60
_WORDS = {
    "building": ("to build", "to build"),
    "first step of": ("first step", "first steps"),
    "warming up": ("to warm up", "to warm up"),
    "measuring": ("round", "rounds"),
    "recording": ("recording", "recordings"),
}


class _Lines:
    """Where nobody watches: a line for what is over."""

    def tick(self, _plan: Plan) -> None:
        """Nothing is shown in between."""

    def say(self, line: str) -> None:
        """A line on standard error."""
        sys.stderr.write(f"tetrace: {printable(line)}\n")
        sys.stderr.flush()


class _Display:
    """On a terminal: a bar with what is running, and below it what is left."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[left]}", markup=False),
            TimeElapsedColumn(),
        )
        self._progress: Any = Progress(*columns, console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(printable(what), total=None, left="")

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def tick(self, plan: Plan) -> None:
        """What is running now, and what is left."""
        done, left = sum(plan.done.values()), sum(plan.left.values())
        self._progress.update(
            self._task, description=running(plan), completed=done, total=done + left, left=remaining(plan)
        )

    def say(self, line: str) -> None:
        """A line above the bar."""
        self._progress.console.print(f"tetrace: {printable(line)}", markup=False, highlight=False, soft_wrap=True)


def running(plan: Plan) -> str:
    """`measuring fused-none`, `building a, b, c`; a configuration in its turn before those that wait for theirs."""
    kinds: dict[str, list[str]] = {}
    for name, kind in plan.running.items():
        kinds.setdefault(kind, []).append(name)
    return cut(printable("; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items())), _LONGEST)


def remaining(plan: Plan) -> str:
    """`2 to build, 12 rounds, 4 recordings; about 3 min`."""
    parts = [f"{count} {_WORDS[kind][count > 1]}" for kind, count in plan.left.items() if count]
    seconds = plan.seconds_left
    if not parts or seconds is None:
        return ", ".join(parts)
    about = f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(1, round(seconds))} s"
    return f"{', '.join(parts)}; about {about}"


@contextmanager
def shown(what: str) -> Iterator[Watcher]:
    """A display on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _Lines()
        return
    with _Display(what) as display:
        yield display
