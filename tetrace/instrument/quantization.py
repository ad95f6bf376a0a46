"""Ranges around every call of Transformer Engine that quantizes a tensor.

The calls are functions of its compiled module, replaced there by functions that open a range and call them. What a
range says is worked out once for each quantizer, module and shape; after that csrc/ranges/calls.cpp knows the call.
Nothing reads a tensor's values and nothing keeps a tensor.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

from torch.compiler import is_dynamo_compiling

from tetrace import _C
from tetrace.instrument import dynamo, process, quantizers, ranges
from tetrace.instrument.patches import Patches

# Variable lengths make new shapes in every step: beyond this number of sites the shape is left out.
_MOST_SITES = 20_000

NO_SITE = -1


class Call(NamedTuple):
    """Where a function of the compiled module has its quantizer, and what else it does."""

    place: int  # of the quantizer among the arguments, or of the list of quantizers
    fused: bool = False  # the cast is part of a norm or an activation
    gradient: bool = False  # what it quantizes is the gradient of an output
    role: str = ""  # known without looking


_CALLS = {
    "quantize": Call(1),
    "bgrad_quantize": Call(1, gradient=True),
    "split_quantize": Call(2),
    "fused_multi_quantize": Call(2),
    "group_quantize": Call(1),
    "bgrad_group_quantize": Call(1, gradient=True),
    "group_requantize_inplace": Call(1),
    "multi_tensor_quantize": Call(1),
    "nvfp4_quantize_with_amax": Call(1),
    "nvfp4_group_quantize_with_amax": Call(1),
    "layernorm_fwd": Call(5, fused=True),
    "rmsnorm_fwd": Call(4, fused=True),
}
_ACTIVATIONS = (
    *("glu", "gelu", "geglu", "qgelu", "qgeglu", "relu", "reglu", "srelu", "sreglu", "silu", "swiglu", "situglu"),
    "clamped_{}swiglu",
)
_SCALED = ("scaled_{}swiglu", "scaled_{}srelu", "scaled_{}situglu", "scaled_clamped_{}swiglu")
# From here on there is no quantizer: what the master weights of distributed optimizers are cast with.
_OF_WEIGHTS = re.compile(
    r"^(multi_tensor_compute_scale_(and_scale_inv|inv_e8m0)|compute_amax|(fp8_block|mxfp8)_scaling_(compute_partial_amax"
    r"|partial_cast)|nvfp4_(multi_tensor_\w+|2d_\w+|compute_global_scale|data_transpose))$"
)
_AUXILIARY = re.compile(
    r"^(swizzle_scales_for_gemm_|grouped_swizzle_for_gemm|multi_tensor_swizzle_scales_for_gemm_\w*)$"
)

_sites = 0

# (call's name, what it is, full role, tensor, facts of the quantizer) -> number of what is watched; None: nothing is.
watcher: Callable[[str, Call, str, Any, Mapping[str, Any]], int] | None = None
# The functions as they were, by name, while they have ranges.
plain_calls: dict[str, Callable[..., Any]] = {}


def install(tex: ModuleType, copies: Iterable[ModuleType]) -> tuple[Callable[[], None], int]:
    """Gives the calls of the compiled module `tex` ranges, also where `copies` imported them by name.

    Returns the function that restores, and the number of functions that have ranges now.
    """
    patches = Patches()
    plain_calls.update({name: getattr(tex, name) for name in _calls(tex)})
    new = _replacements(tex)
    replace(patches, new, (tex, *copies))

    def restore() -> None:
        patches.restore()
        plain_calls.clear()

    return restore, len(new)


def _replacements(tex: ModuleType) -> dict[int, Callable[..., Any]]:
    """What takes the place of each function of `tex`, by the function's id."""
    new = {id(getattr(tex, name)): _ranged(getattr(tex, name), name, call) for name, call in _calls(tex).items()}
    for name, plain in vars(tex).items():
        if _OF_WEIGHTS.match(name) or _AUXILIARY.match(name):
            new[id(plain)] = _without_quantizer(plain, name, "weight" if _OF_WEIGHTS.match(name) else "")
    return new


def replace(patches: Patches, new: Mapping[int, Any], places: Iterable[ModuleType]) -> None:
    """Replaces functions, given by id, wherever one of `places` has them by name or in a dictionary."""
    for place in places:
        for name, value in list(vars(place).items()):
            if isinstance(value, dict) and not name.startswith("__"):
                for key, held in list(value.items()):
                    if id(held) in new:
                        patches.item(value, key, new[id(held)])
            elif id(value) in new:
                patches.attribute(place, name, new[id(value)])


def meeting(plain: Callable[..., Any]) -> Callable[..., Any]:
    """`plain`, a method that makes a module's quantizers anew, followed by a look at them."""

    @functools.wraps(plain)
    def ranged(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = plain(self, *args, **kwargs)
        if not is_dynamo_compiling():
            _meet(self)
        return result

    return dynamo.skipped(ranged)


@dynamo.quiet
def _meet(module: Any) -> None:
    with process.guarded("finding quantizers"):
        quantizers.meet(module)


def _calls(tex: ModuleType) -> dict[str, Call]:
    """The functions that `tex` has of those that may quantize."""
    found = dict(_CALLS)
    for pattern in _ACTIVATIONS:
        plain, backward = (pattern.format(""), pattern.format("d")) if "{}" in pattern else (pattern, f"d{pattern}")
        found[plain] = Call(1, fused=True)
        found[backward] = found[f"dbias_{backward}"] = Call(2, fused=True, gradient=True)
    for pattern in _SCALED:
        found[pattern.format("")] = Call(2, fused=True)
        found[pattern.format("d")] = Call(3, fused=True, gradient=True)
    return {name: call for name, call in found.items() if hasattr(tex, name)}


def _ranged(plain: Callable[..., Any], name: str, call: Call) -> Callable[..., Any]:
    resolve = functools.partial(_resolve, name, call)
    return _C.ranged_quantize(plain, resolve, call.place, quantizers.known, quantizers.running)


def like(plain: Callable[..., Any], ranged: Callable[..., Any]) -> Callable[..., Any]:
    """`ranged` with the names of `plain`. Dynamo can look into it as little as into a compiled function."""
    ranged = functools.wraps(plain)(ranged)
    ranged._torchdynamo_disable = True  # type: ignore[attr-defined]
    return dynamo.skipped(ranged)


@dynamo.quiet
def _resolve(name: str, call: Call, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int | tuple[int, int]:
    """The site of a call that was not seen before; negative for none. With it, where its tensor is watched, the number
    under which it is. Never raises."""
    with process.guarded("finding out what is quantized"):
        quantizer = args[call.place] if len(args) > call.place else kwargs.get("quantizer")
        one = quantizer[0] if isinstance(quantizer, list | tuple) else quantizer
        if one is None or not args:
            return NO_SITE
        out = args[2] if name == "quantize" and len(args) > 2 else None
        role = quantizers.find(one, args[0], out, call.gradient)
        written = {"update": True} if out is not None else {}
        if written and args[-1] is not None and len(args) > 3:
            written["skippable"] = True
        facts = quantizers.facts(one)
        site = quantize_site(name, role, args[0], fused=call.fused, **facts, **written)
        if watcher is None:
            return site
        return site, watcher(name, call, quantizers.full_role(one, role), args[0], facts)
    return NO_SITE


def quantize_site(call: str, role: str, tensor: Any, **facts: Any) -> int:
    """The site of a call that quantizes `tensor` in the module that runs now."""
    global _sites
    _sites += 1
    shape = shape_text(tensor) if _sites < _MOST_SITES else ""
    dtype = str(getattr(tensor, "dtype", "")).removeprefix("torch.")
    name = f"{call} {role}".rstrip()
    return ranges.site("quantize", name, module=module_now(), role=role, call=call, shape=shape, dtype=dtype, **facts)


def module_now() -> str:
    """Path of the module whose range is innermost on this thread; empty outside of all."""
    return str(ranges.describe(ranges.current_module()).get("module", ""))


def shape_text(tensor: Any) -> str:
    """`512x1024`, rows and columns: leading dimensions are one; of several tensors joined by `;`."""
    found = shapes(tensor)
    many = bool(found) and isinstance(found[0], tuple)
    matrices = ((prod(one[:-1]), one[-1]) if len(one) > 2 else one for one in (found if many else (found,)))
    return ";".join("x".join(map(str, one)) for one in matrices)


def shapes(tensor: Any) -> tuple[Any, ...]:
    """Shape of a tensor, or the shapes of several."""
    return tuple(shapes(one) for one in tensor) if isinstance(tensor, list | tuple) else shape_of(tensor)


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Shape of a tensor or of a quantized tensor's storage; empty where it does not tell, its data being cleared."""
    with contextlib.suppress(AttributeError, TypeError, RuntimeError):
        return tuple(tensor.shape if hasattr(tensor, "shape") else tensor.size())
    return ()


def _without_quantizer(plain: Callable[..., Any], name: str, role: str) -> Callable[..., Any]:
    def ranged(*args: Any, **kwargs: Any) -> Any:
        return inside(_plain_site(name, role), plain, args, kwargs)

    return like(plain, ranged)


@dynamo.quiet
def _plain_site(name: str, role: str) -> int:
    with process.guarded("finding out what is quantized"):
        return ranges.site(
            "quantize", f"{name} {role}".rstrip(), module=module_now(), role=role, call=name, fused=False
        )
    return NO_SITE


@dynamo.skipped
def inside(site: int, plain: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Calls `plain` in a range of `site`, or in none where that is negative."""
    if site < 0:
        return plain(*args, **kwargs)
    ranges.push(site)
    try:
        return plain(*args, **kwargs)
    finally:
        ranges.pop()
