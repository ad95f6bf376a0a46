"""What-if answers hold the truth: bounds contain what numpy counts on the same values, cast for real."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fp8.made import FLUSHED_UP_TO, LARGEST, Made, bfloat16, block_amax, cast, codes, counts, product, subnormal
from tetrace.errors import InputError, UsageError
from tetrace.fp8.prediction import limits
from tetrace.fp8.settings import parse
from tetrace.fp8.whatif import Row, WhatIf, decibels, what_if

Values = npt.NDArray[np.float32]
NAME = "layers.0.fc1.input"
FORMATS = ("E4M3", "E5M2")
KINDS = (
    *("normal", "fp32", "uniform", "heavy", "wide", "tiny", "huge", "spread", "equal", "powers", "edges", "outlier"),
    *("zeros", "one", "subnormal"),
)
# Values that are spread smoothly over many binades: what training tensors look like, and what estimates are for.
SMOOTH = ("normal", "fp32", "uniform", "heavy", "spread", "zeros")


def drawn(kind: str, size: int = 2_000, seed: int = 0) -> Values:
    """Values of a distribution, in bf16 or fp32."""
    random = np.random.default_rng(seed)
    made = {
        "normal": lambda: random.normal(size=size),
        "fp32": lambda: random.normal(size=size) * 3,
        "uniform": lambda: random.uniform(-1, 1, size),
        "heavy": lambda: random.standard_t(3, size),
        "wide": lambda: np.exp(random.normal(size=size) * 6),
        "tiny": lambda: random.normal(size=size) * 1e-30,
        "huge": lambda: random.normal(size=size) * 1e30,
        "spread": lambda: np.exp2(random.uniform(-12, 2, size)),
        "equal": lambda: np.full(size, 1.3),
        "powers": lambda: np.exp2(random.integers(-30, 12, size)),
        "edges": lambda: np.exp2(random.integers(-20, 12, size)) * random.choice([1, 1.25, 1.5, 1.75], size),
        "outlier": lambda: np.append(random.normal(size=size - 1), 1e6),
        "zeros": lambda: np.where(random.random(size) < 0.9, 0, random.normal(size=size)),
        "one": lambda: np.array([-3.1415]),
        "subnormal": lambda: random.normal(size=size) * 1e-39,
    }[kind]()
    return made.astype(np.float32) if kind in ("fp32", "subnormal") else bfloat16(made)


def current_scale(values: Values, name: str, power_of_two: bool = False) -> float:
    """The largest value becomes the format's, at most the largest fp32 number."""
    with np.errstate(over="ignore"):
        scale = min(np.float32(LARGEST[name]) / np.abs(values).max(), np.finfo(np.float32).max)
    return float(2.0 ** np.floor(np.log2(np.float64(scale)))) if power_of_two else float(scale)


def pairs(*sides: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Every combination."""
    return list(itertools.product(*sides))


def holds(row: Row, values: Values, scale: float, name: str) -> None:
    """Asserts that the truth is within the bounds of `row`."""
    saturated, flushed, _ = counts(values, scale, name)
    nonzero = (values != 0).sum()
    assert row.saturated_lower - 1e-12 <= saturated / values.size <= row.saturated_upper + 1e-12
    assert row.flushed_lower - 1e-12 <= flushed / nonzero <= row.flushed_upper + 1e-12


def used(values: Values, scale: float, name: str, ran: str = "E4M3") -> Made:
    """Two steps of delayed scaling: one before scales were set (of a tensor of zeros), one with a scale."""
    return Made().tensor(0, NAME, np.zeros(4), scale=2.0, format=ran).tensor(1, NAME, values, scale=scale, format=ran)


def thresholds(name: str) -> Values:
    """The largest that a cast flushes, the least that it makes normal (a tie), and the largest that fits."""
    smallest_normal = codes(name)[{"E4M3": 8, "E5M2": 4}[name]]
    return np.array([FLUSHED_UP_TO[name], smallest_normal - FLUSHED_UP_TO[name], LARGEST[name]], np.float32)


def around(values: Values, steps: int) -> Values:
    """Positive values and so many fp32 numbers on either side of each."""
    bits = values.view(np.int32)[:, None] + np.arange(-steps, steps + 1, dtype=np.int32)
    return np.maximum(bits, 0).view(np.float32).ravel()


class TestTheOracle:
    """The brute force itself, against what the formats are."""

    def test_codes(self) -> None:
        e4m3, e5m2 = codes("E4M3"), codes("E5M2")
        assert (e4m3[1], e4m3[8], e4m3[-1]) == (2.0**-9, 2.0**-6, 448)
        assert (e5m2[1], e5m2[4], e5m2[-1]) == (2.0**-16, 2.0**-14, 57344)

    @pytest.mark.parametrize("name", FORMATS)
    def test_it_rounds_as_torch_does(self, name: str) -> None:
        torch = pytest.importorskip("torch")
        values = np.concatenate([drawn("wide"), drawn("normal"), drawn("edges"), -drawn("spread")])
        kind = torch.float8_e4m3fn if name == "E4M3" else torch.float8_e5m2
        clipped = np.clip(product(values, 0.37), -LARGEST[name], LARGEST[name])
        theirs = torch.from_numpy(clipped).to(kind).to(torch.float64).numpy() / np.float64(np.float32(0.37))
        assert np.array_equal(cast(values, 0.37, name), theirs)


class TestBounds:
    """Saturation and underflow lie within the bounds, whatever the values."""

    @pytest.mark.parametrize(("kind", "name"), pairs(KINDS, FORMATS))
    def test_current_scaling(self, kind: str, name: str) -> None:
        values = drawn(kind)
        trace = Made().tensor(0, NAME, values, scaling="current").trace()
        (row,) = what_if(trace, recipe="current", format=name).rows
        assert (row.format, row.recipe) == (name, "current")
        holds(row, values, current_scale(values, name), name)

    @pytest.mark.parametrize(("kind", "name"), pairs(KINDS, FORMATS))
    def test_current_scaling_with_powers_of_two_is_exact(self, kind: str, name: str) -> None:
        values = drawn(kind)
        trace = Made().tensor(0, NAME, values, scaling="current").trace()
        (row,) = what_if(trace, recipe="current", format=name, power_of_two=True).rows
        holds(row, values, current_scale(values, name, power_of_two=True), name)
        # Below the smallest normal fp32 number a power of two is no edge of a bin.
        if kind != "subnormal":
            assert (row.saturated_lower, row.flushed_lower) == (row.saturated_upper, row.flushed_upper)

    @pytest.mark.parametrize(("kind", "name", "exponent"), pairs(KINDS, FORMATS, (-120, -40, -3, 0, 5, 30, 120)))
    def test_any_power_of_two_is_exact(self, kind: str, name: str, exponent: int) -> None:
        values, scale = drawn(kind), 2.0**exponent
        (row,) = what_if(used(values, scale, name, ran=name).trace()).rows
        holds(row, values, scale, name)
        # Below the smallest normal fp32 number a power of two is no edge of a bin.
        if kind != "subnormal":
            assert (row.saturated_lower, row.flushed_lower) == (row.saturated_upper, row.flushed_upper)

    @pytest.mark.parametrize(("kind", "name", "margin", "scale"), pairs(KINDS, FORMATS, range(5), (911.3, 3e-7)))
    def test_another_format_and_margin_of_delayed_scaling(
        self, kind: str, name: str, margin: int, scale: float
    ) -> None:
        values, scale = drawn(kind), float(np.float32(scale))
        (row,) = what_if(used(values, scale, name).trace(), format=name, margin=margin).rows
        expected = float(np.float32(scale) * np.float32(LARGEST[name] / 448 / 2**margin))
        holds(row, values, expected, name)

    @given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.sampled_from(FORMATS))
    @settings(max_examples=200, deadline=None)
    def test_any_floats(self, drawn_values: list[float], name: str) -> None:
        values = np.array(drawn_values, np.float32)
        if not values.any():
            return
        (row,) = what_if(Made().tensor(0, NAME, values, scaling="current").trace(), recipe="current", format=name).rows
        holds(row, values, current_scale(values, name), name)

    @pytest.mark.parametrize(("kind", "name", "layout"), pairs((*KINDS, "rows"), FORMATS, ("1x128", "128x128")))
    def test_block_scaling(self, kind: str, name: str, layout: str) -> None:
        random = np.random.default_rng(1)
        if kind == "rows":
            values = bfloat16(random.normal(size=(200, 300)) * np.exp(random.normal(size=(200, 1)) * 5))
        else:
            values = np.resize(drawn(kind), (200, 300))
        # Weights are scaled in squares, all others in stretches of rows; both are recorded of every tensor.
        tensor = "layers.0.fc1.weight" if layout == "128x128" else NAME
        trace = Made().tensor(0, tensor, values, scaling="current", layouts=("1x128", "128x128")).trace()
        (row,) = what_if(trace, recipe="block", format=name).rows
        flushed = 0
        height, width = map(int, layout.split("x"))
        amaxes = iter(block_amax(values, layout))
        for top, left in pairs(range(0, 200, height), range(0, 300, width)):
            block, amax = values[top : top + height, left : left + width], next(amaxes)
            if amax:
                flushed += counts(block, current_scale(block, name, power_of_two=True), name)[1]
        assert row.saturated_upper == 0
        assert row.flushed_lower - 1e-12 <= flushed / (values != 0).sum() <= row.flushed_upper + 1e-12

    @pytest.mark.parametrize("name", FORMATS)
    def test_bounds_of_tensor_wise_recipes_are_close(self, name: str) -> None:
        """Within a hundredth of the elements, for values as training has them."""
        for kind, margin in pairs(("normal", "fp32", "heavy", "outlier"), range(5)):
            values = drawn(kind, 20_000)
            scale = current_scale(values, "E4M3") * 0.77
            (row,) = what_if(used(values, scale, name).trace(), format=name, margin=margin).rows
            assert row.saturated_upper - row.saturated_lower < 0.01
            assert row.flushed_upper - row.flushed_lower < 0.01


class TestWhatTheCastCounted:
    """What ran counted exactly is known of the distribution, and narrows bounds; they stay true."""

    @pytest.mark.parametrize("name", FORMATS)
    def test_subnormal_ends_at_a_tie_that_is_rounded_up(self, name: str) -> None:
        """The border that bounds are made with is that of what is recorded, here and by torch."""
        torch = pytest.importorskip("torch")
        from tetrace.fp8 import reference
        from tetrace.fp8.formats import FORMATS as DEFINED

        for scale in (1.0, 0.37, 911.3, 3e-7, 1e30):
            values = around(thresholds(name) / np.float32(scale), 4)
            row, _ = reference.measure(torch.from_numpy(values), DEFINED[name], torch.tensor(scale))
            limit = limits(np.array([scale], np.float32), np.array([FORMATS.index(name)]))[:, 0]
            below = [int(((values > 0) & (values <= one)).sum()) for one in limit]
            assert int(row["subnormal"]) == subnormal(values, scale, name)
            assert int(row["flushed"]) == below[0]
            assert int(row["flushed"]) + int(row["subnormal"]) == below[1]
            assert int(row["saturated"]) == values.size - below[2]

    @pytest.mark.parametrize(("kind", "name", "scale"), pairs(KINDS, FORMATS, (911.3, 0.37, 3e-7, 1e30)))
    def test_what_ran_is_exact(self, kind: str, name: str, scale: float) -> None:
        values, scale = drawn(kind), float(np.float32(scale))
        (row,) = what_if(used(values, scale, name, ran=name).trace()).rows
        holds(row, values, scale, name)
        assert (row.saturated_lower, row.flushed_lower) == (row.saturated_upper, row.flushed_upper)

    @given(st.data())
    @settings(max_examples=400, deadline=None)
    def test_values_at_thresholds(self, data: st.DataObject) -> None:
        """Magnitudes within a few fp32 numbers of every threshold, of what ran and of what is asked for, among others."""
        ran, name = data.draw(st.sampled_from(FORMATS)), data.draw(st.sampled_from(FORMATS))
        margin = data.draw(st.integers(0, 6))
        scale = np.float32(data.draw(st.floats(1, 2, width=32)) * 2.0 ** data.draw(st.integers(-100, 100)))
        assume(scale != 1)  # is one that nothing has set
        asked = scale * np.float32(LARGEST[name] / LARGEST[ran]) * np.float32(2.0**-margin)
        seed, size = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.integers(1, 200))
        random = np.random.default_rng(seed)
        near = np.concatenate([thresholds(ran) / scale, thresholds(name) / asked])
        spread = random.choice(near, size) * np.exp2(random.uniform(-1, 1, size)).astype(np.float32)
        values = np.concatenate([random.choice(around(near, 3), size), spread, np.zeros(3, np.float32)])
        values = random.choice(values, size).astype(np.float32) * random.choice(np.array([-1, 1], np.float32), size)
        if data.draw(st.booleans()):
            values = bfloat16(values)
        if not values.any():
            return
        trace = used(values, float(scale), name, ran=ran).trace()
        (row,) = what_if(trace, format=name, margin=margin).rows
        holds(row, values, float(asked), name)
        (row,) = what_if(trace, recipe="current", format=name).rows
        holds(row, values, current_scale(values, name), name)

    def test_the_border_of_subnormal_splits_a_bin(self) -> None:
        """As in test_real_casts.py, and what it is without the count."""
        random = np.random.default_rng(17)
        magnitudes = np.minimum(np.exp(1.5 * random.normal(size=100_000)), 1776)
        values = bfloat16(np.append(magnitudes, 1776))
        widths = []
        for known in ({}, {"subnormal": -1}):
            run = Made().tensor(0, NAME, np.zeros(4), scale=2.0).tensor(1, NAME, values, scale=448 / 3552, **known)
            (row,) = what_if(run.trace(), margin=4).rows
            holds(row, values, float(np.float32(448 / 3552) / 16), "E4M3")
            widths.append(row.flushed_upper - row.flushed_lower)
        assert widths[0] < 0.01 < widths[1]

    @pytest.mark.parametrize(
        ("columns", "is_used"),
        [
            *(({}, True), ({"scaling": "delayed"}, True)),
            *(({"scaling": "block"}, False), ({"scaling": ""}, False), ({"scale": np.nan}, False)),
            *(({"scale": 2.0**-128}, False), ({"subnormal": -1}, False), ({"saturated": -1}, False)),
            ({"elements": 4_000}, False),
        ],
        ids=str,
    )
    def test_counts_that_are_not_of_it_are_left_out(self, columns: dict[str, Any], is_used: bool) -> None:
        """Not those of blocks, of no usable scale, or of more values than the histogram has: a lie in them changes nothing."""
        found = []
        for flushed in (-1, 0):
            said = {"scale": 1e-9, "scaling": "current", "flushed": flushed, **columns}
            (row,) = what_if(Made().tensor(0, NAME, drawn("wide"), **said).trace(), recipe="current").rows
            found.append((row.saturated_lower, row.saturated_upper, row.flushed_lower, row.flushed_upper))
        assert (found[0] != found[1]) == is_used


class TestError:
    """The SNR is an estimate, and a good one for values that are spread."""

    @pytest.mark.parametrize(("kind", "name"), pairs(SMOOTH, FORMATS))
    def test_current_scaling(self, kind: str, name: str) -> None:
        values = drawn(kind, 20_000)
        (row,) = what_if(Made().tensor(0, NAME, values, scaling="current").trace(), recipe="current", format=name).rows
        signal = float((values.astype(np.float64) ** 2).sum())
        truth = decibels(signal, counts(values, current_scale(values, name), name)[2])
        assert row.snr_db == pytest.approx(truth, abs=0.5)

    @pytest.mark.parametrize("scale", [2.0**-14, 0.013, 0.9, 300.0, 1e5, 1e9])
    def test_where_much_is_clipped_or_flushed(self, scale: float) -> None:
        values = drawn("normal", 20_000)
        (row,) = what_if(used(values, scale, "E4M3").trace()).rows
        signal = float((values.astype(np.float64) ** 2).sum())
        assert row.ran_snr_db == pytest.approx(decibels(signal, counts(values, scale, "E4M3")[2]))
        assert row.snr_db == pytest.approx(row.ran_snr_db, abs=0.5)

    def test_what_is_equal_is_known_exactly(self) -> None:
        (row,) = what_if(used(drawn("equal"), 5.0, "E4M3").trace()).rows
        assert row.snr_db == pytest.approx(row.ran_snr_db, abs=1e-6)


class TestDelayedHistory:
    """Scales of delayed scaling are made of the amaxes of earlier steps."""

    @staticmethod
    def rising() -> Made:
        """Amaxes 1, 2, 4, ... of a run with current scaling."""
        run = Made()
        for step in range(6):
            run.tensor(step, NAME, [2.0**step, 0.5], scaling="current")
        return run

    def test_a_tensor_that_grows_is_clipped_in_every_step(self) -> None:
        (row,) = what_if(self.rising().trace(), recipe="delayed", history=3).rows
        assert (row.steps, row.history, row.saturated_lower, row.saturated_upper) == (5, 3, 0.5, 0.5)

    def test_a_margin_of_one_holds_it(self) -> None:
        (row,) = what_if(self.rising().trace(), recipe="delayed", history=3, margin=1).rows
        assert row.saturated_upper == 0

    @pytest.mark.parametrize("length", [1, 2, 3, 5, 7, 8, 40, 1024])
    def test_the_history_is_that_of_so_many_steps(self, length: int) -> None:
        random = np.random.default_rng(length)
        amaxes = [float(np.float32(2.0**e)) for e in random.uniform(-3, 3, 60)]
        run = Made()
        for step, amax in enumerate(amaxes):
            run.tensor(step, "other.input", [amax * 9], scaling="current").tensor(step, NAME, [amax], scaling="current")
        found = what_if(run.trace(), recipe="delayed", history=length).rows
        row = next(row for row in found if row.name == NAME)
        clipped = 0
        for step in range(1, 60):
            scale = np.float32(448) / np.float32(max(amaxes[max(step - length, 0) : step]))
            clipped += bool(np.float32(amaxes[step]) * scale > 448)
        assert (row.steps, row.history) == (59, min(length, 59))
        assert row.saturated_lower == row.saturated_upper == clipped / 59

    def test_most_recent(self) -> None:
        run = Made()
        for step, amax in enumerate([8.0, 1.0, 4.0]):
            run.tensor(step, NAME, [amax], scaling="current")
        (by_max,) = what_if(run.trace(), recipe="delayed", history=4).rows
        (newest,) = what_if(run.trace(), recipe="delayed", history=4, algorithm="most_recent").rows
        assert (by_max.saturated_upper, newest.saturated_upper) == (0, 0.5)

    def test_what_is_not_set_yet_stays_one(self) -> None:
        """The first step of a run uses a scale of 1 in any format and with any margin."""
        run = Made().tensor(0, NAME, [500.0, 1.0], scale=1.0).tensor(1, NAME, [500.0, 1.0], scale=0.5)
        (row,) = what_if(run.trace(), margin=4).rows
        assert row.saturated_lower == row.saturated_upper == 0.25

    def test_one_step_has_no_history(self) -> None:
        found = what_if(Made().tensor(0, NAME, [1.0], scaling="current").trace(), recipe="delayed")
        assert (found.rows, found.unanswered) == ((), {"no amax of an earlier step": 1})

    def test_the_margin_that_ran_is_known_from_its_scales(self) -> None:
        """margin=1 of a run with margin 2 doubles its scales."""
        run = used(np.array([4.0, 1.0], np.float32), 100.0, "E4M3")
        run.update(0, NAME, 2.0, 448 / 4 / 4.0, amax=4.0).update(1, NAME, 28.0, 28.0, amax=4.0)
        (same,) = what_if(run.trace(), margin=2).rows
        (doubled,) = what_if(run.trace(), margin=1).rows
        assert (same.saturated_upper, doubled.saturated_upper) == (0, 0.5)


class TestAnswers:
    """What is answered, and what is said to be not recorded."""

    def test_hybrid_is_e5m2_for_gradients_only(self) -> None:
        run = Made()
        for name in ("fc1.input", "fc1.weight", "fc1.grad_output", "attention.do", "mlp.fc2.grad_output"):
            run.tensor(0, name, [1.0], scaling="current")
        found = what_if(run.trace(), format="HYBRID").rows
        assert {row.name: row.format for row in found} == {
            "fc1.input": "E4M3",
            "fc1.weight": "E4M3",
            "fc1.grad_output": "E5M2",
            "attention.do": "E5M2",
            "mlp.fc2.grad_output": "E5M2",
        }

    def test_what_ran_is_beside_it(self) -> None:
        values = drawn("normal")
        (row,) = what_if(used(values, 1e4, "E4M3").trace(), recipe="current").rows
        saturated, flushed, _ = counts(values, 1e4, "E4M3")
        assert (row.ran_recipe, row.ran_format, row.steps, row.worst_step) == ("delayed", "E4M3", 1, 1)
        assert (row.ran_saturated, row.ran_flushed) == (saturated / values.size, flushed / values.size)
        assert row.snr_change_db > 10

    def test_codes_and_recomputed_tensors_are_left_out(self) -> None:
        run = Made().tensor(0, NAME, [1.0, 2.0], scaling="current")
        run.tensor(0, NAME, [1.0, 2.0], scaling="current", phase="recompute")
        run.tensor(0, "norm.input", [1.0], scaling="current", source="quantized").check(0, "norm.output")
        found = what_if(run.trace(), recipe="current")
        assert [(row.name, row.elements) for row in found.rows] == [(NAME, 2)]
        assert found.unanswered == {"seen only as FP8 codes": 1}

    def test_blocks_that_were_not_recorded(self) -> None:
        run = Made().tensor(0, NAME, np.ones((128, 128)), scaling="current", layouts=("1x128",))
        run.tensor(0, "other.input", np.ones((128, 128)), scaling="current")
        found = what_if(run.trace(), recipe="block")
        assert ([row.name for row in found.rows], found.unanswered) == ([NAME], {"amaxes of blocks not recorded": 1})
        with pytest.raises(InputError, match="--fp8-blocks"):
            what_if(Made().tensor(0, NAME, [1.0]).trace(), recipe="block")

    def test_a_tensor_that_is_not_finite_is_left_out(self) -> None:
        found = what_if(Made().tensor(0, NAME, [1.0, np.inf], scaling="current").trace(), recipe="current")
        assert (found.rows, found.unanswered) == ((), {"never finite": 1})

    def test_a_histogram_of_a_sample_stands_for_the_whole(self) -> None:
        run = Made().tensor(0, NAME, [1.0, 1e-9], scaling="current", elements=20)
        found = what_if(run.trace(), recipe="current")
        assert found.sampled
        assert found.rows[0].flushed_lower == found.rows[0].flushed_upper == 0.5

    def test_ranks_and_micro_batches_are_one_row(self) -> None:
        run = Made().tensor(0, NAME, [1.0], scaling="current").tensor(0, NAME, [2.0], scaling="current")
        run.tensor(0, NAME, [4.0], scaling="current", process=1)
        (row,) = what_if(run.trace(), recipe="current").rows
        assert (row.elements, row.steps, row.amax) == (3, 1, 4.0)

    def test_the_table_is_pandas(self) -> None:
        table = what_if(used(drawn("normal"), 3.0, "E4M3").trace(), margin=1).table
        assert list(table["module"] + "." + table["role"]) == [NAME]


class TestAgainstWhatRan:
    """The verdict counts tensors of the table by stated limits, as it ran and as it would."""

    @staticmethod
    def run() -> Made:
        """After a step without a scale: one tensor of which a tenth is clipped, one that fits, one that flushes a tenth."""
        run = Made()
        tensors = {
            "a.input": np.append(np.full(90, 0.5), np.full(10, 1.5)),
            "b.input": np.ones(100),
            "c.input": np.append(np.ones(90), np.full(10, 2.0**-30)),
        }
        for step in range(2):
            for name, values in tensors.items():
                run.tensor(step, name, values if step else np.zeros(4), scale=448.0)
        return run

    def test_counts_follow_from_the_table(self) -> None:
        found = what_if(self.run().trace(), margin=1)
        assert (str(found.clipped), str(found.flushed)) == ("1 → 0", "1 → 1")
        assert found.verdict == (
            "margin=1 against what ran, of 3 tensors: more than 0.01% clipped in 1 → 0, more than 1% flushed in 1 → 1; SNR "
            "better by 1 dB or more in 1, worse in 0."
        )

    def test_what_was_lost_and_is_lost_still_more_is_counted(self) -> None:
        """The count of tensors alone would hide it."""
        values = np.concatenate([np.ones(80), np.full(10, 2.0**-30), np.full(10, 2.0**-15)])
        run = Made().tensor(0, "a.input", np.zeros(4), scale=448.0).tensor(1, "a.input", values, scale=448.0)
        assert "more than 1% flushed in 1 → 1 (1 of them by 1% more);" in what_if(run.trace(), margin=6).verdict
        assert "more than 1% flushed in 1 → 1;" in what_if(run.trace(), margin=1).verdict

    def test_what_ran_is_said_to_be_it(self) -> None:
        for asked in ({"format": "E4M3"}, {"margin": 0}, {"recipe": "delayed"}):
            found = what_if(self.run().trace(), **asked)
            assert found.verdict == (
                f"{found.settings} is what ran, so nothing changes: of 3 tensors, more than 0.01% clipped in 1, more than 1% "
                "flushed in 1."
            )

    def test_what_loses_the_same_with_another_scale_is_not_what_ran(self) -> None:
        run = Made().tensor(0, NAME, np.ones(4), scale=448.0, scaling="current")
        assert "is what ran" in what_if(run.trace(), recipe="current").verdict
        assert "against what ran" in what_if(run.trace(), format="E5M2").verdict
        assert "against what ran" in what_if(run.trace(), power_of_two=True).verdict
        assert "against what ran" in what_if(used(np.ones(4, np.float32), 64.0, "E4M3").trace(), margin=1).verdict

    def test_where_only_bounds_are_known(self) -> None:
        """A threshold that falls into the bin that a tenth of the values are in."""
        values = np.concatenate([np.full(90, 0.5), np.linspace(1.26, 1.49, 9), [100.0]])
        run = Made().tensor(0, "a.input", values, scale=2.0).tensor(1, "a.input", values, scale=1.0)
        row, *_ = what_if(run.trace(), recipe="delayed", format="E4M3", margin=0).rows
        change = WhatIf(
            parse(["margin=1"]), (dataclasses.replace(row, saturated_lower=0.0, saturated_upper=0.1),), {}, 0, False
        )
        assert str(change.clipped).endswith("0 to 1")
        unknown = dataclasses.replace(row, ran_saturated=float("nan"))
        assert str(WhatIf(parse(["margin=1"]), (unknown,), {}, 0, False).clipped).startswith("0 to 1 → ")

    def test_an_amax_that_a_rounding_puts_beyond_is_not_clipped(self) -> None:
        value = next(x for x in np.linspace(1, 2, 999, dtype=np.float32) if x * (np.float32(448) / x) > 448)
        found = what_if(Made().tensor(0, NAME, [value, 0.5], scale=500.0).trace(), recipe="current")
        (row,) = found.rows
        assert (row.saturated_lower, row.clipped, str(found.clipped)) == (0.5, (0.0, 0.0), "1 → 0")

    def test_steps_before_the_first_scale(self) -> None:
        """No margin and no format helps there."""
        run = (
            Made().tensor(0, "a.grad_output", np.full(8, 1e-5)).tensor(1, "a.grad_output", np.full(8, 1e-5), scale=4e7)
        )
        assert [row.unset_steps for row in what_if(run.trace(), margin=1).rows] == [1]
        assert [row.unset_steps for row in what_if(run.trace(), recipe="current").rows] == [0]

    def test_a_run_that_quantized_nothing(self) -> None:
        with pytest.raises(InputError, match="nothing was quantized to FP8, so there is no scale to change"):
            what_if(Made().check(0, "a.output").trace(), margin=1)


class TestSettings:
    """What is asked for in words."""

    def test_joined_and_apart(self) -> None:
        assert parse(["recipe=delayed,format=e4m3", "margin=1"]) == parse(["recipe=delayed", "format=E4M3,margin=1"])
        assert str(parse(["history=16,recipe=delayed"])) == "recipe=delayed,history=16"

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["recipe=best"], "recipe=best: give one of current, delayed, block, mxfp8"),
            (["format=FP4"], "give one of E4M3, E5M2, HYBRID"),
            (["margin=-1"], "margin=-1: give a whole number"),
            (["margin=99"], "from 0 to 16"),
            (["history=0"], "from 1 to 1024"),
            (["history=1025"], "from 1 to 1024"),
            (["recipe=current,margin=1"], "margin belongs to delayed scaling, not to recipe=current"),
            (["recipe=delayed,power_of_two=yes"], "power_of_two belongs to current and block"),
            (["recipe=mxfp8,power_of_two=no"], "not to recipe=mxfp8"),
            (["power_of_two=perhaps"], "give yes or no"),
            (["margin"], "margin: give NAME=VALUE"),
            (["speed=1"], "speed=1: give NAME=VALUE with one of recipe"),
            (["margin=1,margin=2"], "margin is given twice"),
        ],
    )
    def test_what_makes_no_sense(self, words: list[str], says: str) -> None:
        with pytest.raises(UsageError, match=says):
            parse(words)

    def test_a_margin_where_nothing_is_delayed(self) -> None:
        with pytest.raises(UsageError, match="add recipe=delayed"):
            what_if(Made().tensor(0, NAME, [1.0], scaling="current").trace(), margin=1)
