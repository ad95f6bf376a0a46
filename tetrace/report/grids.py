"""Grids made of a breakdown: any view, the matrix of category and phase, and the kernels that a pattern finds."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from tetrace.report.grid import Column, Grid
from tetrace.report.scale import NOT_CAPTURED, Scale, scale_of
from tetrace.report.views import BY_NAME, Field, Row, View, kernels_whole, short_kernel
from tetrace.units import microseconds, milliseconds, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

_LONGEST = 5
_PHASES = ("forward", "backward", "optimizer")
_ALWAYS_SHOWN = ("gemm", "attention", "quantization", "communication")


def grid_of(breakdown: Breakdown, view: View, top: int, wide: bool = False) -> Grid:
    """The first `top` rows of a view (0: all), with the sum over all of them."""
    scale = scale_of(breakdown)
    if view.name == "category":
        return matrix(breakdown, scale)
    table = breakdown.tables[view.table]
    fields = kernels_whole(breakdown, scale) if wide and view.name == "kernel" else view.fields(breakdown, scale)
    return grid_of_fields(table, fields, f"{view.title}{unit_words(view, scale)}", top, view.whole)


def unit_words(view: View, scale: Scale) -> str:
    """What the numbers of a view are, for its title."""
    if view.name == "step":
        return ", ms of each step"
    if view.name == "module-time":
        return ", ms of a sampled step"
    if view.name == "lane":
        return f", ms{scale.each or ' in all'}"
    if view.name == "backend":
        return ", counts in the whole recording"
    if view.name in ("module-memory", "memory-peak"):
        return ""
    return f", ms and counts{scale.each or ' in all'}"


def grid_of_fields(table: Table, fields: list[Field], title: str, top: int, whole: bool) -> Grid:
    """The first `top` rows of a table (0: all) under a title; with `whole`, the sum over all of them."""
    if not len(table):
        return Grid(title, (), (), note="none in the selected steps")
    fields = [field for field in fields if field.always or has_any(table, field.source)]
    shown = len(table) if top <= 0 else min(top, len(table))
    rows = tuple(tuple(field.say(row) for field in fields) for row in table.take(range(shown)).rows())
    words = [i for i, field in enumerate(fields) if not field.column.number]
    # The sum is called so in a column that a narrow screen keeps.
    label = next((i for i in words if fields[i].column.code and not fields[i].column.keep), words[0])
    total = (
        tuple(_total(table, field, i == label) for i, field in enumerate(fields)) if whole and len(table) > 1 else ()
    )
    left = len(table) - shown
    note = f"{left:,} more row{'' if left == 1 else 's'}: --top 0 shows all" if left else ""
    return Grid(title, tuple(field.column for field in fields), rows, total, note)


def has_any(table: Table, source: str) -> bool:
    """Whether a column holds anything: a number above zero, or a word."""
    column = table[source]
    return bool((column > 0).any()) if isinstance(column, np.ndarray) else any(column)


def _total(table: Table, field: Field, is_label: bool) -> str:
    if field.sum_up is None:
        return "all" if is_label else ""
    column = table[field.source]
    return NOT_CAPTURED if (column < 0).any() else field.sum_up(int(column.sum()))


def host_grids(breakdown: Breakdown, top: int, wide: bool = False) -> list[Grid]:
    """The first tables of a recording without GPU activities: by module on streams, by process, the longest steps, by
    module on the host."""
    grids = [
        grid_of(breakdown, BY_NAME[name], top, wide) for name in ("module-time", "host-module") if _has(breakdown, name)
    ]
    if breakdown.tables["host_steps"]["wall_ns"].any():
        at = 1 if _has(breakdown, "module-time") else 0
        grids[at:at] = [*_processes(breakdown), _longest_steps(breakdown)]
    return grids


def _has(breakdown: Breakdown, view: str) -> bool:
    return len(breakdown.tables[BY_NAME[view].table]) > 0


def _longest_steps(breakdown: Breakdown) -> Grid:
    steps = breakdown.tables["host_steps"]
    counted = steps.take([i for i, used in enumerate(steps["used"].tolist()) if used]).sorted_by("wall_ns")
    shown = counted.take(range(min(len(counted), _LONGEST)))
    which = f"the longest {len(shown)} of {len(counted)}, " if len(shown) < len(counted) else ""
    title = f"Steps on the host, {which}ms of each step"
    grid = grid_of_fields(shown, BY_NAME["host-step"].fields(breakdown, scale_of(breakdown)), title, 0, False)
    return dataclasses.replace(grid, note=f"--by host-step has all {len(steps):,}" if len(steps) > len(shown) else "")


def _processes(breakdown: Breakdown) -> list[Grid]:
    """A row for each process, the slowest first, where there are several."""
    steps, trace = breakdown.tables["host_steps"], breakdown.attribution.trace
    counted = steps.take([i for i, used in enumerate(steps["used"].tolist()) if used])
    own = sorted(set(counted["process"].tolist()))
    if len(own) < 2:
        return []
    pid, rank = trace.column("processes", "pid").tolist(), trace.column("processes", "rank").tolist()
    lines = []
    for process in own:
        rows = counted.take([i for i, one in enumerate(counted["process"].tolist()) if one == process])
        times = [rows["wall_ns"], *(rows[f"{phase}_ns"] for phase in _PHASES)]
        means = [NOT_CAPTURED if (ns < 0).any() else milliseconds(float(ns.mean())) for ns in times]
        said = (str(pid[process]), "" if rank[process] < 0 else str(rank[process]), str(len(rows)))
        lines.append((float(rows["wall_ns"].mean()), (*said, *means)))
    heads = [Column(head) for head in ("pid", "rank", "steps", "wall ms", *_PHASES)]
    ordered = tuple(line for _, line in sorted(lines, key=lambda item: -item[0]))
    return [Grid("Processes, the slowest first, mean ms of a step on the host", tuple(heads), ordered)]


def matrix(breakdown: Breakdown, scale: Scale, rows: int = 0) -> Grid:
    """GPU activity by category (rows) and phase (columns); with `rows`, the small categories are one row."""
    table = breakdown.tables["phases"]
    cells = {(row["category"], row["phase"]): row["total_ns"] for row in table.rows()}
    phases = list(dict.fromkeys(table["phase"]))
    sums = {
        category: sum(cells.get((category, phase), 0) for phase in phases)
        for category in dict.fromkeys(table["category"])
    }
    order = sorted(sums, key=lambda category: -sums[category])
    whole = breakdown.totals.activity_ns

    def line(label: str, members: list[str]) -> tuple[str, ...]:
        each = [sum(cells.get((category, phase), 0) for category in members) for phase in phases]
        return (label, *(scale.ms(ns) if ns else "·" for ns in each), scale.ms(sum(each)), percent(sum(each), whole))

    if rows and len(order) > rows:
        # What this tool is about keeps its row, however small.
        shown = sorted(order, key=lambda category: category not in _ALWAYS_SHOWN)[: rows - 1]
        rest = [category for category in order if category not in shown]
        lines = [
            *(line(category, [category]) for category in order if category in shown),
            line(f"{len(rest)} others", rest),
        ]
    else:
        lines = [line(category, [category]) for category in order]
    heads = [
        Column("category", number=False),
        *(Column(phase) for phase in phases),
        Column("all"),
        Column("of activity", keep=1),
    ]
    title = f"GPU activity (summed over streams), ms{scale.each or ' in all'}"
    return Grid(title, tuple(heads), tuple(lines), line("all", order) if len(order) > 1 else ())


def matches_grid(breakdown: Breakdown, pattern: str, top: int, wide: bool = False) -> Grid:
    """Kernels that `pattern` finds: each with its sum, and below it where it ran."""
    from tetrace.breakdown.kernel_search import kernel_matches

    scale, whole = scale_of(breakdown), breakdown.totals.activity_ns
    table = kernel_matches(breakdown, pattern)
    rows: list[tuple[str, ...]] = []
    by_name: dict[str, list[Row]] = {}
    for row in table.rows():
        by_name.setdefault(row["name"], []).append(row)
    family = {row["name"]: short_kernel(row) for row in breakdown.tables["kernels"].rows()} if not wide else {}

    def line(parts: list[Row], words: str) -> tuple[str, ...]:
        total, n = sum(part["total_ns"] for part in parts), sum(part["count"] for part in parts)
        shortest, longest = min(part["min_ns"] for part in parts), max(part["max_ns"] for part in parts)
        mean, *extremes = (microseconds(ns) for ns in (total / n, shortest, longest))
        return (scale.ms(total), percent(total, whole), scale.count(n), mean, *extremes, words)

    shown = list(by_name.items())[: top if top > 0 else None]
    for name, parts in shown:
        rows.append(line(parts, family.get(name, name)))
        rows += [line([part], f"  {part['phase']}  {part['module']}") for part in parts]
    columns = (
        Column(scale.head), Column("of activity"), Column("count"), Column("mean µs", keep=1), Column("min µs", keep=2),
        Column("max µs", keep=2), Column("kernel", number=False, code=True),
    )  # fmt: skip
    kernels = len(set(breakdown.tables["kernels"]["name"]))
    title = f"{len(by_name)} of {kernels} kernels match {pattern}, ms and counts{scale.each or ' in all'}"
    left = len(by_name) - len(shown)
    everything = line([part for parts in by_name.values() for part in parts], "all that match")
    return Grid(title, columns, tuple(rows), everything, f"{left} more kernels: --top 0 shows all" if left else "")
