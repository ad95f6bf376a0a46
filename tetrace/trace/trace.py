"""A recording as a frozen value: metadata and Arrow tables. An absent table was not captured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tetrace.errors import InputError
from tetrace.trace.arrays import numbers, numpy_of, text_column
from tetrace.trace.schema import BY_NAME

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa


@dataclass(frozen=True)
class Metadata:
    """Where a trace comes from. Of the recorded process's environment only an allow-list is here.

    `source` is the file's name without its folder; `recorder` the program that recorded, with its version;
    `notices` are one-line facts that the report shows on its first screen (dropped records, open ranges);
    `graph_mode` says how CUDA graphs were recorded: `node`, `graph`, or empty when it is not known. `facts` are what
    `tetrace record` noted of the run: command, versions, variables by allow-list, how it ended, step times outside the
    window, calibration of the GPU; `unrecorded` of them are [global_id of the process, start_ns, end_ns, since_ns]:
    its recorder was off from start to end, and of what was launched from `since_ns` on some is missing already.
    """

    source: str
    source_format: str
    recorder: str = ""
    graph_mode: str = ""
    notices: tuple[str, ...] = ()
    dropped_records: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """One recording. Tables are checked against `tetrace.trace.schema` when the trace is made.

    Raises `InputError` when a table is not declared in the schema or has other columns.
    """

    metadata: Metadata
    tables: Mapping[str, pa.Table]

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            if name not in BY_NAME:
                raise InputError(
                    f"{self.metadata.source}: table '{name}' is not in this version's schema; update tetrace"
                )
            expected = BY_NAME[name].arrow()
            if not table.schema.equals(expected):
                raise InputError(
                    f"{self.metadata.source}: table '{name}' has columns {table.schema.names}, "
                    f"this version expects {expected.names}; import the original file again"
                )

    def has(self, table: str) -> bool:
        """Whether `table` was captured; an empty table was captured and holds nothing."""
        return table in self.tables

    def rows(self, table: str) -> int:
        """Rows of `table`; 0 also when it was not captured (ask `has`). `KeyError` where there is no such table."""
        if table not in BY_NAME:
            raise KeyError(table)
        return self.tables[table].num_rows if table in self.tables else 0

    def column(self, table: str, name: str) -> npt.NDArray[Any]:
        """A column of numbers as a numpy array of shape (rows,), or the codes of a text column."""
        import numpy as np

        declared = BY_NAME[table].column(name)
        if table not in self.tables:
            return np.empty(0, np.int32 if declared.dtype == "text" else declared.dtype)
        return numpy_of(self._single(table, name))

    def words(self, table: str, name: str) -> Sequence[str]:
        """The dictionary of a text column: what the codes of `column` stand for."""
        if table not in self.tables:
            return []
        return list(self._single(table, name).dictionary.to_pylist())

    def _single(self, table: str, name: str) -> Any:
        column = self.tables[table].column(name)
        if column.num_chunks != 1:
            column = column.unify_dictionaries().combine_chunks()
            return column if not hasattr(column, "num_chunks") else column.chunk(0)
        return column.chunk(0)


def make_table(name: str, columns: Mapping[str, Any], rows: int) -> pa.Table:
    """Table `name` from numpy arrays and text columns; a declared column that is not given is all missing.

    Raises `KeyError` when a column that has no `missing` value is not given.
    """
    import numpy as np
    import pyarrow as pa

    table = BY_NAME[name]
    arrays = []
    for declared, arrow_field in zip(table.columns, table.arrow(), strict=True):
        value = columns.get(declared.name)
        if value is None and declared.dtype == "text":
            value = text_column(np.zeros(rows, np.int32), [""])
        elif value is None:
            if declared.missing is None:
                raise KeyError(f"{name}.{declared.name}")
            value = np.full(rows, declared.missing, arrow_field.type.to_pandas_dtype())
        arrays.append(value if isinstance(value, pa.Array) else numbers(value, arrow_field.type))
    return pa.Table.from_arrays(arrays, schema=table.arrow())
