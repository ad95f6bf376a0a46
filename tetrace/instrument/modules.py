"""Ranges around every module's forward, through one patch of `torch.nn.Module._call_impl` and nothing on any module.

While `torch.compile` traces, the patch is the plain method: Dynamo folds `is_dynamo_compiling()`, is told that the patched
method is the one it knows (it skips that one where no hook is set), and never compiles the wrapper itself.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.nn import Module, ModuleDict, ModuleList, Sequential

from tetrace.instrument import dynamo, process, ranges, steps
from tetrace.instrument.names import Names

# (site of the forward, site of a recompute in backward, site of the backward); -1: no range
Sites = tuple[int, int, int]
_NONE: Sites = (-1, -1, -1)
_COARSE_DEPTH = 1

_sites: dict[int, Sites] = {}
_references: dict[int, weakref.ref[Module]] = {}
_objects: dict[int, weakref.ref[Module]] = {}
_names = Names()
_coarse = False
# Called when a module is called that was not before: the script has begun to train.
on_first_call: list[Callable[[], None]] = []
# Called with a module, its path and its sites, before its first range is opened inside that of the module around.
on_sites: list[Callable[[Module, str, Sites], None]] = []

Keep = Callable[[Module, str], bool]
Tag = Callable[[Sites, Any, Any], None]

# Called with the site of a module's forward, inside its range, and what it returned.
Output = Callable[[int, Any], None]

_plain: Any = None
_output: Output | None = None
_tag: Tag | None = None
_keep: Keep | None = None
_installed = False
_left_in = False  # somebody patched the patch, so that it could not be taken out
_is_compiling, _task = torch.compiler.is_dynamo_compiling, torch._C._current_graph_task_id
_push, _depth, _unwind, _waiting = ranges.push, ranges.depth, ranges.unwind, steps.waiting


def install(
    level: str = "modules", tag: Tag | None = None, keep: Keep | None = None, model: Module | None = None
) -> Callable[[], None]:
    """Gives every module ranges; returns the function that takes the patch out.

    `level`: `modules`, or `coarse` for roots, their children, members of containers and Transformer Engine's modules
    only. `keep(module, path)` says which of these get ranges; by default all. Paths in `model` are bare; by default in
    the largest. `tag(sites, inputs, outputs)` is called after a forward; inputs or outputs are None before it.
    """
    global _coarse, _installed, _keep, _names, _plain, _tag
    _coarse, _names, _keep, _installed = level == "coarse", Names(), keep, True
    for known in (_sites, _references, _objects):
        known.clear()
    if model is not None:
        _names.lead(model)
    owner: Any = Module
    _tag = tag
    if _left_in:
        return _end
    _plain, plain_compile = owner._call_impl, owner.compile
    owner._call_impl, owner.compile = _call_impl, functools.wraps(plain_compile)(_compile)
    _tell_dynamo(_plain, _call_impl)
    return lambda: _restore(plain_compile)


def _end() -> None:
    global _installed
    _installed = False


def _restore(plain_compile: Any) -> None:
    global _left_in
    owner: Any = Module
    _end()
    if owner._call_impl is _call_impl:
        owner._call_impl, owner.compile = _plain, plain_compile
        _tell_dynamo(_call_impl, _plain)
    else:
        _left_in = True


def is_installed() -> bool:
    """Whether modules get ranges now."""
    return _installed


def meet_again() -> None:
    """Has every module named again at its next call, so that `on_sites` is told of all. Paths and sites stay the same."""
    _sites.clear()


def watch_outputs(output: Output) -> Callable[[], None]:
    """Has `output` told what each module with a range returns; returns the function that ends it. One at a time."""
    global _output
    _output = output

    def restore() -> None:
        global _output
        _output = None

    return restore


def current_module_object() -> Module | None:
    """The module whose range is innermost on this thread, None outside of all."""
    reference = _objects.get(ranges.current_module())
    return reference() if reference is not None else None


def name_of(module: Module) -> str:
    """The path under which `module` is reported."""
    return _names.name(module)


def all_modules() -> list[tuple[str, Module]]:
    """(path, module) of every module in the models that were called so far, wrappers left out."""
    return _names.all()


def sites_of(module: Module) -> Sites:
    """The sites of `module`'s ranges, named now if it was not called before."""
    return _sites.get(id(module)) or _meet(module)


# Not a closure: Dynamo, which before torch 2.5 traces through this function, would guard on the contents of its cells.
@dynamo.skipped
@functools.wraps(Module._call_impl)
def _call_impl(self: Module, *args: Any, **kwargs: Any) -> Any:
    if _is_compiling():
        return _plain(self, *args, **kwargs)
    sites = _sites.get(id(self)) or _meet(self)
    if _waiting:
        steps.call_began()
    site = sites[0] if _task() == -1 else sites[1]
    if site < 0:
        return _plain(self, *args, **kwargs)
    if _tag is not None:
        _tag(sites, args, None)
    before = _depth()
    _push(site)
    try:
        result = _plain(self, *args, **kwargs)
        if _tag is not None:
            _tag(sites, None, result)
        if _output is not None:
            _output(site, result)
        return result
    finally:
        _unwind(before)  # not pop: what an exception or the script's own ranges left open goes too


@dynamo.skipped
def _compile(self: Module, *args: Any, **kwargs: Any) -> None:
    """`Module.compile`, which compiles what it would without tetrace, with the module's range around each call."""
    compiled = torch.compile(MethodType(_plain, self), *args, **kwargs)
    reference = weakref.ref(self)  # the module holds this function: no cycle

    @dynamo.skipped
    def call(*given: Any, **named: Any) -> Any:
        alive = reference()
        sites = None if alive is None or _is_compiling() else sites_of(alive)
        if sites is None or sites[0] < 0:
            return compiled(*given, **named)
        before = _depth()
        site = sites[0] if _task() == -1 else sites[1]
        _push(site)
        try:
            result = compiled(*given, **named)
            if _output is not None:
                _output(site, result)
            return result
        finally:
            _unwind(before)

    module: Any = self
    module._compiled_call_impl = call


@dynamo.quiet
def _meet(module: Module) -> Sites:
    """Names a module that was not called before and registers its sites. Never raises."""
    found = _NONE
    if dynamo.tracing() is not None:  # maybe of a copy: that is no call of the script's
        return found
    for callback in tuple(on_first_call):
        with process.guarded("the recorded window"):
            callback()
    with process.guarded("naming a module"):
        found = _register(module)
    key = id(module)
    _references[key] = weakref.ref(module, lambda _: _forget(key))
    _sites[key] = found
    return found


def _forget(key: int) -> None:
    """Runs when a module dies, before another object can get its id."""
    _sites.pop(key, None)
    _references.pop(key, None)


def _register(module: Module) -> Sites:
    name, kind = _names.name(module), type(module).__name__
    if not name:
        return _NONE
    if (_coarse and not _is_coarse(module, name)) or (_keep is not None and not _keep(module, name)):
        return _NONE
    compiled = kind == "OptimizedModule"
    name = f"(compiled: {name})" if compiled else name
    forward, recompute, backward = (
        ranges.site("compiled" if compiled else "module", name, phase=phase, module=name, **{"class": kind})
        for phase in ("forward", "recompute", "backward")
    )
    for site in (forward, recompute):
        ranges.set_backward_site(site, backward)
    _objects.update(dict.fromkeys((forward, recompute, backward), weakref.ref(module)))
    for callback in tuple(on_sites):
        callback(module, name, (forward, recompute, backward))
    return forward, recompute, backward


def _is_coarse(module: Module, name: str) -> bool:
    """Whether `coarse` keeps a module: near the root, a member of a container, or Transformer Engine's."""
    if type(module) in (ModuleList, ModuleDict, Sequential):
        return _names.depth(module) == 0
    numbered = name.rpartition(".")[2].isdecimal()
    return _names.depth(module) <= _COARSE_DEPTH or numbered or type(module).__module__.startswith("transformer_engine")


def _tell_dynamo(old: Any, new: Any) -> None:
    """Replaces the `_call_impl` that Dynamo takes for the unpatched one; Dynamo may be imported before or after."""
    for name in ("torch._dynamo.utils", "torch._dynamo.variables.nn_module"):
        module: Any = sys.modules.get(name)
        if module is not None and getattr(module, "unpatched_nn_module_call_impl", None) is old:
            module.unpatched_nn_module_call_impl = new
