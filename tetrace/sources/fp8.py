"""What `tetrace record --fp8` left of each process (tetrace/fp8/recorded.py), as the FP8 tables of a trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8 import recorded, rows
from tetrace.sources.sites import Process, processes_of, words
from tetrace.trace.arrays import numpy_of, taken
from tetrace.trace.trace import Metadata, Trace, make_table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Array = npt.NDArray[Any]

_FORMATS = ("", "E4M3", "E5M2")
_LAYOUTS = ("", "1x128", "128x128", "1x32")
_SOURCES = ("input", "quantized", "check", "recomputed")
_COUNTS = ("elements", "zeros", "nans", "infs")
# What only a known format and scale give.
_OF_FORMAT = ("saturated", "flushed", "subnormal")
_SITE_TEXTS = {"module": "module", "role": "role", "phase": "phase", "operation": "call", "scaling": "scaling",
               "dtype": "dtype", "shape": "shape"}  # fmt: skip


@dataclass(frozen=True)
class _Part:
    """What one process left; `index` is its row of `processes`."""

    process: Process
    index: int
    seen: recorded.Rows
    scales: Array


def read(processes: Sequence[Process], index_of: Mapping[int, int]) -> dict[str, pa.Table]:
    """The FP8 tables of processes; those that nobody recorded are not there. `index_of` gives rows of `processes` by key."""
    found = [_read(process, index_of[process.key]) for process in processes if process.key in index_of]
    parts = sorted((part for part in found if part is not None), key=lambda part: part.index)
    if not parts:
        return {}
    tables = {"fp8_tensors": _tensors(parts)}
    if any(len(part.seen.bins) for part in parts):
        tables["fp8_histograms"] = _histograms(parts)
    if any(len(part.scales) for part in parts):
        tables["fp8_scales"] = _scales(parts)
    if any(len(part.seen.blocks) for part in parts):
        tables["fp8_blocks"] = _blocks(parts)
    return tables


def notices(processes: Sequence[Process]) -> tuple[str, ...]:
    """That FP8 rows of processes are of another version of tetrace, where they are."""
    files = (process.folder / recorded.ROWS_FILE for process in processes)
    return (recorded.UNREADABLE,) if any(map(recorded.is_other_version, files)) else ()


def read_folder(folder: Path) -> Trace:
    """The FP8 tables of the process that left a folder in `folder`."""
    processes = processes_of(folder)[:1]
    pids = np.array([process.pid for process in processes], np.int64)
    described = {
        "process": np.arange(len(pids), dtype=np.int32),
        "global_id": pids << 24,
        "pid": pids,
        "name": words(["python"] * len(pids)),
    }
    tables = {
        "processes": make_table("processes", described, len(pids)),
        **read(processes, {process.key: row for row, process in enumerate(processes)}),
    }
    said = [str(text) for process in processes for text in process.facts.get("notices", [])]
    return Trace(Metadata("", "tetrace watch", notices=(*notices(processes), *said)), tables)


def _read(process: Process, index: int) -> _Part | None:
    folder = process.folder
    rows_file = folder / recorded.ROWS_FILE
    if not rows_file.exists() or recorded.is_other_version(rows_file):
        return None
    seen = recorded.read_rows(rows_file)
    return _Part(process, index, _in_order(seen), recorded.read_scales(folder / recorded.SCALES_FILE))


def _in_order(seen: recorded.Rows) -> recorded.Rows:
    """Sorted by order: several devices, or a device and the host, are written one after the other."""
    by_order = [part[np.argsort(part["order"], kind="stable")] for part in (seen.rows, seen.bins, seen.blocks)]
    return recorded.Rows(*by_order)


def _tensors(parts: Sequence[_Part]) -> pa.Table:
    seen = np.concatenate([part.seen.rows for part in parts])
    texts = _Texts([(part.process, part.seen.rows["site"]) for part in parts])
    columns: dict[str, Any] = {name: texts.column(said) for name, said in _SITE_TEXTS.items()}
    columns |= {name: seen[name].astype(np.int64) for name in _COUNTS}
    columns |= _by_format(seen)
    finite = (seen["elements"] - seen["nans"] - seen["infs"]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        columns |= {"mean": seen["sum"] / finite, "mean_square": seen["square_sum"] / finite}
    columns |= {
        "process": _process(parts, [len(part.seen.rows) for part in parts]),
        "step": seen["step"],
        "order": seen["order"],
        "tensor_elements": seen["whole"].astype(np.int64),
        "source": _sources(seen, texts),
        "format": _words_of((seen["flags"] >> rows.FORMAT_SHIFT) & 0xFF, _FORMATS, texts.column("format")),
        "amax": seen["amax"],
        "smallest": seen["smallest"],
    }
    return make_table("fp8_tensors", columns, len(seen))


def _by_format(seen: Array) -> dict[str, Array]:
    """Counts and scales, missing where no format, or no scale, was known."""
    known = (seen["flags"] & rows.FORMAT_KNOWN) != 0
    codes = (seen["flags"] & rows.QUANTIZED) != 0
    found = {name: np.where(known, seen[name].astype(np.int64), -1) for name in _OF_FORMAT}
    # What became zero, and how far off the others are, codes do not say.
    found["flushed"] = np.where(codes, -1, found["flushed"])
    found["squared_error"] = np.where(known & ~codes, seen["squared_error"], np.nan)
    scales = ("scale", "scale_min", "scale_max")
    return found | {name: np.where(seen[name] != 0, seen[name].astype(np.float64), np.nan) for name in scales}


def _sources(seen: Array, texts: _Texts) -> Any:
    """`input`, `quantized`, `check` or `recomputed`: the site says the latter two, codes have their flag."""
    said = texts.column("source")
    of_site = np.array([_SOURCES.index(name) if name in _SOURCES[2:] else 0 for name in said.dictionary.to_pylist()])
    told = of_site[numpy_of(said)]
    codes = np.where(told > 0, told, (seen["flags"] & rows.QUANTIZED) != 0)
    return taken(words(list(_SOURCES)), codes.astype(np.int64))


def _words_of(codes: Array, names: Sequence[str], otherwise: Any) -> Any:
    """The word of each code; where that is empty, that of `otherwise`."""
    others = otherwise.dictionary.to_pylist()
    known = [*names, *others]
    picked = np.where(codes > 0, codes, numpy_of(otherwise).astype(np.int64) + len(names))
    return taken(words(known), picked.astype(np.int64))


def _histograms(parts: Sequence[_Part]) -> pa.Table:
    bins = np.concatenate([part.seen.bins for part in parts])
    columns = {name: bins[name] for name in ("order", "bin", "count")}
    columns["process"] = _process(parts, [len(part.seen.bins) for part in parts])
    return make_table("fp8_histograms", columns, len(bins))


def _blocks(parts: Sequence[_Part]) -> pa.Table:
    blocks = np.concatenate([part.seen.blocks for part in parts])
    columns = {name: blocks[name] for name in ("order", "bin", "count")}
    columns["layout"] = taken(words(_LAYOUTS), np.clip(blocks["layout"], 0, len(_LAYOUTS) - 1).astype(np.int64))
    columns["process"] = _process(parts, [len(part.seen.blocks) for part in parts])
    return make_table("fp8_blocks", columns, len(blocks))


def _scales(parts: Sequence[_Part]) -> pa.Table:
    by_step = [part.scales[np.argsort(part.scales["step"], kind="stable")] for part in parts]
    seen = np.concatenate(by_step)
    texts = _Texts([(part.process, scales["site"]) for part, scales in zip(parts, by_step, strict=True)])
    columns: dict[str, Any] = {name: texts.column(name) for name in ("direction", "module", "role", "format")}
    columns |= {name: seen[name] for name in ("step", "scale", "next_scale", "amax", "history_max")}
    columns |= {"history_length": seen["length"], "history_used": seen["used"]}
    columns["process"] = _process(parts, [len(part.scales) for part in parts])
    return make_table("fp8_scales", columns, len(seen))


def _process(parts: Sequence[_Part], sizes: Sequence[int]) -> Array:
    return np.repeat(np.array([part.index for part in parts], np.int32), sizes)


class _Texts:
    """What the sites of rows say: of several processes, one after the other."""

    def __init__(self, parts: Sequence[tuple[Process, Array]]) -> None:
        self._sites: list[Mapping[str, Any]] = []
        codes = []
        for process, numbers in parts:
            known = {int(site.get("site", -1)): site for site in process.sites}
            distinct, place = np.unique(numbers, return_inverse=True)
            codes.append(place + len(self._sites))
            self._sites += [known.get(int(number), {}) for number in distinct.tolist()]
        self._codes = np.concatenate(codes).astype(np.int64)

    def column(self, name: str) -> Any:
        """The attribute `name` of each row's site, as a text column."""
        return taken(words([str(site.get(name) or "") for site in self._sites]), self._codes)
