"""Dimensions that FP8 GEMMs take and refuse: as Transformer Engine checks them, for a model and for a recording."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tetrace
from tests.fp8.models import (
    BasicLinear,
    LayerNormLinear,
    Linear,
    grouped_linear,
    language_model,
    layer_norm_mlp,
    operation,
)
from tests.traces import Recording
from tetrace.errors import UsageError
from tetrace.fp8.recorded_shapes import recorded_shapes
from tetrace.fp8.shape_rules import RULES, SCALINGS
from tetrace.fp8.shapes import ShapeReport, check_shapes

LEADING_A = "RuntimeError: Leading dimension requirement on A for FP8 GEMM. Caller must pad."
LEADING_B = "RuntimeError: Leading dimension requirement on B for FP8 GEMM. Caller must pad."
BLOCK_LEADING = "RuntimeError: Leading dimension requirement on NVTE_BLOCK_SCALING GEMM. Caller must pad."
DIMS = (
    "ValueError: FP8 execution requires the product of all dimensions except the last to be divisible by 8 and the last "
    "dimension to be divisible by 16, but got tensor with dims="
)


def failures(found: ShapeReport) -> list[tuple[str, str, str, int, int, int]]:
    return [(r.module, r.gemm, r.dimension, r.value, r.divisor, r.padded) for r in found.failures]


def test_a_model_that_fits() -> None:
    found = check_shapes(language_model(50304), 4096)
    assert found.failures == ()
    assert str(found) == "All 20 dimensions of FP8 GEMMs fit."
    assert [(r.module, r.gemm, r.dimension, r.value, r.divisor) for r in found.rows[:5]] == [
        ("qkv", "fprop", "tokens", 4096, 8),
        ("qkv", "fprop", "in_features", 768, 16),
        ("qkv", "fprop", "out_features", 2304, 8),
        ("qkv", "dgrad", "out_features", 2304, 16),
        ("qkv", "wgrad", "tokens", 4096, 16),
    ]


def test_the_vocabulary_of_gpt2_fails_in_backward_and_a_padded_one_does_not() -> None:
    """The study has it that 50264 fails because 32 does not divide it; 16 is enough, and forward takes it."""
    found = check_shapes(language_model(50264), 4096)
    assert failures(found) == [("lm_head", "dgrad", "out_features", 50264, 16, 50272)]
    assert found.raises("lm_head") is found.raises()
    assert found.failures[0].error == LEADING_A
    assert str(found) == (
        f"lm_head: out_features=50264 is not divisible by 16 (dgrad, backward); use 50272. {LEADING_A}"
    )
    assert not check_shapes(language_model(50272), 4096).failures
    assert not check_shapes(language_model(50304), 4096).failures


def test_an_odd_vocabulary_fails_in_forward() -> None:
    (first, second) = check_shapes(language_model(50257), 4096).failures
    assert (first.phase, first.padded, second.phase, second.padded) == ("forward", 50272, "backward", 50272)
    assert first.error == f"{DIMS}[50257, 768] (product of leading dims = 50257, last dim = 768)"


def test_a_model_without_transformer_engine_would_not_run_in_fp8() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 8))
    assert str(check_shapes(model, 16)) == (
        "Nothing would run in FP8: none of the model's 2 linears is Transformer Engine's; make them te.Linear, under te.autocast."
    )
    assert str(check_shapes(torch.nn.ReLU(), 16)) == "Nothing would run in FP8: the model has no linear."


def test_a_head_of_torch_is_outside_fp8() -> None:
    found = check_shapes(language_model(50264, torch.nn.Linear), 4096)
    assert (found.failures, found.raises()) == ((), None)
    assert [(r.module, r.dimension, r.padded) for r in found.outside] == [("lm_head", "out_features", 50272)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (7, [("fprop", 8), ("wgrad", 16)]),
        (8, [("wgrad", 16)]),
        (16, []),
        (24, [("wgrad", 16)]),
        (4096, []),
    ],
)
def test_tokens_of_eight_pass_forward_and_fail_in_backward(tokens: int, expected: list[tuple[str, int]]) -> None:
    found = check_shapes(Linear(64, 64), tokens)
    assert [(row.gemm, row.divisor) for row in found.failures] == expected
    assert {row.padded for row in found.failures} <= {-(-tokens // 16) * 16}


@pytest.mark.parametrize(
    ("made", "recipe", "tokens", "expected"),
    [
        (lambda: Linear(24, 64), "delayed", 16, [("fprop", "in_features")]),
        (lambda: LayerNormLinear(64, 24), "current", 16, [("dgrad", "out_features")]),
        (lambda: layer_norm_mlp(64, 24), "delayed", 16, [("dgrad", "out_features"), ("fprop", "in_features")]),
        (lambda: layer_norm_mlp(64, 24, gated=True), "delayed", 16, [("fprop", "in_features")]),
        (lambda: BasicLinear(64, 64), "delayed", 24, [("wgrad", "tokens")]),
        (lambda: BasicLinear(64, 64), "delayed", 7, [("wgrad", "tokens")]),
        (lambda: BasicLinear(64, 20), "delayed", 16, [("fprop", "out_features"), ("dgrad", "out_features")]),
        (lambda: BasicLinear(64, 64), "block", 7, [("fprop", "tokens"), ("wgrad", "tokens")]),
        (lambda: Linear(64, 24), "block", 24, [("dgrad", "out_features"), ("wgrad", "tokens")]),
        (lambda: Linear(48, 64), "mxfp8", 16, [("fprop", "tokens"), ("fprop", "in_features")]),
        (lambda: Linear(64, 64), "mxfp8", 32, []),
        (lambda: Linear(64, 48), "nvfp4", 24, [("fprop", "tokens")]),
        (lambda: grouped_linear(2, 64, 64), "nvfp4", 64, [("fprop", "tokens")]),
        (lambda: grouped_linear(2, 64, 64), "delayed", 8, [("wgrad", "tokens")]),
    ],
)  # fmt: skip
def test_rules_by_module_and_recipe(
    made: Callable[[], torch.nn.Module], recipe: str, tokens: int, expected: list[tuple[str, str]]
) -> None:
    # Made here: modules that live on would be taken for another test's model by what names modules.
    found = check_shapes(made(), tokens, recipe=recipe).failures
    assert [(row.gemm, row.dimension) for row in found] == expected


def test_the_second_weight_of_an_mlp_is_what_is_refused() -> None:
    found = check_shapes(layer_norm_mlp(128, 24), 64).raises()
    assert found is not None
    assert (found.module, found.error) == ("fc2", f"{DIMS}[128, 24] (product of leading dims = 128, last dim = 24)")


def test_backward_fails_in_the_last_module_first() -> None:
    model = torch.nn.ModuleDict({"first": Linear(64, 24), "last": Linear(64, 40)})
    assert str(getattr(check_shapes(model, 24).raises(), "module", "")) == "last"
    assert getattr(check_shapes(model, 24).raises("first"), "gemm", "") == "dgrad"
    assert getattr(check_shapes(model, 7).raises(), "module", "") == "first"


def test_errors_by_recipe() -> None:
    said = {recipe: check_shapes(Linear(64, 24), 24, recipe=recipe).failures[-1].error for recipe in SCALINGS}
    assert said == {
        "delayed": LEADING_A,
        "current": LEADING_A,
        "block": BLOCK_LEADING,
        "mxfp8": "RuntimeError: MXFP8 requires tensor dims that are divisible by 32",
        "nvfp4": "RuntimeError: NVFP4 requires tensor dims that are divisible by 16",
    }


@pytest.mark.parametrize(
    ("version", "forward", "backward"),
    [
        ("2.20.2", "ValueError: FP8 execution requires the product", LEADING_A),
        ("2.14.0", "ValueError: FP8 execution requires the product", LEADING_A),
        ("2.13.0", "AssertionError: FP8 execution requires the product", LEADING_A),
        (
            "2.8.0+cu12",
            "AssertionError: FP8 execution requires the product",
            "RuntimeError: Unable to find suitable cuBLAS",
        ),
        ("1.13.0", "AssertionError: FP8 execution requires 2D input", "RuntimeError: Unable to find any suitable algo"),
        ("9.0", "ValueError: FP8 execution requires the product", LEADING_A),
    ],
)
def test_errors_by_version(version: str, forward: str, backward: str) -> None:
    found = check_shapes(Linear(64, 64), 12, version=version).failures
    assert [row.error[: len(text)] for row, text in zip(found, (forward, backward), strict=True)] == [forward, backward]


def test_blackwell_sums_over_any_number_of_tokens() -> None:
    """Its FP8 GEMMs take both layouts: no leading dimension is a number of tokens."""
    found = check_shapes(Linear(64, 24), 24, capability=100).failures
    assert [(row.gemm, row.dimension, row.error) for row in found] == [("dgrad", "out_features", LEADING_B)]


def test_a_frozen_weight_has_no_wgrad() -> None:
    model = Linear(64, 64)
    model.weight.requires_grad_(False)
    assert not check_shapes(model, 24).failures


def test_an_operation_is_the_linear_that_it_holds() -> None:
    found = check_shapes(operation(64, 64), 7)
    assert [(row.module, row.gemm, row.dimension) for row in found.failures] == [("basic_ops.0", "wgrad", "tokens")]


def test_a_linear_whose_weight_is_in_parts() -> None:
    """As attention's projection with separate query, key and value."""
    parts = {f"{name}_weight": (8, 64) for name in ("query", "key", "value")}
    model = LayerNormLinear(64, 24, **parts, layer_norm_weight=(64,))
    assert [(row.gemm, row.value) for row in check_shapes(model, 24).failures] == [("dgrad", 24), ("wgrad", 24)]


def test_tokens_by_module_and_group() -> None:
    model = torch.nn.ModuleDict({"dense": Linear(64, 64), "experts": grouped_linear(3, 64, 64)})
    found = check_shapes(model, {"*": 64, "experts": [32, 0, 24, 32]})
    assert failures(found) == [("experts", "wgrad", "tokens", 24, 16, 32)]


@pytest.mark.parametrize(
    "recipe", ["DelayedScaling", "delayed", type("DelayedScaling", (), {}), type("DelayedScaling", (), {})()]
)
def test_recipes_by_name_class_and_object(recipe: Any) -> None:
    assert check_shapes(Linear(64, 64), 8, recipe=recipe).rows[0].scaling == "delayed"


@pytest.mark.parametrize(
    ("tokens", "recipe", "says"),
    [
        (-8, "delayed", "tokens=-8"),
        (True, "delayed", "tokens=True"),
        ("8", "delayed", "tokens='8'"),
        ([], "delayed", "tokens="),
        (0, "delayed", "tokens=0"),
        ({"layers.*": 8}, "delayed", "says nothing of module (model)"),
        (8, "fp8", "recipe fp8: not known; give delayed"),
        (8, None, "recipe NoneType: not known"),
    ],
)
def test_what_cannot_be_checked_is_one_line(tokens: Any, recipe: Any, says: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_shapes(Linear(64, 64), tokens, recipe=recipe)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("model", "is_a"), [([1], "list"), (None, "NoneType"), (Linear, "class Linear")])
def test_what_is_no_model_is_one_line(model: Any, is_a: str) -> None:
    with pytest.raises(UsageError, match=f"the model is a {is_a}; give a torch.nn.Module"):
        check_shapes(model, tokens=8)


def test_as_a_table() -> None:
    table = check_shapes(language_model(50264), 4096).to_pandas()
    assert table[table.error != ""][["module", "padded"]].values.tolist() == [["lm_head", 50272]]
    assert tetrace.fp8.check_shapes is check_shapes


@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.sampled_from(SCALINGS), st.sampled_from([90, 100])
)
def test_what_is_padded_as_said_fits(tokens: int, inner: int, outer: int, recipe: str, capability: int) -> None:
    """And nothing smaller does: the padded value is the least that is large enough."""
    found = check_shapes(Linear(inner, outer), tokens, recipe=recipe, capability=capability)
    padded = {row.dimension: row.padded for row in found.rows}
    fitting = Linear(padded["in_features"], padded["out_features"])
    assert not check_shapes(fitting, padded["tokens"], recipe=recipe, capability=capability).failures
    for row in found.failures:
        assert row.value < row.padded < row.value + 128
        divisors = [rule.divisor for rule in RULES if rule.dimension == row.dimension and recipe in rule.scalings]
        assert row.padded - row.value < max(divisors)


def gemm(
    recording: Recording, role: str, shape: str, formats: str = "E4M3", module: str = "lm_head", **more: Any
) -> Recording:
    return recording.site(
        "gemm", f"gemm {role}", 10, 20, module=module, role=role, format=formats, shape=shape, dtype="bfloat16", **more
    )


def test_one_recorded_gemm_says_all_three() -> None:
    """A run that failed in backward has recorded its forward only."""
    recording = Recording().site("module", "lm_head", 0, 30, phase="forward", module="lm_head", **{"class": "Linear"})
    recording.site("quantize", "quantize input", 1, 2, module="lm_head", role="input", scaling="current")
    found = recorded_shapes(gemm(recording, "fprop", "4096x50264x768").trace())
    assert failures(found.report) == [("lm_head", "dgrad", "out_features", 50264, 16, 50272)]
    assert found.report.rows[0].scaling == "current"
    assert found.formats == {("lm_head", 4096, 768, 50264): {"fprop": "E4M3"}}
    assert not found.assumed


@pytest.mark.parametrize(("role", "shape"), [("fprop", "24x64x32"), ("dgrad", "24x32x64"), ("wgrad", "64x32x24")])
def test_every_role_says_the_same_linear(role: str, shape: str) -> None:
    found = recorded_shapes(gemm(Recording(), role, shape, "bfloat16").trace())
    assert [row.value for row in found.report.rows if row.gemm == "wgrad"] == [24]
    assert list(found.formats) == [("lm_head", 24, 32, 64)]
    assert found.assumed


def test_recipe_of_the_autocast_and_of_the_user() -> None:
    recording = Recording().site("autocast", "autocast", 0, 30, recipe="Float8BlockScaling", enabled=True)
    trace = gemm(recording, "fprop", "24x64x64").trace()
    assert {row.scaling for row in recorded_shapes(trace).report.rows} == {"block"}
    assert {row.scaling for row in recorded_shapes(trace, "mxfp8").report.rows} == {"mxfp8"}


def test_a_recording_without_gemms_is_refused() -> None:
    with pytest.raises(UsageError, match="no GEMM of Transformer Engine was recorded"):
        recorded_shapes(Recording().range("forward", 0, 1).trace())


def test_rules_are_declared_once() -> None:
    """No divisor outside the table: what checks only reads it."""
    for name in ("shapes", "recorded_shapes"):
        tree = ast.parse((Path(tetrace.__file__).parent / "fp8" / f"{name}.py").read_text(encoding="utf-8"))
        numbers = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        assert not numbers & {8, 16, 32, 128}
