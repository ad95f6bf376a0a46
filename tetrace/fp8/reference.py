"""What the kernels of csrc/fp8 count, said in plain PyTorch: the implementation for the CPU, and what they are tested with.

Obvious and slow. A cast is torch's own to float8, and sums are in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tetrace.fp8 import rows
from tetrace.fp8.formats import E4M3, Format

if TYPE_CHECKING:
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]

# How scales lie over a tensor, as in csrc/fp8/row.h.
TENSOR, ROWS, SQUARES, MX = range(4)
BINS = 2048


def measure(
    tensor: torch.Tensor, number_format: Format | None = None, scale: torch.Tensor | None = None, layout: int = TENSOR
) -> tuple[Any, Counts]:
    """The row of a floating-point tensor (a scalar of `rows.ROW`) and its histogram, shape (2048,).

    With a format, what casting to it does. `scale` is what values are multiplied by before: one for the tensor, or with
    a layout of blocks the inverse scales of the matrix, as Transformer Engine lays them out.
    """
    values = tensor.detach().float()
    row = _described(values, layout)
    if number_format is not None:
        scale = torch.ones(()) if scale is None else scale.to(values.device)
        scales = _scales(scale, layout, values)
        _count_losses(row, values, scales, number_format)
        _name_scales(row, scales, layout)
    return row, histogram(values)


def measure_codes(
    codes: torch.Tensor, number_format: Format, scale_inv: torch.Tensor | None = None, layout: int = TENSOR
) -> tuple[Any, Counts]:
    """The row and the histogram of FP8 data: bytes, and what their values are multiplied by."""
    kind = torch.float8_e4m3fn if number_format is E4M3 else torch.float8_e5m2
    decoded = codes.detach().view(torch.uint8).view(kind).float()
    scale_inv = torch.ones(()) if scale_inv is None else scale_inv.to(codes.device)
    inverse = _inverse_scales(scale_inv, layout, decoded)
    values = decoded * inverse
    row = _described(values, layout)
    magnitudes = decoded.abs()
    row["zeros"], row["nans"], row["infs"] = (magnitudes == 0).sum(), decoded.isnan().sum(), magnitudes.isinf().sum()
    row["saturated"] = (magnitudes == number_format.largest).sum()
    row["subnormal"] = ((magnitudes > 0) & (magnitudes < number_format.smallest_normal)).sum()
    row["flags"] |= rows.FORMAT_KNOWN | rows.QUANTIZED | number_format.number << rows.FORMAT_SHIFT
    scales = 1 / inverse
    if layout == TENSOR and not _usable(scales).all():
        row["squared_error"] = np.nan
    _name_scales(row, scales, layout)
    return row, histogram(values)


def histogram(values: torch.Tensor) -> Counts:
    """Elements by the quarter of a binade that |x| is in, and whether it is the quarter's lower edge; finite, not zero."""
    magnitudes = values.float().abs()
    bits = magnitudes[magnitudes.isfinite() & (magnitudes > 0)].view(torch.int32).long()
    places = 2 * (bits >> 21) + ((bits & 0x1FFFFF) != 0)
    return np.asarray(torch.bincount(places, minlength=BINS).cpu().numpy(), np.int64)


def block_exponents(tensor: torch.Tensor, layout: int) -> Counts:
    """How many blocks of a matrix have an amax of each fp32 exponent, shape (256,). Values that are not finite count as 0."""
    height, width = {ROWS: (1, 128), SQUARES: (128, 128), MX: (1, 32)}[layout]
    values = tensor.detach().float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs()
    matrix = values.reshape(-1, values.shape[-1])
    padding = (0, -matrix.shape[1] % width, 0, -matrix.shape[0] % height)
    matrix = torch.nn.functional.pad(matrix, padding)
    blocks = matrix.reshape(matrix.shape[0] // height, height, matrix.shape[1] // width, width)
    exponents = (blocks.amax((1, 3)).view(torch.int32) >> 23).long().reshape(-1)
    return np.asarray(torch.bincount(exponents, minlength=256).cpu().numpy(), np.int64)


def _described(values: torch.Tensor, layout: int) -> Any:
    row = np.zeros((), rows.ROW)
    finite = values[values.isfinite()].double()
    magnitudes = finite.abs()
    present = magnitudes[magnitudes > 0]
    row["elements"], row["whole"], row["zeros"] = values.numel(), values.numel(), (values == 0).sum()
    row["nans"], row["infs"] = values.isnan().sum(), values.isinf().sum()
    row["sum"], row["square_sum"] = finite.sum(), finite.square().sum()
    row["amax"] = magnitudes.max() if len(magnitudes) else 0
    row["smallest"] = present.min() if len(present) else 0
    row["flags"] = rows.HISTOGRAM | layout << rows.LAYOUT_SHIFT
    return row


def _usable(scales: torch.Tensor) -> torch.Tensor:
    """Finite and positive, and so is the inverse in fp32."""
    return scales.isfinite() & (scales >= 2.0**-127)


def _count_losses(row: Any, values: torch.Tensor, scales: torch.Tensor, number_format: Format) -> None:
    """Of values whose scale is a finite positive number; the error has none where one is not."""
    counted = values.isfinite() & _usable(scales)
    products = torch.where(counted, values * scales, 0).abs()
    quantized = cast(products, number_format)
    row["saturated"] = (products > number_format.largest).sum()
    row["flushed"] = (counted & (values != 0) & (products <= number_format.flush)).sum()
    row["subnormal"] = ((quantized > 0) & (quantized < number_format.smallest_normal)).sum()
    # Where a product overflows, its square does too: the value itself is scaled in double.
    exact = torch.where(products > number_format.largest, values.double().abs() * scales.double(), products.double())
    lost = torch.where(counted, (exact - quantized.double()) / scales.double(), 0)
    row["squared_error"] = lost.square().sum() if _usable(scales).all() or not values.numel() else np.nan
    row["flags"] |= rows.FORMAT_KNOWN | number_format.number << rows.FORMAT_SHIFT


def cast(products: torch.Tensor, number_format: Format) -> torch.Tensor:
    """To the format and back, to nearest even; what lies beyond the largest value becomes that."""
    kind = torch.float8_e4m3fn if number_format is E4M3 else torch.float8_e5m2
    return products.clamp(-number_format.largest, number_format.largest).to(kind).float()


def _scales(scale: torch.Tensor, layout: int, values: torch.Tensor) -> torch.Tensor:
    """For each value what it is multiplied by; of a tensor's scale a view."""
    if layout == TENSOR:
        return scale.float().reshape(()).expand(values.shape)
    return 1 / _inverse_scales(scale, layout, values)


def _inverse_scales(scale: torch.Tensor, layout: int, values: torch.Tensor) -> torch.Tensor:
    if layout == TENSOR:
        return scale.float().reshape(()).expand(values.shape)
    row, column = torch.meshgrid(*(torch.arange(n, device=values.device) for n in values.shape), indexing="ij")
    if layout == ROWS:
        return scale[column // 128, row]
    if layout == SQUARES:
        return scale[row // 128, column // 128]
    exponents = scale.view(torch.uint8)[row, column // 32].double()
    return torch.where(exponents == 255, torch.nan, torch.exp2(exponents - 127)).float()


def _name_scales(row: Any, scales: torch.Tensor, layout: int) -> None:
    if layout == TENSOR:
        row["scale"] = scales.reshape(-1)[0] if scales.numel() else 0
    elif scales.numel():
        row["scale_min"], row["scale_max"] = scales.min(), scales.max()
