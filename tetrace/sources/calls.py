"""Which CUDA API calls a trace keeps, and what kind each is: one ordered table, the first match decides.

A synchronous copy (`cudaMemcpy`) launches an activity and blocks until it is done; it counts as a launch, because
the activity joins to it, and the wait shows as the host's time inside it.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

import numpy as np

from tetrace.sources.nsys_export import distinct_words
from tetrace.trace.arrays import numpy_of
from tetrace.trace.schema import ALLOCATE, GRAPH_LAUNCH, LAUNCH, LOAD, OTHER_CALL, SYNCHRONIZE

if TYPE_CHECKING:
    import pyarrow as pa

# Nsight Systems appends the version of the symbol: cudaLaunchKernel_v7000, cudaLaunchKernel_ptsz_v7000.
_SUFFIX = re.compile(r"(_ptsz|_ptds)?(_v\d{4,5})?$")

# What the host waits for in a synchronizing call, in the words of table `synchronizations`.
SYNCHRONIZING = {"Device": "context", "Stream": "stream", "Event": "event", "Ctx": "context", "Thread": "context"}

_KINDS: tuple[tuple[str, re.Pattern[str]], ...] = (
    (GRAPH_LAUNCH, re.compile(r"cu(da)?GraphLaunch")),
    (LAUNCH, re.compile(r"cu(da)?Launch(?!HostFunc)|cu(da)?Mem(cpy|set|Prefetch)|cudaMemcpy|cuMemcpy")),
    (SYNCHRONIZE, re.compile(rf"cu(da)?({'|'.join(SYNCHRONIZING)})Synchronize")),
    (
        ALLOCATE,
        re.compile(
            r"cu(da)?(Malloc|Free|Host(Alloc|Register|Unregister)|Mem(Alloc|Free|Create|Release|Map|Unmap|Host))"
        ),
    ),
    (LOAD, re.compile(r"cu(Module|Library)(Load|Unload|GetFunction|GetKernel)|cuLink|nvrtc")),
)
# Frequent calls that only ask or mark: they launch nothing, and there are as many of them as launches.
_NOISE = re.compile(
    r"cu(da)?(StreamIsCapturing|StreamGetCaptureInfo|Get|Set|Func|Kernel|Occupancy|Device(?!Synchronize)|Ctx(?!Synchronize)"
    r"|Event(?!Synchronize)|Pointer|Stream(Query|Create|Destroy|Get|Wait|Begin|End|Update)|Peek|Init|Driver|Runtime|Profiler"
    r"|Module(?!Load|Unload)|Library(?!Load|Unload)|Tensor|Bind|Unbind|Choose|Graph(?!Launch)|Mem(Get|PoolGet|PoolSet|Pool|Advise))"
)


@functools.lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """A call's name without the version suffix of its symbol."""
    return _SUFFIX.sub("", name) if name.startswith("cu") else name


@functools.lru_cache(maxsize=4096)
def kind(name: str) -> str:
    """Kind of the call `name`, a plain name, in the words of the schema."""
    return next((word for word, pattern in _KINDS if pattern.match(name)), OTHER_CALL)


@functools.lru_cache(maxsize=4096)
def is_kept(name: str) -> bool:
    """Whether a trace keeps calls of the plain name `name`; unknown calls are kept, they may launch."""
    # Names of kernels and ranges are in the same table of strings, and there may be very many.
    if not name.startswith(("cu", "nvrtc")) or not name.isidentifier():
        return False
    return kind(name) != OTHER_CALL or not _NOISE.match(name)


def kinds(names: pa.DictionaryArray) -> pa.DictionaryArray:
    """Kinds of calls, shape (rows,), by their plain names."""
    return distinct_words(numpy_of(names).astype(np.int32), [kind(word) for word in names.dictionary.to_pylist()])
