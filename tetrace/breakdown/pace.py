"""Steps whose length the GPU's clock sets, and which kernels a longer one is longer in.

Near the power cap of a GPU its clock changes from step to step, and from one run to the next. Not all kernels get longer
alike: in recordings of an H200 whose steps drifted by 2 to 10%, GEMMs grew by 1.1 to 1.4 times as many percent as the step,
elementwise kernels by 0 to 0.6 times (those of profiles/gated and profiles/attention). A run that drifts tells its own
rates; one that does not is taken to be longer in GEMMs and attention alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.attribute.vocabulary import INSPECTION_MODULE
from tetrace.breakdown.account import BUSY, IDLE

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.account import Account, Line

    Numbers = npt.NDArray[np.float64]

# Categories of kernels that take as many cycles at any clock.
_COMPUTING = ("gemm", "attention")
# A step's length is set by the clock where the GPU idles so little of it, and computes so much.
MOST_IDLE, _LEAST_COMPUTING = 0.05, 0.2
# And up to here where it is longer without a recorder, who slows the host, than with one: no waiting makes it so.
SOME_IDLE = 0.15
# Steps that scatter by this part of their length tell the rates half: kernels scatter by some tenths of a percent anyway.
_TELLS = 0.005
# Twice the standard error is what a rate may be off by.
_STANDARD_ERRORS = 2


@dataclass(frozen=True)
class Pace:
    """What a step is longer in. `rates` are ns of a category for each ns of the step, which add up to 1. By how much of a ns
    they may be off together: `scatter` by what recorded steps scatter, and `assumed` where they hardly differ and computing is
    taken to be all; `idle_off_by_ns` is what an average step may wait more, or less, where it idles for more than a little.
    `to_average_ns`, shape of `Account.ns`: what to add for steps, or phases, that are all as long as the average one."""

    rates: Mapping[str, float]
    scatter: float
    assumed: float
    to_average_ns: Numbers
    idle_off_by_ns: float = 0.0

    @property
    def off_by(self) -> float:
        """By how much of a ns the rates may be off at most."""
        return self.scatter + self.assumed


def pace(account: Account, phases: Collection[str] | None = None, length_ns: float | None = None) -> Pace | None:
    """The pace of a run's steps, or of these phases of them, which take `length_ns` without a recorder where that is known;
    None where it is not the GPU's clock that sets how long they are."""
    lines = [line if phases is None or line.phase in phases else None for line in account.lines]
    # Neither what the recorder launched nor what is waited for has a rate.
    categories = sorted({line.category for line in lines if line and line.kind == BUSY} - {INSPECTION})
    place = {name: i for i, name in enumerate(categories)}
    of_line = np.array([place.get(line.category, -1) if line and line.kind == BUSY else -1 for line in lines], np.int64)
    idles = np.array([_waits(line) for line in lines], np.bool_)
    category, frames = of_line[account.line], account.frames
    known = category >= 0
    cells = category[known] * frames + account.frame[known]
    works = np.bincount(cells, account.ns[known], len(categories) * frames).reshape(len(categories), frames)
    waits = idles[account.line]
    idle = np.bincount(account.frame[waits], account.ns[waits], frames)
    wall = works.sum(axis=0) + idle
    computes = np.isin(categories, _COMPUTING)
    computing = works[computes].sum(axis=0)
    hardly_idles = idle.sum() <= MOST_IDLE * wall.sum()
    idle_off_by = 0.0 if hardly_idles else _STANDARD_ERRORS * float(idle.std()) / math.sqrt(frames)
    is_longer = length_ns is not None and length_ns > wall.mean() + idle_off_by
    most_idle = SOME_IDLE if is_longer else MOST_IDLE
    if idle.sum() > most_idle * wall.sum() or (computing <= _LEAST_COMPUTING * wall).any():
        return None
    mean, work = works.mean(axis=1), works.sum(axis=0)
    longer, grown = wall - wall.mean(), works - mean[:, None]
    # Of what kernels are longer together: a step that waits longer tells nothing of them.
    slower = work - work.mean()
    assumed = np.where(computes, mean, 0.0) / computing.mean()
    told, doubt = slower @ slower, frames * (_TELLS * work.mean()) ** 2
    rates = (grown @ slower + doubt * assumed) / (told + doubt)
    scatter = np.sqrt(((grown - np.outer(rates, slower)) ** 2).sum(axis=1) / max(frames - 2, 1))
    # Where it is assumed: as if all kernels were longer alike. Steps that are longer by waiting tell no more of these than that.
    errors = _STANDARD_ERRORS * scatter.sum() / np.sqrt(told + doubt)
    waited = np.clip((longer - slower) @ longer / (longer @ longer + doubt), 0, 1)
    unseen = doubt / (told + doubt) * (1 - computing.sum() / wall.sum())
    # Of steps that idle more, waiting would be taken for work.
    factor = -np.outer(rates, longer if hardly_idles else np.zeros(frames)) / np.where(works > 0, works, np.inf)
    change = np.zeros(len(account.ns))
    change[known] = account.ns[known] * factor.reshape(-1)[cells]
    by_category = dict(zip(categories, rates.tolist(), strict=True))
    return Pace(by_category, float(errors + waited), float(unseen), change, idle_off_by)


def _waits(line: Line | None) -> bool:
    """Whether the GPU waits, and for something that is not the recorder's: no step that is timed alone waits for that."""
    return line is not None and line.kind == IDLE and line.module != INSPECTION_MODULE
