"""What a checkpoint says of FP8: recipe, scales and amax histories of every module, and what is wrong with them.

Read without torch and without unpickling anything (`plain_pickle`), so a checkpoint of unknown origin can be looked at.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.errors import InputError
from tetrace.fp8.checkpoint_files import Contents, open_contents
from tetrace.fp8.pickled import RefusedError
from tetrace.fp8.te_states import Recorded, State, decode

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]

DELAYED, EMPTY, MISSING = "DelayedScaling", "empty", "missing"
# Largest finite values of the formats, forward and backward.
_LARGEST = {"HYBRID": (448.0, 57344.0), "E4M3": (448.0, 448.0), "E5M2": (57344.0, 57344.0)}
_FORMATS = {448.0: "E4M3", 57344.0: "E5M2"}
# Names of parameters that only modules of Transformer Engine have.
_OWN_PARAMETERS = {
    "fc1_weight": "LayerNormMLP",
    "fc2_weight": "LayerNormMLP",
    "layer_norm_weight": "LayerNormLinear",
    "weight0": "GroupedLinear",
}
# Places of tensors in scales and histories, a tuple a GEMM (constants.py: FP8FwdTensorIdx, FP8BwdTensorIdx).
_FORWARD, _BACKWARD = ("input", "weight", "output"), ("grad_output", "grad_input")
_ATTENTION = {"forward": {2: "qkv", 3: "o", 8: "s"}, "backward": {0: "dqkv", 3: "do", 5: "dp"}}
_ATTENTION_TENSORS = {"forward": 9, "backward": 6}
# Tensors whose quantizers run only when FP8 outputs are asked for: nothing is wrong when they never did.
_OPTIONAL = ("output", "grad_input", "")
# With FP8 attention also those that linears beside it are given in FP8 already.
_GIVEN_IN_FP8 = ("input", "grad_output")
_TOLERANCE = 1e-3
_MARGIN_MAX = 64


@dataclass(frozen=True)
class TensorState:
    """Scale and amax history of one tensor. `newest` is the amax of the last finished update, `history_max` the largest.

    `expected_scale` is what the history gives by the recipe's formula, None where that cannot be said. `flags` say what is
    wrong, in words; `used` is false where nothing was ever quantized with it.
    """

    direction: str
    tensor: str
    format: str
    scale: float
    expected_scale: float | None
    newest: float
    history_max: float
    history_length: int
    history_used: int
    infs: int
    nans: int
    used: bool
    flags: tuple[str, ...]


@dataclass(frozen=True)
class ModuleState:
    """A module's FP8 state. `status` is DELAYED, EMPTY (its recipe keeps no state, or it ran no FP8) or MISSING."""

    module: str
    kind: str
    status: str
    recipe: str
    fields: Mapping[str, Any]
    tensors: tuple[TensorState, ...]
    flags: tuple[str, ...] = ()

    @property
    def is_flagged(self) -> bool:
        """Whether anything is wrong with it."""
        return bool(self.flags) or any(tensor.flags for tensor in self.tensors)


@dataclass(frozen=True)
class Checkpoint:
    """The FP8 part of a checkpoint, modules in its order."""

    path: str
    container: str
    parameters: int
    modules: tuple[ModuleState, ...]

    @property
    def unused(self) -> tuple[str, ...]:
        """Directions in which there are scales, and none was ever set."""
        used = {tensor.direction: False for module in self.modules for tensor in module.tensors}
        for module in self.modules:
            used.update({tensor.direction: True for tensor in module.tensors if tensor.used})
        return tuple(direction for direction, is_used in used.items() if not is_used)

    @property
    def flagged(self) -> tuple[ModuleState, ...]:
        """Modules with which something is wrong."""
        return tuple(module for module in self.modules if module.is_flagged)


def read_checkpoint(path: str | os.PathLike[str], *, allow: Collection[str] = ()) -> Checkpoint:
    """The FP8 states in a checkpoint: a .pt of torch.save, a .safetensors, a folder of torch.distributed.checkpoint.

    `allow`: patterns of names beside those that checkpoints have, as `megatron.core.*`, whose values are
    read as plain data; nothing is imported or called for any name. Raises `InputError` for a file that is missing, cut
    off, or no checkpoint, and for one with any other name in it.
    """
    path = Path(path)
    try:
        contents = open_contents(path, allow)
        modules = _without_unused(tuple(_modules(contents, allow)))
    except RefusedError as error:
        way_out = "; --allow NAME reads it as plain data" if "not on the list" in str(error) else ""
        raise InputError(f"{path}: cannot be read as a checkpoint: {error}{way_out}") from error
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file or folder; name a .pt, a .safetensors or a folder with .metadata"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); choose a file that can") from error
    except MemoryError as error:
        raise InputError(
            f"{path}: cannot be read as a checkpoint: it asks for more memory than there is; read it where there is more"
        ) from error
    return Checkpoint(str(path), contents.container, len(contents.shapes), modules)


def _without_unused(modules: tuple[ModuleState, ...]) -> tuple[ModuleState, ...]:
    """Nothing is wrong with scales that nobody set: where no backward has run, none of it was."""
    used = {tensor.direction for module in modules for tensor in module.tensors if tensor.used}
    return tuple(
        replace(
            module,
            tensors=tuple(one if one.direction in used else replace(one, flags=()) for one in module.tensors),
        )
        for module in modules
    )


def _modules(contents: Contents, allow: Collection[str]) -> Iterator[ModuleState]:
    for module, load in contents.states.items():
        try:
            state = decode(load(), allow)
        except RefusedError as error:
            raise RefusedError(f"extra state of {module or 'the model'}: {error}") from error
        kind = _kind(module, contents, state)
        if state is None:
            yield ModuleState(module, kind, EMPTY, "", {}, ())
        else:
            yield _described(module, kind, state)
    for module, kind in _missing(contents):
        flag = "no _extra_state: with delayed scaling its scales start again at 1.0"
        yield ModuleState(module, kind, MISSING, "", {}, (), (flag,))


def _kind(module: str, contents: Contents, state: State | None) -> str:
    """Class of a module, from the names of its parameters."""
    base = module.partition("/")[0]
    prefix = f"{base}." if base else ""
    for parameter, kind in _OWN_PARAMETERS.items():
        if f"{prefix}{parameter}" in contents.shapes:
            return kind
    if state and state.is_operation:
        return "te.ops"
    own = (name.removeprefix(prefix) for name in contents.shapes if name.startswith(prefix))
    if any(name.endswith("weight") and "." not in name for name in own):
        return "Linear"
    # Of the classes with a state, attention alone has no weights; it counts as three GEMMs.
    has_three = state is not None and any(len(one.scale) in (6, 9) for one in state.recorded)
    return "DotProductAttention" if has_three or base.endswith("core_attention") else ""


def _missing(contents: Contents) -> Iterator[tuple[str, str]]:
    """Modules of Transformer Engine that have weights and no state: by parameters that others do not have, and by modules
    of the same place in other layers that have one."""
    known = {module.partition("/")[0] for module in contents.states}
    alike = {re.sub(r"\d+", "#", module) for module in known}
    parameters: dict[str, list[str]] = {}
    for name in contents.shapes:
        module, _, parameter = name.rpartition(".")
        if module not in known:
            parameters.setdefault(module, []).append(parameter)
    for module, names in parameters.items():
        own = next((kind for parameter, kind in _OWN_PARAMETERS.items() if parameter in names), "")
        if own or ("weight" in names and re.sub(r"\d+", "#", module) in alike):
            yield module, own or "Linear"


def _described(module: str, kind: str, state: State) -> ModuleState:
    tensors = tuple(tensor for recorded in state.recorded for tensor in _tensors(recorded, kind, state))
    recipe = state.recipe or "DelayedScaling (not stored before Transformer Engine 2.0)"
    flags = () if tensors or state.recipe != DELAYED else ("delayed scaling without scales",)
    status = DELAYED if tensors or state.recipe in ("", DELAYED) else EMPTY
    fields = {**({"format": state.format} if state.format else {}), **state.fields}
    fields.pop("fp8_format", None)
    return ModuleState(module, kind, status, recipe, fields, tensors, flags)


def _tensors(recorded: Recorded, kind: str, state: State) -> Iterator[TensorState]:
    largest = _LARGEST.get(state.format or "HYBRID", (0.0, 0.0))[recorded.direction == "backward"]
    for place, scale in enumerate(recorded.scale.tolist()):
        name = _name(recorded, place, kind, state)
        yield _tensor(recorded, name, kind, scale, recorded.history[:, place], largest, state)


def _name(recorded: Recorded, place: int, kind: str, state: State) -> str:
    """The tensor at a place of the scales; empty where Transformer Engine gives the place no meaning."""
    if kind == "DotProductAttention":
        # With current scaling only the last GEMM's tensors, S and dP, have delayed scaling.
        first = max(_ATTENTION_TENSORS[recorded.direction] - len(recorded.scale), 0)
        return _ATTENTION[recorded.direction].get(first + place, "")
    forward = recorded.direction == "forward"
    if state.is_operation:
        of_operation = ("input", "weight") if forward else ("grad_output",)
        return of_operation[place] if place < len(of_operation) else f"{place}"
    names: tuple[str, ...] = _FORWARD if forward else _BACKWARD
    gemm, tensor = divmod(place, len(names))
    if len(recorded.scale) <= len(names):
        return names[tensor]
    return f"fc{gemm + 1}_{names[tensor]}" if kind == "LayerNormMLP" else f"{names[tensor]}{gemm}"


def _tensor(
    recorded: Recorded, name: str, kind: str, scale: float, history: Floats, largest: float, state: State
) -> TensorState:
    import numpy as np

    # Row 0 gathers the amax of the step in work; the last row is the newest that is finished (delayed_scaling.cu).
    finished = history[1:] if len(history) > 1 else history
    most = float(finished[np.isfinite(finished)].max(initial=0.0))
    infs, nans = int(np.isinf(history).sum()), int(np.isnan(history).sum())
    used = int((finished != 0).sum())
    found = TensorState(
        direction=recorded.direction,
        tensor=name,
        format=_FORMATS.get(largest, ""),
        scale=scale,
        expected_scale=None if infs or nans else _expected(most, largest, len(history), state),
        newest=float(finished[-1]) if len(finished) else 0.0,
        history_max=most,
        history_length=len(history),
        history_used=used,
        infs=infs,
        nans=nans,
        used=bool(used or history.any() or scale != 1),
        flags=(),
    )
    beside_attention = state.fields.get("fp8_dpa") is True or state.fields.get("fp8_mha") is True
    seldom = (*_OPTIONAL, *(_GIVEN_IN_FP8 if beside_attention else ()))
    optional = kind == "DotProductAttention" or re.sub(r"^fc\d_|\d+$", "", name) in seldom
    return replace(found, flags=tuple(_flags(found, optional)))


def _expected(most: float, largest: float, length: int, state: State) -> float | None:
    """fp8_max / 2^margin / max(history), where that is the recipe's formula."""
    is_default = state.fields.get("scaling_factor_compute_algo") is None
    if not most or not largest or length < 2 or not is_default or state.fields.get("amax_compute_algo", "max") != "max":
        return None
    margin = state.fields.get("margin", 0)
    return largest / 2.0**margin / most if isinstance(margin, int | float) and abs(margin) < _MARGIN_MAX else None


def _flags(tensor: TensorState, optional: bool) -> Iterator[str]:
    scale, expected = tensor.scale, tensor.expected_scale
    if not math.isfinite(scale) or scale <= 0:
        yield f"scale is {scale}"
    if tensor.infs:
        yield f"{tensor.infs} Inf in history: scale frozen"
    if tensor.nans:
        yield f"{tensor.nans} NaN in history"
    if expected is not None and not math.isclose(scale, expected, rel_tol=_TOLERANCE):
        yield f"history gives scale {expected:.4g}"
    if tensor.history_used or tensor.infs or tensor.nans:
        if tensor.history_used and not tensor.newest:
            yield "newest amax is zero"
    elif tensor.used:
        yield "amax zero throughout"
    elif not optional:
        yield "never set"
