"""Keeps tetrace's own functions out of what torch.compile compiles.

Where Dynamo is at work it looks at every Python frame that runs. Frames of torch's own files it passes by; tetrace's
must be passed by as well, or the graphs would be others than without tetrace.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType
from typing import Any, TypeVar, cast

from torch import _guards
from torch._C._dynamo import eval_frame

_frames: Any = eval_frame  # what it offers differs between versions
F = TypeVar("F", bound=Callable[..., Any])


# Not None while a compiler runs code to see what it does: of calls with tensors that have no values. In torch 2.11 nothing
# else tells a backward that AOTAutograd traces; in 2.13 `is_compiling` does too.
tracing = _guards.TracingContext.try_get


def skipped(function: F) -> F:
    """`function`, which Dynamo runs as it is; what it calls may be compiled, as without it."""
    code: CodeType = function.__code__
    if hasattr(_frames, "skip_code"):  # torch before 2.7
        _frames.skip_code(code)
    elif hasattr(_frames, "set_code_exec_strategy"):
        action = _frames._FrameAction
        _frames.set_code_exec_strategy(code, _frames._FrameExecStrategy(action.SKIP, action.DEFAULT))
    return function


def quiet(function: F) -> F:
    """`function` with Dynamo off while it runs, also in what it calls: for tetrace's bookkeeping."""
    set_eval_frame = _frames.set_eval_frame

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = set_eval_frame(None)
        try:
            return function(*args, **kwargs)
        finally:
            set_eval_frame(before)

    return cast(F, skipped(run))
