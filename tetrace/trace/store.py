"""The `.tetrace` folder: `metadata.json` and one Parquet file a table, or a folder of them, one a process.

It is written beside its final name and renamed, so that a folder that exists is a whole one.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.errors import InputError, UsageError
from tetrace.trace.arrays import column_of
from tetrace.trace.columns import Table
from tetrace.trace.schema import FORMAT_VERSION, TABLES
from tetrace.trace.trace import Metadata, Trace

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".tetrace"
_METADATA = "metadata.json"
_OURS = {_METADATA, *(table.name for table in TABLES), *(f"{table.name}.parquet" for table in TABLES)}


def is_store(path: Path) -> bool:
    """Whether `path` is a folder that `write` made, or was meant to be one."""
    return path.is_dir() and (path.suffix == SUFFIX or (path / _METADATA).is_file())


def write(trace: Trace, path: Path, *, replace: bool = False) -> None:
    """Write `trace` as the folder `path`, whole or not at all.

    Raises `UsageError` when `path` exists and is not to be replaced, or is something else than a `.tetrace`.
    """
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not (replace and _is_ours(path)):
        again = "exists; choose another name or pass --force"
        raise UsageError(f"{path}: {again if _is_ours(path) else 'exists and is not a .tetrace folder'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.", dir=path.parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose a folder that can") from error
    try:
        _write_folder(trace, unfinished / "new")
        if path.exists():
            path.rename(unfinished / "old")
        try:
            (unfinished / "new").rename(path)
        except BaseException:
            if (unfinished / "old").exists():
                (unfinished / "old").rename(path)
            raise
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{path}: writing failed ({reason}); is the disk full?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read(path: Path) -> Trace:
    """Read the folder `path`. Raises `InputError` when it is not whole or of a newer format."""
    try:
        document = json.loads((path / _METADATA).read_text(encoding="utf-8"))
        version = document.pop("format_version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, error) from error
    if version != FORMAT_VERSION:
        reads = f"format version {version!r}, this tetrace reads {FORMAT_VERSION}"
        raise InputError(f"{path}: {reads}; update tetrace or import the original file again")
    try:
        rows = {str(name): int(count) for name, count in document.pop("rows", {}).items()}
        metadata = _metadata(document)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error
    tables = {table.name: found for table in TABLES if (found := _read_table(path, table)) is not None}
    for name, count in rows.items():
        held = tables[name].num_rows if name in tables else 0
        if held != count or name not in tables:
            raise InputError(
                f"{path}: {held:,} of {count:,} rows of table {name} are there; copy it again, or import the original again"
            )
    return Trace(metadata, tables)


def _metadata(document: dict[str, Any]) -> Metadata:
    metadata = Metadata(**{**document, "notices": tuple(document["notices"])})
    texts = (metadata.source, metadata.source_format, metadata.recorder, metadata.graph_mode, *metadata.notices)
    numbers = (metadata.dropped_records, *metadata.counts.values())
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(number, int) for number in numbers):
        raise TypeError("a value has another type than it should")
    return metadata


def _unreadable(path: Path, error: Exception) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"{path}: {_METADATA} is not readable by this user; change its permissions")
    reason = f"no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
    return InputError(f"{path}: {_METADATA} cannot be read ({reason}); copy it again, or import the original again")


def _is_ours(path: Path) -> bool:
    """Whether `path` holds what `write` makes and nothing else: only that may be removed."""
    return path.is_dir() and (path / _METADATA).is_file() and {entry.name for entry in path.iterdir()} <= _OURS


def _write_folder(trace: Trace, folder: Path) -> None:
    folder.mkdir()
    for table in TABLES:
        if trace.has(table.name):
            _write_table(trace.tables[table.name], table, folder)
    rows = {table.name: trace.rows(table.name) for table in TABLES if trace.has(table.name)}
    document = {"format_version": FORMAT_VERSION, **dataclasses.asdict(trace.metadata), "rows": rows}
    (folder / _METADATA).write_text(json.dumps(document, indent=1), encoding="utf-8")


def _write_table(rows: pa.Table, table: Table, folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": [c.name for c in table.columns if c.dtype == "text"],
        "write_page_checksum": True,
    }
    if not table.by_process:
        pq.write_table(rows, folder / f"{table.name}.parquet", **options)
        return
    (folder / table.name).mkdir()
    process = column_of(rows.column("process"))
    # Rows are sorted by process: each process is one slice.
    starts = np.flatnonzero(np.diff(process, prepend=-1)).tolist()
    for start, end in itertools.pairwise([*starts, rows.num_rows]):
        part = rows.slice(start, end - start)
        pq.write_table(part, folder / table.name / f"{process[start]}.parquet", **options)
    if not starts:
        pq.write_table(rows, folder / table.name / "empty.parquet", **options)


def _read_table(folder: Path, table: Table) -> pa.Table | None:
    import pyarrow as pa

    single, parts = folder / f"{table.name}.parquet", folder / table.name
    if parts.is_dir():
        files = sorted(parts.glob("*.parquet"), key=lambda p: (len(p.stem), p.stem))
    else:
        files = [single] if single.exists() else []
    if not files:
        return None
    return pa.concat_tables([_read_file(file, table) for file in files]).unify_dictionaries()


def _with_new_columns(rows: pa.Table, table: Table) -> pa.Table:
    """Rows of an older `.tetrace`, with columns it does not have yet as "not recorded", in declared order."""
    import numpy as np

    from tetrace.trace.arrays import numbers

    kept = [c for c in table.columns if c.name in rows.column_names or c.missing is not None]
    for place, (column, field) in enumerate(zip(table.columns, table.arrow(), strict=True)):
        if column in kept and column.name not in rows.column_names:
            missing = numbers(np.full(rows.num_rows, column.missing), field.type)
            rows = rows.add_column(min(place, rows.num_columns), field, missing)
    return rows


def _without_guesses(rows: pa.Table, table: Table) -> pa.Table:
    """Rows of an older `.tetrace`, where what was flushed was 0 of tensors that were seen as FP8 codes alone."""
    import numpy as np

    from tetrace.trace.arrays import numbers

    # Nulls are refused by what reads the table.
    if table.name != "fp8_tensors" or any(rows.column(name).null_count for name in ("source", "flushed")):
        return rows
    rows = rows.unify_dictionaries()
    chunks = rows.column("source").chunks
    words = chunks[0].dictionary.to_pylist() if chunks else []
    of_codes = np.isin(
        column_of(rows.column("source")), [code for code, word in enumerate(words) if word == "quantized"]
    )
    place, field = rows.column_names.index("flushed"), rows.schema.field("flushed")
    flushed = np.where(of_codes, -1, column_of(rows.column("flushed")))
    return rows.set_column(place, field, numbers(flushed, field.type))


def _read_file(file: Path, table: Table) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as parquet:
            return _without_guesses(_with_new_columns(parquet.read(), table).cast(table.arrow()), table)
    except PermissionError as error:
        raise InputError(f"{file}: not readable by this user; change its permissions") from error
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        message = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{file}: not a Parquet file of this format ({message}); copy it again, or import the original again"
        ) from error
