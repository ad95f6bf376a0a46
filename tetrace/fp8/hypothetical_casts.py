"""How each observation would be cast: its format, recipe and scale, as asked for and else as it ran."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tetrace.errors import UsageError
from tetrace.fp8 import hypothetical_scales as hypothetical
from tetrace.fp8.observations import BLOCK, CURRENT, DELAYED, MXFP8, Rows, is_gradient
from tetrace.fp8.prediction import FORMATS
from tetrace.fp8.settings import RECIPES, Settings

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.fp8.powers_of_two import Powers

    Places = npt.NDArray[np.int64]
    Singles = npt.NDArray[np.float32]
    Mask = npt.NDArray[np.bool_]

_NAMES = [one.name for one in FORMATS]
# Places in `RECIPES`: from the first of the last two on, each block has a scale of its own.
_DELAYED, OF_BLOCKS, MX = 1, 2, 3


class Casts(NamedTuple):
    """Of each observation the format `kind` (a place in `FORMATS`) and `recipe` (in `RECIPES`); the `scale` of the tensor, which
    those of blocks have none of, and the entries `used` of its history; `unset` where delayed scaling would have set no
    scale yet: it is 1. `power_of_two` is of block scaling. `as_ran` where recipe, format and scale are what ran, `begins_anew`
    where delayed scaling is asked for and did not run in that format. `wanted_history` is the length of the histories that
    were asked for, 0 where none is needed."""

    kind: Places
    recipe: Places
    scale: Singles
    used: Places
    unset: Mask
    power_of_two: Mask
    as_ran: Mask
    begins_anew: Mask
    wanted_history: int


class _Scales(NamedTuple):
    """Scale of each observation, how many entries its history had, and whether nothing would have set it yet."""

    scale: Singles
    used: Places
    unset: Mask
    wanted_history: int


def casts(every: Rows, updates: Rows, places: Places, settings: Settings, powers: Mapping[str, Powers]) -> Casts:
    """How the observations at `places` would be cast; `powers` are those of current and block scaling as they ran."""
    rows = every.take(places)
    gradient = np.array([is_gradient(role) for _, role in rows.keys], np.bool_)[rows.tensor]
    ran = np.where(rows.isin("format", "E4M3"), 0, np.where(rows.isin("format", "E5M2"), 1, gradient.astype(int)))
    kind = _formats(settings, ran, gradient)
    ran_recipe = _ran_recipe(rows)
    recipe = _recipes(settings, ran_recipe)
    taken = {scaling: found.taken[places] for scaling, found in powers.items()}
    asked = settings.power_of_two
    power = taken if asked is None else dict.fromkeys(taken, np.full(len(rows), asked))
    scales = _scales(every, updates, places, settings, ran, kind, recipe, power[CURRENT])
    of_blocks = (recipe == MX) | ((recipe == OF_BLOCKS) & (power[BLOCK] == taken[BLOCK]))
    # The scale of current scaling is recorded by way of its inverse.
    same_scale = of_blocks | np.isclose(scales.scale, rows["scale"], rtol=1e-6, atol=0)
    return Casts(
        kind,
        recipe,
        scales.scale,
        scales.used,
        scales.unset,
        power[BLOCK],
        as_ran=(kind == ran) & (recipe == ran_recipe) & same_scale,
        begins_anew=(recipe == _DELAYED) & ((ran_recipe != _DELAYED) | (kind != ran)),
        wanted_history=scales.wanted_history,
    )


def _formats(settings: Settings, ran: Places, gradient: Mask) -> Places:
    if not settings.format:
        return ran.astype(np.int64)
    if settings.format == "HYBRID":
        return gradient.astype(np.int64)
    return np.full(len(ran), _NAMES.index(settings.format))


def _ran_recipe(rows: Rows) -> Places:
    of_blocks = np.where(rows.isin("scaling", MXFP8), MX, OF_BLOCKS)
    return np.where(rows.isin("scaling", DELAYED), _DELAYED, np.where(rows.isin("scaling", CURRENT), 0, of_blocks))


def _recipes(settings: Settings, ran: Places) -> Places:
    if settings.recipe:
        return np.full(len(ran), RECIPES.index(settings.recipe))
    if not (ran == _DELAYED).any():
        for name in ("margin", "history", "algorithm"):
            if getattr(settings, name) not in (None, ""):
                raise UsageError(f"{name} belongs to delayed scaling, which did not run: add recipe=delayed")
    return ran


def _scales(
    every: Rows,
    updates: Rows,
    places: Places,
    settings: Settings,
    ran: Places,
    kind: Places,
    recipe: Places,
    power_of_two: Mask,
) -> _Scales:
    rows = every.take(places)
    scale = hypothetical.from_amax(rows, kind, power_of_two)
    used, unset = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
    delayed = np.flatnonzero(recipe == _DELAYED)
    if not len(delayed):
        return _Scales(scale, used, unset, 0)
    length, margin = hypothetical.length_of_run(updates), hypothetical.margin_of_run(updates)
    wanted_margin = margin if settings.margin is None else settings.margin
    same = settings.history in (None, length) and not settings.algorithm
    known = rows.isin("scaling", DELAYED)[delayed] & (rows["scale"][delayed] > 0) & same
    moved, others = delayed[known], delayed[~known]
    of_run = every.take(places[moved])
    scale[moved], unset[moved] = hypothetical.from_used(of_run, kind[moved], ran[moved], wanted_margin - margin)
    if not len(others):
        return _Scales(scale, used, unset, 0)
    history = settings.history or length or 1024
    wanted = dataclasses.replace(settings, recipe="delayed", margin=wanted_margin, history=history)
    found = hypothetical.from_history(every, updates, places[others], kind[others], wanted)
    scale[others], used[others], unset[others] = found
    # most_recent reads one entry, however long the history is
    return _Scales(scale, used, unset, settings.history or (1 if settings.algorithm == "most_recent" else history))
