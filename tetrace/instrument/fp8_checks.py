"""Checks for non-finite values what no call quantizes: outputs of modules, losses, gradients before and parameters after
the optimizer's step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch

from tetrace import _C
from tetrace.instrument import dynamo, engine, modules, ranges, steps


class Checks:
    """Checks in the steps that are watched, while it is installed. `wants(module)` says of which modules."""

    def __init__(
        self, wants: Callable[[str], bool], guarded: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._wants = wants
        self._names: dict[int, tuple[weakref.ref[Any], str, str]] = {}
        self._sites: dict[tuple[int, str], int] = {}
        self.site_of_output = guarded(self._site_of_output)
        self._before, self._after = guarded(self._gradients), guarded(self._parameters)
        self._roots = guarded(self._losses)

    def install(self) -> Callable[[], None]:
        """Begins; returns the function that ends it."""
        unwatch = modules.watch_outputs(_C.watch_output)
        unpatch = engine.patch(self._around_backward)
        steps.before_optimizer.append(self._before)
        steps.after_optimizer.insert(0, self._after)

        def restore() -> None:
            steps.after_optimizer.remove(self._after)
            steps.before_optimizer.remove(self._before)
            unpatch()
            unwatch()

        return restore

    @dynamo.quiet
    def _site_of_output(self, module_site: int) -> int:
        about = ranges.describe(module_site)
        module = str(about.get("module", ""))
        if not module or not self._wants(module):
            return -1
        return _site("output", module, str(about.get("phase", "")), str(about.get("class", "")))

    def _around_backward(self, plain: engine.Run) -> engine.Run:
        def run(roots: Any, *args: Any, **kwargs: Any) -> Any:
            self._roots(roots)
            return plain(roots, *args, **kwargs)

        return run

    @dynamo.quiet
    def _losses(self, roots: Any) -> None:
        if _C.watch_is_on():
            found = [root for root in roots if isinstance(root, torch.Tensor)]
            _C.watch_check([_site("loss", "(loss)", "forward", "backward")] * len(found), found)

    @dynamo.quiet
    def _gradients(self, optimizer: Any) -> None:
        if _C.watch_is_on():
            self._check(
                "gradient", optimizer, lambda one: one.grad if one.grad is not None else getattr(one, "main_grad", None)
            )

    @dynamo.quiet
    def _parameters(self, optimizer: Any) -> None:
        if _C.watch_is_on():
            self._check("parameter", optimizer, lambda one: one)

    def _check(self, role: str, optimizer: Any, read: Callable[[Any], Any]) -> None:
        sites, tensors = [], []
        for parameter in _parameters_of(optimizer):
            site = self._site_of(role, parameter)
            tensor = _local(read(parameter)) if site >= 0 else None
            if tensor is not None:
                sites.append(site)
                tensors.append(tensor)
        _C.watch_check(sites, tensors)

    def _site_of(self, role: str, parameter: Any) -> int:
        """The site of the rows of a parameter; negative where it is not to be checked."""
        key = id(parameter), role
        known = self._names.get(key[0])
        if known is None or known[0]() is not parameter:
            known = self._name(parameter)
            self._sites.pop((key[0], "gradient"), None)
            self._sites.pop((key[0], "parameter"), None)
        if key not in self._sites:
            _, module, name = known
            self._sites[key] = _site(role, module, "optimizer", name) if self._wants(module) else -1
        return self._sites[key]

    def _name(self, parameter: Any) -> tuple[weakref.ref[Any], str, str]:
        """(reference, module, name) of a parameter; of one in no known module a name of its own."""
        for path, module in modules.all_modules():
            for name, one in (vars(module).get("_parameters") or {}).items():
                if one is not None and id(one) not in self._names:
                    self._names[id(one)] = weakref.ref(one), path, name
        found = self._names.get(id(parameter))
        if found is None or found[0]() is not parameter:
            found = weakref.ref(parameter), "", f"parameter {len(self._names)}"
            self._names[id(parameter)] = found
        return found


def _site(role: str, module: str, phase: str, operation: str) -> int:
    return ranges.site("fp8", f"check {role}", phase=phase, module=module, role=role, call=operation, source="check")


def _parameters_of(optimizer: Any) -> Iterator[Any]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _local(tensor: Any) -> Any:
    """What of a tensor is here: a shard of one that is spread over ranks. None for what has no plain numbers."""
    tensor = getattr(tensor, "_local_tensor", tensor)
    is_plain = type(tensor) in (torch.Tensor, torch.nn.Parameter)
    return tensor if is_plain and tensor.is_floating_point() and not tensor.is_sparse else None
