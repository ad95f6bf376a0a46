"""Attributes replaced for a recording, and put back after it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

_ABSENT = object()


class Patches:
    """What was replaced where, in order. Nobody else's patch is undone: one on top of ours stays."""

    def __init__(self) -> None:
        self._done: list[tuple[Any, str, Any, Any]] = []
        self._items: list[tuple[MutableMapping[Any, Any], Any, Any, Any]] = []

    def __len__(self) -> int:
        return len(self._done) + len(self._items)

    def attribute(self, owner: Any, name: str, new: Any) -> None:
        """Sets `owner.name`; a class's attribute is taken as it is stored, so class methods stay what they are."""
        old = vars(owner).get(name, _ABSENT)
        setattr(owner, name, new)
        self._done.append((owner, name, old, vars(owner)[name]))

    def method(self, owner: type, name: str, wrap: Callable[[Any], Any]) -> None:
        """Replaces the method that `owner` itself defines by `wrap` of its function; it stays a class or static method."""
        old = vars(owner)[name]
        if isinstance(old, classmethod | staticmethod):
            self.attribute(owner, name, type(old)(wrap(old.__func__)))
        else:
            self.attribute(owner, name, wrap(old))

    def item(self, mapping: MutableMapping[Any, Any], key: Any, new: Any) -> None:
        """Sets `mapping[key]`, which must be there."""
        self._items.append((mapping, key, mapping[key], new))
        mapping[key] = new

    def restore(self) -> None:
        """Puts everything back, the last first."""
        while self._items:
            mapping, key, value, ours = self._items.pop()
            if mapping.get(key) is ours:
                mapping[key] = value
        while self._done:
            owner, name, old, ours = self._done.pop()
            if vars(owner).get(name) is not ours:
                continue
            if old is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, old)
