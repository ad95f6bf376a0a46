"""Tensors of which some rows were looked at: what is said of them is not said of the others."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fp8.made import Made
from tetrace import fp8
from tetrace.cli import fp8_nan
from tetrace.fp8.nonfinite_advice import advice

NONE = np.zeros((64, 128), np.float32)
WHOLE = {"tensor_elements": 8 * NONE.size}


def normal(rows: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 128)).astype(np.float32)


@pytest.mark.parametrize(("columns", "kinds"), [({}, ["amax_zero"]), (WHOLE, [])])
def test_zeros_in_some_rows_are_no_tensor_of_zeros(columns: dict[str, int], kinds: list[str]) -> None:
    made = Made()
    for step in range(3):
        made.tensor(step, "head.grad_output", NONE, scaling="current", phase="backward", **columns)
    found = fp8.check_health(made.trace())
    assert [one.kind for one in found.problems if one.kind == "amax_zero"] == kinds


@pytest.mark.parametrize(
    ("columns", "lost"), [({}, "2 of 2 gradients in step 0"), (WHOLE, "1 of 2 gradients in step 0")]
)
def test_a_gradient_that_is_zero_in_some_rows_is_not_told_as_lost(columns: dict[str, int], lost: str) -> None:
    made, tiny = Made(), np.full(64, 2e-4)
    for step in range(2):
        scale = 448 / 2e-4 if step else 1.0
        made.tensor(step, "b.grad_output", tiny, scale=scale, phase="backward")
        own = {} if step else columns
        made.tensor(step, "a.grad_output", tiny if step else NONE, scale=scale, phase="backward", **own)
    (found,) = [one for one in fp8.check_health(made.trace()).problems if one.kind == "lost_gradients"]
    assert found.evidence.startswith(lost)


@pytest.mark.parametrize("recipe", ["current", "block"])
def test_what_if_says_that_it_is_of_a_sample(recipe: str) -> None:
    made = Made().tensor(0, "fc.input", normal(), scaling="current", layouts=("1x128",))
    assert not fp8.what_if(made.trace(), recipe=recipe).sampled
    made = Made().tensor(0, "fc.input", normal(), scaling="current", layouts=("1x128",), **WHOLE)
    assert fp8.what_if(made.trace(), recipe=recipe).sampled


def test_blocks_of_the_whole_tensor_stand_for_the_rows_that_were_looked_at() -> None:
    """Else a sample had eight times the room, and bounds that say nothing."""
    values = normal(512)
    values[::64] *= 1e4
    whole = fp8.what_if(
        Made().tensor(0, "fc.input", values, scaling="current", layouts=("1x128",)).trace(), recipe="block"
    )
    made = Made().tensor(0, "fc.input", values, scaling="current", layouts=("1x128",))
    of_rows = Made().tensor(0, "fc.input", values[::8], scaling="current", tensor_elements=values.size)
    of_rows.blocks = made.blocks
    sampled = fp8.what_if(of_rows.trace(), recipe="block")
    assert sampled.sampled
    ((is_whole,), (is_sampled,)) = whole.rows, sampled.rows
    wide = is_whole.flushed_upper - is_whole.flushed_lower
    assert is_sampled.flushed_upper - is_sampled.flushed_lower <= 2 * wide + 0.01


def test_amaxes_of_other_rows_are_not_compared() -> None:
    a = Made().tensor(0, "fc.input", normal()).tensor(0, "fc.weight", normal(seed=1))
    b = Made().tensor(0, "fc.input", normal()[::8] / 2, tensor_elements=64 * 128).tensor(0, "fc.weight", normal(seed=1))
    found = fp8.compare(a.trace(), b.trace())
    assert found.first is None
    assert found.sampled_apart == ("fc.input",)
    (one,) = [one for one in found.differences if one.name == "fc.input"]
    assert np.isnan(one.amax_ratio)
    same = fp8.compare(b.trace(), b.trace())
    assert same.sampled_apart == ()


def test_what_was_not_looked_at_is_not_called_finite() -> None:
    made = Made()
    made.tensor(3, "fc.input", normal(), **WHOLE).tensor(3, "fc.weight", normal(seed=1))
    made.check(3, "fc.output", nans=2, operation="Linear", phase="forward")
    (origin,) = fp8.find_nonfinite(made.trace()).origins
    assert [read.name for read in origin.read] == ["fc.input", "fc.weight"]
    assert "only some rows of fc.input were looked at: record it again with all rows" in advice(origin)
    story = "\n".join(fp8_nan._story(origin))
    assert "finite in the 8,192 of 65,536 elements looked at, amax" in story
