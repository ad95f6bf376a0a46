"""Has Nsight Systems' CUPTI hand over what it holds, each second: of a process that is killed, all else would be lost.

nsys' own option for that, --cuda-flush-interval, left nothing of a process that was killed four seconds after its last
kernel (2025.3.1). A forced flush hands over records of what still runs too, which are lost then: only a process that
ends at once forces it.
"""

from __future__ import annotations

import _thread
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tetrace import loaded

_EVERY_S = 1.0
_COMPLETE, _FORCED = 0, 1
# The libraries that nsys puts into a process; its own CUPTI lies beside them.
_INJECTED = "libToolsInjection"
_MOST_SEARCHES = 5

_cuda: Any = torch.cuda
_hand_over: Any = None
_searches = 0


def install() -> Callable[[], None]:
    """Begins to flush; returns the function that flushes once more and ends it. Nothing where nsys is not here."""
    ended = _thread.allocate_lock()
    ended.acquire()
    # No thread of `threading`: the script may count those.
    _thread.start_new_thread(_flush_until, (ended,))

    def end() -> None:
        flush()
        ended.release()

    return end


def flush(forced: bool = False) -> None:
    """Has nsys' CUPTI hand over what has run by now, if it is loaded; `forced`: nothing runs after this."""
    global _hand_over, _searches
    if _hand_over is None and _searches < _MOST_SEARCHES and _cuda.is_initialized():
        _searches += 1
        _hand_over = _flush_function()
    if _hand_over is not None:
        _hand_over(_FORCED if forced else _COMPLETE)


def _flush_until(ended: Any) -> None:
    while not ended.acquire(timeout=_EVERY_S):
        flush()


def _flush_function() -> Any:
    """`cuptiActivityFlushAll` of the CUPTI beside nsys' libraries; torch's own copy is not nsys'."""
    mapped = {Path(path) for path in loaded.mapped() if _INJECTED in path or "libcupti.so" in path}
    folders = {path.parent for path in mapped if path.name.startswith(_INJECTED)}
    found = next((path for path in mapped if path.name.startswith("libcupti.so") and path.parent in folders), None)
    try:
        return None if found is None else ctypes.CDLL(str(found)).cuptiActivityFlushAll
    except (OSError, AttributeError):
        return None
