"""What a call that quantizes was given and made, as what is observed of it: data, format, scale and how scales lie.

Quantized tensors of Transformer Engine say by their fields what they are (`_scale_inv`: one scale; `_rowwise_scale_inv`:
one for each block). Those of them that are no torch.Tensor have the same fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import _guards
from torch._subclasses import fake_tensor

from tetrace.fp8 import block_scales

FORMATS = {"": 0, "E4M3": 1, "E5M2": 2}
# Number types by what the kernels call them; FP8 codes are bytes, and say their format apart.
DTYPES = {torch.bfloat16: 0, torch.float16: 1, torch.float32: 2}
_CODES = {"E4M3": 3, "E5M2": 4}
TENSOR, ROWS, SQUARES, MX = range(4)
# Where a quantized tensor has its codes, the first that is there; of the transposed ones only one scale says enough.
_ONE_SCALE, _BLOCKS = ("_data", "_transpose"), ("_rowwise_data",)


# Most tensors are of these; asked for each one that is observed here.
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_modes, _is_functional = torch._C._len_torch_dispatch_stack, torch._is_functional_tensor
_core: Any = torch._C
_is_of_functorch = _core._functorch.is_functorch_wrapped_tensor

# What a quantizer may be told to make otherwise from call to call, by which rows and columns are found.
_SIGNS = ("_rowwise_scale_inv", "_scale_inv", "_data_format", "_is_2D_scaled", "_with_gemm_swizzled_scales")


class Scale(NamedTuple):
    """Where the scale is: attribute `name` `of` the quantizer or the result, and how scales lie over the tensor."""

    of: str
    name: str
    layout: int
    stride: int


class Operand(NamedTuple):
    """A tensor to be observed, and the scale that is in use; None where it is not known."""

    tensor: Any
    codes: str  # the attribute that it was taken from, where it is the codes that are observed
    place: int  # of the quantized tensor in the result; -1: it is the result
    format: str
    scale: Scale | None
    scales: Any

    @property
    def dtype(self) -> int:
        """Its number type, as the kernels call it; negative for one that they do not know."""
        return _CODES.get(self.format, -1) if self.codes else DTYPES.get(self.tensor.dtype, -1)

    @property
    def columns(self) -> int:
        """Of the matrix whose blocks have scales; 0 where it has one scale."""
        return 0 if self.scale is None or self.scale.layout == TENSOR else int(self.tensor.shape[-1])

    @property
    def layout(self) -> int:
        """How scales lie over it."""
        return TENSOR if self.scale is None else self.scale.layout

    @property
    def is_inverse(self) -> bool:
        """Whether its scales are what codes are multiplied by."""
        return self.scale is not None and self.scale.of == "result"


def of_call(tensor: Any, quantizer: Any, result: Any, number_format: str, fused: bool) -> Operand | None:
    """What is observed of a call with one tensor; None where there is nothing."""
    made = next(_quantized(result), None)
    if made is None:
        return None if fused else _plain(tensor)
    return of_quantized(tensor, quantizer, *made, number_format, fused)


def of_quantized(tensor: Any, quantizer: Any, place: int, made: Any, number_format: str, fused: bool) -> Operand | None:
    """What is observed of one quantized tensor, which `made` is; `tensor` is what it was before."""
    # Codes are decoded: with them the kernels take what codes are multiplied by.
    scale = _scale(None if fused else quantizer, made) if number_format in _CODES else None
    scales = None if scale is None else getattr(quantizer if scale.of == "quantizer" else made, scale.name)
    if not fused:
        plain = _plain(tensor)
        return None if plain is None else plain._replace(place=place, format=number_format, scale=scale, scales=scales)
    names = _BLOCKS if hasattr(made, "_rowwise_data") else _ONE_SCALE
    name = next((one for one in names if getattr(made, one, None) is not None), "")
    if not name or number_format not in _CODES:
        return None
    return Operand(getattr(made, name), name, place, number_format, scale, scales)


def _plain(tensor: Any) -> Operand | None:
    """A tensor of high precision as it is."""
    is_plain = isinstance(tensor, torch.Tensor) and not is_quantized(tensor) and tensor.dtype in DTYPES
    return Operand(tensor, "", -1, "", None, None) if is_plain else None


def is_quantized(value: Any) -> bool:
    """Whether it is one of Transformer Engine's quantized tensors."""
    return type(value) is not torch.Tensor and (hasattr(value, "_rowwise_data") or hasattr(value, "_scale_inv"))


def _quantized(result: Any) -> Iterator[tuple[int, Any]]:
    """(place, quantized tensor) of those in a result; place -1 where it is the result."""
    if is_quantized(result):
        yield -1, result
    elif isinstance(result, list | tuple):
        yield from ((place, one) for place, one in enumerate(result) if is_quantized(one))


def _scale(quantizer: Any, made: Any) -> Scale | None:
    if hasattr(made, "_rowwise_data"):
        return _scale_of_blocks(made)
    # The quantizer's own is exact: what the result has is its reciprocal, rounded.
    if isinstance(getattr(quantizer, "scale", None), torch.Tensor):
        return Scale("quantizer", "scale", TENSOR, 0)
    return Scale("result", "_scale_inv", TENSOR, 0) if getattr(made, "_scale_inv", None) is not None else None


def _scale_of_blocks(made: Any) -> Scale | None:
    scales = getattr(made, "_rowwise_scale_inv", None)
    if scales is None or scales.dim() != 2 or block_scales.are_compact(made):
        return None
    if scales.dtype == torch.uint8:
        return None if block_scales.are_swizzled(made) else Scale("result", "_rowwise_scale_inv", MX, scales.stride(0))
    squares = getattr(made, "_is_2D_scaled", False)
    return Scale("result", "_rowwise_scale_inv", SQUARES if squares else ROWS, scales.stride(0))


def signs(made: Any) -> tuple[tuple[str, Any], ...]:
    """What tells that another quantized tensor is laid out as `made`: attributes with values, or with no tensor."""
    known = ((name, getattr(made, name)) for name in _SIGNS if hasattr(made, name))
    return tuple((name, value) for name, value in known if not isinstance(value, torch.Tensor))


def has_values(tensor: Any) -> bool:
    """Whether there are values to look at: not in tensors of the meta device or of a trace, nor while one is made, nor in
    those whose memory was freed, such as parameters that are sharded away."""
    if tensor.is_meta or (_modes() and _guards.active_fake_mode() is not None):
        return False
    if type(tensor) in _PLAIN and not _is_functional(tensor):
        return not _is_freed(tensor)
    return not fake_tensor.is_fake(tensor)


def _is_freed(tensor: Any) -> bool:
    is_dense = tensor.layout is torch.strided and not tensor.is_nested and not _is_of_functorch(tensor)
    return is_dense and tensor.numel() > 0 and tensor.untyped_storage().nbytes() == 0


def odd_form(tensor: Any) -> str:
    """What keeps values from being looked at one after the other; empty for most tensors."""
    if _is_of_functorch(tensor):
        return "inside of torch.func"
    if tensor.is_nested:
        return "nested"
    return "" if tensor.layout is torch.strided else str(tensor.layout).removeprefix("torch.")


def is_captured(tensor: Any) -> bool:
    """Whether what is launched for a tensor now becomes a part of a CUDA graph."""
    cuda: Any = torch.cuda
    return bool(getattr(tensor, "is_cuda", False) and cuda.is_current_stream_capturing())


def width(tensor: Any) -> int:
    """The last dimension; 0 where there is none."""
    return int(tensor.shape[-1]) if tensor.dim() else 0


def matrix(tensor: Any, columns: int) -> tuple[Any, int, int, int]:
    """(tensor, rows, columns, elements from one row to the next): a view of rows where it is one, else a copy.

    `columns`: those that the matrix must have, 0 where it does not matter.
    """
    if not tensor.is_contiguous():
        strided = _rows_of(tensor)
        if strided is not None and columns in (0, strided[1]):
            return tensor, *strided
        tensor = tensor.contiguous()
    wide = columns or tensor.numel()
    return tensor, tensor.numel() // wide if wide else 0, wide, wide


def _rows_of(tensor: Any) -> tuple[int, int, int] | None:
    """(rows, columns, stride) of a tensor whose last dimensions are dense and whose leading ones are one."""
    dimensions = [(size, stride) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1]
    columns = 1
    while dimensions and dimensions[-1][1] == columns:
        columns *= dimensions.pop()[0]
    if not dimensions or columns < 2:
        return None
    apart = dimensions[-1][1]
    rows = 1
    for size, stride in reversed(dimensions):
        if stride != apart * rows:
            return None
        rows *= size
    return (rows, columns, apart) if apart >= columns else None


def parts(tensor: Any, sections: Any, quantizers: Any, made: Any, number_format: str) -> list[Operand | None]:
    """What is observed of a call that quantizes rows of `tensor` apart, `sections` of them each."""
    rows = tensor.reshape(-1, tensor.shape[-1]) if tensor.dim() != 2 else tensor
    cut = zip(rows.split(list(sections)), quantizers, made, strict=True)
    return [
        of_quantized(part, quantizer, place, one, number_format, False) if is_quantized(one) else _plain(part)
        for place, (part, quantizer, one) in enumerate(cut)
    ]
