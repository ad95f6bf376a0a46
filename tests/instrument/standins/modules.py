"""Modules: their base class, Linear, and Linear as an operator of torch."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.instrument.standins.compiled import general_gemm
from tests.instrument.standins.recipes import (
    DelayedScaling,
    DType,
    Float8CurrentScalingQuantizer,
    Float8Quantizer,
    Quantizer,
    ScalingState,
)
from tests.instrument.standins.state import dtype_of


def base_class(manager: Any) -> type:
    class TransformerEngineBaseModule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quantizers: dict[str, Any] = {"scaling_fwd": {}, "scaling_bwd": {}}
            self.fp8_meta: dict[str, Any] = {}
            self.fp8_initialized = False

        def set_meta_tensor(self, fwd: bool, recipe: Any) -> None:
            word, dtype = "scaling_fwd" if fwd else "scaling_bwd", dtype_of(recipe, fwd)
            number = (3 if fwd else 2) * (3 if "fused_attention" in self._modules else 1)
            if not isinstance(recipe, DelayedScaling):
                self.quantizers[word] = [Float8CurrentScalingQuantizer(dtype) for _ in range(number)]
                return
            state = ScalingState(torch.ones(number), torch.zeros(recipe.amax_history_len, number))
            self.fp8_meta |= {word: state, "recipe": recipe}
            places = [slice(place, place + 1) for place in range(number)]
            self.quantizers[word] = [
                Float8Quantizer(dtype, state.scale[at], state.amax_history[0, at]) for at in places
            ]
            if not fwd:
                manager.state.metas.append(self.fp8_meta)

        def prepare_forward(self) -> bool:
            enabled = manager.is_fp8_enabled()
            if enabled and not self.fp8_initialized:
                self.set_meta_tensor(True, manager.get_fp8_recipe())
                self.set_meta_tensor(False, manager.get_fp8_recipe())
                self.fp8_initialized = True
            return enabled

    return TransformerEngineBaseModule


def linear_class(tex: ModuleType, base: type) -> type:
    class _Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: Any, inp: Any, module: Any, fp8: bool) -> torch.Tensor:
            a, b = weight, inp
            if fp8:
                inputs, weights = module.quantizers["scaling_fwd"][:2]
                inputs.set_usage(rowwise=True, columnwise=True)
                b = tex.quantize(inp, inputs)
                a = tex.quantize(weight, weights)
            ctx.saved, ctx.module, ctx.fp8 = (a, b), module, fp8
            return general_gemm(tex, a, b)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> Any:
            a, b = ctx.saved
            if ctx.fp8:
                _, grad = tex.bgrad_quantize(grad, ctx.module.quantizers["scaling_bwd"][0])
                a.update_usage(columnwise_usage=True)
            dgrad = general_gemm(tex, a, grad, layout="NN", grad=True)
            return general_gemm(tex, b, grad, layout="NT", grad=True), dgrad, None, None

    class Linear(base):  # type: ignore[misc, valid-type]
        def __init__(self, features: int, out: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(out, features) / features**0.5)

        def set_meta_tensor(self, fwd: bool, recipe: Any) -> None:
            super().set_meta_tensor(fwd, recipe)

        def forward(self, inp: torch.Tensor) -> torch.Tensor:
            return _Linear.apply(self.weight, inp, self, self.prepare_forward())

    return Linear


@dataclass
class LinearArguments:
    """Forward has `weight` and `inp`, backward `saved_weight`, `inputmat` and `grad_output`: as theirs are named."""

    weight: Any = None
    inp: Any = None
    saved_weight: Any = None
    inputmat: Any = None
    grad_output: Any = None


def compiled_linear(tex: ModuleType, namespace: str) -> dict[str, Any]:
    """Linear as operators of torch, which is what it is under torch.compile since 2.20."""

    def quantizer(dtype: DType) -> Quantizer:
        # Constants of the compiled graph: made anew, and nobody's.
        return Float8CurrentScalingQuantizer(dtype)

    def _linear_forward_impl(args: Any) -> torch.Tensor:
        b = tex.quantize(args.inp, quantizer(DType.kFloat8E4M3))
        return general_gemm(tex, tex.quantize(args.weight, quantizer(DType.kFloat8E4M3)), b)

    def _linear_backward_impl(args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        _, grad = tex.bgrad_quantize(args.grad_output.contiguous(), quantizer(DType.kFloat8E5M2))
        inp = tex.quantize(args.inputmat, quantizer(DType.kFloat8E4M3))
        dgrad = general_gemm(tex, args.saved_weight, grad, layout="NN", grad=True)
        return dgrad, general_gemm(tex, inp, grad, layout="NT", grad=True)

    forward = _register(f"{namespace}::linear_base", _linear_forward_impl, ("weight", "inp"), "Tensor")
    names = ("saved_weight", "inputmat", "grad_output")
    backward = _register(f"{namespace}::linear_backward_base", _linear_backward_impl, names, "(Tensor, Tensor)")
    forward.register_fake(lambda weight, inp: inp.new_empty(inp.shape[0], weight.shape[0]))
    backward.register_fake(lambda weight, inp, grad: (torch.empty_like(inp), torch.empty_like(weight)))
    forward.register_autograd(
        lambda ctx, grad: tuple(reversed(backward(*ctx.saved_tensors, grad))),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    )
    return {"_linear_forward_impl": _linear_forward_impl, "_linear_backward_impl": _linear_backward_impl, "op": forward}


def _register(name: str, impl: Any, arguments: tuple[str, ...], result: str) -> Any:
    def _impl(*flat: torch.Tensor) -> Any:
        return impl(LinearArguments(**dict(zip(arguments, flat, strict=True))))

    schema = f"({', '.join(f'Tensor {one}' for one in arguments)}) -> {result}"
    return torch.library.custom_op(name, _impl, mutates_args=(), schema=schema)
