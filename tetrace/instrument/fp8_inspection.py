"""Inspects FP8 in a running script: tensors where they are quantized, scales where they move, and what is not finite.

On a device everything is a launch on the script's own stream and a copy that nobody waits for (csrc/watch, csrc/fp8);
without one the rows are computed here. Nothing keeps a tensor, and whatever fails switches inspection off, once and for
all, with one warning.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch

from tetrace import _C
from tetrace.errors import TetraceError, UsageError
from tetrace.fp8 import recorded
from tetrace.fp8.rows import ROW
from tetrace.instrument import (
    dynamo,
    engine,
    fp8_operands,
    fp8_plain,
    imports,
    module_times,
    modules,
    observer,
    process,
    ranges,
    steps,
)
from tetrace.instrument.fp8_blocks import Blocks
from tetrace.instrument.fp8_calls import Calls
from tetrace.instrument.fp8_checks import Checks
from tetrace.instrument.fp8_operands import Operand
from tetrace.instrument.fp8_scales import Scales
from tetrace.instrument.unseen import unseen

# The device may be this far behind when inspection ends.
_PATIENCE_S = 2.0
# Rows that a device has room for: several steps of the model, within these bounds. A histogram takes 8 KiB.
_FEWEST_ROWS, _MOST_ROWS, _MOST_WITH_HISTOGRAM = 1 << 12, 1 << 17, 1 << 15
_STEPS_DEEP = 4
_WORDS = {
    "captured": "FP8 inspection saw nothing of {:,} tensors of calls that were captured into CUDA graphs",
    "elsewhere": "FP8 inspection saw nothing of {:,} tensors on a device where nothing is known of the thread's stream",
    "full": "FP8 inspection had no room for {:,} tensors: more were launched than the device got through",
}

_ODD = "FP8 inspection passed by tensors that are {}: {:,}"
_SOME_ROWS = (
    "FP8 inspection looked at one row in {:,} of tensors of a million elements and more that have one scale: counts are of "
    "these rows, and what is not finite in the others is {}"
)
_SOME_MODULES = "FP8 inspection looked at modules alone in whose path {!r} is found (--fp8-modules)"

_installed: Inspection | None = None
_cuda: Any = torch.cuda


@dataclass(frozen=True)
class Settings:
    """What is inspected. `modules` is a regular expression that is searched for in modules' paths; in every `recompute`-th
    step what fused calls cast is made again in high precision, in none where it is 0; every `rows`-th row of large tensors
    is looked at."""

    every: int = 1
    first: int = 0
    modules: str = ""
    histogram: bool = True
    blocks: bool = False
    checks: bool = True
    recompute: int = 0
    rows: int = 1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """From a mapping, of which only the names that are fields count."""
        return cls(**{one.name: options[one.name] for one in fields(cls) if one.name in options})


@dataclass(frozen=True)
class Files:
    """Where what was seen goes: chunks of rows, and rows of scales (tetrace/fp8/recorded.py), both as bytes."""

    rows: Callable[[bytes], None]
    scales: Callable[[bytes], None]


class Inspection:
    """Inspects while it is installed; one at a time in a process."""

    def __init__(self, settings: Settings, files: Files) -> None:
        self._settings, self._files = settings, files
        self._range = ranges.site("inspection", "FP8 inspection")
        # Blocks are counted by torch's kernels, in Python.
        again = settings.recompute > 0
        self._calls = Calls(self._observe, settings.modules, self._guarded, not settings.blocks, again)
        self._checks = Checks(self._calls.wants, self._guarded)
        self.scales = Scales(files.scales, self._guarded, self._calls.wants)
        self._plain = fp8_plain.Observer(settings.histogram, settings.blocks, settings.rows)
        self._blocks = Blocks(lambda blocks: files.rows(recorded.chunk(b"", b"", blocks)))
        self._owner, self._failed = os.getpid(), False
        self.failure = ""  # in words, once it switched itself off
        self._notes: list[str] = []  # once it has ended
        self._opened: set[int] = set()
        self._opening = threading.Lock()
        self._odd: Counter[str] = Counter()  # tensors that were passed by, by their form
        self.rows = 0  # written
        self._has_turned = False  # with the step that runs, and not in a backward since
        self._is_tight = False  # some device has room for fewer steps than is usual
        self._turn, self._step = self._guarded(self._turn_over), self._guarded(self._on_step)

    def install(self) -> Callable[[], None]:
        """Begins with the step that runs; returns the function that ends it, which waits a little for the device.

        Raises `UsageError` while another one inspects.
        """
        global _installed
        if _installed is not None:
            raise UsageError("FP8 is inspected in this process already; end that watch, or recording, first")
        _installed = self
        dtypes = list(fp8_operands.DTYPES.items())
        check, ask = self._guarded(self._check), self._checks.site_of_output
        types = torch.Tensor, torch.nn.Parameter
        _C.watch_begin(self._calls.slow, ask, check, *types, dtypes, self._settings.histogram, self._settings.rows)
        _C.watch_reader(_reader())
        driver = module_times.of_torch()
        _C.timing_streams(driver.get_device, driver.get_stream, driver.source())
        undo = [self._calls.install(), engine.patch(self._before_backward)]
        undo.append(imports.after_import("transformer_engine.pytorch", self._follow(undo)))
        if self._settings.checks:
            undo.append(self._checks.install())
        # Said at once: a process that is killed has no end.
        if self._settings.modules:
            process.notice(_SOME_MODULES.format(self._settings.modules))
        if self._settings.rows > 1:
            seen = "seen first in what modules return" if self._settings.checks else "not seen"
            process.notice(_SOME_ROWS.format(self._settings.rows, seen))
        steps.before_step.append(self._step)
        # Before the first step begins, the number is still that of an earlier recording.
        self._step(steps.current() if steps.is_following() else 0)
        return functools.partial(self._restore, undo)

    def _follow(self, undo: list[Callable[[], None]]) -> Callable[[], None]:
        def follow() -> None:
            from tetrace.instrument import transformer_engine

            undo.append(transformer_engine.install_around(self.scales.around, self._calls.around_gemm))

        return follow

    def _restore(self, undo: list[Callable[[], None]]) -> None:
        global _installed
        steps.before_step.remove(self._step)
        _C.watch_switch(False)
        while undo:
            undo.pop()()
        if self._failed and os.getpid() == self._owner and not _C.watch_has_failed():
            # What was seen before is good.
            with process.guarded("keeping what FP8 inspection saw before it switched itself off"):
                self._finish()
        else:
            self._guarded(self._finish)()
        _C.watch_end()
        _installed = None

    def _finish(self) -> None:
        """Waits for what is under way, and says what became of what was not seen."""
        self._write(*_C.watch_turn())
        end = time.monotonic() + _PATIENCE_S
        while (counts := _C.watch_counts())["taken"] < counts["observed"] and time.monotonic() < end:
            time.sleep(0.001)
            self._write(*_C.watch_take())
        self._write_plain()
        self.scales.turn(_PATIENCE_S)
        self._blocks.turn()
        self._blocks.take(wait=True)
        self._notes = self.notes()
        for text in self._notes:
            process.notice(text)

    def notes(self) -> list[str]:
        """What a reader of the rows must know, a sentence each."""
        counts = _C.watch_counts()
        said = [words.format(counts[name]) for name, words in _WORDS.items() if counts[name]]
        said += [_ODD.format(form, number) for form, number in sorted(self._odd.items())]
        missing = counts["observed"] - counts["taken"]
        return [*said, *([f"the last {missing:,} rows of FP8 inspection did not come"] if missing else [])]

    @dynamo.quiet
    def _on_step(self, step: int) -> None:
        """A step begins: what came of earlier ones is written."""
        self._turn_over()
        self._has_turned = True
        settings = self._settings
        self._calls.is_due = settings.recompute > 0 and step % settings.recompute == 0
        _C.watch_switch(step >= settings.first and step % settings.every == 0)

    def _before_backward(self, plain: engine.Run) -> engine.Run:
        turn = self._turn

        def run(*args: Any, **kwargs: Any) -> Any:
            # Of a script that follows no steps, or has many backwards in one, nothing else would come.
            if self._is_tight or not self._has_turned:
                turn()
            self._has_turned = False
            return plain(*args, **kwargs)

        return run

    @dynamo.quiet
    def _turn_over(self) -> None:
        if _is_capturing():
            return
        self._write(*_C.watch_turn())
        self._write_plain()
        self.scales.turn()
        self._blocks.turn()
        if _C.watch_has_failed():
            counts = _C.watch_counts()
            raise RuntimeError(counts["refusal"] or f"the CUDA driver refused with error {counts['last_error']}")

    @property
    def said(self) -> list[str]:
        """That it switched itself off, and its notes once it has ended: until then rows are under way."""
        return [*([self.failure] if self.failure else []), *self._notes]

    def _write(self, rows: bytes, bins: bytes) -> None:
        if rows:
            self.rows += len(rows) // ROW.itemsize
            self._files.rows(recorded.chunk(rows, bins))

    def _write_plain(self) -> None:
        rows, bins, blocks = self._plain.take()
        if rows:
            self.rows += len(rows) // ROW.itemsize
            self._files.rows(recorded.chunk(rows, bins, blocks))

    def _observe(self, found: Sequence[tuple[Operand, int]]) -> None:
        """Looks at tensors, those of one kind in one launch."""
        here: dict[tuple[Any, ...], list[tuple[Any, tuple[int, ...]]]] = {}
        for operand, site in found:
            if not self._can_look(operand.tensor):
                continue
            if not operand.tensor.is_cuda:
                self._plain.observe(operand, site, steps.current())
                continue
            if not operand.tensor.is_contiguous() and _is_capturing():
                continue  # it may have to be copied, and the copy would become a part of the graph
            tensor, rows, columns, stride = fp8_operands.matrix(operand.tensor, self._columns(operand))
            scaled = operand.scales is not None or operand.codes
            of_scales = (operand.scales.data_ptr() if operand.scales is not None else 0, _stride(operand))
            key = (
                *(tensor.device.index, operand.dtype, fp8_operands.FORMATS.get(operand.format, 0) if scaled else 0),
                *(operand.layout, operand.is_inverse, not operand.codes),
            )
            here.setdefault(key, []).append((tensor, (tensor.data_ptr(), rows, columns, stride, site, *of_scales)))
        for (device, *call), tensors in here.items():
            first = self._launch(device, [one for _, one in tensors], *call)
            if self._settings.blocks and call[-1]:
                for place, (tensor, _) in enumerate(tensors):
                    self._blocks.observe(tensor, first + place if first >= 0 else first)

    def _can_look(self, tensor: Any) -> bool:
        """Whether there are values, one after the other."""
        if not fp8_operands.has_values(tensor):
            return False
        odd = fp8_operands.odd_form(tensor)
        if odd:
            self._odd[odd] += 1
        return not odd

    def _columns(self, operand: Operand) -> int:
        """Those of the matrix that is observed; 0 where they do not matter, since all of its rows are."""
        some = self._settings.rows > 1 and operand.tensor.is_contiguous()
        return operand.columns or (fp8_operands.width(operand.tensor) if some else 0)

    def _launch(self, device: int, tensors: list[tuple[int, ...]], *call: Any, **named: Any) -> int:
        """On the stream that the device has here, which may be another device than the thread's."""
        self._open(device)
        with _cuda.device(device):
            return _C.watch_observe(tensors, *call, **named)

    @unseen
    @dynamo.quiet
    def _check(self, site: int, tensor: Any) -> None:
        """Counts what is not finite in a tensor that csrc/watch could not take."""
        if not isinstance(tensor, torch.Tensor) or tensor.dtype not in fp8_operands.DTYPES:
            return
        if not self._can_look(tensor):
            return
        with torch.no_grad():
            tensor = tensor.detach()
            operand = Operand(tensor, "", -1, "", None, None)
            if not tensor.is_cuda:
                self._plain.observe(operand, site, steps.current(), check=True)
                return
            if not tensor.is_contiguous() and _is_capturing():
                return  # as in _observe
            tensor, rows, columns, stride = fp8_operands.matrix(tensor, 0)
            one = (tensor.data_ptr(), rows, columns, stride, site, 0, 0)
            self._launch(tensor.device.index, [one], operand.dtype, histogram=False)

    def _open(self, device: int) -> None:
        """Gives the device a ring. Threads of backward come here at the same time: all wait until it is there."""
        with self._opening:
            if device not in self._opened:
                self._give_ring(device)
                self._opened.add(device)

    def _give_ring(self, device: int) -> None:
        wanted = max(_rows_of_step() * _STEPS_DEEP, _FEWEST_ROWS)
        rows = min(wanted, _MOST_WITH_HISTOGRAM if self._settings.histogram else _MOST_ROWS)
        self._is_tight |= rows < wanted
        _C.watch_device(device, rows, self._settings.histogram)

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, which does nothing in a forked child or after a failure, and fails without raising."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            if self._failed or os.getpid() != self._owner:
                return None
            # What is launched here is told from the script's own work by this range.
            ranges.push(self._range)
            try:
                return function(*args, **kwargs)
            except Exception as error:
                self.fail(error)
                return None
            finally:
                ranges.pop()

        return dynamo.skipped(run)

    def fail(self, error: Exception) -> None:
        """Switches inspection off for good, and says so once."""
        if self._failed:
            return
        self._failed = True
        _C.watch_switch(False)
        what = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        self.failure = f"FP8 inspection switched itself off in step {steps.current()} ({what})"
        process.warn(f"{self.failure}; training goes on")


def _stride(operand: Operand) -> int:
    return operand.scale.stride if operand.scale is not None else 0


def _reader() -> int:
    """The address of what reads tensors without their methods; 0 where the observer cannot, or is not there."""
    try:
        return observer.address(observer.load(), "tetrace_observer_tensor")
    except (TetraceError, AttributeError):
        return 0


def _is_capturing() -> bool:
    return bool(_cuda.is_initialized() and _cuda.is_current_stream_capturing())


def _rows_of_step() -> int:
    """About how many tensors a step of the models has at most: eight casts a module, and two checks a parameter."""
    found = modules.all_modules()
    parameters = sum(len(vars(module).get("_parameters") or ()) for _, module in found)
    return 8 * len(found) + 2 * parameters


def record(options: Mapping[str, Any], first: int) -> Callable[[], None]:
    """Inspects into this process' folder from step `first` on; returns the function that ends it."""
    folder = process.folder()
    assert folder is not None, "the process' folder is opened first"
    rows = fp8_plain.Appending(folder / recorded.ROWS_FILE, recorded.ROWS_HEADER)
    scales = fp8_plain.Appending(folder / recorded.SCALES_FILE, recorded.SCALES_HEADER)
    restore = Inspection(Settings.of({**options, "first": first}), Files(rows.append, scales.append)).install()

    def end() -> None:
        restore()
        rows.close()
        scales.close()

    return end


def is_inspecting() -> bool:
    """Whether somebody inspects in this process."""
    return _installed is not None
