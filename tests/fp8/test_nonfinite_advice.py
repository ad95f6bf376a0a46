"""What is said to whoever has a tensor that is not finite: by the operation that made it, and what that read."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fp8.made import Made
from tests.fp8.two_linears import origin
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.nonfinite_advice import advice
from tetrace.fp8.origins import Origin


@pytest.mark.parametrize(
    ("bad", "infs", "dtype", "says"),
    [
        ("a.output", 1, "float16", "fp16 ends at 65,504"),
        ("a.output", 1, "bfloat16", "divides by or exponentiates"),
        ("a.weight.parameter", 0, "bfloat16", "learning rate"),
        ("a.weight.parameter", 0, "bfloat16", "its gradient was finite"),
        ("b.weight.gradient", 1, "float16", "clipping cannot help a gradient that is not finite itself"),
        ("(loss).loss", 0, "bfloat16", "labels"),
        ("a.grad_output", 0, "bfloat16", "backward"),
    ],
)
def test_advice(bad: str, infs: int, dtype: str, says: str) -> None:
    found = origin(bad, infs)
    changed = Origin(**{**vars(found), "dtype": dtype})
    assert says in advice(changed)


class TestALinear:
    """It multiplies and adds: its operands are named, not what it divides by."""

    @staticmethod
    def plain(steps: int = 2, weight: float = 0.2, read: float = 2.0) -> Made:
        """Two layers that quantize nothing, as plain torch is recorded: outputs, and parameters after each step."""
        run = Made()
        for number in range(steps):
            last = number == steps - 1
            run.check(number, "a.output", operation="ReLU", amax=read)
            run.check(number, "b.output", infs=int(last), operation="Linear", amax=1.0)
            columns = {"phase": "optimizer", "operation": "weight"}
            run.check(number, "b.parameter", nans=int(last), amax=weight, **columns)
        return run

    @staticmethod
    def found(run: Made) -> Origin:
        (origin,) = find_nonfinite(run.trace()).origins
        assert origin.tensor.name == "b.output"
        return origin

    def test_its_weight_is_named_before_and_after(self) -> None:
        found = self.found(self.plain())
        ((before, after),) = found.parameters
        assert before is not None
        assert after is not None
        assert (before.name, before.step, before.finite, before.amax) == ("b.weight.parameter", 0, True, 0.2)
        assert (after.step, after.nans) == (1, 1)
        assert advice(found) == (
            "Linear multiplies and adds, and what was seen of its operands is too small to overflow: b.weight was written to "
            "since step 0, or its input is another tensor than a.output"
        )

    def test_finite_parameters_are_not_blamed_where_the_input_was_not_observed(self) -> None:
        """The first layer is given a batch of data, which no cast and no output before it shows."""
        run = Made()
        for number in range(3):
            run.check(number, "a.output", infs=int(number == 2), operation="Linear", amax=1.0)
            run.check(number, "a.parameter", phase="optimizer", operation="weight", amax=0.2, nans=int(number == 2))
        (found,) = find_nonfinite(run.trace()).origins
        assert advice(found) == (
            "its parameters were finite after step 1 (amax 0.2), and what a is given in step 2 was not observed: a batch of "
            "data, or what runs before it"
        )

    def test_a_weight_that_nothing_saw_before(self) -> None:
        found = self.found(self.plain(steps=1))
        assert [before for before, _ in found.parameters] == [None]
        assert advice(found).endswith("look for what is not finite, or huge, in its b.weight")

    @pytest.mark.parametrize(
        ("read", "says"), [(18550.0, "fp16 ends at 65,504: train"), (2.0, "too small to overflow")]
    )
    def test_an_infinity_in_fp16(self, read: float, says: str) -> None:
        """It is an overflow where products can reach 65,504; else something wrote to an operand."""
        run = self.plain(read=read)
        for row in run.tensors:
            row["dtype"] = "float16"
        assert says in advice(self.found(run))

    @pytest.mark.parametrize(
        ("read", "says"),
        [
            (
                1e6,
                "; its number type was not recorded: if it is fp16, what was seen of its operands, b.weight.parameter (amax "
                "0.2) and a.output (amax 1e+06), can go beyond 65,504; if not: b.weight was written to since step 0, or",
            ),
            (
                2.0,
                "b.weight.parameter (amax 0.2) and a.output (amax 2), cannot even reach 65,504, where fp16 ends: b.weight",
            ),
        ],
    )
    def test_older_recordings_do_not_name_number_types(self, read: float, says: str) -> None:
        run = self.plain(read=read)
        for row in run.tensors:
            row["dtype"] = ""
        said = advice(self.found(run))
        assert says in said
        assert "too small to overflow" not in said

    def test_a_large_operand_is_named(self) -> None:
        assert "the largest that it read is b.weight.parameter (amax 1e+30)" in advice(
            self.found(self.plain(weight=1e30, read=1e10))
        )
        assert "the largest that it read is a.output (amax 1e+38)" in advice(
            self.found(self.plain(weight=10.0, read=1e38))
        )

    def test_what_it_quantized_is_what_it_read(self) -> None:
        run = Made().check(0, "a.parameter", phase="optimizer", operation="weight", amax=1.0)
        run.check(0, "a.parameter", phase="optimizer", operation="bias", amax=1.0)
        run.tensor(1, "a.input", [2.0]).tensor(1, "a.weight", [1.0])
        run.check(1, "a.output", nans=1, operation="Linear")
        (found,) = find_nonfinite(run.trace()).origins
        assert [one.name for one in found.read] == ["a.input", "a.weight"]
        assert advice(found).endswith("too small to overflow: a.bias was written to since step 0")

    @pytest.mark.parametrize(
        ("operation", "says"),
        [
            ("LayerNorm", "LayerNorm divides by the root"),
            ("Embedding", "rows of its weight"),
            ("Softmax", "exponentiates"),
        ],
    )
    def test_of_other_operations(self, operation: str, says: str) -> None:
        (found,) = find_nonfinite(Made().check(0, "a.output", nans=1, operation=operation).trace()).origins
        assert says in advice(found)

    def test_a_weight_that_was_finite_after_the_optimizer(self) -> None:
        assert "it was finite after step 1: look at what wrote to it since" in advice(origin("b.weight"))

    def test_a_weight_that_was_not_looked_at_after_the_optimizer(self) -> None:
        """The optimizer may have written to it."""
        run = Made().tensor(0, "a.weight", [1.0]).tensor(1, "a.weight", [1.0], nans=1)
        (found,) = find_nonfinite(run.trace()).origins
        assert advice(found).startswith("look at the gradient and the learning rate of the step before")

    def test_a_parameter_that_was_seen_in_later_steps_only_is_not_told(self) -> None:
        run = Made().check(0, "a.output", nans=1, operation="Linear")
        run.check(1, "a.parameter", phase="optimizer", operation="weight")
        (found,) = find_nonfinite(run.trace()).origins
        assert found.parameters == ()


class TestParametersThatJumped:
    """A learning rate that is far too large leaves parameters finite; the next forward is not."""

    @staticmethod
    def run(after: float = 9e37, before: float = 1.0, gap: int = 1) -> Origin:
        run = Made()
        for number in (0, gap, gap + 1):
            run.check(number, "e.output", operation="Embedding", amax=after if number > gap else 2.0)
            run.check(number, "n.output", operation="LayerNorm", nans=int(number > gap), amax=2.0)
            for layer in "em":
                columns = {"phase": "optimizer", "operation": "weight"}
                run.check(number, f"{layer}.gradient", amax=0.1, nans=int(number > gap), **columns)
            for layer in "emn":
                columns = {"phase": "optimizer", "operation": "weight"}
                grown = (10 if layer == "m" else 1) * after if number == gap else before
                run.check(number, f"{layer}.parameter", amax=grown, nans=int(number > gap), **columns)
        (found,) = find_nonfinite(run.trace()).origins
        assert found.tensor.name == "n.output"
        return found

    def test_the_optimizer_is_blamed_not_the_norm(self) -> None:
        assert advice(self.run()) == (
            "the optimizer did it in step 1: n.weight.parameter went from amax 1 to 9e+37, and 2 more parameters jumped too, "
            "with no NaN seen: look at the learning rate of that step, and at the size of its gradients"
        )

    def test_what_grew_before_the_optimizer_is_named_first(self) -> None:
        """A weight that was written to between two steps, of which the optimizer then took another one far."""
        run = Made()
        for step in range(3):
            run.tensor(step, "a.weight", [1e6 if step == 1 else 0.5], scale=1.0)
            run.check(step, "a.output", operation="Linear", nans=int(step == 2), amax=2.0)
            for layer in "ab":
                grown = 3e9 if step == 1 and layer == "b" else 0.5
                run.check(step, f"{layer}.parameter", phase="optimizer", operation="weight", amax=grown)
        (found,) = find_nonfinite(run.trace()).origins
        assert advice(found).startswith(
            "a.weight grew first: its amax went from 0.5 in step 0 to 1e+06 in step 1, before the optimizer's step, which then "
            "took b.weight.parameter from 0.5 to 3e+09: look at what changed it"
        )

    def test_its_own_first_then_those_that_grew_most(self) -> None:
        names = [now.name for _, now in self.run().jumped]
        assert names == ["n.weight.parameter", "m.weight.parameter", "e.weight.parameter"]

    def test_steps_that_were_not_looked_at(self) -> None:
        assert "the optimizer did it in steps 1 to 4:" in advice(self.run(gap=4))

    @pytest.mark.parametrize(("before", "after"), [(1.0, 99.0), (0.0, 9.0), (1e-6, 0.09), (np.nan, 9.0)])
    def test_what_is_no_jump(self, before: float, after: float) -> None:
        assert self.run(after, before).jumped == ()

    def test_a_gradient_is_blamed_on_no_parameter(self) -> None:
        """Backward made it, after a forward that was finite."""
        run = Made()
        for number, amax in enumerate((1.0, 1e9)):
            run.check(number, "a.output", operation="Linear")
            run.check(number, "a.parameter", phase="optimizer", operation="weight", amax=amax)
        run.check(2, "a.gradient", phase="optimizer", operation="weight", nans=1)
        (found,) = find_nonfinite(run.trace()).origins
        assert found.jumped == ()


class TestANorm:
    """Squares of what it read overflow only where that is huge."""

    @staticmethod
    def advice(amax: float | None, dtype: str = "float32") -> str:
        run = Made().check(0, "n.parameter", phase="optimizer", operation="weight", amax=1.0)
        if amax is not None:
            run.check(1, "a.output", operation="Block", amax=amax)
        run.check(1, "n.output", nans=1, operation="LayerNorm", dtype=dtype)
        (found,) = find_nonfinite(run.trace()).origins
        return advice(found)

    def test_of_something_small(self) -> None:
        assert self.advice(2.7) == (
            "LayerNorm divides by the root of a variance, and squares of what was seen before it (a.output, amax 2.7) cannot "
            "overflow: n.weight was written to since step 0, or its input is another tensor than a.output"
        )

    @pytest.mark.parametrize(
        ("amax", "says"),
        [
            (
                1e3,
                "if it is fp16, squares of what was seen before it, a.output (amax 1e+03), can go beyond 65,504; if not: n.",
            ),
            (
                2.7,
                "a.output (amax 2.7), cannot even reach 65,504, where fp16 ends: n.weight was written to since step 0",
            ),
        ],
    )
    def test_of_an_unknown_number_type(self, amax: float, says: str) -> None:
        assert says in self.advice(amax, dtype="")

    def test_of_something_huge(self) -> None:
        says = "squares of what it read can overflow: a.output (amax 1e+20): look at how it grew"
        assert self.advice(1e20).endswith(says)

    def test_of_what_was_not_observed(self) -> None:
        assert "look for what is not finite, or so large" in self.advice(None)

    def test_a_linear_behind_it_that_quantized_what_it_made(self) -> None:
        run = Made().tensor(0, "a.input", [1.0]).tensor(0, "a.weight", [1.0])
        run.check(0, "a.output", nans=1, operation="LayerNormLinear")
        (found,) = find_nonfinite(run.trace()).origins
        assert advice(found).startswith("LayerNormLinear multiplies and adds")
