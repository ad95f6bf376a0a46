"""`tetrace doctor` on a machine with a GPU: what it finds, and what it measures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tetrace.record import calibration, nvidia

pytestmark = pytest.mark.gpu


def doctor(*arguments: str, cache: Path) -> tuple[int, Any]:
    """Exit code and what it wrote as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "tetrace", "doctor", "--format", "json", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_driver_tells_its_gpus() -> None:
    driver = nvidia.read()
    assert not driver.error
    for gpu in driver.gpus:
        assert gpu.name.startswith("NVIDIA")
        assert gpu.memory_bytes > 1 << 30
        assert float(gpu.capability) >= 7
        assert gpu.bus_id.count(":") == 2
        assert gpu.sm_mhz_max


def test_a_recording_is_possible_here(tmp_path: Path) -> None:
    if not shutil.which("nsys"):
        pytest.skip("nsys is not on PATH")
    code, said = doctor(cache=tmp_path)
    levels = {(finding["title"], finding["level"]) for finding in said["findings"]}
    assert (code, said["possible"], said["collector"]) == (0, True, "nsys"), said["findings"]
    assert {("nsys", "ok"), ("GPU", "ok"), ("torch", "ok"), ("Calibration", "absent")} <= levels
    if find_spec("transformer_engine"):
        assert {("Transformer Engine", "ok"), ("Attention", "ok")} <= levels
        recipes = [f["detail"] for f in said["findings"] if f["title"] == "FP8 recipes" and f["level"] == "ok"]
        assert any("DelayedScaling" in detail for detail in recipes) or float(nvidia.read().gpus[0].capability) < 8.9


def test_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, measured = doctor("--calibrate", cache=tmp_path)
    assert code == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert calibration.load(measured["device"]) == measured
    # A GPU's memory copies between 0.2 and 20 TB/s, and reading alone is not faster than reading while writing by much.
    assert 2e11 < measured["copy_bytes_per_s"] < 2e13
    assert 0.5 < measured["read_bytes_per_s"] / measured["copy_bytes_per_s"] < 1.5
    assert 1e13 < measured["bf16_flops"] < 1e16
    if measured["fp8_flops"]:
        assert 1.2 < measured["fp8_flops"] / measured["bf16_flops"] < 2.5
        assert measured["fp8_split_flops"] <= 1.05 * measured["fp8_flops"]
    else:
        assert measured["fp8_reason"]
    assert "launch_reason" not in measured
    assert 500 < measured["launch_call_ns"] < measured["launch_latency_ns"] < 100_000
    assert 200 < measured["kernel_interval_ns"] < 20_000
    assert 500 < measured["torch_operator_ns"] < 100_000
    assert measured["before"]["sm_mhz"]
    assert measured["after"]["temperature_c"]
