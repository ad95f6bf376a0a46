"""Looks at tensors without being seen: what traces, counts or replaces the script's operations must not find tetrace's."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import _guards
from torch.utils import _python_dispatch

from tetrace.instrument import dynamo

_core: Any = torch._C
_tracing, _dispatch_modes = _core._get_tracing_state, _core._len_torch_dispatch_stack
_function_modes = _core._len_torch_function_stack
_PLAIN, _SEVERAL = (torch.Tensor, torch.nn.Parameter), (tuple, list)
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


def unseen_output(watch: Callable[[int, Any], None], places: Mapping[Any, int]) -> Callable[[int, Any], None]:
    """A function that is called with the site and the result of every module, and calls `watch` with the result and one number
    for both the site and the number type: `site * len(places)` and the type's place in `places`. Place 0 is for types that are
    not there, and for what is neither a tensor nor begins with one. No operation of torch is run: tensors are only asked what
    they are, which a `TorchFunctionMode` and `torch.jit.trace` would notice."""
    apart = len(places)

    @dynamo.skipped
    def look(site: int, result: Any) -> None:
        first = result[0] if type(result) in _SEVERAL and result else result
        watch(site * apart + (places.get(first.dtype, 0) if type(first) in _PLAIN else 0), result)

    def run(site: int, result: Any) -> None:
        if _tracing() is not None:
            return
        if _function_modes():
            with _core.DisableTorchFunction():
                look(site, result)
            return
        # As in `look`: a call of one more function that Dynamo passes by takes as long as all of this.
        first = result[0] if type(result) in _SEVERAL and result else result
        watch(site * apart + (places.get(first.dtype, 0) if type(first) in _PLAIN else 0), result)

    return dynamo.skipped(run)
