"""Stand-ins for Transformer Engine on the CPU: its names, signatures and order of calls, release by release.

They compute in plain torch what theirs compute in FP8; what is tested is which calls tetrace sees and what it says of
them. What moved or was renamed between 2.4 and 2.20 is where that release has it.
"""

from __future__ import annotations

import contextlib
import enum
import logging
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn

VERSIONS = ("2.4.0", "2.9.0", "2.12.0", "2.15.0", "2.20.2")


class DType(enum.Enum):
    kByte, kFloat32, kBFloat16, kFloat8E4M3, kFloat8E5M2 = range(5)  # noqa: N815 - theirs


@dataclass
class QParams:
    power_2_scale: bool = False
    amax_epsilon: float = 0.0


class Format(enum.Enum):
    E4M3, HYBRID = range(2)


@dataclass
class Recipe:
    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False


@dataclass
class DelayedScaling(Recipe):
    margin: int = 0
    amax_history_len: int = 1024


@dataclass
class Float8CurrentScaling(Recipe):
    use_power_2_scales: bool = False

    fp8_quant_fwd_inp = QParams()


class Quantizer:
    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.rowwise_usage = self.columnwise_usage = True

    def set_usage(self, *, rowwise: bool | None = None, columnwise: bool | None = None) -> None:
        self.rowwise_usage = self.rowwise_usage if rowwise is None else rowwise
        self.columnwise_usage = self.columnwise_usage if columnwise is None else columnwise

    def __eq__(self, other: object) -> bool:
        """By value, as since 2.20."""
        return type(self) is type(other) and self.dtype == other.dtype

    __hash__ = None  # type: ignore[assignment]


class Float8Quantizer(Quantizer):
    def __init__(self, dtype: DType, scale: Any = None, amax: Any = None) -> None:
        super().__init__(dtype)
        self.scale = torch.ones(1) if scale is None else scale
        self.amax = torch.zeros(1) if amax is None else amax

    def scale_inv(self, tensor: torch.Tensor) -> torch.Tensor:
        """The cast keeps its largest magnitude for the update."""
        self.amax.copy_(torch.maximum(self.amax, tensor.detach().abs().max().float().reshape(self.amax.shape)))
        return 1 / self.scale.clone()


class Float8CurrentScalingQuantizer(Quantizer):
    force_pow_2_scales = False

    def scale_inv(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.detach().abs().max().float() / fp8_max(self.dtype)).reshape(1)


def fp8_max(dtype: DType) -> float:
    return 448.0 if dtype is DType.kFloat8E4M3 else 57344.0


@dataclass
class ScalingState:
    """Scales and amaxes of a module's tensors in one direction."""

    scale: torch.Tensor
    amax_history: torch.Tensor


def update_scales(amax: Any, histories: Any, scales: Any, algo: str, dtype: Any, margin: float) -> None:
    """Their update: the amaxes of the step become the newest of the history, and the largest of that the scale."""
    for history, scale in zip(histories, scales, strict=True):
        own, amax = amax[: len(scale)], amax[len(scale) :]
        history.copy_(torch.roll(history, -1, 0))
        history[-1], history[0] = own, 0
        largest = history.amax(0)
        scale.copy_(torch.where(largest > 0, fp8_max(dtype) / 2**margin / largest, scale))


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


class State:
    def __init__(self) -> None:
        self.global_amax_buffer: dict[str, list[torch.Tensor]] = {}
        self.metas: list[dict[str, Any]] = []
        self.enabled, self.recipe, self.depth = False, None, 0


def state_manager(tex: ModuleType, version: tuple[int, int]) -> type:
    """FP8GlobalStateManager: an object holds its state since 2.15, methods lost `fp8_` in 2.9."""
    held = State()

    class FP8GlobalStateManager:
        state = held

        @classmethod
        def is_fp8_enabled(cls) -> bool:
            return cls.state.enabled

        @classmethod
        def get_fp8_recipe(cls) -> Any:
            return cls.state.recipe

        @classmethod
        def reduce_and_update_fp8_tensors(cls, forward: bool = True) -> None:
            recipe, word = cls.state.recipe, "scaling_fwd" if forward else "scaling_bwd"
            if not cls.state.global_amax_buffer:
                return
            states = [meta[word] for meta in cls.state.metas]
            tex.fused_amax_and_scale_update_after_reduction(
                torch.cat([torch.zeros(0), *(one.amax_history[0] for one in states)]),
                [one.amax_history for one in states],
                [one.scale for one in states],
                "max",
                dtype_of(recipe, forward),
                recipe.margin,
            )

        @staticmethod
        def restore_fp8_meta_tensors(fp8_meta: dict[str, Any]) -> None:
            fp8_meta["restored"] = True

    def enter(cls: Any, enabled: bool = False, calibrating: bool = False, fp8_recipe: Any = None) -> None:
        cls.state.enabled, cls.state.recipe = enabled, fp8_recipe or DelayedScaling()
        cls.state.depth += 1
        if isinstance(cls.state.recipe, DelayedScaling):
            cls.state.global_amax_buffer["forward"] = [torch.zeros(1)]

    def leave(cls: Any, enabled: bool, _graph: bool) -> None:
        cls.state.depth -= 1
        if enabled and not cls.state.depth and torch.is_grad_enabled():
            cls.reduce_and_update_fp8_tensors(forward=True)
        cls.state.enabled = False
        cls.state.global_amax_buffer.clear()

    prefix = "" if version >= (2, 9) else "fp8_"
    setattr(FP8GlobalStateManager, f"{prefix}autocast_enter", classmethod(enter))
    setattr(FP8GlobalStateManager, f"{prefix}autocast_exit", classmethod(leave))
    if version >= (2, 15):
        FP8GlobalStateManager.quantization_state = held
    else:
        FP8GlobalStateManager.global_amax_buffer = held.global_amax_buffer
    return FP8GlobalStateManager


def dtype_of(recipe: Any, forward: bool) -> DType:
    return DType.kFloat8E4M3 if forward or recipe.fp8_format == Format.E4M3 else DType.kFloat8E5M2


def autocast_of(manager: Any, version: tuple[int, int]) -> Any:
    prefix = "" if version >= (2, 9) else "fp8_"
    enter, leave = f"{prefix}autocast_enter", f"{prefix}autocast_exit"

    @contextlib.contextmanager
    def function(enabled: bool = True, fp8_recipe: Any = None) -> Iterator[None]:
        getattr(manager, enter)(enabled, False, fp8_recipe)
        try:
            yield
        finally:
            getattr(manager, leave)(enabled, _graph=False)

    class autocast:  # noqa: N801 - its name since 2.16
        __slots__ = ("enabled", "recipe")

        def __init__(self, enabled: bool = True, recipe: Any = None) -> None:
            self.enabled, self.recipe = enabled, recipe

        def __enter__(self) -> Any:
            getattr(manager, enter)(enabled=self.enabled, calibrating=False, fp8_recipe=self.recipe)
            return self

        def __exit__(self, *error: object) -> None:
            getattr(manager, leave)(self.enabled, _graph=False)

    return autocast if version >= (2, 16) else function


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


def attention_modules(version: tuple[int, int], base: type, prefix: str) -> dict[str, ModuleType]:
    utils, backends, dot = (ModuleType(f"{prefix}.{name}") for name in ("utils", "backends", "dot_product_attention"))

    class AttentionLogging:
        _log_level = logging.WARNING
        _stream_handler = logging.StreamHandler()

    def get_attention_backend(attention_params: Any = None) -> tuple[Any, ...]:
        logger = logging.getLogger("DotProductAttention")
        logger.setLevel(AttentionLogging._log_level)
        if not logger.hasHandlers():
            logger.addHandler(AttentionLogging._stream_handler)
        logger.debug("Running with config=%s", attention_params)
        logger.debug("Disabling FlashAttention 3 for compute capability != sm90")
        logger.debug("Disabling UnfusedDotProductAttention due to NVTE_UNFUSED_ATTN=%s", 0)
        logger.info("this is for users who ask for it")
        logger.debug("Selected backend = %s.", "FusedAttention")
        return False, None, True, 1, False, [False, True, True]

    class Backend(nn.Module):
        def forward(self, q: Any, **kwargs: Any) -> torch.Tensor:
            return q * 2

    names = ("FlashAttention", "FusedAttention", "UnfusedDotProductAttention")
    classes = {name: type(name, (Backend,), {"forward": _forward_of(name)}) for name in names}

    class DotProductAttention(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.flash_attention, self.fused_attention = classes["FlashAttention"](), classes["FusedAttention"]()
            self.selected: Any = None

        def forward(self, q: torch.Tensor) -> torch.Tensor:
            if self.selected is None:
                self.selected = utils.get_attention_backend(q.shape)
            return self.fused_attention(q, fused_attention_backend=self.selected[3])

    utils.AttentionLogging, utils.get_attention_backend = AttentionLogging, get_attention_backend
    for name, one in classes.items():
        setattr(backends, name, one)
    dot.DotProductAttention = DotProductAttention
    return {module.__name__: module for module in (utils, backends, dot)}


def _forward_of(name: str) -> Any:
    def forward(self: Any, query_layer: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return query_layer * 2

    return forward


def operation_classes(tex: ModuleType, manager: Any) -> dict[str, type]:
    """te.ops: the fuser runs the operations, and modules are never called."""

    class FusibleOperation(nn.Module):
        def fuser_forward(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    class BasicOperation(FusibleOperation):
        _quantizers: Any = None

        def fuser_forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.op_forward(x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fuser_forward(x)

    class BasicLinear(BasicOperation):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(features))

        def op_forward(self, x: torch.Tensor) -> torch.Tensor:
            # With delayed scaling they are new in each forward.
            made = [Float8Quantizer(DType.kFloat8E4M3) for _ in range(2)]
            self._quantizers = {"forward": made, "backward": [Float8Quantizer(DType.kFloat8E5M2)]}
            return general_gemm(tex, tex.quantize(self.weight, made[1]), tex.quantize(x, made[0]))

    class Sequential(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for operation in self:
                x = operation.fuser_forward(x)
            return x

    return {one.__name__: one for one in (FusibleOperation, BasicOperation, BasicLinear, Sequential)}


def build(version: str) -> dict[str, ModuleType]:
    """The modules of one release by their full names, `transformer_engine_torch` among them."""
    number = tuple(int(part) for part in version.split(".")[:2])
    modern = number >= (2, 9)
    tex = compiled_module(number)
    made: dict[str, ModuleType] = {"transformer_engine_torch": tex}

    def module(name: str, **members: Any) -> ModuleType:
        full = "transformer_engine" + (f".{name}" if name else "")
        made[full] = made.get(full) or ModuleType(full)
        vars(made[full]).update(members)
        return made[full]

    module("", __version__=version)
    suffix, folder = ("Storage", "storage") if modern else ("Base", "_internal")
    storage = storage_class(tex, f"Float8Tensor{suffix}")
    module(f"pytorch.tensor.{folder}.float8_tensor_{suffix.lower()}", **{storage.__name__: storage})
    manager = state_manager(tex, number)
    context = autocast_of(manager, number)
    name = "autocast" if modern else "fp8_autocast"
    module(f"pytorch.{'quantization' if modern else 'fp8'}", FP8GlobalStateManager=manager, **{name: context})
    base = base_class(manager)
    linear = linear_class(tex, base)
    module("pytorch.module.base", TransformerEngineBaseModule=base)
    module("pytorch.module.linear", Linear=linear)
    # Imported by name, and kept in a dictionary: copies that must be replaced as well.
    module("pytorch.ops.basic.layer_norm", layernorm_fwd=tex.layernorm_fwd, functions={"gelu": tex.gelu})
    made.update(attention_modules(number, base, "transformer_engine.pytorch.attention.dot_product_attention"))
    module("pytorch.ops.op", **operation_classes(tex, manager))
    module("pytorch", Linear=linear, autocast=context, tex=tex)
    return made


@contextlib.contextmanager
def installed(version: str, change: Any = None) -> Iterator[dict[str, ModuleType]]:
    """The release importable in this process; `change(modules)` may alter it before tetrace sees it."""
    made = build(version)
    if change is not None:
        change(made)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield made
    finally:
        for name, module in before.items():
            if module is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = module
