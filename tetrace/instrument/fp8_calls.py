"""Observes the tensor of every call that quantizes: csrc/watch does so for calls that it has learned, this file for the
first of a kind, for those with several tensors or on no device, and for what attention and GEMMs write in FP8 themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tetrace import _C
from tetrace.instrument import attention, dynamo, fp8_operands, fp8_recompute, quantization, quantizers, ranges
from tetrace.instrument.fp8_operands import Operand
from tetrace.instrument.unseen import unseen

# The calls with several tensors: where their sections are, if there is one tensor that they are rows of.
_MANY = {"split_quantize": 1, "fused_multi_quantize": 1, "multi_tensor_quantize": None}
# `generic_gemm`: what it writes where a quantizer for its output is given, by (A is transposed, B is).
_GEMM, _QUANTIZER = "generic_gemm", 5
_OF_GEMM = {(True, False): "output", (False, False): "grad_input"}
# Fused attention: (what it returns, role) by place; these are codes or not observed here.
_OF_ATTENTION = {"fused_attn_fwd": ((0, "o"),), "fused_attn_bwd": ((0, "dqkv"), (1, "dqkv"), (2, "dqkv"))}


@dataclass(frozen=True)
class Kind:
    """Calls that are alike: what a site of rows says of them."""

    call: str
    fused: bool
    place: int  # of the quantizer among the arguments
    role: str
    format: str
    scaling: str
    module: str
    phase: str
    dtype: str
    shape: str

    def site(self, role: str = "", shape: str | None = None, source: str = "") -> int:
        """The site of the rows of a tensor of such a call; `source` where that is not told by the rows."""
        attributes = {
            **({"source": source} if source else {}),
            "role": role or self.role,
            "call": self.call,
            "format": self.format,
            "scaling": self.scaling,
            "dtype": self.dtype,
            "shape": self.shape if shape is None else shape,
        }
        return ranges.site("fp8", f"fp8 {attributes['role']}", phase=self.phase, module=self.module, **attributes)


# Takes operands with their sites: those of one call.
Observe = Callable[[Sequence[tuple[Operand, int]]], None]


class Calls:
    """Watches quantize calls and fused attention while it is installed.

    `observe(operands)` looks at the tensors of a call; with `learns`, calls like one on a device are left to csrc/watch
    from then on. `guarded(function)` makes a function that never raises. With `recomputes`, calls that cast what they
    make are observed here, and while `is_due` their tensors are made again in high precision.
    """

    def __init__(
        self,
        observe: Observe,
        modules: str,
        guarded: Callable[[Callable[..., Any]], Callable[..., Any]],
        learns: bool = True,
        recomputes: bool = False,
    ) -> None:
        self._observe, self._pattern, self._learns, self._recomputes = observe, re.compile(modules), learns, recomputes
        self.is_due = False
        self._kinds: dict[int, Kind] = {}
        self._numbers: dict[int, int] = {}
        self.slow = guarded(self._slow)
        self._watch = guarded(self._watched)
        self._codes, self._output = guarded(self._codes_of_attention), guarded(self._codes_of_gemm)

    def install(self) -> Callable[[], None]:
        """Begins; returns the function that ends it."""
        _C.forget_all_calls()
        quantization.watcher = self._number_of
        attention.on_call = self._after_attention

        def restore() -> None:
            quantization.watcher, attention.on_call = None, None
            _C.forget_all_calls()

        return restore

    def wants(self, module: str) -> bool:
        """Whether tensors of `module` are to be observed."""
        return self._pattern.search(module) is not None

    def _number_of(self, *call: Any) -> int:
        number = self._watch(*call)
        return -1 if number is None else int(number)

    def _watched(self, name: str, call: quantization.Call, role: str, tensor: Any, facts: Mapping[str, Any]) -> int:
        """The number of the calls that are like this one, -1 where they are not to be observed."""
        module, phase = _here()
        if not self.wants(module):
            return -1
        kind = Kind(
            name,
            call.fused,
            call.place,
            role,
            str(facts.get("format", "")),
            str(facts.get("scaling", "")),
            module,
            phase or ("backward" if call.gradient else ""),
            str(getattr(tensor, "dtype", "")).removeprefix("torch."),
            quantization.shape_text(tensor),
        )
        site = kind.site()
        if site not in self._numbers:
            self._numbers[site] = _C.watch_add()
            self._kinds[self._numbers[site]] = kind
        return self._numbers[site]

    @unseen
    @dynamo.quiet
    def _slow(self, number: int, args: tuple[Any, ...], named: Mapping[str, Any] | None, result: Any) -> None:
        """Observes a call that csrc/watch does not know, or cannot observe."""
        kind = self._kinds[number]
        with torch.no_grad():
            if kind.call in _MANY:
                self._many(kind, args, result)
                return
            quantizer = args[kind.place] if len(args) > kind.place else (named or {}).get("quantizer")
            if kind.fused and self.is_due and self._observe_again(kind, quantizer, args, named, result):
                return
            operand = fp8_operands.of_call(args[0], quantizer, result, kind.format, kind.fused)
            if operand is None or operand.dtype < 0:
                _C.watch_learn(number, "nobody")
                return
            self._observe([(operand, kind.site())])
        learns = self._learns and not (kind.fused and self._recomputes) and operand.tensor.is_cuda
        learns = learns and len(args) > kind.place and bool(kind.shape or not operand.columns)
        if learns and fp8_operands.has_values(operand.tensor):
            made = result if operand.place < 0 else result[operand.place]
            _learn(number, kind, operand, fp8_operands.signs(made))

    def _observe_again(
        self, kind: Kind, quantizer: Any, args: tuple[Any, ...], named: Mapping[str, Any] | None, result: Any
    ) -> bool:
        """Observes the tensor that a fused call would have cast; False where it cannot be made again, or would become a
        part of a graph that is captured."""
        if fp8_operands.is_captured(args[0]):
            return False
        tensor = fp8_recompute.high_precision(kind.call, kind.place, args, named)
        operand = None if tensor is None else fp8_operands.of_call(tensor, quantizer, result, kind.format, False)
        if operand is None or operand.codes or operand.dtype < 0:
            return False
        self._observe([(operand, kind.site(shape=quantization.shape_text(tensor), source="recomputed"))])
        return True

    def _many(self, kind: Kind, args: tuple[Any, ...], result: Any) -> None:
        place, made = _MANY[kind.call], result if isinstance(result, list | tuple) else [result]
        given = args[kind.place]
        each = given if isinstance(given, list | tuple) else [given] * len(made)
        sections = args[place] if place is not None else None
        if sections is None:
            found = [
                fp8_operands.of_quantized(tensor, one, number, part, kind.format, kind.fused)
                for number, (tensor, one, part) in enumerate(zip(args[0], each, made, strict=True))
            ]
        else:
            found = fp8_operands.parts(args[0], sections, each, made, kind.format)
        self._observe(
            [
                (operand, kind.site(quantizers.full_role(one, kind.role.rpartition(".")[2]), ""))
                for operand, one in zip(found, each, strict=True)
                if operand is not None and operand.dtype >= 0
            ]
        )

    def _after_attention(self, name: str, _args: tuple[Any, ...], result: Any) -> None:
        """What fused attention returns in high precision, as most do, is a module's output, and none of this function's."""
        if isinstance(result, list | tuple) and _C.watch_is_on() and any(map(fp8_operands.is_quantized, result)):
            self._codes(name, result)

    @unseen
    @dynamo.quiet
    def _codes_of_attention(self, name: str, result: Sequence[Any]) -> None:
        """The codes that fused attention makes in FP8."""
        roles = _OF_ATTENTION.get(name, ())
        self._observe_codes(name, [(place, role, result[place]) for place, role in roles if place < len(result)])

    def around_gemm(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        """`plain`, which is `generic_gemm`, with an observation of what it writes in FP8: with `fp8_output`, `fp8_grad`,
        and in attention under `fp8_mha` and `fp8_dpa`."""
        return _C.watched_gemm(plain, self._output)

    @unseen
    @dynamo.quiet
    def _codes_of_gemm(self, args: tuple[Any, ...], result: Any) -> None:
        role = _OF_GEMM.get((bool(args[1]), bool(args[3])), "")
        written = result[0] if isinstance(result, list | tuple) and result else result
        if role:
            self._observe_codes(_GEMM, [(0, quantizers.full_role(args[_QUANTIZER], role), written)])

    def _observe_codes(self, call: str, made: Sequence[tuple[int, str, Any]]) -> None:
        """Observes those of (place, role, tensor) that are quantized, which `call` wrote in FP8."""
        module, phase = _here()
        if not self.wants(module):
            return
        found = []
        for place, role, one in made:
            number_format = quantizers.format_of(getattr(one, "_fp8_dtype", None))
            if not fp8_operands.is_quantized(one):
                continue
            operand = fp8_operands.of_quantized(one, None, place, one, number_format, True)
            if operand is not None and operand.dtype >= 0:
                facts = quantizers.facts(getattr(one, "_quantizer", None))
                scaling = str(facts["scaling"]) if facts["scaling"] in _SCALINGS else ""
                shape = quantization.shape_text(operand.tensor)
                kind = Kind(call, True, -1, role, number_format, scaling, module, phase, "", shape)
                found.append((operand, kind.site()))
        if found:
            with torch.no_grad():
                self._observe(found)


_SCALINGS = ("delayed", "current", "block", "mxfp8")


def _here() -> tuple[str, str]:
    """(module, phase) of the range that is innermost on this thread; of attention's backends, which have no quantizers of
    their own, the module that has them."""
    about = ranges.describe(ranges.current_module())
    return attention.product(str(about.get("module", ""))), str(about.get("phase", ""))


def _learn(number: int, kind: Kind, operand: Operand, signs: tuple[tuple[str, Any], ...]) -> None:
    scale = operand.scale
    _C.watch_learn(
        number,
        "device",
        site=kind.site(),
        dtype=operand.dtype,
        format=fp8_operands.FORMATS.get(operand.format, 0) if scale is not None or operand.codes else 0,
        layout=operand.layout,
        inverse=operand.is_inverse,
        histogram=not operand.codes,
        result=operand.place,
        data=operand.codes,
        scale=scale.name if scale is not None else "",
        scale_of=scale.of if scale is not None else "",
        columns=operand.columns,
        width=fp8_operands.width(operand.tensor),
        scale_stride=scale.stride if scale is not None else 0,
        signs=signs,
    )
