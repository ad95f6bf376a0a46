"""The C++ of the collector under sanitizers: no memory error, nothing undefined, no race."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.collector.frames import Frames


def test_decoder_buffers_and_file(build: Callable[..., Path]) -> None:
    done = subprocess.run([build("collector_tests") / "collector_tests"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_sixteen_threads(build: Callable[..., Path], tmp_path: Path) -> None:
    command = [build("collector_stress") / "collector_stress", tmp_path]
    environment = {**os.environ, "TETRACE_RECORDING": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel places memory where this thread sanitizer cannot have it")
    assert (done.returncode, done.stderr) == (0, "")
    frames = Frames(next(tmp_path.glob("process-*/cupti.bin")))
    assert len(frames.rows["node"]) == 16 * 40
    assert len(list(tmp_path.glob("ranges-*.bin"))) == 16
