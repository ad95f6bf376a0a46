"""Record a Transformer Engine workload here with Nsight Systems, and check the report of it. Needs a GPU, TE and nsys."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import tetrace
from tetrace.breakdown.analysis import Breakdown

pytestmark = pytest.mark.gpu

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
LAYERS, STEPS = 2, 6
# Kernels of one module and step in FP8 that only quantize, by recipe: casts of weights.
WEIGHTS_OF_LAYER = 4


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    if not shutil.which("nsys"):
        pytest.skip("nsys is not on PATH")
    if find_spec("transformer_engine") is None:
        pytest.skip("transformer_engine is not installed")


def record(folder: Path, *arguments: str, nsys: tuple[str, ...] = ()) -> Path:
    """The .nsys-rep of `layer_stack` with these arguments."""
    report = folder / "run.nsys-rep"
    sizes = [
        "--layers",
        str(LAYERS),
        "--hidden",
        "512",
        "--ffn",
        "2048",
        "--heads",
        "8",
        "--batch",
        "4",
        "--seq",
        "256",
    ]
    workload = [sys.executable, str(PROFILES / "layer_stack" / "model.py"), *sizes, "--steps", str(STEPS), *arguments]
    command = [
        "nsys",
        "profile",
        "-s",
        "none",
        "--cpuctxsw=none",
        "-t",
        "cuda,nvtx",
        *nsys,
        "-o",
        str(report),
        *workload,
    ]
    subprocess.run(command, check=True, capture_output=True, env={**_environment(), "NVTE_NVTX_ENABLED": "1"})
    return report


def _environment() -> dict[str, str]:
    import os

    return dict(os.environ)


def analyzed(report: Path) -> Breakdown:
    """The breakdown of a .nsys-rep, read through nsys itself."""
    return tetrace.analyze(tetrace.load(report))


@pytest.mark.parametrize("recipe", ["none", "delayed", "current", "block"])
def test_phases_modules_and_coverage(recipe: str, tmp_path: Path) -> None:
    breakdown = analyzed(record(tmp_path, "--recipe", recipe))
    totals, coverage = breakdown.totals, breakdown.fp8_coverage
    assert totals.unattributed_phase_ns == 0
    assert coverage.fp8_ns == (0 if recipe == "none" else coverage.gemm_ns)
    assert breakdown.quantization_bounds.weight_casts == (
        0 if recipe == "none" else WEIGHTS_OF_LAYER * LAYERS * totals.steps
    )
    assert {f"LayerNormMLP.{i}" for i in range(LAYERS)} <= set(breakdown.tables["modules"]["module"])
    assert breakdown.quantization_bounds.scale_updates == (
        2 * totals.steps if recipe == "delayed" else breakdown.quantization_bounds.scale_updates
    )


def test_kernels_of_a_cuda_graph_keep_their_modules(tmp_path: Path) -> None:
    breakdown = analyzed(record(tmp_path, "--recipe", "delayed", "--graphs", nsys=("--cuda-graph-trace=node",)))
    modules = breakdown.tables["modules"]
    linear = sum(ns for name, ns in zip(modules["module"], modules["gemm_ns"].tolist(), strict=True) if "." in name)
    assert linear == int(breakdown.tables["gemms"]["total_ns"].sum())


def test_sqlite_and_parquet_of_one_recording_give_one_report(tmp_path: Path) -> None:
    report = record(tmp_path, "--recipe", "delayed")
    for kind, name in (("sqlite", "run.sqlite"), ("parquetdir", "run.parquetdir")):
        subprocess.run(
            ["nsys", "export", "--type", kind, "-o", str(tmp_path / name), str(report)], check=True, capture_output=True
        )
    sqlite, parquet = (
        tetrace.analyze(tetrace.load(tmp_path / name), steps="all") for name in ("run.sqlite", "run.parquetdir")
    )
    assert sqlite.totals == parquet.totals
    for name, table in sqlite.tables.items():
        assert table.rows() == parquet.tables[name].rows(), name


_ENDS = {"SIGKILL": "os.kill(os.getpid(), 9)", "os._exit": "os._exit(3)", "abort": "os.abort()"}


@pytest.mark.parametrize("end", _ENDS)
def test_what_the_gpu_of_a_script_did_that_ends_at_once_is_kept(end: str, tmp_path: Path) -> None:
    script = tmp_path / "ends.py"
    script.write_text(
        "import os, time, torch\n"
        "x = torch.randn(512, 512, device='cuda', requires_grad=True)\n"
        "optimizer = torch.optim.SGD([x], lr=1e-3)\n"
        "for step in range(60):\n"
        "    (x @ x).sum().backward()\n"
        "    optimizer.step()\n"
        "    time.sleep(0.05)\n"
        f"{_ENDS[end]}\n"
    )
    command = [
        sys.executable,
        "-m",
        "tetrace",
        "record",
        "--collector",
        "nsys",
        "--steps",
        "all",
        "-o",
        "run",
        str(script),
    ]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=200, check=False)
    assert run.returncode != 0
    breakdown = tetrace.analyze(tetrace.load(tmp_path / "run.tetrace"), steps="all")
    # What ran within the last second may be lost where nothing of ours runs at the end.
    assert len(breakdown.tables["steps"]) >= (60 if end == "os._exit" else 35), run.stderr[-2000:]
    assert "did not finish" in run.stderr
