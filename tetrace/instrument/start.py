"""Puts instrumentation into this process, and takes it out again.

Everything waits for `torch`: a process that never imports it is left alone, and so is one that only launches others.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from tetrace.errors import UsageError
from tetrace.instrument import exits, imports, process, ranges

DEFAULTS: Mapping[str, Any] = {
    "collector": "host",
    "ranges": "modules",
    "first_step": 0,
    "last_step": None,
    "seconds": None,
    "warmup": 5,
    "capture": "none",
    "every": 10,
    "fp8": None,
}
_LEVELS = ("modules", "coarse", "off")
# Ranges that the importer of a collector's recordings takes from the rings: what else listens to NVTX is spared them.
_ONLY_IN_RINGS: Mapping[str, Collection[str]] = {"nsys": ranges.CALLS, "cupti": ranges.KINDS}

_started: Path | None = None
_undo: list[Callable[[], None]] = []  # everything
_undo_ranges: list[Callable[[], None]] = []  # what is taken out when the window closes: all but the steps


def start(folder: Path, options: Mapping[str, Any]) -> None:
    """Records into the working folder `folder` from the import of torch on. Does nothing when started already.

    `options`: as in `DEFAULTS`, which fill in what is missing.
    """
    global _started
    if _started is not None:
        return
    _started = folder
    settings = {**DEFAULTS, **options}
    if "torch" in sys.modules:
        _begin(folder, settings)
    else:
        _undo.append(imports.after_import("torch", functools.partial(_begin, folder, settings)))


def stop() -> None:
    """Takes every patch out and closes the recording. Does nothing when not started."""
    global _started
    _stop_ranges()
    while _undo:
        with process.guarded("taking a patch out"):
            _undo.pop()()
    if _started is not None:
        ranges.close()
        process.close()
    _started = None


def instrument(ranges: str = "modules", folder: str | os.PathLike[str] | None = None) -> Path:
    """Starts instrumentation in this process, and returns the working folder that it records into.

    `ranges`: `modules`, `coarse` or `off` (steps only). `folder`: by default that of a `tetrace record` around this
    process, else `<script>.tetrace.recording`. Raises `UsageError` for another value of `ranges`.
    """
    if ranges not in _LEVELS:
        raise UsageError(f"ranges={ranges!r}; choose one of {', '.join(_LEVELS)}")
    if _started is not None:
        return _started
    script = Path(sys.argv[0] if sys.argv else "").stem or "python"
    chosen = folder or os.environ.get("TETRACE_RECORDING")
    target = Path(chosen).absolute() if chosen else _of_this_run(Path.cwd(), script)
    target.mkdir(parents=True, exist_ok=True)
    start(target, {"ranges": ranges})
    return target


def _of_this_run(parent: Path, script: str) -> Path:
    """`<script>.tetrace.recording`, or that name with a number where only runs that are over recorded into it: other
    ranks of this run are alive."""
    number = 1
    while True:
        target = parent / f"{script}{'' if number == 1 else f'-{number}'}.tetrace.recording"
        words = [one.name.split("-")[1] for one in target.glob("process-*")]
        pids = [int(word) for word in words if word.isdecimal()]
        if not pids or any(_is_alive(pid) for pid in pids):
            return target
        number += 1


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _begin(folder: Path, options: Mapping[str, Any]) -> None:
    """Runs once torch is there. Each part that fails is left out with a warning."""
    if process.is_launcher():
        return
    own, collector = process.open(folder), str(options["collector"])
    # Events are recorded where ranges open and close: the ranges themselves need not be kept.
    ranges.open(None if collector == "events" else own)
    ranges.list_sites(own, _ONLY_IN_RINGS.get(collector, ()))
    from tetrace.instrument import memory, steps, window

    _install("noticing the end", lambda: exits.install(_finished), _undo)
    if collector == "nsys":
        from tetrace.instrument import flushing

        _install("handing over what the GPU did", flushing.install, _undo)
    _install("steps", steps.install, _undo)
    if options["ranges"] != "off":
        _install_ranges(str(options["ranges"]), calls=collector != "events" or options["fp8"] is not None)
        _install("memory", lambda: memory.install(int(options["warmup"])), _undo_ranges)
    if collector == "events":
        from tetrace.instrument import module_times

        every, first = int(options["every"]), int(options["first_step"] or 0)
        _install("times of modules", lambda: module_times.record(every, first), _undo_ranges)
    if options["fp8"] is not None:
        from tetrace.instrument import fp8_inspection

        inspected, first = options["fp8"], int(options["first_step"] or 0)
        _install("FP8 inspection", lambda: fp8_inspection.record(inspected, first), _undo_ranges)
    if options["capture"] == "collector":
        from tetrace.instrument import collector as gpu

        _install("recording the GPU", gpu.install, _undo)
    _install("the recorded window", window.Window(folder, options, _stop_ranges).install, _undo)
    with process.guarded("the first step"):
        # Last, so that its range lies inside the capture.
        steps.begin(0)


def _install(what: str, install: Callable[[], Callable[[], None]], undo: list[Callable[[], None]]) -> None:
    with process.guarded(what):
        undo.append(install())


def _install_ranges(level: str, calls: bool = True) -> None:
    """Ranges of modules; with `calls`, also those of what Transformer Engine calls inside them."""
    from tetrace.instrument import autograd, autograd_hooks, modules, optimizer

    observing = False
    with process.guarded("the observer of backward"):
        observing = autograd.can_observe()
    process.note(autograd="observer" if observing else "hooks")
    tag = None if observing else autograd_hooks.tag
    _install("ranges of optimizers", optimizer.install, _undo_ranges)
    _install("ranges of modules", lambda: modules.install(level, tag), _undo_ranges)
    _install("ranges of backward", lambda: autograd.install(observing), _undo_ranges)
    if calls:
        _undo_ranges.append(imports.after_import("transformer_engine.pytorch", _install_transformer_engine))


def _install_transformer_engine() -> None:
    from tetrace.instrument import transformer_engine

    _install("ranges of Transformer Engine", transformer_engine.install, _undo_ranges)


def _stop_ranges() -> None:
    """The window has closed: the rest of the run is plain, and its steps tell what recording cost."""
    while _undo_ranges:
        with process.guarded("taking a patch out"):
            _undo_ranges.pop()()


def _finished(reason: str, **facts: Any) -> None:
    """The process ends."""
    from tetrace.instrument import memory, steps

    step = steps.current()
    if step < 1 or not (process.folder() or Path()).joinpath("modules.json").exists():
        memory.write()
    failed = {"exception": exits.exception()} if reason == "exception" else {}
    process.finish(reason, step, **failed, **facts)
    stop()
    if reason == "os._exit":
        from tetrace.instrument import flushing

        flushing.flush(forced=True)
