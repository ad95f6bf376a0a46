"""The window that is recorded: opened and closed at steps.

One session of Nsight Systems sees every process of a node, so the first process that comes to its window starts the
capture and the last that leaves ends it. A range cannot be ended by another process: with capture "nvtx" it is the one
that started the capture that ends it, at its first step after all have left. With capture "collector" there is no
session: each process opens and closes its own window.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tetrace.instrument import collector, dynamo, modules, process, ranges, steps

_cuda: Any = torch.cuda


class Window:
    """Steps `first_step` to `last_step` (exclusive; None: to the end), or `seconds` from `first_step` on."""

    def __init__(self, folder: Path, options: Mapping[str, Any], closed: Callable[[], None]) -> None:
        """`closed` is called once, when the window has closed, not at the end of the process."""
        self._folder, self._closed = folder, closed
        self._first = int(options.get("first_step") or 0)
        self._last, self._seconds = options.get("last_step"), options.get("seconds")
        self._capture = str(options.get("capture") or "none")
        self._entered = self._left = self._owns = False
        self._handle: int | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()

    def install(self) -> Callable[[], None]:
        """Opens the window now if it begins with the process; returns the function that closes it for good.

        A child of multiprocessing may only load data: it comes to its window at its first module.
        """
        steps.before_step.append(self.on_step)
        modules.on_first_call.append(self._first_call)
        if not process.is_child():
            self.on_step(0)
        return self.leave_for_good

    @dynamo.quiet
    def on_step(self, step: int) -> None:
        """A step is about to begin: its range is to lie inside the capture, or behind it."""
        if process.folder() is None:
            return
        with self._lock:
            if not self._entered and step >= self._first:
                self._enter()
            self._start_capture(step)
            if self._entered and not self._left and self._last is not None and step >= self._last:
                self._leave()
            if self._left:
                self._end_capture()

    def leave_for_good(self) -> None:
        """The process ends, or instrumentation does: whatever is open is closed, also for others."""
        if self.on_step in steps.before_step:
            steps.before_step.remove(self.on_step)
            modules.on_first_call.remove(self._first_call)
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            if self._entered and not self._left:
                self._left = True
                self._mark("left")
            self._end_capture(always=True)

    def _first_call(self) -> None:
        self.on_step(steps.current())
        with self._lock:
            self._start_timer()

    def _enter(self) -> None:
        self._entered = True
        self._mark("entered")
        if steps.current() > 0:
            self._start_timer()

    def _start_timer(self) -> None:
        """Seconds count from the first module on: building a model is no training."""
        if self._seconds and self._entered and self._timer is None:
            self._timer = threading.Timer(float(self._seconds), self._time_is_up)
            self._timer.daemon = True
            self._timer.start()

    def _time_is_up(self) -> None:
        with self._lock, process.guarded("closing the recorded window"):
            if process.folder() is not None and not self._left:
                self._leave()
                self._end_capture()

    def _leave(self) -> None:
        self._left = True
        self._closed()
        self._mark("left")

    def _mark(self, word: str) -> None:
        with contextlib.suppress(OSError):  # the folder is gone, or its disk is full: the others wait for nobody
            (self._folder / f"{word}-{os.getpid()}").touch()

    def _all_left(self) -> bool:
        """Whether every local process that came, or is still to come, has left."""
        count = {word: len(list(self._folder.glob(f"{word}-*"))) for word in ("entered", "left")}
        expected = os.environ.get("LOCAL_WORLD_SIZE", "")
        return count["left"] >= max(count["entered"], int(expected) if expected.isdecimal() else 1)

    def _start_capture(self, step: int) -> None:
        """Starts the capture, unless a process did so before; CUDA's switch works only once CUDA is in use."""
        if self._owns or self._left or not self._entered or self._capture == "none":
            return
        if self._capture == "api" and not _cuda.is_initialized():
            return
        if self._capture == "collector":
            self._owns = True
            collector.start(step)
            return
        self._owns = self._is_first_to("capture-started")
        if not self._owns:
            return
        if self._capture == "api":
            _cuda.cudart().cudaProfilerStart()
        else:
            self._handle = ranges.start(ranges.site("capture", "tetrace-capture"))

    def _end_capture(self, always: bool = False) -> None:
        if self._capture == "collector":
            collector.stop()
        elif self._capture == "api":
            if self._all_left() and _cuda.is_initialized() and self._is_first_to("capture-ended"):
                _cuda.cudart().cudaProfilerStop()
        elif self._handle is not None and (always or self._all_left()):
            ranges.end(self._handle)
            self._handle = None

    def _is_first_to(self, what: str) -> bool:
        try:
            (self._folder / what).touch(exist_ok=False)
        except OSError:
            return False
        return True
