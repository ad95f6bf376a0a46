"""Checks for non-finite values what no call quantizes: outputs of modules, losses, gradients before and parameters after
the optimizer's step.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch

from tetrace import _C
from tetrace.instrument import dynamo, engine, fp8_operands, modules, ranges, steps
from tetrace.instrument.unseen import unseen, unseen_output

_PLAIN = (torch.Tensor, torch.nn.Parameter)
# Number types that rows of outputs have; None is that of a result that is not looked into. One module may return several:
# an evaluation runs before autocast.
_DTYPES = (None, *fp8_operands.DTYPES)
_PLACES = {dtype: place for place, dtype in enumerate(_DTYPES)}


class Checks:
    """Checks in the steps that are watched, while it is installed. `wants(module)` says of which modules."""

    def __init__(
        self, wants: Callable[[str], bool], guarded: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        self._wants = wants
        self._names: dict[int, tuple[weakref.ref[Any], str, str]] = {}
        # By what is checked and the parameter's id; another parameter may get the same one later.
        self._sites: dict[str, dict[int, tuple[weakref.ref[Any], int]]] = {"gradient": {}, "parameter": {}}
        # Of the optimizer that stepped last, by what is checked: its parameters, and their sites.
        self._listed: dict[str, tuple[list[weakref.ref[Any]], list[int]]] = {}
        self.site_of_output = guarded(self._site_of_output)
        self._before, self._after = guarded(self._gradients), guarded(self._parameters)
        self._roots = guarded(self._losses)

    def install(self) -> Callable[[], None]:
        """Begins; returns the function that ends it."""
        unwatch = modules.watch_outputs(unseen_output(_C.watch_output, _PLACES))
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
    def _site_of_output(self, number: int) -> int:
        """The site of the rows of what `unseen_output` numbers so; negative where it is not to be checked."""
        module_site, place = divmod(number, len(_DTYPES))
        about = ranges.describe(module_site)
        module = str(about.get("module", ""))
        if not module or not self._wants(module):
            return -1
        dtype = _name_of(_DTYPES[place])
        return _site("output", module, str(about.get("phase", "")), str(about.get("class", "")), dtype)

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
            _C.watch_check([_site("loss", "(loss)", "forward", "backward", _dtype(one)) for one in found], found)

    @unseen
    @dynamo.quiet
    def _gradients(self, optimizer: Any) -> None:
        if _C.watch_is_on():
            self._check("gradient", optimizer, _gradient)

    @unseen
    @dynamo.quiet
    def _parameters(self, optimizer: Any) -> None:
        if _C.watch_is_on():
            self._check("parameter", optimizer, lambda one: one)

    def _check(self, role: str, optimizer: Any, read: Callable[[Any], Any]) -> None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        sites = self._sites_of(role, parameters)
        left = _C.watch_parameters(sites, parameters, role == "gradient")
        if not left:
            return
        found = [(sites[place], read(parameters[place])) for place in left]
        found = [(site, _here(one)) for site, one in found]
        # Of what has no known number type csrc/watch and Inspection see nothing.
        found = [(site, one) for site, one in found if type(one) in _PLAIN and one.layout is torch.strided]
        _C.watch_check([site for site, _ in found], [one for _, one in found])

    def _sites_of(self, role: str, parameters: list[Any]) -> list[int]:
        """The sites of the rows of all of them."""
        references, sites = self._listed.get(role, ([], []))
        if len(references) != len(parameters) or any(
            reference() is not one for reference, one in zip(references, parameters, strict=True)
        ):
            sites = [self._site_of(role, one) for one in parameters]
            self._listed[role] = list(map(weakref.ref, parameters)), sites
        return sites

    def _site_of(self, role: str, parameter: Any) -> int:
        """The site of the rows of a parameter; negative where it is not to be checked."""
        known = self._sites[role].get(id(parameter))
        if known is not None and known[0]() is parameter:
            return known[1]
        _, module, name = self._name(parameter)
        held = _here(_gradient(parameter) if role == "gradient" else parameter)
        site = _site(role, module, "optimizer", name, _dtype(held)) if self._wants(module) else -1
        self._sites[role][id(parameter)] = weakref.ref(parameter), site
        return site

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


def _gradient(parameter: Any) -> Any:
    return parameter.grad if parameter.grad is not None else getattr(parameter, "main_grad", None)


def _here(tensor: Any) -> Any:
    """A plain tensor itself, of a DTensor what is here."""
    return tensor if type(tensor) in _PLAIN else getattr(tensor, "_local_tensor", None)


def _dtype(tensor: Any) -> str:
    """The number type of a plain tensor; empty for all else, whose attributes may be the script's code."""
    return _name_of(tensor.dtype) if type(tensor) in _PLAIN else ""


def _name_of(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.") if dtype is not None else ""


def _site(role: str, module: str, phase: str, operation: str, dtype: str) -> int:
    return ranges.site(
        *("fp8", f"check {role}"), phase=phase, module=module, role=role, call=operation, source="check", dtype=dtype
    )
