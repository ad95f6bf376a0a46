"""Which update of delayed scaling takes in the amax of an observation, where a step has several.

Transformer Engine updates scales whenever an outermost autocast ends, so in each micro-batch: amaxes of two micro-batches
are two entries of a history, and the second micro-batch is cast with what the first one left (quantization.py,
`autocast_exit` and `reduce_and_update_fp8_tensors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.observations import BACKWARD, CHECK, FORWARD, RECOMPUTE, Rows, starts_of

if TYPE_CHECKING:
    import numpy.typing as npt

    Places = npt.NDArray[np.int64]


def update_turns(every: Rows, updates: Rows) -> Places:
    """The number of the update within its step, from 0, shape (rows,).

    Where updates were recorded, observations of a tensor in a step that have an amax are shared out among those that had
    one of it; another observation comes before the update that the next one is in. Elsewhere, as with current scaling, each
    forward that follows a backward is a new micro-batch, and has one.
    """
    turns = _micro_batches(every)
    mine = np.flatnonzero(~every.isin("phase", RECOMPUTE) & ~every.isin("source", CHECK))
    if not len(mine) or not len(updates):
        return turns
    mine = mine[np.lexsort((every["order"][mine], every["step"][mine], every.tensor[mine], every["process"][mine]))]
    begins = starts_of(every["process"][mine], every.tensor[mine], every["step"][mine])
    sizes = np.diff(np.append(begins, len(mine)))
    number = _updates_of(every, updates, mine[begins])
    has_amax = ((every["amax"][mine] > 0) | (every["infs"][mine] > 0)).astype(np.int64)
    size, many = np.repeat(np.add.reduceat(has_amax, begins), sizes), np.repeat(number, sizes)
    # How many of the same tensor and step came before, of those that have an amax.
    before = np.cumsum(has_amax) - has_amax
    place = before - np.repeat(before[begins], sizes)
    shared = np.where(many < size, place * many // np.maximum(size, 1), place)
    turns[mine] = np.where(many > 0, shared, turns[mine])
    return turns


def _updates_of(every: Rows, updates: Rows, places: Places) -> Places:
    """How many updates had an amax of the tensor in the step and process of the observation at each place."""
    tensor_of = {key: number for number, key in enumerate(every.keys)}
    tensor = np.array([tensor_of.get(key, -1) for key in updates.keys], np.int64)[updates.tensor]
    # One without an amax rolls no history.
    kept = np.flatnonzero((tensor >= 0) & (updates["amax"] != 0))
    steps = int(max(every["step"].max(initial=0), updates["step"].max(initial=0))) + 1

    def key(process: Places, tensor: Places, step: Places) -> Places:
        return (process.astype(np.int64) * len(every.keys) + tensor) * steps + step

    had = np.sort(key(updates["process"][kept], tensor[kept], updates["step"][kept]))
    asked = key(every["process"][places], every.tensor[places], every["step"][places])
    return np.searchsorted(had, asked, side="right") - np.searchsorted(had, asked)


def _micro_batches(every: Rows) -> Places:
    """The number of the micro-batch within its step, from 0: forward that comes after backward begins one."""
    turns = np.zeros(len(every), np.int64)
    order = np.lexsort((every["order"], every["process"]))
    backward = every.isin("phase", BACKWARD)[order]
    told = np.flatnonzero(backward | every.isin("phase", FORWARD)[order])
    if not len(told):
        return turns
    process, step = every["process"][order], every["step"][order]
    again = np.zeros(len(order), np.int64)
    again[told[1:]] = backward[told[:-1]] & ~backward[told[1:]]
    seen = np.cumsum(again)
    begins = starts_of(process, step)
    # A step's first forward comes after the backward of the step before, and begins no second one.
    turns[order] = seen - np.repeat(seen[begins], np.diff(np.append(begins, len(seen))))
    return turns
