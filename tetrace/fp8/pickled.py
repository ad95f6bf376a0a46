"""What a pickle is read as: names, the calls that pickle would have made of them, and plain containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_CODECS = ("latin1", "latin-1", "utf-8", "ascii")


class RefusedError(ValueError):
    """What a file holds and must not, or lacks; one line without the file's name."""


@dataclass(frozen=True)
class Global:
    """A name of a pickle, as `torch.float32`; never imported."""

    name: str


@dataclass(eq=False)
class Made:
    """What pickle would have made by calling `name`: its arguments, the state set on it, and what was put into it."""

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)

    @property
    def fields(self) -> dict[str, Any]:
        """The attributes of a plain object, or of one with slots; empty where its state is something else."""
        state = self.state
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = {**(state[0] if isinstance(state[0], dict) else {}), **state[1]}
        return state if isinstance(state, dict) else {}


@dataclass(frozen=True, eq=False)
class Persistent:
    """What a pickle names by an id of its own, as torch its storages."""

    id: Any


def made(callee: Any, args: Any) -> Any:
    """What a call stands for: containers and bytes as such, everything else as its name and arguments."""
    if not isinstance(callee, Global) or not isinstance(args, tuple):
        raise RefusedError("its pickle calls what is no name; nothing of it was run")
    name = callee.name
    if name == "builtins.getattr":
        return _attribute(*args)
    if name in ("copyreg._reconstructor", "copyreg.__newobj__"):
        return made(args[0], ())
    if name == "_codecs.encode":
        return _encoded(*args)
    if name in ("collections.OrderedDict", "builtins.dict"):
        pairs: dict[Any, Any] = {}
        put_pairs(pairs, [word for pair in (args[0] if args else ()) for word in pair])
        return pairs
    if name in ("torch.Size", "builtins.tuple"):
        return tuple(args[0]) if args else ()
    if name in ("builtins.list", "builtins.set", "builtins.frozenset"):
        return list(args[0]) if args else []
    if name in ("builtins.bytes", "builtins.bytearray"):
        return _encoded(*args)
    return Made(name, args)


def _attribute(owner: Any, name: Any) -> Global:
    """Members of enums are pickled so, and methods of classes."""
    if not isinstance(owner, Global) or not isinstance(name, str):
        raise RefusedError("its pickle takes an attribute of what is no name; nothing of it was run")
    return Global(f"{owner.name}.{name}")


def _encoded(text: Any = b"", codec: Any = "latin1") -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str) or codec not in _CODECS:
        raise RefusedError(f"its pickle has bytes in the codec {str(codec)[:40]!a}, which checkpoints do not")
    return text.encode(codec)


def put_values(target: Any, values: list[Any]) -> None:
    """Put `values` into a list, or into what a call would have made. Raises TypeError for anything else."""
    if isinstance(target, list):
        target.extend(values)
    elif isinstance(target, Made):
        target.items.extend(values)
    else:
        raise TypeError(f"values are put into {type(target).__name__}")


def put_pairs(target: Any, pairs: list[Any]) -> None:
    """Put keys and values, alternating, into a dict, or into what a call would have made."""
    if isinstance(target, Made):
        target.items.extend(zip(pairs[::2], pairs[1::2], strict=True))
    elif isinstance(target, dict):
        target.update((_key(key), value) for key, value in zip(pairs[::2], pairs[1::2], strict=True))
    else:
        raise TypeError(f"items are put into {type(target).__name__}")


def _key(key: Any) -> Any:
    """A key that may be hashed: hashing nested tuples recurses without an end that Python would notice."""
    parts = key if isinstance(key, tuple) else (key,)
    if not all(isinstance(part, str | bytes | int | float | Made | Global | None) for part in parts):
        raise RefusedError("its pickle has a dict with keys of a kind that checkpoints do not have")
    return key
