"""Tensors of torch's files as shapes and bytes: read from the pickles that torch.save writes, without torch."""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from tetrace.fp8 import plain_pickle
from tetrace.fp8.pickled import Copies, Global, Made, Persistent, RefusedError
from tetrace.fp8.zip_archive import SIGNATURE, ZipArchive

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# torch/serialization.py, first pickle of what it wrote before zip files, and still writes for a storage in a pickle.
_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Byte": "uint8", "Char": "int8",
    "Short": "int16", "Int": "int32", "Long": "int64", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip
_ITEM_BYTES = {
    "float32": 4, "float64": 8, "float16": 2, "bfloat16": 2, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8,
    "bool": 1,
}  # fmt: skip
_REBUILDS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3")
# More dimensions than any tensor of a checkpoint has.
_DIMENSIONS = 16
_PARAMETERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor whose bytes are read when they are asked for. `stride` and `offset` count elements."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Callable[[], bytes]

    def array(self) -> npt.NDArray[np.generic]:
        """The values. Raises `RefusedError` for a dtype that states do not have, and outside of the storage."""
        import numpy as np

        if self.dtype not in _ITEM_BYTES:
            raise RefusedError(f"a tensor of a state has dtype {self.dtype[:40]!a}")
        size, count = _ITEM_BYTES[self.dtype], math.prod(self.shape)
        held = self.storage()
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        if count and (
            min(self.offset, *self.stride, 0) < 0 or (last + 1) * size > len(held) or count * size > len(held)
        ):
            raise RefusedError(
                f"a tensor of shape {list(self.shape)} does not fit the {len(held)} bytes of its storage"
            )
        if not count:
            return np.empty(self.shape, np.float32)
        if self.dtype == "bfloat16":
            whole = (np.frombuffer(held, np.uint16, len(held) // 2).astype(np.uint32) << 16).view(np.float32)
        else:
            whole = np.frombuffer(held, self.dtype, len(held) // size)
        steps = tuple(step * whole.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(whole[self.offset :], self.shape, steps, writeable=False)


def read_archive(file: IO[bytes], allowed: Collection[str] = ()) -> tuple[Any, Callable[[str], bytes]]:
    """What torch.save wrote into `file` as a zip, and what reads a storage by its key.

    Tensors are still the calls that make them: `tensor_of` reads those. Raises `RefusedError`.
    """
    archive = ZipArchive(file)
    pickles = [name for name in archive.entries if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise RefusedError(f"its zip holds {len(pickles)} entries data.pkl, and torch.save writes one")
    folder = pickles[0].removesuffix("data.pkl")
    order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.entries else b"little"
    if order.strip() != b"little":
        raise RefusedError(f"it was written with the byte order {order[:20]!r}; save it on a little-endian machine")
    value = plain_pickle.read(archive.read(pickles[0]), allowed)
    copies = Copies(file.seek(0, io.SEEK_END))

    def read(key: str) -> bytes:
        held = archive.read(f"{folder}data/{key}")
        # Many states may name one storage.
        copies.spend(len(held))
        return held

    return value, read


def tensor_of(value: Any, storage: Callable[[str], bytes]) -> Tensor | None:
    """The tensor that a value of a pickle stands for, None where it is something else.

    `storage(key)` gives the bytes of a storage of the file.
    """
    if not isinstance(value, Made) or not value.args:
        return None
    if value.name in _PARAMETERS:
        return tensor_of(value.args[0], storage)
    if value.name not in _REBUILDS or len(value.args) < 4:
        return None
    held, offset, shape, stride = value.args[:4]
    whole_numbers = [offset, *shape, *stride] if isinstance(shape, tuple) and isinstance(stride, tuple) else [None]
    if None in whole_numbers or not len(shape) == len(stride) <= _DIMENSIONS:
        raise RefusedError("its pickle has a tensor without a shape")
    if not all(isinstance(n, int) and n >= 0 for n in whole_numbers):
        raise RefusedError("its pickle has a tensor without a shape")
    dtype, read = _storage(held, storage)
    if value.name.endswith("_v3") and len(value.args) > 6 and isinstance(value.args[6], Global):
        dtype = value.args[6].name.removeprefix("torch.")
    return Tensor(dtype, shape, stride, offset, read)


def _storage(held: Any, storage: Callable[[str], bytes]) -> tuple[str, Callable[[], bytes]]:
    if isinstance(held, Made) and held.name == "torch.storage._load_from_bytes":
        return _storage_in_bytes(held.args[0] if held.args else None)
    dtype, key, _ = _identity(held)
    return dtype, lambda: storage(key)


def _identity(held: Any) -> tuple[str, str, int]:
    """dtype, key and elements of a storage, from the id that torch gives it."""
    words = held.id if isinstance(held, Persistent) else None
    if not isinstance(words, tuple) or len(words) < 5 or words[0] != "storage" or not isinstance(words[1], Global):
        raise RefusedError("its pickle has a tensor without a storage")
    kind = words[1].name.rpartition(".")[2].removesuffix("Storage")
    if not isinstance(words[2], str) or not isinstance(words[4], int):
        raise RefusedError("its pickle has a storage without a name")
    return _STORAGES.get(kind, kind), words[2], words[4]


def _storage_in_bytes(held: Any) -> tuple[str, Callable[[], bytes]]:
    """A storage inside a pickle, which torch writes as it wrote files before zip."""
    if not isinstance(held, bytes):
        raise RefusedError("its pickle has a storage without bytes")
    if held.startswith(SIGNATURE):
        value, read = read_archive(io.BytesIO(held))
        dtype, key, _ = _identity(value)
        return dtype, lambda: read(key)
    file = io.BytesIO(held)
    if plain_pickle.read(file) != _MAGIC:
        raise RefusedError("its pickle has a storage that torch did not write")
    _protocol, _system = plain_pickle.read(file), plain_pickle.read(file)
    dtype, key, count = _identity(plain_pickle.read(file))
    if plain_pickle.read(file) != [key] or dtype not in _ITEM_BYTES:
        raise RefusedError("its pickle has a storage that torch did not write")
    head = file.read(8)
    written = struct.unpack("<q", head)[0] if len(head) == 8 else -1
    size = count * _ITEM_BYTES[dtype]
    data = file.read(size) if 0 <= size <= len(held) else b""
    if written != count or len(data) != size:
        raise RefusedError("its pickle has a storage that is cut off")
    return dtype, lambda: data
