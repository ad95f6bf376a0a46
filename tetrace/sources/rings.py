"""Files of the ranges of threads (csrc/ranges/ring.h) as parts of table `ranges`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.nsys_export import distinct_words
from tetrace.sources.sites import Process, Sites, words
from tetrace.trace.arrays import text_column
from tetrace.trace.schema import PUSH_POP, START_END

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

# Which rows of a ring belong to the recording: told their columns and which of them are steps.
Choice = Callable[[Mapping[str, Any], "Mask"], "Mask"]

OPEN_NS = np.iinfo(np.int64).max


def read_ring(path: Path) -> dict[str, Any]:
    """What `tetrace._C.read_ring` says of a file; ranges that were never closed end at `OPEN_NS`."""
    from tetrace import _C

    rows = _C.read_ring(str(path))
    rows["end_ns"] = np.where(rows["end_ns"] > 0, rows["end_ns"], OPEN_NS)
    return rows


def global_tid(key: int, tid: int) -> int:
    """The 64-bit id of a thread of a program (`Process.key`), as `tetrace.sources.rows` takes it."""
    return key << 24 | (tid & 0xFFFFFF)


def is_step(process: Process, rows: Mapping[str, Any]) -> Mask:
    """Whether each row of a ring is a step, shape (rows,)."""
    return np.isin(rows["site"], [int(site["site"]) for site in process.sites if site.get("kind") == "step"])


def part_of_sites(process: Process, rows: Mapping[str, Any], sites: Sites, choice: Choice) -> dict[str, Any] | None:
    """The ranges of tetrace's instrumentation in a ring; None when none of them is chosen."""
    kinds = {int(site["site"]): site for site in process.sites}
    steps = is_step(process, rows)
    known = np.isin(rows["site"], list(kinds)) & (rows["start_ns"] > 0) & (int(rows["thread"]) >= 0)
    chosen = np.flatnonzero(known & choice(rows, steps))
    if not len(chosen):
        return None
    local = rows["site"][chosen].astype(np.int64)
    numbers, codes = np.unique(local, return_inverse=True)
    name = words([str(kinds[number]["name"]) for number in numbers.tolist()])
    by_row = text_column(name.indices.to_numpy()[codes].astype(np.int32), name.dictionary.to_pylist())
    site, step = sites.rows_of(process.key, local).astype(np.int32), rows["step"][chosen].astype(np.int64)
    return {**_columns(process.key, rows, chosen), "sequence": step, "site": site, "name": by_row}


def part_of_texts(
    key: int, rows: Mapping[str, Any], name_of: Callable[[int], str], choice: Choice
) -> dict[str, Any] | None:
    """NVTX ranges in a ring, whose sites are numbers that `name_of` knows; None when none of them is chosen."""
    no_steps = np.zeros(len(rows["site"]), np.bool_)
    chosen = np.flatnonzero(choice(rows, no_steps) & (rows["start_ns"] > 0))
    if not len(chosen) or int(rows["thread"]) < 0:
        return None
    return {
        **_columns(key, rows, chosen),
        "sequence": rows["value"][chosen],
        "name": _names(rows["site"][chosen], name_of),
    }


def _names(numbers: npt.NDArray[np.int32], name_of: Callable[[int], str]) -> pa.DictionaryArray:
    from tetrace import _C

    used, codes = _C.distinct(numbers.view(np.uint32).astype(np.int64))
    return distinct_words(codes, [name_of(number) for number in used.tolist()])


def _columns(key: int, rows: Mapping[str, Any], chosen: Integers) -> dict[str, Any]:
    crossing = (rows["depth"][chosen] < 0).astype(np.int32)
    return {
        "global_tid": np.full(len(chosen), global_tid(key, int(rows["thread"])), np.int64),
        "start_ns": rows["start_ns"][chosen],
        "end_ns": rows["end_ns"][chosen],
        "kind": text_column(crossing, [PUSH_POP, START_END]),
    }
