"""FP8 statistics as pictures need them: tensor by step, and the history of the tensors that are worst."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8.health import Health, check_health
from tetrace.fp8.history import History, history_of
from tetrace.fp8.observations import (
    BLOCK,
    BY_ROWS,
    CHECK,
    MXFP8,
    QUANTIZED,
    RECOMPUTE,
    Rows,
    clipped,
    non_finite,
    scales,
    tensor_name,
    tensors,
)
from tetrace.fp8.prediction import FORMATS

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.analysis import Breakdown

    Numbers = npt.NDArray[np.float64]

__all__ = ["MEASURES", "Fp8Maps", "Health", "History", "fp8_maps", "tensor_name"]

MEASURES = {
    "range_used": "Amax times scale as a share of the format's largest value; above 1 values are clipped.",
    "clipped": "Share of the elements that are clipped to the largest value; not known of FP8 codes alone.",
    "at_max": "Where only FP8 codes were seen, the share of them that are the largest value: clipped, or just that.",
    "flushed": "Share of the elements that are not zero and become zero.",
    "not_finite": "Elements that are NaN or infinite.",
}
_MOST_ROWS, _MOST_STEPS = 160, 400
# What a page of 6 MB has room for: cells of each map, and steps of all histories (with what a history takes beside them).
_MOST_CELLS, _MOST_POINTS, _POINTS_BESIDE = 32_000, 40_000, 18


@dataclass(frozen=True)
class Fp8Maps:
    """What is recorded of FP8 tensors. `measures` have shape (modules, steps), NaN where nothing was seen: of each
    module the worst of its tensors, whose role is in `roles`. `left_out` counts modules that are not shown,
    `steps_left_out` steps, and `without_history` tensors that have none in `histories`. `copy` says which copy it is of
    where some scales are of blocks."""

    health: Health
    modules: tuple[str, ...]
    steps: tuple[int, ...]
    measures: dict[str, Numbers]
    roles: dict[str, list[list[str]]]
    histories: tuple[History, ...]
    left_out: int
    steps_left_out: int
    without_history: int
    copy: str

    def history_of(self, module: str, role: str) -> int:
        """The place of a tensor's history in `histories`, -1 where it has none there."""
        return self._places.get(tensor_name(module, role), -1)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {history.name: place for place, history in enumerate(self.histories)}


def fp8_maps(breakdown: Breakdown) -> Fp8Maps | None:
    """The FP8 tables of the trace, None where they were not recorded. All steps are shown, also those not used."""
    trace = breakdown.attribution.trace
    if not trace.rows("fp8_tensors"):
        return None
    health = check_health(trace)
    everything = tensors(trace)
    rows = everything.take(~everything.isin("phase", RECOMPUTE))
    rows = rows if len(rows) else everything
    words, module = _modules(rows)
    order = _worst_first(health, words)[:_MOST_ROWS]
    recorded = steps = np.unique(rows["step"])
    most = min(_MOST_STEPS, _MOST_CELLS // max(len(order), 1))
    if len(steps) > most:  # evenly spread, the last among them
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, most).astype(np.int64))]
        kept = np.isin(rows["step"], steps)
        rows, module = rows.take(kept), module[kept]
    values = _values(rows)
    shape, step = (len(words), len(steps)), np.searchsorted(steps, rows["step"])
    found = {name: _worst(value, module, step, shape) for name, value in values.items()}
    shown = {name: at[order] for name, (_, at) in found.items()}
    roles = [role for _, role in rows.keys]
    histories, without = _histories(breakdown, health, rows, [*shown.values()])
    return Fp8Maps(
        health=health,
        modules=tuple(words[one] for one in order),
        steps=tuple(steps.tolist()),
        measures={name: grid[order] for name, (grid, _) in found.items()},
        roles={
            name: [[roles[int(rows.tensor[row])] if row >= 0 else "" for row in line] for line in at.tolist()]
            for name, at in shown.items()
        },
        histories=histories,
        left_out=len(words) - len(order),
        steps_left_out=len(recorded) - len(steps),
        without_history=without,
        copy=BY_ROWS if rows.isin("scaling", BLOCK, MXFP8).any() else "",
    )


def _modules(rows: Rows) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Modules in the order in which they were first seen, and the place of each row's."""
    of_key = np.array([module for module, _ in rows.keys], dtype=object)[rows.tensor]
    words = list(dict.fromkeys(of_key.tolist()))
    places = {word: place for place, word in enumerate(words)}
    return words, np.array([places[word] for word in of_key.tolist()], np.int64)


def _values(rows: Rows) -> dict[str, Numbers]:
    largest = np.full(len(rows), np.nan)
    for one in FORMATS:
        largest[rows.isin("format", one.name)] = one.largest
    elements, bad = rows["elements"], non_finite(rows)
    nonzero = elements - np.maximum(rows["zeros"], 0) - bad

    def share(counts: Any, whole: Any) -> Numbers:
        return np.where(counts >= 0, counts / np.maximum(whole, 1), np.nan)

    with np.errstate(invalid="ignore", over="ignore"):
        used = rows["amax"] * rows["scale"] / largest
    return {
        "range_used": np.where(rows.isin("source", CHECK), np.nan, used),
        "clipped": share(clipped(rows), elements),
        "at_max": share(np.where(rows.isin("source", QUANTIZED), rows["saturated"], -1), elements),
        "flushed": share(rows["flushed"], nonzero),
        "not_finite": np.where(rows["nans"] >= 0, bad, np.nan).astype(np.float64),
    }


def _worst(values: Numbers, module: Any, step: Any, shape: tuple[int, int]) -> tuple[Numbers, npt.NDArray[np.int64]]:
    """The largest value of each module and step, and the row that has it, -1 where there is none."""
    grid, at = np.full(shape, np.nan), np.full(shape, -1, np.int64)
    known = np.flatnonzero(~np.isnan(values))
    known = known[np.argsort(values[known], kind="stable")]
    grid[module[known], step[known]] = values[known]
    at[module[known], step[known]] = known
    return grid, at


def _worst_first(health: Health, words: list[str]) -> list[int]:
    """Rows of the map: in the order of the model, unless there are too many, when those with problems are kept."""
    if len(words) <= _MOST_ROWS:
        return list(range(len(words)))
    bad = {problem.module for problem in health.problems}
    chosen = sorted(range(len(words)), key=lambda one: words[one] not in bad)[:_MOST_ROWS]
    return sorted(chosen)


def _histories(
    breakdown: Breakdown, health: Health, rows: Rows, shown: list[npt.NDArray[np.int64]]
) -> tuple[tuple[History, ...], int]:
    """Histories of as many tensors as there is room for, and how many are left: first those with problems, then those
    that stand for their module in the most cells. `shown` are the rows that maps show, -1 none."""
    place = {key: number for number, key in enumerate(rows.keys)}
    troubled = [place[key] for problem in health.problems if (key := (problem.module, problem.role)) in place]
    cells = sum(np.bincount(rows.tensor[at[at >= 0]], minlength=len(rows.keys)) for at in shown)
    seen = np.unique(rows.tensor)
    by_cells = seen[np.argsort(-np.asarray(cells)[seen], kind="stable")]
    there = set(seen.tolist())
    order = list(dict.fromkeys([*(one for one in troubled if one in there), *by_cells.tolist()]))
    updates, room = scales(breakdown.attribution.trace), _MOST_POINTS
    found: list[History] = []
    for tensor in order:
        history = history_of(rows, updates, tensor)
        room -= len(history.steps) + _POINTS_BESIDE
        if room < 0:
            break
        found.append(history)
    return tuple(found), len(order) - len(found)
