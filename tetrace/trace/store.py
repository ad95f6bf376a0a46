"""The `.tetrace` folder: `metadata.json` and one Parquet file a table, or a folder of them, one a process.

It is written beside its final name and renamed, so that a folder that exists is a whole one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.errors import InputError, UsageError
from tetrace.trace.schema import FORMAT_VERSION, TABLES, Table
from tetrace.trace.trace import Metadata, Trace

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIX = ".tetrace"
_METADATA = "metadata.json"


def is_store(path: Path) -> bool:
    """Whether `path` is a folder that `write` made."""
    return path.is_dir() and (path / _METADATA).is_file()


def write(trace: Trace, path: Path, *, replace: bool = False) -> None:
    """Write `trace` as the folder `path`.

    Raises `UsageError` when `path` exists and is not to be replaced, or is something else than a `.tetrace`.
    """
    if path.exists() and not (replace and is_store(path)):
        reason = "exists; choose another name or pass --force" if is_store(path) else "exists and is not a .tetrace folder"
        raise UsageError(f"{path}: {reason}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose a folder that can") from error
    try:
        for table in TABLES:
            if trace.has(table.name):
                _write_table(trace.tables[table.name], table, unfinished)
        document = {"format_version": FORMAT_VERSION, **dataclasses.asdict(trace.metadata)}
        (unfinished / _METADATA).write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
        unfinished.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        unfinished.rename(path)
    except OSError as error:
        raise UsageError(f"{path}: writing failed ({error.strerror}); is the disk full?") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def read(path: Path) -> Trace:
    """Read the folder `path`. Raises `InputError` when it is not whole or of a newer format."""
    try:
        document = json.loads((path / _METADATA).read_text(encoding="utf-8"))
        version = document.pop("format_version")
        metadata = Metadata(**{**document, "notices": tuple(document["notices"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: {_METADATA} cannot be read ({error}); import the original file again") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format version {version}, this tetrace reads {FORMAT_VERSION}; import the original again")
    tables = {table.name: found for table in TABLES if (found := _read_table(path, table)) is not None}
    return Trace(metadata, tables)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_table(rows: pa.Table, table: Table, folder: Path) -> None:
    import numpy as np
    import pyarrow.parquet as pq

    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": [c.name for c in table.columns if c.dtype == "text"]}
    if not table.by_process:
        pq.write_table(rows, folder / f"{table.name}.parquet", **options)
        return
    (folder / table.name).mkdir()
    process = rows.column("process").to_numpy()
    # Rows are sorted by process: each process is one slice.
    starts = np.flatnonzero(np.diff(process, prepend=-1))
    ends = [*starts[1:].tolist(), rows.num_rows]
    for start, end in zip(starts.tolist(), ends, strict=True):
        part = rows.slice(start, end - start)
        pq.write_table(part, folder / table.name / f"{process[start]}.parquet", **options)
    if not len(starts):
        pq.write_table(rows, folder / table.name / "empty.parquet", **options)


def _read_table(folder: Path, table: Table) -> pa.Table | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    single, parts = folder / f"{table.name}.parquet", folder / table.name
    if parts.is_dir():
        files = sorted(parts.glob("*.parquet"), key=lambda p: (len(p.stem), p.stem))
    else:
        files = [single] if single.exists() else []
    if not files:
        return None
    try:
        read = [pq.ParquetFile(file).read().cast(table.arrow()) for file in files]
    except (OSError, ValueError, pa.ArrowException) as error:
        message = str(error).splitlines()[0]
        raise InputError(f"{files[0]}: not a Parquet file of this format ({message}); import the original again") from error
    return pa.concat_tables(read).unify_dictionaries()
