"""What an HTML report says, as values that JSON can hold: the first screen, then sections of blocks.

A block has a `type`: `text`, `quote`, `facts`, `list`, `chart`, `icicle`, `heat`, `table`, `tables`, `definitions`. The
page knows how each looks; what is in it, in which words and colours, is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tetrace.breakdown.findings import findings
from tetrace.breakdown.verdict import verdict
from tetrace.breakdown.without_recorder import added_waiting_ns
from tetrace.report import content
from tetrace.report.commands import of_run
from tetrace.report.definitions import DEFINITIONS
from tetrace.report.html import sections
from tetrace.report.html.material import Material
from tetrace.report.html.words import shortened
from tetrace.report.palette import CATEGORY_COLORS, CAUSE_COLORS
from tetrace.report.reporter import Options
from tetrace.units import duration, milliseconds, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

Json = dict[str, Any]

CAUSE_TERMS = {
    "host_bound": "Host-bound",
    "synchronization": "Synchronization",
    "launch_latency": "Launch latency",
    "dependency": "Other stream",
    "graph": "Inside CUDA graphs",
    "profiler": "Profiler",
    "queued": "Between queued activities",
    "unexplained": "Unexplained",
}


def document(breakdown: Breakdown, options: Options) -> Json:
    """The whole report."""
    material = Material(breakdown)
    captured = bool(breakdown.totals.activities)
    return {
        "version": options.version,
        "title": shortened(breakdown.attribution.trace.metadata.source, 200),
        "origin": shortened(content.origin(breakdown)),
        "steps_used": shortened(content.steps_used(breakdown)) if captured else "",
        "plain_step": content.plain_step(breakdown),
        "notices": [shortened(line) for line in content.notices(breakdown)],
        "verdict": shortened(verdict(breakdown)),
        "figures": key_figures(material) if captured else [],
        "wall": wall_bar(material) if captured else None,
        "findings": [
            {
                "ns": finding.ns,
                "cost": finding.cost,
                "title": finding.title,
                "evidence": shortened(finding.evidence),
                "advice": shortened(finding.advice),
            }
            for finding in of_run(findings(breakdown), options.run)
        ]
        if captured
        else [],
        "sections": sections.sections(material),
        "definitions": DEFINITIONS,
    }


def key_figures(material: Material) -> list[Json]:
    """The numbers of the first screen: what it is, the number, what it is of, and the definition it has."""
    breakdown, scale = material.breakdown, material.scale
    totals = breakdown.totals

    def figure(name: str, value: str, note: str, term: str) -> Json:
        return {"label": name, "value": value, "note": note, "term": term}

    spread = ""
    if scale.each == " per step" and totals.steps > 1:
        shortest, longest = milliseconds(totals.step_min_ns), milliseconds(totals.step_max_ns)
        spread = f"median {milliseconds(totals.step_median_ns)}, {shortest}–{longest} ms"
    wall, step = totals.wall_ns, "Step" if scale.each == " per step" else "Wall"
    found = [
        figure(step, duration(wall / scale.steps), spread, step),
        figure(
            "GPU busy", percent(totals.busy_ns, wall), f"of wall · {duration(totals.busy_ns / scale.steps)}", "Busy"
        ),
    ]
    if breakdown.attribution.trace.has("calls"):
        late = totals.idle_ns["host_bound"]
        slowed = " · the recorder slows it" if added_waiting_ns(breakdown) else ""
        note = f"of wall · {duration(late / scale.steps)}{slowed}"
        found.append(figure("GPU waits for the host", percent(late, wall), note, "Host-bound"))
        calls = scale.count(breakdown.launch.calls)
        found.append(
            figure(
                "Launches",
                calls,
                f"{scale.each.strip()} · {duration(breakdown.launch.host_ns / scale.steps)} of host time".lstrip(" ·"),
                "Launch cost",
            )
        )
    else:
        found.append(figure("GPU waits for the host", "—", "API calls not captured", "Not captured"))
    return [*found, *_fp8_figures(material)]


def _fp8_figures(material: Material) -> list[Json]:
    breakdown, scale = material.breakdown, material.scale
    bounds, totals, covered = breakdown.quantization_bounds, breakdown.totals, breakdown.fp8_coverage
    best = bounds.estimate_ns if bounds.estimate_ns >= 0 else bounds.lower_ns
    low, high = duration(bounds.lower_ns / scale.steps), duration(bounds.upper_ns / scale.steps)
    between = "no kernel quantizes" if not bounds.upper_ns else f"{low} to {high}" if low != high else "none is fused"
    word = "Quantization" if bounds.estimate_ns >= 0 or not bounds.upper_ns else "Quantization, at least"
    found = [
        {
            "label": word,
            "value": percent(best, totals.activity_ns),
            "note": f"of GPU activity · {between}",
            "term": "Quantization, estimate"
            if bounds.estimate_ns >= 0 or not bounds.upper_ns
            else "Quantization, lower bound",
        }
    ]
    if covered.gemm_ns:
        share = percent(covered.fp8_ns, covered.gemm_ns)
        note = f"of GEMM time · {duration(covered.gemm_ns / scale.steps)}"
        found.append({"label": "FP8 coverage", "value": share, "note": note, "term": "FP8 coverage"})
    return found


def wall_bar(material: Material) -> Json:
    """An average step as one bar: busy by category, idle by cause. The parts are integers of ns and add up to `ns`."""
    breakdown, scale = material.breakdown, material.scale
    totals = breakdown.totals

    def part(name: str, ns: int, color: str, idle: str, term: str) -> Json:
        return {
            "label": name,
            "ns": ns,
            "ms": scale.ms(ns),
            "percent": percent(ns, totals.wall_ns),
            "color": color,
            "idle": idle,
            "term": term,
        }

    parts = [
        part(name, ns, CATEGORY_COLORS[name], "", "Busy by category") for name, ns in material.busy.totals().items()
    ]
    parts += [
        part(f"idle, {content.CAUSE_WORDS[cause]}", ns, CAUSE_COLORS[cause], cause, CAUSE_TERMS[cause])
        for cause, ns in totals.idle_ns.items()
        if ns
    ]
    several = f", {totals.lanes} lanes summed" if totals.lanes > 1 else ""
    return {"ns": totals.wall_ns, "head": scale.head, "lanes": several, "parts": parts}
