"""Copies a Nsight Systems SQLite export without what it says about the machine and its user.

    strip_export.py FROM TO [FIRST_NS LAST_NS]

With two times, only what the host began from the first until the last is kept, and what it launched then. Left out
are the environment, the command line, host and file names, output of the program, other processes and their threads,
the GPU's serial number, and every string that nothing refers to any more. Events stay as they are.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from pathlib import Path

_DROPPED = ("TARGET_INFO_SYSTEM_ENV", "ProcessStreams", "ANALYSIS_FILE", "TARGET_INFO_SESSION_START_TIME")
_KEPT_ROWS = {
    "META_DATA_CAPTURE": "name LIKE '%CUDA_GRAPH_TRACE_OPTIONS%'",
    "META_DATA_EXPORT": "name LIKE 'EXPORT_PRODUCT%' OR name LIKE 'EXPORT_SCHEMA%'",
    "DIAGNOSTIC_EVENT": "text NOT LIKE '%/%'",
    "PROCESSES": "globalPid IN (SELECT globalPid FROM CUPTI_ACTIVITY_KIND_KERNEL)",
    "ThreadNames": "globalTid IN (SELECT globalTid FROM CUPTI_ACTIVITY_KIND_RUNTIME)"
    " OR globalTid IN (SELECT globalTid FROM NVTX_EVENTS)",
}
_EMPTIED = {"TARGET_INFO_GPU": ("uuid", "busLocation")}
# Columns that hold ids of strings, in any table.
_STRING_COLUMNS = (
    "demangledName",
    "shortName",
    "mangledName",
    "nameId",
    "textId",
    "jsonTextId",
    "filenameId",
    "contentId",
)


def strip(source: Path, target: Path, *span: int) -> None:
    """Write the stripped copy of `source` as `target`; `span` is none or the first and last ns to keep."""
    shutil.copyfile(source, target)
    with sqlite3.connect(target) as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in set(_DROPPED) & set(tables):
            database.execute(f"DROP TABLE {table}")
        for table in _KEPT_ROWS.keys() & set(tables):
            database.execute(f"DELETE FROM {table} WHERE NOT ({_KEPT_ROWS[table]})")
        if span:
            _cut(database, tables, *span)
        for table in _EMPTIED.keys() & set(tables):
            database.execute(f"UPDATE {table} SET " + ", ".join(f"{column} = ''" for column in _EMPTIED[table]))
        used = [
            f"SELECT {column} FROM {table} WHERE {column} NOT NULL"
            for table in sorted(set(tables) - set(_DROPPED))
            for column in _columns(database, table)
            if column in _STRING_COLUMNS
        ]
        database.execute(f"DELETE FROM StringIds WHERE id NOT IN ({' UNION '.join(used)})")
    with sqlite3.connect(target) as database:
        database.execute("VACUUM")


def _cut(database: sqlite3.Connection, tables: list[str], first: int, last: int) -> None:
    kept = "SELECT correlationId, globalTid >> 24 << 24 FROM CUPTI_ACTIVITY_KIND_RUNTIME"
    for table in tables:
        columns = _columns(database, table)
        if "start" in columns and "globalTid" in columns:
            database.execute(f"DELETE FROM {table} WHERE start < {first} OR start >= {last}")
    for table in tables:
        if {"correlationId", "globalPid"} <= set(_columns(database, table)):
            database.execute(f"DELETE FROM {table} WHERE (correlationId, globalPid) NOT IN ({kept})")


def _columns(database: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in database.execute(f"PRAGMA table_info({table})")]


if __name__ == "__main__":
    strip(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
