"""Which observations of a recording can be asked what another recipe would have done, and the answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tetrace.fp8.block_prediction import SIZES, predict_blocks
from tetrace.fp8.hypothetical_casts import MX, OF_BLOCKS, Casts, casts
from tetrace.fp8.hypothetical_scales import begins
from tetrace.fp8.observations import (
    BLOCK,
    CURRENT,
    DELAYED,
    RECOMPUTE,
    WHOLE,
    Rows,
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
        cast = casts(self.every, self.updates, self.rows, self.settings, self.powers)
        self.wanted_history = cast.wanted_history
        self.first_step = self._first_step(rows, cast)
        has_scale, of_tensor = np.isfinite(cast.scale) & (cast.scale > 0), cast.recipe < OF_BLOCKS
        known = np.flatnonzero(has_scale & of_tensor)
        self._count_unset(rows, np.flatnonzero(~has_scale & of_tensor), known)
        blocks, of_blocks = self._block_wise(rows, np.flatnonzero(~of_tensor), cast)
        of_tensors = self._tensor_wise(rows, known, cast.kind, cast.scale)
        places = np.concatenate([known, blocks])
        lower, upper, least, most, error = (np.concatenate(pair) for pair in zip(of_tensors, of_blocks, strict=True))
        names = [RECIPES[one] for one in cast.recipe[places].tolist()]
        of_scales = cast.used[places], cast.as_ran[places], cast.unset[places]
        return Predicted(self.rows[places], cast.kind[places], names, lower, upper, least, most, error, *of_scales)

    def _first_step(self, rows: Rows, cast: Casts) -> FirstStep | None:
        """What delayed scaling would lose of the tensors asked for in the first step of a run, by the first recorded one;
        None where the run's own start was recorded. Where it ran in that format and only margin or history change, its
        start is what it was."""
        without = cast.begins_anew & ~np.isin(rows.tensor, self.every.tensor[begins(self.every)])
        if not without.any():
            return None
        first = int(self.every["step"].min())
        mine = np.flatnonzero(without & (rows["step"] == first))
        of_ones = self._tensor_wise(rows, mine, cast.kind, np.ones(len(rows), np.float32))
        lost = mine[of_ones[_FLUSHED_LOWER] >= LOST * nonzero(rows)[mine]]
        return FirstStep(first, *(len(np.unique(rows.tensor[one])) for one in (without, mine, lost)))

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

    def _block_wise(self, rows: Rows, wanted: Places, cast: Casts) -> tuple[Places, list[Numbers]]:
        """Observations whose blocks were recorded, and the columns of their predictions."""
        if not len(wanted):
            return wanted, [np.empty(0)] * 5
        blocks, of_row, source = _histograms(self.trace, self.every, "fp8_blocks")
        layouts = np.array(self.trace.words("fp8_blocks", "layout"))[self.trace.column("fp8_blocks", "layout")[source]]
        places, columns = [], []
        for place in wanted.tolist():
            here, elements = (_rows_of(column, self.rows[place]) for column in (of_row, self.of_row))
            layout = "1x32" if cast.recipe[place] == MX else _layout(rows.keys[int(rows.tensor[place])][1])
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
                FORMATS[int(cast.kind[place])],
                bool(cast.power_of_two[place]) or layout == "1x32",
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
