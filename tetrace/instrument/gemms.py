"""Ranges around Transformer Engine's GEMMs: shape, formats, and which of a layer's three GEMMs it is.

What a range says is worked out once; after that csrc/ranges/calls.cpp knows the call. A GEMM's output has m rows and n
columns, and sums over k.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from math import prod
from types import ModuleType
from typing import Any

import torch

from tetrace import _C
from tetrace.instrument import process, quantization, quantizers, ranges
from tetrace.instrument.dynamo import quiet
from tetrace.instrument.patches import Patches

# Places of `generic_gemm`'s arguments, the same since 2.0.
_A, _TRANS_A, _B, _TRANS_B, _OUT = range(5)
_QUANTIZER, _OUT_DTYPE, _BIAS, _GELU, _ACCUMULATE = 5, 6, 7, 9, 14
# Those of `te_general_grouped_gemm`: lists in place of tensors.
_GROUPED_OUT_DTYPE, _GROUPED_SPLITS, _GROUPED_ACCUMULATE = 5, 6, 14
_GROUPED = "te_general_grouped_gemm"
# By the layouts TN, NN and NT; TE passes `grad` only where it also wants the gradient of the bias.
_ROLES = {(True, False): "fprop", (False, False): "dgrad", (False, True): "wgrad"}
_MOST_SITES = 20_000

_sites: dict[Any, int] = {}  # of grouped GEMMs
_made = 0


def install(tex: ModuleType, copies: Iterable[ModuleType]) -> tuple[Callable[[], None], int]:
    """Gives the GEMMs of the compiled module `tex` ranges; returns what restores, and how many were replaced."""
    patches = Patches()
    new: dict[int, Any] = {}
    for name, plain in vars(tex).items():
        if name == "generic_gemm":
            new[id(plain)] = _C.ranged_gemm(plain, functools.partial(_resolve, name))
        elif name.startswith(_GROUPED):
            new[id(plain)] = _grouped(plain, name)
    quantization.replace(patches, new, (tex, *copies))
    return patches.restore, len(new)


@quiet
def _resolve(name: str, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> int:
    """The site of a GEMM that was not seen before; negative when that failed. Never raises."""
    with process.guarded("finding out what is multiplied"):
        return _site(name, _facts(args))
    return -1


def _site(name: str, facts: dict[str, Any]) -> int:
    global _made
    _made += 1
    if _made > _MOST_SITES:
        # Variable lengths make new shapes in every step.
        facts = {word: value for word, value in facts.items() if word not in ("m", "n", "k")}
    return ranges.site("gemm", f"gemm {facts['role']}".rstrip(), module=quantization.module_now(), call=name, **facts)


def _grouped(plain: Any, name: str) -> Any:
    sites, current, push, pop = _sites, ranges.current_module, ranges.push, ranges.pop

    def ranged(*args: Any, **kwargs: Any) -> Any:
        try:
            site = sites[current(), name, _grouped_key(args)]
        except (KeyError, AttributeError, IndexError, TypeError):
            site = _resolve_grouped(name, args)
            if site < 0:
                return plain(*args, **kwargs)
        push(site)
        try:
            return plain(*args, **kwargs)
        finally:
            pop()

    return quantization.like(plain, ranged)


@quiet
def _resolve_grouped(name: str, args: Any) -> int:
    with process.guarded("finding out what is multiplied"):
        site = _site(name, _grouped_facts(args))
        if len(_sites) <= _MOST_SITES:
            _sites[ranges.current_module(), name, _grouped_key(args)] = site
        return site
    return -1


def _facts(args: Any) -> dict[str, Any]:
    a, b, trans_a, trans_b = args[_A], args[_B], bool(args[_TRANS_A]), bool(args[_TRANS_B])
    quantizer = args[_QUANTIZER]
    written = (
        {} if quantizer is None else {f"output_{word}": value for word, value in quantizers.facts(quantizer).items()}
    )
    return {
        **_shape(_matrix(a), trans_a, _matrix(b), trans_b),
        "role": _ROLES.get((trans_a, trans_b), ""),
        "a_format": _format(a),
        "b_format": _format(b),
        "out_dtype": _out_dtype(args[_OUT], args[_OUT_DTYPE]),
        "accumulate": bool(args[_ACCUMULATE]),
        "bias": _has(args[_BIAS]),
        "gelu": bool(args[_GELU]),
        **written,
    }


def _grouped_key(args: Any) -> Any:
    """Splits of a grouped GEMM differ from step to step, their number and their sum do not."""
    a, b, splits = args[_A], args[_B], args[_GROUPED_SPLITS] if len(args) > _GROUPED_SPLITS else None
    rows = sum(splits) if isinstance(splits, list) else None
    return (
        *(args[_TRANS_A], args[_TRANS_B], len(a) if isinstance(a, list) else None, rows),
        *(type(_first(a)), _matrix(_first(a))[1], type(_first(b)), _matrix(_first(b))[1]),
    )


def _grouped_facts(args: Any) -> dict[str, Any]:
    a, b, trans_a, trans_b = args[_A], args[_B], bool(args[_TRANS_A]), bool(args[_TRANS_B])
    splits = args[_GROUPED_SPLITS] if len(args) > _GROUPED_SPLITS else None
    shape = _shape(_matrix(_first(a)), trans_a, _matrix(_first(b)), trans_b)
    if isinstance(splits, list):
        # All groups together: tokens are summed over by wgrad, and are rows of the others' outputs.
        shape["k" if trans_b else "m"] = sum(splits)
    return {
        **shape,
        "role": _ROLES.get((trans_a, trans_b), ""),
        "groups": len(a) if isinstance(a, list | tuple) else 0,
        "a_format": _format(_first(a)),
        "b_format": _format(_first(b)),
        "out_dtype": _out_dtype(None, args[_GROUPED_OUT_DTYPE] if len(args) > _GROUPED_OUT_DTYPE else None),
        "accumulate": bool(args[_GROUPED_ACCUMULATE]) if len(args) > _GROUPED_ACCUMULATE else False,
    }


def _shape(a: tuple[int, int], trans_a: bool, b: tuple[int, int], trans_b: bool) -> dict[str, int]:
    """A is the right factor and B the left one: Transformer Engine's arguments are those of column-major cuBLAS."""
    return {"m": b[1] if trans_b else b[0], "n": a[0] if trans_a else a[1], "k": a[1] if trans_a else a[0]}


def _matrix(operand: Any) -> tuple[int, int]:
    """(rows, columns) with all leading dimensions as rows."""
    shape = quantization.shape_of(operand)
    return (prod(shape[:-1]), int(shape[-1])) if shape else (0, 0)


def _first(operand: Any) -> Any:
    return operand[0] if isinstance(operand, list | tuple) and operand else operand


def _format(operand: Any) -> str:
    """`E4M3`, `E5M2`, `E2M1`, or a dtype of torch."""
    for name in ("_fp8_dtype", "_fp4_dtype"):
        found = quantizers.format_of(getattr(operand, name, None))
        if found:
            return found
    return str(getattr(operand, "dtype", type(operand).__name__)).removeprefix("torch.")


def _out_dtype(out: Any, dtype: Any) -> str:
    if isinstance(out, torch.Tensor):
        return _format(out)
    name = str(getattr(dtype, "name", dtype)).removeprefix("k")
    return quantizers.format_of(dtype) or (name.lower() if dtype is not None else "")


def _has(tensor: Any) -> bool:
    return isinstance(tensor, torch.Tensor) and tensor.numel() > 0
