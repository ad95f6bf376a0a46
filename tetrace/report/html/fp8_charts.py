"""Charts of FP8 statistics: module by step, and one tensor over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.breakdown.fp8_maps import tensor_name
from tetrace.report.html.words import label
from tetrace.report.palette import CATEGORY_COLORS, HEALTH_SCALE

if TYPE_CHECKING:
    from tetrace.breakdown.fp8_maps import Fp8Maps, History
    from tetrace.report.html.material import Material

Spec = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """A map of the page: what a cell says of its number, and what the colour bar says; from `ticks[-1]` on all is critical."""

    title: str
    said: str
    unit: str
    ticks: tuple[float, ...]
    tick: Callable[[float], str]


def _share(value: float) -> str:
    return f"{100 * value:g}%"


MEASURES = {
    "range_used": Measure(
        "Range used", "%{z:.1%} of the largest value", "of the format's largest value", (0, 0.5, 1, 1.5, 2), _share
    ),
    "clipped": Measure(
        "Clipped", "%{z:.3%} of the elements", "of the elements", (0, 0.0025, 0.005, 0.0075, 0.01), _share
    ),
    "at_max": Measure(
        "Codes at ±max", "%{z:.3%} of the FP8 codes", "of the FP8 codes", (0, 0.0025, 0.005, 0.0075, 0.01), _share
    ),
    "flushed": Measure(
        "Flushed", "%{z:.3%} of what is not zero", "of what is not zero", (0, 0.05, 0.1, 0.15, 0.2), _share
    ),
    "not_finite": Measure("NaN and Inf", "%{z:,} elements", "elements", (0, 1), "{:g}".format),
}
_ROW_HEIGHT = 18
HAS, HAS_NONE = "click: its history", "its history is not in this file"


def health_map(material: Material, measure: str) -> Spec | None:
    """Modules down, steps across; the colour is the worst tensor of the module. Blue is what is well, orange what is not. None
    where nothing of it was recorded.

    A cell's `customdata` is the tensor's role, the place of its history among `maps.histories` (-1 where it has none), what
    is said of that, and the tensor's name.
    """
    maps = material.fp8
    if maps is None or np.isnan(maps.measures[measure]).all():
        return None
    shown, values = MEASURES[measure], maps.measures[measure]
    names = [f"{place + 1}. {label(name, 44)}" for place, name in enumerate(maps.modules)]
    trace = {
        "type": "heatmap",
        "x": list(maps.steps),
        "y": names,
        "z": [[_plain(value, 4) for value in row] for row in values.tolist()],
        "customdata": [
            [_tensor(maps, module, role) for role in row]
            for module, row in zip(maps.modules, maps.roles[measure], strict=True)
        ],
        "zmin": 0,
        "zmax": shown.ticks[-1],
        "colorscale": [list(stop) for stop in HEALTH_SCALE],
        "xgap": 1 if len(maps.steps) < 120 else 0,
        "ygap": 1,
        "hoverongaps": False,
        "hovertemplate": f"<b>%{{y}}</b><br>step %{{x}}, %{{customdata[0]}}<br>{shown.said}<br>%{{customdata[2]}}<extra></extra>",
        "colorbar": _color_bar(shown),
    }
    height = _ROW_HEIGHT * len(names) + 80
    layout = {
        "height": max(height, 160),
        "meta": {
            "opens": "tensor",
            "note": _note(maps),
        },
        "xaxis": {"title": {"text": "step"}, "showgrid": False, "zeroline": False},
        "yaxis": {"autorange": "reversed", "automargin": True, "showgrid": False, "fixedrange": True},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 48},
    }
    return {"data": [trace], "layout": layout}


def _tensor(maps: Fp8Maps, module: str, role: str) -> list[Any]:
    place = maps.history_of(module, role)
    return [label(role), place, HAS if place >= 0 else HAS_NONE, label(tensor_name(module, role), 200)]


def _color_bar(shown: Measure) -> Spec:
    """The last colour is that of all that is critical."""
    words = [shown.tick(value) for value in shown.ticks]
    return {
        "thickness": 10, "outlinewidth": 0, "len": 0.9, "tickmode": "array", "tickvals": list(shown.ticks),
        "ticktext": [*words[:-1], f"≥ {words[-1]}"], "title": {"text": shown.unit, "side": "right"},
    }  # fmt: skip


def _note(maps: Fp8Maps) -> str:
    said = ["A click on a cell shows the tensor's history below."] if maps.histories else []
    if maps.without_history:
        said.append("Cells without one in this file say so.")
    if maps.steps_left_out:
        recorded = len(maps.steps) + maps.steps_left_out
        said.append(f"{len(maps.steps)} of {recorded:,} recorded steps are shown, evenly spread.")
    return " ".join(said)


def compact(spec: Spec) -> Spec:
    """A map in less text, for a page: each cell's `customdata` is a place in the layout's `meta.cells`."""
    (trace,) = spec["data"]
    places: dict[tuple[Any, ...], int] = {}
    rows = [[places.setdefault(tuple(cell), len(places)) for cell in row] for row in trace["customdata"]]
    meta = {**spec["layout"]["meta"], "cells": [list(cell) for cell in places]}
    return {"data": [{**trace, "customdata": rows}], "layout": {**spec["layout"], "meta": meta}}


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
        line("clipped", [_plain(step.clipped) for step in history.steps], red, "y2", "%{y:.3%}"),
        line("codes at ±max", [_plain(step.at_max) for step in history.steps], red, "y2", "%{y:.3%}", "dash"),
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


def _plain(value: Any, digits: int = 6) -> Any:
    """JSON has neither NaN nor infinity. Whole numbers need no point."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _positive(value: Any) -> Any:
    """A logarithmic axis has no zero."""
    plain = _plain(value)
    return plain if plain is None or plain > 0 else None
