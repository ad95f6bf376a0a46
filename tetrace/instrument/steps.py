"""Where a training step ends: after the optimizer that drives the loop, or at `tetrace.step()`.

The driver is the last optimizer that stepped before modules were called again, learned the first time this happens.
Until then the end of the first step is not known; it is taken to be that next call (the next backward, where modules
are not followed). A step that GradScaler skips only
makes a step longer; with gradient accumulation a step has several calls of backward.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tetrace.instrument import dynamo, engine, process, ranges

# Not empty while the next call of a module tells who drives; read in every call of a module, hence a plain list.
waiting: list[weakref.ref[Any]] = []

# An optimizer that drove and has not stepped while others did so this often has been replaced.
_REPLACED_AFTER = 8

# Called before and after an optimizer's step. torch's own lists of hooks must not change while an optimizer steps, and
# a window closes just then, so that only these lists change.
before_optimizer: list[Callable[[Any], None]] = []
after_optimizer: list[Callable[[Any], None]] = []
# Called with the number of the step that begins, before its range is opened and after.
before_step: list[Callable[[Any], None]] = []
on_step: list[Callable[[Any], None]] = []
# Optimizers that have stepped.
optimizers: weakref.WeakSet[Any] = weakref.WeakSet()

_step = 0
_handle: int | None = None
_driver: weakref.ref[Any] | None = None
_by_user = False
_others = 0
_lock = threading.Lock()


def install() -> Callable[[], None]:
    """Follows the optimizers from `begin(0)` on; returns the function that ends the last step and stops."""
    hooks = register_optimizer_step_pre_hook(_steps), register_optimizer_step_post_hook(_stepped)
    unpatch = engine.patch(_watched)

    def restore() -> None:
        unpatch()
        for hook in hooks:
            hook.remove()
        finish()

    return restore


def begin(step: int) -> None:
    """Opens the range of `step`, whose number every row has from now on."""
    global _step, _handle
    _step = step
    ranges.set_step(step)
    _handle = ranges.start(ranges.site("step", "step"))


def finish() -> None:
    """Closes the range of the last step, and forgets who drove."""
    global _handle, _driver, _by_user, _others
    if _handle is not None:
        ranges.end(_handle)
    ranges.set_step(-1)
    _handle, _driver, _by_user, _others = None, None, False, 0
    waiting.clear()


def is_following() -> bool:
    """Whether steps are followed."""
    return _handle is not None


def current() -> int:
    """Number of the step that runs, from 0."""
    return _step


@dynamo.quiet
def user_step() -> None:
    """Ends the step here, and from now on only here. Does nothing outside a recording."""
    global _by_user
    if _handle is None:
        return
    _by_user = True
    waiting.clear()
    _boundary()


@dynamo.quiet
def call_began() -> None:
    """A module is called after an optimizer stepped: the last one that did drives."""
    global _driver
    with _lock:
        if not waiting:
            return
        _driver = waiting[-1]
        waiting.clear()
    _boundary()


def _watched(plain: engine.Run) -> engine.Run:
    def run(*args: Any, **kwargs: Any) -> Any:
        if waiting:
            call_began()
        return plain(*args, **kwargs)

    return run


@dynamo.skipped
def _steps(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    """Runs before every `step` of an optimizer."""
    if not torch.compiler.is_compiling():
        _call(before_optimizer, optimizer)


@dynamo.skipped
def _stepped(optimizer: Any, _args: Any, _kwargs: Any) -> None:
    """Runs after every `step` of an optimizer."""
    if not torch.compiler.is_compiling():
        _call(after_optimizer, optimizer)
        _follow(optimizer)


@dynamo.quiet
def _call(callbacks: list[Callable[[Any], None]], argument: Any) -> None:
    """Calls each; one may take others out meanwhile."""
    for callback in tuple(callbacks):
        with process.guarded("following steps"):
            callback(argument)


@dynamo.quiet
def _follow(optimizer: Any) -> None:
    """Ends the step if `optimizer` drives, or learns who does."""
    global _driver, _others
    optimizers.add(optimizer)
    driver = _driver() if _driver is not None else None
    if _by_user or _handle is None:
        return
    if driver is optimizer:
        _others = 0
        _boundary()
    elif driver is None or _others >= _REPLACED_AFTER:
        _driver, _others = None, 0
        waiting.append(weakref.ref(optimizer))
    else:
        _others += 1


def _boundary() -> None:
    """Ends the running step and begins the next."""
    global _handle
    if _handle is None:
        return
    ranges.end(_handle)
    _handle = None
    _call(before_step, _step + 1)
    begin(_step + 1)
    _call(on_step, _step)
