"""A budget from a run: what it does today, with a margin, as a file that says what each limit is."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from tetrace.breakdown.budget import BASELINE, LIMITS, STEP_RATIO
from tetrace.breakdown.figures import BY_NAME, COUNT, MS, PERCENT, Figure, Run, words
from tetrace.breakdown.noise import noise

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

# The figures that a budget begins with.
_CHOSEN = (
    "step_ms", "busy_ms", "host_bound_ms", "exposed_communication_ms", "quantization_pct", "fp8_coverage_pct",
    "unattributed_pct", "launches", "weight_casts", "synchronizing_calls", "dropped_records", "largest_saturation_pct",
    "attention_backend",
)  # fmt: skip
# What a figure may grow by at least: of ms and counts a share, of percentages so many of them.
_GROWTH, _POINTS, _CALLS = 0.05, 1.0, 0.02
_FALLBACKS = {"largest_saturation_pct": "{ max = 1 }", "attention_backend": '"FusedAttention"'}


def budget_of(breakdown: Breakdown, name: str) -> str:
    """The text of a budget that the run keeps to. `name` is what to call the run."""
    run = Run(breakdown)
    lines = [
        f"# Limits for `tetrace check RUN --budget THIS`, written from {_plain(name)}.",
        f"# It has {breakdown.totals.steps} steps that are counted. Margins: 5% of times, 2% of launches, a point of percentages",
        "# (5% of those that may grow, where that is more), nothing of other counts; of all at least what the steps scatter by.",
        "# Make them as tight as you like. `tetrace check --figures` lists what can be limited.",
        "",
        f"[{LIMITS}]",
        *(line for figure in _CHOSEN for line in _entry(BY_NAME[figure], run)),
        "",
        "# Ratios to the run of --baseline. A ratio breaks the budget where it is beyond its limit and beyond the noise of",
        "# both runs; fewer than 8 steps cannot tell their noise.",
        f"[{BASELINE}]",
        f"step_ms = {{ max_ratio = {STEP_RATIO} }}",
        "",
        "# Any other number of a report: the sum of a column over rows of a table (docs/tables.md), in a step; ns in ms.",
        "# [[rows]]",
        '# name = "GEMMs of the backward"',
        '# table = "phases"',
        '# where = { phase = "backward", category = "gemm" }',
        '# column = "total_ns"',
        "# max = 1.5",
    ]
    return "\n".join(lines) + "\n"


def _entry(figure: Figure, run: Run) -> list[str]:
    value = figure.value(run)
    said = f"# {figure.sentence} "
    if value is None:
        return [f"{said}Not recorded in this run.", f"# {figure.name} = {_FALLBACKS.get(figure.name, '{ max = 0 }')}"]
    now = f"{said}Now {_plain(words(figure, value))}."
    if isinstance(value, str):
        backends = [json.dumps(_plain(one), ensure_ascii=False) for one in value.split(", ")]
        return [now, f"{figure.name} = {backends[0] if len(backends) == 1 else '[' + ', '.join(backends) + ']'}"]
    if figure.worse == "less":
        return [
            now,
            f"{figure.name} = {{ min = {max(math.floor((value - max(_POINTS, _scatter(figure, run))) * 10) / 10, 0):g} }}",
        ]
    return [now, f"{figure.name} = {{ max = {_rounded_up(value + _margin(figure, run, value)):g} }}"]


def _margin(figure: Figure, run: Run, value: float) -> float:
    least = {MS: _GROWTH * value, PERCENT: max(_POINTS, _GROWTH * value)}.get(figure.unit, 0.0)
    if figure.unit == COUNT:
        least = _CALLS * value if figure.name == "launches" else 0.0
    return max(least, _scatter(figure, run))


def _scatter(figure: Figure, run: Run) -> float:
    """What the figure's mean is off by, as its steps scatter; 0 where it has no value for each."""
    series = figure.series(run)
    known = noise(series, series) if series is not None else None
    return float(known.a[0]) if known else 0.0


def _rounded_up(value: float) -> float:
    """`value` with three digits, never below it."""
    if value <= 0:
        return 0
    unit = 10.0 ** (math.floor(math.log10(value)) - 2)
    # What is there with three digits already must not become one more.
    return round(math.ceil(round(value / unit, 6)) * unit, 9)


def _plain(text: str) -> str:
    """One line of a comment or a word, of a length that can be read."""
    text = "".join(c if c.isprintable() else "�" for c in text)
    return text if len(text) <= 120 else f"{text[:117]}..."
