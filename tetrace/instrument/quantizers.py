"""Whose a quantizer is and what it quantizes: the tensor's role in its module.

A quantizer itself does not know. Its module keeps it in a list, and the place in the list is the role; the lists are
rebuilt on the first FP8 forward, with another recipe and by checkpoints (fused operations with delayed scaling rebuild
theirs in every forward). Quantizers are told apart by identity: they may compare equal by value.
"""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from torch.nn import Parameter

from tetrace import _C
from tetrace.instrument import modules, ranges

_FORWARD, _BACKWARD = ("input", "weight", "output"), ("grad_output", "grad_input")
# Transformer Engine's places of attention's tensors among three GEMMs (cpp_extensions/fused_attn.py, META_*).
_ATTENTION_FORWARD, _ATTENTION_BACKWARD = {2: "qkv", 3: "o", 8: "s"}, {0: "dqkv", 3: "do", 5: "dp"}
_ATTENTION_TENSORS = 9, 6  # all, in forward and backward
OF_ATTENTION = (*_ATTENTION_FORWARD.values(), *_ATTENTION_BACKWARD.values())
_SCALING = {
    "Float8Quantizer": "delayed",
    "Float8CurrentScalingQuantizer": "current",
    "Float8BlockQuantizer": "block",
    "MXFP8Quantizer": "mxfp8",
    "NVFP4Quantizer": "nvfp4",
}
# Where unfused attention emulates FP8 with current scaling, it makes quantizers of S and dP in each forward.
_EMULATION, _CURRENT = "unfused_attention", "Float8CurrentScalingQuantizer"
_FLAGS = ("rowwise_usage", "columnwise_usage", "force_pow_2_scales", "amax_epsilon", "block_scaling_dim")
# What a compiled Linear's forward and backward are given, by the names of the fields.
_OF_COMPILED = (("weight", "weight"), ("saved_weight", "weight"), ("inp", "input"), ("inputmat", "input"))
_INNER = ("parent_quantizer", "rowwise_quantizer", "columnwise_quantizer")

# Looking through all modules costs some ten milliseconds in a large model: at most a hundredth of the time goes there.
_PAUSE = 100


class Known(NamedTuple):
    """The role of the tensor that a quantizer is for, and the quantizer itself while it lives.

    `part` tells apart the GEMMs of a module that has several, such as `fc1`; else it is empty.
    """

    role: str
    reference: weakref.ref[Any]
    part: str = ""


class Compiled(threading.local):
    """The arguments of the compiled Linear that runs on this thread, if any: what is quantized there is one of them."""

    arguments: Any = None


known: dict[int, Known] = {}  # by id of the quantizer; entries go with their quantizers
compiled = Compiled()
running: list[str] = []  # not empty while a compiled Linear runs on any thread: identity says nothing then
_weights: dict[int, weakref.ref[Any]] = {}  # address of a weight's data -> its module
_may_look_at = 0.0


def find(quantizer: Any, tensor: Any, out: Any = None, is_gradient: bool = False) -> str:
    """The role of `tensor`, which `quantizer` quantizes (into `out`) now.

    Where no module has the quantizer (copies, constants of compiled graphs), by what is quantized: a parameter or a
    module's weight, a gradient in backward, else an input. Costs microseconds.
    """
    if compiled.arguments is None:
        for look in (_look_around, _look_everywhere):
            found = known.get(id(quantizer))
            if found is not None:
                return found.role
            look()
        found = known.get(id(quantizer))
        if found is not None:
            return found.role
    return _role_of(quantizer, tensor, out, is_gradient)


def full_role(quantizer: Any, role: str) -> str:
    """`role`, with the GEMM that it is of where its module has several: `fc1.weight`."""
    found = known.get(id(quantizer))
    return f"{found.part}.{role}" if found is not None and found.part and found.role == role else role


def roles_of(module: Any, direction: str, number: int) -> list[str]:
    """Full roles of a module's `number` tensors in `direction`, by their places in its lists; "" for those unknown."""
    forward, first = direction == "forward", 0
    if _is_attention(module):
        roles: Any = _ATTENTION_FORWARD if forward else _ATTENTION_BACKWARD
        # With current scaling only the last GEMM's tensors, S and dP, have delayed scaling.
        first = max((_ATTENTION_TENSORS[0] if forward else _ATTENTION_TENSORS[1]) - number, 0)
    elif "_quantizers" in vars(module):
        roles = _FORWARD[: min(number, 2)] if forward else _BACKWARD[:1]
    else:
        roles = _FORWARD if forward else _BACKWARD
    found = [_named(module, first + place, roles) for place in range(number)]
    return [f"{part}.{role}" if part and role else role for role, part in found]


def meet(module: Any) -> None:
    """Takes in all quantizers of `module`: called when it made new ones."""
    for quantizer, role, part in _roles(module):
        for one in (quantizer, *(getattr(quantizer, name, None) for name in _INNER)):
            if one is not None:
                _add(one, role, part)


def owner(weight: Any) -> Any:
    """The module whose weight's data `weight` shares, None when there is none that is known."""
    module = _owner_of(_address(weight))
    if module is None:
        _look_everywhere()
        module = _owner_of(_address(weight))
    return module


def facts(quantizer: Any) -> dict[str, Any]:
    """What the quantizer really does, as attributes of a site; what it does not have is left out."""
    name = type(quantizer).__name__
    flags = {flag: getattr(quantizer, flag) for flag in _FLAGS if hasattr(quantizer, flag)}
    kept = {flag: value for flag, value in flags.items() if isinstance(value, bool | int | float)}
    if getattr(quantizer, "with_amax_reduction", False):
        kept["amax_reduction"] = True
    return {"quantizer": name, "scaling": _SCALING.get(name, name), "format": number_format(quantizer), **kept}


def number_format(quantizer: Any) -> str:
    """`E4M3`, `E5M2` or `E2M1` from a `DType` of Transformer Engine, its old or its new enum; empty when unknown."""
    dtype = getattr(quantizer, "dtype", None)
    return format_of(dtype)


def format_of(dtype: Any) -> str:
    """As `number_format`, of the `DType` itself."""
    name = str(getattr(dtype, "name", dtype))
    return next((known for known in ("E4M3", "E5M2", "E2M1", "E8M0") if known in name), "")


def _add(quantizer: Any, role: str, part: str) -> None:
    key = id(quantizer)
    before = known.get(key)
    if before is not None and (before.role, before.part) == (role, part):
        return
    forget = _forgetting(key)
    forget()
    with contextlib.suppress(TypeError):
        # Without a weak reference to it, its id may become another's: it is found by what it quantizes.
        known[key] = Known(role, weakref.ref(quantizer, forget), part)


def _forgetting(key: int) -> Callable[..., None]:
    """What forgets the quantizer of this id; at the interpreter's end it outlives the names of this file."""
    pop, forget_calls = known.pop, _C.forget_calls

    def forget(*_: Any) -> None:
        pop(key, None)
        forget_calls(key)

    return forget


def _roles(module: Any) -> Iterator[tuple[Any, str, str]]:
    """(quantizer, role, part) of a module's lists, or of an operation's, or of those that are fused into one."""
    held = vars(module)
    lists = held.get("quantizers")
    if isinstance(lists, dict):
        attention = _is_attention(module)
        yield from _listed(module, lists.get("scaling_fwd"), _ATTENTION_FORWARD if attention else _FORWARD)
        yield from _listed(module, lists.get("scaling_bwd"), _ATTENTION_BACKWARD if attention else _BACKWARD)
    of_operation = held.get("_quantizers")
    if isinstance(of_operation, dict):
        forward = of_operation.get("forward") or ()
        yield from _listed(module, forward, _FORWARD[:2] if len(forward) > 1 else _FORWARD[:1])
        yield from _listed(module, of_operation.get("backward"), _BACKWARD[:1])
    for operation in (held.get("_modules") or {}).get("basic_ops") or ():
        yield from _roles(operation)


def _is_attention(module: Any) -> bool:
    return "fused_attention" in (vars(module).get("_modules") or ()) or type(module).__name__ == "DotProductAttention"


def _listed(module: Any, quantizers: Sequence[Any] | None, roles: Any) -> Iterator[tuple[Any, str, str]]:
    for place, quantizer in enumerate(quantizers or ()):
        role, part = _named(module, place, roles)
        if quantizer is not None and role:
            yield quantizer, role, part


def _named(module: Any, place: int, roles: Any) -> tuple[str, str]:
    """(role, part) of the tensor at `place`; `roles` are those of attention by place, or of one GEMM."""
    if isinstance(roles, dict):
        return roles.get(place, ""), ""
    gemm, number = divmod(place, len(roles))
    if "fc1_weight" in (vars(module).get("_parameters") or ()):
        return roles[number], f"fc{gemm + 1}"
    return roles[number], f"gemm{gemm}" if int(vars(module).get("num_gemms", 1)) > 1 else ""


def _look_around() -> None:
    """Takes in the quantizers of the module that runs now."""
    module = modules.current_module_object()
    if module is not None:
        meet(module)


def _look_everywhere() -> None:
    """Takes in the quantizers and weights of all modules, now and then."""
    global _may_look_at
    began = time.monotonic()
    if began < _may_look_at:
        return
    for _, module in modules.all_modules():
        meet(module)
        for address in filter(None, map(_address, _parameters(module))):
            _weights[address] = weakref.ref(module)
    _may_look_at = time.monotonic() + _PAUSE * (time.monotonic() - began)


def _parameters(module: Any) -> Iterable[Any]:
    return [one for one in (vars(module).get("_parameters") or {}).values() if one is not None]


def _owner_of(address: int) -> Any:
    """The module that has a weight at `address` still."""
    reference = _weights.get(address)
    module = reference() if reference is not None else None
    return module if module is not None and address in map(_address, _parameters(module)) else None


def _role_of(quantizer: Any, tensor: Any, out: Any, is_gradient: bool) -> str:
    if is_gradient:
        return "grad_output"
    if compiled.arguments is not None:
        return _role_in_compiled(tensor, compiled.arguments)
    if isinstance(tensor, Parameter) or isinstance(out, Parameter) or _owner_of(_address(tensor)):
        return "weight"
    about = ranges.describe(ranges.current_module())
    backward = about.get("phase") == "backward"
    if str(about.get("module", "")).endswith(_EMULATION) and type(quantizer).__name__ == _CURRENT:
        return "dp" if backward else "s"
    return "grad_output" if backward else "input"


def _role_in_compiled(tensor: Any, arguments: Any) -> str:
    """The role of `tensor` among the arguments of a compiled Linear's forward or backward."""
    address = _address(tensor)
    for name, role in _OF_COMPILED:
        if address and _address(getattr(arguments, name, None)) == address:
            return role
    return "input" if getattr(arguments, "grad_output", None) is None else "grad_output"


def _address(tensor: Any) -> int:
    """Where a tensor's data is: no synchronization. 0 for what has none."""
    data_ptr: Callable[[], int] | None = getattr(tensor, "data_ptr", None)
    try:
        return data_ptr() if data_ptr is not None else 0
    except (RuntimeError, NotImplementedError):
        return 0
