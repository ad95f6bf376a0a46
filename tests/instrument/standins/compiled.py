"""The compiled module: its functions, in plain torch, and the storage of FP8 tensors."""

from __future__ import annotations

import types
from types import ModuleType
from typing import Any

import torch

from tests.instrument.standins.recipes import DType, update_scales


def compiled_module(version: tuple[int, int]) -> ModuleType:
    """`transformer_engine_torch`."""
    tex = ModuleType("transformer_engine_torch")
    tex.calls = []

    def called(name: str, make: Any) -> None:
        def function(*args: Any, **kwargs: Any) -> Any:
            tex.calls.append(name)
            return make(*args, **kwargs)

        function.__name__ = name
        setattr(tex, name, function)

    storage = types.SimpleNamespace()
    tex.storage = storage

    def quantize(tensor: Any, quantizer: Any, out: Any = None, noop: Any = None) -> Any:
        return storage.of(tensor, quantizer)

    called("quantize", quantize)
    called("bgrad_quantize", lambda tensor, quantizer: (tensor.sum(0), storage.of(tensor, quantizer)))
    many = lambda tensor, sections, quantizers: [  # noqa: E731
        storage.of(part, one) for part, one in zip(tensor.split(sections), quantizers, strict=True)
    ]
    called("split_quantize" if version >= (2, 5) else "fused_multi_quantize", many)
    called("layernorm_fwd", _layernorm)
    called("gelu", lambda tensor, quantizer: torch.nn.functional.gelu(tensor))
    called("dgelu", lambda grad, tensor, quantizer: storage.of(grad, quantizer) if quantizer else grad)
    called("fp8_transpose", lambda data, dtype, out=None: data.t().contiguous())
    called("dequantize", lambda tensor, dtype: tensor._data)
    called("generic_gemm", _generic_gemm)
    called("fused_amax_and_scale_update_after_reduction", update_scales)
    called("fused_attn_fwd", lambda q, k, v: q + k + v)
    called("multi_tensor_compute_scale_and_scale_inv", lambda *args: None)
    return tex


def _layernorm(x: Any, weight: Any, bias: Any, eps: float, out: Any, quantizer: Any, *rest: Any) -> Any:
    normalized = torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return normalized, None, None


def _data(operand: Any) -> torch.Tensor:
    return operand if isinstance(operand, torch.Tensor) else operand._data


def _generic_gemm(a: Any, trans_a: bool, b: Any, trans_b: bool, *rest: Any, **kwargs: Any) -> Any:
    left, right = _data(b), _data(a)
    product = (left.t() if trans_b else left) @ (right.t() if trans_a else right)
    return product, None, None, None


def general_gemm(
    tex: ModuleType, a: Any, b: Any, layout: str = "TN", grad: bool = False, accumulate: bool = False
) -> Any:
    positional = (a, layout[0] == "T", b, layout[1] == "T", None, None, DType.kBFloat16, None, DType.kBFloat16)
    return tex.generic_gemm(*positional, False, None, grad, None, 0, accumulate, False, alpha=1.0, beta=None)[0]


def storage_class(tex: ModuleType, name: str) -> type:
    """A quantized tensor that is no torch.Tensor, as internal quantizers make it."""

    class Storage:
        def __init__(self, data: torch.Tensor, quantizer: Any) -> None:
            self._data, self._transpose, self._quantizer = data.detach(), None, quantizer
            self._fp8_dtype, self._scale_inv = quantizer.dtype, quantizer.scale_inv(data)

        def size(self) -> torch.Size:
            return self._data.size()

        def _create_transpose(self) -> None:
            self._transpose = tex.fp8_transpose(self._data, self._fp8_dtype, out=None)

        def update_usage(self, columnwise_usage: bool = False) -> None:
            if columnwise_usage and self._transpose is None:
                self._create_transpose()

    Storage.__name__ = name
    tex.storage.of = Storage
    return Storage
