"""Instruments Transformer Engine 2.4 to 2.20. The only file that knows its modules, their names and what changed when.

What is looked for, and not the version, decides: names that moved are tried one after the other. What a release lacks
is left out, with one warning for all of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from tetrace.instrument import attention, gemms, operations, process, quantization, recipes, transposes
from tetrace.instrument.patches import Patches

_PACKAGE = "transformer_engine.pytorch"
_COMPILED_MODULE = "transformer_engine_torch"

# Newest name first.
_STATE = ("quantization", "fp8")  # 2.9
_FLOAT8_STORAGE = (
    ("tensor.storage.float8_tensor_storage", "Float8TensorStorage"),  # 2.9
    ("tensor._internal.float8_tensor_base", "Float8TensorBase"),
)
_BLOCK_STORAGE = (
    ("tensor.storage.float8_blockwise_tensor_storage", "Float8BlockwiseQTensorStorage"),  # 2.9
    ("tensor._internal.float8_blockwise_tensor_base", "Float8BlockwiseQTensorBase"),
)
_ATTENTION = "attention.dot_product_attention"
_MODULES = "module.base"
_SCALE_UPDATE = "fused_amax_and_scale_update_after_reduction"
_GEMM = "generic_gemm"
_OPERATION = "ops.op"
# Custom operators of torch, since 2.20: the operator, the module and function it runs, the argument with the weight.
_OPERATORS = (
    ("linear_base", "module.linear", "_linear_forward_impl", "weight"),
    ("linear_backward_base", "module.linear", "_linear_backward_impl", "saved_weight"),
)

# What takes a function's place.
Around = Callable[[Callable[..., Any]], Callable[..., Any]]

_undo: list[Callable[[], None]] = []
_missing: list[str] = []


def install(only_for_fp8: bool = False) -> Callable[[], None]:
    """Instruments the Transformer Engine that is imported, or of it only what shows FP8 inspection its tensors; returns the
    function that takes everything out again."""
    _missing.clear()
    before = len(_undo)
    found = [_part(what, part) for what, part, is_for_fp8 in _PARTS if is_for_fp8 or not only_for_fp8]
    _report(any(found))

    def restore() -> None:
        while len(_undo) > before:
            with process.guarded("taking a patch out"):
                _undo.pop()()

    return restore


def install_around(scales: Around, gemm: Around) -> Callable[[], None]:
    """Puts `scales(plain)` in the place of the update of delayed scaling, and `gemm(plain)` in that of the GEMM that may
    write FP8; returns the function that takes them out."""
    patches, tex = Patches(), _compiled_module()
    new = {
        id(plain): around(plain)
        for name, around in ((_SCALE_UPDATE, scales), (_GEMM, gemm))
        if (plain := getattr(tex, name, None)) is not None
    }
    quantization.replace(patches, new, (tex, *_submodules()))
    return patches.restore


def is_installed() -> bool:
    """Whether Transformer Engine is instrumented now."""
    return bool(_undo)


def _part(what: str, part: Callable[[], bool]) -> bool:
    """Whether the part could be instrumented; a failure is one of the missing names."""
    try:
        return part()
    except Exception as error:
        _missing.append(f"{what} ({type(error).__name__}: {str(error)[:120]})")
        return False


def _report(any_found: bool) -> None:
    """One line for all that is missing. With nothing at all to go by, Transformer Engine's own ranges have to do."""
    if not _missing:
        return
    instead = ""
    if not any_found:
        # Read once, before the first forward. Never set otherwise: it changes, and slows, what runs.
        os.environ.setdefault("NVTE_NVTX_ENABLED", "1")
        instead = "; its own NVTX ranges are used instead"
    process.warn(f"Transformer Engine {_version()} lacks {', '.join(_missing)}: not recorded from it{instead}")


def _version() -> str:
    package = sys.modules.get("transformer_engine")
    return str(getattr(package, "__version__", "")) or "(unknown version)"


def _module(*names: str) -> ModuleType | None:
    """The first of these modules of the package that is imported."""
    return next((found for name in names if (found := sys.modules.get(f"{_PACKAGE}.{name}")) is not None), None)


def _member(names: Iterable[tuple[str, str]]) -> Any:
    """The first member of a module that is there, by (module, member)."""
    return next((found for module, name in names if (found := getattr(_module(module), name, None)) is not None), None)


def _submodules() -> list[ModuleType]:
    """All modules of the package that are imported: any may have imported a function by name."""
    names = [name for name in list(sys.modules) if name.startswith("transformer_engine.")]
    return [module for name in names if (module := sys.modules.get(name)) is not None]


def _compiled_module() -> ModuleType:
    found = sys.modules.get(_COMPILED_MODULE)
    if found is None:
        raise ImportError(f"{_COMPILED_MODULE} is not imported")
    return found


def _install_quantization() -> bool:
    tex = _compiled_module()
    if not hasattr(tex, "quantize"):
        _missing.append(f"{_COMPILED_MODULE}.quantize")
        return False
    restore, _ = quantization.install(tex, _submodules())
    _undo.append(restore)
    return True


def _install_transposes() -> bool:
    storages = [one for one in map(_member, (_FLOAT8_STORAGE, _BLOCK_STORAGE)) if one is not None]
    restore, number = transposes.install(_compiled_module(), _submodules(), storages)
    _undo.append(restore)
    return number > 0


def _install_quantizers() -> bool:
    """Looks at a module's quantizers whenever it makes new ones, in all classes that do."""
    base = getattr(_module(_MODULES), "TransformerEngineBaseModule", None)
    if base is None or "set_meta_tensor" not in vars(base):
        _missing.append("TransformerEngineBaseModule.set_meta_tensor")
        return False
    patches = Patches()
    for one in operations.classes(base):
        if "set_meta_tensor" in vars(one):
            patches.method(one, "set_meta_tensor", quantization.meeting)
    _undo.append(patches.restore)
    return True


def _install_gemms() -> bool:
    restore, number = gemms.install(_compiled_module(), _submodules())
    _undo.append(restore)
    if not hasattr(_compiled_module(), _GEMM):
        _missing.append(f"{_COMPILED_MODULE}.{_GEMM}")
    return number > 0


def _install_recipes() -> bool:
    manager = _member((name, "FP8GlobalStateManager") for name in _STATE)
    if manager is None:
        _missing.append("FP8GlobalStateManager")
        return False
    restore, missing = recipes.install(manager)
    _undo.append(restore)
    _missing.extend(f"FP8GlobalStateManager.{name}" for name in missing)
    return len(missing) < 2


def _install_attention() -> bool:
    backends = {name: found for name in attention.BACKENDS if (found := _member([(f"{_ATTENTION}.backends", name)]))}
    restore, missing = attention.install(backends, _module(f"{_ATTENTION}.utils"))
    _undo.append(restore)
    patches = Patches()
    quantization.replace(patches, attention.fused_calls(_compiled_module()), (_compiled_module(), *_submodules()))
    _undo.append(patches.restore)
    _missing.extend(missing)
    return bool(backends)


def _install_operations() -> bool:
    base = getattr(_module(_OPERATION), "FusibleOperation", None)
    if base is None:
        _missing.append("ops.FusibleOperation")
        return False
    restore, number = operations.install(base)
    _undo.append(restore)
    return number > 0


def _install_compiled() -> bool:
    """Only where this release runs modules as operators under torch.compile, and torch could register them."""
    found = {
        weight: pair for name, module, function, weight in _OPERATORS for pair in _operator(name, module, function)
    }
    if found:
        restore, _ = operations.install_compiled(found)
        _undo.append(restore)
    return bool(found)


def _operator(name: str, module: str, function: str) -> Iterator[tuple[Any, Any]]:
    """(function, cell that holds it) of an operator; nothing where there is no such operator."""
    plain = getattr(_module(module), function, None)
    library = sys.modules.get("torch._library.custom_ops")
    for qualified, operator in list(getattr(library, "OPDEFS", {}).items()):
        if plain is not None and qualified.rpartition("::")[2] == name:
            cells = list(operations.cells(getattr(operator, "_init_fn", None), plain))
            yield from ((plain, cell) for cell in cells[:1])


# The last says whether it shows FP8 inspection its tensors, or the modules that they are of.
_PARTS: tuple[tuple[str, Callable[[], bool], bool], ...] = (
    ("quantize calls", _install_quantization, True),
    ("transposes", _install_transposes, False),
    ("quantizers", _install_quantizers, True),
    ("GEMMs", _install_gemms, False),
    ("recipes", _install_recipes, False),
    ("attention", _install_attention, True),
    ("te.ops", _install_operations, True),
    ("compiled modules", _install_compiled, True),
)
