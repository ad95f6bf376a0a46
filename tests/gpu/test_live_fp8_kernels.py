"""The kernels of csrc/fp8 on a real GPU count what the reference counts, and the ring keeps every row."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fp8 import kernel_cases as cases
from tetrace import _C, fp8
from tetrace.errors import UsageError
from tetrace.fp8 import recorded, reference, rows
from tetrace.fp8.formats import E4M3, E5M2

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

HISTOGRAM, INVERSE = 1, 2
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
LAYOUTS = {"1x128": reference.ROWS, "128x128": reference.SQUARES, "mx": reference.MX}
# Rows that follow each other, that do not, that are not aligned, that are shorter than a vector.
SHAPES = {
    "apart": (5, 100, 128, 0),
    "narrow": (300, 8, 24, 0),
    "odd": (17, 33, 40, 1),
    "unaligned": (64, 1000, 1003, 3),
    "long": (3, 50_000, 60_001, 1),
    "column": (1000, 1, 3, 0),
}


def on_stream(tensors: list[tuple[Any, ...]], dtype: int, **call: int) -> tuple[bytes, bytes]:
    torch.cuda.init()
    return _C.fp8_inspect(0, torch.cuda.current_stream(0).cuda_stream, tensors, dtype, **call)


def check(tensors: Any, dtype: int, wanted: list[tuple[Any, Any]], sums: list[float], **call: int) -> None:
    """Compares what the kernels count of tensors, given as for `_C.fp8_inspect`, with rows of the reference."""
    found, counts = cases.counted(on_stream, tensors, dtype, **call)
    with_bins = bool(call.get("flags", 0) & HISTOGRAM)
    for row, own, (row_wanted, counts_wanted), size in zip(found, counts, wanted, sums, strict=True):
        own = own if with_bins else None
        assert cases.differences(row, own, row_wanted, counts_wanted, size) == [], (tensors, call)


def whole(tensor: Any, scale: Any = None) -> tuple[Any, ...]:
    return (tensor.data_ptr(), 1, tensor.numel(), tensor.numel(), -1, 0 if scale is None else scale.data_ptr(), 0)


@pytest.mark.parametrize("kind", cases.KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_are_counted(dtype: Any, kind: str) -> None:
    for size in (1, 7, 1000, 300_007):
        tensor = cases.values(kind, size, dtype)
        moved = tensor.cuda()
        for flags in (0, HISTOGRAM):
            check([whole(moved)], DTYPES[dtype], [reference.measure(tensor)], [cases.absolute_sum(tensor)], flags=flags)
        for number_format in (E4M3, E5M2):
            for scale in cases.scales(kind):
                factor = torch.tensor([scale])
                wanted, held = [reference.measure(tensor, number_format, factor)], factor.cuda()
                for flags in (0, HISTOGRAM):
                    call = {"format": number_format.number, "flags": flags}
                    check([whole(moved, held)], DTYPES[dtype], wanted, [cases.absolute_sum(tensor)], **call)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 1e-45, 1e-30, 1e30, 3e38])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_with_an_odd_scale(dtype: Any, scale: float) -> None:
    tensor, factor = cases.values("nan", 3000, dtype), torch.tensor([scale])
    moved, held = tensor.cuda(), factor.cuda()
    wanted = [reference.measure(tensor, E4M3, factor)]
    check([whole(moved, held)], DTYPES[dtype], wanted, [cases.absolute_sum(tensor)], format=1, flags=HISTOGRAM)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_rows(dtype: Any, shape: tuple[int, int, int, int]) -> None:
    height, width, spacing, start = shape
    memory = cases.values("outlier", height * spacing + start + 8, dtype)
    inverse = torch.tensor([0.1])
    matrix = memory[start : start + height * spacing].view(height, spacing)[:, :width]
    wanted, moved, held = reference.measure(matrix, E4M3, 1 / inverse), memory.cuda(), inverse.cuda()
    address = moved.data_ptr() + start * moved.element_size()
    one = (address, height, width, spacing, -1, held.data_ptr(), 0)
    check([one], DTYPES[dtype], [wanted], [cases.absolute_sum(matrix)], format=1, flags=HISTOGRAM | INVERSE)


@pytest.mark.parametrize("shape", [(1, 128), (5, 256), (130, 300), (128, 1024), (40, 33), (257, 64)])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_of_values(dtype: Any, layout: int, shape: tuple[int, int]) -> None:
    height, width = shape
    for kind in ("normal", "bits", "zeros"):
        matrix, inverse = cases.values(kind, height * width, dtype).view(shape), cases.block_scales(layout, *shape)
        moved, held = matrix.cuda(), inverse.cuda()
        one = (moved.data_ptr(), height, width, width, -1, held.data_ptr(), held.stride(0))
        for number_format in (E4M3, E5M2):
            wanted = reference.measure(matrix, number_format, inverse, layout)
            call = {"format": number_format.number, "layout": layout, "flags": HISTOGRAM | INVERSE}
            check([one], DTYPES[dtype], [wanted], [cases.absolute_sum(matrix)], **call)


@pytest.mark.parametrize("shape", [(1, 1), (1, 128), (5, 256), (130, 304), (128, 1024), (40, 33)])
@pytest.mark.parametrize("layout", [reference.TENSOR, *LAYOUTS.values()], ids=["tensor", *LAYOUTS])
@pytest.mark.parametrize("number_format", [E4M3, E5M2], ids=lambda one: one.name)
def test_codes(number_format: Any, layout: int, shape: tuple[int, int]) -> None:
    height, width = shape
    inverse = torch.tensor([[0.013]]) if layout == reference.TENSOR else cases.block_scales(layout, *shape)
    for all_codes in (True, False):
        codes = cases.code_values(height * width, all_codes=all_codes).view(shape)
        kind = torch.float8_e4m3fn if number_format is E4M3 else torch.float8_e5m2
        values = codes.view(kind).float() * reference._inverse_scales(inverse, layout, codes.float())
        wanted = reference.measure_codes(codes, number_format, inverse, layout)
        moved, held = codes.cuda(), inverse.cuda()
        one = (moved.data_ptr(), height, width, width, -1, held.data_ptr(), held.stride(0))
        for flags in (INVERSE, INVERSE | HISTOGRAM):
            sums = [cases.absolute_sum(values)]
            check([one], 2 + number_format.number, [wanted], sums, layout=layout, flags=flags)


@pytest.mark.parametrize("count", [2, 64, 150])
def test_many_tensors_in_one_call(count: int) -> None:
    tensors = [cases.values(cases.KINDS[i % len(cases.KINDS)], i * 977 % 5000, torch.bfloat16, i) for i in range(count)]
    factors = [torch.tensor([1.0 + i]) for i in range(count)]
    moved, held = [one.cuda() for one in tensors], [one.cuda() for one in factors]
    wanted = [reference.measure(*both) for both in zip(tensors, [E5M2] * count, factors, strict=True)]
    for (row, _), tensor in zip(wanted, tensors, strict=True):
        row["scale"] = row["scale"] if tensor.numel() else 0  # nothing was launched for an empty one
    sums = [cases.absolute_sum(one) for one in tensors]
    arguments = [whole(*both) for both in zip(moved, held, strict=True)]
    check(arguments, 0, wanted, sums, format=E5M2.number, flags=HISTOGRAM)


def test_large_tensors() -> None:
    """More than 2^31 elements; more than 2^32 are counted in parts."""
    for elements in (2**31 + 9, 2**32 + 2**31 + 5):
        tensor = torch.full((elements,), 1.25, dtype=torch.bfloat16, device="cuda")
        tensor[-5:] = torch.tensor([torch.nan, torch.inf, 0.0, -448.0, 2.0**-20], device="cuda")
        found = fp8.inspect(tensor, scale=1.0)
        counts = (found.elements, found.nans, found.infs, found.zeros, found.flushed, found.saturated)
        assert counts == (elements, 1, 1, 1, 1, 0)
        assert found.histogram is not None
        assert found.histogram.sum() == elements - 3
        assert found.amax == 448
        assert found.mean == pytest.approx(1.25, rel=1e-6)
        del tensor


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_random_tensors_against_torch(dtype: Any) -> None:
    """A size at which every block has many tiles, counted by the reference on the CPU."""
    tensor = torch.randn(50_000_003, device="cuda", dtype=dtype)[3:]
    tensor[::1000] = 0
    wanted, counts = reference.measure(tensor.cpu(), E4M3, torch.tensor([98.0]))
    found = fp8.inspect(tensor, scale=98.0)
    assert (found.zeros, found.flushed) == (wanted["zeros"], wanted["flushed"])
    assert (found.saturated, found.subnormal) == (wanted["saturated"], wanted["subnormal"])
    assert found.squared_error == pytest.approx(float(wanted["squared_error"]), rel=1e-4)
    assert found.histogram is not None
    assert (found.histogram == counts).all()


def test_inspect_on_the_gpu_is_inspect_on_the_cpu() -> None:
    for tensor in (torch.randn(300, 70), torch.randn(0), torch.tensor(3.5), torch.randn(9, 8, 7).permute(2, 0, 1)):
        own, wanted = fp8.inspect(tensor.cuda()), fp8.inspect(tensor)
        assert (own.elements, own.zeros, own.flushed, own.subnormal) == (
            *(wanted.elements, wanted.zeros, wanted.flushed, wanted.subnormal),
        )
        assert own.scale == wanted.scale
    with pytest.raises(UsageError, match=r"dtype torch\.int64"):
        fp8.inspect(torch.arange(3, device="cuda"))


@pytest.fixture
def ring() -> Iterator[None]:
    torch.zeros(1, device="cuda")
    _C.fp8_open(0, 64, True)
    yield
    _C.fp8_close(0)


def observed(tensor: Any, site: int, step: int, flags: int = HISTOGRAM) -> int:
    stream = torch.cuda.current_stream(0).cuda_stream
    return _C.fp8_observe(0, stream, [(*whole(tensor)[:4], site, 0, 0)], DTYPES[tensor.dtype], step, 0, 0, flags)


def taken() -> tuple[Any, Any]:
    _C.fp8_wait(0)
    found, bins = _C.fp8_take(0)
    return np.frombuffer(found, rows.ROW), recorded.unpacked(bins)


@pytest.mark.usefixtures("ring")
def test_ring_keeps_every_row_of_many_steps() -> None:
    tensors = [torch.full((1000 + i,), float(i + 1), dtype=torch.bfloat16, device="cuda") for i in range(20)]
    for step in range(40):
        orders = [observed(tensor, site, step) for site, tensor in enumerate(tensors)]
        assert orders == list(range(20 * step, 20 * step + 20))
        _C.fp8_end_step(0)
        found, bins = taken()
        assert found["order"].tolist() == orders
        assert found["site"].tolist() == list(range(20))
        assert set(found["step"].tolist()) == {step}
        assert found["amax"].tolist() == [float(i + 1) for i in range(20)]
        assert found["sum"].tolist() == [(1000 + i) * (i + 1) for i in range(20)]
        assert bins["count"].tolist() == [1000 + i for i in range(20)]
    assert _C.fp8_skipped(0) == {"captured": 0, "full": 0, "failed": 0, "last_error": 0}


@pytest.mark.usefixtures("ring")
def test_ring_that_is_full_skips_and_goes_on() -> None:
    tensor = torch.ones(8, dtype=torch.bfloat16, device="cuda")
    orders = [observed(tensor, 0, 0) for _ in range(70)]
    assert orders == [*range(64), *[-1] * 6]
    assert _C.fp8_skipped(0)["full"] == 6
    _C.fp8_end_step(0)
    assert len(taken()[0]) == 64
    assert observed(tensor, 0, 1) == 64
    with pytest.raises(ValueError, match="observed already"):
        _C.fp8_open(0, 8)


@pytest.mark.usefixtures("ring")
def test_ring_waits_for_other_streams_and_skips_captures() -> None:
    tensor, side = torch.ones(1 << 20, dtype=torch.float32, device="cuda"), torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        assert observed(tensor, 1, 0) == 0
    assert observed(tensor, 2, 0) == 1
    _C.fp8_end_step(0)
    assert _C.fp8_take(0) == (b"", b"")  # the side stream still sleeps
    assert taken()[0]["sum"].tolist() == [1 << 20] * 2
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        doubled = tensor * 2
        assert observed(doubled, 3, 1) == -1
        _C.fp8_end_step(0)
        _C.fp8_take(0)
    graph.replay()
    torch.cuda.synchronize()
    assert float(doubled[0]) == 2
    assert _C.fp8_skipped(0)["captured"] == 1
    assert observed(tensor, 4, 1) == 2
    _C.fp8_end_step(0)
    assert taken()[0]["site"].tolist() == [4]


def test_arguments_that_make_no_sense() -> None:
    tensor = torch.ones(8, device="cuda")
    for arguments, message in {
        ((tensor.data_ptr() + 1, 1, 4, 4, -1, 0, 0), 2): "not a multiple",
        ((tensor.data_ptr(), -1, 4, 4, -1, 0, 0), 2): "negative",
        ((0, 1, 4, 4, -1, 0, 0), 2): "no address",
        ((tensor.data_ptr(), 1, 4, 4, -1, 0, 0), 7): "dtype 7",
    }.items():
        with pytest.raises(ValueError, match=message):
            on_stream([arguments[0]], arguments[1])
    with pytest.raises(ValueError, match="no scales"):
        on_stream([whole(tensor)], 2, format=1, layout=1)
    with pytest.raises(ValueError, match="nothing observes device 0"):
        _C.fp8_end_step(0)


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer", path="/usr/local/cuda/bin") or shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "tests.gpu.fp8_launches"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=500, check=False)
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-2000:])
    printed = [line for line in done.stdout.splitlines() if not line.startswith("=========")]
    assert int(printed[-1]) > 90, done.stdout[-3000:]
