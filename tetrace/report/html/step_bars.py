"""Charts of time: a bar for each step, for each lane, and one step as it ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.breakdown.busy_categories import ORDER
from tetrace.breakdown.gaps import CAUSES
from tetrace.breakdown.one_step import LAUNCHING
from tetrace.report.content import CAUSE_WORDS
from tetrace.report.html.bars import category_marker, cause_marker, sideways
from tetrace.report.html.words import label
from tetrace.report.palette import CATEGORY_COLORS, LAUNCHING_COLOR, USED_COLOR
from tetrace.units import duration

if TYPE_CHECKING:
    from tetrace.breakdown.tables import Table
    from tetrace.report.html.material import Material

Spec = dict[str, Any]

_MOST_STEPS = 200
# A step this much longer than those that are counted ends above the axis.
_OFF_SCALE, _MOST_MARKED = 2.0, 24


def lane_names(material: Material) -> list[str]:
    """Lanes as people call them."""
    lanes = material.breakdown.tables["lanes"]
    rows = zip(lanes["rank"].tolist(), lanes["pid"].tolist(), lanes["device"].tolist(), strict=True)
    return [
        ", ".join([*([f"rank {rank}"] if rank >= 0 else []), *([f"pid {pid}"] if pid >= 0 else []), f"device {device}"])
        for rank, pid, device in rows
    ]


def steps(material: Material, lane: int = 0) -> Spec | None:
    """A bar a step of a lane: busy time by category, idle time by cause; the steps that are counted are underlined."""
    breakdown = material.breakdown
    table, lanes = breakdown.tables["steps"], breakdown.tables["lanes"]
    if not len(table) or not len(lanes):
        return None
    own = (table["process"] == lanes["process"][lane]) & (table["device"] == lanes["device"][lane])
    rows = np.flatnonzero(own)
    if not len(rows):
        return None
    groups = _groups(rows, table["used"])
    ticks = [_step_words(table, group) for group in groups]
    fade = [1.0 if table["used"][group[0]] else 0.38 for group in groups]
    data: list[Spec] = []
    for name, ns, marker in _stack(material.busy.windows, table, groups):
        faded = {**marker, "opacity": fade}
        data.append({"type": "bar", "name": name, "x": list(range(len(groups))), "y": ns, "marker": faded})
    for trace in data:
        trace["hovertemplate"] = "%{y:.3f} ms"
    reasons = [_reason(table, group) for group in groups]
    wall = _means(table["wall_ns"], groups)
    data.append(
        {
            "type": "scatter", "mode": "markers", "name": "wall", "x": list(range(len(groups))), "y": wall,
            "customdata": reasons, "marker": {"color": "rgba(0,0,0,0)", "size": 1}, "showlegend": False,
            "hovertemplate": "%{y:.3f} ms %{customdata}",
        }
    )  # fmt: skip
    every = max(len(groups) // 16, 1)
    layout = {
        "barmode": "stack",
        "bargap": 0.18 if len(groups) < 80 else 0.05,
        "hovermode": "x unified",
        "height": 380,
        "xaxis": {
            "title": {"text": "step"},
            "tickvals": list(range(0, len(groups), every)),
            "ticktext": ticks[::every],
            "showgrid": False,
            "zeroline": False,
        },
        "yaxis": {"title": {"text": "ms"}, "rangemode": "tozero", **_height(table, groups, wall)},
        "annotations": _off_scale(table, groups, wall),
        "shapes": [_underline(a, b) for a, b in _used_runs(table, groups)],
        "margin": {"l": 56, "r": 12, "t": 12, "b": 56},
    }
    return {"data": data, "layout": layout}


def _groups(rows: Any, used: Any) -> list[list[int]]:
    """Rows of the table that are one bar: single steps, or the mean of neighbours where there are too many."""
    size = -(-len(rows) // _MOST_STEPS)
    groups: list[list[int]] = []
    for row in rows.tolist():
        if groups and len(groups[-1]) < size and used[groups[-1][0]] == used[row]:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _step_words(table: Table, group: Sequence[int]) -> str:
    first, last = int(table["step"][group[0]]), int(table["step"][group[-1]])
    return str(first) if first == last else f"{first}–{last}"


def _reason(table: Table, group: Sequence[int]) -> str:
    if table["used"][group[0]]:
        return "(counted)" if len(group) == 1 else f"(counted, mean of {len(group)} steps)"
    return label(f"(left out: {table['reason'][group[0]]})")


def _means(column: Any, groups: list[list[int]]) -> list[float]:
    return [round(sum(int(column[row]) for row in group) / len(group) / 1e6, 6) for group in groups]


def _stack(busy: Any, table: Table, groups: list[list[int]]) -> Iterator[tuple[str, list[float], Spec]]:
    for place, name in enumerate(ORDER):
        ms = _means(busy[:, place], groups)
        if any(ms):
            yield name, ms, category_marker(name)
    for cause in CAUSES:
        ms = _means(table[f"{cause}_ns"], groups)
        if any(ms):
            yield f"idle, {CAUSE_WORDS[cause]}", ms, cause_marker(cause)


def _height(table: Table, groups: list[list[int]], wall: list[float]) -> Spec:
    """The axis is for the steps that are counted: a warm-up of seconds would leave nothing of them."""
    top = _top(table, groups, wall)
    return {"range": [0, top]} if top < max(wall) else {}


def _top(table: Table, groups: list[list[int]], wall: list[float]) -> float:
    used = [ms for ms, group in zip(wall, groups, strict=True) if table["used"][group[0]]]
    highest = max(used, default=max(wall))
    return highest * 1.35 if max(wall) > _OFF_SCALE * highest else max(wall)


def _off_scale(table: Table, groups: list[list[int]], wall: list[float]) -> list[Spec]:
    """What bars say that end above the axis."""
    top = _top(table, groups, wall)
    return [
        {
            "x": place, "y": top, "yanchor": "top", "showarrow": False, "font": {"size": 10}, "textangle": -90,
            "text": f"↑ {ms:,.0f} ms", "bgcolor": "rgba(255,255,255,0.8)", "bordercolor": "rgba(0,0,0,0)",
        }
        for place, ms in enumerate(wall)
        if ms > top
    ][:_MOST_MARKED]  # fmt: skip


def _used_runs(table: Table, groups: list[list[int]]) -> list[tuple[int, int]]:
    runs: list[list[int]] = []
    for place, group in enumerate(groups):
        if not table["used"][group[0]]:
            continue
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return [(a, b) for a, b in runs]


def _underline(first: int, last: int) -> Spec:
    around = {"type": "rect", "xref": "x", "yref": "paper", "line": {"width": 0}, "fillcolor": USED_COLOR}
    return {**around, "x0": first - 0.45, "x1": last + 0.45, "y0": -0.022, "y1": -0.008}


def lanes(material: Material) -> Spec | None:
    """A bar a lane over the selected steps, where there are several."""
    table = material.breakdown.tables["lanes"]
    if len(table) < 2:
        return None
    names = lane_names(material)
    steps_of = np.maximum(table["steps"], 1) if material.breakdown.selection.per_step else np.ones(len(table), np.int64)
    data = [
        {
            "type": "bar", "orientation": "h", "name": name, "y": names, "marker": marker,
            "x": [round(one / count / 1e6, 6) for one, count in zip(ns.tolist(), steps_of.tolist(), strict=True)],
            "hovertemplate": "%{x:.3f} ms<extra>%{fullData.name}</extra>",
        }
        for name, ns, marker in _lane_parts(material, table)
    ]  # fmt: skip
    unit = "ms per step" if material.breakdown.selection.per_step else "ms"
    return {"data": data, "layout": {**sideways(len(table), unit), "barmode": "stack"}}


def _lane_parts(material: Material, table: Table) -> Iterator[tuple[str, Any, Spec]]:
    for place, name in enumerate(ORDER):
        ns = material.busy.lanes[:, place]
        if ns.any():
            yield name, ns, category_marker(name)
    for cause in CAUSES:
        if table[f"{cause}_ns"].any():
            yield f"idle, {CAUSE_WORDS[cause]}", table[f"{cause}_ns"], cause_marker(cause)


def timeline(material: Material) -> Spec | None:
    """The step nearest to the median as it ran: a track a stream, and one for the calls that launch."""
    shown = material.timeline
    if shown is None or not shown.bars:
        return None
    tracks = list(dict.fromkeys(bar.track for bar in shown.bars))
    tracks.sort(key=lambda track: track == LAUNCHING)
    data = []
    for kind in dict.fromkeys(bar.kind for bar in shown.bars):
        bars = [bar for bar in shown.bars if bar.kind == kind]
        marker = category_marker(kind) if kind in CATEGORY_COLORS else {"color": LAUNCHING_COLOR, "line": {"width": 0}}
        data.append(
            {
                "type": "bar", "orientation": "h", "name": kind, "marker": marker, "width": 0.72,
                "y": [bar.track for bar in bars],
                "base": [round(bar.start_ns / 1e6, 6) for bar in bars],
                "x": [round(bar.length_ns / 1e6, 6) for bar in bars],
                "customdata": [_said(bar.name, bar.kind, bar.count, bar.length_ns) for bar in bars],
                "hovertemplate": "%{customdata}<extra></extra>",
            }
        )  # fmt: skip
    layout = sideways(len(tracks), "ms from the start of the step")
    layout["height"] = 34 * len(tracks) + 90
    layout["yaxis"] = {"categoryorder": "array", "categoryarray": tracks, "automargin": True, "fixedrange": True}
    layout["xaxis"] = {**layout["xaxis"], "range": [0, shown.wall_ns / 1e6]}
    layout["barmode"], layout["dragmode"] = "overlay", "zoom"
    return {"data": data, "layout": layout}


def _said(name: str, kind: str, count: int, ns: int) -> str:
    if count == 1:
        return f"<b>{label(name)}</b><br>{kind}, {duration(ns)}"
    return f"<b>{label(name) or kind}</b><br>{count} of them and what lies between, {duration(ns)}"
