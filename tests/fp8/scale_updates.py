"""Amaxes of some updates of delayed scaling, the scales that its update makes of them, and those that tetrace's model makes of
a recording with the same amaxes. What does the update is given: plain Python, or Transformer Engine on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from tests.fp8.made import Made
from tetrace.fp8.hypothetical_scales import from_history
from tetrace.fp8.observations import CHECK, RECOMPUTE, scales, tensors
from tetrace.fp8.settings import Settings
from tetrace.trace.trace import Trace

Singles = npt.NDArray[np.float32]
LARGEST = {"E4M3": 448.0, "E5M2": 57344.0}
RAN = ("max", 16, 0)


class Recipe(NamedTuple):
    """How scales are made."""

    algorithm: str
    length: int
    margin: int
    format: str = "E4M3"

    def __str__(self) -> str:
        return f"{self.format}, {self.algorithm} of {self.length}, margin {self.margin}"


RECIPES = [
    Recipe(algorithm, length, margin, number_format)
    for number_format in LARGEST
    for algorithm in ("max", "most_recent")
    for length in (1, 4, 16)
    for margin in (0, 1, 2)
]


class Updates(Protocol):
    """Histories and scales of some tensors."""

    def update(self, amax: Singles) -> Singles:
        """The scales after an update with these amaxes."""


class Plain:
    """What Transformer Engine documents of its update, tensor by tensor: an amax of 0 is no entry, one that is not finite
    leaves the scale, and a scale that is not finite becomes the largest number."""

    def __init__(self, number: int, recipe: Recipe) -> None:
        self._entries: list[list[np.float32]] = [[] for _ in range(number)]
        self._scale, self._recipe = np.ones(number, np.float32), recipe

    def update(self, amax: Singles) -> Singles:
        recipe = self._recipe
        largest = np.float32(LARGEST[recipe.format] / 2**recipe.margin)
        for place, newest in enumerate(amax):
            entries = self._entries[place]
            if newest == 0:
                continue
            entries.append(newest)
            used = max(entries[-recipe.length :]) if recipe.algorithm == "max" else newest
            if np.isfinite(used):
                with np.errstate(over="ignore"):
                    self._scale[place] = min(largest / used, np.finfo(np.float32).max)
        return self._scale.copy()


Begin = Callable[[int, Recipe], Updates]


def amaxes(steps: int = 40, batches: int = 3, number: int = 6) -> Singles:
    """Amaxes of updates, shape (steps, micro-batches, tensors): over many binades, some 0, some infinite, some so small that
    no number is their scale."""
    random = np.random.default_rng(7)
    found = np.exp2(random.normal(0, 6, (steps, batches, number))).astype(np.float32)
    found[random.random(found.shape) < 0.15] = 0
    found[random.random(found.shape) < 0.02] = np.inf
    found[random.random(found.shape) < 0.02] = 1e-37
    found[:, :, -1] = np.where(np.arange(steps)[:, None] < 2, 0, found[:, :, -1])
    return found


def in_use(found: Sequence[Singles], updates: Updates, number: int) -> Singles:
    """The scales that casts use before each of the updates, shape (updates, tensors)."""
    scale, used = np.ones(number, np.float32), []
    for amax in found:
        used.append(scale)
        scale = updates.update(amax)
    return np.array(used)


def recording(found: Singles, ran: Singles, scaling: str, number_format: str) -> Trace:
    """A recording of casts with these amaxes, which used the scales `ran`: forward and backward of each micro-batch."""
    run = Made()
    for step, batches in enumerate(found):
        for batch, of_batch in enumerate(batches):
            used = ran[step * len(batches) + batch]
            for place, amax in enumerate(of_batch):
                name, scale = f"{place}.input", float(used[place])
                run.tensor(step, name, [amax, 0.5 * amax], scale=scale, scaling=scaling, format=number_format)
                if scaling == "delayed":
                    run.update(step, name, scale, scale, amax=float(amax), format=number_format, history_length=16)
            run.tensor(step, "0.grad_output", [1.0], scaling="current", phase="backward")
    return run.trace()


def modelled(trace: Trace, recipe: Recipe) -> dict[tuple[str, str], Singles]:
    """The scale of each observation of every tensor as tetrace's model has it, in order; 0 for those that hold nothing that
    could be cast, NaN where no amax came before."""
    every = tensors(trace)
    usable = ~every.isin("source", CHECK, "quantized") & ~every.isin("phase", RECOMPUTE)
    good = np.flatnonzero(usable & (every["amax"] > 0) & (every["infs"] == 0))
    kind = np.full(len(good), list(LARGEST).index(recipe.format))
    settings = Settings("delayed", history=recipe.length, margin=recipe.margin, algorithm=recipe.algorithm)
    scale = np.zeros(len(every), np.float32)
    scale[good] = from_history(every, scales(trace), good, kind, settings)[0]
    return {key: scale[(every.tensor == place) & usable] for place, key in enumerate(every.keys)}


def compare(found: Sequence[Singles] | Singles, model: Singles, expected: Singles) -> int:
    """Holds the model of one tensor's scales against those in use, to the bit; how many were compared. Where no amax came
    before, the scale is the 1 that it began with."""
    amax = np.array(found)
    compared = np.isfinite(amax) & (amax > 0)
    np.testing.assert_array_equal(np.where(np.isnan(model), np.float32(1), model)[compared], expected[compared])
    return int(compared.sum())


def check(recipe: Recipe, scaling: str, begin: Begin) -> None:
    """Compares the model with updates that `begin` does, in a recording of another recipe."""
    found = amaxes()
    steps, batches, number = found.shape
    flat = found.reshape(steps * batches, number)
    ran = in_use(flat, begin(number, Recipe(*RAN, recipe.format)), number)
    expected = in_use(flat, begin(number, recipe), number)
    model = modelled(recording(found, ran, scaling, recipe.format), recipe)
    total = sum(compare(flat[:, place], model[str(place), "input"], expected[:, place]) for place in range(number))
    assert total > 0.7 * flat.size
