"""Extra states of Transformer Engine's modules: scales and amax histories of delayed scaling, from their own pickles.

Layouts: `TransformerEngineBaseModule.get_extra_state` (since 1.0; a BytesIO of torch.save until 1.13),
`ops/op.py` (one dict a direction). A recipe without a state, and a module that ran no FP8, save an empty tensor.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tetrace.fp8 import plain_pickle
from tetrace.fp8.pickled import Global, Made, RefusedError
from tetrace.fp8.torch_tensors import Tensor, read_archive, tensor_of
from tetrace.fp8.zip_archive import SIGNATURE

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.floating[Any]]

_DIRECTIONS = {"forward": "fwd", "backward": "bwd"}
# Format.HYBRID and the others by the largest values that they pickle: (forward, backward).
_BY_LARGEST = {(448, 57344): "HYBRID", (448, 448): "E4M3", (57344, 57344): "E5M2"}
# The largest amax history of one module: 8192 updates of 256 tensors would be larger than any.
_VALUES_MAX = 1 << 22


@dataclass(frozen=True)
class Recorded:
    """Scales, shape (tensors,), and amax histories, shape (updates, tensors), of one direction, in fp32."""

    direction: str
    scale: Floats
    history: Floats


@dataclass(frozen=True)
class State:
    """A decoded extra state. `recipe` is the recipe's class (empty: not stored), `fields` its fields, `format` its
    `Format`; `variables` what else the module stored; `recorded` is empty where no scale was."""

    recipe: str
    format: str
    fields: Mapping[str, Any]
    variables: Mapping[str, Any]
    recorded: tuple[Recorded, ...]
    is_operation: bool = False


def decode(held: Any, allowed: Collection[str] = ()) -> State | None:
    """The state in `held`; None for an empty one. Raises `RefusedError` for what no version of TE writes."""
    value, read = _unpacked(held, allowed)
    if value is None:
        return None
    if not isinstance(value, dict):
        raise RefusedError(f"its extra state is {_kind(value)}, which no known Transformer Engine writes")
    directions = [value[word] for word in _DIRECTIONS if isinstance(value.get(word), dict)]
    parts = directions or [value]
    if not any(word in part for part in parts for word in ("recipe", "scale_fwd", "scale_bwd", "extra_fp8_variables")):
        return None if not value else _unknown(value)
    recipe = next((part["recipe"] for part in parts if isinstance(part.get("recipe"), Made)), None)
    variables = [part.get("extra_fp8_variables") for part in parts]
    fields = {**recipe.fields} if recipe else {}
    return State(
        recipe.name.rpartition(".")[2] if recipe else "",
        _format(fields.get("fp8_format")) if recipe else "",
        {name: _plain(value) for name, value in fields.items() if not str(name).startswith("_")},
        {
            str(k): v
            for one in variables
            if isinstance(one, dict)
            for k, v in one.items()
            if isinstance(v, bool | int | float | str)
        },
        tuple(_recorded(parts, read)),
        bool(directions),
    )


def _unknown(value: dict[Any, Any]) -> State:
    words = ", ".join(str(name)[:40] for name in list(value)[:5])
    raise RefusedError(f"its extra state has the keys {words!a}, which no known Transformer Engine writes")


def _unpacked(held: Any, allowed: Collection[str]) -> tuple[Any, Callable[[str], bytes]]:
    """The value inside an extra state, and what reads a storage of the file around it."""
    if isinstance(held, Tensor):
        if held.dtype != "uint8":
            raise RefusedError(
                f"its extra state is a tensor of {held.dtype[:40]}, and Transformer Engine's are of uint8"
            )
        data = held.array().tobytes()
    elif isinstance(held, Made) and held.name.rpartition(".")[2] == "BytesIO":
        content = held.state[0] if isinstance(held.state, tuple) and held.state else held.args[0] if held.args else b""
        data = content if isinstance(content, bytes) else b""
    elif isinstance(held, bytes):
        data = held
    else:
        return held, _outside
    if not data:
        return None, _outside
    if data.startswith(SIGNATURE):
        value, read = read_archive(io.BytesIO(data), allowed)
        return _inner(value, read, allowed)
    return plain_pickle.read(data, allowed), _outside


def _inner(value: Any, read: Callable[[str], bytes], allowed: Collection[str]) -> tuple[Any, Callable[[str], bytes]]:
    """What was saved into a BytesIO: the state, or the tensor that holds its pickle."""
    tensor = tensor_of(value, read)
    return _unpacked(tensor, allowed) if tensor is not None and tensor.dtype == "uint8" else (value, read)


def _outside(key: str) -> bytes:
    raise RefusedError(f"its extra state refers to storage {key[:40]!a}, which it does not hold")


def _recorded(parts: list[dict[str, Any]], read: Callable[[str], bytes]) -> Iterator[Recorded]:
    for direction, suffix in _DIRECTIONS.items():
        for part in parts:
            scale = _values(part.get(f"scale_{suffix}"), read, 1)
            history = _values(part.get(f"amax_history_{suffix}"), read, 2)
            if scale is None or history is None:
                continue
            if history.shape[1] != len(scale):
                raise RefusedError(f"its extra state has {len(scale)} scales and histories of {history.shape[1]}")
            yield Recorded(direction, scale, history)


def _values(held: Any, read: Callable[[str], bytes], dimensions: int) -> Floats | None:
    import numpy as np

    tensor = tensor_of(held, read)
    if tensor is None:
        return None
    count = 1
    for size in tensor.shape:
        count *= size
    if len(tensor.shape) != dimensions or count > _VALUES_MAX or not tensor.dtype.startswith(("float", "bfloat")):
        raise RefusedError(f"its extra state has scales of shape {list(tensor.shape)} and type {tensor.dtype[:40]}")
    return tensor.array().astype(np.float32)


def _format(held: Any) -> str:
    """Name of a member of `Format`: pickled as an attribute of the class (Python 3.11), or as a call with its value."""
    if isinstance(held, Global):
        return held.name.rpartition(".")[2]
    value = held.args[0] if isinstance(held, Made) and held.args else None
    largest = value.args if isinstance(value, Made) else value
    if not isinstance(largest, tuple) or not all(isinstance(one, int | float) for one in largest):
        return ""
    return _BY_LARGEST.get(largest, "")


def _plain(field: Any) -> Any:
    if isinstance(field, bool | int | float | str | None):
        return field
    if isinstance(field, Global):
        return field.name.rpartition(".")[2]
    return _format(field) or _kind(field)


def _kind(value: Any) -> str:
    return value.name[:80] if isinstance(value, Made | Global) else type(value).__name__
