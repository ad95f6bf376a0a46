"""Columns between numpy and Arrow over their buffers: no copy, and no pandas.

pyarrow's own conversions (`pa.array`, `to_numpy`) import pandas when it is installed, a quarter of a second that a
report does not need.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


def numbers(values: npt.ArrayLike, dtype: pa.DataType) -> pa.Array:
    """Numbers of shape (rows,) as an Arrow array of `dtype`: int32, int64 or float64."""
    import numpy as np
    import pyarrow as pa

    plain = np.ascontiguousarray(values, np.dtype(str(dtype)))
    return pa.Array.from_buffers(dtype, len(plain), [None, pa.py_buffer(plain)])


def strings(words: Iterable[str]) -> pa.Array:
    """Words as an Arrow array of strings."""
    import numpy as np
    import pyarrow as pa

    encoded = [word.encode("utf-8", "replace") for word in words]
    offsets = np.zeros(len(encoded) + 1, np.int32)
    np.cumsum([len(word) for word in encoded], out=offsets[1:], dtype=np.int32)
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))


def text_column(codes: npt.NDArray[np.int32], words: Sequence[str]) -> pa.DictionaryArray:
    """A text column from codes of shape (rows,) and the words they stand for."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(numbers(codes, pa.int32()), strings(words))


def numpy_of(array: pa.Array) -> npt.NDArray[Any]:
    """The values of an array of numbers without nulls, or the codes of a text column, shape (rows,). Not to be written to."""
    import numpy as np
    import pyarrow as pa

    if isinstance(array, pa.DictionaryArray):
        return numpy_of(array.indices)
    if not len(array):
        return np.empty(0, np.dtype(str(array.type)))
    return np.frombuffer(array.buffers()[1], np.dtype(str(array.type)))[array.offset : array.offset + len(array)]


def column_of(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """The values of a column of numbers without nulls, shape (rows,); without a copy where it is one chunk."""
    import numpy as np

    chunks = [numpy_of(chunk) for chunk in column.chunks]
    if len(chunks) == 1:
        return chunks[0]
    return np.concatenate(chunks) if chunks else np.empty(0, np.dtype(str(column.type)))


def taken(array: Any, rows: npt.NDArray[np.integer[Any]]) -> Any:
    """`array[rows]` of a numpy array or a text column."""
    import pyarrow as pa

    if not isinstance(array, pa.DictionaryArray):
        return array[rows]
    return pa.DictionaryArray.from_arrays(numbers(numpy_of(array)[rows], pa.int32()), array.dictionary)
