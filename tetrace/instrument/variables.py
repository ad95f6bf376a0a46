"""Which variable of the running script holds an object: what a list of layers or one of several models is called."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

# Frames of these packages hold modules in variables such as `self`, which name nothing.
_SKIPPED = ("tetrace", "torch", "transformer_engine")
_DEEPEST = 60
_LONGEST = 10_000
_PLAIN = (int, float, str, bool, type(None))


def _references_of_locals() -> int:
    """References to the `f_locals` of a function that nobody else holds, counted as `_variables` counts them."""
    found = sys._getframe().f_locals
    return sys.getrefcount(found)


_HELD_BY_FRAME = _references_of_locals()


def holder(wanted: tuple[object, ...]) -> str | None:
    """`layers.2` when a list or dict in a variable of a calling function or script holds one of `wanted`, else `layers`
    when a variable is one of them; None when there is no such variable.

    Lists go first: a loop over one has its members in a variable as well.
    """
    named = [
        (name, value)
        for frame in _frames()
        for name, value in _variables(frame)
        if name != "self" and not name.startswith("_")
    ]
    inside = (found for name, value in named if (found := _place(name, value, wanted)))
    itself = (name for name, value in named if any(value is one for one in wanted))
    return next(inside, None) or next(itself, None)


def _frames() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_DEEPEST):
        if frame is None:
            return
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package not in _SKIPPED:
            yield frame
        frame = frame.f_back


def _variables(frame: FrameType) -> list[tuple[str, Any]]:
    """A copy of a frame's variables.

    Before Python 3.13, `f_locals` of a function is a dict that the frame keeps until it returns, with a reference to
    every local. Tensors must not live longer because somebody looked, so those are taken out again; but not where the
    script holds that dict too, as the value of `locals()`.
    """
    found = frame.f_locals
    pairs = list(found.items())
    is_ours = sys.version_info < (3, 13) and found is not frame.f_globals and sys.getrefcount(found) <= _HELD_BY_FRAME
    if is_ours:
        code = frame.f_code
        own = {*code.co_varnames, *code.co_cellvars, *code.co_freevars}
        for name, value in pairs:
            if name in own and type(value) not in _PLAIN:
                found.pop(name, None)
    return pairs


def _place(name: str, value: object, wanted: tuple[object, ...]) -> str | None:
    """`name.key` of the item of a list, tuple or dict that is one of `wanted`."""
    items: Mapping[Any, object] = {}
    if isinstance(value, list | tuple) and type(value) in (list, tuple) and len(value) < _LONGEST:
        items = dict(enumerate(value))
    elif isinstance(value, dict) and type(value) is dict and len(value) < _LONGEST:
        items = value
    return next((f"{name}.{key}" for key, item in items.items() if any(item is one for one in wanted)), None)
