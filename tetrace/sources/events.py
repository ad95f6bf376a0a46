"""Times of modules that `tetrace record --collector events` left: `module-times.bin` in the folder of each process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.sites import Process, words
from tetrace.trace.arrays import taken
from tetrace.trace.trace import Metadata, Trace, make_table

if TYPE_CHECKING:
    import numpy.typing as npt

FILE = "module-times.bin"
# As tetrace/instrument/row_file.py writes them.
MAGIC, VERSION, HEADER_BYTES = b"TETRTIM\0", 1, 16
ROW = np.dtype([("site", "<i4"), ("step", "<i4"), ("count", "<i4"), ("skipped", "<i4"), ("stream_elapsed_ns", "<i8")])
_OTHERS = {"step": ("(step)", "all"), "optimizer": ("(optimizer)", "optimizer")}


def read(processes: Sequence[Process]) -> Trace | None:
    """The trace of what these processes measured; None where none of them was to measure anything."""
    files = [(process, process.folder / FILE) for process in processes]
    measuring = [(process, read_rows(file)) for process, file in files if file.exists()]
    # Helpers that only import torch measure nothing.
    found = [(process, rows) for process, rows in measuring if len(rows)] or measuring
    if not found:
        return None
    own = [process for process, _ in found]
    tables = {
        "processes": make_table("processes", _processes(own), len(own)),
        "devices": make_table("devices", _devices(own), len(own)),
        "module_times": _module_times(found),
    }
    return Trace(Metadata("", "tetrace recording of CUDA events", "CUDA events"), tables)


def read_rows(path: Path) -> npt.NDArray[Any]:
    """The rows of a file, shape (rows,); those that a crash left whole, and none of a file of another kind."""
    try:
        data = path.read_bytes()
    except OSError:
        return np.empty(0, ROW)
    version, row_bytes = np.frombuffer(data[8:HEADER_BYTES].ljust(8, b"\0"), "<u4").tolist()
    if data[:8] != MAGIC or version != VERSION or row_bytes != ROW.itemsize:
        return np.empty(0, ROW)
    return np.frombuffer(data, ROW, (len(data) - HEADER_BYTES) // ROW.itemsize, HEADER_BYTES)


def _processes(processes: Sequence[Process]) -> dict[str, Any]:
    pids = np.array([process.pid for process in processes], np.int64)
    return {
        "process": np.arange(len(processes), dtype=np.int32),
        "global_id": np.array([process.key << 24 for process in processes], np.int64),
        "pid": pids,
        "name": words(["python"] * len(processes)),
    }


def _devices(processes: Sequence[Process]) -> dict[str, Any]:
    gpus = [process.facts.get("gpu") or {} for process in processes]
    numbers = {"device": "device", "sm_count": "multiprocessors", "memory_bytes": "memory_bytes"}
    return {
        "process": np.arange(len(processes), dtype=np.int32),
        **{name: np.array([int(gpu.get(said, -1)) for gpu in gpus]) for name, said in numbers.items()},
        "name": words([str(gpu.get("name", "")) for gpu in gpus]),
    }


def _module_times(found: Sequence[tuple[Process, npt.NDArray[Any]]]) -> Any:
    meanings = [_meanings(process) for process, _ in found]
    said: dict[tuple[str, str], int] = {}
    codes = []
    for of_site, (_, rows) in zip(meanings, found, strict=True):
        sites, place = np.unique(rows["site"], return_inverse=True)
        numbers = [said.setdefault(of_site.get(site, ("", "")), len(said)) for site in sites.tolist()]
        codes.append(np.array(numbers, np.int64)[place])
    rows = np.concatenate([rows for _, rows in found])
    process = np.repeat(np.arange(len(found), dtype=np.int32), [len(rows) for _, rows in found])
    order = np.lexsort((rows["step"], process))
    modules, phases = (words([pair[i] for pair in said]) for i in (0, 1))
    by_row = np.concatenate(codes)[order]
    columns: dict[str, Any] = {name: rows[name][order] for name in ROW.names or () if name != "site"}
    columns |= {"process": process[order], "module": taken(modules, by_row), "phase": taken(phases, by_row)}
    return make_table("module_times", columns, len(rows))


def _meanings(process: Process) -> Mapping[int, tuple[str, str]]:
    """(module, phase) by the number of a site."""
    return {
        int(site.get("site", -1)): _OTHERS.get(
            str(site.get("kind")), (str(site.get("module", "")), str(site.get("phase", "")))
        )
        for site in process.sites
    }
