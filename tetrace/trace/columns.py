"""What a table and a column of a trace are: the words that every declaration of them is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column. `dtype` is int32, int64, float64 or text (dictionary of int32 to string).

    `missing` stands for "not recorded" in a column of whole numbers; of float64 it is NaN, always.
    """

    name: str
    dtype: str
    unit: str
    sentence: str
    missing: float | None = None


@dataclass(frozen=True)
class Table:
    """One table; `by_process` tables are stored one file a process, so that ranks can be read one by one."""

    name: str
    sentence: str
    columns: tuple[Column, ...]
    by_process: bool = True

    def arrow(self) -> pa.Schema:
        """The Arrow schema of this table."""
        import pyarrow as pa

        text = pa.dictionary(pa.int32(), pa.string())
        types = {"int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64(), "text": text}
        return pa.schema([pa.field(c.name, types[c.dtype], nullable=False) for c in self.columns])

    def column(self, name: str) -> Column:
        """The column called `name`."""
        return next(c for c in self.columns if c.name == name)


PROCESS = Column("process", "int32", "index", "Row of `processes` that this belongs to.")
