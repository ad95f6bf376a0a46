"""The first tensor that is not finite is found, with what made it, or the two observations that it lies between."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.fp8.made import Made
from tests.fp8.two_linears import origin, step
from tetrace.errors import InputError
from tetrace.fp8.health import check_health
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.trace.trace import Metadata, Trace

ROOT = Path(__file__).parents[2]


def test_nothing_is_found_where_all_is_finite() -> None:
    found = find_nonfinite(step(step(Made(), 0), 1).trace())
    assert (found.origins, found.observations, found.steps, found.checked) == ((), 26, (0, 1), True)


@pytest.mark.parametrize(
    ("bad", "made_by", "read", "between"),
    [
        ("a.output", "forward of a", ["a.input", "a.weight"], ""),
        ("b.output", "forward of b", ["b.input", "b.weight"], ""),
        ("b.weight.gradient", "weight gradient GEMM of b", ["b.input", "b.grad_output"], ""),
        ("a.weight.parameter", "optimizer step", ["a.weight.gradient"], ""),
        ("b.input", "", [], "a.output"),
        ("(loss).loss", "", [], "b.output"),
        ("b.grad_output", "", [], "(loss)"),
        ("a.grad_output", "", [], "b.grad_output"),
        ("a.input", "", [], "b.weight.parameter"),
        ("b.weight", "", [], "b.weight.parameter"),
    ],
)
def test_the_operation_that_made_it(bad: str, made_by: str, read: list[str], between: str) -> None:
    found = origin(bad)
    assert (found.made_by, [one.name for one in found.read]) == (made_by, read)
    assert (found.before.name if found.before else "") == between
    assert all(one.finite for one in found.read)


@pytest.mark.parametrize(
    ("bad", "made_by", "read"),
    [
        ("core.o", "forward of core", ["core.qkv"]),
        ("proj.grad_input", "input gradient GEMM of proj", ["proj.weight", "proj.grad_output"]),
        ("core.dqkv", "backward of core", ["core.qkv", "core.o"]),
        ("core.qkv", "", []),
    ],
)
def test_what_attention_in_fp8_and_the_gemms_around_it_made(bad: str, made_by: str, read: list[str]) -> None:
    """`dO` is what the projection's GEMM wrote: attention quantizes none."""
    run, begun = Made(), False
    order = ("core.qkv", "core.o", "proj.weight", "proj.grad_output", "proj.grad_input", "core.dqkv")
    for place, name in enumerate(order):
        begun |= name == bad
        run.tensor(0, name, [1.0, 0.5], phase="forward" if place < 3 else "backward", nans=3 if begun else 0)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name, found.made_by, [one.name for one in found.read]) == (bad, made_by, read)


def test_what_an_operation_read_that_was_bad_already() -> None:
    """An operand of the first step that was looked at: the result is not the origin, the operand is."""
    run = Made().tensor(0, "a.input", [np.nan, 1.0]).tensor(0, "a.weight", [1.0]).check(0, "a.output", nans=2)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name, found.made_by, found.before) == ("a.input", "", None)
    assert [one.name for one in found.next] == ["a.output"]


def test_how_far_it_went() -> None:
    found = origin("b.output")
    assert [one.name for one in found.next[:3]] == ["(loss)", "b.grad_output", "a.grad_output"]
    assert (found.tensors, found.last_step) == (8, 2)


def test_numbers_of_an_infinity_that_was_planted() -> None:
    """An Inf in one activation of layer 2 at step 7."""
    run = Made()
    for number in range(10):
        for layer in range(4):
            values = np.full((8, 8), 2.0 + number, np.float32)
            if (number, layer) == (7, 2):
                values[3, 3] = np.inf
            run.tensor(number, f"layers.{layer}.mlp.fc1.input", values)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name, found.tensor.step) == ("layers.2.mlp.fc1.input", 7)
    assert (found.tensor.infs, found.tensor.nans, found.tensor.elements) == (1, 0, 64)
    assert found.before is not None
    assert (found.before.name, found.before.amax) == ("layers.1.mlp.fc1.input", 9.0)
    assert found.before_amax == ((2, 4.0), (3, 5.0), (4, 6.0), (5, 7.0), (6, 8.0))


def test_each_stretch_of_steps_has_its_origin() -> None:
    run = Made()
    for number, bad in enumerate(("", "a.input", "a.weight", "", "b.weight", "")):
        step(run, number, bad)
    found = find_nonfinite(run.trace()).origins
    assert [(one.tensor.name, one.tensor.step, one.last_step) for one in found] == [
        ("a.input", 1, 2),
        ("b.weight", 4, 4),
    ]


def test_recompute_is_said_to_be_one() -> None:
    run = Made().tensor(0, "a.input", [1.0]).tensor(0, "a.input", [1.0], phase="recompute")
    run.check(0, "a.output", nans=1, phase="recompute")
    (found,) = find_nonfinite(run.trace()).origins
    assert found.made_by == "forward of a again, in recompute"


def test_parameters_of_one_module_are_told_apart() -> None:
    run = Made()
    for name in ("fc1_weight", "fc2_weight"):
        run.tensor(0, "a.grad_output", [1.0], phase="backward", module="a", role=f"{name[:3]}.grad_output")
    for role, bad in (("gradient", ""), ("parameter", "fc2_weight")):
        for name in ("fc1_weight", "fc2_weight"):
            run.check(0, f"a.{role}", nans=int(name == bad), phase="optimizer", operation=name)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name, [one.name for one in found.read]) == (
        "a.fc2_weight.parameter",
        ["a.fc2_weight.gradient"],
    )


def test_operands_of_one_gemm_of_several() -> None:
    run = Made()
    for part in ("fc1", "fc2"):
        run.tensor(0, "a.x", [1.0], role=f"{part}.input").tensor(0, "a.x", [1.0], role=f"{part}.grad_output")
    run.check(0, "a.gradient", nans=1, phase="optimizer", operation="fc2_weight")
    (found,) = find_nonfinite(run.trace()).origins
    assert [one.name for one in found.read] == ["a.fc2.input", "a.fc2.grad_output"]


def test_gradients_that_are_looked_at_together_are_told_by_backward() -> None:
    """Parameters come in the order of forward; the gradient of the last layer is made first."""
    run = Made()
    for layer in "cba":
        run.tensor(0, f"{layer}.grad_output", [1.0], phase="backward")
    for layer in "abc":
        run.check(0, f"{layer}.gradient", nans=int(layer != "c"), phase="optimizer", operation="weight")
    (found,) = find_nonfinite(run.trace()).origins
    assert found.tensor.name == "b.weight.gradient"


def test_inspection_that_switched_itself_off() -> None:
    """As the recorder says it, of each process; what came after is not known to be finite."""
    said = "FP8 inspection switched itself off in step "
    trace = step(Made(), 0).trace()
    notices = (
        "something else",
        f"{said}12 (ValueError: no); training goes on",
        f"{said}3 (ValueError: no) (in 2 processes)",
    )
    assert find_nonfinite(trace).switched_off is None
    stopped = dataclasses.replace(trace, metadata=dataclasses.replace(trace.metadata, notices=notices))
    assert find_nonfinite(stopped).switched_off == 3
    assert check_health(stopped).verdict.endswith("13 tensors in 1 step (inspection switched itself off in step 3).")
    assert said in (ROOT / "tetrace/instrument/fp8_inspection.py").read_text()


def test_unknown_counts_are_no_nan() -> None:
    run = Made().tensor(0, "a.input", [1.0], nans=-1, infs=-1)
    assert find_nonfinite(run.trace()).origins == ()


def test_a_recording_without_statistics() -> None:
    with pytest.raises(InputError, match="record with `tetrace record --fp8"):
        find_nonfinite(Trace(Metadata("a.tetrace", "test"), {}))


def test_the_table_is_pandas() -> None:
    table = find_nonfinite(step(step(Made(), 0), 1, "b.output").trace()).table
    assert table[["module", "role", "step", "made_by"]].to_numpy().tolist() == [["b", "output", 1, "forward of b"]]
