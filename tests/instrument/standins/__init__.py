"""Stand-ins for Transformer Engine on the CPU: its names, signatures and order of calls, release by release.

They compute in plain torch what theirs compute in FP8; what is tested is which calls tetrace sees and what it says of
them. What moved or was renamed between 2.4 and 2.20 is where that release has it.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from tests.instrument.standins.attention import attention_modules
from tests.instrument.standins.compiled import compiled_module, storage_class
from tests.instrument.standins.modules import base_class, compiled_linear, linear_class
from tests.instrument.standins.operations import operation_classes
from tests.instrument.standins.recipes import (
    DelayedScaling,
    DType,
    Float8CurrentScaling,
    Float8CurrentScalingQuantizer,
    Float8Quantizer,
)
from tests.instrument.standins.state import autocast_of, state_manager

__all__ = [
    "VERSIONS",
    "DType",
    "DelayedScaling",
    "Float8CurrentScaling",
    "Float8CurrentScalingQuantizer",
    "Float8Quantizer",
    "build",
    "compiled_linear",
    "installed",
]

VERSIONS = ("2.4.0", "2.9.0", "2.12.0", "2.15.0", "2.20.2")


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
