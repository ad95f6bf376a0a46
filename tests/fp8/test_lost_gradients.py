"""Gradients that are lost in the steps before their first scale."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fp8.made import Made
from tests.fp8.test_health import RECORDINGS, problems
from tetrace.fp8.flags import share_words
from tetrace.fp8.health import check_health
from tetrace.trace import store

GRADIENT = np.linspace(-2.4e-4, 2.4e-4, 64)  # all below half of E4M3's smallest value


class TestGradientsLost:
    """Gradients that become zero while their scale is still 1."""

    @staticmethod
    def chain(first: np.ndarray = GRADIENT, number_format: str = "E4M3") -> Made:
        """Three gradients, c's first: each has a scale one step later than the one before it, since it was zero until then."""
        run, scale = Made(), 448 / 2.4e-4
        for step in range(5):
            for place, name in enumerate(("c.grad_output", "b.grad_output", "a.fc1.grad_output")):
                values = first if step >= place else np.zeros(64)
                run.tensor(
                    step, name, values, scale=scale if step > place else 1.0, format=number_format, phase="backward"
                )
            run.tensor(step, "a.input", [2.0, 1.0], scale=224.0 if step else 1.0)
        return run

    def test_the_first_of_them_with_all_steps(self) -> None:
        (found,) = problems(self.chain())
        assert (found.kind, found.level, found.name, found.first_step, found.last_step, found.steps, found.number) == (
            "lost_gradients", "warning", "c.grad_output", 0, 2, 3, 1.0,
        )  # fmt: skip
        assert found.evidence == (
            "3 of 3 gradients in step 0, 2 in step 1, 1 in step 2, before their first scale; the first of them: amax 0.00024 "
            "at scale 1, 64 of 64 elements become zero"
        )
        assert found.tensors == 3
        assert "Format.HYBRID" in found.advice
        assert "current scaling" in found.advice
        assert not check_health(self.chain().trace()).healthy

    def test_what_leaves_something_is_a_note(self) -> None:
        """A few large elements hold all of the gradient: nothing is zero after it."""
        values = np.append(np.full(60, 1e-7), np.full(4, 0.25))
        run = Made()
        for step in range(2):
            run.tensor(step, "b.grad_output", values, scale=448 * 4.0 if step else 1.0, format="E5M2")
            run.tensor(step, "a.grad_output", np.full(64, 0.25), scale=448 * 4.0 if step else 1.0, format="E5M2")
        found, *_ = [one for one in problems(run) if one.kind == "lost_gradients"]
        assert (found.level, found.name, found.unit) == ("note", "b.grad_output", "of a sum of squares")
        assert found.number == pytest.approx(60 * 1e-14 / (4 * 0.0625), rel=1e-3)
        assert found.evidence.startswith(
            "1 of 2 gradients in step 0, none wholly (at most <0.0001% of a sum of squares, of b.grad_output), before their "
            "first scale; "
        )
        assert found.title == "Gradients lost in part"
        assert found.advice.startswith("a note: of each something is left, so every layer gets a gradient")
        assert "60 of 64 elements become zero, <0.0001% of its sum of squares" in found.evidence
        assert "HYBRID" not in found.advice

    @pytest.mark.parametrize(("flushed", "count"), [(31, 0), (32, 1)])
    def test_less_than_half_is_how_it_begins(self, flushed: int, count: int) -> None:
        values = np.append(np.full(64 - flushed, 2.0**-9), np.full(flushed, 2.0**-11))
        run = Made().tensor(0, "a.grad_output", values).tensor(1, "a.grad_output", values, scale=2.0**17)
        assert run.tensors[0]["flushed"] == flushed
        assert run.tensors[1]["flushed"] == 0
        assert [one.kind for one in problems(run)] == ["lost_gradients"] * count

    @pytest.mark.parametrize(("small", "count"), [(1, 0), (2, 1)])
    def test_zeros_among_the_elements_do_not_count(self, small: int, count: int) -> None:
        values = np.concatenate([np.zeros(60), np.ones(4 - small), np.full(small, 1e-7)])
        run = Made().tensor(0, "a.grad_output", values).tensor(1, "a.grad_output", values[:-small], scale=2.0)
        found = problems(run)
        assert [one.kind for one in found] == ["lost_gradients"] * count
        assert all("2 of 4 elements become zero" in one.evidence for one in found)

    @pytest.mark.parametrize(("kept", "level"), [(0.0015, "warning"), (0.02, "note")])
    def test_a_gradient_is_lost_wholly_with_nearly_all_of_its_squares(self, kept: float, level: str) -> None:
        """One element that is kept saves nothing where the others hold 99% of the sum of squares."""
        run = Made()
        for step in range(2):
            run.tensor(step, "a.grad_output", np.append(np.full(999, 5e-4), kept), scale=22400.0 if step else 1.0)
        (found,) = [one for one in problems(run) if one.kind == "lost_gradients"]
        lost = 999 * 5e-4**2
        assert found.level == level
        assert found.number == pytest.approx(0.999 if level == "warning" else lost / (lost + kept**2), rel=1e-3)

    def test_lost_in_part_is_of_the_tensor_that_loses_most(self) -> None:
        """The first of them loses nearly all of its elements, and hardly anything of its sum of squares."""
        first = np.append(np.full(63, 1e-7), 0.25)
        most = np.append(np.full(60, 5e-4), np.full(4, 2e-3))
        run = Made()
        for step in range(2):
            run.tensor(step, "b.grad_output", first, scale=448 * 4.0 if step else 1.0)
            run.tensor(step, "a.grad_output", most, scale=448 / 2e-3 if step else 1.0)
        (found,) = [one for one in problems(run) if one.kind == "lost_gradients"]
        told = share_words(found.number)
        assert (found.level, found.name, found.unit) == ("note", "a.grad_output", "of a sum of squares")
        assert found.number == pytest.approx(run.tensors[1]["squared_error"] / float((most**2).sum()), rel=1e-3)
        assert f"none wholly (at most {told} of a sum of squares, of a.grad_output)" in found.evidence
        assert "the first of them, b.grad_output: amax 0.25 at scale 1, 63 of 64 elements become zero" in found.evidence

    def test_errors_that_were_not_recorded_leave_elements(self) -> None:
        run = Made()
        for step in range(2):
            values = np.append(np.full(60, 5e-4), np.full(4, 0.25))
            run.tensor(step, "a.grad_output", values, scale=448 * 4.0 if step else 1.0, squared_error=np.nan)
        (found,) = [one for one in problems(run) if one.kind == "lost_gradients"]
        assert (found.title, found.number, found.unit) == (
            "Gradients lost in part", 60 / 64, "of elements that are not zero",
        )  # fmt: skip

    def test_a_gradient_that_is_zero_before_any_is_lost_is_not_lost(self) -> None:
        """A branch whose weights begin at zero, and what runs before the first that is lost."""
        run = Made()
        for step in range(2):
            scale = 448 / 2.4e-4 if step else 1.0
            run.tensor(step, "b.grad_output", GRADIENT if step else np.zeros(64), scale=scale)
            run.tensor(step, "a.grad_output", GRADIENT, scale=scale)
        (found,) = problems(run)
        assert (found.name, found.evidence[:28]) == ("a.grad_output", "1 of 2 gradients in step 0, ")
        for row in run.tensors:
            if row["module"] == "a":
                row.update(flushed=0, scale=448 / 2.4e-4)
        assert problems(run) == []

    @pytest.mark.parametrize(("later", "lost"), [(1, 2), (40, 1)])
    def test_one_that_is_seen_by_its_codes_alone(self, later: int, lost: int) -> None:
        """Codes that are zero at a scale of 1, and not later, were lost too; such as are zero later as well say nothing."""
        run = Made()
        for step in range(2):
            scale, codes = (448 / 2.4e-4, later) if step else (1.0, 64)
            run.tensor(step, "b.grad_output", GRADIENT, scale=scale, source="quantized", flushed=0, zeros=codes)
            run.tensor(step, "a.grad_output", GRADIENT, scale=scale)
        (found,) = problems(run)
        assert (found.name, found.evidence[:28]) == ("a.grad_output", f"{lost} of 2 gradients in step 0, ")
        # Where nothing that was seen before its cast is lost, zeros may be zeros: in that step, and in all.
        for name in ("b", "a"):
            columns = {"source": "quantized", "flushed": 0, "zeros": 64} if name == "b" else {"flushed": 0}
            run.tensor(-1, f"{name}.grad_output", GRADIENT, **columns)
        run.tensors = [*run.tensors[-2:], *run.tensors[:-2]]
        for order, row in enumerate(run.tensors):
            row["order"] = order
        (found,) = problems(run)
        assert (found.first_step, found.last_step) == (0, 0)
        run.tensors[3]["flushed"] = 0
        assert problems(run) == []

    def test_a_scale_that_was_set_and_current_scaling_are_other_problems(self) -> None:
        for scaling in ("delayed", "current"):
            first = 4.0 if scaling == "delayed" else 1.0
            run = Made().tensor(0, "a.grad_output", GRADIENT / 8, scale=first, scaling=scaling)
            run.tensor(1, "a.grad_output", GRADIENT, scale=448 / 2.4e-4, scaling=scaling)
            assert [one.kind for one in problems(run)] == ["underflow"]

    def test_inputs_are_no_gradients(self) -> None:
        run = Made().tensor(0, "a.input", GRADIENT).tensor(1, "a.input", GRADIENT, scale=448 / 2.4e-4)
        assert problems(run) == []

    def test_ranks_are_named(self) -> None:
        run = self.chain()
        for row in [dict(row) for row in run.tensors]:
            run.tensors.append({**row, "process": 1})
        (found,) = problems(run)
        assert (found.ranks, found.evidence[:28]) == ("all 2 ranks", "3 of 3 gradients in step 0, ")

    @pytest.mark.parametrize(
        ("name", "level", "tensor", "share", "told"),
        [
            (
                "transformer_layer-e4m3-0",
                "warning",
                "lm_head",
                "100.0%",
                "17 of 17 gradients in step 0, 16 in step 1, 8 in step 2, before",
            ),
            (
                "custom-e4m3-2",
                "warning",
                "lm_head",
                "100.0%",
                "17 of 17 gradients in step 0, 16 in step 1, 8 in step 2, before",
            ),
            (
                "transformer_layer-hybrid-0",
                "note",
                "layers.3.self_attention.layernorm_qkv",
                "97.2%",
                "16 of 17 gradients in step 0, none wholly (at most 97.2% of a sum",
            ),
            (
                "custom-hybrid-0",
                "note",
                "layers.3.qkv",
                "96.8%",
                "16 of 17 gradients in step 0, none wholly (at most 96.8% of a sum of squares, of "
                "layers.3.qkv.grad_output), before",
            ),
            ("custom-current-0", "", "", "", ""),
            ("fused-block-0", "", "", "", ""),
        ],
    )
    def test_in_recordings_of_an_h200(self, name: str, level: str, tensor: str, share: str, told: str) -> None:
        found = check_health(store.read(RECORDINGS / f"{name}.tetrace")).problems
        lost = [one for one in found if one.kind == "lost_gradients"]
        seen = [(one.level, one.name, share_words(one.number)) for one in lost]
        assert seen == ([(level, f"{tensor}.grad_output", share)] if level else [])
        assert all(one.evidence.startswith(told) for one in lost)
