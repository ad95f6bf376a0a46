"""What a checkpoint holds by name: parameters with their shapes, and the extra states of Transformer Engine's modules.

A container is a function from a path to `Contents`: torch.save's zip, safetensors, a folder of torch.distributed.checkpoint.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

from tetrace.errors import InputError
from tetrace.fp8 import plain_pickle
from tetrace.fp8.pickled import Made, RefusedError
from tetrace.fp8.torch_tensors import Tensor, read_archive, tensor_of
from tetrace.fp8.zip_archive import LARGEST_BYTES, SIGNATURE

_METADATA = ".metadata"
# Megatron stores one object a shard: `decoder.layers.0.mlp._extra_state/shard_0_24`.
_STATE = re.compile(r"(?:(?P<module>.*)\.)?_extra_state(?P<shard>/shard_[\d._]+)?")
# Levels of dicts around a state dict, as `checkpoint["model"]`.
_DEPTH = 6
_DTYPES = {"U8": "uint8", "I8": "int8", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


@dataclass(frozen=True)
class Contents:
    """`shapes` of tensors by name; `states` by module: a function that gives a Tensor, or another value of a pickle."""

    container: str
    shapes: Mapping[str, tuple[int, ...]]
    states: Mapping[str, Callable[[], Any]]


def module_of(name: str) -> str | None:
    """The module whose extra state has this name, with its shard behind a slash; None for the name of something else."""
    match = _STATE.fullmatch(name)
    return (match["module"] or "") + (match["shard"] or "") if match else None


def open_contents(path: Path, allowed: Collection[str] = ()) -> Contents:
    """The contents of a checkpoint. Raises `RefusedError` for what is none, OSError for what cannot be read."""
    if path.is_dir():
        return _folder(path, allowed)
    with path.open("rb") as file:
        head = file.read(9)
        if head.startswith(SIGNATURE):
            return _archive(path, allowed)
        if len(head) == 9 and head[8:] == b"{":
            return _safetensors(path, file)
    if not head:
        raise RefusedError("it is empty")
    raise RefusedError(
        "it is neither a zip file, as torch.save writes them since torch 1.6, nor safetensors, nor a folder of "
        "torch.distributed.checkpoint; what an older torch.save wrote, load with torch.load(weights_only=True) and save again"
    )


def _archive(path: Path, allowed: Collection[str]) -> Contents:
    shapes: dict[str, tuple[int, ...]] = {}
    states: dict[str, Callable[[], Any]] = {}
    with path.open("rb") as file:
        value, read = read_archive(file, allowed)
        _refuse_module(path, value)
        for name, held in _named(value):
            module, tensor = module_of(name), tensor_of(held, read)
            if module is not None:
                # Read now, while the file is open: a state is some ten KiB.
                states[module] = partial(_itself, held if tensor is None else _loaded(tensor))
            elif tensor is not None:
                shapes[name] = tensor.shape
            elif isinstance(held, Made):
                _refuse_module(path, held)
                # A weight of a class of its own (FP8 weights): that it is there is enough.
                shapes[name] = ()
    return Contents("torch.save", shapes, states)


def _refuse_module(path: Path, value: Any) -> None:
    """A whole model is no state dict: its tensors have no names. Said, lest it seems to have no FP8 state."""
    if isinstance(value, Made) and "_modules" in value.fields:
        raise InputError(f"{path}: holds a whole {value.name:.80}, no state dict; save model.state_dict()")


def _loaded(tensor: Tensor) -> Tensor:
    return replace(tensor, storage=partial(_itself, tensor.storage()))


def _itself(value: Any) -> Any:
    return value


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """Names and values of all state dicts in `value`; where several have extra states, the names of the outer dicts are
    part of theirs."""
    found = list(_state_dicts(value, "", 0, set()))
    prefixed = sum(any(module_of(name) is not None for name in one) for _, one in found) > 1
    for prefix, one in found:
        for name, held in one.items():
            yield (f"{prefix}{name}" if prefixed else name), held


def _state_dicts(value: Any, prefix: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict) or depth > _DEPTH or id(value) in seen:
        return
    seen.add(id(value))
    own = {name: held for name, held in value.items() if isinstance(name, str) and not isinstance(held, dict)}
    if any(isinstance(held, Made) for held in own.values()):
        yield prefix, own
    for name, held in value.items():
        if isinstance(held, dict):
            yield from _state_dicts(held, f"{prefix}{name}.", depth + 1, seen)


def _safetensors(path: Path, file: IO[bytes]) -> Contents:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, LARGEST_BYTES):
        raise RefusedError(f"its head has {length} bytes of a file of {size}: it is cut off, or no safetensors")
    try:
        head = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise RefusedError("its head is no JSON: it is no safetensors, or damaged") from error
    shapes: dict[str, tuple[int, ...]] = {}
    states: dict[str, Callable[[], Any]] = {}
    for name, described in head.items() if isinstance(head, dict) else ():
        if name == "__metadata__":
            continue
        tensor = _safe_tensor(path, name, described, 8 + length, size)
        module = module_of(name)
        if module is None:
            shapes[name] = tensor.shape
        else:
            states[module] = partial(_itself, tensor)
    return Contents("safetensors", shapes, states)


def _safe_tensor(path: Path, name: str, described: Any, data: int, size: int) -> Tensor:
    fields = described if isinstance(described, dict) else {}
    shape, offsets = fields.get("shape"), fields.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        raise RefusedError(f"its tensor {name[:100]!a} is not described")
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, *offsets)) or offsets[0] > offsets[1]:
        raise RefusedError(f"its tensor {name[:100]!a} is not described")
    begin, end = data + offsets[0], data + offsets[1]
    if end > size:
        raise RefusedError(f"its tensor {name[:100]!a} ends at byte {end} of {size}: the file is cut off")
    stride = [1] * len(shape)
    for i in range(len(shape) - 2, -1, -1):
        stride[i] = stride[i + 1] * shape[i + 1]
    dtype = str(fields.get("dtype"))
    return Tensor(_DTYPES.get(dtype, dtype), tuple(shape), tuple(stride), 0, partial(_part, path, begin, end - begin))


def _part(path: Path, offset: int, size: int) -> bytes:
    if not 0 <= size <= LARGEST_BYTES or offset < 0:
        raise RefusedError(f"a state in it has {size} bytes, more than one can have")
    with path.open("rb") as file:
        file.seek(offset)
        found = file.read(size)
    if len(found) != size:
        raise RefusedError(f"{path.name} ends before byte {offset + size}: the file is cut off")
    return found


def _folder(path: Path, allowed: Collection[str]) -> Contents:
    shards = [] if (path / _METADATA).exists() else sorted(path.glob("*.safetensors"))
    if shards:
        return _shards(shards)
    if not (path / _METADATA).is_file():
        raise RefusedError(
            f"it has no file {_METADATA}: it is no folder of torch.distributed.checkpoint, or was not finished"
        )
    if (path / _METADATA).stat().st_size > LARGEST_BYTES:
        raise RefusedError(f"its {_METADATA} is larger than one can be")
    metadata = plain_pickle.read((path / _METADATA).read_bytes(), allowed)
    fields = metadata.fields if isinstance(metadata, Made) else {}
    named, placed = fields.get("state_dict_metadata"), fields.get("storage_data")
    if not isinstance(named, dict) or not isinstance(placed, dict):
        raise RefusedError(f"its {_METADATA} does not say where tensors are: it is of another program or version")
    places: dict[str, list[tuple[Any, Made]]] = {}
    for index, place in placed.items():
        if isinstance(index, Made) and isinstance(place, Made) and isinstance(index.fields.get("fqn"), str):
            places.setdefault(index.fields["fqn"], []).append((index.fields.get("offset") or (), place))
    shapes: dict[str, tuple[int, ...]] = {}
    states: dict[str, Callable[[], Any]] = {}
    for name, described in named.items():
        module = module_of(str(name))
        size = described.fields.get("size") if isinstance(described, Made) else None
        if module is None:
            shapes[str(name)] = size if isinstance(size, tuple) else ()
        else:
            states[module] = partial(_placed, path, str(name), places.get(name, []), allowed)
    return Contents("torch.distributed.checkpoint", shapes, states)


def _shards(paths: list[Path]) -> Contents:
    """A folder of safetensors: a model that was saved in several files."""
    parts = []
    for path in paths:
        with path.open("rb") as file:
            try:
                parts.append(_safetensors(path, file))
            except RefusedError as error:
                raise RefusedError(f"{path.name}: {error}") from error
    shapes = {name: shape for part in parts for name, shape in part.shapes.items()}
    return Contents("safetensors", shapes, {name: load for part in parts for name, load in part.states.items()})


def _placed(folder: Path, name: str, places: list[tuple[Any, Made]], allowed: Collection[str]) -> Any:
    if len(places) != 1:
        raise RefusedError(f"it has {name[:100]!a} in {len(places)} pieces, and a state is one")
    place = places[0][1].fields
    file, offset, length = (place.get(word) for word in ("relative_path", "offset", "length"))
    if not isinstance(file, str) or not isinstance(offset, int) or not isinstance(length, int):
        raise RefusedError(f"its {_METADATA} does not say where {name[:100]!a} is")
    # A path of the metadata is a name inside the folder and nothing else.
    if not file.isprintable() or file != Path(file).name or not file or (folder / file).is_symlink():
        raise RefusedError(f"its {_METADATA} has {name[:100]!a} at {file[:100]!a}, outside of the folder")
    if place.get("transform_descriptors"):
        raise RefusedError(f"it has {name[:100]!a} compressed; save it without transforms")
    try:
        part = _part(folder / file, offset, length)
    except FileNotFoundError:
        raise RefusedError(
            f"its file {file[:100]} is missing; copy it there from where the checkpoint was saved, or save it again"
        ) from None
    value, read = read_archive(io.BytesIO(part), allowed)
    return tensor_of(value, read) or value
