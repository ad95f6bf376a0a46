"""What a synchronization is, by the call that made it: what recorders write of it is not always so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.calls import SYNCHRONIZING
from tetrace.trace.arrays import numpy_of, text_column

if TYPE_CHECKING:
    import numpy.typing as npt


def by_their_calls(synchronizations: Mapping[str, Any], calls: Mapping[str, Any]) -> dict[str, Any]:
    """`synchronizations`, of which those that a call of the host waits for are of that call's kind; both with `process`.

    Nsight Systems 2025.3 writes a cudaStreamSynchronize of the default stream as a stream that is told to wait for an event,
    with the call's correlation id (in every step of a script that reads its loss), and 2022.1 a cudaEventSynchronize.
    """
    if "correlation" not in synchronizations or "correlation" not in calls:
        return dict(synchronizations)
    names = calls["name"].dictionary.to_pylist()
    of_name = [
        next((kind for word, kind in SYNCHRONIZING.items() if f"{word}Synchronize" in name), "") for name in names
    ]
    words = [*dict.fromkeys([*synchronizations["kind"].dictionary.to_pylist(), *filter(None, of_name)])]
    of_call = np.array([words.index(kind) if kind else -1 for kind in of_name], np.int32)[numpy_of(calls["name"])]
    rows = np.flatnonzero((of_call >= 0) & (calls["correlation"] > 0))  # else none, or not known
    keys = _keys(calls["process"][rows], calls["correlation"][rows])
    if not len(keys) or not len(synchronizations["correlation"]):
        return dict(synchronizations)
    order = np.argsort(keys, kind="stable")
    wanted = _keys(synchronizations["process"], synchronizations["correlation"])
    place = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    codes = np.where(keys[place] == wanted, of_call[rows][place], numpy_of(synchronizations["kind"]))
    return {**synchronizations, "kind": text_column(codes.astype(np.int32), words)}


def _keys(process: npt.NDArray[Any], correlation: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A number for each call of each process: correlation ids count from 1 in all of them, in 32 bits."""
    return (process.astype(np.int64) << 32) | (correlation.astype(np.int64) & 0xFFFFFFFF)
