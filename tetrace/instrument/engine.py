"""The one place through which every backward of the script enters autograd's engine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import graph

from tetrace.instrument import dynamo

Run = Callable[..., Any]


def patch(around: Callable[[Run], Run]) -> Callable[[], None]:
    """Puts `around(plain)` in the place of the engine's entry; returns the function that puts `plain` back.

    It runs as it is under torch.compile, and not at all inside another backward or in one that is only traced.
    """
    owners: tuple[Any, ...] = (graph, torch.autograd)
    plain = graph._engine_run_backward
    patched = _outermost(plain, dynamo.skipped(around(plain)))
    for owner in owners:
        owner._engine_run_backward = patched

    def restore() -> None:
        for owner in owners:
            if owner._engine_run_backward is patched:
                owner._engine_run_backward = plain

    return restore


def _outermost(plain: Run, run: Run) -> Run:
    is_compiling, task = torch.compiler.is_compiling, torch._C._current_graph_task_id
    tracing = dynamo.tracing

    @functools.wraps(plain)
    def _engine_run_backward(*args: Any, **kwargs: Any) -> Any:
        if is_compiling() or tracing() is not None or task() != -1:
            return plain(*args, **kwargs)
        return run(*args, **kwargs)

    return dynamo.skipped(_engine_run_backward)
