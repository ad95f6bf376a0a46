"""Two recordings side by side, and one tensor step by step."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.fp8.made import Made, bfloat16, counts
from tetrace.errors import UsageError
from tetrace.fp8.comparison import compare
from tetrace.fp8.history import tensor_history
from tetrace.fp8.whatif_rows import decibels


def run(parts_at: int = 99, layer: int = 1, factor: float = 1.5, steps: int = 6, bad: bool = False) -> Made:
    """Three layers; from a step on the tensors from `layer` on are larger by a factor."""
    made = Made()
    for step in range(steps):
        for number in range(3):
            grown = factor if step >= parts_at and number >= layer else 1.0
            values = np.array([2.0 * grown, np.nan if bad and grown != 1.0 else 0.5])
            made.tensor(step, f"{number}.input", values, scale=4.0)
        made.check(step, "2.output")
    return made


class TestComparison:
    """Tensors are matched by module and role."""

    def test_what_is_the_same_does_not_part(self) -> None:
        found = compare(run().trace(), run().trace())
        assert (found.first, len(found.differences), found.steps) == (None, 4, tuple(range(6)))
        assert {one.parts_at for one in found.differences} == {-1}

    def test_the_first_step_and_the_first_tensor_in_it(self) -> None:
        found = compare(run().trace(), run(parts_at=3).trace())
        assert found.first is not None
        assert (found.first.name, found.first.parts_at) == ("1.input", 3)
        assert [(one.name, one.parts_at) for one in found.differences] == [
            ("1.input", 3),
            ("2.input", 3),
            ("0.input", -1),
            ("2.output", -1),
        ]
        assert (found.first.a.amax, found.first.b.amax, found.first.amax_ratio) == (2.0, 3.0, 1.5)

    def test_of_gradients_the_one_that_backward_made_first(self) -> None:
        """They are read in the order of parameters, before the optimizer's step."""

        def run(off: float) -> Made:
            made = Made()
            for module in ("a", "b", "c"):
                made.check(0, f"{module}.output", operation="Linear", amax=1.0)
            for module in ("a", "b", "c"):
                amax = 1.0 + off * (module != "c")
                made.check(0, f"{module}.gradient", phase="optimizer", operation="weight", amax=amax)
            return made

        found = compare(run(0.0).trace(), run(1.0).trace())
        assert [one.name for one in found.differences[:2]] == ["b.weight.gradient", "a.weight.gradient"]

    def test_amaxes_of_the_step_where_they_part_are_said_beside_those_of_all(self) -> None:
        """An amax that was larger in another step, on both sides."""
        a, b = (made.tensor(9, "1.input", [7.0]).trace() for made in (run(), run(parts_at=3)))
        first = compare(a, b).first
        assert first is not None
        assert (first.a_amax_there, first.b_amax_there, first.a.amax, first.b.amax) == (2.0, 3.0, 7.0, 7.0)
        same = compare(a, a).differences[0]
        assert math.isnan(same.a_amax_there)

    def test_a_tolerance(self) -> None:
        assert compare(run().trace(), run(3, factor=1.05).trace()).first is None
        assert compare(run().trace(), run(3, factor=1.05).trace(), tolerance=0.01).first is not None

    def test_what_is_not_finite_on_one_side_parts(self) -> None:
        found = compare(run().trace(), run(2, factor=1.0001, bad=True).trace())
        assert found.first is not None
        assert (found.first.name, found.first.parts_at, found.first.b.non_finite) == ("1.input", 2, 4)

    def test_a_check_that_fails_parts_too(self) -> None:
        found = compare(run().trace(), run().check(5, "2.output", nans=1).trace())
        assert found.first is not None
        assert (found.first.name, found.first.parts_at) == ("2.output", 5)

    def test_only_common_steps_count(self) -> None:
        found = compare(run(steps=3).trace(), run(parts_at=4).trace())
        assert (found.first, found.steps) == (None, (0, 1, 2))

    def test_tensors_of_one_side_alone(self) -> None:
        found = compare(run().tensor(0, "old.weight", [1.0]).trace(), run().tensor(0, "new.weight", [1.0]).trace())
        assert (found.only_a, found.only_b) == (("old.weight",), ("new.weight",))

    def test_losses_of_both_sides(self) -> None:
        values = bfloat16(np.random.default_rng(0).normal(size=1000))
        a = Made().tensor(0, "a.input", values, scale=1e3)
        b = Made().tensor(0, "a.input", values, scale=50.0, format="E5M2", scaling="current")
        (one,) = compare(a.trace(), b.trace()).differences
        saturated, flushed, error = counts(values, 1e3, "E4M3")
        assert (one.a.saturated, one.a.flushed) == (saturated / 1000, flushed / 1000)
        assert one.a.snr_db == pytest.approx(decibels(float((values.astype(np.float64) ** 2).sum()), error))
        assert (one.b.format, one.b.scaling, one.b.scale, one.b.saturated) == ("E5M2", "current", 50.0, 0)

    def test_of_codes_alone_nothing_was_clipped_that_is_known(self) -> None:
        a = Made().tensor(0, "a.input", [500.0, 0.0], scale=1.0)
        b = Made().tensor(0, "a.input", [500.0, 0.0], scale=1.0, source="quantized")
        (one,) = compare(a.trace(), b.trace()).differences
        assert (one.a.saturated, one.a.clipped, one.a.flushed, math.isnan(one.a.at_max)) == (0.5, 0.5, 0.0, True)
        assert (one.b.saturated, one.b.at_max, math.isnan(one.b.clipped), math.isnan(one.b.flushed)) == (
            0.5,
            0.5,
            True,
            True,
        )

    def test_the_table_is_pandas(self) -> None:
        table = compare(run().trace(), run(3).trace()).table
        assert table.loc[0, ["module", "parts_at", "a_amax", "b_amax"]].tolist() == ["1", 3, 2.0, 3.0]


class TestHistory:
    """One tensor over the steps."""

    def test_every_number_of_a_step(self) -> None:
        values = bfloat16(np.append(np.random.default_rng(0).normal(size=999), 0))
        made = Made().tensor(4, "a.fc1.input", values, scale=200.0)
        made.update(4, "a.fc1.input", 200.0, 128.0, 3.5, 3.25)
        (step,) = tensor_history(made.trace(), "a.fc1.input").steps
        saturated, flushed, error = counts(values, 200.0, "E4M3")
        signal = float((values.astype(np.float64) ** 2).sum())
        amax = float(np.abs(values).max())
        assert (step.step, step.elements, step.amax, step.scale) == (4, 1000, amax, 200.0)
        assert (step.next_scale, step.history_max) == (128.0, 3.25)
        assert (step.saturated, step.flushed, step.zeros) == (saturated / 1000, flushed / 999, 0.001)
        assert step.range_used == pytest.approx(amax * 200 / 448)
        assert step.snr_db == pytest.approx(decibels(signal, error))

    def test_micro_batches_and_ranks_are_one_step(self) -> None:
        made = Made().tensor(0, "a.input", [1.0, 2.0], scale=1.0).tensor(0, "a.input", [8.0, 500.0], scale=1.0)
        made.tensor(0, "a.input", [4.0, 0.0], scale=1.0, process=1).tensor(0, "a.input", [9e9], phase="recompute")
        (step,) = tensor_history(made.trace(), "a.input").steps
        assert (step.observations, step.elements, step.amax, step.saturated) == (3, 6, 500.0, 1 / 6)

    def test_codes_at_the_largest_value_are_not_called_clipped(self) -> None:
        made = Made().tensor(0, "a.input", [500.0, 0.0], scale=1.0, source="quantized")
        made.tensor(1, "a.input", [500.0, 0.0], scale=1.0, source="recomputed")
        found = tensor_history(made.trace(), "a.input")
        codes, whole = found.steps
        assert (codes.at_max, math.isnan(codes.clipped), math.isnan(codes.flushed)) == (0.5, True, True)
        assert (whole.clipped, whole.flushed, math.isnan(whole.at_max)) == (0.5, 0.0, True)
        assert found.steps_of_codes == 1

    def test_current_scaling_clips_nothing(self) -> None:
        """Its amax may be a rounding above the largest value."""
        (step,) = tensor_history(
            Made().tensor(0, "a.input", [450.0], scale=1.0, scaling="current").trace(), "a.input"
        ).steps
        assert (step.saturated, step.clipped) == (1.0, 0.0)

    def test_a_tensor_that_was_only_checked(self) -> None:
        (step,) = tensor_history(Made().check(0, "a.output", nans=2).trace(), "a.output").steps
        assert (step.nans, step.infs, math.isnan(step.amax), math.isnan(step.saturated)) == (2, 0, True, True)

    @pytest.mark.parametrize("name", ["layers.0.fc1.weight", "Layers.0.fc1.Weight", "layers.1.fc2"])
    def test_names_that_are_understood(self, name: str) -> None:
        made = Made().tensor(0, "layers.0.fc1.weight", [1.0]).tensor(0, "layers.0.fc1.input", [1.0])
        made.tensor(0, "layers.1.fc2.weight", [1.0])
        assert tensor_history(made.trace(), name).role == "weight"

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("layers.0.fc1", "is a module of several tensors; give one of layers.0.fc1.input, layers.0.fc1.weight"),
            ("layers.0.fc1.wieght", "no such tensor was recorded; near it: layers.0.fc1.weight"),
            ("fc1.weight", "near it: layers.0.fc1.weight"),
            ("zzz", "no such tensor was recorded; 2 were"),
        ],
    )
    def test_names_that_are_not(self, name: str, says: str) -> None:
        made = Made().tensor(0, "layers.0.fc1.weight", [1.0]).tensor(0, "layers.0.fc1.input", [1.0])
        with pytest.raises(UsageError) as error:
            tensor_history(made.trace(), name)
        assert says in str(error.value)

    def test_the_table_is_pandas(self) -> None:
        table = tensor_history(run(3).trace(), "1.input").table
        assert table["amax"].tolist() == [2.0, 2.0, 2.0, 3.0, 3.0, 3.0]
