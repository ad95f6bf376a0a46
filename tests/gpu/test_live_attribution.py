"""`tetrace record` of unchanged scripts here: everything on the GPU has its module, phase, step, role and call."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import tetrace
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.analysis import Breakdown

pytestmark = pytest.mark.gpu

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
SIZES = ["--layers", "2", "--hidden", "512", "--ffn", "2048", "--heads", "8", "--batch", "4", "--seq", "256"]
SIZES += ["--nvtx", "none", "--steps", "10"]
RUNS = {
    **{f"stack {recipe}": ["layer_stack/model.py", "--recipe", recipe] for recipe in ("none", "delayed", "current", "block")},
    "checkpoint delayed": ["layer_stack/model.py", "--recipe", "delayed", "--checkpoint"],
    "accumulate delayed": ["layer_stack/model.py", "--recipe", "delayed", "--accumulate", "2", "--cache-weights"],
    "graphs delayed": ["layer_stack/model.py", "--recipe", "delayed", "--graphs"],
    "graphs none": ["layer_stack/model.py", "--recipe", "none", "--graphs"],
    "sdpa delayed": ["sdpa/model.py", "--recipe", "delayed"],
    "sdpa compiled": ["sdpa/model.py", "--recipe", "delayed", "--compile"],
    "plain": ["plain/model.py"],
    "grouped delayed": ["grouped/model.py", "--recipe", "delayed"],
}  # fmt: skip
_AT_A_TIME = 6
# What is the model's and not the loss's, the optimizer's or the input's.
OUTSIDE = ("(optimizer)", "(loss)", "(grad_clip)", "(input)")


def recorded(name: str, folder: Path) -> Breakdown:
    """The recording of a workload, steady steps."""
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "nsys", "-o", str(folder / "run"), "--"]
    script, *options = RUNS[name]
    run = subprocess.run(
        [*command, str(PROFILES / script), *SIZES, *options],
        capture_output=True, text=True, cwd=folder, timeout=400, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return tetrace.analyze(tetrace.load(folder / "run.tetrace"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Breakdown]]]:
    """All recordings, several at a time."""
    if shutil.which("nsys") is None:
        pytest.fail("nsys is not on PATH")
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        yield {name: pool.submit(recorded, name, tmp_path_factory.mktemp("run")) for name in RUNS}


def is_real(module: str) -> bool:
    return not module.startswith("(") and module != "unattributed"


@pytest.mark.parametrize("name", RUNS)
def test_phase_and_module_are_known(name: str, runs: dict[str, Future[Breakdown]]) -> None:
    breakdown = runs[name].result()
    totals, modules = breakdown.totals, breakdown.tables["modules"].rows()
    whole = totals.activity_ns
    assert totals.unattributed_phase_ns <= 0.01 * whole
    assert totals.unattributed_module_ns <= 0.01 * whole
    models = sum(row["total_ns"] for row in modules if row["module"] not in OUTSIDE)
    real = sum(row["total_ns"] for row in modules if is_real(row["module"]))
    # Scale updates of delayed scaling are of all modules at once.
    updates = sum(row["total_ns"] for row in modules if row["module"] == "(scale_update)")
    assert (real + updates) / models >= (0.95 if "graphs" in name else 0.97)


@pytest.mark.parametrize("name", RUNS)
def test_backward_is_of_the_modules_of_forward(name: str, runs: dict[str, Future[Breakdown]]) -> None:
    attribution = runs[name].result().attribution
    named = {
        phase: {
            attribution.module_names[m] for m in attribution.module[attribution.phase == PHASES.index(phase)] if m >= 0
        }
        for phase in ("forward", "backward")
    }
    around = {module.rpartition(".")[0] for module in named["forward"]}
    # A module whose forward is fused into its neighbour's, or launches nothing, still has a backward: biases, views.
    fused = {module for module in named["backward"] if module.rpartition(".")[0] in around or module in around}
    assert {module for module in named["backward"] if is_real(module)} <= named["forward"] | fused


@pytest.mark.parametrize("name", RUNS)
def test_every_quantization_kernel_has_a_role_and_a_recorded_call(
    name: str, runs: dict[str, Future[Breakdown]]
) -> None:
    breakdown = runs[name].result()
    quantization = breakdown.tables["quantization"].rows()
    assert (len(quantization) > 0) == (name not in ("plain", "stack none", "graphs none"))
    missing = [row for row in quantization if not row["role"] and row["module"] != "(scale_update)"]
    assert not missing, missing[:5]
    calls = breakdown.tables["recorded_calls"].rows()
    unrecorded = [row for row in calls if row["call"] == "(not recorded)" and row["kind"] == "quantize"]
    assert not unrecorded, unrecorded[:5]


@pytest.mark.parametrize("name", [name for name in RUNS if "graphs" not in name and name != "plain"])
def test_attention_as_selected_is_what_ran(name: str, runs: dict[str, Future[Breakdown]]) -> None:
    table = runs[name].result().tables["attention_backends"].rows()
    assert {row["backend"] for row in table} <= {"FusedAttention"}
    assert all("cuDNN" in row["kernels"] for row in table), table
    assert bool(table) == name.startswith(("stack", "checkpoint", "accumulate"))


def test_weights_are_cast_once_a_step_when_cached(runs: dict[str, Future[Breakdown]]) -> None:
    calls = runs["accumulate delayed"].result().tables["recorded_calls"].rows()
    steps = runs["accumulate delayed"].result().totals.steps
    casts = [row for row in calls if row["role"] == "weight" and row["kind"] == "quantize" and row["activities"]]
    assert casts
    more = [row for row in casts if row["count"] > steps]
    assert not more, f"{more} in {steps} steps"


def test_steps_after_the_warm_up_are_counted(runs: dict[str, Future[Breakdown]]) -> None:
    breakdown = runs["stack delayed"].result()
    numbers = breakdown.attribution.steps.number[breakdown.selection.windows.step]
    # The window opens with the first step, whose own range began before it.
    assert numbers[breakdown.selection.used].tolist() == list(range(5, 14))
