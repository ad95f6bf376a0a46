"""Words for the numbers of CUPTI's enumerations, which recorders hand on as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.sources.nsys_export import labelled
from tetrace.trace.arrays import text_column

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

# CUpti_ActivityMemcpyKind.
_COPY_KINDS = {
    1: "HtoD", 2: "DtoH", 3: "HtoA", 4: "AtoH", 5: "AtoA", 6: "AtoD", 7: "DtoA", 8: "DtoD", 9: "HtoH", 10: "PtoP",
    11: "HtoD (unified)", 12: "DtoH (unified)", 13: "DtoD (unified)",
}  # fmt: skip
# CUpti_ActivitySynchronizationType.
_SYNC_KINDS = {1: "event", 2: "stream_wait", 3: "stream", 4: "context"}
# CUpti_ActivityOverheadKind: what the CUDA driver does with or without a profiler, compiling and loading code.
_BACK_PRESSURE, _DRIVER = 8, (2, 6, 7)
_OVERHEADS = {
    2: "compiling", 3: "flush of a buffer", 4: "instrumentation", 5: "resource", 6: "module loading",
    7: "lazy function loading", 8: "command buffer full", 9: "request of a buffer", 10: "unified memory",
}  # fmt: skip


def copy_names(kinds: Integers) -> pa.DictionaryArray:
    """Names of copies, as `memcpy HtoD`, shape (rows,)."""
    return labelled(kinds, {kind: f"memcpy {word}" for kind, word in _COPY_KINDS.items()}, "memcpy kind")


def synchronization_kinds(kinds: Integers) -> pa.DictionaryArray:
    """Kinds of synchronizations in the words of the schema, shape (rows,)."""
    return labelled(kinds, _SYNC_KINDS, "synchronization kind")


def overhead_kinds(kinds: Integers) -> pa.DictionaryArray:
    """Kinds of overheads in the words of the schema, shape (rows,), by the numbers of Nsight Systems."""
    word = (kinds == _BACK_PRESSURE) + 2 * np.isin(kinds, _DRIVER)
    return text_column(word.astype(np.int32), ["profiler", "back_pressure", "driver"])


def overhead_names(kinds: Integers) -> pa.DictionaryArray:
    """Names of overheads, shape (rows,), by the numbers of Nsight Systems."""
    return labelled(kinds, _OVERHEADS, "overhead")


def overheads_as_nsys_numbers_them(kinds: Integers) -> Integers:
    """Numbers of CUPTI: 1 for compiling, the others in the upper half; Nsight Systems counts on from 2."""
    return np.where(kinds == 1, 2, np.where(kinds >= 1 << 16, (kinds >> 16) + 2, kinds))
