"""JSON, CSV, Parquet and Markdown: they parse back and say the same."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.report.runs import breakdown_of, recorded, rendered, three_steps
from tests.traces import Recording
from tetrace.breakdown.tables import DECLARATIONS
from tetrace.report.reporter import FORMATS, Options


def documents(breakdown: Any, format_name: str, **options: Any) -> Any:
    """All documents of a format."""
    return next(f for f in FORMATS if f.name == format_name).load()(Options(**options)).documents(breakdown)


def test_json_holds_every_table_and_figure() -> None:
    breakdown = recorded("te4-fp8.sqlite")
    document = json.loads(rendered(breakdown, "json"))
    assert list(document) == [
        "tetrace", "format", "units", "source", "selection", "totals", "launch", "quantization", "fp8_coverage",
        "verdict", "findings", "tables",
    ]  # fmt: skip
    assert document["format"] == 1
    assert document["source"]["captured_rows"]["graph_nodes"] is None
    assert document["selection"]["used"] == list(range(1, 14))
    totals = document["totals"]
    assert totals["busy_ns"] + sum(totals["idle_ns"].values()) == totals["wall_ns"] == breakdown.totals.wall_ns
    assert document["tables"] == {name: table.rows() for name, table in breakdown.tables.items()}
    assert sum(row["total_ns"] for row in document["tables"]["kernels"]) == totals["activity_ns"]
    assert not any(
        isinstance(value, float) for rows in document["tables"].values() for row in rows for value in row.values()
    )


def test_json_of_a_run_without_gpu_activity_has_no_zeros_for_it() -> None:
    document = json.loads(rendered(breakdown_of(Recording().range("step_0", 0, 100)), "json"))
    assert [document[name] for name in ("totals", "launch", "quantization", "fp8_coverage")] == [None] * 4


@pytest.mark.parametrize("options", [{"by": "kernel", "top": 3}, {"kernel": "nvjet"}])
def test_json_of_one_table(options: dict[str, Any]) -> None:
    tables = json.loads(rendered(recorded("te4-fp8.sqlite"), "json", **options))["tables"]
    assert list(tables) == ["kernels" if "by" in options else "kernel_matches"]
    assert len(next(iter(tables.values()))) == (3 if "by" in options else 36)


def test_csv_parses_back() -> None:
    breakdown = recorded("te4-bf16.sqlite")
    files = documents(breakdown, "csv")
    assert list(files) == [f"{declaration.name}.csv" for declaration in DECLARATIONS]
    for name, table in breakdown.tables.items():
        assert list(csv.DictReader(io.StringIO(files[f"{name}.csv"]))) == [
            {column: str(value) for column, value in row.items()} for row in table.rows()
        ]


def test_parquet_keeps_types_and_units() -> None:
    breakdown = recorded("te4-bf16.sqlite")
    for name, content in documents(breakdown, "parquet").items():
        read = pq.read_table(io.BytesIO(content))
        assert read.to_pylist() == breakdown.tables[name.removesuffix(".parquet")].rows()
        assert {str(field.type) for field in read.schema} <= {"int64", "string"}
        if name == "lanes.parquet":
            assert read.schema.field("wall_ns").metadata[b"unit"] == b"ns"


def test_markdown_tables_are_whole() -> None:
    recording = three_steps().range("pipe|in`name", 150, 200)
    recording.launch("kernel<a|b>", call=(180, 181), runs=(182, 184))
    text = rendered(breakdown_of(recording), "markdown", full=True)
    width = 0
    for line in text.splitlines():
        columns = line.replace("\\|", "").count("|") if line.startswith("|") else 0
        assert columns == width or not width or not columns, line
        width = columns
    assert "`kernel<a\\|b>`" in text
    assert "`` pipe\\|in`name ``" in text
    assert "| busy |" in text
    assert "## Findings, worst first\n\n1. **" in text
