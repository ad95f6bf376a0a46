"""The reference counts what a loop over exact fractions counts, and a histogram says as much as it can."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fp8.kernel_cases import block_scales, values
from tetrace import _C
from tetrace.fp8 import from_histogram, reference, rows
from tetrace.fp8.formats import E4M3, E5M2, Format

torch = pytest.importorskip("torch")

single = st.floats(width=32, allow_nan=True, allow_infinity=True)
near_one = st.floats(min_value=-1000, max_value=1000, width=32)
lists = st.lists(
    st.one_of(single, near_one, st.sampled_from([0.0, -0.0, 448.0, 464.0, 2.0**-10, 2.0**-6])), max_size=40
)
formats = st.sampled_from([E4M3, E5M2])
scales = st.one_of(st.integers(-20, 20).map(lambda power: 2.0**power), st.floats(2.0**-20, 2.0**20, width=32))


def magnitudes_of(number_format: Format) -> list[Fraction]:
    """All values of the format from 0 on, by code."""
    steps = 2**number_format.mantissa_bits
    step = Fraction(2) ** (number_format.smallest_exponent - number_format.mantissa_bits)
    found = [place * step for place in range(steps)]
    exponent = 0
    while found[-1] < number_format.largest:
        found += [(steps + place) * step * 2**exponent for place in range(steps)]
        exponent += 1
    return [one for one in found if one <= number_format.largest]


def rounded(product: Fraction, codes: list[Fraction]) -> int:
    """The code of the nearest value, of two that are as near the even one."""
    return min(range(len(codes)), key=lambda code: (abs(codes[code] - product), code % 2))


def counted(numbers: Any, number_format: Format, scale: float) -> dict[str, Any]:
    """By definition, element by element."""
    found: dict[str, Any] = dict.fromkeys(("zeros", "nans", "infs", "saturated", "flushed", "subnormal"), 0)
    codes, error = magnitudes_of(number_format), Fraction(0)
    for value in numbers:
        product = np.float32(abs(value)) * np.float32(scale)
        if math.isnan(value):
            found["nans"] += 1
        elif math.isinf(value):
            found["infs"] += 1
        elif value == 0:
            found["zeros"] += 1
        elif product > number_format.largest:
            found["saturated"] += 1
            error += (Fraction(float(abs(value))) - codes[-1] / Fraction(scale)) ** 2
        else:
            code = rounded(Fraction(float(product)), codes)
            found["flushed"] += code == 0
            found["subnormal"] += 0 < code < 2**number_format.mantissa_bits
            error += ((Fraction(float(product)) - codes[code]) / Fraction(scale)) ** 2
    return {**found, "squared_error": error}


@settings(deadline=None, max_examples=150)
@given(lists, formats, scales)
def test_counts_are_those_of_the_definition(numbers: list[float], number_format: Format, scale: float) -> None:
    tensor = torch.tensor(numbers, dtype=torch.float32)
    with np.errstate(over="ignore", under="ignore"):
        wanted = counted(tensor.numpy(), number_format, scale)
    row, _ = reference.measure(tensor, number_format, torch.tensor([scale]))
    error = float(wanted.pop("squared_error"))
    assert {name: int(row[name]) for name in wanted} == wanted
    assert row["squared_error"] == pytest.approx(error, rel=1e-12, abs=0) or error == 0 == row["squared_error"]


@settings(deadline=None, max_examples=150)
@given(lists, formats, scales)
def test_a_histogram_bounds_what_a_cast_does(numbers: list[float], number_format: Format, scale: float) -> None:
    tensor = torch.tensor(numbers, dtype=torch.float32)
    row, counts = reference.measure(tensor, number_format, torch.tensor([scale]))
    found = from_histogram(counts, number_format.name, scale)
    bounds = {name: getattr(found, name) for name in ("saturated", "flushed", "subnormal")}
    for name, (lower, upper) in bounds.items():
        assert lower <= row[name] <= upper, name
    if math.frexp(scale)[0] == 0.5:
        assert bounds["saturated"] == (row["saturated"],) * 2
        assert bounds["flushed"] == (row["flushed"],) * 2
    assert counts.sum() == row["elements"] - row["zeros"] - row["nans"] - row["infs"]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 140), st.integers(1, 300), formats, st.sampled_from([1, 2, 3]), st.integers(0, 2**31))
def test_blocks_are_tensors_of_their_own(
    height: int, width: int, number_format: Format, layout: int, seed: int
) -> None:
    matrix = values("wide", height * width, torch.bfloat16, seed).view(height, width)
    inverse = block_scales(layout, height, width, seed)
    whole, _ = reference.measure(matrix, number_format, inverse, layout)
    tall, wide = {1: (1, 128), 2: (128, 128), 3: (1, 32)}[layout]
    sums = dict.fromkeys(("elements", "zeros", "saturated", "flushed", "subnormal"), 0)
    for top, left in itertools.product(range(0, height, tall), range(0, width, wide)):
        place = {1: (left // 128, top), 2: (top // 128, left // 128), 3: (top, left // 32)}[layout]
        own = torch.exp2(inverse[place].float() - 127) if layout == reference.MX else inverse[place]
        part, _ = reference.measure(matrix[top : top + tall, left : left + wide], number_format, 1 / own)
        sums = {name: count + int(part[name]) for name, count in sums.items()}
    assert {name: int(whole[name]) for name in sums} == sums


def test_codes_of_every_kind() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for number_format, nans, infs in ((E4M3, 2, 0), (E5M2, 6, 2)):
        row, counts = reference.measure_codes(codes, number_format, torch.tensor([0.5]))
        subnormal = 2 * (2**number_format.mantissa_bits - 1)
        assert (row["zeros"], row["nans"], row["infs"]) == (2, nans, infs)
        assert (row["saturated"], row["subnormal"], row["flushed"]) == (2, subnormal, 0)
        assert row["amax"] == number_format.largest / 2
        assert row["scale"] == 2
        assert row["flags"] & rows.QUANTIZED
        assert counts.sum() == 256 - 2 - nans - infs


def test_exponents_of_blocks() -> None:
    matrix = torch.zeros(130, 200, dtype=torch.bfloat16)
    matrix[0, 0], matrix[0, 150], matrix[129, 199] = 3.0, -0.5, torch.inf
    for layout, blocks, rest in ((reference.ROWS, 260, 258), (reference.SQUARES, 4, 2), (reference.MX, 910, 908)):
        counts = reference.block_exponents(matrix, layout)
        assert counts.sum() == blocks
        assert (counts[128], counts[126], counts[0]) == (1, 1, rest)


def test_rows_have_the_layout_of_the_extension() -> None:
    size, fields = _C.fp8_row()
    own = rows.ROW.fields
    assert own is not None
    assert size == rows.ROW.itemsize
    assert fields == [(name, own[name][1], own[name][0].str) for name in rows.ROW.names or ()]
