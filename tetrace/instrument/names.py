"""Names modules by their path in `named_modules()` of the model they belong to, from outside the model.

A module is named when it is first called. Its model is found by one look at the objects that the garbage collector
knows: modules that no other module holds are roots. The root with the most parameters gives bare paths
(`layers.3.mlp`) and is itself named by its class (`GPT`); paths in other roots begin with their root's name, which is
its class (`Discriminator.layers.0`) or, for a plain container and for roots that are alike, the variable that holds
them; a number tells apart what would have one name (`Discriminator#2`). A container that is never called and members
of a plain list are no models: paths in them begin with the variable's name as well (`layers.0.mlp`), however many
parameters they have. Wrappers (DDP, FSDP, torch.compile, activation checkpoints) leave no trace in a path.
"""

from __future__ import annotations

import gc
import sys
import time
import weakref
from collections.abc import Iterator
from typing import Any

from torch.fx import GraphModule
from torch.nn import Module, ModuleDict, ModuleList, Sequential

from tetrace.instrument.variables import holder

# The child in which a wrapper keeps what it wraps, whatever the wrapper's class.
_WRAPPED = {"_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"}
# `module` is such a child only in these.
_WRAPPERS = {"DistributedDataParallel", "DataParallel", "DeepSpeedEngine", "Float16Module", "AveragedModel"}
_CONTAINERS = (ModuleList, ModuleDict, Sequential)

# A scan costs some 50 ms per million objects: at most a fiftieth of the time goes into scans.
_PAUSE = 50


class Names:
    """Paths of the modules seen so far. Holds no module alive and writes nothing on one."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Module], str, str]] = {}  # id -> (module, root's name, path)
        self._roots: list[tuple[weakref.ref[Module], str]] = []
        self._main: tuple[str, int] = ("", -1)  # the root that gives bare paths: its name, its parameters
        self._prefixed: set[str] = set()  # roots whose name begins every path in them
        self._taken: dict[str, weakref.ref[Module]] = {}
        self._may_scan_at = 0.0

    def lead(self, root: Module) -> None:
        """Has the paths in `root` bare, whatever other models there are."""
        name = type(_unwrapped(root)).__name__
        self._roots.append((weakref.ref(root), name))
        self._main = (name, sys.maxsize)
        self._walk(root, name)

    def name(self, module: Module) -> str:
        """The path under which `module` is reported; the same module keeps the name it got first.

        Empty for the graphs that torch.compile makes, and for copies of modules that are only in those.
        """
        found = ("", "") if is_compilers(module) else self._find(module)
        if found is None:
            self._walk_roots()
            found = self._find(module)
        if found is None:
            self._scan(module)
            found = self._find(module) or (type(module).__name__, "")
        return self._unique(module, *found) if found[0] else ""

    def all(self) -> list[tuple[str, Module]]:
        """(name, module) of every module of the roots that are alive, each once; what a wrapper wraps in its place."""
        self._walk_roots()
        roots = [root for reference, _ in self._roots if (root := reference()) is not None]
        found = {id(module): module for root in roots for _, module in _paths(root) if _unwrapped(module) is module}
        return [(self.name(module), module) for module in found.values()]

    def depth(self, module: Module) -> int:
        """How many modules lie between `module` and its root; 0 for a root and for a module of no known root."""
        path = (self._find(module) or ("", ""))[1]
        return path.count(".") + 1 if path else 0

    def _find(self, module: Module) -> tuple[str, str] | None:
        reference, root, path = self._known.get(id(module), (None, "", ""))
        return (root, path) if reference is not None and reference() is module else None

    def _unique(self, module: Module, root: str, path: str) -> str:
        """The bare path in the main root, the root's name and the path elsewhere; numbered where it is taken."""
        bare = root == self._main[0] and root not in self._prefixed
        name = (path if bare else f"{root}.{path}") if path else root
        number, free = 1, name
        while (owner := self._taken.get(free)) is not None and owner() is not None and not _alike(owner(), module):
            number += 1
            free = f"{name}#{number}"
        self._taken[free] = weakref.ref(module)
        return free

    def _walk_roots(self) -> None:
        """Follows the roots again: modules are also made while a model runs."""
        for reference, name in self._roots:
            root = reference()
            if root is not None:
                self._walk(root, name)

    def _walk(self, root: Module, name: str) -> None:
        for path, module in _paths(root):
            if self._find(module) is None:
                self._known[id(module)] = (weakref.ref(module), name, path)

    def _scan(self, called: Module) -> None:
        """Looks for roots among all objects, at most now and then; else `called` is a root of its own."""
        began = time.monotonic()
        if began < self._may_scan_at:
            self._add([called], called)
            return
        modules = _all_modules()
        held = {id(child) for module in modules for child in _children(module).values()}
        known = {id(reference()) for reference, _ in self._roots}
        roots = [m for m in modules if id(m) not in held | known and self._find(m) is None]
        self._add([root for root in roots if not is_compilers(root)], called)
        for root in filter(is_compilers, roots):
            self._walk(root, "")
        self._may_scan_at = time.monotonic() + _PAUSE * (time.monotonic() - began)

    def _add(self, roots: list[Module], called: Module) -> None:
        """Names `roots`: the largest first, and of roots that are alike the one that is called."""
        sizes = {id(root): _parameters(root) for root in roots}
        inside = {id(root): any(m is called for _, m in _paths(root)) for root in roots}
        roots.sort(key=lambda root: (-sizes[id(root)], not inside[id(root)]))
        for root in roots:
            name = self._root_name(root, roots, called)
            self._roots.append((weakref.ref(root), name))
            if sizes[id(root)] > self._main[1]:
                self._main = (name, sizes[id(root)])
            self._walk(root, name)

    def _root_name(self, root: Module, roots: list[Module], called: Module) -> str:
        inner = _unwrapped(root)
        alike = sum(type(_unwrapped(other)) is type(inner) for other in roots) > 1
        uncalled = type(inner) in _CONTAINERS and called is not root and called is not inner
        name = variable = (holder((root, inner)) if alike or uncalled else None) or type(inner).__name__
        # A model that is gone leaves its name to the next: losses made anew in every step are one module.
        self._roots = [(reference, known) for reference, known in self._roots if reference() is not None]
        taken, number = {known for _, known in self._roots}, 1
        while name in taken:
            number += 1
            name = f"{variable}#{number}"
        if uncalled or "." in variable:
            self._prefixed.add(name)
        return name


def _paths(root: Module) -> Iterator[tuple[str, Module]]:
    """(path, module) below `root` as `named_modules()` gives them, wrappers left out of the paths."""
    seen: set[int] = set()
    waiting: list[tuple[str, Module]] = [("", root)]
    while waiting:
        path, module = waiting.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield path, module
        for key, child in reversed(_children(module).items()):
            waiting.append((path if _is_wrapper(module, key) else f"{path}.{key}".lstrip("."), child))


def _is_wrapper(module: Module, key: str) -> bool:
    """Whether `module` wraps its child `key` and adds nothing to the model's structure."""
    return key in _WRAPPED or (key == "module" and type(module).__name__ in _WRAPPERS)


def _unwrapped(module: Module) -> Module:
    for key, child in _children(module).items():
        if _is_wrapper(module, key):
            return _unwrapped(child)
    return module


def _alike(owner: Module | None, module: Module) -> bool:
    """Whether one of the two wraps the other: they share a name."""
    return owner is not None and _unwrapped(owner) is _unwrapped(module)


def _children(module: Module) -> dict[str, Module]:
    """Child modules, read past any `__getattr__` of the module's class; those that are None left out."""
    children = module.__dict__.get("_modules") or {}
    return {key: child for key, child in children.items() if child is not None}


def _parameters(root: Module) -> int:
    """Number of parameters below `root`, each once; 0 for parameters that have no shape yet."""
    found: dict[int, int] = {}
    for _, module in _paths(root):
        for parameter in (module.__dict__.get("_parameters") or {}).values():
            if parameter is not None:
                found[id(parameter)] = _numel(parameter)
    return sum(found.values())


def _numel(parameter: Any) -> int:
    try:
        return int(parameter.numel())
    except (RuntimeError, ValueError, TypeError):
        return 0


def _all_modules() -> list[Module]:
    """Every module that is alive. `type()` asks no proxy for its class, unlike `isinstance`."""
    return [o for o in gc.get_objects() if issubclass(type(o), Module) and o.__dict__.get("_modules") is not None]


def is_compilers(module: Module) -> bool:
    """Whether torch.compile made `module`: a graph without a name of its own, unlike one that a script traced."""
    return isinstance(module, GraphModule) and type(module).__name__ in ("GraphModule", "<lambda>")
