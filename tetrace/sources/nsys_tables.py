"""Raw tables of a Nsight Systems export, from SQLite or from a folder of Parquet files, read column by column.

Both readers answer with the same types whatever the file stores: integers as int64 with a value for NULL,
text as bytes. Columns differ between releases of Nsight Systems: ask `columns` first.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from tetrace.errors import InputError
from tetrace.trace.arrays import column_of
from tetrace.trace.arrays import numbers as whole_numbers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

# Of the file, for one row at the least: its cell's place, length and rowid, and a column.
_BYTES_OF_A_ROW = 5
# A batch holds at most 2 GiB of text; this many rows always fit.
_SMALL_BATCHES = 1 << 12


class RawTables(Protocol):
    """What an export offers: which columns there are, and their values.

    `path` is the export, for messages; `notices` is what is odd about the file itself, for the trace.
    """

    path: Path
    notices: tuple[str, ...]

    def columns(self, table: str) -> frozenset[str]:
        """Names of the columns of `table`; empty when the export does not have it."""

    def read(
        self,
        table: str,
        integers: Mapping[str, int],
        texts: Sequence[str] = (),
        only: tuple[str, Collection[int]] | None = None,
    ) -> pa.Table:
        """`integers` (column to the value for NULL) as int64 and `texts` as binary, in the file's order.

        `only` keeps the rows whose integer column is one of some values. Columns must exist.
        """


class SqliteTables:
    """An export made with `--type sqlite`. The file is opened immutable: nothing is locked or written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_length(path)
        self.notices = tuple(_unfinished(path))
        self._uri = f"file:{quote(os.fsencode(path.resolve()))}?mode=ro&immutable=1"
        with self._open() as connection:
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            names = connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')").fetchall()
            self._columns = {
                name: frozenset(row[1] for row in connection.execute(f"PRAGMA table_info({_quoted(name)})"))
                for (name,) in names
                if isinstance(name, str)
            }

    def columns(self, table: str) -> frozenset[str]:
        return self._columns.get(table, frozenset())

    def read(
        self,
        table: str,
        integers: Mapping[str, int],
        texts: Sequence[str] = (),
        only: tuple[str, Collection[int]] | None = None,
    ) -> pa.Table:
        import pyarrow as pa

        schema = pa.schema([(name, pa.int64()) for name in integers] + [(name, pa.binary()) for name in texts])
        where = f" WHERE {_quoted(only[0])} IN ({','.join(map(str, only[1])) or 'NULL'})" if only else ""
        found = self._as_stored(table, integers, texts, where)
        if found is None:
            self._check_numbers(table, integers)
            found = self._cast(table, integers, texts, where)
        if not found:
            return _no_rows(schema)
        rows = pa.Table.from_batches(found)
        for place, (name, missing) in enumerate(integers.items()):
            rows = rows.set_column(place, name, _without_nulls(rows.column(name), missing))
        return rows.cast(schema)

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            with contextlib.closing(sqlite3.connect(self._uri, uri=True)) as connection:
                yield connection
        # What SQLite says of a damaged schema quotes it, and Python wants that to be UTF-8.
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise _unreadable(self.path, error) from error

    def _check_numbers(self, table: str, integers: Mapping[str, int]) -> None:
        """A cast would silently turn words into 0."""
        for name in integers:
            column = _quoted(name)
            query = f"SELECT {column} FROM {_quoted(table)} WHERE typeof({column}) IN ('text', 'blob') "
            query += f"AND CAST(CAST({column} AS INTEGER) AS TEXT) <> CAST({column} AS TEXT) LIMIT 1"
            with self._open() as connection:
                connection.text_factory = bytes
                found = connection.execute(query).fetchone()
            if found:
                value = found[0][:40].decode("utf-8", "replace")
                raise _unreadable(self.path, ValueError(f"{table}.{name} holds {value!r} instead of a whole number"))

    def _as_stored(
        self, table: str, integers: Mapping[str, int], texts: Sequence[str], where: str
    ) -> list[pa.RecordBatch] | None:
        """Rows in one batch; None when integers or texts are not stored as such, or are too much for one batch."""
        import adbc_driver_manager as adbc
        import pyarrow as pa

        columns = [_quoted(name) for name in integers]
        columns += [f"COALESCE({_quoted(name)}, '') AS {_quoted(name)}" for name in texts]
        try:
            found = self._query(columns, table, where, self._most_rows(table))
        except (adbc.Error, pa.ArrowException, OSError, UnicodeDecodeError):
            return None
        types = found[0].schema.types if found else []
        # The driver infers types from the rows, and calls columns that are all NULL integers.
        numbers, words = types[: len(integers)], types[len(integers) :]
        is_word = [pa.types.is_string(one) or pa.types.is_binary(one) for one in words]
        return found if all(map(pa.types.is_int64, numbers)) and all(is_word) else None

    def _most_rows(self, table: str) -> int:
        """As many rows as `table` may have, found without reading them.

        In one batch they become numpy's without a copy, and pages that are new to a process are what costs. But the driver
        claims memory for all rows that a batch may have, and a process that has claimed hundreds of GB cannot fork.
        """
        most = max(self.path.stat().st_size // _BYTES_OF_A_ROW, 1)
        with contextlib.suppress(InputError), self._open() as connection:
            first, last = (
                connection.execute(f"SELECT {which}(_rowid_) FROM {_quoted(table)}").fetchone()[0]
                for which in ("MIN", "MAX")
            )
            if isinstance(first, int) and isinstance(last, int):
                most = min(most, last - first + 1)
        return most

    def _cast(self, table: str, integers: Mapping[str, int], texts: Sequence[str], where: str) -> list[pa.RecordBatch]:
        """Rows in batches, every column of one type that no row escapes, which takes SQLite longer."""
        import adbc_driver_manager as adbc
        import pyarrow as pa

        columns = [
            f"COALESCE(CAST({_quoted(name)} AS INTEGER), {_literal(missing)}) AS {_quoted(name)}"
            for name, missing in integers.items()
        ]
        columns += [f"CAST(COALESCE({_quoted(name)}, '') AS BLOB) AS {_quoted(name)}" for name in texts]
        try:
            return self._query(columns, table, where, _SMALL_BATCHES)
        except (adbc.Error, pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _unreadable(self.path, error) from error

    def _query(self, columns: Sequence[str], table: str, where: str, batch_rows: int) -> list[pa.RecordBatch]:
        """Batches that hold rows: an empty result has no types to infer."""
        import adbc_driver_manager as adbc
        import adbc_driver_sqlite
        import pyarrow as pa

        with (
            adbc_driver_sqlite.connect(self._uri) as database,
            adbc.AdbcConnection(database) as connection,
            adbc.AdbcStatement(connection) as statement,
        ):
            statement.set_options(**{"adbc.sqlite.query.batch_rows": str(batch_rows)})
            statement.set_sql_query(f"SELECT {', '.join(columns)} FROM {_quoted(table)}{where}")
            stream, _ = statement.execute_query()
            reader = pa.RecordBatchReader._import_from_c(stream.address)
            return [batch for batch in reader if batch.num_rows]


class ParquetTables:
    """An export made with `--type parquetdir`: one file a table."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notices: tuple[str, ...] = ()
        self._files = {file.stem: file for file in path.glob("*.parquet")}

    def columns(self, table: str) -> frozenset[str]:
        if table not in self._files:
            return frozenset()
        return self._guard(table, lambda file: frozenset(file.schema_arrow.names))

    def read(
        self,
        table: str,
        integers: Mapping[str, int],
        texts: Sequence[str] = (),
        only: tuple[str, Collection[int]] | None = None,
    ) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        def columns(file: Any) -> pa.Table:
            rows = file.read(columns=[*integers, *texts])
            if only:
                kept = pc.is_in(_whole_numbers(rows.column(only[0])), whole_numbers(list(only[1]), pa.int64()))
                rows = rows.filter(kept)
            arrays = [_without_nulls(_whole_numbers(rows.column(name)), missing) for name, missing in integers.items()]
            arrays += [_without_nulls(_plain(rows.column(name)).cast(pa.large_binary()), b"") for name in texts]
            return pa.table(arrays, names=[*integers, *texts])

        return self._guard(table, columns)

    def _guard(self, table: str, action: Callable[[Any], Any]) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._files[table]
        try:
            # Not read_table: it makes columns of the names of folders such as run=3.
            with pq.ParquetFile(path) as parquet:
                return action(parquet)
        except PermissionError as error:
            raise PermissionError(error.errno, "Permission denied", str(path)) from error
        # A damaged schema also shows as names that are there twice or are no text.
        except (pa.ArrowException, OSError, KeyError, UnicodeError) as error:
            raise _unreadable(path, error) from error


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        return column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


def _no_rows(schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    number, text = [None, pa.py_buffer(b"")], [None, pa.py_buffer(bytes(8)), pa.py_buffer(b"")]
    arrays = [pa.Array.from_buffers(one, 0, number if pa.types.is_integer(one) else text) for one in schema.types]
    return pa.Table.from_arrays(arrays, schema=schema)


def _without_nulls(column: pa.ChunkedArray, value: int | bytes) -> pa.ChunkedArray:
    """`column` with `value` (for bytes only the empty ones) where it is NULL."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if not column.null_count:
        return column
    rows = len(column)
    if isinstance(value, int):
        filler = whole_numbers(np.full(rows, value), pa.int64())
    else:
        filler = pa.Array.from_buffers(
            column.type, rows, [None, pa.py_buffer(bytes(8 * (rows + 1))), pa.py_buffer(b"")]
        )
    return pc.coalesce(column, filler)


def _whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """As int64. Ids are unsigned 64-bit numbers here and signed ones in SQLite: the bits stay as they are."""
    import pyarrow as pa

    return column if pa.types.is_int64(column.type) else _plain(column).cast(pa.int64(), safe=False)


def integers(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """Column `name` of a raw table as an array of shape (rows,)."""
    return column_of(table.column(name))


def _check_length(path: Path) -> None:
    """SQLite reads the missing end of a last page as zeros. Source: its file format, the database header."""
    with path.open("rb") as file:
        header = file.read(100)
    held, needed = path.stat().st_size, 100
    if len(header) == 100:
        page_bytes, changes, pages, pages_as_of = struct.unpack(">16x H 6x I I 60x I 4x", header)
        # 65,536 does not fit. A program that knew no page count left it at that of an earlier change.
        needed = (65_536 if page_bytes == 1 else page_bytes) * pages if changes == pages_as_of else 0
    if held < needed:
        raise _unreadable(path, EOFError(f"it is cut short: {held:,} of {needed:,} bytes"))


def _unfinished(path: Path) -> Iterator[str]:
    """What says that a program still writes to the SQLite file, or stopped halfway: its latest rows are missing."""
    for suffix in ("-journal", "-wal"):
        with contextlib.suppress(OSError):
            if path.with_name(path.name + suffix).stat().st_size:
                yield f"{path.name}{suffix} lies beside the export, which was not finished: rows may be missing"
    writer = _writer(path)
    if writer:
        yield f"process {writer} is writing to the export: rows may be missing; read it again when that has ended"


def _writer(path: Path) -> int:
    """Id of a process that holds a lock for writing on a SQLite file; 0 where there is none, or it cannot be told."""
    if sys.platform != "linux" or struct.calcsize("P") != 8:
        return 0
    import fcntl

    # struct flock: type, whence, start, length, pid. SQLite locks the bytes around 1 GiB (its os.h, PENDING_BYTE).
    layout, pending_byte, bytes_of_locks = "hhxxxxqqi", 0x40000000, 512
    question = struct.pack(layout, fcntl.F_RDLCK, os.SEEK_SET, pending_byte, bytes_of_locks, 0)
    with contextlib.suppress(OSError), path.open("rb") as file:
        kind, _, _, _, pid = struct.unpack(layout, fcntl.fcntl(file, fcntl.F_GETLK, question))
        return pid if kind == fcntl.F_WRLCK else 0
    return 0


def _literal(number: int) -> str:
    # SQLite reads the smallest integer as a real: its minus is an operator.
    return f"(-{-(number + 1)} - 1)" if number == -(1 << 63) else str(number)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unreadable(path: Path, error: Exception) -> InputError:
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(
        f"{path}: cannot be read as a Nsight Systems export ({message}); "
        f"export the report again: nsys export --type sqlite --force-overwrite true REPORT.nsys-rep"
    )
