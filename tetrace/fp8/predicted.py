"""Which observations of a recording can be asked what another recipe would have done, and the answers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tetrace.errors import UsageError
from tetrace.fp8 import hypothetical_scales as hypothetical
from tetrace.fp8.block_prediction import SIZES, predict_blocks
from tetrace.fp8.observations import (
    BLOCK,
    CURRENT,
    DELAYED,
    MXFP8,
    RECOMPUTE,
    WHOLE,
    Rows,
    is_gradient,
    non_finite,
    scales,
)
from tetrace.fp8.powers_of_two import powers_of_two
from tetrace.fp8.prediction import FORMATS, Histograms, Points, limits, predict
from tetrace.fp8.settings import RECIPES, Settings
from tetrace.trace.schema import BY_NAME

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.trace.trace import Trace

    Places = npt.NDArray[np.int64]
    Numbers = npt.NDArray[np.float64]
    Mask = npt.NDArray[np.bool_]

_NAMES = [one.name for one in FORMATS]
# Places in `RECIPES`: from the first of these on, each block has a scale of its own.
_OF_BLOCKS, _MX = 2, 3
# With a smaller one nothing is counted as lost (docs/fp8.md).
_LEAST_SCALE = 2.0**-127
# Of the elements that are not zero, so many become zero where a tensor counts as lost, as in `lost_gradients`.
LOST = 0.5
# Place among the columns of a prediction.
_FLUSHED_LOWER = 2


class Predicted(NamedTuple):
    """Predictions of observations `rows` (places in the table); `as_ran` where recipe, format and scale are what ran,
    `unset` where delayed scaling would have set no scale yet: it is 1."""

    rows: Places
    kind: Places
    recipe: list[str]
    saturated: Numbers
    saturated_upper: Numbers
    flushed: Numbers
    flushed_upper: Numbers
    error: Numbers
    history: Places
    as_ran: Mask
    unset: Mask


class FirstStep(NamedTuple):
    """Of `tensors` that delayed scaling would begin with, in a run whose start was not recorded: `known` were seen in
    `step`, the first recorded one, and `lost` of these lose half or more of what is not zero there at a scale of 1."""

    step: int
    tensors: int
    known: int
    lost: int


class _Scales(NamedTuple):
    """Scale of each observation, how many entries its history had, and whether nothing would have set it yet."""

    scale: npt.NDArray[np.float32]
    used: Places
    unset: Mask


class Case:
    """The observations that can be answered for, with their histograms, and why the others cannot."""

    def __init__(self, trace: Trace, every: Rows, settings: Settings) -> None:
        self.trace, self.every, self.settings = trace, every, settings
        self.updates = scales(trace)
        self.unanswered: dict[str, int] = {}
        self.histogram, self.of_row, _ = _histograms(trace, every, "fp8_histograms")
        self.rows = self._usable()
        self.wanted_history = 0
        self.sampled = False
        self.first_step: FirstStep | None = None
        self.powers = {one: powers_of_two(trace, every, one) for one in (CURRENT, BLOCK)}

    def _usable(self) -> Places:
        every = self.every
        has_histogram = np.zeros(len(every), np.bool_)
        has_histogram[self.of_row] = True
        is_input, again = every.isin("source", *WHOLE), every.isin("phase", RECOMPUTE)
        self.not_finite = is_input & ~again & (non_finite(every) > 0)
        good = is_input & ~again & has_histogram & ~self.not_finite
        seen = np.unique(every.tensor[good])
        codes_only = np.setdiff1d(every.tensor[every.isin("source", "quantized")], every.tensor[is_input])
        self._without("seen only as FP8 codes", codes_only)
        bad = np.setdiff1d(every.tensor[is_input & has_histogram & (non_finite(every) > 0)], seen)
        self._without("never finite", bad)
        empty = is_input & ~has_histogram & (every["zeros"] != every["elements"])
        self._without("no histogram recorded", np.setdiff1d(every.tensor[empty], seen))
        return np.flatnonzero(good)

    def _without(self, reason: str, tensor: Places) -> None:
        if len(np.unique(tensor)):
            self.unanswered[reason] = len(np.unique(tensor))

    def predicted(self) -> Predicted:
        """Predictions of all observations that can be answered for."""
        rows = self.every.take(self.rows)
        self.sampled = bool(rows.sampled.any())
        gradient = np.array([is_gradient(role) for _, role in rows.keys], np.bool_)[rows.tensor]
        ran = np.where(rows.isin("format", "E4M3"), 0, np.where(rows.isin("format", "E5M2"), 1, gradient.astype(int)))
        kind = self._formats(ran, gradient)
        recipe = self._recipes(rows)
        scale, used, unset = self._scales(rows, ran, kind, recipe)
        asked = (recipe == 1) & ((self._ran(rows) != 1) | (kind != ran))
        self.first_step = self._first_step(rows, asked, kind)
        known = np.flatnonzero(np.isfinite(scale) & (scale > 0) & (recipe < _OF_BLOCKS))
        self._count_unset(rows, np.flatnonzero(~(np.isfinite(scale) & (scale > 0)) & (recipe < _OF_BLOCKS)), known)
        blocks, of_blocks = self._block_wise(rows, np.flatnonzero(recipe >= _OF_BLOCKS), recipe, kind)
        of_tensors = self._tensor_wise(rows, known, kind, scale)
        places = np.concatenate([known, blocks])
        lower, upper, least, most, error = (np.concatenate(pair) for pair in zip(of_tensors, of_blocks, strict=True))
        names = [RECIPES[one] for one in recipe[places].tolist()]
        as_ran = self._as_ran(rows, ran, kind, recipe, scale)[places]
        of_scales = used[places], as_ran, unset[places]
        return Predicted(self.rows[places], kind[places], names, lower, upper, least, most, error, *of_scales)

    def _first_step(self, rows: Rows, asked: Mask, kind: Places) -> FirstStep | None:
        """What delayed scaling would lose of the tensors `asked` for in the first step of a run, by the first recorded one;
        None where the run's own start was recorded. Where it ran in that format and only margin or history change, its
        start is what it was."""
        without = asked & ~np.isin(rows.tensor, self.every.tensor[hypothetical.begins(self.every)])
        if not without.any():
            return None
        first = int(self.every["step"].min())
        mine = np.flatnonzero(without & (rows["step"] == first))
        of_ones = self._tensor_wise(rows, mine, kind, np.ones(len(rows), np.float32))
        lost = mine[of_ones[_FLUSHED_LOWER] >= LOST * nonzero(rows)[mine]]
        return FirstStep(first, *(len(np.unique(rows.tensor[one])) for one in (without, mine, lost)))

    def _as_ran(
        self, rows: Rows, ran: Places, kind: Places, recipe: Places, scale: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.bool_]:
        of_blocks = recipe == _MX
        of_blocks |= (recipe == _OF_BLOCKS) & (
            self._power_of_two(BLOCK, self.rows) == self.powers[BLOCK].taken[self.rows]
        )
        same: npt.NDArray[np.bool_] = (kind == ran) & (recipe == self._ran(rows))
        # The scale of current scaling is recorded by way of its inverse.
        return same & (of_blocks | np.isclose(scale, rows["scale"], rtol=1e-6, atol=0))

    def _formats(self, ran: Places, gradient: npt.NDArray[np.bool_]) -> Places:
        if not self.settings.format:
            return ran.astype(np.int64)
        if self.settings.format == "HYBRID":
            return gradient.astype(np.int64)
        return np.full(len(ran), _NAMES.index(self.settings.format))

    def _recipes(self, rows: Rows) -> Places:
        """The place in `RECIPES` for each observation."""
        if self.settings.recipe:
            return np.full(len(rows), RECIPES.index(self.settings.recipe))
        ran = self._ran(rows)
        if not (ran == 1).any():
            for name in ("margin", "history", "algorithm"):
                if getattr(self.settings, name) not in (None, ""):
                    raise UsageError(f"{name} belongs to delayed scaling, which did not run: add recipe=delayed")
        return ran

    def _ran(self, rows: Rows) -> Places:
        """The place in `RECIPES` of what ran."""
        of_blocks = np.where(rows.isin("scaling", MXFP8), _MX, _OF_BLOCKS)
        return np.where(rows.isin("scaling", DELAYED), 1, np.where(rows.isin("scaling", CURRENT), 0, of_blocks))

    def _power_of_two(self, scaling: str, rows: Places) -> Mask:
        """Whether scales are powers of two, for observations `rows` (places in the table): as asked for, else as it ran."""
        asked = self.settings.power_of_two
        return self.powers[scaling].taken[rows] if asked is None else np.full(len(rows), asked)

    def _scales(self, rows: Rows, ran: Places, kind: Places, recipe: Places) -> _Scales:
        settings, updates = self.settings, self.updates
        scale = hypothetical.from_amax(rows, kind, self._power_of_two(CURRENT, self.rows))
        used, unset = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_)
        delayed = np.flatnonzero(recipe == 1)
        if not len(delayed):
            return _Scales(scale, used, unset)
        length = hypothetical.length_of_run(updates)
        margin = hypothetical.margin_of_run(updates)
        same = settings.history in (None, length) and not settings.algorithm
        known = rows.isin("scaling", DELAYED)[delayed] & (rows["scale"][delayed] > 0) & same
        change = (margin if settings.margin is None else settings.margin) - margin
        moved = delayed[known]
        before = self.every.take(self.rows[moved])
        scale[moved], unset[moved] = hypothetical.from_used(before, kind[moved], ran[moved], change)
        others = delayed[~known]
        if len(others):
            wanted = dataclasses.replace(
                settings,
                recipe="delayed",
                margin=margin if settings.margin is None else settings.margin,
                history=settings.history or length or 1024,
            )
            # most_recent reads one entry, however long the history is
            self.wanted_history = settings.history or (
                1 if settings.algorithm == "most_recent" else wanted.history or 0
            )
            places = self.rows[others]
            found = hypothetical.from_history(self.every, updates, places, kind[others], wanted)
            scale[others], used[others], unset[others] = found
        return _Scales(scale, used, unset)

    def _count_unset(self, rows: Rows, unset: Places, known: Places) -> None:
        self._without("no amax of an earlier step", np.setdiff1d(rows.tensor[unset], rows.tensor[known]))

    def _tensor_wise(self, rows: Rows, known: Places, kind: Places, scale: npt.NDArray[np.float32]) -> list[Numbers]:
        """The columns of a prediction for observations `known`."""
        part, mine = self._part(self.histogram, self.of_row, self.rows[known]), rows.take(known)
        held = np.bincount(part.row, part.count, len(known)).astype(np.float64)
        found = predict(part, scale[known], kind[known], mine["amax"], mine["smallest"], _counted(mine, held))
        # A histogram of a sample of the rows stands for all of them.
        factor = np.where(held > 0, nonzero(mine) / np.maximum(held, 1), 1.0)
        self.sampled |= bool((factor > 1.001).any())
        return [column * factor for column in vars(found).values()]

    def _block_wise(self, rows: Rows, wanted: Places, recipe: Places, kind: Places) -> tuple[Places, list[Numbers]]:
        """Observations whose blocks were recorded, and the columns of their predictions."""
        if not len(wanted):
            return wanted, [np.empty(0)] * 5
        blocks, of_row, source = _histograms(self.trace, self.every, "fp8_blocks")
        layouts = np.array(self.trace.words("fp8_blocks", "layout"))[self.trace.column("fp8_blocks", "layout")[source]]
        places, columns = [], []
        power = self._power_of_two(BLOCK, self.rows)
        for place in wanted.tolist():
            here, elements = (_rows_of(column, self.rows[place]) for column in (of_row, self.of_row))
            layout = "1x32" if recipe[place] == _MX else _layout(rows.keys[int(rows.tensor[place])][1])
            mine = np.arange(here.start, here.stop)[layouts[here] == layout]
            if not len(mine):
                continue
            # Blocks are those of the whole tensor, also where the histogram is of some of its rows.
            number = blocks.count[mine]
            if rows.sampled[place]:
                share = int(rows["elements"][place]) / int(rows["tensor_elements"][place])
                number = np.ceil(number * share).astype(np.int64)
            found = predict_blocks(
                self.histogram.bin[elements],
                self.histogram.count[elements],
                blocks.bin[mine],
                number,
                SIZES[layout],
                FORMATS[int(kind[place])],
                bool(power[place]) or layout == "1x32",
            )
            places.append(place)
            columns.append((0.0, 0.0, found.flushed_lower, found.flushed_upper, found.squared_error))
        kept = np.array(places, np.int64)
        self._without("amaxes of blocks not recorded", np.setdiff1d(rows.tensor[wanted], rows.tensor[kept]))
        return kept, [np.array(column, np.float64) for column in zip(*columns, strict=True)] or [np.empty(0)] * 5

    def _part(self, histogram: Histograms, of_row: Places, rows: Places) -> Histograms:
        """The histograms of some observations, numbered anew."""
        number = np.full(len(self.every), -1)
        number[rows] = np.arange(len(rows))
        mine = number[of_row] >= 0
        return Histograms(number[of_row][mine], histogram.bin[mine], histogram.count[mine])


def _counted(rows: Rows, held: Numbers) -> Points:
    """What the casts that ran flushed, made subnormal and clipped, as points of the tensors' distributions.

    Only of one scale for the tensor, one that values can be counted with, and where the histogram has the same values.
    """
    whole, scale = nonzero(rows), rows["scale"].astype(np.float32)
    flushed, subnormal, saturated = (rows[name] for name in ("flushed", "subnormal", "saturated"))
    known = rows.isin("format", *_NAMES) & rows.isin("scaling", DELAYED, CURRENT) & (held == whole)
    known &= (flushed >= 0) & (subnormal >= 0) & (saturated >= 0) & np.isfinite(scale) & (scale >= _LEAST_SCALE)
    limit = limits(np.where(known, scale, np.float32(1)), rows.isin("format", "E5M2").astype(np.int64))
    count = np.array([flushed, flushed + subnormal, whole.astype(np.int64) - saturated])
    return Points(np.where(known, limit, np.float32(np.nan)), count)


def _rows_of(sorted_places: Places, place: int) -> slice:
    """Where `place` is in a sorted column."""
    begin, end = np.searchsorted(sorted_places, [place, place + 1]).tolist()
    return slice(begin, end)


def _layout(role: str) -> str:
    """The blocks of Transformer Engine's block scaling: squares of weights, stretches of rows of all others."""
    return "128x128" if role.rpartition(".")[2] == "weight" else "1x128"


def _histograms(trace: Trace, every: Rows, table: str) -> tuple[Histograms, Places, Places]:
    """A histogram table sorted by observation (its place among `every`) and bin, with the rows that it was made of."""
    names = [column.name for column in BY_NAME[table].columns]
    columns = {name: trace.column(table, name) for name in names}
    process = columns["process"].astype(np.int64)
    most = int(max(every["order"].max(initial=0), columns["order"].max(initial=0))) + 1
    of_every = every["process"].astype(np.int64) * most + every["order"]
    key = process * most + columns["order"]
    place = np.minimum(np.searchsorted(of_every, key), max(len(of_every) - 1, 0))
    known = of_every[place] == key if len(of_every) else np.zeros(len(key), np.bool_)
    rows = np.flatnonzero(known)
    rows = rows[np.lexsort((columns["bin"][rows], place[rows]))]
    return Histograms(place[rows], columns["bin"][rows], columns["count"][rows]), place[rows], rows


def nonzero(rows: Rows) -> Numbers:
    """Finite elements that are not zero."""
    return (rows["elements"] - np.maximum(rows["zeros"], 0) - non_finite(rows)).astype(np.float64)
