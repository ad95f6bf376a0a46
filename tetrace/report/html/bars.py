"""Charts of what costs most, as bars that lie, and how bars of categories and idle causes are filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tetrace.report.html.words import label
from tetrace.report.palette import (
    CATEGORY_COLORS,
    CAUSE_COLORS,
    CAUSE_PATTERNS,
    FORMAT_COLORS,
    UNKNOWN_FORMAT_COLOR,
)
from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.report.html.material import Material

Spec = dict[str, Any]

_MOST_BARS = 14
_BAR_HEIGHT, _AROUND = 28, 70


def category_marker(name: str) -> Spec:
    """How bars of a category are filled."""
    return {"color": CATEGORY_COLORS[name], "line": {"width": 0}}


def cause_marker(cause: str) -> Spec:
    """How bars of an idle cause are filled: grey, with the cause's pattern."""
    pattern = {"shape": CAUSE_PATTERNS[cause], "size": 6, "solidity": 0.2, "fgcolor": "#56616d", "fillmode": "overlay"}
    return {"color": CAUSE_COLORS[cause], "line": {"width": 0}, "pattern": pattern}


def format_marker(name: str) -> Spec:
    """How bars of a number format are filled; a pair without a colour of its own has both of its formats'."""
    first, *others = (FORMAT_COLORS.get(one, UNKNOWN_FORMAT_COLOR) for one in _formats_in(name))
    marker: Spec = {"color": first, "line": {"width": 0}}
    if others:
        marker["pattern"] = {"shape": "/", "size": 8, "solidity": 0.5, "fgcolor": others[0], "fillmode": "overlay"}
    return marker


def _formats_in(name: str) -> list[str]:
    turned = "×".join(reversed(name.split("×")))
    return [name] if name in FORMAT_COLORS else [turned] if turned in FORMAT_COLORS else name.split("×")


def quantization(material: Material, by: str) -> Spec | None:
    """Quantization on the GPU by `role` or `module`: only quantizing, and fused kernels on top; a mark is the estimate."""
    table = material.breakdown.tables["quantization"]
    if not len(table):
        return None
    sums: dict[str, list[int]] = {}
    for row in table.rows():
        one = sums.setdefault(row[by] or "role not known", [0, 0, 0])
        one[row["fused"]] += row["total_ns"]
        one[2] = -1 if row["estimate_ns"] < 0 or one[2] < 0 else one[2] + row["estimate_ns"]
    order = sorted(sums.items(), key=lambda item: -item[1][0] - item[1][1])
    rest, order = order[_MOST_BARS:], order[:_MOST_BARS]
    if rest:
        order.append((f"{len(rest)} others", _together([numbers for _, numbers in rest])))
    order.reverse()
    names, steps_of = [label(name, 40) for name, _ in order], material.scale.steps

    def bar(place: int, name: str, **marker: Any) -> Spec:
        return {
            "type": "bar", "orientation": "h", "name": name, "y": names, "marker": {"line": {"width": 0}, **marker},
            "x": [round(numbers[place] / steps_of / 1e6, 6) for _, numbers in order],
            "hovertemplate": "%{x:.3f} ms<extra>%{fullData.name}</extra>",
        }  # fmt: skip

    color = CATEGORY_COLORS["quantization"]
    hatch = {"shape": "/", "size": 6, "solidity": 0.35, "fgcolor": color, "bgcolor": "#f4d9c6", "fillmode": "overlay"}
    known = [(name, numbers[2]) for name, (_, numbers) in zip(names, order, strict=True) if numbers[2] >= 0]
    data = [bar(0, "only quantizes (lower bound)", color=color)]
    if any(numbers[1] for _, numbers in order):
        data.append(bar(1, "fused, whole (to the upper bound)", color="#f4d9c6", pattern=hatch))
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "estimate", "y": [name for name, _ in known],
                "x": [round(ns / steps_of / 1e6, 6) for _, ns in known],
                "marker": {"symbol": "diamond", "size": 9, "color": "#222", "line": {"width": 1, "color": "#fff"}},
                "hovertemplate": "%{x:.3f} ms<extra>estimate</extra>",
            }
        )  # fmt: skip
    return {"data": data, "layout": {**sideways(len(order), material.scale.head), "barmode": "stack"}}


def _together(numbers: list[list[int]]) -> list[int]:
    sums = [sum(column) for column in zip(*numbers, strict=True)]
    return [*sums[:2], -1 if any(one[2] < 0 for one in numbers) else sums[2]]


def host_ranges(material: Material) -> Spec | None:
    """The host ranges that the GPU waits for, over all modules."""
    table, wall = material.breakdown.tables["host_ranges"], material.breakdown.totals.wall_ns
    sums: dict[tuple[str, str, int], int] = {}
    for row in table.rows():
        key = (row["range"], row["phase"], row["quantizes"])
        sums[key] = sums.get(key, 0) + row["host_bound_ns"]
    order = sorted(sums.items(), key=lambda item: -item[1])
    rows = [(f"{name} · {phase}", bool(quantizes), ns) for (name, phase, quantizes), ns in order[:_MOST_BARS] if ns]
    if not rows:
        return None
    rows.reverse()
    names = _distinct([label(name, 44) for name, _, _ in rows])
    steps_of = material.scale.steps
    data = []
    for quantizes, said in ((False, "host-bound idle"), (True, "host-bound idle while it quantizes")):
        chosen = [(name, ns) for name, (_, flag, ns) in zip(names, rows, strict=True) if flag == quantizes]
        marker = {"color": CATEGORY_COLORS["quantization"]} if quantizes else cause_marker("host_bound")
        if chosen:
            data.append(
                {
                    "type": "bar", "orientation": "h", "name": said, "marker": marker, "y": [name for name, _ in chosen],
                    "x": [round(ns / steps_of / 1e6, 6) for _, ns in chosen],
                    "customdata": [percent(ns, wall) for _, ns in chosen],
                    "hovertemplate": "%{x:.3f} ms, %{customdata} of wall<extra></extra>",
                }
            )  # fmt: skip
    layout = sideways(len(rows), material.scale.head)
    layout["yaxis"] = {"categoryorder": "array", "categoryarray": names, "automargin": True, "fixedrange": True}
    others = [ns for _, ns in order[_MOST_BARS:] if ns]
    if others:
        many = duration(sum(others) / steps_of) + material.scale.each
        layout["meta"] = {"note": f"{len(others)} others, each with less, together {many}"}
    return {"data": data, "layout": {**layout, "barmode": "stack"}}


def _distinct(names: list[str]) -> list[str]:
    """Labels that are cut to the same words are told apart, or their bars would be one."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def gemm_formats(material: Material) -> Spec | None:
    """GEMM time by role and format of the operands."""
    table = material.breakdown.tables["gemms"]
    if not len(table):
        return None
    sums: dict[str, dict[str, int]] = {}
    for row in table.rows():
        of_format = sums.setdefault(row["formats"] or "unknown format", {})
        role = row["role"] or "role not known"
        of_format[role] = of_format.get(role, 0) + row["total_ns"]
    roles = list(dict.fromkeys(role for of_format in sums.values() for role in of_format))
    order = sorted(sums.items(), key=lambda item: -sum(item[1].values()))
    whole, steps_of = material.breakdown.fp8_coverage.gemm_ns, material.scale.steps
    data = [
        {
            "type": "bar", "orientation": "h", "name": label(name), "y": roles[::-1],
            "x": [round(of_format.get(role, 0) / steps_of / 1e6, 6) for role in roles[::-1]],
            "marker": format_marker(name),
            "customdata": [percent(of_format.get(role, 0), whole) for role in roles[::-1]],
            "hovertemplate": "%{x:.3f} ms, %{customdata} of GEMM time<extra>%{fullData.name}</extra>",
        }
        for name, of_format in order
    ]  # fmt: skip
    return {"data": data, "layout": {**sideways(len(roles), material.scale.head), "barmode": "stack"}}


def sideways(bars: int, unit: str) -> Spec:
    """The layout of bars that lie, `unit` below them."""
    return {
        "height": _BAR_HEIGHT * max(bars, 1) + _AROUND,
        "bargap": 0.3,
        "xaxis": {"title": {"text": unit}, "rangemode": "tozero", "zeroline": False},
        "yaxis": {"automargin": True, "fixedrange": True},
        "margin": {"l": 8, "r": 16, "t": 8, "b": 48},
        "hovermode": "closest",
    }
