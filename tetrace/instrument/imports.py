"""Runs a function once a module has been imported, whenever that is, so that the order of imports does not matter."""

from __future__ import annotations

import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_waiting: dict[str, list[Callable[[], None]]] = {}


def after_import(name: str, callback: Callable[[], None]) -> Callable[[], None]:
    """Calls `callback` at once when module `name` is imported already, else right after it will have been.

    Returns the function that forgets a callback that has not been called yet.
    """
    module = sys.modules.get(name)
    if module is not None and not _is_loading(module):
        callback()
        return lambda: None
    _waiting.setdefault(name, []).append(callback)
    if _FINDER not in sys.meta_path:
        sys.meta_path.insert(0, _FINDER)
    return lambda: _forget(name, callback)


def _is_loading(module: ModuleType) -> bool:
    """Whether the import of `module` is still running, so that its names are not all there."""
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


def _forget(name: str, callback: Callable[[], None]) -> None:
    if callback in _waiting.get(name, ()):
        _waiting[name].remove(callback)
    if not any(_waiting.values()) and _FINDER in sys.meta_path:
        sys.meta_path.remove(_FINDER)


class _Finder:
    """Finds nothing itself: asks the finders after it, and follows the loader of an awaited module."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _waiting.get(name):
            return None
        for finder in sys.meta_path:
            find = None if finder is _FINDER else getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find else None
            if spec is not None:
                return _followed(spec)
        return None


_FINDER: Any = _Finder()


def _followed(spec: importlib.machinery.ModuleSpec) -> importlib.machinery.ModuleSpec:
    """`spec`, whose loader calls back after it ran; the loader is as it was when the callbacks see it."""
    loader: Any = spec.loader
    plain: Any = getattr(loader, "exec_module", None)

    def exec_module(module: ModuleType) -> None:
        del loader.exec_module
        plain(module)
        for callback in _waiting.pop(spec.name, []):
            callback()

    if plain is not None and "exec_module" not in getattr(loader, "__dict__", {"exec_module": None}):
        loader.exec_module = exec_module
    return spec
