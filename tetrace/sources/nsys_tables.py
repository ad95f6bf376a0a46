"""Raw tables of a Nsight Systems export, from SQLite or from a folder of Parquet files, read column by column.

Both readers answer with the same types whatever the file stores: integers as int64 with a value for NULL,
text as bytes. Columns differ between releases of Nsight Systems: ask `columns` first.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from tetrace.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# Large enough that the cost of a batch is small, small enough that a table never lies twice in memory.
_BATCH_ROWS = 65_536
_ROWS_WORTH_A_THREAD = 200_000


class RawTables(Protocol):
    """What an export offers: which columns there are, and their values."""

    def columns(self, table: str) -> frozenset[str]:
        """Names of the columns of `table`; empty when the export does not have it."""

    def read(
        self, table: str, integers: Mapping[str, int], texts: Sequence[str] = (), only: tuple[str, Collection[int]] | None = None
    ) -> pa.Table:
        """`integers` (column to the value for NULL) as int64 and `texts` as binary, in the file's order.

        `only` keeps the rows whose integer column is one of some values. Columns must exist.
        """


class SqliteTables:
    """An export made with `--type sqlite`. The file is opened immutable: nothing is locked or written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._uri = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        try:
            with contextlib.closing(sqlite3.connect(self._uri, uri=True)) as connection:
                connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
                names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
                self._columns = {
                    name: frozenset(row[1] for row in connection.execute(f"PRAGMA table_info({_quoted(name)})")) for name in names
                }
        except sqlite3.Error as error:
            raise _unreadable(path, error) from error

    def columns(self, table: str) -> frozenset[str]:
        return self._columns.get(table, frozenset())

    def read(
        self, table: str, integers: Mapping[str, int], texts: Sequence[str] = (), only: tuple[str, Collection[int]] | None = None
    ) -> pa.Table:
        import pyarrow as pa

        # The driver infers types from the first rows, so every column is given one type that no row escapes.
        columns = [f"COALESCE(CAST({_quoted(name)} AS INTEGER), {missing}) AS {_quoted(name)}" for name, missing in integers.items()]
        columns += [f"CAST(COALESCE({_quoted(name)}, '') AS BLOB) AS {_quoted(name)}" for name in texts]
        query = f"SELECT {', '.join(columns)} FROM {_quoted(table)}"
        conditions = [f"{_quoted(only[0])} IN ({','.join(map(str, only[1])) or 'NULL'})"] if only else []
        schema = pa.schema([(name, pa.int64()) for name in integers] + [(name, pa.binary()) for name in texts])
        parts = self._rowid_parts(table)
        with ThreadPoolExecutor(len(parts)) as pool:
            run = [pool.submit(self._run, _where(query, [*conditions, *part]), schema) for part in parts]
            return pa.concat_tables([future.result() for future in run])

    def _rowid_parts(self, table: str) -> list[list[str]]:
        """Conditions that cut the table in as many pieces as there are cores to read them."""
        try:
            with contextlib.closing(sqlite3.connect(self._uri, uri=True)) as connection:
                # One at a time each is a look at the end of the tree; together they would be a scan.
                first, last = (
                    connection.execute(f"SELECT {end}(rowid) FROM {_quoted(table)}").fetchone()[0] for end in ("min", "max")
                )
        except sqlite3.Error:
            return [[]]  # a view, or a table without rowid
        if first is None or last - first < _ROWS_WORTH_A_THREAD:
            return [[]]
        count = min(4, os.cpu_count() or 1)
        edges = [first + (last - first + 1) * i // count for i in range(count + 1)]
        return [[f"rowid >= {a}", f"rowid < {b}"] for a, b in zip(edges[:-1], edges[1:], strict=True)]

    def _run(self, query: str, schema: pa.Schema) -> pa.Table:
        import adbc_driver_manager as adbc
        import adbc_driver_sqlite
        import pyarrow as pa

        try:
            with (
                adbc_driver_sqlite.connect(self._uri) as database,
                adbc.AdbcConnection(database) as connection,
                adbc.AdbcStatement(connection) as statement,
            ):
                statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_BATCH_ROWS)})
                statement.set_sql_query(query)
                stream, _ = statement.execute_query()
                reader = pa.RecordBatchReader._import_from_c(stream.address)
                # An empty result has no types to infer: keep the batches only when there are rows.
                batches = [batch for batch in reader if batch.num_rows]
        except (adbc.Error, pa.ArrowException, OSError) as error:
            raise _unreadable(self._path, error) from error
        return pa.Table.from_batches(batches).cast(schema) if batches else schema.empty_table()


class ParquetTables:
    """An export made with `--type parquetdir`: one file a table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = {file.stem: file for file in path.glob("*.parquet")}

    def columns(self, table: str) -> frozenset[str]:
        if table not in self._files:
            return frozenset()
        return frozenset(self._guard(table, lambda pq: pq.read_schema(self._files[table])).names)

    def read(
        self, table: str, integers: Mapping[str, int], texts: Sequence[str] = (), only: tuple[str, Collection[int]] | None = None
    ) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        def columns(pq: Any) -> pa.Table:
            rows = pq.read_table(self._files[table], columns=[*integers, *texts])
            if only:
                kept = pc.is_in(rows.column(only[0]).cast(pa.int64()), pa.array(list(only[1]), pa.int64()))
                rows = rows.filter(kept)
            arrays = [pc.fill_null(rows.column(name).cast(pa.int64(), safe=False), missing) for name, missing in integers.items()]
            arrays += [pc.fill_null(_plain(rows.column(name)).cast(pa.binary()), b"") for name in texts]
            return pa.table(arrays, names=[*integers, *texts])

        return self._guard(table, columns)

    def _guard(self, table: str, action: Callable[[Any], Any]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return action(pq)
        except (pa.ArrowException, OSError) as error:
            raise _unreadable(self._files[table], error) from error


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def integers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Column `name` of a raw table as an array of shape (rows,)."""
    return table.column(name).to_numpy()  # type: ignore[no-any-return]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _where(query: str, conditions: Sequence[str]) -> str:
    return f"{query} WHERE {' AND '.join(conditions)}" if conditions else query


def _unreadable(path: Path, error: Exception) -> InputError:
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{path}: cannot be read as a Nsight Systems export ({message}); "
        f"export the report again: nsys export --type sqlite --force-overwrite true REPORT.nsys-rep"
    )
