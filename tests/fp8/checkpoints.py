"""Checkpoints as Transformer Engine leaves them: its `get_extra_state` over stand-ins of its recipe classes, saved by torch."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import pickle
import struct
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

RECIPES = "transformer_engine.common.recipe"


class _FormatHelper(NamedTuple):
    max_fwd: float
    max_bwd: float


class Format(enum.Enum):
    """The members of Transformer Engine's, with its values."""

    E4M3 = _FormatHelper(448, 448)
    HYBRID = _FormatHelper(448, 57344)


@dataclasses.dataclass
class DelayedScaling:
    """The fields of Transformer Engine's that decide a scale."""

    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 16
    amax_compute_algo: str = "max"
    scaling_factor_compute_algo: Any = None
    reduce_amax: bool = True
    fp8_dpa: bool = False


@contextmanager
def recipes() -> Iterator[None]:
    """While it is open, the stand-ins are pickled under Transformer Engine's names."""
    module = types.ModuleType(RECIPES)
    parents = {name: types.ModuleType(name) for name in ("transformer_engine", "transformer_engine.common")}
    known = {name: sys.modules.get(name) for name in (*parents, RECIPES)}
    own = {one: (one.__module__, one.__qualname__) for one in (_FormatHelper, Format, DelayedScaling)}
    for one in own:
        one.__module__, one.__qualname__ = RECIPES, one.__name__
        setattr(module, one.__name__, one)
    sys.modules.update({**parents, RECIPES: module})
    try:
        yield
    finally:
        for one, (module_name, qualified) in own.items():
            one.__module__, one.__qualname__ = module_name, qualified
        for name, before in known.items():
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before


def delayed(
    scales: tuple[list[float], list[float]],
    histories: tuple[list[list[float]], list[list[float]]],
    recipe: DelayedScaling | None = None,
    **variables: Any,
) -> dict[str, Any]:
    """A state of a module: scales forward and backward, and histories, a list an update, the oldest first.

    Row 0 of Transformer Engine's history, which gathers the next amax, is put before them.
    """
    state: dict[str, Any] = {"recipe": recipe or DelayedScaling()}
    for suffix, scale, history in zip(("fwd", "bwd"), scales, histories, strict=True):
        state[f"scale_{suffix}"] = torch.tensor(scale)
        state[f"amax_history_{suffix}"] = torch.tensor([[0.0] * len(scale), *history])
    state["extra_fp8_variables"] = {"num_gemms": 1, "fp8_checkpoint": True, **variables}
    return state


def as_tensor(state: Any) -> torch.Tensor:
    """The uint8 tensor that `get_extra_state` returns for a state; empty for None."""
    if state is None:
        return torch.empty(0, dtype=torch.uint8)
    with recipes():
        return torch.frombuffer(bytearray(pickle.dumps(state)), dtype=torch.uint8)


def as_bytes_io(state: Any) -> io.BytesIO:
    """As Transformer Engine before 1.14 returned it."""
    held = io.BytesIO()
    with recipes():
        torch.save(state, held)
    return held


def linear() -> dict[str, Any]:
    """Input, weight and grad_output with the scales that their histories give; output and grad_input never used."""
    return delayed(
        ([448 / 4.0, 448 / 0.5, 1.0], [57344 / 0.25, 1.0]),
        ([[4.0, 0.5, 0.0], [2.0, 0.5, 0.0]], [[0.125, 0.0], [0.25, 0.0]]),
    )


def state_dict() -> dict[str, Any]:
    """Two linears and an attention without state."""
    return {
        "layers.0.proj.weight": torch.zeros(4, 8, dtype=torch.bfloat16),
        "layers.0.proj.bias": torch.zeros(4),
        "layers.0.proj._extra_state": as_tensor(linear()),
        "layers.1.proj.weight": torch.zeros(4, 8, dtype=torch.bfloat16),
        "layers.1.proj._extra_state": as_tensor(linear()),
        "layers.0.core_attention._extra_state": as_tensor(None),
    }


def save_safetensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Eight bytes of length, a head of JSON, and the bytes of all tensors."""
    words = {torch.uint8: "U8", torch.float32: "F32", torch.bfloat16: "BF16"}
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, tensor in tensors.items():
        raw = tensor.contiguous().view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        offsets = [len(data), len(data) + len(raw)]
        head[name] = {"dtype": words[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        data += raw
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
