"""Ranges around `autocast`, with what its recipe really does, and around what delayed scaling adds to a step.

What a recipe's constructor was given need not apply: `Float8CurrentScaling(use_power_2_scales=True)` leaves the class's
quantization parameters as they are, which are what the quantizers get.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch.compiler import is_dynamo_compiling

from tetrace.instrument import dynamo, process, ranges
from tetrace.instrument.patches import Patches

# The methods of the state manager by name, since 2.9 and before.
_ENTER, _EXIT = ("autocast_enter", "fp8_autocast_enter"), ("autocast_exit", "fp8_autocast_exit")
_UPDATE = "reduce_and_update_fp8_tensors"
# Copies of scales and amaxes that recomputation makes.
_COPIES = (
    "copy_forward_fp8_meta_tensors_for_recompute",
    "get_old_fp8_meta_tensors_for_recompute",
    "restore_fp8_meta_tensors",
)
_FIELDS = ("margin", "amax_history_len", "reduce_amax", "fp8_dpa", "fp8_mha", "backward_override")
_DIMENSIONS = ("x_block_scaling_dim", "w_block_scaling_dim", "grad_block_scaling_dim", "enable_2d_quantization")
_QUANTIZED = {"input": "fp8_quant_fwd_inp", "weight": "fp8_quant_fwd_weight", "grad": "fp8_quant_bwd_grad"}
_GEMMS = ("fprop", "dgrad", "wgrad")
# Constructor's flag, and whether it asks for powers of two where it is true.
_ASKED = {"use_power_2_scales": True, "use_f32_scales": False}


class _Open(threading.local):
    """Depths of the stack of ranges below each open autocast of this thread."""

    def __init__(self) -> None:
        self.depths: list[int] = []


_open = _Open()
_sites: dict[tuple[int, bool], tuple[weakref.ref[Any], int]] = {}


def install(manager: type) -> tuple[Callable[[], None], list[str]]:
    """Gives autocast and scale updates ranges; returns what restores, and names that `manager` lacks.

    `manager`: Transformer Engine's FP8GlobalStateManager.
    """
    patches, missing = Patches(), []
    enter, leave = (next((name for name in names if name in vars(manager)), "") for names in (_ENTER, _EXIT))
    if enter and leave:
        patches.method(manager, enter, _entering)
        patches.method(manager, leave, _leaving)
    else:
        missing.append("autocast_enter")
    if _UPDATE in vars(manager):
        patches.method(manager, _UPDATE, _updating)
    else:
        missing.append(_UPDATE)
    for name in _COPIES:
        if name in vars(manager):
            patches.method(manager, name, _copying)
    return patches.restore, missing


def _entering(plain: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(plain)
    def ranged(cls: Any, *args: Any, **kwargs: Any) -> None:
        plain(cls, *args, **kwargs)
        if not is_dynamo_compiling():
            _push(cls)

    return dynamo.skipped(ranged)


@dynamo.quiet
def _push(manager: Any) -> None:
    _open.depths.append(ranges.depth())
    with process.guarded("reading a recipe"):
        ranges.push(_site(manager.get_fp8_recipe(), bool(manager.is_fp8_enabled())))


def _leaving(plain: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(plain)
    def ranged(cls: Any, *args: Any, **kwargs: Any) -> None:
        if is_dynamo_compiling():
            return plain(cls, *args, **kwargs)
        try:
            return plain(cls, *args, **kwargs)
        finally:
            _pop()

    return dynamo.skipped(ranged)


@dynamo.quiet
def _pop() -> None:
    # Where the other half was compiled there is nothing to close.
    if _open.depths:
        below = _open.depths.pop()
        if ranges.depth() > below:
            ranges.unwind(below)


def _updating(plain: Callable[..., None]) -> Callable[..., None]:
    """The update of scales: it joins the amaxes of all modules, reduces them over ranks, and launches the update."""

    @functools.wraps(plain)
    def ranged(cls: Any, forward: bool = True) -> None:
        if is_dynamo_compiling() or not _is_delayed(cls):
            return plain(cls, forward)
        ranges.push(_update_site("forward" if forward else "backward"))
        try:
            return plain(cls, forward)
        finally:
            ranges.pop()

    return dynamo.skipped(ranged)


def _is_delayed(manager: Any) -> bool:
    """Whether any module has amaxes to update scales with; the state is an object of its own since 2.15."""
    return bool(getattr(getattr(manager, "quantization_state", manager), "global_amax_buffer", True))


dynamo.skipped(_is_delayed)


@dynamo.quiet
def _update_site(direction: str) -> int:
    return ranges.site("scale_update", f"scale update {direction}", direction=direction)


@dynamo.quiet
def _copy_site() -> int:
    module = str(ranges.describe(ranges.current_module()).get("module", ""))
    return ranges.site("scale_update", "scale copies", module=module, direction="recompute")


def _copying(plain: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(plain)
    def ranged(*args: Any, **kwargs: Any) -> None:
        if is_dynamo_compiling():
            return plain(*args, **kwargs)
        ranges.push(_copy_site())
        try:
            return plain(*args, **kwargs)
        finally:
            ranges.pop()

    return dynamo.skipped(ranged)


def _site(recipe: Any, enabled: bool) -> int:
    key = id(recipe), enabled
    reference, site = _sites.get(key, (None, -1))
    if reference is None or reference() is not recipe:
        name = type(recipe).__name__
        if enabled:
            site = ranges.site("autocast", f"autocast {name}", recipe=name, enabled=True, **fields(recipe))
            _compare(recipe)
        else:
            site = ranges.site("autocast", "autocast off", recipe="", enabled=False)
        _sites[key] = (weakref.ref(recipe, lambda _: _sites.pop(key, None)), site)
    return site


def fields(recipe: Any) -> dict[str, Any]:
    """What of `recipe` applies: its format and fields, and per tensor and GEMM what the classes give to them."""
    found: dict[str, Any] = {"format": str(getattr(recipe, "fp8_format", "")).rpartition(".")[2]}
    for name in (*_FIELDS, *_DIMENSIONS, *_ASKED):
        if hasattr(recipe, name):
            found[name] = _plain(getattr(recipe, name))
    for name in ("amax_compute_algo", "scaling_factor_compute_algo", "qfactory"):
        if hasattr(recipe, name):
            value = getattr(recipe, name)
            found[name] = getattr(value, "__name__", "callable") if callable(value) else value
    for tensor, name in _QUANTIZED.items():
        for parameter in ("power_2_scale", "amax_epsilon"):
            if hasattr(getattr(recipe, name, None), parameter):
                found[f"{tensor}_{parameter}"] = _plain(getattr(getattr(recipe, name), parameter))
    for gemm in _GEMMS:
        multiplied: Any = getattr(recipe, f"fp8_gemm_{gemm}", None)
        if hasattr(multiplied, "use_split_accumulator"):
            found[f"{gemm}_split_accumulator"] = bool(multiplied.use_split_accumulator)
    return found


def _compare(recipe: Any) -> None:
    """Notes a flag that was given to the recipe and has no effect."""
    for flag, powers_of_two in _ASKED.items():
        asked, applied = (
            getattr(recipe, flag, None),
            getattr(getattr(recipe, "fp8_quant_fwd_inp", None), "power_2_scale", None),
        )
        if asked is None or applied is None or (asked == powers_of_two) == applied:
            continue
        process.notice(
            f"{type(recipe).__name__}({flag}={asked}) does not apply: its quantizers have "
            f"power_2_scale={applied}, which only the environment variable of the recipe changes"
        )


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | type(None)) else str(value)
