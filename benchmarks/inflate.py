"""Make a large trace from a small real one: repeat its steady part along the time axis.

    python benchmarks/inflate.py SRC.sqlite DST.sqlite --kernels 1000000
    python benchmarks/inflate.py SRC.sqlite DST.parquetdir --kernels 1000000   (one Parquet file per table)
    python benchmarks/inflate.py SRC.json.gz DST.json --kernels 1000000        (PyTorch profiler)

The source is cut in three: head, tile, tail. Head and tail are written once, the tile as often as the wanted number of
kernels asks for. Where the source has step ranges (`step_3`, `iteration 3`, `ProfilerStep#3`) the tile reaches from the
start of the third one, or of the first that is not numbered negative, to the start of the last one, so that warm-up is
not repeated; otherwise the tile is the whole file. `--from-ns` and `--to-ns` set it by hand.

A record belongs to the part in which its host side starts; a GPU activity follows the call that launched it. Copy k is
moved by k times the length of the tile, and every id by k times the span of its kind in the source, so that ids stay
unique per process and keep pointing at each other: correlation ids, range ids, and the numbers in names (`op_id = 7`,
`seq = 7`, `step_7`), so that names stay as varied as in a real capture. String ids, streams, graph nodes and the
creation of graph nodes stay as they are. When fewer kernels are wanted than the source holds, the tile alone is written
once, up to the first step border behind that many kernels.

What it is not: kernel durations and names repeat, so nothing that compresses or caches on them is tested.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import shutil
import sqlite3
import sys
import time
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

NUMBER = re.compile(r"\b(op_id = |seq = |step[_ #]?|iteration[_ #]?|ProfilerStep#)(\d+)")
STEP = re.compile(r"(?:step|iteration|iter|ProfilerStep)[_ #]?(-?\d+)", re.IGNORECASE)
ROW_GROUP = 250_000


@dataclass(frozen=True)
class Plan:
    """Which part is repeated, and how often. Times in nanoseconds; `alone` leaves head and tail out."""

    start_ns: int
    end_ns: int
    copies: int
    alone: bool

    @property
    def period_ns(self) -> int:
        """The length of the tile, rounded up to a microsecond (Kineto's fractions then stay as they are)."""
        return -(-(self.end_ns - self.start_ns) // 1000) * 1000


def make_plan(
    launches_ns: np.ndarray, extent_ns: tuple[int, int], steps: list[tuple[int, str]], options: argparse.Namespace
) -> Plan:
    """Choose the tile from when each kernel was launched, the trace's extent and the step ranges (start, name)."""
    kernels = options.kernels
    steady = [start for start, name in sorted(steps)[2:] if int(STEP.fullmatch(name)[1]) >= 0]
    start, end = (steady[0], steady[-1]) if len(steady) > 2 else extent_ns
    start, end = options.from_ns or start, options.to_ns or end
    launches = np.sort(launches_ns)
    if kernels < len(launches):
        inside = launches[launches >= start]
        last = int(inside[min(kernels, len(inside)) - 1])
        return Plan(start, next((border for border in steady if border > last), last + 1), 1, True)
    tile = int(np.count_nonzero((launches >= start) & (launches < end)))
    if not tile:
        sys.exit(f"no kernel is launched between {start} and {end} ns: choose another --from-ns and --to-ns")
    return Plan(start, end, math.ceil((kernels - len(launches) + tile) / tile), False)


class Renumber:
    """Moves the numbers inside names on by `copy` times the span that each kind of number has in the source."""

    def __init__(self, texts: Any, steps_in_tile: int) -> None:
        seen: dict[str, list[int]] = {}
        for text in texts:
            for kind, number in NUMBER.findall(text):
                seen.setdefault(kind, []).append(int(number))
        self.stride = {kind: max(numbers) - min(numbers) + 1 for kind, numbers in seen.items()}
        for kind in self.stride.keys() - {"op_id = ", "seq = "}:
            self.stride[kind] = max(steps_in_tile, 1)

    def __call__(self, text: str | None, copy: int) -> str | None:
        return text and NUMBER.sub(lambda m: f"{m[1]}{int(m[2]) + copy * self.stride[m[1]]}", text)


# --- Nsight Systems ---------------------------------------------------------------------------------------------------


def columns(db: sqlite3.Connection, table: str) -> dict[str, str]:
    """Column names of a table and their declared types."""
    return {row[1]: row[2] for row in db.execute(f'PRAGMA table_info("{table}")')}


def event_tables(db: sqlite3.Connection) -> list[str]:
    """Tables of records that happen at a time, without those that describe graphs or carry keys of their own."""
    found = []
    for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY rowid").fetchall():
        keyed = any(row[5] for row in db.execute(f'PRAGMA table_info("{name}")'))
        timed = "start" in columns(db, name) or (name.startswith("CUPTI_") and "timestamp" in columns(db, name))
        if timed and not keyed and not name.startswith("CUDA_GRAPH_"):
            found.append(name)
    return found


def copy_tile_rows(db: sqlite3.Connection, table: str) -> None:
    """Keep the source's rows of `table` in a temporary table, with `anchor`: the time that decides their part."""
    cols = columns(db, table)
    when = "start" if "start" in cols else "timestamp"
    anchor = when
    if {"correlationId", "globalPid"} <= cols.keys():
        launch = "pid = t.globalPid AND correlation = t.correlationId"
        anchor = f"COALESCE((SELECT start FROM launches WHERE {launch}), {when})"
    db.execute(f'CREATE TEMP TABLE "src_{table}" AS SELECT *, {anchor} AS anchor FROM main."{table}" AS t')


def repeat_table(db: sqlite3.Connection, table: str, plan: Plan, id_stride: int) -> None:
    """Replace the rows of `table` by head, copies of the tile and tail, in this order."""
    moved = dict.fromkeys(("start", "end", "timestamp"), ":period") | dict.fromkeys(
        ("correlationId", "rangeId"), ":ids"
    )
    values = []
    for name in columns(db, table):
        value = f'"{name}"'
        if name in moved:
            value = f"{value} + k * {moved[name]}"
        if name == "end":  # a range that spans the tile goes on to span all copies
            value += ' + CASE WHEN anchor < :from AND "end" >= :to THEN :last * :period ELSE 0 END'
        if name == "text" and table == "NVTX_EVENTS":
            value = "CASE WHEN k > 0 AND numbered THEN renumber(text, k) ELSE text END"
        values.append(value)
    where = {"period": plan.period_ns, "ids": id_stride, "last": plan.copies - 1}
    where |= {"from": plan.start_ns, "to": plan.end_ns}
    parts = [
        ("(SELECT 0 AS k)", "anchor < :from"),
        ("copies", "anchor >= :from AND anchor < :to"),
        ("(SELECT :last AS k)", "anchor >= :to"),
    ]
    db.execute(f'DELETE FROM main."{table}"')
    for copies, part in parts[1:2] if plan.alone else parts:
        rows = f'SELECT {", ".join(values)} FROM {copies} CROSS JOIN "src_{table}" WHERE {part}'
        db.execute(f'INSERT INTO main."{table}" {rows}', where)


def read_nsys_plan(db: sqlite3.Connection, tables: list[str], options: argparse.Namespace) -> Plan:
    """Choose the tile of an export; needs the temporary `src_` tables."""
    launches = np.array(db.execute("SELECT anchor FROM src_CUPTI_ACTIVITY_KIND_KERNEL").fetchall(), np.int64)[:, 0]
    extents = [
        db.execute(f'SELECT MIN(start), MAX("end") FROM "src_{table}" WHERE start > 0').fetchone()
        for table in tables
        if {"start", "end"} <= columns(db, table).keys()
    ]
    extents = [(low, high) for low, high in extents if low is not None]
    extent = min(low for low, _ in extents), max(high for _, high in extents) + 1
    steps = []
    if "NVTX_EVENTS" in tables:
        rows = db.execute('SELECT start, text FROM src_NVTX_EVENTS WHERE text IS NOT NULL AND "end" IS NOT NULL')
        steps = [(start, text) for start, text in rows if STEP.fullmatch(text)]
    return make_plan(launches, extent, steps, options)


def inflate_sqlite(src: Path, dst: Path, options: argparse.Namespace) -> Plan:
    """Write the inflated copy of an SQLite export and check it."""
    shutil.copyfile(src, dst)
    db = sqlite3.connect(dst, isolation_level=None)
    for pragma in ("journal_mode = OFF", "synchronous = OFF", "temp_store = MEMORY", "cache_size = -200000"):
        db.execute(f"PRAGMA {pragma}")
    tables = event_tables(db)
    db.execute("CREATE TEMP TABLE launches (pid INT, correlation INT, start INT, PRIMARY KEY (pid, correlation))")
    db.execute(
        "INSERT OR IGNORE INTO launches SELECT globalTid & ~0xFFFFFF, correlationId, start "
        "FROM CUPTI_ACTIVITY_KIND_RUNTIME WHERE correlationId IS NOT NULL AND globalTid IS NOT NULL ORDER BY start"
    )
    for table in tables:
        copy_tile_rows(db, table)
    plan = read_nsys_plan(db, tables, options)
    tile = (plan.start_ns, plan.end_ns)

    ids = [
        db.execute(f'SELECT MIN("{name}"), MAX("{name}") FROM "src_{table}"').fetchone()
        for table in tables
        for name in columns(db, table).keys() & {"correlationId", "rangeId"}
    ]
    ids = [pair for pair in ids if pair[0] is not None]
    id_stride = max(high for _, high in ids) - min(low for low, _ in ids) + 1
    if "NVTX_EVENTS" in tables:
        texts = db.execute("SELECT anchor, text FROM src_NVTX_EVENTS WHERE text IS NOT NULL").fetchall()
        steps = sum(tile[0] <= anchor < tile[1] and bool(STEP.fullmatch(text)) for anchor, text in texts)
        db.create_function("renumber", 2, Renumber([text for _, text in texts], steps), deterministic=True)
        db.create_function("has_number", 1, lambda text: bool(text and NUMBER.search(text)))
        db.execute("ALTER TABLE src_NVTX_EVENTS ADD COLUMN numbered")
        db.execute("UPDATE src_NVTX_EVENTS SET numbered = has_number(text)")

    db.execute("CREATE TEMP TABLE copies (k)")
    db.executemany("INSERT INTO copies VALUES (?)", ((k,) for k in range(plan.copies)))
    db.execute("BEGIN")
    for table in tables:
        repeat_table(db, table, plan, id_stride)
    added_ns = (plan.copies - 1) * plan.period_ns
    if "ANALYSIS_DETAILS" in {row[0] for row in db.execute("SELECT name FROM sqlite_master")}:
        db.execute("UPDATE ANALYSIS_DETAILS SET duration = duration + ?1, stopTime = stopTime + ?1", (added_ns,))
    db.execute("COMMIT")
    if plan.alone:
        db.execute("VACUUM")
    check_sqlite(db, tables, plan)
    db.close()
    return plan


def check_sqlite(db: sqlite3.Connection, tables: list[str], plan: Plan) -> None:
    """Stop unless every table has the rows due to it, ids are as unique as in the source, and the file is sound."""
    inside = f"anchor >= {plan.start_ns} AND anchor < {plan.end_ns}"
    for table in tables:
        rows, tile = db.execute(f'SELECT COUNT(*), COALESCE(SUM({inside}), 0) FROM "src_{table}"').fetchone()
        expected = tile if plan.alone else rows + (plan.copies - 1) * tile
        found = db.execute(f'SELECT COUNT(*) FROM main."{table}"').fetchone()[0]
        if found != expected:
            sys.exit(f"{table}: {found} rows, expected {expected}")
    for table, pid in (("CUPTI_ACTIVITY_KIND_KERNEL", "globalPid"), ("CUPTI_ACTIVITY_KIND_RUNTIME", "globalTid >> 24")):
        counts = []
        for rows, where in ((f"src_{table}", inside), (f"main.{table}", "1")):
            distinct = f"SELECT DISTINCT {pid}, correlationId FROM {rows} WHERE {where}"
            counts.append(f"SELECT (SELECT COUNT(*) FROM {rows} WHERE {where}) - COUNT(*) FROM ({distinct})")
        in_tile, in_result = (db.execute(count).fetchone()[0] for count in counts)
        if in_result and not in_tile:
            sys.exit(f"{table}: {in_result} correlation ids are not unique in their process")
    verdict = db.execute("PRAGMA quick_check").fetchone()[0]
    if verdict != "ok":
        sys.exit(f"quick_check: {verdict}")


def write_parquetdir(src: Path, dst: Path) -> None:
    """Write every non-empty table of an SQLite export as `dst/TABLE.parquet`, in row groups."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dst.mkdir(parents=True, exist_ok=True)
    kinds = {"INTEGER": pa.int64(), "REAL": pa.float64(), "TEXT": pa.string()}
    db = sqlite3.connect(f"file:{src}?mode=ro", uri=True)
    for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        schema = pa.schema([(name, kinds[kind]) for name, kind in columns(db, table).items()])
        cursor = db.execute(f'SELECT * FROM "{table}"')
        rows = cursor.fetchmany(ROW_GROUP)
        if not rows:
            continue
        with pq.ParquetWriter(dst / f"{table}.parquet", schema) as writer:
            while rows:
                values = zip(*rows, strict=True)
                arrays = [pa.array(value, field.type) for value, field in zip(values, schema, strict=True)]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=ROW_GROUP)
                rows = cursor.fetchmany(ROW_GROUP)
    db.close()


# --- PyTorch profiler -------------------------------------------------------------------------------------------------

GPU = {"kernel", "gpu_memcpy", "gpu_memset", "gpu_user_annotation"}
ARGUMENT_IDS = ("External id", "correlation", "Ev Idx", "Python id", "Python parent id", "Sequence number")


def to_ns(value: str | int) -> int:
    """Kineto's decimal microseconds as whole nanoseconds."""
    whole, _, fraction = str(value).partition(".")
    return int(whole) * 1000 + int((fraction + "000")[:3])


def id_fields(event: dict[str, Any]) -> list[tuple[dict[str, Any], str, str]]:
    """The ids of an event as (where, key, kind); flow arrows `ac2g` are numbered like correlation ids."""
    args = event.get("args", {})
    fields = [(args, key, key) for key in ARGUMENT_IDS if isinstance(args.get(key), int)]
    if isinstance(event.get("id"), int):
        fields.append((event, "id", "correlation" if event.get("cat") == "ac2g" else event.get("cat", "id")))
    return fields


def is_repeated(event: dict[str, Any]) -> bool:
    """False for names of processes and threads and for marks of the whole recording."""
    return event.get("ph") != "M" and event.get("cat") != "Trace" and isinstance(event.get("pid"), int)


def anchors_ns(events: list[dict[str, Any]]) -> np.ndarray:
    """For each event the time that decides its part: a GPU activity or its flow arrow follows the host side."""
    host: dict[tuple[str, int], int] = {}
    for event in events:
        args = event.get("args", {})
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in args:
            host["correlation", args["correlation"]] = to_ns(event["ts"])
        elif event.get("cat") == "user_annotation" and "External id" in args:
            host["External id", args["External id"]] = to_ns(event["ts"])

    def anchor(event: dict[str, Any]) -> int:
        args = event.get("args", {})
        key = ("correlation", event.get("id") if event.get("cat") == "ac2g" else args.get("correlation"))
        if event.get("cat") == "gpu_user_annotation":
            key = ("External id", args.get("External id"))
        return host.get(key, to_ns(event["ts"]))

    return np.array([anchor(event) for event in events], np.int64)


class Template:
    """Events as one format string whose fields are all integers, `base + copy * stride`: a copy costs one `%`."""

    SLOT = re.compile(r'"\\u0001(\d+)\\u0001(\.\d+)"|"\\u0001(\d+)\\u0001"|\\u0002(\d+)\\u0002')

    def __init__(self, events: list[dict[str, Any]], plan: Plan, strides: dict[str, int], renumber: Renumber) -> None:
        found: list[tuple[int, int]] = []
        used: list[int] = []

        def slot(base: int, stride: int, mark: str = "\x01") -> str:
            found.append((base, stride))
            return f"{mark}{len(found) - 1}{mark}"

        def field(match: re.Match[str]) -> str:
            used.append(int(match[1] or match[3] or match[4]))
            return f"%d{match[2] or ''}"

        def encode(event: dict[str, Any]) -> str:
            event = event | ({"args": dict(event["args"])} if "args" in event else {})
            for where, key, kind in id_fields(event):
                where[key] = slot(where[key], strides[kind])
            ns = to_ns(event["ts"])
            event["ts"] = slot(ns // 1000, plan.period_ns // 1000) + f".{ns % 1000:03d}"
            if event.get("cat") in ("user_annotation", "gpu_user_annotation"):
                named = NUMBER.sub(lambda m: m[1] + slot(int(m[2]), renumber.stride[m[1]], "\x02"), event["name"])
                event["name"] = named
            return json.dumps(event, default=float).replace("%", "%%")

        self.text = "".join(",\n" + self.SLOT.sub(field, encode(event)) for event in events)
        self.base, self.stride = np.array(found, np.int64).reshape(-1, 2)[used].T

    def copy(self, k: int) -> str:
        """The events of copy `k`, each on a line of its own behind a comma."""
        return self.text % tuple((self.base + k * self.stride).tolist())


def inflate_kineto(src: Path, dst: Path, options: argparse.Namespace) -> Plan:
    """Write the inflated copy of a PyTorch profiler trace, one event a line, and check it."""
    with gzip.open(src) if src.suffix == ".gz" else src.open("rb") as file:
        trace = json.load(file, parse_float=Decimal)
    kept = [event for event in trace["traceEvents"] if event.get("cat") not in options.without]
    once = [event for event in kept if not is_repeated(event)]
    events = [event for event in kept if is_repeated(event)]
    anchors = anchors_ns(events)
    notes = [event for event in events if event.get("cat") == "user_annotation" and STEP.fullmatch(event["name"])]
    ends = np.array([to_ns(event["ts"]) + to_ns(event.get("dur", 0)) for event in events], np.int64)
    is_kernel = np.array([event.get("cat") == "kernel" for event in events])
    extent = min(to_ns(event["ts"]) for event in events), int(ends.max()) + 1
    plan = make_plan(anchors[is_kernel], extent, [(to_ns(e["ts"]), e["name"]) for e in notes], options)

    ids: dict[str, list[int]] = {}
    for event in events:
        for where, key, kind in id_fields(event):
            ids.setdefault(kind.replace("Python parent id", "Python id"), []).append(where[key])
    strides = {kind: max(values) - min(values) + 1 for kind, values in ids.items()}
    strides["Python parent id"] = strides.get("Python id", 1)
    steps = sum(plan.start_ns <= to_ns(event["ts"]) < plan.end_ns for event in notes)
    renumber = Renumber([event["name"] for event in notes], steps)

    inside = (anchors >= plan.start_ns) & (anchors < plan.end_ns)
    head, tail = anchors < plan.start_ns, anchors >= plan.end_ns
    for index in np.flatnonzero(head & (ends >= plan.end_ns)):
        if "dur" in events[index]:
            events[index]["dur"] += Decimal((plan.copies - 1) * plan.period_ns) / 1000
    parts = [(head, range(1)), (inside, range(plan.copies)), (tail, range(plan.copies - 1, plan.copies))]

    # A recording may carry the whole environment of its process under "metadata": that is left behind.
    top = {key: value for key, value in trace.items() if key not in ("traceEvents", "metadata")}
    with gzip.open(dst, "wt", compresslevel=1) if dst.suffix == ".gz" else dst.open("w") as file:
        file.write(json.dumps(top | {"traceEvents": []}, default=float)[:-2])
        file.write(",\n".join(json.dumps(event, default=float) for event in once))
        for mask, copies in parts[1:2] if plan.alone else parts:
            template = Template([events[index] for index in np.flatnonzero(mask)], plan, strides, renumber)
            for k in copies:
                file.write(template.copy(k))
        file.write("]}\n")

    with gzip.open(dst, "rt") if dst.suffix == ".gz" else dst.open() as file:
        kernels = sum('"cat": "kernel"' in line for line in file)
    expected = int((is_kernel & inside).sum()) * plan.copies
    expected += 0 if plan.alone else int((is_kernel & ~inside).sum())
    if kernels != expected:
        sys.exit(f"{dst}: {kernels} kernels, expected {expected}")
    return plan


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("src", type=Path)
    parser.add_argument(
        "dst", type=Path, help=".sqlite, .json, .json.gz; anything else becomes a folder of Parquet files"
    )
    parser.add_argument("--kernels", type=int, default=1_000_000, help="at least so many (default 1000000)")
    parser.add_argument("--from-ns", type=int, help="start of the tile in the source")
    parser.add_argument("--to-ns", type=int, help="end of the tile in the source")
    parser.add_argument("--without", action="append", default=[], metavar="CAT", help="leave out these Kineto events")
    options = parser.parse_args()
    started = time.perf_counter()
    if ".json" in options.src.suffixes:
        plan = inflate_kineto(options.src, options.dst, options)
    elif options.dst.suffix == ".sqlite":
        plan = inflate_sqlite(options.src, options.dst, options)
    else:
        between = options.dst.with_name(options.dst.name + ".between.sqlite")
        plan = inflate_sqlite(options.src, between, options)
        write_parquetdir(between, options.dst)
        between.unlink()
    sys.stdout.write(
        f"{options.dst}: {plan.copies} copies of {plan.period_ns / 1e6:.3f} ms"
        f"{'' if plan.alone else ' between head and tail'}, made and checked in {time.perf_counter() - started:.1f} s\n"
    )


if __name__ == "__main__":
    main()
