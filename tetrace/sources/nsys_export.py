"""One Nsight Systems export while it is read: its raw tables with names for the numbers in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.sources.nsys_tables import RawTables, integers
from tetrace.trace.arrays import text_column

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from tetrace.sources.sites import Sites

    Integers = npt.NDArray[np.int64]

_AGAIN = "export the report again with the nsys that recorded it"


@dataclass
class Export:
    """What one import gathers on its way: raw tables, strings by id, and the facts that become metadata."""

    raw: RawTables
    strings: Mapping[int, str]
    sites: Sites | None = None
    notices: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def read(
        self, table: str, required: Mapping[str, int], optional: Mapping[str, int] | None = None, **more: Any
    ) -> dict[str, Any] | None:
        """Integer columns of `table` as arrays, None when the table is absent; text columns as they come.

        `required` and `optional` give the value that stands for NULL, and of `optional` for an absent column.
        Raises `InputError` when a required column is missing.
        """
        present = self.raw.columns(table)
        if not present:
            return None
        missing = [name for name in required if name not in present]
        if missing:
            raise InputError(
                f"{self.raw.path}: table {table} has no column '{missing[0]}' (it has {_listed(present)}); {_AGAIN}"
            )
        wanted = {**required, **{name: value for name, value in (optional or {}).items() if name in present}}
        texts = [name for name in more.pop("texts", ()) if name in present]
        rows = self.raw.read(table, wanted, texts, **more)
        self.counts[table] = rows.num_rows
        columns: dict[str, Any] = {name: integers(rows, name) for name in wanted}
        for name, value in (optional or {}).items():
            if name not in columns:
                columns[name] = np.full(rows.num_rows, value, np.int64)
        return {**columns, **{name: rows.column(name) for name in texts}}

    def named(self, ids: Integers, rename: Callable[[str], str] = str) -> pa.DictionaryArray:
        """Ids into StringIds, shape (rows,), as a text column; two ids of one name share a word."""
        from tetrace import _C

        used, codes = _C.distinct(ids)
        words = [rename(self.strings.get(i, "(unnamed)" if i < 0 else f"(unnamed {i})")) for i in used.tolist()]
        return distinct_words(codes, words)


def open_export(raw: RawTables, sites: Sites | None = None) -> Export:
    """The export behind `raw`, its strings read; `sites` are those of instrumented processes.

    Raises `InputError` when it has no strings.
    """
    if not {"id", "value"} <= raw.columns("StringIds"):
        raise InputError(
            f"{raw.path}: no table StringIds, so nothing in it has a name; it is not a whole Nsight Systems export: "
            "export again with nsys export --type sqlite (or parquetdir) REPORT.nsys-rep"
        )
    rows = raw.read("StringIds", {"id": -1}, ["value"])
    strings = dict(zip(integers(rows, "id").tolist(), decoded(rows.column("value")), strict=True))
    return Export(raw, strings, sites)


def decoded(column: pa.ChunkedArray) -> list[str]:
    """Texts of a raw column; bytes that are not UTF-8 become U+FFFD."""
    return [value.decode("utf-8", "replace") for value in column.to_pylist()]


def distinct_words(codes: npt.NDArray[np.int32], words: list[str]) -> pa.DictionaryArray:
    """A text column of shape (rows,) from codes and their words, of which some may be the same."""
    code_of = {word: code for code, word in enumerate(dict.fromkeys(words))}
    if len(code_of) < len(words):
        codes = np.array([code_of[word] for word in words], np.int32)[codes]
    return text_column(codes, list(code_of))


def labelled(values: Integers, labels: Mapping[int, str], other: str) -> pa.DictionaryArray:
    """Numbers of an enumeration, shape (rows,), as a text column; `other` and the number where it has no label."""
    from tetrace import _C

    used, codes = _C.distinct(values)
    return text_column(codes, [labels.get(value, f"{other} {value}") for value in used.tolist()])


def constant(word: str, rows: int) -> pa.DictionaryArray:
    """A text column of one word."""
    return text_column(np.zeros(rows, np.int32), [word])


def small(values: Integers) -> npt.NDArray[np.int32]:
    """Counts and ordinals as int32, shape (rows,); what is none is -1, "not recorded"."""
    if not len(values) or (values.min() >= -1 and values.max() <= np.iinfo(np.int32).max):
        return values.astype(np.int32)
    return np.where((values < -1) | (values > np.iinfo(np.int32).max), -1, values).astype(np.int32)


def _listed(names: frozenset[str]) -> str:
    return " ".join(", ".join(sorted(names)).split())[:400]
