"""From rows that look bad to problems: one for each tensor, with its steps, its ranks and its worst row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8.observations import DELAYED, Rows, groups, processes, scales, starts_of, tensor_name, tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.trace.trace import Trace

    Mask = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.float64]

LEVELS = ("critical", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """One problem of one tensor, or of a recipe; or one that `tensors` have in some step, of which the first, or the worst, is
    named.

    `number` is its size in `unit`; `ranks` are those that have it, empty where there is one process; `steps` is how many
    steps from the first to the last have it.
    """

    kind: str
    level: str
    title: str
    module: str
    role: str
    ranks: str
    first_step: int
    last_step: int
    steps: int
    number: float
    unit: str
    evidence: str
    advice: str
    tensors: int = 1

    @property
    def name(self) -> str:
        """Module and role of the tensor; empty where the problem is none of a tensor."""
        return tensor_name(self.module, self.role)


class Recorded:
    """The FP8 tables of a trace, as the checks look at them."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.rows = tensors(trace)
        self.ranks = processes(trace)

    @cached_property
    def updates(self) -> Rows:
        """Updates of delayed scaling: by process and tensor, in the order in which they came."""
        rows = scales(self.trace)
        return rows.take(np.lexsort((rows["step"], rows.tensor, rows["process"])))

    @cached_property
    def unset(self) -> Mask:
        """Observations of delayed scaling before the first update: with a scale of 1 that was nothing else before, and
        is later."""
        rows = self.rows
        order = np.lexsort((rows["order"], rows.tensor, rows["process"]))
        other = (rows["scale"][order] != 1.0).astype(np.int64)
        begins = starts_of(rows["process"][order], rows.tensor[order])
        if not len(begins):
            return np.zeros(0, np.bool_)
        lengths = np.diff(np.append(begins, len(order)))
        seen, whole = np.cumsum(other), np.add.reduceat(other, begins)
        first = np.repeat(seen[begins] - other[begins], lengths)
        found = np.zeros(len(order), np.bool_)
        found[order] = (seen == first) & (np.repeat(whole, lengths) > 0)
        return found & rows.isin("scaling", DELAYED)


@dataclass(frozen=True)
class Flag:
    """A tensor with rows that look bad; `row` is the worst of them."""

    module: str
    role: str
    ranks: str
    row: int
    number: float
    first_step: int
    last_step: int
    steps: int

    def problem(self, **said: Any) -> Problem:
        """The problem that this is, with its kind, level, title, unit, evidence and advice."""
        own = {
            name: getattr(self, name)
            for name in ("module", "role", "ranks", "first_step", "last_step", "steps", "number")
        }
        return Problem(**{**own, **said})


def flags(recorded: Recorded, rows: Rows, bad: Mask, number: Numbers) -> Iterator[Flag]:
    """One flag for each tensor that has a bad row, in the order of their first ones; its worst row is that of the largest
    `number`."""
    places = np.flatnonzero(bad)
    places = places[np.argsort(rows.tensor[places], kind="stable")]
    for mine in sorted((places[begin:end] for begin, end in groups(rows.tensor[places])), key=lambda own: int(own[0])):
        worst = int(mine[np.argmax(number[mine])])
        steps = np.unique(rows["step"][mine])
        module, role = rows.keys[int(rows.tensor[worst])]
        ranks = rank_words(recorded, np.unique(rows["process"][mine]).tolist())
        yield Flag(module, role, ranks, worst, float(number[worst]), int(steps[0]), int(steps[-1]), len(steps))


def rank_words(recorded: Recorded, found: list[int]) -> str:
    """Which processes, in few words; empty where there is only one."""
    if len(recorded.ranks) < 2:
        return ""
    if len(found) == len(recorded.ranks):
        return f"all {len(found)} ranks"
    words = [recorded.ranks.get(one, f"#{one}") for one in found]
    return ", ".join(words if len(words) <= 3 else [*words[:2], f"{len(words) - 2} more"])


def share_words(share: float) -> str:
    """A share as a percentage that does not round to nothing: `12.5%`, `0.004%`."""
    if not share:
        return "0"
    if share >= 0.01:
        return f"{100 * share:.1f}%"
    return f"{100 * share:.2g}%" if share >= 1e-6 else "<0.0001%"
