"""The tables of a breakdown for programs: one JSON document, or a CSV or Parquet file a table; integers as integers."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tetrace.breakdown.findings import findings
from tetrace.breakdown.kernel_search import kernel_matches
from tetrace.breakdown.verdict import verdict
from tetrace.errors import UsageError
from tetrace.report.commands import of_run
from tetrace.report.plain import csv_text, json_text
from tetrace.report.reporter import Options
from tetrace.report.views import BY_NAME
from tetrace.trace.schema import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

FORMAT_VERSION = 1
_UNITS = {
    "*_ns": "integer nanoseconds, summed over the selected steps; divide by totals.steps for an average step",
    "*bytes": "integer bytes",
    "total_ns": "durations summed over activities and streams: work, not time",
    "-1": "not captured",
    "null": "not captured",
}


class Json:
    """One versioned document with everything; `by` and `kernel` leave only their table in `tables`."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """The document, two spaces deep."""
        return {"": json_text(document(breakdown, self._options))}


class Csv:
    """A CSV file a table, with a head of column names; one table alone where `by` or `kernel` chooses it. How names are
    written that a screen or a spreadsheet would take for a command: `csv_text`."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """`kernels.csv` and so on, or the one chosen."""
        return _files(breakdown, self._options, "csv", _csv)


class Parquet:
    """A Parquet file a table, as `Csv`; columns carry their unit and sentence as metadata."""

    def __init__(self, options: Options) -> None:
        self._options = options

    def documents(self, breakdown: Breakdown) -> Mapping[str, str | bytes]:
        """`kernels.parquet` and so on, or the one chosen."""
        return _files(breakdown, self._options, "parquet", _parquet)


def document(breakdown: Breakdown, options: Options) -> dict[str, Any]:
    """The JSON document as Python values."""
    trace, captured = breakdown.attribution.trace, breakdown.attribution.trace.has("activities")
    metadata = trace.metadata
    return {
        "tetrace": options.version,
        "format": FORMAT_VERSION,
        "units": _UNITS,
        "source": {
            "name": metadata.source,
            "format": metadata.source_format,
            "recorder": metadata.recorder,
            "graph_mode": metadata.graph_mode,
            "notices": list(metadata.notices),
            "dropped_records": metadata.dropped_records,
            "captured_rows": {
                table.name: trace.rows(table.name) if trace.has(table.name) else None for table in TABLES
            },
        },
        "selection": _selection(breakdown),
        "totals": {**dataclasses.asdict(breakdown.totals), "all_idle_ns": breakdown.totals.all_idle_ns}
        if captured
        else None,
        "launch": dataclasses.asdict(breakdown.launch) if captured and trace.has("calls") else None,
        "quantization": dataclasses.asdict(breakdown.quantization_bounds) if captured else None,
        "fp8_coverage": dataclasses.asdict(breakdown.fp8_coverage) if captured else None,
        "verdict": verdict(breakdown),
        "findings": [dataclasses.asdict(finding) for finding in of_run(findings(breakdown), options.run)],
        "tables": {name: table.rows() for name, table in chosen_tables(breakdown, options).items()},
    }


def _selection(breakdown: Breakdown) -> dict[str, Any]:
    selection, steps = breakdown.selection, breakdown.attribution.steps
    number = steps.number[selection.windows.step].tolist()
    return {
        "steps": selection.steps_option,
        "per_step": selection.per_step,
        "counted": selection.steps,
        "marked_by": steps.marked_by(),
        "used": sorted({n for n, used in zip(number, selection.used.tolist(), strict=True) if used}),
        "left_out": [
            {"step": n, "reason": reason} for n, reason in zip(number, selection.reason, strict=True) if reason
        ],
    }


def chosen_tables(breakdown: Breakdown, options: Options) -> dict[str, Table]:
    """All tables, or the one that `by` or `kernel` chooses, with at most `top` rows."""
    if options.kernel:
        tables = {"kernel_matches": kernel_matches(breakdown, options.kernel)}
    elif options.by:
        name = BY_NAME[options.by].table
        tables = {name: breakdown.tables[name]}
    else:
        tables = dict(breakdown.tables)
    if options.top > 0:
        tables = {name: table.take(range(min(options.top, len(table)))) for name, table in tables.items()}
    return tables


def _files(breakdown: Breakdown, options: Options, suffix: str, write: Any) -> dict[str, str | bytes]:
    tables = chosen_tables(breakdown, options)
    if options.by or options.kernel:
        (table,) = tables.values()
        return {"": write(table)}
    return {f"{name}.{suffix}": write(table) for name, table in tables.items()}


def _csv(table: Table) -> str:
    return csv_text(tuple(table.columns), (tuple(row.values()) for row in table.rows()))


def _parquet(table: Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    try:
        pq.write_table(_described(table), file, compression="zstd")
    except pa.ArrowException as error:
        raise UsageError(
            f"table {table.declaration.name} cannot be written as Parquet ({error}); use --format csv"
        ) from error
    return file.getvalue()


def _described(table: Table) -> pa.Table:
    """As Arrow, with types by declaration (an empty column of text has none of its own), units and sentences."""
    import pyarrow as pa

    declared = table.declaration.columns
    fields = [
        pa.field(c.name, pa.int64() if c.unit else pa.string(), metadata={"unit": c.unit, "sentence": c.sentence})
        for c in declared
    ]
    return pa.Table.from_arrays(
        table.to_arrow().columns, schema=pa.schema(fields, metadata={"sentence": table.declaration.sentence})
    )
