"""What-if beside casts that plain torch makes: the code that a GPU runs with Transformer Engine's quantizers, and MXFP8."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.fp8 import real_casts  # noqa: E402
from tests.fp8.real_casts import BLOCK, CURRENT, DELAYED, MXFP8, Cast, Quantized, Recorded  # noqa: E402
from tetrace.fp8 import reference  # noqa: E402
from tetrace.fp8.formats import FORMATS  # noqa: E402

SIZES = {"1x128": (1, 128), "128x128": (128, 128), "1x32": (1, 32)}
DTYPES = {"E4M3": torch.float8_e4m3fn, "E5M2": torch.float8_e5m2}


def scales_of(tensor: torch.Tensor, cast: Cast, delayed: float) -> torch.Tensor:
    """What each element is multiplied by; of blocks as Transformer Engine makes their scales, of MXFP8 as the format says."""
    if cast.recipe == "delayed":
        return torch.full(tensor.shape, delayed)
    height, width = SIZES.get(cast.layout, tensor.shape)
    rows, columns = tensor.shape
    padded = torch.nn.functional.pad(tensor.float().abs(), (0, -columns % width, 0, -rows % height))
    amax = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width).amax((1, 3))
    # A number over a tensor is not this: torch multiplies by the reciprocal.
    scale = torch.full_like(amax, FORMATS[cast.format].largest) / amax
    scale = torch.where(amax > 0, scale, 1.0).clamp(max=torch.finfo(torch.float32).max)
    if cast.recipe == "mxfp8":
        # OCP Microscaling Formats 1.0 leaves the rounding open; Transformer Engine rounds the exponent up.
        scale = torch.exp2(-torch.ceil(torch.log2(amax.double() / FORMATS[cast.format].largest))).float()
        scale = torch.where(amax > 0, scale, 1.0)
    elif cast.power_of_two:
        scale = (scale.view(torch.int32) & -0x800000).view(torch.float32)
    return scale.repeat_interleave(height, 0).repeat_interleave(width, 1)[:rows, :columns]


def quantize(tensor: torch.Tensor, cast: Cast, delayed: float) -> Quantized:
    """With torch's own cast."""
    scales = scales_of(tensor, cast, delayed)
    rounded = reference.cast(tensor.float() * scales, FORMATS[cast.format])
    codes = rounded.to(DTYPES[cast.format]).view(torch.uint8)
    return Quantized(codes, (rounded.double() / scales.double()).float(), scales)


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    torch.manual_seed(3)
    body = torch.nn.Sequential(torch.nn.Linear(256, 384), torch.nn.GELU(), torch.nn.Linear(384, 256))
    head = torch.nn.Linear(256, 512)
    for linear in (body[0], body[2], head):  # as Transformer Engine makes them
        torch.nn.init.normal_(linear.weight, std=0.023)
    trained = real_casts.of_training(body, head, torch.randn(128, 256))
    return Recorded({**real_casts.drawn("cpu", 300, 384), **trained})


@pytest.mark.parametrize("cast", DELAYED + CURRENT, ids=str)
def test_tensor_wise_recipes(cast: Cast, recorded: Recorded) -> None:
    for one in recorded.results(cast, quantize):
        assert one.is_inside, one
        assert one.width <= 0.01, one
        assert one.snr_off_db < 1 or one.name not in real_casts.SPREAD, one
        assert not cast.power_of_two or one.width == 0, one


def test_what_ran_narrows_the_bin_that_a_threshold_falls_into() -> None:
    """Random tensors with what an H200 drew as the largest of many binades: the bin of margin 4 holds 1.2% of its elements."""
    tensors = real_casts.drawn("cpu", 512, 1024)
    many = tensors["many binades"].clamp(-1776, 1776)
    many[0, 0] = 1776
    recorded = Recorded({**tensors, "many binades": many})
    for cast in DELAYED:
        for one in recorded.results(cast, quantize):
            assert one.is_inside, one
            assert one.width <= 0.01, one
            assert cast != DELAYED[0] or one.width == 0, one


@pytest.mark.parametrize("cast", BLOCK + MXFP8, ids=str)
def test_block_wise_recipes(cast: Cast, recorded: Recorded) -> None:
    for one in recorded.results(cast, quantize):
        assert one.is_inside, one
        assert one.saturated < 1e-3, one


def test_mxfp8_by_the_definition_of_its_scales(recorded: Recorded) -> None:
    """The reference for FP8 data counts in 32-blocks what what-if bounds: bytes of exponents, as the format has them."""
    cast = MXFP8[0]
    for one in recorded.results(cast, quantize):
        tensor = recorded.tensors[one.name]
        scales = scales_of(tensor, cast, 0)[:, ::32]
        exponents = (127 - torch.log2(scales)).round().to(torch.uint8)
        row, _ = reference.measure(tensor, FORMATS[cast.format], exponents, reference.MX)
        kept = int(row["elements"]) - int(row["zeros"])
        assert one.flushed == int(row["flushed"]) / kept
        assert int(row["saturated"]) == one.saturated == 0


def test_a_cast_that_loses_more_is_outside(recorded: Recorded) -> None:
    """The comparison can fail: with twice the scale of what was asked for."""
    wrong = recorded.results(DELAYED[0], lambda tensor, cast, scale: quantize(tensor, cast, 2 * scale))
    inside = sum(one.is_inside for one in wrong)
    assert inside < len(wrong) / 2
    assert real_casts.table(wrong).splitlines()[2].startswith(f"| delayed E4M3, margin 0 | {len(wrong)} | {inside} |")


def test_what_ran_is_what_the_cast_did(recorded: Recorded) -> None:
    for one in recorded.results(DELAYED[0], quantize):
        assert (one.row.ran_saturated, one.row.ran_flushed) == (one.saturated, one.flushed), one.name
        assert one.row.ran_snr_db == pytest.approx(one.snr_db, abs=0.01), one.name
