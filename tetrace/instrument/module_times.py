"""Measures how long modules take on their streams, by CUDA events around their ranges, in every N-th step.

`tetrace._C` (csrc/timing) records the events where ranges open and close, reads them when the device has come so far,
and waits for it at the end alone. This file says which ranges, in which steps, and takes the rows.
"""

from __future__ import annotations

import functools
import io
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Module

from tetrace import _C
from tetrace.errors import TetraceError, UsageError
from tetrace.instrument import autograd, dynamo, engine, modules, observer, process, ranges, steps
from tetrace.instrument.row_file import RowFile

STEP, OPTIMIZER = "(step)", "(optimizer)"
# Events of a device: those of a thousand modules in a step, several steps deep. Some 200 bytes each.
_MOST_EVENTS = 1 << 14
# The device may be this far behind when measuring ends.
_PATIENCE_S = 2.0
_FILE = "module-times.bin"
# What became of calls that no sum holds.
_WORDS = {
    "crossed": "began on one stream and ended on another: they are not counted",
    "no_room": "found no free event, because too many waited for the GPU: they are not counted",
    "failed": "could not be measured, because the driver refused: they are not counted",
    "unclear": "were of one of several backwards at once, and it is not known of which: they are not counted",
    "unfinished": "had not come to their end on the GPU when measuring ended",
    "captured": "were captured into CUDA graphs: replays belong to the module that launches them",
}

_cuda: Any = torch.cuda
_measuring: Measuring | None = None  # the one that is installed


@dataclass(frozen=True)
class Driver:
    """Where events are recorded. `get_device` is asked for the current device of a thread, `get_stream` of a device for
    the handle of its current stream; `source` is a C function that knows both, 0 for none. `is_ready`: CUDA is in use.
    """

    library: str
    get_device: Callable[[], int]
    get_stream: Callable[[int], int]
    source: Callable[[], int]
    is_ready: Callable[[], bool]


def of_torch() -> Driver:
    """The driver under this process' torch."""
    binary: Any = torch._C
    get_device, get_stream = (
        getattr(binary, "_cuda_getDevice", None),
        getattr(binary, "_cuda_getCurrentRawStream", None),
    )
    is_there = get_device is not None and get_stream is not None
    return Driver(
        "libcuda.so.1", get_device or int, get_stream or int, _source, lambda: is_there and _cuda.is_initialized()
    )


def _source() -> int:
    """The address of the function that asks torch without the interpreter; 0 where it does not fit this torch."""
    try:
        library = observer.load()
        if library.tetrace_observer_finds_streams():
            return observer.address(library, "tetrace_observer_stream")
    except (TetraceError, AttributeError):
        pass
    return 0


class Measuring:
    """Measures the steps `first`, `first + every`, ... while it is installed. One at a time in a process.

    `wanted(module, path)` says which modules are measured, by default all; `take(rows)` gets the rows of `timing_rows`
    whenever there are some. `alone`: nobody else wants ranges of backward, so that other steps go without.
    """

    def __init__(
        self,
        every: int,
        take: Callable[[bytes], None],
        *,
        first: int = 1,
        wanted: Callable[[Module, str], bool] | None = None,
        driver: Driver | None = None,
        alone: bool = False,
    ) -> None:
        # The first step loads code and allocates: it says nothing of those that follow.
        self._every, self._first = every, -(-max(first, 1) // every) * every
        self._take, self._wanted, self._alone = take, wanted, alone
        self._driver = driver or of_torch()
        self._owners: dict[str, weakref.ref[Module]] = {}
        self._optimizers: set[str] = set()
        self._is_open = self._failed = False
        self._observing = True
        self._lock = threading.RLock()
        self.opened = False  # whether CUDA came into use
        self.sampled = 0  # steps that were measured

    def install(self) -> Callable[[], None]:
        """Begins; returns the function that ends it, which waits a little for what the device has not come to yet.

        Raises `UsageError` while another one measures.
        """
        global _measuring
        if _measuring is not None:
            raise UsageError("modules are measured in this process already; end that timer, or recording, first")
        _measuring = self
        _C.timing_reset()
        # Nodes made outside of every module have a range too; what they take belongs to no module.
        _C.timing_measure(ranges.site("loss", "(loss)", phase="backward", module="(loss)"), -1, True)
        modules.on_sites.append(self._met)
        modules.on_first_call.append(self._first_call)
        modules.meet_again()
        steps.before_step.append(self._on_step)
        steps.before_optimizer.insert(0, self._on_optimizer)
        unpatch = engine.patch(_ending_backward)
        return functools.partial(self._restore, unpatch)

    def _restore(self, unpatch: Callable[[], None]) -> None:
        global _measuring
        _measuring = None
        unpatch()
        steps.before_optimizer.remove(self._on_optimizer)
        steps.before_step.remove(self._on_step)
        modules.on_first_call.remove(self._first_call)
        modules.on_sites.remove(self._met)
        with self._lock:
            if self._is_open:
                _C.timing_close(_PATIENCE_S)
                self._is_open = False
                self._take_rows()
            self._failed = True

    def _first_call(self) -> None:
        """A module is about to be called for the first time: CUDA may be in use by now."""
        with self._lock:
            self._open()

    @dynamo.quiet
    def _on_step(self, step: int) -> None:
        with self._lock:
            self._open()
            if not self._is_open:
                return
            sampled = step >= self._first and step % self._every == 0
            self.sampled += sampled
            self._observe(sampled)
            if _C.timing_step(step, sampled):
                self._take_rows()

    def _observe(self, wanted: bool) -> None:
        """Has autograd's nodes observed, which costs a little for each, or not."""
        if self._alone and wanted != self._observing:
            self._observing = wanted
            (autograd.resume if wanted else autograd.pause)()

    def _open(self) -> None:
        if self._is_open or self._failed or not self._driver.is_ready():
            return
        driver, site = self._driver, ranges.site("step", "step")
        try:
            _C.timing_open(_MOST_EVENTS, site, driver.get_device, driver.get_stream, driver.source(), driver.library)
        except ValueError as error:
            self._failed = True
            process.warn(f"modules are not measured: {error}")
            return
        self._is_open = self.opened = True

    def _take_rows(self) -> None:
        rows = _C.timing_rows()
        if rows:
            self._take(rows)

    def _met(self, module: Module, path: str, sites: modules.Sites) -> None:
        """A wrapper (DDP) has the path of what it wraps, and is called first: it stands for both."""
        owner = self._owners.get(path, lambda: None)()
        wanted = owner in (None, module) and (self._wanted is None or self._wanted(module, path))
        if wanted:
            self._owners[path] = weakref.ref(module)
        around, device = ranges.current_module(), _device_of(module)
        for site in sites:
            _C.timing_measure(site, around, wanted, device)

    @dynamo.quiet
    def _on_optimizer(self, optimizer: Any) -> None:
        name = type(optimizer).__name__
        if name not in self._optimizers:
            self._optimizers.add(name)
            _C.timing_measure(ranges.site("optimizer", name, phase="optimizer"), -1, True)


def _device_of(module: Module) -> int:
    """The number of the GPU that has all parameters, and so the module's kernels, whichever device is current when it is
    called; -1 where there is no such one.
    """
    devices: set[Any] = set()
    for parameter in module.parameters():
        devices.add(parameter.device)
        if len(devices) > 1:
            return -1
    return next((device.index for device in devices if device.type == "cuda"), -1)


def _ending_backward(plain: engine.Run) -> engine.Run:
    begin, end = _C.timing_begin_backward, _C.timing_end_backward

    def run(*args: Any, **kwargs: Any) -> Any:
        begin()
        try:
            return plain(*args, **kwargs)
        finally:
            end()

    return run


def record(every: int, first: int) -> Callable[[], None]:
    """Records the times of modules into this process' folder, from step `first` on; returns the function that ends it."""
    folder = process.folder()
    assert folder is not None, "the process' folder is opened first"
    file = io.FileIO(folder / _FILE, "w")
    restore = Measuring(every, RowFile(file).append, first=first, alone=True).install()

    def end() -> None:
        restore()
        file.close()
        for note in notes(_C.timing_counts()):
            process.notice(note)

    return end


def is_measuring() -> bool:
    """Whether somebody measures in this process."""
    return _measuring is not None


def notes(counts: Mapping[str, int]) -> list[str]:
    """What became of calls that were not measured, a sentence each, from `timing_counts`."""
    return [f"{counts[name]:,} calls {words}" for name, words in _WORDS.items() if counts[name]]


def meaning(site: int) -> tuple[str, str]:
    """(module, phase) of a row's site."""
    described = ranges.describe(site)
    kind = described.get("kind")
    if kind == "step":
        return STEP, "all"
    if kind == "optimizer":
        return OPTIMIZER, "optimizer"
    return str(described.get("module", "")), str(described.get("phase", ""))
