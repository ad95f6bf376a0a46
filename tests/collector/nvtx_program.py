"""NVTX as a program has it, in Python: tables of functions that a tool fills, and calls through them.

NVTX is headers only, so this stands for any program that was compiled with them. What its interface for tools is like
is in nvtxDetail/nvtxTypes.h. Run by the tests in a process of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

CORE, CORE2 = 1, 5
_SIZE = 16
_CALLBACKS = 1
_ASCII, _REGISTERED = 1, 3

_ExportTable = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint32)
_FunctionTable = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_uint)
)


class _Callbacks(ctypes.Structure):
    _fields_ = (("size", ctypes.c_size_t), ("functions", _FunctionTable))


class _Attributes(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint16),
        ("size", ctypes.c_uint16),
        ("category", ctypes.c_uint32),
        ("color_type", ctypes.c_int32),
        ("color", ctypes.c_uint32),
        ("payload_type", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("payload", ctypes.c_uint64),
        ("message_type", ctypes.c_int32),
        ("message", ctypes.c_void_p),
    )


class Program:
    """One copy of NVTX, with the tool `library` loaded into it; `size` entries in each table."""

    def __init__(self, library: Any, size: int = _SIZE) -> None:
        self._size = size
        self._functions = {module: (ctypes.c_void_p * size)() for module in (CORE, CORE2)}
        self._places = {
            module: (ctypes.c_void_p * size)(*(ctypes.addressof(found) + 8 * place for place in range(size)))
            for module, found in self._functions.items()
        }
        self._callbacks = _Callbacks(ctypes.sizeof(_Callbacks), _FunctionTable(self._table))
        self._export = _ExportTable(lambda table: ctypes.addressof(self._callbacks) if table == _CALLBACKS else None)
        self.attached = library.InitializeInjectionNvtx2(self._export)

    def _table(self, module: int, table: Any, size: Any) -> int:
        if module not in self._places:
            return 0
        table[0] = ctypes.addressof(self._places[module])
        size[0] = self._size
        return 1

    def _call(self, module: int, number: int, result: Any, *types: Any) -> Callable[..., Any]:
        address = self._functions[module][number]
        return ctypes.CFUNCTYPE(result, *types)(address) if address else lambda *_: -2

    def push(self, text: str) -> int:
        return int(self._call(CORE, 9, ctypes.c_int, ctypes.c_char_p)(text.encode()))

    def push_wide(self, text: str) -> int:
        return int(self._call(CORE, 10, ctypes.c_int, ctypes.c_wchar_p)(text))

    def pop(self) -> int:
        return int(self._call(CORE, 11, ctypes.c_int)())

    def start(self, text: str) -> int:
        return int(self._call(CORE, 5, ctypes.c_uint64, ctypes.c_char_p)(text.encode()))

    def end(self, handle: int) -> None:
        self._call(CORE, 7, None, ctypes.c_uint64)(handle)

    def name_thread(self, thread: int, name: str) -> None:
        self._call(CORE, 14, None, ctypes.c_uint32, ctypes.c_char_p)(thread, name.encode())

    def domain(self, name: str) -> int:
        return int(self._call(CORE2, 12, ctypes.c_void_p, ctypes.c_char_p)(name.encode()))

    def register(self, domain: int, text: str) -> int:
        return int(self._call(CORE2, 10, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(domain, text.encode()))

    def push_in(self, domain: int, message: str | int, payload: int = 0) -> int:
        event = _attributes(message, payload)
        call = self._call(CORE2, 4, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Attributes))
        return int(call(domain, ctypes.byref(event)))

    def pop_in(self, domain: int) -> int:
        return int(self._call(CORE2, 5, ctypes.c_int, ctypes.c_void_p)(domain))

    def start_in(self, domain: int, message: str | int) -> int:
        event = _attributes(message, 0)
        call = self._call(CORE2, 2, ctypes.c_uint64, ctypes.c_void_p, ctypes.POINTER(_Attributes))
        return int(call(domain, ctypes.byref(event)))

    def end_in(self, domain: int, handle: int) -> None:
        self._call(CORE2, 3, None, ctypes.c_void_p, ctypes.c_uint64)(domain, handle)


def _attributes(message: str | int, payload: int) -> _Attributes:
    event = _Attributes(version=3, size=ctypes.sizeof(_Attributes), payload_type=1, payload=payload)
    if isinstance(message, int):
        event.message_type, event.message = _REGISTERED, message
    else:
        event.kept = ctypes.create_string_buffer(message.encode())
        event.message_type, event.message = _ASCII, ctypes.addressof(event.kept)
    return event
