"""A comparison as one HTML file: the runs' steps side by side, then every table of what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from tetrace.attribute.classify import CATEGORIES
from tetrace.breakdown.account import BUSY
from tetrace.breakdown.compare import PARTS, Comparison
from tetrace.breakdown.gaps import CAUSES
from tetrace.report import content
from tetrace.report.content import CAUSE_WORDS
from tetrace.report.definitions import DEFINITIONS
from tetrace.report.diff import diff_page, figures_grid, headline, table_grid
from tetrace.report.grid import Grid
from tetrace.report.html.bars import category_marker, cause_marker
from tetrace.report.html.grids import MOST_ROWS, plain_grid
from tetrace.report.html.page import page
from tetrace.report.html.words import label, shortened

Json = dict[str, Any]

_HEIGHT_OF_A_BAR, _AROUND = 44, 80
# What a row is about: of its labels the first that is here.
_ABOUT = ("name", "range", "operation", "before", "module", "part", "phase", "formats")


def html_page(comparisons: Sequence[Comparison], version: str) -> str:
    """The page of one or more comparisons with the same run. Raises `UsageError` without plotly."""
    data = document(comparisons, version)
    return page(data["title"], data)


def document(comparisons: Sequence[Comparison], version: str) -> Json:
    """What the page says, as JSON can hold it; as `data.document` for a report."""
    said = diff_page(comparisons, top=1, format_name="html")
    runs = [(comparisons[0].names[0], comparisons[0].breakdowns[0])]
    runs += [(one.names[1], one.breakdowns[1]) for one in comparisons]
    return {
        "version": version,
        "title": shortened(said.title, 200),
        "origin": shortened(" · ".join(content.origin(run) for _, run in runs)),
        "steps_used": shortened("; ".join(f"{name}: {content.steps_used(run, brief=True)}" for name, run in runs)),
        "plain_step": "",
        "notices": [shortened(line) for line in said.notices],
        "verdict": shortened(" ".join(headline(comparisons[0])) if len(comparisons) == 1 else said.verdict),
        "figures": [],
        "wall": None,
        "findings": [],
        "sections": [
            {
                "id": "steps",
                "title": "Steps side by side",
                "lead": "An average step of each run: busy by category, idle by cause.",
                "blocks": [_bars(comparisons)],
            },
            *(
                section
                for number, one in enumerate(comparisons, 1)
                for section in _sections(one, number, len(comparisons))
            ),
            {"id": "definitions", "title": "Definitions", "lead": "", "blocks": [{"type": "definitions"}]},
        ],
        "definitions": DEFINITIONS,
    }


def _sections(comparison: Comparison, number: int, of: int) -> list[Json]:
    name = f" · {comparison.names[1]}" if of > 1 else ""
    what = shortened(f"From {comparison.names[0]} (a) to {comparison.names[1]} (b): {' '.join(headline(comparison))}")
    made = []
    for table in comparison.tables.values():
        if table.rows:
            grid = _table(table_grid(comparison, table, MOST_ROWS), len(table.keys), len(table.rows))
            lead = what if table.name == PARTS else ""
            blocks = [{"type": "table", "grid": grid}]
            title = shortened(table.title + name, 200)
            made.append({"id": f"{table.name}-{number}", "title": title, "lead": lead, "blocks": blocks})
    figures = _table(figures_grid(comparison), 0, 0)
    blocks = [{"type": "table", "grid": figures}]
    return [*made, {"id": f"figures-{number}", "title": shortened(f"Figures{name}", 200), "lead": "", "blocks": blocks}]


def _table(grid: Grid, labels: int, rows: int) -> Json:
    """A grid that begins with what a row is about and the difference: a narrow screen shows no more. Other labels follow."""
    size = len(grid.columns)
    named = [column.head for column in grid.columns]
    numbers, said = range(size - labels), range(size - labels, size)
    about = [place for head in _ABOUT for place in said if named[place] == head]
    order = [*about[:1], *(place for place in numbers if named[place] == "difference")]
    order += [place for place in (*said, *numbers) if place not in order]
    heads = [(grid.columns[place].head, grid.columns[place].number, "") for place in order]
    lines = [[row[place] for place in order] for row in grid.rows]
    total = tuple(grid.total[place] for place in order) if grid.total else ()
    made = plain_grid(grid.title, heads, lines, total)
    made["more"] = max(rows - len(lines), 0)
    return made


def _bars(comparisons: Sequence[Comparison]) -> Json:
    runs = [(comparisons[0].names[0], {row.labels: row.per_step_ns[0] for row in comparisons[0].tables[PARTS].rows})]
    runs += [(one.names[1], {row.labels: row.per_step_ns[1] for row in one.tables[PARTS].rows}) for one in comparisons]
    return step_bars(runs)


def step_bars(runs: Sequence[tuple[str, Mapping[tuple[str, ...], Fraction | float]]]) -> Json:
    """A bar for each run, all with the same parts in the same colours: ns of an average step by kind and part."""
    parts = [((BUSY, name), name, category_marker(name)) for name in CATEGORIES]
    parts += [(("idle", cause), f"idle, {CAUSE_WORDS[cause]}", cause_marker(cause)) for cause in CAUSES]
    places = list(range(len(runs)))
    data = [
        {
            "type": "bar", "orientation": "h", "name": name, "y": places, "marker": marker,
            "x": [round(float(found.get(key, 0)) / 1e6, 6) for _, found in runs],
            "hovertemplate": "%{x:.3f} ms<extra>%{fullData.name}</extra>",
        }
        for key, name, marker in parts
        if any(found.get(key) for _, found in runs)
    ]  # fmt: skip
    layout = {
        "height": _HEIGHT_OF_A_BAR * len(runs) + _AROUND,
        "barmode": "stack",
        "bargap": 0.3,
        "xaxis": {"title": {"text": "ms per step"}, "rangemode": "tozero", "zeroline": False},
        # Runs may have one name: places keep them apart.
        "yaxis": {
            "automargin": True, "fixedrange": True, "autorange": "reversed", "tickmode": "array", "tickvals": places,
            "ticktext": [label(name, 40) for name, _ in runs],
        },
        "margin": {"l": 8, "r": 16, "t": 8, "b": 48},
        "hovermode": "closest",
    }  # fmt: skip
    words = "; ".join(f"{name}: {float(sum(found.values())) / 1e6:.3f} ms" for name, found in runs)
    spec = {"data": data, "layout": layout}
    return {"type": "chart", "title": "", "said": shortened(words), "legend": True, "spec": spec}
