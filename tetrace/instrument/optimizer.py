"""Ranges around optimizer steps, `zero_grad` and gradient clipping."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import clip_grad

from tetrace.instrument import dynamo, ranges, steps

# Where this thread's stack was when an optimizer's step began: a step that raises never comes to its post hook.
_open = threading.local()
# Called with the phase that ends: forward before backward, backward before an optimizer, optimizer after it.
on_phase: list[Callable[[str], None]] = []

_CLIPPERS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm")


def install() -> Callable[[], None]:
    """Patches the functions, and follows optimizer steps; returns the function that takes both out."""
    steps.before_optimizer.append(_began)
    steps.after_optimizer.append(_ended)
    undo: list[Callable[[], None]] = [
        lambda: steps.before_optimizer.remove(_began),
        lambda: steps.after_optimizer.remove(_ended),
    ]
    undo.append(_replace(torch.optim.Optimizer, "zero_grad", "zero_grad"))
    for name in _CLIPPERS:
        undo.extend(_replace(owner, name, "grad_clip") for owner in (clip_grad, torch.nn.utils) if hasattr(owner, name))

    def restore() -> None:
        for function in undo:
            function()

    return restore


def _began(optimizer: Any) -> None:
    left = getattr(_open, "depth", None)
    if left is not None:
        ranges.unwind(left)
    for callback in on_phase:
        callback("backward")
    _open.depth = ranges.depth()
    ranges.push(ranges.site("optimizer", type(optimizer).__name__, phase="optimizer"))


def _ended(_optimizer: Any) -> None:
    left = getattr(_open, "depth", None)
    if left is not None:
        ranges.unwind(left)
    _open.depth = None
    for callback in on_phase:
        callback("optimizer")


def _replace(owner: Any, name: str, kind: str) -> Callable[[], None]:
    """Puts a range of `kind` around the function `name` of `owner`; returns the function that takes it out."""
    plain = getattr(owner, name)
    patched = _ranged(plain, kind)
    setattr(owner, name, patched)

    def restore() -> None:
        if getattr(owner, name) is patched:
            setattr(owner, name, plain)

    return restore


def _ranged(plain: Callable[..., Any], kind: str) -> Callable[..., Any]:
    site = ranges.site(kind, plain.__name__, phase="optimizer")

    @functools.wraps(plain)
    def ranged(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return plain(*args, **kwargs)
        before = ranges.depth()
        ranges.push(site)
        try:
            return plain(*args, **kwargs)
        finally:
            ranges.unwind(before)

    return dynamo.skipped(ranged)
