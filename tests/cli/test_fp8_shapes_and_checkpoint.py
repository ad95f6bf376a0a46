"""`tetrace fp8 checkpoint`, `shapes` and `coverage` as a user meets them: pages, JSON, one-line errors."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch

from tests.cli.test_report import DATA, FP8, failure, run
from tests.fp8.checkpoints import as_tensor, delayed, state_dict
from tests.traces import Recording
from tetrace.cli.fp8_coverage import _outside_words
from tetrace.trace import store


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A checkpoint whose second layer has a scale that was reset, and whose third has no state."""
    held = state_dict()
    held["layers.1.proj._extra_state"] = as_tensor(
        delayed(([1.0, 896.0, 1.0], [229376.0, 1.0]), ([[4.0, 0.5, 0.0]], [[0.25, 0.0]]))
    )
    held["layers.2.proj.weight"] = torch.zeros(2, 2)
    torch.save(held, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def recording(folder: Path, vocabulary: int) -> Path:
    """A recording of one head's forward in FP8, as `tetrace record` leaves it."""
    rows = Recording().site("module", "lm_head", 0, 30, phase="forward", module="lm_head", **{"class": "Linear"})
    rows.site("quantize", "quantize input", 1, 2, module="lm_head", role="input", scaling="delayed")
    rows.site(
        "gemm",
        "gemm fprop",
        3,
        9,
        module="lm_head",
        role="fprop",
        a_format="E4M3",
        b_format="E4M3",
        m=64,
        n=vocabulary,
        k=768,
    )
    store.write(rows.trace(), folder / "run.tetrace")
    return folder / "run.tetrace"


def test_a_checkpoint_on_the_terminal(broken: Path) -> None:
    done = run("fp8", "checkpoint", broken)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert " ".join(" ".join(lines[2:4]).split()) == (
        "2 of 4 modules of Transformer Engine have scales and amax histories, 1 is without an _extra_state; something is "
        "wrong with 2."
    )
    wrong = next(line for line in lines if "history gives" in line)
    assert wrong.split()[:6] == ["layers.1.proj", "input", "E4M3", "1", "4", "4"]
    assert next(i for i, line in enumerate(lines) if "history gives" in line) < next(
        i for i, line in enumerate(lines) if line.startswith("layers.0.proj")
    )
    assert any(line.startswith("layers.2.proj  Linear") for line in lines)
    assert all(len(line) <= 100 for line in lines)


def test_a_checkpoint_as_rows(broken: Path) -> None:
    document = json.loads(run("fp8", "checkpoint", broken, "--json").stdout)
    assert {module["module"]: module["status"] for module in document["modules"]} == {
        "layers.0.proj": "DelayedScaling",
        "layers.1.proj": "DelayedScaling",
        "layers.0.core_attention": "empty",
        "layers.2.proj": "missing",
    }
    rows = list(csv.DictReader(io.StringIO(run("fp8", "checkpoint", broken, "--csv").stdout)))
    assert len(rows) == len(document["rows"]) == 5 + 5 + 1 + 1
    row = next(row for row in rows if (row["module"], row["tensor"]) == ("layers.1.proj", "input"))
    assert (row["scale"], row["expected_scale"], row["flags"]) == ("1.0", "112.0", "history gives scale 112")


def test_a_checkpoint_that_names_something_else(tmp_path: Path) -> None:
    torch.save({"a": Path, "b": print}, tmp_path / "model.pt")
    code, line = failure("fp8", "checkpoint", tmp_path / "model.pt")
    assert code == 2
    assert "it names 'builtins.print', which is not on the list" in line
    assert "--allow NAME" in line
    done = run("fp8", "checkpoint", tmp_path / "model.pt", "--allow", "builtins.print")
    assert (done.returncode, "No FP8 state" in done.stdout) == (0, True)


@pytest.mark.parametrize("inside", [False, True])
def test_a_whole_model_is_no_state_dict(inside: bool, tmp_path: Path) -> None:
    """It would seem to have no FP8 state."""
    path, model = tmp_path / "whole.pt", torch.nn.Sequential(torch.nn.Linear(4, 4))
    torch.save({"model": model, "step": 3} if inside else model, path)
    code, line = failure("fp8", "checkpoint", path, "--allow", "torch.*")
    assert code == 2
    assert line.endswith("holds a whole torch.nn.modules.container.Sequential, no state dict; save model.state_dict()")


def test_shapes_of_a_recording(tmp_path: Path) -> None:
    done = run("fp8", "shapes", recording(tmp_path, 50264))
    assert (done.returncode, done.stderr) == (0, "")
    assert "1 of 1 modules have dimensions that FP8 with delayed scaling refuses, in backward." in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.startswith("lm_head"))
    assert row.split() == ["lm_head", "dgrad", "out_features", "50264", "16", "50272", "-"]
    assert "Leading dimension requirement on A for FP8 GEMM" in done.stdout


def test_shapes_that_fit(tmp_path: Path) -> None:
    path = recording(tmp_path, 50304)
    assert "All dimensions of the GEMMs of 1 modules fit FP8" in run("fp8", "shapes", path).stdout
    document = json.loads(run("fp8", "shapes", path, "--json", "--recipe", "mxfp8").stdout)
    assert {(row["gemm"], row["scaling"], row["ran"]) for row in document["rows"]} == {("fprop", "mxfp8", "E4M3")}
    assert {row["error"] for row in document["rows"]} == {""}
    said = run("fp8", "shapes", path, "--recipe", "nvfp4").stdout
    assert "fit FP4 with nvfp4 scaling" in said
    assert "nvfp4 scaling needs compute capability 10.0: only the shapes were checked" in said


def test_coverage_of_recordings() -> None:
    done = run("fp8", "coverage", FP8)
    assert (done.returncode, done.stderr) == (0, "")
    assert "100.0% of GEMM time is FP8; no module ran a GEMM in another format." in done.stdout
    document = json.loads(run("fp8", "coverage", DATA / "te4-bf16.sqlite", "--json").stdout)
    assert {row["status"] for row in document["rows"]} == {"not FP8"}
    assert all(row["fp8_ns"] == 0 for row in document["rows"])
    assert len(document["notices"]) == 1


def test_coverage_says_formats_whole() -> None:
    text = run("fp8", "coverage", DATA / "stability-e4m3.tetrace").stdout
    assert any(line.startswith("layers.0 ") and line.endswith("no TE module  BF16") for line in text.splitlines())
    row = {"outside": "dgrad BF16, wgrad BF16, E4M3×BF16", "fp8_ns": 5}
    assert _outside_words(row) == "BF16 dgrad wgrad, E4M3×BF16"
    assert _outside_words({**row, "fp8_ns": 0}) == "BF16, E4M3×BF16"


def test_coverage_without_a_gemm_is_an_error(tmp_path: Path) -> None:
    store.write(Recording().range("forward", 0, 10).launch("copy", (1, 2), (3, 9)).trace(), tmp_path / "other.tetrace")
    code, line = failure("fp8", "coverage", tmp_path / "other.tetrace", "--steps", "all")
    assert (code, line.endswith("no GEMM ran on the GPU")) == (2, True), line
    store.write(Recording().range("forward", 0, 10).trace(), tmp_path / "host.tetrace")
    assert "no GPU was recorded" in failure("fp8", "coverage", tmp_path / "host.tetrace")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["checkpoint", DATA / "stability-e4m3.tetrace"], "is a recording, not a checkpoint; see `tetrace fp8 health "),
        (["checkpoint"], "Missing argument 'CHECKPOINT'"),
        (["checkpoint", "missing.pt"], "missing.pt: no such file or folder"),
        (["checkpoint", FP8], "neither a zip file"),
        (["shapes", FP8], "no GEMM of Transformer Engine was recorded with its shape"),
        (["shapes", FP8, "--recipe", "int8"], "Invalid value for '--recipe'"),
        (["coverage", FP8, "--steps", "100:"], "--steps 100: leaves no step"),
        (["coverage", FP8, "-o", FP8, "--force"], "which is never written to"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(arguments: list[str | Path], says: str) -> None:
    code, line = failure("fp8", *arguments)
    assert code == 2
    assert says in line
