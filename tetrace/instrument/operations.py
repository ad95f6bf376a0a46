"""Ranges where Transformer Engine runs a module's work without calling the module.

`te.ops.Sequential` never calls its operations: it hands them to a fuser. Under torch.compile, `te.Linear` is an operator
of torch that is given tensors and settings, and no module: whose it is tells its weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.compiler import is_dynamo_compiling

from tetrace.instrument import dynamo, modules, process, quantizers, ranges
from tetrace.instrument.patches import Patches

_FORWARD, _BACKWARD = "fuser_forward", "fuser_backward"
_NONE = -1


def install(base: type) -> tuple[Callable[[], None], int]:
    """Gives `fuser_forward` and `fuser_backward` of every class below `base` ranges; returns what restores, and how many.

    `base`: Transformer Engine's FusibleOperation.
    """
    patches = Patches()
    for operation in classes(base):
        for name in (_FORWARD, _BACKWARD):
            if name in vars(operation) and not getattr(vars(operation)[name], "__isabstractmethod__", False):
                patches.method(operation, name, functools.partial(_ranged, name == _BACKWARD))
    return patches.restore, len(patches)


def install_compiled(operators: dict[str, Any]) -> tuple[Callable[[], None], int]:
    """Gives what custom operators run the range of the module whose weight they got; returns what restores, and how many.

    `operators`: function that an operator runs, by the name of the argument with the weight: pairs of (implementation,
    cell that holds it).
    """
    undo: list[Callable[[], None]] = []
    for weight, (plain, cell) in operators.items():
        cell.cell_contents = _compiled(plain, weight)
        undo.append(functools.partial(setattr, cell, "cell_contents", plain))

    def restore() -> None:
        while undo:
            undo.pop()()

    return restore, len(operators)


def cells(function: Any, wanted: Any, depth: int = 4) -> Iterator[Any]:
    """The closure cells below `function` that hold `wanted`."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            held = cell.cell_contents
        except ValueError:  # empty
            continue
        if held is wanted:
            yield cell
        elif depth and callable(held) and hasattr(held, "__closure__"):
            yield from cells(held, wanted, depth - 1)


def classes(base: type) -> Iterator[type]:
    """`base` and all classes below it, each once."""
    seen: set[type] = set()
    waiting = [base]
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            yield one
            waiting.extend(one.__subclasses__())


def _ranged(backward: bool, plain: Callable[..., Any]) -> Callable[..., Any]:
    task = torch._C._current_graph_task_id

    @functools.wraps(plain)
    def ranged(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return plain(self, *args, **kwargs)
        site = _site_of(self, 2 if backward else 0 if task() == -1 else 1)
        # An operation that is called by itself has its range already.
        if site < 0 or site == ranges.current_module():
            return plain(self, *args, **kwargs)
        before = ranges.depth()
        ranges.push(site)
        try:
            return plain(self, *args, **kwargs)
        finally:
            ranges.unwind(before)

    return dynamo.skipped(ranged)


@dynamo.quiet
def _site_of(operation: Any, place: int) -> int:
    """The site of an operation, for operations fused into one that of the first."""
    with process.guarded("naming an operation"):
        basic = (vars(operation).get("_modules") or {}).get("basic_ops")
        return modules.sites_of(basic[0] if basic is not None and len(basic) else operation)[place]
    return _NONE


def _compiled(plain: Callable[..., Any], weight: str) -> Callable[..., Any]:
    backward = weight != "weight"
    running, compiled, task = quantizers.running, quantizers.compiled, torch._C._current_graph_task_id

    @functools.wraps(plain)
    def ranged(arguments: Any) -> Any:
        before, outer = ranges.depth(), compiled.arguments
        compiled.arguments = arguments
        running.append(weight)
        site = _site_of_weight(getattr(arguments, weight, None), 2 if backward else 0 if task() == -1 else 1)
        if site >= 0:
            ranges.push(site)
        try:
            return plain(arguments)
        finally:
            ranges.unwind(before)
            running.pop()
            compiled.arguments = outer

    return dynamo.skipped(ranged)


@dynamo.quiet
def _site_of_weight(weight: Any, place: int) -> int:
    with process.guarded("finding the module of a compiled Linear"):
        module = quantizers.owner(weight) if weight is not None else None
        return modules.sites_of(module)[place] if module is not None else _NONE
    return _NONE
