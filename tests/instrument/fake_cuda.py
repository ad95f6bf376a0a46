"""A GPU that is not there: the stand-in for libcuda (stand_in_cuda.c), whose clocks the test sets."""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import pytest

needs_compiler = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)


class FakeCuda:
    """The stand-in. Streams are numbers: 256 times the device, plus a number; 0 is a device's default stream."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.library = ctypes.CDLL(self.path)
        self.library.fake_count.restype = self.library.fake_get_stream.restype = ctypes.c_int64
        self.library.fake_work.argtypes = [ctypes.c_int64]
        self.library.fake_use.argtypes = [ctypes.c_int32, ctypes.c_void_p]
        for name in ("fake_hold", "fake_capture"):
            getattr(self.library, name).argtypes = [ctypes.c_void_p, ctypes.c_int]
        self.library.fake_reset()

    def use(self, stream: int = 1, device: int | None = None) -> None:
        """This thread launches to `stream` from now on."""
        self.library.fake_use(stream // 256 if device is None else device, stream)

    def work(self, ns: int) -> None:
        self.library.fake_work(ns)

    def enter(self, device: int) -> None:
        """The device's context is current on this thread; -1: none is."""
        self.library.fake_enter(device)

    def activate(self, device: int, is_active: bool) -> None:
        self.library.fake_activate(device, is_active)

    def hold(self, stream: int, is_held: bool = True) -> None:
        """The stream comes to nothing more, or goes on."""
        self.library.fake_hold(stream, is_held)

    def stall(self, is_stalled: bool = True) -> None:
        """The queue of launches is full: recording an event waits until it is not."""
        self.library.fake_stall(is_stalled)

    def capture(self, stream: int, status: int = 1) -> None:
        """0 none, 1 captured, 2 invalidated, -1 asking is an error."""
        self.library.fake_capture(stream, status)

    def fail(self, name: str, code: int = 999, times: int = -1) -> None:
        """The next `times` calls of `name` fail; -1 all, 0 none."""
        self.library.fake_fail(name.encode(), code, times)

    def count(self, name: str) -> int:
        return self.library.fake_count(name.encode())

    @property
    def source(self) -> int:
        """The address of what tells a thread's stream without Python."""
        return ctypes.cast(self.library.fake_current, ctypes.c_void_p).value or 0

    def get_device(self) -> int:
        return self.library.fake_get_device()

    def get_stream(self, device: int) -> int:
        return self.library.fake_get_stream(device)
