"""The scale that another recipe would have given to each observed tensor, from the amaxes of a recording.

Delayed scaling makes it from the updates before. Where delayed scaling ran and only its format or margin changes, the
history is that of the run itself: the scale follows from the one that was used, also in the first recorded step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.observations import DELAYED, RECOMPUTE, Rows, starts_of
from tetrace.fp8.prediction import FORMATS, current_scale, delayed_scale
from tetrace.fp8.update_turns import update_turns

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.fp8.settings import Settings

    Numbers = npt.NDArray[np.float64]
    Singles = npt.NDArray[np.float32]
    Places = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

_LARGEST = np.array([one.largest for one in FORMATS])


def margin_of_run(updates: Rows) -> int:
    """The margin that delayed scaling ran with, from its scales: 0 where they do not tell."""
    history = np.fmax(updates["history_max"], updates["amax"])
    largest = np.where(updates.isin("format", "E5M2"), _LARGEST[1], _LARGEST[0])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        powers = np.log2(largest / (updates["next_scale"] * history))
    powers = powers[np.isfinite(powers)]
    told = powers[(np.abs(powers - np.rint(powers)) < 1e-3) & (powers > -0.5)]
    values, counts = np.unique(np.rint(told).astype(np.int64), return_counts=True)
    return int(values[counts.argmax()]) if len(values) else 0


def length_of_run(updates: Rows) -> int:
    """Entries of the amax history that delayed scaling ran with; 0 where it is not known."""
    return int(updates["history_length"].max(initial=0))


def from_amax(rows: Rows, kind: Places, power_of_two: Mask) -> Singles:
    """Current scaling: the tensor's own amax."""
    return current_scale(rows["amax"], _LARGEST[kind], power_of_two)


def from_used(rows: Rows, kind: Places, ran: Places, margin_change: int) -> tuple[Singles, Mask]:
    """Delayed scaling with the run's own history, in another format or with a margin that is larger by so much.

    The scale stays 1 as long as no update has set it; the mask says where.
    """
    used = rows["scale"].astype(np.float32)
    with np.errstate(over="ignore"):
        moved = used * (_LARGEST[kind] / _LARGEST[ran]).astype(np.float32) * np.float32(2.0**-margin_change)
    unset = is_unset(rows)
    return np.where(unset, np.float32(1), np.minimum(moved, np.finfo(np.float32).max)), unset


def from_history(
    every: Rows, updates: Rows, places: Places, kind: Places, settings: Settings
) -> tuple[Singles, Places, Mask]:
    """Delayed scaling with a history of recorded steps, for the observations at `places`: scales, how many entries each
    was made of, and where nothing would have set it yet.

    Each update of a step is an entry, the largest amax that ranks had in it. With an Inf among its entries the scale stays
    what it was. Where nothing came before it is 1, if the recording knows that nothing did, else NaN.
    """
    length, turn = settings.history or 1, update_turns(every, updates)
    entries = _Entries(every, turn)
    newest = settings.algorithm == "most_recent"
    history, used = _history(entries.tensor, entries.amax, 1 if newest else length)
    history = _as_before(entries.tensor, history)
    used = np.minimum(_place_in_group(entries.tensor), length) if newest else used
    at = entries.find(every.tensor[places], every["step"][places], turn[places])
    scale = delayed_scale(history[at], _LARGEST[kind], settings.margin or 0)
    unset = np.isnan(scale) & begins(every)[places]
    return np.where(unset, np.float32(1), scale), used[at], unset


def begins(every: Rows) -> Mask:
    """Where an update that the recording has nothing of did not happen: in its steps from the run's first on, up to one that
    it lacks. A run of delayed scaling may have loaded its scales instead: of that `is_unset` tells."""
    steps = np.unique(every["step"])
    whole = int((steps == np.arange(len(steps))).sum())
    return np.where(every.isin("scaling", DELAYED), is_unset(every), every["step"] < whole)


def is_unset(rows: Rows) -> Mask:
    """Where delayed scaling has not set the scale of a tensor yet: it is 1, and was nothing else before."""
    order = np.lexsort((rows["order"], rows["process"], rows.tensor))
    process, tensor, other = rows["process"][order], rows.tensor[order], rows["scale"][order] != 1.0
    seen = np.cumsum(other)
    begins = starts_of(tensor, process)
    before = np.repeat(seen[begins] - other[begins], np.diff(np.append(begins, len(seen)))) if len(seen) else seen
    unset = np.empty(len(order), np.bool_)
    unset[order] = seen == before
    return unset & rows.isin("scaling", DELAYED)


class _Entries:
    """What histories are made of: tensor and largest amax of each update, in order.

    An amax that was not measured or is 0 enters no history; NaN is passed over, as the casts do, and Inf is not."""

    def __init__(self, every: Rows, turn: Places) -> None:
        amax = np.where(every["infs"] > 0, np.inf, every["amax"])
        good = np.flatnonzero((amax > 0) & ~every.isin("phase", RECOMPUTE))
        self._steps = int(every["step"].max(initial=0)) + 1
        self._turns = int(turn.max(initial=0)) + 1
        key = self._key(every.tensor[good], every["step"][good], turn[good])
        good, key = good[np.argsort(key, kind="stable")], np.sort(key)
        begins = starts_of(key)
        self._keys, self.tensor = key[begins], every.tensor[good][begins]
        self.amax = np.maximum.reduceat(amax[good], begins) if len(begins) else amax[good]

    def find(self, tensor: Places, step: Places, turn: Places) -> Places:
        """The places of these updates, which must be there."""
        return np.searchsorted(self._keys, self._key(tensor, step, turn))

    def _key(self, tensor: Places, step: Places, turn: Places) -> Places:
        return (tensor * self._steps + step) * self._turns + turn


def _as_before(tensor: Places, history: Numbers) -> Numbers:
    """Histories whose largest entry is Inf leave the scale as it was: that of the last one before which was finite."""
    kept = np.where(np.isinf(history), -1, np.arange(len(history)))
    kept = np.maximum.accumulate(kept) if len(kept) else kept
    known = (kept >= 0) & (tensor[np.maximum(kept, 0)] == tensor)
    return np.where(known, history[np.maximum(kept, 0)], np.nan)


def _history(tensor: Places, amax: Numbers, length: int) -> tuple[Numbers, Places]:
    """Largest amax of up to `length` entries before each, in the same tensor, and how many there were."""
    used = np.minimum(_place_in_group(tensor), length)
    history = np.full(len(amax), np.nan)
    # By doubling: the maximum of a window is that of two overlapping ones of a power of two.
    width, windows = 1, amax
    while width <= used.max(initial=0):
        here = np.flatnonzero((used >= width) & (used < 2 * width))
        history[here] = np.maximum(windows[here - 1], windows[here - used[here] + width - 1])
        windows, width = _wider(windows, tensor, width), 2 * width
    return history, used


def _wider(windows: Numbers, tensor: Places, width: int) -> Numbers:
    """Maxima of the last 2 × `width` entries from those of the last `width`, within each tensor."""
    wider = windows.copy()
    same = tensor[width:] == tensor[:-width]
    wider[width:] = np.where(same, np.maximum(windows[width:], windows[:-width]), windows[width:])
    return wider


def _place_in_group(group: Places) -> Places:
    """How many entries of the same group come before each; groups are in one piece."""
    begins = starts_of(group)
    return np.arange(len(group)) - np.repeat(begins, np.diff(np.append(begins, len(group)))) if len(group) else group
