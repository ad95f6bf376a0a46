"""Looks at tensors without being seen: what traces, counts or replaces the script's operations must not find tetrace's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import _guards
from torch.utils import _python_dispatch

from tetrace.instrument import dynamo

_core: Any = torch._C
_tracing, _dispatch_modes = _core._get_tracing_state, _core._len_torch_dispatch_stack
_function_modes = _core._len_torch_function_stack
F = TypeVar("F", bound=Callable[..., Any])


def unseen(function: F) -> F:
    """`function`, with the script's modes off (`TorchDispatchMode`, `TorchFunctionMode`), and not at all while
    `torch.jit.trace` runs the script, which notes whatever is done, or a compiler does, with tensors that have no values."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if _tracing() is not None:
            return None
        if not _function_modes() and not _dispatch_modes():
            return function(*args, **kwargs)
        if _guards.active_fake_mode() is not None:
            return None
        with _core.DisableTorchFunction(), _python_dispatch._disable_current_modes():
            return function(*args, **kwargs)

    return cast(F, dynamo.skipped(run))


def unseen_call(function: Callable[[int, Any], None]) -> Callable[[int, Any], None]:
    """The same for a function that runs no operation of torch, and is called for every module: it only asks tensors what they
    are, which a `TorchFunctionMode` and `torch.jit.trace` would notice."""

    def run(site: int, value: Any) -> None:
        if _tracing() is not None:
            return
        if not _function_modes():
            function(site, value)
            return
        with _core.DisableTorchFunction():
            function(site, value)

    return dynamo.skipped(run)
