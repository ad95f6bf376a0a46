"""What tetrace's instrumentation left beside a recording: sites of ranges, modules, attention, memory, how it ended.

A site is a distinct meaning of a range (module and phase, quantize call, GEMM, ...), written once; a range names its
site by a number in its NVTX payload or in its ring. Sites are numbered by program: a process may run several (exec), and
each leaves a folder of its own, as does another process that gets the number of one that is gone. Rows of rings are
matched by folder. Ranges of NVTX say their pid only, so each match is checked by its text: of several programs, the first
whose site has that text counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.nsys_export import distinct_words
from tetrace.trace.arrays import numpy_of
from tetrace.trace.schema import BY_NAME
from tetrace.trace.trace import make_table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

_LOCAL_BITS = 32
_PID_BITS = 0xFFFFFF
_OWN_COLUMNS = {column.name for column in BY_NAME["sites"].columns} - {"process", "local", "detail"}


@dataclass(frozen=True)
class Process:
    """What one instrumented process left in its folder."""

    folder: Path
    facts: Mapping[str, Any]
    sites: Sequence[Mapping[str, Any]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process id as the process saw it; -1 when it is not known."""
        return int(self.facts.get("pid", -1))

    @property
    def key(self) -> int:
        """The pid, and above its 24 bits the number of the program, from 0 on, among those of this pid."""
        number = self.folder.name.split("-")[2:3]
        return self.pid if self.pid < 0 or not number or not number[0].isdecimal() else int(number[0]) << 24 | self.pid

    @property
    def label(self) -> str:
        """What to call it in a sentence: its pid, and which program it was if there were several."""
        number = self.key >> 24
        return f"process {self.pid}" + (f" (its program {number + 1})" if number > 0 else "")

    @cached_property
    def rings(self) -> list[Path]:
        """Files of ranges, one a thread."""
        return sorted(self.folder.glob("ranges-*.bin"))

    @cached_property
    def nvtx_rings(self) -> list[Path]:
        """Files of the NVTX ranges that tetrace's collector saw, one a thread."""
        return sorted(self.folder.glob("nvtx-*.bin"))

    @property
    def is_python(self) -> bool:
        """Whether it was instrumented: other programs leave only what the collector's library writes."""
        return (self.folder / "process.json").exists()

    def document(self, name: str) -> Mapping[str, Any]:
        """A JSON file of the folder; empty when it was not written or is cut off."""
        return _document(self.folder / name)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A file of JSON lines; a line that a crash cut off is left out."""
        return list(_lines(self.folder / name))


def processes_of(folder: Path) -> list[Process]:
    """The instrumented processes that left something in `folder`, by pid, and the programs of each in their order."""
    found = [
        Process(one, {"pid": _pid(one), **_document(one / "process.json")}, list(_lines(one / "sites.jsonl")))
        for one in folder.glob("process-*")
        if one.is_dir()
    ]
    return sorted(found, key=lambda process: (process.pid, process.key))


def _pid(folder: Path) -> int:
    number = folder.name.split("-")[1]
    return int(number) if number.isdecimal() else -1


def _document(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        # Absent, or cut off by a crash: the ranges are still worth reading.
        return {}
    return found if isinstance(found, dict) else {}


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if isinstance(found, dict):
            yield found


class Sites:
    """The sites of several processes as rows of one table, and which of them a range means."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self.processes = processes
        self._rows: list[tuple[int, Mapping[str, Any]]] = []
        self._first: dict[int, npt.NDArray[np.int32]] = {}
        for process in processes:
            numbers = [int(site.get("site", -1)) for site in process.sites]
            row_of = np.full(max(numbers, default=-1) + 1, -1, np.int32)
            for number, site in zip(numbers, process.sites, strict=True):
                if number >= 0:
                    row_of[number] = len(self._rows)
                    self._rows.append((process.key, site))
            self._first[process.key] = row_of

    def __len__(self) -> int:
        return len(self._rows)

    def match(self, pid: Integers, payload: Integers, names: pa.DictionaryArray) -> tuple[Any, Integers]:
        """Row of the table for each range, -1 where it has no site, and its step (-1 unknown); shape (ranges,)."""
        codes = numpy_of(names)
        code_of = {word: code for code, word in enumerate(names.dictionary.to_pylist())}
        expected = np.array([code_of.get(str(site.get("name", "")), -2) for _, site in self._rows] or [-2], np.int64)
        site = np.full(len(codes), -1, np.int32)
        local = np.where(payload >= 0, payload & ((1 << _LOCAL_BITS) - 1), -1)
        for key, row_of in self._first.items():
            mine = np.flatnonzero((pid == key & _PID_BITS) & (local >= 0) & (local < len(row_of)) & (site < 0))
            rows = row_of[local[mine]]
            site[mine] = np.where((rows >= 0) & (expected[rows] == codes[mine]), rows, -1)
        return site, np.where(site >= 0, (payload >> _LOCAL_BITS) - 1, -1)

    def rows_of(self, key: int, local: Integers) -> Integers:
        """Rows of the table for numbers of sites in the program `key`, shape as given; -1 where there is no such site."""
        row_of = self._first.get(key, np.empty(0, np.int32))
        known = (local >= 0) & (local < len(row_of))
        found = np.full(len(local), -1, np.int64)
        found[known] = row_of[local[known]]
        return found

    def kind(self, row: int) -> str:
        """The kind of the site in a row of the table."""
        return str(self._rows[row][1].get("kind", ""))

    def names(self, rows: Integers) -> pa.DictionaryArray:
        """Texts of the ranges of these sites, shape (rows,)."""
        return distinct_words(rows.astype(np.int32), [str(site.get("name", "")) for _, site in self._rows])

    def table(self, index_of: Mapping[int, int]) -> pa.Table:
        """The table `sites`; `index_of` gives the row of `processes` by the key of a program."""
        rows = [_worded(site) for _, site in self._rows]
        columns: dict[str, Any] = {
            "process": np.array([index_of.get(key, -1) for key, _ in self._rows], np.int32),
            "local": np.array([int(site["site"]) for site in rows], np.int32),
            "detail": words([_detail(site) for site in rows]),
        }
        for name in _OWN_COLUMNS:
            columns[name] = words([_text(site.get(name, "")) for site in rows])
        return make_table("sites", columns, len(rows))


def _worded(site: Mapping[str, Any]) -> dict[str, Any]:
    """A site with the table's columns: GEMMs and scale updates say the same in attributes of their own."""
    if site.get("kind") == "gemm":
        formats = dict.fromkeys(str(site.get(name) or "") for name in ("a_format", "b_format"))
        said = {"format": "×".join(formats), "dtype": site.get("out_dtype", "")}
        if all(isinstance(site.get(name), int) for name in "mnk"):
            said["shape"] = f"{site['m']}x{site['n']}x{site['k']}"
        return {**said, **site}
    if site.get("kind") == "scale_update":
        return {**site, "phase": site.get("phase") or site.get("direction", "")}
    return dict(site)


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


def _detail(site: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in site.items() if name not in _OWN_COLUMNS and name != "site"}
    return json.dumps(rest, sort_keys=True) if rest else ""


def words(values: Sequence[str]) -> pa.DictionaryArray:
    """Texts of shape (rows,) as a text column."""
    return distinct_words(np.arange(len(values), dtype=np.int32), list(values) or [""])
