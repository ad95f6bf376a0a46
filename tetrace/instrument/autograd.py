"""Ranges of the backward pass: one around each call of autograd's engine, and in it one for each module.

Which module a node of the graph belongs to is told by its sequence number, observed in C++ (observer.py), or, where the
observer could not be built, by hooks on nodes at the borders of modules (autograd_hooks.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tetrace import _C
from tetrace.errors import TetraceError
from tetrace.instrument import engine, observer, optimizer, process, ranges

build = observer.build
load = observer.load

_library: Any = None  # the observer's, while it is installed


def install(observing: bool = True) -> Callable[[], None]:
    """Patches the engine's entry and, if `observing`, starts the observer; returns the function that undoes both."""
    undo = [engine.patch(_ranged)]
    if observing:
        undo.append(_observe())

    def restore() -> None:
        for function in undo:
            function()

    return restore


def can_observe() -> bool:
    """Whether the observer is there for this torch; a notice says why it is not."""
    try:
        load()
    except (TetraceError, AttributeError) as error:
        process.notice(f"backward is followed by hooks at the borders of modules: {error}")
        return False
    return True


def _observe() -> Callable[[], None]:
    global _library
    _C.set_loss_site(ranges.site("loss", "(loss)", phase="backward", module="(loss)"))
    _library = load()
    _library.tetrace_observer_start(observer.functions(_C.autograd_capsule()))

    def restore() -> None:
        global _library
        _library.tetrace_observer_stop()
        _library = None

    return restore


def pause() -> None:
    """Has the observer see no nodes until `resume`, which costs nothing then; nothing where there is no observer."""
    if _library is not None:
        _library.tetrace_observer_stop()


def resume() -> None:
    """Has it see nodes again. Of those that were made meanwhile the modules are not known."""
    if _library is not None:
        _C.forget_transitions()
        _library.tetrace_observer_start(observer.functions(_C.autograd_capsule()))


def _ranged(plain: engine.Run) -> engine.Run:
    site = ranges.site("backward", "backward", phase="backward")
    depth, push, unwind, on_phase = ranges.depth, ranges.push, ranges.unwind, optimizer.on_phase

    def run(*args: Any, **kwargs: Any) -> Any:
        before = depth()
        for callback in on_phase:
            callback("forward")
        push(site)
        try:
            return plain(*args, **kwargs)
        finally:
            unwind(before)

    return run
