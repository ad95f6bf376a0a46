"""Follows the backward pass without the observer: hooks on the nodes at the borders of modules switch the range.

When a module returns, the node that made its output gets a hook that opens the module's backward range; when a module
is called, the node that made its input gets one that opens the range of the module around. Limits: on autograd's own
threads the last range of a backward stays open until the next backward; an output made outside the module's own forward
(an input passed through) names no module; nodes of one module that run between those of another keep the other's name.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tetrace.instrument import dynamo, process, ranges

_MARK = "tetrace"  # key in a node's metadata: it has a hook already, the innermost module's
_thread = threading.local()
_backward_of: dict[int, int] = {}


@dynamo.quiet
def tag(sites: tuple[int, int, int], inputs: Any, outputs: Any) -> None:
    """Hooks the nodes at one border of a module, unless they have a hook. Called by the patch in modules.py."""
    with process.guarded("following backward"):
        forward, recompute, backward = sites
        _backward_of[forward] = _backward_of[recompute] = backward
        around = _backward_of.get(ranges.current_module(), -1)
        site, tensors = (around, inputs) if outputs is None else (backward, outputs)
        if site >= 0 and torch.is_grad_enabled():
            for node in _nodes(tensors):
                _hook(node, site)


def _nodes(value: Any, deep: int = 2) -> Iterator[Any]:
    if isinstance(value, torch.Tensor):
        if value.grad_fn is not None:
            yield value.grad_fn
    elif deep and isinstance(value, list | tuple | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _nodes(item, deep - 1)


def _hook(node: Any, site: int) -> None:
    if _MARK not in node.metadata:
        node.metadata[_MARK] = site
        node.register_prehook(_switch(site))


def _switch(site: int) -> Callable[[Any], None]:
    def switch(_gradients: Any) -> None:
        task = torch._C._current_graph_task_id()
        if getattr(_thread, "open", None) == (task, ranges.depth()):
            ranges.pop()
        ranges.push(site)
        _thread.open = (task, ranges.depth())

    return dynamo.skipped(switch)
