"""Calibrations are kept by the GPU's name and the processor, read without torch, and refused without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tetrace.cli import checkup
from tetrace.errors import UsageError
from tetrace.record import calibration, nvidia
from tetrace.record.nvidia import Driver, Gpu

STATE = {
    "sm_mhz": 1980,
    "memory_mhz": 3201,
    "temperature_c": 40,
    "power_mw": 120_000,
    "power_limit_mw": 700_000,
    "slowed": [],
    "other_processes": 0,
}
MEASURED: dict[str, Any] = {
    "format": 1,
    "device": "NVIDIA H200",
    "processor": "a processor",
    "measured_at": "2026-01-02T03:04:05+00:00",
    "versions": {"torch": "2.11.0", "driver": "580.65"},
    "before": STATE,
    "after": {**STATE, "temperature_c": 60, "slowed": ["power cap"]},
    "copy_bytes_per_s": 4_280_000_000_000,
    "read_bytes_per_s": 3_529_000_000_000,
    "bf16_flops": 790_000_000_000_000,
    "bf16_shape": [8192, 8192, 8192],
    "fp8_flops": None,
    "fp8_split_flops": None,
    "fp8_shape": None,
    "fp8_reason": "torch 2.0 has no FP8 product",
    "launch_call_ns": 2_345,
    "launch_latency_ns": 5_678,
    "kernel_interval_ns": 987,
    "torch_operator_ns": 4_321,
}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_what_is_saved_is_loaded_by_the_name_of_the_gpu(tmp_path: Path) -> None:
    assert calibration.load("NVIDIA H200") is None
    file = calibration.save(MEASURED)
    assert file.parent == tmp_path / "cache" / "tetrace" / "calibration"
    assert file.name.startswith("nvidia-h200-")
    assert calibration.load("NVIDIA H200") == MEASURED
    assert calibration.load("NVIDIA H200 NVL") is None
    assert [left.name for left in file.parent.iterdir()] == [file.name]


def test_another_processor_has_another_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    calibration.save(MEASURED)
    monkeypatch.setattr(calibration, "processor", lambda: "another")
    assert calibration.load("NVIDIA H200") is None


@pytest.mark.parametrize("kept", ["", "{", "[]", json.dumps({"format": 99, "measured_at": "2026"}), "\udcff"])
def test_a_file_that_is_no_calibration_is_none(kept: str) -> None:
    file = calibration.save(MEASURED)
    file.write_bytes(kept.encode("utf-8", "surrogateescape"))
    assert calibration.load("NVIDIA H200") is None


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(UsageError, match=r"cannot be written \(.*\); set XDG_CACHE_HOME"):
        calibration.save(MEASURED)


def test_without_a_gpu_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "libnvidia-ml.so.1: cannot open shared object file: No such file or directory"
    monkeypatch.setattr(nvidia, "read", lambda: Driver(error=error))
    with pytest.raises(UsageError) as raised:
        calibration.measure()
    says = "--calibrate needs an NVIDIA GPU (none is visible here); run it on the machine that trains"
    assert str(raised.value) == says


def test_a_torch_without_cuda_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(nvidia, "read", lambda: Driver("1", "13.0", (Gpu(0, "NVIDIA H200"),)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="reaches none; tetrace doctor says why"):
        calibration.measure()


def test_loading_imports_no_torch() -> None:
    script = "import sys; from tetrace.record import calibration; calibration.load('x'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_table() -> None:
    assert checkup.calibration_screen(MEASURED, 100, color=False).splitlines() == [
        "NVIDIA H200, torch 2.11.0, driver 580.65",
        "",
        "measured                             best  how",
        "copy within the device         4,280 GB/s  bytes read and written",
        "read                           3,529 GB/s  bytes read by amax over BF16",
        "BF16 GEMM                     790 TFLOP/s  8192×8192×8192",
        "FP8 GEMM, fast accumulation             -  torch 2.0 has no FP8 product",
        "FP8 GEMM, split accumulation            -  torch 2.0 has no FP8 product",
        "launch call                       2.35 µs  host time in cuLaunchKernel",
        "launch latency                    5.68 µs  from the call to the kernel's word in host memory",
        "kernel after kernel                987 ns  device time of an empty kernel in a full queue",
        "torch operator                    4.32 µs  host time of x.add_(1)",
        "",
        "SM clock 1980 MHz before, 1980 MHz after; 40 to 60 °C",
        "! slowed down by power cap",
    ]


def test_the_gpus_of_a_driver() -> None:
    """Through NVML where there is one; its absence is told, never raised."""
    driver = nvidia.read()
    assert bool(driver.gpus) != bool(driver.error)
