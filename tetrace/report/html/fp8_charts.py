"""Charts of FP8 statistics: module by step, and one tensor over the steps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.report.html.words import label
from tetrace.report.palette import CATEGORY_COLORS, HEALTH_SCALE

if TYPE_CHECKING:
    from tetrace.breakdown.fp8_maps import History
    from tetrace.report.html.material import Material

Spec = dict[str, Any]

MEASURES = {
    "range_used": ("Range used", "%{z:.3~g} × the largest value", 2.0),
    "saturated": ("Saturated", "%{z:.3%} of the elements", 0.01),
    "flushed": ("Flushed", "%{z:.3%} of what is not zero", 0.2),
    "not_finite": ("NaN and Inf", "%{z:,} elements", 1.0),
}
_ROW_HEIGHT = 18


def health_map(material: Material, measure: str) -> Spec | None:
    """Modules down, steps across; the colour is the worst tensor of the module. Blue is what is well, orange what is not.

    A cell's `customdata` is the tensor's role and the place of its history among `maps.histories`, -1 where it has none.
    """
    maps = material.fp8
    if maps is None:
        return None
    _, said, critical = MEASURES[measure]
    values = maps.measures[measure]
    names = [f"{place + 1}. {label(name, 44)}" for place, name in enumerate(maps.modules)]
    trace = {
        "type": "heatmap",
        "x": list(maps.steps),
        "y": names,
        "z": [[_plain(value) for value in row] for row in values.tolist()],
        "customdata": [
            [[label(role), maps.history_of(module, role)] for role in row]
            for module, row in zip(maps.modules, maps.roles[measure], strict=True)
        ],
        "zmin": 0,
        "zmax": critical,
        "colorscale": [list(stop) for stop in HEALTH_SCALE],
        "xgap": 1 if len(maps.steps) < 120 else 0,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": f"<b>%{{y}}</b><br>step %{{x}}, %{{customdata[0]}}<br>{said}<extra></extra>",
        "colorbar": {"thickness": 10, "outlinewidth": 0, "len": 0.9, "tickformat": ".2~g"},
    }
    height = _ROW_HEIGHT * len(names) + 80
    layout = {
        "height": max(height, 160),
        "meta": {
            "opens": "tensor",
            "note": "A click on a cell shows the tensor's history below." if maps.histories else "",
        },
        "xaxis": {"title": {"text": "step"}, "showgrid": False, "zeroline": False},
        "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False, "fixedrange": True},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 48},
    }
    return {"data": [trace], "layout": layout}


def tensor_history(history: History) -> Spec:
    """Amax and what fits at the scale in use, over the steps; below it what was lost."""
    steps = [step.step for step in history.steps]
    largest = {"E4M3": 448.0, "E5M2": 57344.0}.get(history.format, math.nan)
    blue, orange, red = CATEGORY_COLORS["gemm"], CATEGORY_COLORS["elementwise"], CATEGORY_COLORS["quantization"]

    def line(name: str, values: list[Any], color: str, axis: str, said: str, dash: str = "solid") -> Spec:
        return {
            "type": "scatter", "mode": "lines+markers", "name": name, "x": steps, "y": values, "yaxis": axis,
            "line": {"color": color, "width": 1.8, "dash": dash}, "marker": {"size": 5}, "connectgaps": False,
            "hovertemplate": said + "<extra>%{fullData.name}</extra>",
        }  # fmt: skip

    fits = [_plain(np.float64(largest) / step.scale) if step.scale else None for step in history.steps]
    data = [
        line("amax", [_positive(step.amax) for step in history.steps], blue, "y", "%{y:.4~g}"),
        line("largest that fits", [_positive(value) for value in fits], orange, "y", "%{y:.4~g}", "dash"),
        line("saturated", [_plain(step.saturated) for step in history.steps], red, "y2", "%{y:.3%}"),
        line("flushed", [_plain(step.flushed) for step in history.steps], "#8d99a6", "y2", "%{y:.3%}", "dot"),
    ]
    data = [trace for trace in data if any(value is not None for value in trace["y"])]
    layout = {
        "height": 320,
        "hovermode": "x unified",
        "xaxis": {"title": {"text": "step"}, "showgrid": False, "anchor": "y2"},
        "yaxis": {"type": "log", "title": {"text": "magnitude"}, "domain": [0.42, 1], "tickformat": "~g", "nticks": 6},
        "yaxis2": {"title": {"text": "lost"}, "domain": [0, 0.3], "tickformat": ".1~%", "rangemode": "tozero"},
        "margin": {"l": 64, "r": 12, "t": 8, "b": 48},
    }
    return {"data": data, "layout": layout}


def _plain(value: Any) -> Any:
    """JSON has neither NaN nor infinity."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _positive(value: Any) -> Any:
    """A logarithmic axis has no zero."""
    plain = _plain(value)
    return plain if plain is None or plain > 0 else None
