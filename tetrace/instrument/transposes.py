"""Ranges around what is done to tensors that are quantized already: transposes and dequantization.

Hopper's FP8 GEMMs want both operands row-major. A tensor that was cast without its transpose (FP8 weights, gathered
inputs) gets it later, from a method of the tensor, which knows its quantizer; the bytes that the compiled module
transposes do not.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from torch.compiler import is_dynamo_compiling

from tetrace.instrument import dynamo, modules, process, quantization, quantizers, ranges
from tetrace.instrument.patches import Patches

# Methods of quantized tensors that transpose their data, and where the data is.
_METHODS = {
    "_create_transpose": "_data",
    "_create_columnwise": "_rowwise_data",
    "_transpose_columnwise_data": "_columnwise_data",
}


_DATA = ("_data", "_rowwise_data", "_columnwise_data", "_transpose")
_MOST_SITES = 20_000
_sites: dict[Any, int] = {}


class _Inside(threading.local):
    method = False


_inside = _Inside()


def install(tex: ModuleType, copies: Iterable[ModuleType], storages: Iterable[type]) -> tuple[Callable[[], None], int]:
    """Gives these calls of the compiled module `tex`, and methods of the classes `storages`, ranges.

    Returns the function that restores, and the number of patches.
    """
    patches = Patches()
    wraps = {"dequantize": _of_tensor, "fp8_transpose": _transposed}
    new = {id(getattr(tex, name)): wrap(getattr(tex, name), name) for name, wrap in wraps.items() if hasattr(tex, name)}
    quantization.replace(patches, new, (tex, *copies))
    for storage in storages:
        for name in _METHODS.keys() & vars(storage).keys():
            patches.method(storage, name, functools.partial(_transposing, name))
    return patches.restore, len(patches)


def _of_tensor(plain: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A call whose first argument is a quantized tensor, which has its quantizer."""

    def ranged(*args: Any, **kwargs: Any) -> Any:
        return quantization.inside(_site_of_tensor(name, args[0] if args else None), plain, args, kwargs)

    return quantization.like(plain, ranged)


def _transposed(plain: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A transpose of bytes that belong to a tensor which is not seen here."""

    def ranged(*args: Any, **kwargs: Any) -> Any:
        if _inside.method:
            return plain(*args, **kwargs)
        return quantization.inside(_site_of_tensor(name, args[0] if args else None), plain, args, kwargs)

    return quantization.like(plain, ranged)


def _transposing(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A method that transposes its tensor: the range is around all that it launches."""
    data = _METHODS[name]

    @functools.wraps(plain)
    def ranged(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling() or getattr(self, data, None) is None:
            return plain(self, *args, **kwargs)
        _inside.method = True
        try:
            return quantization.inside(_site_of_tensor("fp8_transpose", self), plain, (self, *args), kwargs)
        finally:
            _inside.method = False

    return dynamo.skipped(ranged)


def _site_of_tensor(name: str, tensor: Any) -> int:
    """The site of a call on a tensor that is quantized already."""
    try:
        key = name, ranges.current_module(), type(tensor), _data_size(tensor)
        return _sites[key]
    except (KeyError, AttributeError, TypeError):
        return _new_site(name, tensor)


dynamo.skipped(_site_of_tensor)


def _data_size(tensor: Any) -> int:
    for data in _DATA:
        held = getattr(tensor, data, None)
        if held is not None:
            return held.numel()
    return tensor.numel()


dynamo.skipped(_data_size)


@dynamo.quiet
def _new_site(name: str, tensor: Any) -> int:
    with process.guarded("finding out what is quantized"):
        quantizer = getattr(tensor, "_quantizer", None)
        facts = {} if quantizer is None else quantizers.facts(quantizer)
        known = quantizers.known.get(id(quantizer))
        role = known.role if known is not None else _role(tensor)
        site = quantization.quantize_site(name, role, tensor, fused=False, **facts)
        if len(_sites) < _MOST_SITES:
            _sites[name, ranges.current_module(), type(tensor), _data_size(tensor)] = site
        return site
    return quantization.NO_SITE


def _role(tensor: Any) -> str:
    """A weight is told by its shape, also transposed. What else is transposed after its cast is an input, saved for
    the weight's gradient: gradients are cast and transposed at once."""
    module = modules.current_module_object()
    weights = () if module is None else module.parameters(recurse=False)
    shape = quantization.shape_of(tensor)
    return "weight" if any(tuple(one.shape) in (shape, shape[::-1]) for one in weights if one.dim() == 2) else "input"
