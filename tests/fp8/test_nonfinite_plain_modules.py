"""What is found where nothing is quantized: gradients of plain modules, and what torch.compile took."""

from __future__ import annotations

import pytest

from tests.fp8.made import Made
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.nonfinite_advice import advice
from tetrace.fp8.origins import Origin


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
