"""Which of several ranks had it first: they share no clock, and what a rank reads first may come from another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.observations import BACKWARD, FORWARD, OPTIMIZER, RECOMPUTE, Rows

if TYPE_CHECKING:
    from tetrace.fp8.observations import Places

# Within a step no value of a forward depends on a backward, of whichever rank and micro-batch, and none of these on an
# optimizer's.
_TURNS = {FORWARD: 0, RECOMPUTE: 1, BACKWARD: 1, OPTIMIZER: 2}
# What a rank has itself, or makes of all that it has read.
_OWN = ("weight", "parameter", "gradient", "loss")


def of_first_rank(rows: Rows, bad: Places) -> Places:
    """Those of `bad`, rows of one step, that are of the process which had it first: in an earlier phase, else where something
    finite was read before, else at an earlier place in its step."""
    ranks = [bad[rows["process"][bad] == process] for process in np.unique(rows["process"][bad]).tolist()]
    return min(ranks, key=lambda mine: _turn(rows, int(mine[0])))


def _turn(rows: Rows, row: int) -> tuple[int, bool, int]:
    place = int(np.searchsorted(step_of(rows, row), row))
    return _TURNS.get(rows.text("phase", row), 0), _is_handed_in(rows, row), place


def senders(rows: Rows, names: dict[int, str], row: int) -> tuple[str, ...]:
    """The ranks that the tensor in `row` may have come from: those with other modules, where it is one that is handed in."""
    process = int(rows["process"][row])
    if len(names) < 2 or not _is_handed_in(rows, row):
        return ()
    own = _modules(rows, process)
    return tuple(name for other, name in names.items() if other != process and _modules(rows, other) != own)


def _is_handed_in(rows: Rows, row: int) -> bool:
    """Whether it is the tensor that its process reads first in a forward or a backward, of whichever micro-batch: between them
    nothing was seen of what made it."""
    phase, step = rows.text("phase", row), step_of(rows, row).tolist()
    if phase not in (FORWARD, BACKWARD):
        return False
    if phase == BACKWARD and any(kind_of(rows, one) == "loss" for one in step):
        return False  # backward starts on this rank
    same = (one for one in step if rows["phase"][one] == rows["phase"][row] and kind_of(rows, one) not in _OWN)
    first = next(same, None)
    return first is not None and rows.tensor[first] == rows.tensor[row]


def _modules(rows: Rows, process: int) -> set[str]:
    seen = (rows.keys[tensor][0] for tensor in np.unique(rows.tensor[rows["process"] == process]).tolist())
    return {module for module in seen if not module.startswith("(")}


def step_of(rows: Rows, row: int) -> Places:
    """All rows of the step and process of `row`."""
    return np.flatnonzero((rows["process"] == rows["process"][row]) & (rows["step"] == rows["step"][row]))


def kind_of(rows: Rows, row: int) -> str:
    """The role without the name of the GEMM or parameter that it is of."""
    return rows.keys[int(rows.tensor[row])][1].rpartition(".")[2]
