"""`tetrace.fp8.inspect` on the CPU: what it says, what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from tetrace import _C, fp8
from tetrace.errors import UsageError

torch = pytest.importorskip("torch")


def test_what_is_said_of_a_tensor() -> None:
    tensor = torch.tensor([0.0, 1.0, -2.0, 1000.0, 2.0**-20, torch.nan, torch.inf], dtype=torch.bfloat16)
    found = fp8.inspect(tensor, "E4M3", 1.0)
    assert (found.elements, found.zeros, found.nans, found.infs, found.finite) == (7, 1, 1, 1, 5)
    assert (found.saturated, found.flushed, found.subnormal) == (1, 1, 0)
    assert (found.amax, found.smallest) == (1000, 2.0**-20)
    assert found.mean == pytest.approx(999 / 5)
    assert found.mean_square == pytest.approx(1000005 / 5)
    assert found.squared_error == pytest.approx(552.0**2)
    assert found.snr_db == pytest.approx(10 * math.log10(1000005 / 552**2))
    assert found.saturated_pct == found.underflow_pct == pytest.approx(100 / 7)
    assert found.histogram is not None
    assert found.histogram.sum() == 4
    assert repr(found) == (
        "TensorStats(7 elements, 1 zero, 1 NaN, 1 Inf; amax 1000, mean 199.8; E4M3, scale 1: 14.3% saturated, "
        "14.3% flushed to zero, SNR 5.16 dB)"
    )


def test_the_scale_that_nobody_gave_is_that_of_current_scaling() -> None:
    assert fp8.inspect(torch.tensor([3.5, -7.0])).scale == 64
    assert fp8.inspect(torch.tensor([3.5, -7.0]), "E5M2").scale == 8192
    assert fp8.inspect(torch.zeros(3)).scale == 1
    assert fp8.inspect(torch.tensor([1e-40])).scale == np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("tensor", "copied"),
    [
        (lambda: torch.randn(6, 8)[::2], False),
        (lambda: torch.randn(6, 8).t(), False),
        (lambda: torch.randn(4, 5, 6).permute(2, 0, 1), False),
        (lambda: torch.randn(6, 8)[:, ::2], True),
        (lambda: torch.randn(4, 6, 8)[:, 1:3, 1:5], True),
        (lambda: torch.randn(3, requires_grad=True), False),
        (lambda: torch.tensor(2.5), False),
    ],
)
def test_any_shape_counts_as_its_copy(tensor, copied) -> None:
    given = tensor()
    found, wanted = fp8.inspect(given), fp8.inspect(given.detach().contiguous().clone())
    assert found.copied is copied
    assert (found.elements, found.amax, found.flushed) == (wanted.elements, wanted.amax, wanted.flushed)
    assert (found.histogram == wanted.histogram).all()


def test_an_empty_tensor_has_nothing() -> None:
    found = fp8.inspect(torch.zeros(0, 4, dtype=torch.float16))
    assert (found.elements, found.amax, found.saturated_pct) == (0, 0, 0)
    assert math.isnan(found.mean)
    assert repr(found) == "TensorStats(no values)"


def test_a_scale_that_nothing_can_be_counted_with_is_refused_and_the_way_out_counts() -> None:
    """Everything would become zero, and the kernels would count none of it."""
    ones = torch.ones(8)
    for tensor in (ones, ones.to(torch.float8_e4m3fn)):
        with pytest.raises(UsageError, match=r"the scale 1e-40 is below 2\*\*-127.*from_histogram\(inspect\(tensor\)"):
            fp8.inspect(tensor, scale=1e-40)
    assert fp8.from_histogram(fp8.inspect(ones).histogram, "E4M3", 1e-40).flushed == (8, 8)
    assert fp8.inspect(ones, scale=2.0**-127).flushed == 8


@pytest.mark.parametrize("values", [[], [torch.nan] * 3, [torch.inf, -torch.inf]])
def test_where_nothing_is_finite_no_snr_is_told(values) -> None:
    found = fp8.inspect(torch.tensor(values))
    assert math.isnan(found.snr_db)
    assert repr(found).endswith(", SNR not told)") == bool(values)
    assert fp8.inspect(torch.tensor([*values, 0.0])).snr_db == math.inf


def test_codes_say_what_they_hold_and_not_what_was_lost() -> None:
    codes = torch.tensor([448.0, -448.0, 0.0, 2.0**-9]).to(torch.float8_e4m3fn)
    found = fp8.inspect(codes, scale=2.0)
    assert (found.source, found.format, found.scale) == ("quantized", "E4M3", 2)
    assert (found.saturated, found.zeros, found.subnormal, found.amax) == (2, 1, 1, 224)
    assert math.isnan(found.snr_db)
    assert "quantized" in repr(found)


def test_tensors_of_transformer_engine_are_known_by_what_they_have() -> None:
    codes = torch.full((4, 256), 0x7E, dtype=torch.uint8)
    current = SimpleNamespace(_fp8_dtype="DType.kFloat8E4M3", _data=codes, _scale_inv=torch.tensor([0.25]))
    assert fp8.inspect(current).amax == 112
    blocks = SimpleNamespace(_fp8_dtype="DType.kFloat8E4M3", _rowwise_data=codes, _is_2D_scaled=False)
    blocks._rowwise_scale_inv = torch.tensor([[1.0] * 4, [0.5] * 4])
    found = fp8.inspect(blocks)
    assert (found.scale_min, found.scale_max, found.saturated) == (1, 2, 1024)
    mx = SimpleNamespace(
        _fp8_dtype="DType.kFloat8E4M3", _rowwise_data=codes, _rowwise_scale_inv=torch.full((128, 8), 126)
    )
    mx._rowwise_scale_inv = mx._rowwise_scale_inv.to(torch.uint8)
    assert fp8.inspect(mx).amax == 224
    mx._with_gemm_swizzled_scales = True
    with pytest.raises(UsageError, match="swizzled"):
        fp8.inspect(mx)
    blocks._data_format = "Float8BlockScaleTensorFormat.GEMM_READY"
    assert fp8.inspect(blocks).saturated == 1024
    blocks._data_format, blocks._rowwise_scale_inv = "Float8BlockScaleTensorFormat.COMPACT", torch.ones(4, 2)
    with pytest.raises(UsageError, match=r"scales in COMPACT format.*all_gather_usage is False"):
        fp8.inspect(blocks)
    blocks._rowwise_data = None
    with pytest.raises(UsageError, match="has no data by rows"):
        fp8.inspect(blocks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0],), "list is no tensor"),
        ((torch.arange(3),), r"dtype torch\.int64 is not inspected; give bfloat16"),
        ((torch.zeros(3, dtype=torch.float64),), r"dtype torch\.float64"),
        ((torch.zeros(3, device="meta"),), "a tensor on meta"),
        ((torch.zeros(3).to_sparse(),), "layout"),
        ((torch.zeros(3), "E3M4"), "'E3M4' is no FP8 format; give E4M3 or E5M2"),
        ((torch.zeros(3), "E4M3", 0.0), "the scale 0.0 is no finite positive number"),
        ((torch.zeros(3), "E4M3", torch.ones(2)), "a scale of 2 elements"),
        ((torch.zeros(3), "E4M3", "x"), "the scale 'x' is no number; give one"),
        ((torch.zeros(3), 2.0), "2.0 is no FP8 format; give E4M3 or E5M2"),
        ((torch.zeros(3), "E4M3", 10**400), "the scale 10*0 is no number"),
        ((torch.zeros(3), "E4M3", ["x"]), r"the scale \['x'\] is no number"),
        ((torch.zeros(3), "E4M3", object()), "the scale <object .* is no number"),
    ],
)
def test_what_is_no_such_tensor_is_refused(arguments, message) -> None:
    with pytest.raises(UsageError, match=message):
        fp8.inspect(*arguments)


def test_what_is_no_histogram_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \(3,\)"):
        fp8.from_histogram(np.zeros(3, np.int64))
    with pytest.raises(UsageError, match="the scale -1"):
        fp8.from_histogram(np.zeros(2048, np.int64), scale=-1)


@pytest.mark.parametrize("scale", ["x", "2", None, 10**400, [1.0, 2.0], object()])
def test_a_scale_of_a_histogram_that_is_no_number_is_refused(scale) -> None:
    with pytest.raises(UsageError, match=r"the scale .* finite"):
        fp8.from_histogram(np.zeros(2048, np.int64), "E4M3", scale)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-45, 1e-40, 1e-38, 1e-36, 2.0**127])
def test_an_estimate_holds_for_scales_at_both_ends(scale) -> None:
    values = np.array([3.0e38, 1e10, 1.0, 2.0**-20, 1e-40], np.float32)
    with np.errstate(over="ignore", under="ignore"):
        products = values * np.float32(scale)
    estimate = fp8.from_histogram(fp8.inspect(torch.from_numpy(values)).histogram, "E4M3", scale)
    counts = [(estimate.saturated, (products > 448).sum()), (estimate.flushed, (products <= 2.0**-10).sum())]
    assert all(least <= count <= most <= least + 1 for (least, most), count in counts)
    assert math.isfinite(estimate.estimated_snr_db)


def test_an_estimate_from_the_histogram_is_near() -> None:
    found = fp8.inspect(torch.randn(200_000, generator=torch.Generator().manual_seed(1)), scale=64.0)
    estimate = fp8.from_histogram(found.histogram, "E4M3", 64.0)
    assert estimate.saturated == (found.saturated,) * 2
    assert estimate.flushed == (found.flushed,) * 2
    assert estimate.estimated_snr_db == pytest.approx(found.snr_db, abs=0.3)


def test_where_there_is_no_driver_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"nowhere\.so: cannot be loaded|built without its FP8 kernels"):
        _C.fp8_open(0, 8, library="nowhere.so")
    assert not _C.fp8_is_open(0)
    _C.fp8_close(0)
