"""A study's report as one HTML file: its sections with the tables of the other reports, and charts of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import Grid
from tetrace.report.html.comparison import step_bars
from tetrace.report.html.grids import MOST_ROWS, plain_grid
from tetrace.report.html.page import page
from tetrace.report.html.words import label, shortened
from tetrace.report.palette import PHASE_COLORS, SERIES_COLORS
from tetrace.study.section import Json, Section
from tetrace.study.surroundings import MEANINGS, notices

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.study.material import Material
    from tetrace.study.report import Report
    from tetrace.study.results import Configuration
    from tetrace.study.sweep import Line, Swept

_BAR, _AROUND = 30, 90
# Readable on bars, on paper and in the dark.
_INTERVAL = SERIES_COLORS[4]
_MARKS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hexagon")


def html_page(report: Report, version: str) -> str:
    """The page. Raises `UsageError` without plotly."""
    data = document(report, version)
    return page(data["title"], data)


def document(report: Report, version: str) -> Json:
    """What the page says, as JSON can hold it."""
    material = report.material
    results = material.results
    versions = (f"{name} {said}" for name, said in results.versions.items() if said)
    return {
        "version": version,
        "title": shortened(report.title, 200),
        "origin": shortened(" · ".join(str(one) for one in (results.machine.get("gpu") or "", *versions) if one)),
        "steps_used": shortened(report.study.question),
        "plain_step": shortened(report.study.glossary),
        "notices": [shortened(line) for line in notices(material)],
        "verdict": shortened(report.verdict),
        "figures": [],
        "wall": None,
        "findings": [],
        "sections": [_section(report, section) for section in report.sections],
        "definitions": MEANINGS,
    }


def _section(report: Report, section: Section) -> Json:
    if section.id == "meanings":
        blocks: list[Json] = [{"type": "definitions"}]
    else:
        blocks = [{"type": "text", "text": shortened(line)} for line in section.said]
        blocks += list(_charts(report, section.id))
        for grid in section.grids:
            blocks += _table(grid)
        if section.more:
            blocks.append({"type": "tables", "grids": [_grid(grid) for grid in section.more]})
        for title, text in section.quoted:
            blocks.append({"type": "text", "text": shortened(f"{title}:")})
            blocks.append({"type": "quote", "text": "\n".join(shortened(line) for line in text.splitlines()[-40:])})
    return {"id": section.id, "title": section.title, "lead": "", "blocks": blocks}


def _table(grid: Grid) -> list[Json]:
    blocks: list[Json] = [{"type": "table", "grid": _grid(grid)}]
    if grid.note:
        blocks.append({"type": "text", "text": shortened(grid.note)})
    return blocks


def _grid(grid: Grid) -> Json:
    """A grid with its words before its numbers: on a narrow screen the first column is what is seen."""
    order = list(range(len(grid.columns)))
    if grid.columns and grid.columns[0].number:
        place = next((place for place in order if not grid.columns[place].number), 0)
        order = [place, *(one for one in order if one != place)]
    heads = [(grid.columns[place].head, grid.columns[place].number, "") for place in order]
    rows = [[row[place] for place in order] for row in grid.rows[:MOST_ROWS]]
    total = tuple(grid.total[place] for place in order) if grid.total else ()
    made = plain_grid(grid.title, heads, rows, total)
    made["title"] = shortened(grid.title, 300)
    for column, place in zip(made["columns"], order, strict=True):
        column["code"] = grid.columns[place].code
        column["head"] = shortened(column["head"], 100)
    made["more"] = max(len(grid.rows) - MOST_ROWS, 0)
    return made


def _charts(report: Report, section: str) -> Iterator[Json]:
    if section == "measured":
        for name, members in report.material.matrices():
            yield from _times_chart(report.material, name, members)
    if section == "recorded":
        yield from _recorded_chart(report.material)
    if section == "sweeps":
        for swept in report.swept:
            yield from _sweep_chart(swept)


def _times_chart(material: Material, name: str, members: tuple[Configuration, ...]) -> Iterator[Json]:
    """A bar for each configuration, by phase, with the interval of the whole step."""
    known = [(one.name, time) for one in members if (time := material.time(one.name)) is not None]
    if not known:
        return
    names = [label(one, 48) for one, _ in known]
    places = list(range(len(known)))
    phases = [phase for phase in material.phases if any(material.time(one, phase) for one, _ in known)]
    data: list[Json] = []
    for phase in phases or ["total"]:
        values = [material.time(one, phase) for one, _ in known]
        color = PHASE_COLORS.get(phase, SERIES_COLORS[len(data) % len(SERIES_COLORS)])
        data.append(
            {
                "type": "bar", "orientation": "h", "name": label(phase), "y": places,
                "marker": {"color": color, "line": {"width": 0}},
                "x": [round(value.value / 1e6, 6) if value else None for value in values],
                "hovertemplate": "%{x:.3f} ms<extra>%{fullData.name}</extra>",
            }
        )  # fmt: skip
    data.append(_interval_marks(known, places))
    layout = {
        "height": _BAR * len(known) + _AROUND, "barmode": "stack", "bargap": 0.3, "hovermode": "closest",
        "xaxis": {"title": {"text": "ms a step"}, "rangemode": "tozero", "zeroline": False},
        "yaxis": {
            "automargin": True, "fixedrange": True, "autorange": "reversed", "tickmode": "array", "tickvals": places,
            "ticktext": names,
        },
        "margin": {"l": 8, "r": 16, "t": 8, "b": 48},
    }  # fmt: skip
    words = "; ".join(f"{one}: {time.value / 1e6:.3f} ms" for one, time in known)
    title = name if len(material.matrices()) > 1 else ""
    yield {
        "type": "chart", "title": shortened(title), "said": shortened(words), "legend": True,
        "spec": {"data": data, "layout": layout},
    }  # fmt: skip


def _interval_marks(known: list[tuple[str, Any]], places: list[int]) -> Json:
    """The whole step of each, with its interval."""
    times = [time.mapped(lambda ns: ns / 1e6) for _, time in known]
    return {
        "type": "scatter", "mode": "markers", "name": "step, 95%", "y": places, "x": [round(one.value, 6) for one in times],
        "marker": {"symbol": "line-ns-open", "size": 12, "color": _INTERVAL, "line": {"width": 2}},
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 5, "color": _INTERVAL,
            "array": [round((one.high if one.high is not None else one.value) - one.value, 6) for one in times],
            "arrayminus": [round(one.value - (one.low if one.low is not None else one.value), 6) for one in times],
        },
        "hovertemplate": "%{x:.3f} ms<extra>%{fullData.name}</extra>",
    }  # fmt: skip


def _recorded_chart(material: Material) -> Iterator[Json]:
    """An average recorded step of each configuration: busy by category, idle by cause."""
    runs = [(one.name, parts) for one in material.configurations if (parts := _parts(material.breakdown(one.name)))]
    if runs:
        yield step_bars(runs)


def _parts(run: Breakdown | None) -> Mapping[tuple[str, ...], float]:
    from tetrace.breakdown.account import BUSY, IDLE
    from tetrace.breakdown.busy_categories import busy_by_category

    if run is None or not run.totals.activities:
        return {}
    steps = max(run.totals.steps, 1)
    parts: dict[tuple[str, ...], float] = {
        (BUSY, name): ns / steps for name, ns in busy_by_category(run).totals().items()
    }
    return {**parts, **{(IDLE, cause): ns / steps for cause, ns in run.totals.idle_ns.items()}}


def _sweep_chart(swept: Swept) -> Iterator[Json]:
    """A line for each group along the numeric option, with intervals."""
    data = [trace for place, line in enumerate(swept.lines) if (trace := _trace(line, place))]
    if not data:
        return
    is_positive = all(point.x > 0 for line in swept.lines for point in line.points)
    axis = {"title": {"text": label(swept.sweep.along)}, "zeroline": False, **({"type": "log"} if is_positive else {})}
    places = sorted({point.x for line in swept.lines for point in line.points})
    axis |= {"tickmode": "array", "tickvals": places, "ticktext": [f"{one:,g}" for one in places]}
    unit = "ms a step" if swept.sweep.figure.endswith("_ms") else swept.sweep.figure
    layout = {
        "height": 380, "hovermode": "closest", "xaxis": axis, "margin": {"l": 56, "r": 16, "t": 8, "b": 48},
        "yaxis": {"title": {"text": label(unit)}, "rangemode": "tozero", "zeroline": False},
    }  # fmt: skip
    said = "; ".join(f"{line.name}: {len(line.points)} points" for line in swept.lines)
    yield {
        "type": "chart", "title": shortened(swept.title), "said": shortened(said), "legend": True,
        "spec": {"data": data, "layout": layout},
    }  # fmt: skip


def _trace(line: Line, place: int) -> Json | None:
    known = [(point.x, point.found.estimate) for point in line.points if point.found.estimate is not None]
    if not known:
        return None
    color = SERIES_COLORS[place % len(SERIES_COLORS)]
    return {
        "type": "scatter", "mode": "lines+markers", "name": label(line.name or "measured"), "x": [x for x, _ in known],
        "y": [round(one.value, 6) for _, one in known], "line": {"color": color, "width": 2},
        "marker": {"symbol": _MARKS[place % len(_MARKS)], "size": 8, "color": color},
        "error_y": {
            "type": "data", "symmetric": False, "color": color, "thickness": 1.2,
            "array": [round((one.high if one.high is not None else one.value) - one.value, 6) for _, one in known],
            "arrayminus": [round(one.value - (one.low if one.low is not None else one.value), 6) for _, one in known],
        },
        "hovertemplate": "%{x:,}: %{y:.3f}<extra>%{fullData.name}</extra>",
    }  # fmt: skip
