"""`tetrace record torchrun` on two GPUs: two ranks in one recording, their communication told apart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import tetrace
from tetrace.breakdown.analysis import Breakdown

pytestmark = pytest.mark.gpu

MODEL = Path(__file__).resolve().parents[2] / "profiles" / "ddp" / "model.py"
SIZES = ["--layers", "2", "--hidden", "512", "--ffn", "2048", "--heads", "8", "--batch", "4", "--seq", "256"]
STEPS = 8


@pytest.fixture(scope="module", autouse=True)
def _needs() -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    if shutil.which("nsys") is None:
        pytest.fail("nsys is not on PATH")


def record(folder: Path, *options: str, script: str = str(MODEL)) -> subprocess.CompletedProcess[str]:
    # Standalone: on a port of its own, so that several may run.
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch = [*ranks, script, *SIZES, "--nvtx", "none"]
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "nsys", "-o", str(folder / "run"), "--"]
    command += [*launch, "--recipe", "delayed", "--warmup", "3", "--steps", str(STEPS), *options]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=300, check=False)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Breakdown:
    folder = tmp_path_factory.mktemp("ranks")
    run = record(folder)
    assert run.returncode == 0, run.stderr[-3000:]
    return tetrace.analyze(tetrace.load(folder / "run.tetrace"))


def test_two_ranks_are_two_processes_with_the_same_steps(both: Breakdown) -> None:
    processes = both.attribution.trace.tables["processes"].to_pylist()
    ranks = sorted(row["rank"] for row in processes if row["rank"] >= 0)
    assert ranks == [0, 1], processes
    lanes = both.tables["lanes"].rows()
    assert len({row["pid"] for row in lanes}) == 2, lanes
    steps = Counter(row["process"] for row in both.tables["steps"].rows() if row["used"])
    assert len(steps) == 2, steps
    assert len(set(steps.values())) == 1, steps


def test_reductions_of_gradients_and_of_amax_are_told_apart(both: Breakdown) -> None:
    rows = both.tables["communication"].rows()
    counts = Counter()
    for row in rows:
        counts[row["operation"]] += row["count"]
    # Both directions in one reduction, at the end of the outermost autocast and of backward.
    assert counts["amax_reduce"] == 2 * both.totals.steps, rows
    assert counts["all_reduce"] >= both.totals.steps, rows
    modules = {row["module"] for row in both.tables["modules"].rows()}
    assert "(gradient_reduce)" in modules, modules


def test_everything_has_its_phase_and_module(both: Breakdown) -> None:
    totals = both.totals
    assert totals.unattributed_phase_ns <= 0.01 * totals.activity_ns
    assert totals.unattributed_module_ns <= 0.01 * totals.activity_ns


def test_a_killed_rank_leaves_what_both_recorded(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, runpy, signal, sys, threading, torch\n"
        "seen = 0\n"
        "def count(*_):\n"
        "    global seen\n"
        "    seen += 1\n"
        "    if seen == 60 and os.environ['RANK'] == '1':\n"
        "        import time; torch.cuda.synchronize(); time.sleep(3); os.kill(os.getpid(), signal.SIGKILL)\n"
        "from torch.optim.optimizer import register_optimizer_step_post_hook\n"
        "register_optimizer_step_post_hook(count)\n"
        f"sys.argv[0] = {str(MODEL)!r}\n"
        f"runpy.run_path({str(MODEL)!r}, run_name='__main__')\n"
    )
    run = record(tmp_path, "--steps", "400", script=str(script))
    assert run.returncode != 0
    assert (tmp_path / "run.tetrace").exists(), run.stderr[-3000:]
    trace = tetrace.load(tmp_path / "run.tetrace")
    assert trace.tables["activities"].num_rows > 1000, run.stderr[-3000:]
    assert "did not finish" in run.stderr, run.stderr[-3000:]
