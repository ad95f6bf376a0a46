"""What a `tetrace.timer` measured, as the terminal shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tetrace.breakdown.tables import MODULE_TIMES, Table
from tetrace.report import content
from tetrace.report.grids import grid_of_fields
from tetrace.report.terminal import WARNING, rendered, table_lines, wrapped
from tetrace.report.views import BY_NAME, module_time_fields

_TOP = 20


def summary(columns: Mapping[str, Any], notes: Sequence[str], width: int, color: bool) -> str:
    """The longest rows of the table `module_times`, what must be known of it, and what its times hold."""
    table = Table(
        MODULE_TIMES,
        {
            column.name: np.array(columns[column.name], np.int64) if column.unit else list(columns[column.name])
            for column in MODULE_TIMES.columns
        },
    )
    lines = list(wrapped([f"! {note}" for note in notes], width, WARNING))
    if len(table):
        title = f"{BY_NAME['module-time'].title}, ms of a sampled step"
        grid = grid_of_fields(table, module_time_fields(table), title, _TOP, False)
        lines += [*table_lines(grid, width, way="a wider terminal"), *wrapped([content.STREAM_TIMES], width, "dim")]
    return rendered(lines, color)
