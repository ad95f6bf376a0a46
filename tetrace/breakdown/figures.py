"""The figures of a run that a budget can limit and a comparison lists: each a number per step, a share or a word.

A figure that was not recorded is None, never 0. Figures in ms and shares also have their value in every step, from which
their noise is worked out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import UNATTRIBUTED_MODULE
from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.distinct import sums
from tetrace.attribute.vocabulary import UNATTRIBUTED
from tetrace.breakdown.compute import UNFUSED, attention_kernels, is_fp8
from tetrace.breakdown.gaps import CAUSES
from tetrace.breakdown.noise import Series
from tetrace.breakdown.scope import Scope
from tetrace.fp8.observations import clipped, tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.analysis import Breakdown

    Mask = npt.NDArray[np.bool_]
    Times = npt.NDArray[np.int64]

MS, PERCENT, COUNT, MICROSECONDS, WORD = "ms", "%", "", "µs", "word"
_NS_OF = {MS: 1_000_000, PERCENT: 0.01, COUNT: 1, MICROSECONDS: 1000, WORD: 1}
# Backends by the kernels that ran, where their selection was not recorded.
_BACKENDS = {"cuDNN": "FusedAttention", UNFUSED: "UnfusedDotProductAttention"}
FLASH = "FlashAttention"


@dataclass(frozen=True)
class Parts:
    """A figure as a share: `part` over `whole`, both by step of a lane, shape (frames,)."""

    part: Times
    whole: Times


class Run:
    """A breakdown, and what its figures are made of, worked out when it is asked for."""

    def __init__(self, breakdown: Breakdown) -> None:
        self.breakdown = breakdown
        self.scope = Scope(breakdown.attribution, breakdown.selection)

    @cached_property
    def frames(self) -> int:
        """Steps of all lanes; the lanes where nothing is by step."""
        return len(self.scope.selection.frames.step)

    @cached_property
    def ones(self) -> Times:
        """One for each step."""
        return np.ones(self.frames, np.int64)

    @cached_property
    def period(self) -> npt.NDArray[np.int64]:
        """The number of each frame's step, as a place among all that are used."""
        frames, numbers = self.scope.selection.frames, self.breakdown.attribution.steps.number
        step = numbers[np.maximum(frames.step, 0)] if len(numbers) else frames.step
        return np.unique(step, return_inverse=True)[1].ravel()

    @cached_property
    def _frame_of_activity(self) -> npt.NDArray[np.int32]:
        """The frame of each selected activity's step."""
        scope = self.scope
        frames, lanes = scope.selection.frames, scope.lanes
        steps = scope.attribution.step[scope.rows] if scope.selection.per_step else np.full(len(scope.rows), -1)
        table = np.full((len(lanes.process), len(scope.attribution.steps) + 1), -1, np.int32)
        table[lanes.of_windows(frames), frames.step] = np.arange(self.frames, dtype=np.int32)
        return table[lanes.of_activity[scope.rows], steps]

    def column(self, name: str) -> Times:
        """A column of ns of the steps in which time is counted, shape (frames,)."""
        breakdown = self.breakdown
        if not breakdown.selection.per_step:
            return np.asarray(breakdown.tables["lanes"][name])
        steps = breakdown.tables["steps"]
        return np.asarray(steps[name][steps["used"] == 1])

    def work(self, chosen: Mask | None = None) -> Times:
        """GPU activity by step, of the selected activities that `chosen` marks; summed over streams."""
        frame, duration = self._frame_of_activity, self.scope.duration
        known = frame >= 0 if chosen is None else chosen & (frame >= 0)
        return sums(frame[known], self.frames, duration[known])

    def of_class(self, test: Callable[..., bool]) -> Mask:
        """The selected activities whose class passes a test."""
        known = [test(one) for one in self.scope.attribution.classes]
        return np.array(known or [False], np.bool_)[self.scope.kernel_class]


@dataclass(frozen=True)
class Figure:
    """A figure: its name in a budget, its unit, what it is, and whether `more` or `less` of it is worse.

    `parts` gives it by step, `plain` where it is not a share; one of both is there. What gives None was not recorded.
    """

    name: str
    unit: str
    sentence: str
    worse: str = "more"
    parts: Callable[[Run], Parts | None] | None = None
    plain: Callable[[Run], float | str | None] | None = None

    def value(self, run: Run) -> float | str | None:
        """The figure of a run."""
        if self.plain:
            return self.plain(run)
        parts = self.parts(run) if self.parts else None
        if parts is None or not int(parts.whole.sum()):
            return None
        return int(parts.part.sum()) / int(parts.whole.sum()) / _NS_OF[self.unit]

    def series(self, run: Run) -> Series | None:
        """The figure step by step: one row."""
        parts = self.parts(run) if self.parts and run.breakdown.selection.per_step else None
        if parts is None or not int(parts.whole.sum()):
            return None
        by_step = [np.bincount(run.period, values).astype(np.float64) for values in (parts.part, parts.whole)]
        return Series(by_step[0][None, :] / _NS_OF[self.unit], by_step[1][None, :])


def _per_step(values: Callable[[Run], Times | None]) -> Callable[[Run], Parts | None]:
    def parts(run: Run) -> Parts | None:
        found = values(run) if run.breakdown.totals.activities else None
        return None if found is None else Parts(found, run.ones)

    return parts


def _column(name: str, needs: str = "activities") -> Callable[[Run], Times | None]:
    return lambda run: run.column(name) if run.scope.trace.has(needs) else None


def _share(part: Callable[[Run], Times | None], whole: Callable[[Run], Times]) -> Callable[[Run], Parts | None]:
    def parts(run: Run) -> Parts | None:
        found = part(run) if run.breakdown.totals.activities else None
        return None if found is None else Parts(found, whole(run))

    return parts


def _idle(run: Run) -> Times:
    return run.column("wall_ns") - run.column("busy_ns")


def _category(name: str) -> Callable[[Run], Times | None]:
    def work(run: Run) -> Times | None:
        # Inside a graph that was recorded whole no kernel is known.
        return None if run.breakdown.totals.hidden_ns else run.work(run.scope.in_category(name))

    return work


def _attention_kernels(run: Run) -> Times | None:
    return None if run.breakdown.totals.hidden_ns else run.work(attention_kernels(run.scope))


def _fused(run: Run) -> Times | None:
    chosen = run.scope.in_category("quantization") | run.scope.fused
    return None if run.breakdown.totals.hidden_ns else run.work(chosen)


def _fp8_gemms(run: Run) -> Times | None:
    chosen = run.of_class(lambda one: one.category == "gemm" and is_fp8(one.formats))
    return None if run.breakdown.totals.hidden_ns else run.work(chosen)


def _gemms(run: Run) -> Times:
    return run.work(run.scope.in_category("gemm"))


def _wall(run: Run) -> Times:
    return run.column("wall_ns")


def _unattributed_module(run: Run) -> Times:
    names = run.scope.attribution.module_names
    unknown = np.array([*(name == UNATTRIBUTED_MODULE for name in names), True], np.bool_)
    return run.work(unknown[run.scope.module])


def _counted(
    count: Callable[[Breakdown], int], needs: str = "activities", unit: int = 1
) -> Callable[[Run], float | None]:
    def plain(run: Run) -> float | None:
        breakdown = run.breakdown
        known = breakdown.totals.activities and run.scope.trace.has(needs)
        return count(breakdown) / max(breakdown.totals.steps, 1) / unit if known else None

    return plain


def _of_quantization(count: Callable[[Breakdown], int]) -> Callable[[Run], float | None]:
    plain = _counted(count)
    return lambda run: None if run.breakdown.totals.hidden_ns else plain(run)


def _of_totals(name: str) -> Callable[[Run], float | None]:
    def plain(run: Run) -> float | None:
        totals = run.breakdown.totals
        return getattr(totals, name) / 1e6 if totals.activities and run.breakdown.selection.per_step else None

    return plain


def _latency(run: Run) -> float | None:
    median = run.breakdown.launch.latency_median_ns
    return median / 1000 if median >= 0 else None


def _saturation(run: Run) -> float | None:
    """Of all recorded observations: the largest share of a tensor's elements that was clipped; FP8 codes do not tell."""
    trace = run.scope.trace
    if not trace.has("fp8_tensors"):
        return None
    rows = tensors(trace)
    many, elements = clipped(rows), rows["elements"]
    known = (many >= 0) & (elements > 0)
    return float((many[known] / elements[known]).max() * 100) if known.any() else None


def _backend(run: Run) -> str | None:
    """Backends as selected, where that was recorded, else by the kernels; several in one word with commas."""
    tables = run.breakdown.tables
    found = set(tables["attention_backends"]["backend"])
    if not found:
        kernels = (name for name in tables["attention"]["backend"] if name and name != "helper")
        found = {_BACKENDS.get(name, FLASH if name.startswith(FLASH) else name) for name in kernels}
    return ", ".join(sorted(found)) or None


_OF_ACTIVITY = "of GPU activity"
_IDLE_SENTENCES = {
    "host_bound": "Idle time of the GPU because the host had not launched",
    "synchronization": "Idle time while the host waits for the GPU",
    "launch_latency": "Idle time between a launch and its start",
    "dependency": "Idle time while a stream waits for another",
    "graph": "Idle time inside CUDA graphs",
    "profiler": "Idle time while the profiler works on the launching thread",
    "queued": "Idle time between two activities of a stream's queue",
    "unexplained": "Idle time that nothing explains",
}

FIGURES: tuple[Figure, ...] = (
    Figure("step_ms", MS, "Wall time of an average step.", parts=_per_step(_wall)),
    Figure("step_median_ms", MS, "Median wall time of a step.", plain=_of_totals("step_median_ns")),
    Figure("step_max_ms", MS, "Wall time of the longest step.", plain=_of_totals("step_max_ns")),
    Figure("busy_ms", MS, "Time in which the GPU works, in a step.", parts=_per_step(_column("busy_ns"))),
    Figure("idle_ms", MS, "Time in which the GPU idles, in a step.", parts=_per_step(_idle)),
    Figure("idle_pct", PERCENT, "Idle time, of wall.", parts=_share(_idle, _wall)),
    *(
        Figure(f"{cause}_ms", MS, f"{_IDLE_SENTENCES[cause]}, in a step.", parts=_per_step(_column(f"{cause}_ns", "calls")))
        for cause in CAUSES
    ),
    Figure("host_bound_pct", PERCENT, "Host-bound idle time, of wall.", parts=_share(_column("host_bound_ns", "calls"), _wall)),
    Figure("unexplained_pct", PERCENT, "Unexplained time, of wall.", parts=_share(_column("unexplained_ns", "calls"), _wall)),
    Figure(
        "exposed_communication_ms", MS, "Time in which only communication runs, in a step.",
        parts=_per_step(_column("exposed_communication_ns")),
    ),
    Figure(
        "exposed_communication_pct", PERCENT, "Time in which only communication runs, of wall.",
        parts=_share(_column("exposed_communication_ns"), _wall),
    ),
    *(
        Figure(f"{name}_ms", MS, f"Work of category {name} on the GPU, in a step.", parts=_per_step(_category(name)))
        for name in CATEGORIES
    ),
    Figure(
        "attention_kernels_ms", MS, "Kernels of attention, with matrix products of unfused attention but no copies, in a step.",
        parts=_per_step(_attention_kernels),
    ),
    Figure(
        "quantization_pct", PERCENT, f"Kernels that only quantize, {_OF_ACTIVITY}.",
        parts=_share(_category("quantization"), lambda run: run.work()),
    ),
    Figure("quantization_upper_ms", MS, "Kernels that quantize, also beside other work, in a step.", parts=_per_step(_fused)),
    Figure(
        "quantization_upper_pct", PERCENT, f"Kernels that quantize, also beside other work, {_OF_ACTIVITY}.",
        parts=_share(_fused, lambda run: run.work()),
    ),
    Figure(
        "quantization_host_ms", MS, "Idle time of the GPU while the host quantizes, in a step.",
        plain=_counted(lambda one: one.totals.quantization_host_ns, "ranges", 1_000_000),
    ),
    Figure("fp8_coverage_pct", PERCENT, "GEMMs in FP8, of GEMM time.", "less", parts=_share(_fp8_gemms, _gemms)),
    Figure(
        "unattributed_pct", PERCENT, f"Work of no known module, {_OF_ACTIVITY}.",
        parts=_share(_unattributed_module, lambda run: run.work()),
    ),
    Figure(
        "unattributed_phase_pct", PERCENT, f"Work of no known phase, {_OF_ACTIVITY}.",
        parts=_share(lambda run: run.work(run.scope.phase == UNATTRIBUTED), lambda run: run.work()),
    ),
    Figure("launches", COUNT, "Launching API calls in a step.", plain=_counted(lambda one: one.launch.calls, "calls")),
    Figure("activities", COUNT, "Kernels, copies and memsets in a step.", plain=_counted(lambda one: one.totals.activities)),
    Figure(
        "synchronizing_calls", COUNT, "API calls in which the host waits for the GPU, in a step.",
        plain=_counted(lambda one: one.totals.synchronizing_calls, "calls"),
    ),
    Figure(
        "weight_casts", COUNT, "Casts of weights in a step.",
        plain=_of_quantization(lambda one: one.quantization_bounds.weight_casts),
    ),
    Figure(
        "scale_updates", COUNT, "Kernels that update scales in a step.",
        plain=_of_quantization(lambda one: one.quantization_bounds.scale_updates),
    ),
    Figure("launch_latency_us", MICROSECONDS, "Median launch latency on an idle stream.", plain=_latency),
    Figure(
        "largest_saturation_pct", PERCENT, "Largest share of a tensor's elements that FP8 clipped, in any recorded step.",
        plain=_saturation,
    ),
    Figure(
        "dropped_records", COUNT, "Records that the recorder dropped.",
        plain=lambda run: run.scope.trace.metadata.dropped_records,
    ),
    Figure("attention_backend", WORD, "Attention backends that ran, with commas.", "", plain=_backend),
)  # fmt: skip
BY_NAME = {figure.name: figure for figure in FIGURES}


def words(figure: Figure, value: float | str | None) -> str:
    """A value of a figure with its unit."""
    if value is None:
        return "not recorded"
    if isinstance(value, str):
        return value
    if figure.unit == COUNT:
        return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
    return f"{value:,.3f} {figure.unit}" if figure.unit != PERCENT else f"{value:.3g}%" if value else "0%"
