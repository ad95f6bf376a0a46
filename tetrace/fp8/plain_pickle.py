"""Reads a pickle as plain data: nothing that it names is imported, called or changed.

`pickle` makes an object by calling whatever a file names. Here a name is a `Global`, and calling it makes a `Made` that
holds the name and the arguments: strings, numbers, lists and dicts are all that ever exists. Names outside an allow-list
are refused all the same, because a checkpoint that holds them is not what it says it is.
"""

from __future__ import annotations

import fnmatch
import os
import pickletools
from collections.abc import Collection
from typing import IO, Any

from tetrace.fp8.pickle_names import is_known
from tetrace.fp8.pickled import Copies, Global, Made, Persistent, RefusedError, made, put_pairs, put_values

# Of protocols up to 2, which write the names of Python 2.
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}
# Opcodes whose argument is the value.
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
    "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT",
    "BINFLOAT",
}  # fmt: skip
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read(file: IO[bytes] | bytes, allowed: Collection[str] = ()) -> Any:
    """The value of the pickle at the file's position, which is left behind its end.

    `allowed`: patterns of more names that may be in it, as `megatron.*`. Raises `RefusedError` for any other, and for what
    is no whole pickle.
    """
    machine = _Machine(frozenset(allowed), Copies(_size(file)))
    try:
        for opcode, argument, _ in pickletools.genops(file):
            machine.run(opcode.name, argument)
        return machine.result()
    except RefusedError:
        raise
    except (ValueError, OverflowError, IndexError, KeyError, TypeError, AttributeError) as error:
        words = " ".join(str(error).split())[:120]
        raise RefusedError(f"its pickle is cut off or damaged ({words or type(error).__name__})") from error


def _size(file: IO[bytes] | bytes) -> int:
    """Bytes from the file's position to its end."""
    if isinstance(file, bytes):
        return len(file)
    begin = file.tell()
    size = file.seek(0, os.SEEK_END) - begin
    file.seek(begin)
    return size


class _Machine:
    """The stack and the memo of a pickle in reading."""

    def __init__(self, allowed: frozenset[str], copies: Copies) -> None:
        self._allowed = allowed
        self._copies = copies
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """What is on the stack at the end."""
        if len(self._stack) != 1 or self._marks:
            raise RefusedError("its pickle is damaged (it does not end with one value)")
        return self._stack[0]

    def run(self, opcode: str, argument: Any) -> None:
        """One opcode. Raises `RefusedError`, or IndexError and the like for a damaged pickle."""
        if opcode in _VALUES:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            self._push_tuple(_TUPLES[opcode])
        else:
            action = getattr(self, f"_{opcode.lower()}", None)
            if action is None:
                raise RefusedError(f"its pickle uses {opcode}, which checkpoints do not")
            action(argument)

    def _push_tuple(self, size: int) -> None:
        last = self._pop_last(size)
        self._stack.append(tuple(last))

    def _pop_last(self, size: int) -> list[Any]:
        if len(self._stack) < size:
            raise IndexError("stack is empty")
        last = self._stack[len(self._stack) - size :]
        del self._stack[len(self._stack) - size :]
        return last

    def _pop_to_mark(self) -> list[Any]:
        above, self._stack = self._stack, self._marks.pop()
        return above

    def _proto(self, _: Any) -> None: ...

    _frame = _stop = _proto

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._pop_to_mark()

    def _pop_mark(self, _: Any) -> None:
        self._pop_to_mark()

    def _dup(self, _: Any) -> None:
        self._stack.append(self._stack[-1])

    def _put(self, place: Any) -> None:
        self._memo[int(place)] = self._stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, place: Any) -> None:
        self._stack.append(self._memo[int(place)])

    _binget = _long_binget = _get

    def _tuple(self, _: Any) -> None:
        above = self._pop_to_mark()
        self._stack.append(tuple(above))

    _frozenset = _tuple

    def _empty_list(self, _: Any) -> None:
        self._stack.append([])

    # A set is a list here: it may hold what has no hash.
    _empty_set = _empty_list

    def _list(self, _: Any) -> None:
        above = self._pop_to_mark()
        self._stack.append(above)

    def _empty_dict(self, _: Any) -> None:
        self._stack.append({})

    def _dict(self, _: Any) -> None:
        above = self._pop_to_mark()
        self._stack.append({})
        put_pairs(self._stack[-1], above)

    def _append(self, _: Any) -> None:
        (value,) = self._pop_last(1)
        put_values(self._stack[-1], [value])

    def _appends(self, _: Any) -> None:
        above = self._pop_to_mark()
        put_values(self._stack[-1], above)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        pair = self._pop_last(2)
        put_pairs(self._stack[-1], pair)

    def _setitems(self, _: Any) -> None:
        above = self._pop_to_mark()
        put_pairs(self._stack[-1], above)

    def _global(self, words: Any) -> None:
        self._stack.append(self._named(*str(words).split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        module, name = self._pop_last(2)
        self._stack.append(self._named(module, name))

    def _named(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("its pickle names something by no text")
        return self._allow(f"{_RENAMED.get(module, module)}.{name}")

    def _allow(self, full: str) -> Global:
        # Of one text in a file many names can be made.
        self._copies.spend(len(full))
        if not is_known(full) and not any(fnmatch.fnmatchcase(full, pattern) for pattern in self._allowed):
            raise RefusedError(
                f"it names {full[:200]!a}, which is not on the list of what a checkpoint may hold; nothing of it was run"
            )
        return Global(full)

    def _reduce(self, _: Any) -> None:
        callee, args = self._pop_last(2)
        self._stack.append(self._made(callee, args))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        callee, args, named = self._pop_last(3)
        found = self._made(callee, args)
        if isinstance(found, Made) and named:
            found.state = named
        self._stack.append(found)

    def _obj(self, _: Any) -> None:
        callee, *args = self._pop_to_mark()
        self._stack.append(self._made(callee, tuple(args)))

    def _inst(self, words: Any) -> None:
        args = self._pop_to_mark()
        self._stack.append(self._made(self._named(*str(words).split(" ", 1)), tuple(args)))

    def _made(self, callee: Any, args: Any) -> Any:
        if isinstance(callee, Global) and callee.name == "builtins.getattr" and isinstance(args, tuple):
            return self._attribute(*args)
        return made(callee, args, self._copies)

    def _attribute(self, owner: Any, name: Any) -> Global:
        """Members of enums are pickled so, and methods of classes."""
        if not isinstance(owner, Global) or not isinstance(name, str):
            raise RefusedError("its pickle takes an attribute of what is no name; nothing of it was run")
        return self._allow(f"{owner.name}.{name}")

    def _build(self, _: Any) -> None:
        (state,) = self._pop_last(1)
        target = self._stack[-1]
        if isinstance(target, Made):
            target.state = state
        elif not isinstance(target, dict):
            # What torch sets on its OrderedDict (`_metadata`) says nothing here; anything else is no checkpoint's.
            name = target.name if isinstance(target, Global) else type(target).__name__
            raise RefusedError(
                f"its pickle sets the state of {name!a}, which checkpoints do not; nothing of it was run"
            )

    def _binpersid(self, _: Any) -> None:
        (named,) = self._pop_last(1)
        self._stack.append(Persistent(named))

    def _persid(self, named: Any) -> None:
        self._stack.append(Persistent(named))
