"""Tells streams that wait for an event from a host that waits for a stream: recorders write both as the former."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.trace.arrays import numpy_of, text_column

if TYPE_CHECKING:
    import numpy.typing as npt

_TOLD = "stream_wait"
_OF_HOST = "stream"
_CALLS = ("cudaStreamSynchronize", "cuStreamSynchronize")


def told_apart(synchronizations: Mapping[str, Any], calls: Mapping[str, Any]) -> dict[str, Any]:
    """`synchronizations`, in which what a call of the host waits for is no wait of a stream; both with `process`.

    In recordings of Nsight Systems 2025.3 a cudaStreamSynchronize of the default stream is a stream that is told to wait for
    an event, with the call's correlation id: seen in every step of a script that reads its loss.
    """
    kinds, words = numpy_of(synchronizations["kind"]), synchronizations["kind"].dictionary.to_pylist()
    if _TOLD not in words or "correlation" not in synchronizations or not len(calls["correlation"]):
        return dict(synchronizations)
    names = calls["name"].dictionary.to_pylist()
    of_host = np.array([name.startswith(_CALLS) for name in names], np.bool_)[numpy_of(calls["name"])]
    waits = _keys(calls["process"][of_host], calls["correlation"][of_host])
    is_wrong = (kinds == words.index(_TOLD)) & (synchronizations["correlation"] > 0)  # none, or not known
    is_wrong &= np.isin(_keys(synchronizations["process"], synchronizations["correlation"]), waits)
    if not is_wrong.any():
        return dict(synchronizations)
    corrected = [*words, *([] if _OF_HOST in words else [_OF_HOST])]
    codes = np.where(is_wrong, corrected.index(_OF_HOST), kinds).astype(np.int32)
    return {**synchronizations, "kind": text_column(codes, corrected)}


def _keys(process: npt.NDArray[Any], correlation: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """A number for each call of each process: correlation ids count from 1 in all of them, in 32 bits."""
    return (process.astype(np.int64) << 32) | (correlation.astype(np.int64) & 0xFFFFFFFF)
