"""Runs of many steps made from one step of a real recording: repeated, each time stretched by a factor of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import Breakdown, break_down
from tetrace.sources.detect import load
from tetrace.trace.arrays import text_column
from tetrace.trace.schema import BY_NAME
from tetrace.trace.trace import Metadata, Trace, make_table

DATA = Path(__file__).parent.parent / "data"
_TIMED = ("activities", "calls", "ranges", "synchronizations", "overheads")
_STEP = 7


@cache
def one_step(name: str = "te4-fp8.sqlite") -> tuple[Trace, int, int]:
    """A recording of tests/data, with start and end of one of its steps on the host."""
    trace = load(DATA / name)
    steps = attribute(trace).steps
    return trace, int(steps.start[_STEP]), int(steps.end[_STEP])


def scattered(steps: int, seed: int, slower: float = 1.0, noise: float = 0.01) -> list[float]:
    """Factors of as many steps, with normal noise."""
    return list(slower * np.random.default_rng(seed).normal(1, noise, steps))


def run_of(factors: Sequence[float], seed: int = 0, jitter: float = 0.0) -> Breakdown:
    """The breakdown of a run with a step for each factor; GPU activities are shortened by up to the share `jitter`."""
    return break_down(attribute(repeated(factors, seed, jitter)))


def repeated(factors: Sequence[float], seed: int = 0, jitter: float = 0.0, name: str = "te4-fp8.sqlite") -> Trace:
    """The run itself, with a step more at the end, which is not counted."""
    trace, start, end = one_step(name)
    factors = [*factors, 1.0]
    lengths = np.rint((end - start) * np.asarray(factors)).astype(np.int64)
    begins = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    random = np.random.default_rng(seed)
    called = _inside(trace, "calls", start, end)
    launched = np.isin(trace.column("activities", "correlation"), trace.column("calls", "correlation")[called])
    tables = dict(trace.tables)
    for table in _TIMED:
        if trace.has(table):
            rows = np.flatnonzero(launched) if table == "activities" else _inside(trace, table, start, end)
            tables[table] = _copies(trace, table, rows, start, begins, factors, random, jitter)
    return Trace(Metadata(source="made", source_format="test"), tables)


def _inside(trace: Trace, table: str, start: int, end: int) -> npt.NDArray[np.int64]:
    times = trace.column(table, "start_ns")
    return np.flatnonzero((times >= start) & (times < end))


def _copies(
    trace: Trace,
    table: str,
    rows: npt.NDArray[np.int64],
    start: int,
    begins: npt.NDArray[np.int64],
    factors: Sequence[float],
    random: np.random.Generator,
    jitter: float,
) -> Any:
    copies, size = len(factors), len(rows)
    factor, begin = np.repeat(factors, size), np.repeat(begins, size)
    columns: dict[str, Any] = {}
    for column in BY_NAME[table].columns:
        values = np.tile(trace.column(table, column.name)[rows], copies)
        if column.name in ("start_ns", "end_ns"):
            values = begin + np.rint((values - start) * factor).astype(np.int64)
        elif column.name == "correlation":
            values = np.where(values >= 0, values + np.repeat(np.arange(copies) * 1_000_000, size), values)
        columns[column.name] = values
    if table == "activities" and jitter:
        length = columns["end_ns"] - columns["start_ns"]
        columns["end_ns"] = columns["end_ns"] - (length * jitter * random.random(len(length))).astype(np.int64)
    order = np.lexsort((columns["start_ns"], columns["process"]))
    made = {name: values[order] for name, values in columns.items()}
    for column in BY_NAME[table].columns:
        if column.dtype == "text":
            made[column.name] = text_column(made[column.name].astype(np.int32), trace.words(table, column.name))
    return make_table(table, made, len(order))
