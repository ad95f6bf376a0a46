"""The thread that has nsys' CUPTI hand over: against a library that counts, where nsys' would be."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tetrace.instrument import flushing

_SOURCE = "int calls = 0; int cuptiActivityFlushAll(unsigned flag) { (void)flag; calls++; return 0; }\n"


@pytest.fixture
def injected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """A CUPTI beside a library of nsys', both loaded, with CUDA in use."""
    (tmp_path / "cupti.c").write_text(_SOURCE)
    (tmp_path / "tools.c").write_text("int nothing;\n")
    for source, name in (("cupti.c", "libcupti.so.13.0"), ("tools.c", "libToolsInjection64.so")):
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / name, tmp_path / source], check=True)
        ctypes.CDLL(str(tmp_path / name))
    monkeypatch.setattr(flushing._cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(flushing, "_hand_over", None)
    monkeypatch.setattr(flushing, "_searches", 0)
    return ctypes.CDLL(str(tmp_path / "libcupti.so.13.0"))


@pytest.mark.skipif(sys.platform != "linux", reason="nsys records on Linux")
def test_it_flushes_now_and_then_and_at_the_end(injected: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing, "_EVERY_S", 0.01)
    calls = ctypes.c_int.in_dll(injected, "calls")
    threads = threading.active_count()
    end = flushing.install()
    while calls.value < 3:
        time.sleep(0.01)
    assert threading.active_count() == threads
    end()
    time.sleep(0.05)
    last = calls.value
    assert last >= 4
    time.sleep(0.05)
    assert calls.value == last


def test_without_nsys_nothing_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flushing._cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(flushing, "_hand_over", None)
    monkeypatch.setattr(flushing, "_INJECTED", "libNothingOfThatName")
    flushing.flush()
    assert flushing._hand_over is None
