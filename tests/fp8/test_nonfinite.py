"""The first tensor that is not finite is found, with what made it, or the two observations that it lies between."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.fp8.made import Made
from tetrace.errors import InputError
from tetrace.fp8.health import check_health
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.nonfinite_advice import advice
from tetrace.fp8.origins import Origin
from tetrace.trace.trace import Metadata, Trace

ROOT = Path(__file__).parents[2]


def step(run: Made, number: int, bad: str = "", process: int = 0, infs: int = 0) -> Made:
    """Two linears forward and backward, and the optimizer; from the tensor `bad` on everything is NaN (or `infs` Inf)."""
    begun = False

    def counted(name: str) -> dict[str, int]:
        nonlocal begun
        first = name == bad
        begun |= first
        return {"infs": infs} if first and infs else {"nans": 3} if begun else {}

    def quantized(name: str, phase: str = "forward") -> None:
        values = [1.0, 0.5, 0.25, 0.125]
        run.tensor(number, name, values, phase=phase, process=process, **counted(name))

    for layer in ("a", "b"):
        quantized(f"{layer}.input")
        quantized(f"{layer}.weight")
        run.check(number, f"{layer}.output", process=process, **counted(f"{layer}.output"))
    run.check(number, "(loss).loss", elements=1, process=process, **counted("(loss).loss"))
    for layer in ("b", "a"):
        quantized(f"{layer}.grad_output", "backward")
    for role in ("gradient", "parameter"):
        for layer in ("a", "b"):
            columns = {"phase": "optimizer", "operation": "weight", "process": process}
            run.check(number, f"{layer}.{role}", **columns, **counted(f"{layer}.weight.{role}"))
    return run


def origin(bad: str, infs: int = 0) -> Origin:
    """The origin that is found where `bad` is the first of step 2."""
    run = step(step(step(Made(), 0), 1), 2, bad, infs=infs)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name.replace("(loss)", "(loss).loss"), found.tensor.step) == (bad, 2)
    return found


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


def test_the_first_of_several_ranks_by_its_place_in_the_step() -> None:
    """Orders of ranks cannot be compared: one has counted far more observations."""
    run = Made()
    for _ in range(3):
        step(run, 0, process=0)
    step(run, 0, process=1)
    step(run, 1, "b.output", process=0)
    step(run, 1, "a.output", process=1)
    (found,) = find_nonfinite(run.trace()).origins
    assert (found.tensor.name, found.rank, found.tensors) == ("a.output", "rank 1", 11)


class TestStagesOfAPipeline:
    """Ranks that hold different modules: the place in a step of one says nothing of another's."""

    @staticmethod
    def stage(run: Made, step: int, process: int, layers: str, bad: str = "", phase: str = "forward") -> None:
        """What a rank reads of one micro-batch; all is NaN from layer `bad` on."""
        role = "input" if phase == "forward" else "grad_output"
        begun = False
        for layer in layers:
            begun |= layer == bad
            run.tensor(step, f"{layer}.{role}", [1.0, np.nan if begun else 2.0], process=process, phase=phase)

    @staticmethod
    def found(run: Made) -> Origin:
        (origin,) = find_nonfinite(run.trace()).origins
        return origin

    def test_the_one_that_had_something_finite_before(self) -> None:
        run = Made()
        self.stage(run, 7, 0, "abcdefghij", bad="i")
        self.stage(run, 7, 1, "klmn", bad="k")
        found = self.found(run)
        assert (found.tensor.name, found.rank, found.received_from, found.tensors) == ("i.input", "rank 0", (), 6)
        assert found.before is not None
        assert found.before.name == "h.input"

    def test_a_later_micro_batch(self) -> None:
        """The second stage has read a finite one before, and fewer tensors."""
        run = Made()
        for bad_here, bad_there in (("", ""), ("i", "k")):
            self.stage(run, 7, 0, "abcdefghij", bad_here)
            self.stage(run, 7, 1, "klmn", bad_there)
        assert self.found(run).tensor.name == "i.input"

    def test_what_was_made_on_the_second_stage(self) -> None:
        run = Made()
        self.stage(run, 7, 0, "ab")
        self.stage(run, 7, 1, "klmn", bad="n")
        run.check(7, "(loss).loss", nans=1, process=1)
        self.stage(run, 7, 1, "nmlk", bad="n", phase="backward")
        self.stage(run, 7, 0, "ba", bad="b", phase="backward")
        assert (self.found(run).tensor.name, self.found(run).received_from) == ("n.input", ())

    def test_what_was_made_in_backward_of_the_last_stage(self) -> None:
        """Its backward begins with the loss, the other's with what it is sent."""
        run = Made()
        self.stage(run, 7, 0, "a")
        self.stage(run, 7, 1, "klmn")
        run.check(7, "(loss).loss", process=1)
        self.stage(run, 7, 1, "nmlk", bad="n", phase="backward")
        self.stage(run, 7, 0, "a", bad="a", phase="backward")
        assert (self.found(run).tensor.name, self.found(run).received_from) == ("n.grad_output", ())

    def test_a_batch_of_data_that_one_replica_read(self) -> None:
        """The other one has it from the gradients, which are reduced: it had far more that was finite."""
        run = Made()
        step(run, 7, bad="a.input", process=1)
        step(run, 7, bad="a.weight.gradient", process=0)
        found = self.found(run)
        assert (found.tensor.name, found.rank, found.received_from) == ("a.input", "rank 1", ())

    @pytest.mark.parametrize(("first", "stages", "says"), [(6, 2, "rank 0"), (7, 3, "rank 0 or rank 2")])
    def test_it_may_have_been_received_where_the_others_are_finite(self, first: int, stages: int, says: str) -> None:
        run = Made()
        for number in range(first, 8):
            for process, layers in enumerate(("ab", "kl", "xy")[:stages]):
                self.stage(run, number, process, layers, bad="k" if number == 7 else "")
        found = self.found(run)
        assert (found.tensor.name, found.rank, found.senders) == ("k.input", "rank 1", says)
        assert advice(found) == f"look at what {says} computes last, and what is sent from there"
        assert find_nonfinite(run.trace()).table["received_from"].tolist() == [says.replace(" or ", "; ")]

    def test_an_output_may_be_a_modules_own_doing(self) -> None:
        run = Made()
        for process, module in enumerate("ak"):
            run.check(7, f"{module}.output", nans=process, operation="Softmax", process=process)
        assert advice(self.found(run)).endswith(
            "in the steps before; or look at what rank 0 computes last, and what is sent from there"
        )

    def test_a_weight_is_received_from_nobody(self) -> None:
        run = Made().tensor(7, "a.weight", [1.0]).tensor(7, "k.weight", [np.nan], process=1)
        assert self.found(run).received_from == ()

    @pytest.mark.parametrize(
        ("ranks", "says"),
        [(0, ""), (1, "0"), (2, "0 or 1"), (3, "0, 1 or 2"), (4, "0, 1, 2 or 3"), (6, "0, 1, 2, 3 or 2 more")],
    )
    def test_many_ranks_in_words(self, ranks: int, says: str) -> None:
        changed = dataclasses.replace(origin("a.input"), received_from=tuple(map(str, range(ranks))))
        assert changed.senders == says


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


class TestGradientsOfPlainModules:
    """Of them no gradient of an output is seen: backward runs from the last forward to the first."""

    @staticmethod
    def run(bad: str, outputs: str = "abcd", gradients: str = "abcd", nans: int = 1) -> Made:
        run = Made()
        for layer in outputs:
            run.check(0, f"{layer}.output", operation="Linear", amax=2.0)
        run.check(0, "(loss).loss", elements=1, amax=0.5)
        for role in ("gradient", "parameter"):
            for layer in gradients:
                columns = {"phase": "optimizer", "operation": "weight"}
                run.check(0, f"{layer}.{role}", nans=nans if layer in bad else 0, **columns)
        return run

    @staticmethod
    def found(run: Made) -> Origin:
        (origin,) = find_nonfinite(run.trace()).origins
        return origin

    def test_the_last_forward_is_the_first_backward(self) -> None:
        found = self.found(self.run(bad="abc"))
        assert (found.tensor.name, found.backward_before) == ("c.weight.gradient", ("d",))
        assert (found.gradients, found.alone, found.wholly) == ((3, 4), False, False)
        assert [one.name for one in found.next[:3]] == ["b.weight.gradient", "a.weight.gradient", "a.weight.parameter"]

    def test_it_was_made_after_the_loss_not_after_another_gradient(self) -> None:
        found = self.found(self.run(bad="b"))
        assert found.before is not None
        assert (found.before.name, found.alone) == ("(loss)", True)

    def test_modules_without_a_forward_come_last_in_reverse(self) -> None:
        assert self.found(self.run(bad="abc", outputs="bd")).tensor.name == "b.weight.gradient"
        assert self.found(self.run(bad="abc", outputs="bd")).place_known
        found = self.found(self.run(bad="ac", outputs="bd"))
        assert (found.tensor.name, found.place_known) == ("c.weight.gradient", False)

    def test_the_order_is_that_of_forward_not_that_of_parameters(self) -> None:
        found = self.found(self.run(bad="abc", outputs="dcba"))
        assert (found.tensor.name, found.backward_before) == ("a.weight.gradient", ())

    def test_what_contains_others_uses_its_parameters_anywhere(self) -> None:
        """`a` and `Model`, the root, end last: their own parameters may be added to the first input."""
        run = Made()
        for layer in ("a.x", "a.y", "a", "Model"):
            run.check(0, f"{layer}.output", operation="Model" if layer == "Model" else "Linear")
        for layer in ("Model", "a", "a.x", "a.y"):
            run.check(0, f"{layer}.gradient", nans=int(layer != "a.y"), phase="optimizer", operation="weight")
        found = self.found(run)
        assert (found.tensor.name, found.backward_before) == ("a.x.weight.gradient", ("a.y",))

    def test_quantized_modules_in_their_order_among_plain_ones(self) -> None:
        run = Made()
        for layer in "abcd":
            run.check(0, f"{layer}.output", operation="Linear")
        for layer in "ac":  # their forwards overlap: backward began with `a`
            run.tensor(0, f"{layer}.grad_output", [1.0], phase="backward")
        for layer in "abcd":
            run.check(0, f"{layer}.gradient", nans=int(layer in "bc"), phase="optimizer", operation="weight")
        found = self.found(run)
        assert (found.tensor.name, found.backward_before) == ("b.weight.gradient", ("d", "a"))
        assert found.before is not None
        assert found.before.name == "d.output"

    def test_parameters_of_a_fused_module(self) -> None:
        """The gradient of `fc2` is made before that of `fc1`, that of the norm at the end."""
        names = ("layer_norm_weight", "fc1_weight", "fc2_weight")

        def first(bad: tuple[str, ...]) -> str:
            run = Made().check(0, "m.output", operation="LayerNormMLP")
            for part in ("fc2", "fc1"):
                run.tensor(0, "m.x", [1.0], phase="backward", role=f"{part}.grad_output")
            for name in names:
                run.check(0, "m.gradient", nans=int(name in bad), phase="optimizer", operation=name)
            return self.found(run).tensor.name

        assert first(names) == "m.fc2_weight.gradient"
        assert first(names[:2]) == "m.fc1_weight.gradient"
        assert first(names[:1]) == "m.layer_norm_weight.gradient"

    def test_two_optimizers_of_one_step(self) -> None:
        """The second reads its gradients after the first has changed its parameters."""
        run = self.run(bad="", outputs="abcd", gradients="ab")
        for layer in "cd":
            run.check(0, f"{layer}.gradient", nans=1, phase="optimizer", operation="weight")
        found = self.found(run)
        assert (found.tensor.name, found.gradients) == ("d.weight.gradient", (2, 2))
        assert found.before is not None
        assert found.before.name == "(loss)"

    def test_all_of_all_gradients_may_be_clipping(self) -> None:
        assert self.found(self.run(bad="abcd", nans=64)).wholly
        assert not self.found(self.run(bad="abcd", nans=63)).wholly

    def test_a_gradient_of_a_norm_is_made_by_no_gemm(self) -> None:
        run = Made().tensor(0, "a.input", [1.0]).tensor(0, "a.grad_output", [1.0], phase="backward")
        run.check(0, "a.gradient", nans=1, phase="optimizer", operation="layer_norm_weight")
        assert self.found(run).made_by == ""


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


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("abc", "look at what backward divides by (softmax, norm, sqrt); clipping cannot help"),
        ("c", "look at what writes to it (a hook, an operation in place)"),
    ],
)
def test_advice_on_gradients_of_plain_modules(bad: str, says: str) -> None:
    of = TestGradientsOfPlainModules
    assert advice(of.found(of.run(bad=bad))).startswith(says)


class TestACompiledModule:
    """Of what torch.compile took only the result is observed, and gradients and parameters."""

    @staticmethod
    def compiled(bad: str, *compiled: str) -> str:
        run = Made()
        for module in compiled:
            name = f"(compiled: {module})"
            for phase in ("forward", "backward"):
                run.site("compiled", name=name, module=name, phase=phase)
        for module in ("first", "M", "layers.0"):
            run.check(0, f"{module}.output", nans=int(bad == f"{module}.output"))
            run.site("module", name=module, module=module, phase="forward")
        for module in ("first", "inner", "layers.0.x"):
            nans = int(bad == f"{module}.gradient")
            run.check(0, f"{module}.gradient", nans=nans, phase="optimizer", operation="weight")
        (found,) = find_nonfinite(run.trace()).origins
        return found.compiled

    def test_its_own_result(self) -> None:
        assert self.compiled("M.output", "M") == "M"
        assert self.compiled("first.output", "M") == ""
        assert self.compiled("M.output") == ""

    def test_what_is_inside_it(self) -> None:
        assert self.compiled("layers.0.x.gradient", "layers.0", "M") == "layers.0"
        assert self.compiled("inner.gradient", "M") == "M"
        assert self.compiled("inner.gradient", "layers.0") == ""
        assert self.compiled("first.gradient", "M") == ""


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
