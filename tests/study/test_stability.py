"""What became of the numbers: first tensor that is not finite, saturation, health, and shapes that fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fp8.made import Made as Fp8
from tests.study.made import Made, study
from tetrace.study.material import Material
from tetrace.study.numerics import losses_section, numbers_section, origin_words, shapes_section
from tetrace.study.results import Losses
from tetrace.study.stability import Numbers, numbers, refused
from tetrace.trace import store

TOML = """
title = "t"
question = "q"
[options]
hidden = 64
vocabulary = 50304
[recording]
arguments = ["--fp8"]
[[matrix]]
name = "main"
axes.vocabulary = [50304, 50264]
axes.recipe = ["none", "e4m3", "block"]
baseline = {recipe = "none"}
"""
LEADING = "Leading dimension requirement on A for FP8 GEMM. Caller must pad."
DIMS = (
    "FP8 execution requires the product of all dimensions except the last to be divisible by 8 and the last dimension to be "
    "divisible by 16, but got tensor with dims=[4, 3, 50264] (product of leading dims = 12, last dim = 50264)"
)


def fp8_trace() -> Fp8:
    """A tensor that clips a quarter of its values in step 3, and an output that is NaN in step 4."""
    values = np.full((8, 8), 1.0)
    clipped = np.where(np.arange(64).reshape(8, 8) % 4 == 0, 1000.0, 1.0)
    return (
        Fp8()
        .site("autocast", recipe="DelayedScaling")
        .tensor(3, "layers.0.fc1.input", values, scale=1.0)
        .tensor(3, "layers.1.fc1.input", clipped, scale=1.0)
        .tensor(4, "layers.0.fc1.input", values, scale=1.0)
        .check(4, "layers.0.fc1.output", nans=2)
        .check(4, "(loss).loss", nans=1, elements=1)
    )


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder: Path = tmp_path_factory.mktemp("stability")
    of = study(folder, TOML)
    path = folder / "fp8.tetrace"
    store.write(fp8_trace().trace(), path)
    return Material(
        Made(of)
        .measured("50304-none", total=[1.0] * 7, fields={"losses": Losses.of([10.9, 10.2, 10.4])})
        .measured("50304-e4m3", total=[1.0] * 7, recording=path, fields={"losses": Losses.of([10.9, float("nan"), float("inf")])})
        .measured("50304-block", total=[1.0] * 7)
        .failed("50264-e4m3", "RuntimeError", f"/a/b.cu:1 in function f: {LEADING}")
        .failed("50264-block", "ValueError", DIMS)
        .write(folder / "results"),
        of,
    )  # fmt: skip


def test_losses(material):
    (grid,) = losses_section(material).grids
    assert grid.rows == (
        ("50304-none", "10.9000", "10.4000", "10.2000", "3", ""),
        ("50304-e4m3", "10.9000", "Inf", "10.9000", "3", "step 1"),
    )


def test_the_first_tensor_that_is_not_finite_and_what_saturates(material):
    found = numbers(material, "50304-e4m3")
    assert isinstance(found, Numbers)
    assert origin_words(found) == (
        "layers.0.fc1.output at step 4, at forward: 2 NaN of 64 elements, made by forward of layers.0.fc1"
    )
    assert (found.saturated.tensor, found.saturated.step, found.saturated.share) == ("layers.1.fc1.input", 3, 0.25)
    assert {problem.kind for problem in found.problems} >= {"non_finite", "saturation"}


def test_the_section_of_numbers(material):
    section = numbers_section(material)
    rows = {row[0]: row for row in section.grids[0].rows}
    assert rows["50304-e4m3"][2] == "25.0% of layers.1.fc1.input, step 3"
    assert rows["50304-block"][1] == "not recorded"
    assert "50304-none" not in rows
    assert [row[:4] for row in section.grids[2].rows][:1] == [
        ("50304-e4m3", "critical", "NaN or Inf begins here", "layers.0.fc1.output"),
    ]


def test_every_tensor_that_was_clipped_has_a_row(tmp_path):
    """By its worst observation, worst first; REPORT.md has some of each configuration, the page all."""
    values = np.full((8, 8), 1.0)
    made = Fp8().site("autocast", recipe="DelayedScaling")
    for number, parts in enumerate((64, 32, 16, 8, 4, 2, 64)):  # one of so many elements is beyond the largest value
        clipped = np.where(np.arange(64).reshape(8, 8) % parts == 0, 1000.0, 1.0)
        made = made.tensor(number, f"layers.{number}.fc1.input", clipped, scale=1.0)
        made = made.tensor(number + 1, f"layers.{number}.fc1.input", values, scale=1.0)
    path = tmp_path / "fp8.tetrace"
    store.write(made.tensor(0, "never.fc1.input", values, scale=1.0).trace(), path)
    of = study(tmp_path / "study", TOML)
    folder = Made(of).measured("50304-e4m3", total=[1.0] * 7, recording=path).write(tmp_path / "results")
    section = numbers_section(Material(folder, of))
    assert section.grids[1].title == "Saturation by tensor, worst first: 5 of each configuration at most"
    assert section.grids[1].rows == tuple(
        ("50304-e4m3", f"layers.{number}.fc1.input", share, str(number), "1 of 2 observations")
        for number, share in ((5, "50.0%"), (4, "25.0%"), (3, "12.5%"), (2, "6.2%"), (1, "3.1%"))
    )
    assert [row[1] for row in section.more[0].rows][5:] == ["layers.0.fc1.input", "layers.6.fc1.input"]
    assert "never" not in repr(section.more[0].rows)


def test_a_shape_error_says_what_to_pad_to(material):
    (one,) = refused(material, material.configuration("50264-e4m3"))
    assert (one.where, one.dimension, one.value, one.divisor, one.use, one.gemm) == (
        "option vocabulary", "out_features", 50264, 16, 50272, "dgrad (backward)",
    )  # fmt: skip


def test_an_error_with_its_dimensions_is_read(material):
    leading, last = refused(material, material.configuration("50264-block"))
    assert (leading.where, leading.dimension, leading.value, leading.divisor, leading.use) == (
        "tensor [4, 3, 50264]", "leading dimensions", 12, 8, 16,
    )  # fmt: skip
    assert (last.where, last.dimension, last.value, last.use) == (
        "option vocabulary",
        "last dimension",
        50264,
        50272,
    )


def test_a_recording_of_the_same_sizes_names_the_module(tmp_path):
    of = study(tmp_path, TOML)
    path = tmp_path / "bf16.tetrace"
    trace = (
        fp8_trace()
        .site("module", module="lm_head", **{"class": "Linear"})
        .site("gemm", module="lm_head", role="fprop", format="BF16", shape="4096x50264x64")
    )
    store.write(trace.trace(), path)
    made = (
        Made(of).measured("50264-none", total=[1.0] * 7, recording=path).failed("50264-e4m3", "RuntimeError", LEADING)
    )
    (one,) = refused(found := Material(made.write(tmp_path / "results"), of), found.configuration("50264-e4m3"))
    assert (one.where, one.dimension, one.value, one.use, one.source) == (
        "lm_head", "out_features", 50264, 50272, "the recording of 50264-none",
    )  # fmt: skip
    (grid,) = shapes_section(found).grids
    assert grid.rows[0][:6] == ("50264-e4m3", "lm_head", "out_features", "50264", "16", "50272")


def test_other_failures_are_no_shapes(material, tmp_path):
    made = Made(material.study).failed("50264-e4m3", "OutOfMemoryError", "CUDA out of memory")
    found = Material(made.write(tmp_path), material.study)
    assert refused(found, found.configuration("50264-e4m3")) == []
    assert shapes_section(found).empty
