"""`inspect(tensor)`: what a tensor holds, and what casting it to FP8 does, on the device that it is on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tetrace import _C
from tetrace.errors import UsageError
from tetrace.fp8 import block_scales, recorded, reference, rows
from tetrace.fp8.formats import FORMATS, Format, format_named
from tetrace.fp8.statistics import TensorStats, combined, stats_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]

# Numbers of `_C.fp8_inspect`.
_DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
_CODES = {torch.float8_e4m3fn: "E4M3", torch.float8_e5m2: "E5M2"}
_CODE_DTYPES = {"E4M3": 3, "E5M2": 4}
_WITH_HISTOGRAM, _IS_INVERSE = 1, 2
# As the kernels have it (csrc/fp8/numbers.cuh): with less they count nothing.
_LEAST_SCALE = 2.0**-127
# Of one launch: counts of bins have 32 bits.
_MOST_ELEMENTS = 1 << 31


def inspect(
    tensor: Any,
    format: str = "E4M3",  # noqa: A002
    scale: float | torch.Tensor | None = None,
    histogram: bool = True,
) -> TensorStats:
    """What `tensor` holds, and what casting it to `format` does, with `scale` the number it is multiplied by before.

    Without a scale that of current scaling: the format's largest value over the amax of finite values, 1 where that is
    0. bf16, fp16 or fp32, on a CUDA device (one pass, two without a scale) or the CPU; also FP8 tensors of torch or
    Transformer Engine (`source` is then `quantized`), whose own format and scales count. Waits for the result. What is
    no matrix of evenly spaced rows is copied first, and `copied` says so.

    Raises `UsageError` for what is no such tensor, for a `format` other than E4M3 and E5M2, and for a scale that is no
    finite number from 2^-127 on; `TetraceError` where the kernels are missing or do not run.
    """
    number_format = format_named(format)
    source = _quantized_parts(tensor)
    if source is None and not isinstance(tensor, torch.Tensor):
        raise UsageError(f"{type(tensor).__name__} is no tensor; give one of torch or Transformer Engine")
    if source is None and tensor.dtype in _CODES:
        inverse = torch.ones((), device=tensor.device) if scale is None else 1 / _checked_scale(scale, tensor.device)
        source = (tensor.detach().view(torch.uint8), FORMATS[_CODES[tensor.dtype]], inverse, reference.TENSOR)
    if source is not None:
        return _inspect_codes(*source, histogram)
    _check_values(tensor)
    matrix, copied = _matrix(tensor.detach())
    known = None if scale is None else _checked_scale(scale, tensor.device)
    factor = _current_scale(_measure(matrix, None, None, False)[0], number_format) if known is None else known
    row, counts = _measure(matrix, number_format, factor.to(tensor.device), histogram)
    return stats_of(row, counts if histogram else None, copied=copied)


def _check_values(tensor: torch.Tensor) -> None:
    if tensor.dtype not in _DTYPES:
        raise UsageError(f"dtype {tensor.dtype} is not inspected; give bfloat16, float16, float32 or FP8")
    if tensor.is_nested:
        raise UsageError("a nested tensor is not inspected; give its parts, or the dense tensor of its values")
    if tensor.layout != torch.strided:
        raise UsageError(f"a tensor of layout {tensor.layout} is not inspected; give a dense one")
    if tensor.device.type not in ("cpu", "cuda"):
        raise UsageError(f"a tensor on {tensor.device} is not inspected; move it to a CUDA device or the CPU")


def _checked_scale(scale: float | torch.Tensor, device: torch.device) -> torch.Tensor:
    if not isinstance(scale, torch.Tensor):
        try:
            scale = torch.as_tensor(scale, dtype=torch.float32)
        except (TypeError, ValueError, OverflowError, RuntimeError):  # by what it is: torch raises each of them
            raise UsageError(f"the scale {scale!r} is no number; give one that is finite and positive") from None
    found = scale.detach().to(torch.float32).reshape(-1)
    if found.numel() != 1:
        raise UsageError(f"a scale of {found.numel()} elements; give one number")
    if not (bool(found.isfinite()) and bool(found > 0)):
        raise UsageError(f"the scale {found.item()} is no finite positive number; give one that is")
    if found.item() < _LEAST_SCALE:
        raise UsageError(
            f"the scale {found.item():.3g} is below 2**-127, and has no inverse in fp32: nothing can be counted with it; "
            "tetrace.fp8.from_histogram(inspect(tensor).histogram, format, scale) does without"
        )
    return found.to(device)


def _current_scale(row: Any, number_format: Format) -> torch.Tensor:
    """As Transformer Engine does it: in fp32, the largest fp32 number where it would be infinite, 1 for an amax of 0."""
    amax = np.float32(row["amax"])
    with np.errstate(over="ignore"):
        scale = np.float32(number_format.largest) / amax if amax > 0 else np.float32(1)
    return torch.tensor([min(scale, np.finfo(np.float32).max)], dtype=torch.float32)


def _quantized_parts(tensor: Any) -> tuple[torch.Tensor, Format, torch.Tensor, int] | None:
    """Codes, format, inverse scales and their layout of a tensor of Transformer Engine's; None for any other.

    Told by what it has, not by its class: the classes moved between versions.
    """
    kind = str(getattr(tensor, "_fp8_dtype", ""))
    number_format = next((one for name, one in FORMATS.items() if name in kind.upper()), None)
    if number_format is None:
        return None
    if getattr(tensor, "_data", None) is not None:
        return tensor._data, number_format, tensor._scale_inv, reference.TENSOR
    codes, inverse = getattr(tensor, "_rowwise_data", None), getattr(tensor, "_rowwise_scale_inv", None)
    if codes is None or inverse is None:
        raise UsageError(f"{type(tensor).__name__} has no data by rows; inspect it before that is freed")
    if block_scales.are_compact(tensor):
        raise UsageError(
            f"{type(tensor).__name__} has scales in COMPACT format, as they are gathered over ranks; inspect what it was "
            "made of, or make it with a quantizer whose all_gather_usage is False"
        )
    if block_scales.are_swizzled(tensor):
        raise UsageError(f"{type(tensor).__name__} has scales swizzled for its GEMM; inspect it before they are")
    if inverse.dtype == torch.uint8:
        return codes, number_format, inverse, reference.MX
    return codes, number_format, inverse, reference.SQUARES if tensor._is_2D_scaled else reference.ROWS


def _inspect_codes(
    codes: torch.Tensor, number_format: Format, inverse: torch.Tensor, layout: int, histogram: bool
) -> TensorStats:
    if codes.device.type not in ("cpu", "cuda"):
        raise UsageError(f"a tensor on {codes.device} is not inspected; move it to a CUDA device or the CPU")
    data = codes.detach().view(torch.uint8)
    if layout == reference.TENSOR:
        matrix, copied = _matrix(data)
    else:
        matrix, copied = data.reshape(-1, data.shape[-1]), not data.is_contiguous()
        matrix = matrix.contiguous()
    if codes.device.type == "cpu":
        row, counts = reference.measure_codes(matrix, number_format, inverse, layout)
    else:
        dtype = _CODE_DTYPES[number_format.name]
        row, counts = _on_device(matrix, dtype, 0, inverse.contiguous(), layout, _IS_INVERSE, histogram)
    return stats_of(row, counts if histogram else None, copied=copied)


def _matrix(tensor: torch.Tensor) -> tuple[torch.Tensor, bool]:
    """The same elements, in any order, as rows that are evenly spaced, and whether they had to be copied."""
    if tensor.is_contiguous():
        return tensor.reshape(1, -1), False
    dense = tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
    if dense.stride(-1) == 1:
        try:
            return dense.view(-1, dense.shape[-1]), False
        except RuntimeError:  # its rows are not evenly spaced
            pass
    return tensor.contiguous().view(1, -1), True


def _measure(
    matrix: torch.Tensor, number_format: Format | None, scale: torch.Tensor | None, histogram: bool
) -> tuple[Any, Counts]:
    if matrix.device.type == "cpu":
        return reference.measure(matrix, number_format, scale)
    number = 0 if number_format is None else number_format.number
    return _on_device(matrix, _DTYPES[matrix.dtype], number, scale, reference.TENSOR, 0, histogram)


def _on_device(
    matrix: torch.Tensor,
    dtype: int,
    number_format: int,
    scale: torch.Tensor | None,
    layout: int,
    flags: int,
    histogram: bool,
) -> tuple[Any, Counts]:
    flags |= _WITH_HISTOGRAM if histogram else 0
    address, spacing = (0, 0) if scale is None else (scale.data_ptr(), scale.stride(0) if scale.ndim > 1 else 0)
    tensors = [(*place, -1, address, spacing) for place in _parts(matrix, layout)]
    stream = torch.cuda.current_stream(matrix.device).cuda_stream
    try:
        found, bins = _C.fp8_inspect(matrix.device.index, stream, tensors, dtype, number_format, layout, flags)
    except ValueError as error:
        raise UsageError(str(error)) from None
    counts = np.zeros(reference.BINS, np.int64)
    places = recorded.unpacked(bins)
    np.add.at(counts, places["bin"], places["count"])
    return combined(np.frombuffer(found, rows.ROW)), counts


def _parts(matrix: torch.Tensor, layout: int) -> list[tuple[int, int, int, int]]:
    """(address, rows, columns, elements from row to row) of pieces that one launch can count."""
    height, width = matrix.shape
    spacing = matrix.stride(0) if height > 1 else width
    address, size = matrix.data_ptr(), matrix.element_size()
    if matrix.numel() <= _MOST_ELEMENTS:
        return [(address, height, width, spacing)]
    if layout != reference.TENSOR:
        raise UsageError(
            f"{matrix.numel()} elements in blocks are more than one launch counts; give parts of {_MOST_ELEMENTS}"
        )
    if spacing == width:
        starts = range(0, matrix.numel(), _MOST_ELEMENTS)
        return [(address + s * size, 1, n := min(_MOST_ELEMENTS, matrix.numel() - s), n) for s in starts]
    step = max(_MOST_ELEMENTS // width, 1)
    return [(address + s * spacing * size, min(step, height - s), width, spacing) for s in range(0, height, step)]
