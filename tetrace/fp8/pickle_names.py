"""Names that a checkpoint may hold. Nothing is imported by them: what is not here is a sign of another kind of file."""

from __future__ import annotations

import re

_CONTAINERS = {
    "builtins.dict", "builtins.list", "builtins.set", "builtins.frozenset", "builtins.tuple", "builtins.bytes",
    "builtins.bytearray", "builtins.complex", "builtins.slice", "builtins.range", "builtins.object", "builtins.int",
    "builtins.float", "builtins.str", "builtins.bool",
    # `getattr` is how Python 3.11 pickles members of enums; it is read as a name with a dot.
    "builtins.getattr", "_codecs.encode", "copyreg._reconstructor", "copyreg.__newobj__",
    "collections.OrderedDict", "collections.defaultdict", "collections.deque", "collections.Counter",
    "_io.BytesIO", "io.BytesIO", "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta",
    "pathlib.PosixPath", "pathlib.PurePosixPath", "pathlib.WindowsPath", "pathlib.Path", "pathlib._local.PosixPath",
    "uuid.UUID", "enum.Enum",
}  # fmt: skip
_TORCH = {
    "torch.Size", "torch.device", "torch.Tensor", "torch.Generator", "torch.strided",
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "torch._tensor._rebuild_from_type_v2",
    "torch._utils._rebuild_wrapper_subclass", "torch._utils._rebuild_meta_tensor_no_storage",
    "torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_qtensor",
    "torch.storage._load_from_bytes", "torch.storage.UntypedStorage", "torch.storage.TypedStorage",
    "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.serialization._get_layout",
    "torch.distributed._tensor.DTensor", "torch.distributed.tensor.DTensor",
}  # fmt: skip
_METADATA = "torch.distributed.checkpoint.metadata."
_DISTRIBUTED = {
    *(f"{_METADATA}{name}" for name in (
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING")),
    "torch.distributed.checkpoint.filesystem._StorageInfo", "torch.distributed.checkpoint.filesystem.StorageInfo",
}  # fmt: skip
_NUMPY = {
    f"numpy{core}.{name}"
    for core in ("", ".core", "._core")
    for name in ("dtype", "ndarray", "multiarray._reconstruct", "multiarray.scalar", "numeric._frombuffer")
}
_NAMES = _CONTAINERS | _TORCH | _DISTRIBUTED | _NUMPY

_FAMILIES = re.compile(
    r"torch\.(cuda\.)?[A-Z][A-Za-z0-9]*Storage"
    r"|torch\.(u?int|float|bfloat|complex|q?u?int|bits)\d+(_e\d+m\d+\w*|x\d+)?|torch\.(bool|half|double|long|short)"
    r"|torch\.(contiguous_format|preserve_format|channels_last)"
    # Recipes, their fields, and members of enums as Python 3.11 names them; tensors of Transformer Engine as weights, and
    # what makes them.
    r"|transformer_engine\.common\.recipe\.[A-Z_]\w*(\.[A-Za-z]\w*)?"
    r"|transformer_engine\.pytorch\.(quantized_tensor|float8_tensor|tensor(\.\w+)*)\.[A-Za-z_]\w*(\._make_in_reduce_ex)?"
    r"|transformer_engine(_torch|\.pytorch(\.\w+)*)\.DType(\.k\w+)?"
    r"|torch\.distributed\.checkpoint\.metadata\._MEM_FORMAT_ENCODING\.[A-Z_]+"
)


def is_known(name: str) -> bool:
    """Whether a checkpoint may hold `name`, as `torch._utils._rebuild_tensor_v2`."""
    return name in _NAMES or _FAMILIES.fullmatch(name) is not None
