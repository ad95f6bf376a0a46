"""The host's side of a trace: ranges as a forest per thread, and what each range means for the work under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute import sites, vocabulary
from tetrace.attribute.vocabulary import Meaning
from tetrace.trace.schema import OPERATOR
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

# Clocks of recorders are good to a microsecond: a child that outlives its parent by less is still inside it.
_JITTER_NS = 1_000


@dataclass(frozen=True)
class Host:
    """Ranges in the order (thread, start, -end), shape (ranges,), and their parents as rows of the same order.

    `word` is the code of a range's name in `words`, `meanings` has one entry a word, `row` the range's row in the trace,
    `site` its row in table `sites` (-1 none).
    """

    thread: Codes
    process: Codes
    start: Times
    end: Times
    parent: Codes
    word: Codes
    words: list[str]
    meanings: list[Meaning]
    sequence: Times
    operator: Mask
    row: Codes
    site: Codes

    def __len__(self) -> int:
        return len(self.start)

    def say(self, what: str, default: int | bool = -1) -> Codes:
        """An integer attribute of the meaning of each range, shape (ranges,); None counts as `default`."""
        said = [getattr(meaning, what) for meaning in self.meanings]
        return np.array([default if value is None else value for value in said], np.int32)[self.word]

    def says(self, what: str) -> Mask:
        """Whether the attribute of each range's meaning is set, shape (ranges,)."""
        return np.array([bool(getattr(meaning, what)) for meaning in self.meanings], np.bool_)[self.word]

    def is_kind(self, *kinds: str) -> Mask:
        """Whether each range has a site of one of these kinds, shape (ranges,)."""
        return np.array([meaning.kind in kinds for meaning in self.meanings] or [False], np.bool_)[self.word]

    def inherit(self, own: Codes) -> Codes:
        """`own` where it is known (>= 0), else that of the nearest range around, shape (ranges,)."""
        from tetrace import _C

        return _C.inherit(self.parent, np.ascontiguousarray(own, np.int32))

    def innermost(self, thread: Codes, time: Times) -> Codes:
        """The innermost range open at each point of a thread's time, in any order, shape (points,); -1 where none is."""
        from tetrace import _C

        order = _C.order(np.ascontiguousarray(thread), np.ascontiguousarray(time), np.ascontiguousarray(time))
        found = _C.innermost(self.thread, self.start, self.end, self.parent, thread[order], time[order])
        result = np.empty(len(found), np.int32)
        result[order] = found
        return result


def read(trace: Trace) -> Host:
    """The ranges of `trace` as a forest."""
    from tetrace import _C

    thread, start, end = (trace.column("ranges", name) for name in ("thread", "start_ns", "end_ns"))
    order = _C.order(thread, start, end)
    thread, start, end = thread[order], start[order], end[order]
    words = list(trace.words("ranges", "name"))
    meanings = [vocabulary.meaning(word) for word in words]
    word, site = trace.column("ranges", "name")[order], trace.column("ranges", "site")[order]
    if trace.rows("sites"):
        # A range with a site means what the site says: its word is one of its own behind those of the names.
        word = np.where(site >= 0, site + len(words), word).astype(np.int32)
        meanings += sites.meanings(trace)
        names = trace.words("sites", "name")
        words += [names[code] for code in trace.column("sites", "name").tolist()]
    operator = np.array([kind == OPERATOR for kind in trace.words("ranges", "kind")], np.bool_)
    return Host(
        thread=thread,
        process=trace.column("ranges", "process")[order],
        start=start,
        end=end,
        parent=_containing(_C.nest(thread, start, end), end),
        word=word,
        words=words,
        meanings=meanings,
        sequence=trace.column("ranges", "sequence")[order],
        operator=operator[trace.column("ranges", "kind")[order]],
        row=order,
        site=site,
    )


def _containing(parent: Codes, end: Times) -> Codes:
    """Parents that contain their children whole: start/end ranges may overlap without nesting."""
    parent = parent.copy()
    crossing = np.flatnonzero(parent >= 0)
    while True:
        crossing = crossing[parent[crossing] >= 0]
        crossing = crossing[end[crossing] > end[parent[crossing]] + _JITTER_NS]
        if not len(crossing):
            return parent
        parent[crossing] = parent[parent[crossing]]
