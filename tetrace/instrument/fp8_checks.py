"""Checks for non-finite values what no call quantizes: outputs of modules, losses, gradients before and parameters after
the optimizer's step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from tetrace import _C
from tetrace.instrument import dynamo, engine, modules, ranges, steps
from tetrace.instrument.unseen import unseen, unseen_call

_PLAIN = (torch.Tensor, torch.nn.Parameter)


class Checks:
    """Checks in the steps that are watched, while it is installed. `wants(module)` says of which modules."""

    def __init__(
        self, wants: Callable[[str], bool], guarded: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._wants = wants
        self._names: dict[int, tuple[weakref.ref[Any], str, str]] = {}
        # By what is checked and the parameter's id; another parameter may get the same one later.
        self._sites: dict[str, dict[int, tuple[weakref.ref[Any], int]]] = {"gradient": {}, "parameter": {}}
        self.site_of_output = guarded(self._site_of_output)
        self._before, self._after = guarded(self._gradients), guarded(self._parameters)
        self._roots = guarded(self._losses)

    def install(self) -> Callable[[], None]:
        """Begins; returns the function that ends it."""
        unwatch = modules.watch_outputs(unseen_call(_C.watch_output))
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

    @unseen
    @dynamo.quiet
    def _losses(self, roots: Any) -> None:
        if _C.watch_is_on():
            # Of a DTensor what is here.
            found = [getattr(root, "_local_tensor", root) for root in roots if isinstance(root, torch.Tensor)]
            _C.watch_check([_site("loss", "(loss)", "forward", "backward")] * len(found), found)

    @unseen
    @dynamo.quiet
    def _gradients(self, optimizer: Any) -> None:
        if _C.watch_is_on():
            self._check(
                "gradient", optimizer, lambda one: one.grad if one.grad is not None else getattr(one, "main_grad", None)
            )

    @unseen
    @dynamo.quiet
    def _parameters(self, optimizer: Any) -> None:
        if _C.watch_is_on():
            self._check("parameter", optimizer, lambda one: one)

    def _check(self, role: str, optimizer: Any, read: Callable[[Any], Any]) -> None:
        sites, tensors = [], []
        known = self._sites[role]
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found = known.get(id(parameter))
                if found is None or found[0]() is not parameter:
                    found = known[id(parameter)] = weakref.ref(parameter), self._site_of(role, parameter)
                if found[1] < 0:
                    continue
                tensor = read(parameter)
                if type(tensor) not in _PLAIN:
                    tensor = getattr(tensor, "_local_tensor", None)
                # Of what has no known number type csrc/watch and Inspection see nothing.
                if type(tensor) in _PLAIN and tensor.layout is torch.strided:
                    sites.append(found[1])
                    tensors.append(tensor)
        _C.watch_check(sites, tensors)

    def _site_of(self, role: str, parameter: Any) -> int:
        """The site of the rows of a parameter; negative where it is not to be checked."""
        _, module, name = self._name(parameter)
        return _site(role, module, "optimizer", name) if self._wants(module) else -1

    def _name(self, parameter: Any) -> tuple[weakref.ref[Any], str, str]:
        """(reference, module, name) of a parameter; of one in no known module a name of its own."""
        found = self._names.get(id(parameter))
        if found is not None and found[0]() is parameter:
            return found
        self._names.pop(id(parameter), None)
        for path, module in modules.all_modules():
            for name, one in (vars(module).get("_parameters") or {}).items():
                if one is not None and id(one) not in self._names:
                    self._names[id(one)] = weakref.ref(one), path, name
        found = self._names.get(id(parameter))
        if found is None:
            found = weakref.ref(parameter), "", f"parameter {len(self._names)}"
            self._names[id(parameter)] = found
        return found


def _site(role: str, module: str, phase: str, operation: str) -> int:
    return ranges.site("fp8", f"check {role}", phase=phase, module=module, role=role, call=operation, source="check")
