"""What would be clipped, flushed and lost, against a cast of every value: the truth lies within the bounds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.fp8.drawn import NAME, Values, drawn, used
from tests.fp8.made import FLUSHED_UP_TO, LARGEST, Made, bfloat16, block_amax, cast, codes, counts, product, subnormal
from tetrace.fp8.prediction import limits
from tetrace.fp8.whatif import what_if
from tetrace.fp8.whatif_rows import Row, decibels

FORMATS = ("E4M3", "E5M2")
KINDS = (
    *("normal", "fp32", "uniform", "heavy", "wide", "tiny", "huge", "spread", "equal", "powers", "edges", "outlier"),
    *("zeros", "one", "subnormal"),
)
# Values that are spread smoothly over many binades: what training tensors look like, and what estimates are for.
SMOOTH = ("normal", "fp32", "uniform", "heavy", "spread", "zeros")


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
