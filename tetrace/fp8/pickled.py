"""What a pickle is read as: names, the calls that pickle would have made of them, and plain containers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Copies that checkpoints need are a part of the file: bytes as text, and lists at 8 bytes an element of 1 to 3. A small one may
# have some more.
_TIMES, _AT_LEAST = 16, 1 << 20
# Of a pair in a list and in a dict, and of a character at most.
_PAIR_BYTES, _UTF8_BYTES = 48, 4
_CODECS = ("latin1", "latin-1", "utf-8", "ascii")


class RefusedError(ValueError):
    """What a file holds and must not, or lacks; one line without the file's name."""


class Copies:
    """How many bytes of copies reading a file of `size` bytes may make: what is in it once can be named a thousand times."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._left = max(_TIMES * size, _AT_LEAST)

    def spend(self, count: int) -> None:
        """Count a copy of so many bytes, before it is made. Raises `RefusedError` where it is one too many."""
        self._left -= count
        if self._left < 0:
            raise RefusedError(
                f"its {self._size:,} bytes ask for copies of more than {_TIMES} times as many, which checkpoints do not; "
                "nothing of it was run"
            )


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


def made(callee: Any, args: Any, copies: Copies) -> Any:
    """What a call stands for: containers and bytes as such, everything else as its name and arguments."""
    if not isinstance(callee, Global) or not isinstance(args, tuple):
        raise RefusedError("its pickle calls what is no name; nothing of it was run")
    name = callee.name
    if name in ("copyreg._reconstructor", "copyreg.__newobj__"):
        return made(args[0], (), copies)
    if name in ("_codecs.encode", "builtins.bytes", "builtins.bytearray"):
        return _encoded(copies, *args)
    if name in ("collections.OrderedDict", "builtins.dict"):
        pairs: dict[Any, Any] = {}
        put_pairs(pairs, [word for key, value in _elements(args, copies, _PAIR_BYTES) for word in (key, value)])
        return pairs
    if name in ("torch.Size", "builtins.tuple"):
        return tuple(_elements(args, copies))
    if name in ("builtins.list", "builtins.set", "builtins.frozenset"):
        return list(_elements(args, copies))
    return Made(name, args)


def _elements(args: tuple[Any, ...], copies: Copies, each: int = 8) -> Any:
    """What a container is made of; `each` are the bytes that an element of it takes."""
    copies.spend(each * len(args[0]) if args else 0)
    return args[0] if args else ()


def _encoded(copies: Copies, text: Any = b"", codec: Any = "latin1") -> bytes:
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str) or codec not in _CODECS:
        raise RefusedError(f"its pickle has bytes in the codec {str(codec)[:40]!a}, which checkpoints do not")
    copies.spend(_UTF8_BYTES * len(text) if codec == "utf-8" else len(text))
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
