"""The C++ of the collector and of CUDA-event timing under sanitizers: no memory error, nothing undefined, no race."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.collector.frames import Frames
from tests.collector.test_stand_in import FAILED
from tetrace import _C


def test_decoder_buffers_and_file(build: Callable[..., Path]) -> None:
    done = subprocess.run([build("collector_tests") / "collector_tests"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_sixteen_threads(build: Callable[..., Path], tmp_path: Path) -> None:
    place = build("collector_stress", "stand_in_cuda")
    command = [place / "collector_stress", tmp_path, place / "libcuda.so.stand-in"]
    without_races(command, TETRACE_RECORDING=str(tmp_path))
    [own] = tmp_path.glob("process-*")
    frames = Frames(own / "cupti.bin")
    assert FAILED not in [what for what, _, _ in frames.events()]
    # Later on another tool has CUPTI now and then, and nodes are missing.
    assert {row["node"] for row in frames.rows["node"]} >= set(range(1, 16 * 40 + 1))
    assert len(list(tmp_path.glob("ranges-*.bin"))) == 16
    texts = {frames.texts[site & 0xFFFFFFFF] for ring in nvtx_rings(own) for site in ring["site"].tolist()}
    assert texts > {"\x1flayer 7", "NCCL\x1fncclAllReduce", "\x1fcrossing", "\x1fsame"}


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_intervals_of_sixteen_threads(build: Callable[..., Path], sanitizer: str) -> None:
    place = build(f"timing_stress_{sanitizer}")
    without_races([place / f"timing_stress_{sanitizer}", place / "libcuda.so.timing"])


def without_races(command: list[Path], **environment: str) -> None:
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel places memory where this thread sanitizer cannot have it")
    assert (done.returncode, done.stderr) == (0, "")


def nvtx_rings(folder: Path) -> list[dict[str, Any]]:
    """Those that grew, and were closed while they did, among them."""
    rings = [_C.read_ring(str(path)) for path in folder.glob("nvtx-*.bin")]
    assert max(len(ring["site"]) for ring in rings) > (1 << 20) // 40
    assert all(ring["closed"] for ring in rings)
    return rings
