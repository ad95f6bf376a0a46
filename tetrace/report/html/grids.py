"""Tables of a page: the words of the terminal's tables, with what each column is sorted by and what it means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.breakdown.gemm_shapes import gemm_shapes
from tetrace.report.column_meanings import column_meaning, comparison_of
from tetrace.report.grids import grid_of_fields, has_any, matrix, unit_words
from tetrace.report.html.words import shortened
from tetrace.report.scale import NOT_CAPTURED
from tetrace.report.views import BY_NAME, View, short_kernel
from tetrace.units import microseconds, three_digits

if TYPE_CHECKING:
    from tetrace.breakdown.tables import Table
    from tetrace.report.html.material import Material

Json = dict[str, Any]

MOST_ROWS = 1000


def view_grid(material: Material, name: str, most: int = MOST_ROWS) -> Json | None:
    """The view called `name`, None where it has no rows."""
    view = BY_NAME[name]
    table = material.breakdown.tables[view.table]
    if not len(table):
        return None
    fields = view.fields(material.breakdown, material.scale)
    fields = [field for field in fields if field.always or has_any(table, field.source)]
    label = next((field for field in reversed(fields) if field.column.code), None)
    if label and fields[0].column.number:  # on a narrow screen the first column is what is seen
        fields = [label, *(field for field in fields if field is not label)]
    shown = min(len(table), most)
    top = table.take(range(shown))
    grid = grid_of_fields(table, fields, view.title, 1, view.whole)
    columns = [
        {
            "head": field.column.head,
            "number": field.column.number,
            "code": field.column.code,
            "term": column_meaning(name, field.column.head, material.scale),
        }
        for field in fields
    ]
    cells = [[_cell(view, field, row) for field in fields] for row in top.rows()]
    keys = [_keys(top, field.source) if field.column.number else None for field in fields]
    return {
        "title": f"{view.title}{unit_words(view, material.scale)}",
        "about": table.declaration.sentence,
        "columns": columns,
        "rows": cells,
        "keys": keys,
        "total": list(grid.total),
        "more": len(table) - shown,
    }


def _cell(view: View, field: Any, row: Json) -> Any:
    """The words; where a kernel has a short name, both."""
    if view.name == "kernel" and field.source == "name":
        short, full = short_kernel(row), row["name"]
        return shortened(full) if short == full else [shortened(short, 200), shortened(full)]
    return shortened(str(field.say(row)))


def _keys(table: Table, source: str) -> list[int] | None:
    values = table[source]
    return values.tolist() if isinstance(values, np.ndarray) else None


def matrix_grid(material: Material) -> Json:
    """GPU activity by category and phase."""
    grid = matrix(material.breakdown, material.scale)
    heads = [(c.head, c.number, column_meaning("category", c.head, material.scale)) for c in grid.columns]
    return plain_grid(grid.title, heads, [*map(list, grid.rows)], grid.total)


def gemm_shape_grid(material: Material) -> Json | None:
    """GEMMs by shape, format and role, where their calls were recorded."""
    scale, found = material.scale, gemm_shapes(material.breakdown.tables["recorded_calls"])
    if not any(one.shape for one in found):
        return None
    words, numbers = ("shape M×N×K", "formats", "role"), ("modules", "calls", scale.head, "mean µs", "TFLOP/s")
    heads = [(head, head in numbers, column_meaning("gemm-shape", head, scale)) for head in (*words, *numbers)]
    rows, keys = [], []
    for one in found[:MOST_ROWS]:
        shape = one.shape.replace("x", "×") if one.shape else "(not recorded)"
        mean = microseconds(one.total_ns / one.count) if one.count else ""
        rate = three_digits(one.flops / 1e12) if one.flops > 0 else NOT_CAPTURED
        # What kernels' names tell of those without a call is in the table of GEMMs.
        formats = one.format or ("unknown" if one.shape else "")
        said = [shape, formats, one.role, str(one.modules), scale.count(one.count)]
        rows.append([shortened(word) for word in [*said, scale.ms(one.total_ns), mean, rate]])
        keys.append([one.modules, one.count, one.total_ns, one.total_ns // max(one.count, 1), one.flops])
    table = plain_grid("GEMMs by shape, format and role", heads, rows)
    table["keys"] = [None, None, None, *(list(column) for column in zip(*keys, strict=True))]
    table["more"] = max(len(found) - MOST_ROWS, 0)
    return table


def plain_grid(
    title: str, heads: list[tuple[str, bool, str]], rows: list[list[str]], total: tuple[str, ...] = ()
) -> Json:
    """A table of words alone: head, whether it holds numbers, and meaning of each column; a comparison's are known.

    Columns of numbers are sorted by the number that their words begin with.
    """
    view = comparison_of([head for head, _, _ in heads])
    columns = [
        {"head": head, "number": number, "code": False, "term": term or (column_meaning(view, head) if view else "")}
        for head, number, term in heads
    ]
    keys = [[_number(row[place]) for row in rows] if number else None for place, (_, number, _) in enumerate(heads)]
    return {
        "title": title, "about": "", "columns": columns, "keys": keys, "total": list(total), "more": 0,
        "rows": [[shortened(word) for word in row] for row in rows],
    }  # fmt: skip


def _number(word: str) -> float:
    digits = word.replace(",", "").rstrip("%")
    try:
        value = float(digits)
    except ValueError:
        return -1.0
    # JSON has no NaN, and nothing is sorted by one.
    return value if math.isfinite(value) else -1.0
