"""What `tetrace doctor` finds in surroundings that are made up, and what it gathers with programs that stand in."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tetrace.cli import checkup
from tetrace.record.doctor import diagnose
from tetrace.record.finding import Finding, Nsys, Own, Place, Surroundings
from tetrace.record.nvidia import Driver, Gpu

GIB = 1 << 30
H200 = Gpu(0, "NVIDIA H200", capability="9.0", memory_bytes=141 * GIB, sm_mhz=345, sm_mhz_max=1980, persistence=True)
PROBE = {
    "errors": {},
    "cuda": {"result": 0, "name": "", "devices": 1},
    "torch": {"version": "2.11.0", "cuda": "13.0", "available": True, "devices": []},
    "cudnn": 91400,
    "transformer_engine": {"version": "2.20.2", "packages": {"transformer-engine": "2.20.2"}},
    "libraries": {"libcudnn": ["/env/nvidia/cudnn/lib/libcudnn.so.9"]},
    "recipes": [
        {"name": "DelayedScaling", "supported": True, "reason": ""},
        {
            "name": "MXFP8BlockScaling",
            "supported": False,
            "reason": "Device compute capability 10.0 or higher required.",
        },
    ],
    "attention": [
        {
            "dropout": 0.1,
            "selected": "FusedAttention (sub-backend 1)",
            "available": {"FlashAttention": False, "FusedAttention": True, "UnfusedDotProductAttention": True},
            "refused": [{"backend": "FlashAttention 4", "reason": "for dropout"}],
            "installed": {"4": "4.0.0b11"},
        }
    ],
    "cupti": {"version": 130001, "result": 0, "path": "/env/nvidia/cu13/lib/libcupti.so.13"},
}
WELL = Surroundings(
    environment={},
    driver=Driver("580.65", "13.0", (H200,)),
    nsys=Nsys("/bin/nsys", "2025.3.1", trial="gpu"),
    own=Own("/env/nvidia/cu13/lib/libcupti.so.13", trial="gpu"),
    probe=PROBE,
    observer="",
    places=(Place("recordings", Path("/run"), 900 * GIB, True, "ext4"),),
    kernel={"perf_event_paranoid": "4\n", "nvidia": "RmProfilingAdminOnly: 1\n", "status": "TracerPid:\t0\n"},
    calibration={"measured_at": "2026-01-02T03:04:05+00:00"},
)


def found(around: Surroundings, title: str) -> list[Finding]:
    """The findings under `title`."""
    return [finding for finding in diagnose(around).findings if finding.title == title]


def with_probe(**stages: Any) -> Surroundings:
    """All well but for these stages of the probe; a stage of None did not come back."""
    probe_facts = {name: value for name, value in {**PROBE, **stages}.items() if value is not None}
    return dataclasses.replace(WELL, probe=probe_facts)


def test_cupti_12_tells_nobody_who_takes_its_buffers() -> None:
    around = with_probe(cupti={"version": 26, "result": 0, "path": "/env/nvidia/cuda_cupti/lib/libcupti.so.12"})
    [finding] = found(around, "CUPTI")
    assert finding.level == "ok"
    assert finding.detail.endswith("cupti-python) would not be noticed before CUPTI 13")


def test_all_is_well() -> None:
    diagnosis = diagnose(WELL)
    assert diagnosis.possible
    assert diagnosis.collector == "nsys"
    assert [(f.level, f.title, f.detail) for f in diagnosis.findings] == [
        ("ok", "nsys", "2025.3.1, recorded and exported a program on this GPU"),
        ("ok", "collector", "built in, would load libcupti.so.13, recorded a program on this GPU"),
        ("ok", "Other profilers", "none in the way"),
        ("ok", "CUPTI", "libcupti.so.13, API 130001, held by no other tool"),
        (
            "ok",
            "Rights",
            "no special ones needed; perf_event_paranoid 4 does not matter, the CPU is not sampled; "
            "RmProfilingAdminOnly 1 neither, it guards performance counters and not tracing",
        ),
        ("ok", "tetrace's extension", "built with ranges"),
        ("ok", "Driver", "580.65, runs programs for CUDA 13.0 and older"),
        ("ok", "GPU", "NVIDIA H200, 141 GiB, compute capability 9.0 (has FP8)"),
        ("ok", "Calibration", "measured on 2026-01-02, recordings keep it"),
        ("ok", "torch", "2.11.0, for CUDA 13.0"),
        ("ok", "cuDNN", "9.14.0 (libcudnn.so.9), loaded once"),
        ("ok", "Autograd observer", "built for this torch"),
        ("ok", "Transformer Engine", "2.20.2"),
        ("ok", "FP8 recipes", "DelayedScaling"),
        ("absent", "FP8 recipes", "no MXFP8BlockScaling: Device compute capability 10.0 or higher required"),
        (
            "ok",
            "Attention",
            "BF16, causal, head size 128, dropout 0.1: FusedAttention (sub-backend 1); "
            "FlashAttention 4 not taken for dropout",
        ),
        ("ok", "Folder for recordings", "/run has 900 GiB free"),
    ]


NO_NSYS = Nsys(error="nsys is not on PATH; install it")
NO_COLLECTOR = Own(error="the collector was not built: no cupti.h; pip install it")


def gpu(**changes: Any) -> dict[str, Any]:
    """Surroundings with one GPU like no other."""
    return {"driver": Driver("580.65", "13.0", (dataclasses.replace(H200, **changes),))}


@pytest.mark.parametrize(
    ("changes", "title", "level", "says", "way_out"),
    [
        ({"nsys": NO_NSYS, "own": NO_COLLECTOR}, "nsys", "fail", "is not on PATH", "install it"),
        ({"nsys": NO_NSYS, "own": NO_COLLECTOR}, "collector", "fail", "was not built: no cupti.h", "pip install it"),
        ({"nsys": NO_NSYS}, "nsys", "absent", "is not on PATH", "install it"),
        ({"own": NO_COLLECTOR}, "collector", "absent", "was not built: no cupti.h", "pip install it"),
        ({"own": Own("c", trial_error="no rights")}, "collector", "warn", "failed: no rights", "CUPTI below"),
        (
            {"nsys": NO_NSYS, "own": Own("c", trial_error="no rights")},
            "collector",
            "fail",
            "failed: no rights",
            "CUPTI below",
        ),
        (
            {"nsys": NO_NSYS, "environment": {"NVTX_INJECTION64_PATH": "/opt/libtool.so"}},
            "Other profilers",
            "fail",
            "NVTX_INJECTION64_PATH loads libtool.so",
            "unset NVTX_INJECTION64_PATH",
        ),
        (
            {"left_out": (("the kernels were not built: no nvcc", "install it"),)},
            "Left out of this build",
            "absent",
            "no nvcc",
            "install it",
        ),
        (
            {
                "nsys": Nsys("n", "2025.1", stage="import", trial_error="libdw.so.1: no such file"),
                "own": NO_COLLECTOR,
            },
            "nsys",
            "fail",
            "could not import its own capture): libdw.so.1",
            "libdw1",
        ),
        ({"nsys": Nsys("n", "2025.1", stage="activity")}, "nsys", "warn", "no GPU activity", "as new as the driver"),
        ({"nsys": Nsys("n", "2023.1", stage="export")}, "nsys", "warn", "Parquet", "2023.1 or newer"),
        (
            {"environment": {"NSYS_PROFILING_SESSION_ID": "7"}},
            "Other profilers",
            "fail",
            "runs under nsys already",
            "tetrace.instrument()",
        ),
        (
            {"environment": {"CUDA_INJECTION64_PATH": "/opt/secret/libtool.so"}},
            "Other profilers",
            "warn",
            "CUDA_INJECTION64_PATH loads libtool.so",
            "unset CUDA_INJECTION64_PATH",
        ),
        ({"kernel": {"status": "TracerPid:\t42\n"}}, "Other profilers", "warn", "process 42 traces", "without it"),
        ({"environment": {"CUDA_LAUNCH_BLOCKING": "1"}}, "Variables", "warn", "every launch waits", "unset"),
        ({"environment": {"NVTE_DEBUG": "1", "NVTE_DEBUG_LEVEL": "2"}}, "Variables", "warn", "synchronizes", "unset"),
        ({"instrumentation": "ImportError: no _C"}, "tetrace's extension", "fail", "no _C", "install tetrace again"),
        (gpu(prohibited=True), "GPU 0", "fail", "Prohibited", "nvidia-smi -c DEFAULT"),
        (gpu(slowed=("temperature",)), "GPU 0", "warn", "temperature; SM clock 345 of 1980 MHz", "cool"),
        (gpu(processes=(4321,)), "GPU 0", "warn", "process 4321", "wait for them"),
        (gpu(memory_used_bytes=40 * GIB), "GPU 0", "warn", "40.0 GiB are in use", "outside of this container"),
        (gpu(mig=True), "GPU 0", "warn", "MIG", "calibrate the slice"),
        (gpu(persistence=False), "Clocks", "warn", "persistence mode is off on GPU 0", "nvidia-smi -pm 1"),
        ({"calibration": None}, "Calibration", "absent", "not measured", "--calibrate"),
        ({"observer": "no C++ compiler; set CXX"}, "Autograd observer", "warn", "by hooks", "set CXX"),
        (
            {"places": (Place("recordings", Path("/r"), GIB // 4, True),)},
            "Folder for recordings",
            "fail",
            "256 MiB",
            "-o",
        ),
        (
            {"places": (Place("recordings", Path("/r"), 2 * GIB, True),)},
            "Folder for recordings",
            "warn",
            "fill it",
            "-o",
        ),
        (
            {"places": (Place("recordings", Path("/r"), 9 * GIB, False),)},
            "Folder for recordings",
            "fail",
            "written",
            "-o",
        ),
        (
            {"places": (Place("recordings", Path("/r"), 9 * GIB, True, "nfs4"),)},
            "Folder for recordings",
            "warn",
            "nfs4",
            "-o",
        ),
        (
            {"places": (Place("cache", Path("/r"), 9 * GIB, False),)},
            "Folder for cache",
            "warn",
            "written",
            "XDG_CACHE_HOME",
        ),
    ],
)
def test_what_stops_or_spoils_is_said_with_a_way_out(
    changes: dict[str, Any], title: str, level: str, says: str, way_out: str
) -> None:
    around = dataclasses.replace(WELL, **changes)
    (finding,) = [finding for finding in found(around, title) if finding.level == level]
    assert says in finding.detail
    assert way_out in finding.way_out
    assert diagnose(around).possible == (level != "fail")


@pytest.mark.parametrize(
    ("stages", "title", "level", "says", "way_out"),
    [
        (
            {"cuda": {"result": 100, "name": "CUDA_ERROR_NO_DEVICE", "devices": 0}},
            "CUDA",
            "fail",
            "NO_DEVICE",
            "nvidia-smi",
        ),
        ({"cupti": {"version": 1, "result": 39, "path": ""}}, "CUPTI", "warn", "another tool", "LD_PRELOAD"),
        (
            {"cupti": {"version": 130000, "result": 39, "path": "", "holder": "CUPTI for dynolog"}},
            "CUPTI",
            "warn",
            "CUPTI for dynolog holds it",
            "LD_PRELOAD",
        ),
        (
            {"torch": {**PROBE["torch"], "available": False, "why": "driver too old"}},
            "torch",
            "fail",
            "too old",
            "newer",
        ),
        (
            {"torch": None, "errors": {"torch": "No module named 'torch'"}},
            "torch",
            "warn",
            "not installed",
            "install .",
        ),
        ({"torch": None, "errors": {"torch": "killed by signal 11"}}, "torch", "fail", "signal 11", "reinstall"),
        (
            {"libraries": {"libcudnn": ["/env/libcudnn.so.9", "/usr/lib/libcudnn.so.9.10.2"]}},
            "cuDNN",
            "warn",
            "/env/libcudnn.so.9 and /usr/lib/libcudnn.so.9.10.2",
            "LD_LIBRARY_PATH",
        ),
        (
            {"errors": {"transformer_engine": "ImportError: x.so: undefined symbol: y"}},
            "Transformer Engine",
            "fail",
            "undefined symbol: y",
            "another torch",
        ),
        ({"transformer_engine": {}}, "Transformer Engine", "absent", "not installed", "pip install"),
        (
            {"transformer_engine": {"version": "2", "packages": {"te": "2.1", "te-torch": "2.2"}}},
            "Transformer Engine",
            "warn",
            "te 2.1, te-torch 2.2",
            "one version",
        ),
        ({"errors": {"attention": "TypeError: x"}}, "Attention", "warn", "could not say: TypeError: x", "newer"),
    ],
)
def test_what_the_probe_found(stages: dict[str, Any], title: str, level: str, says: str, way_out: str) -> None:
    (finding,) = [finding for finding in found(with_probe(**stages), title) if finding.level == level]
    assert says in finding.detail
    assert way_out in finding.way_out


def test_without_nsys_the_collector_records() -> None:
    diagnosis = diagnose(dataclasses.replace(WELL, nsys=NO_NSYS))
    assert (diagnosis.possible, diagnosis.collector) == (True, "cupti")
    assert checkup.screen(diagnosis, 80, False).startswith("A recording here is made with tetrace's own collector")


def test_without_torch_not_all_is_well() -> None:
    diagnosis = diagnose(with_probe(torch=None, errors={"torch": "No module named 'torch'"}))
    assert diagnosis.possible
    assert checkup.screen(diagnosis, 80, False).startswith("A recording here is made with nsys; 1 warning\n")


def test_what_the_collector_lacks_is_said_once() -> None:
    reason, _, way_out = NO_COLLECTOR.error.partition("; ")
    around = dataclasses.replace(WELL, own=NO_COLLECTOR, left_out=((reason, way_out),))
    assert not found(around, "Left out of this build")


def test_without_a_gpu_the_host_is_recorded() -> None:
    diagnosis = diagnose(Surroundings(driver=Driver(error="libnvidia-ml.so.1: cannot open shared object file")))
    assert diagnosis.possible
    assert diagnosis.collector == "host"
    assert not any(finding.level == "fail" for finding in diagnosis.findings)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_screen_keeps_its_width(width: int) -> None:
    around = dataclasses.replace(WELL, nsys=NO_NSYS, own=NO_COLLECTOR, observer="no compiler; set CXX")
    lines = checkup.screen(diagnose(around), width, color=False).splitlines()
    assert " ".join(lines).startswith("No full recording is possible here: nsys, collector; 1 warning besides")
    assert "  FAIL nsys: is not on PATH" in lines
    assert "       → install it" in lines
    assert max(map(len, lines)) <= min(width, 110)
    assert "\x1b" in checkup.screen(diagnose(around), width, color=True)


def doctor(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`tetrace doctor` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "tetrace", "doctor", *arguments],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        check=False,
    )


def test_the_command_as_json(tmp_path: Path) -> None:
    done = doctor("--quick", "--format", "json", cwd=tmp_path)
    said = json.loads(done.stdout)
    assert set(said) == {"tetrace", "possible", "collector", "findings"}
    assert all(set(f) == {"section", "level", "title", "detail", "way_out"} for f in said["findings"])
    assert done.returncode == (0 if said["possible"] else 1)
    assert done.stderr == ""


def test_the_command_stops_under_nsys(tmp_path: Path) -> None:
    done = doctor("--quick", cwd=tmp_path, NSYS_PROFILING_SESSION_ID="1", COLUMNS="80")
    assert done.returncode == 1
    assert done.stdout.startswith("No full recording is possible here: ")
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--device", "1"), "--device 1 is for --calibrate; add it"),
        (("--calibrate", "--quick"), "choose one of them"),
    ],
)
def test_options_that_do_not_go_together(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    done = doctor(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
