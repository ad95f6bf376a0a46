"""The charts of a breakdown as plotly figures, for a notebook; the HTML report draws the same ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tetrace.errors import UsageError
from tetrace.report.html import bars, fp8_charts, step_bars
from tetrace.report.html.icicle import icicle
from tetrace.report.html.material import Material

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from tetrace.breakdown.analysis import Breakdown

NO_PLOTLY = "plotly is not installed here, and draws the charts: pip install 'plotly>=6,<7'"


class Figures:
    """One method a chart, each a new plotly `Figure`. Raises `UsageError` where there is nothing to draw."""

    def __init__(self, breakdown: Breakdown) -> None:
        self._material = Material(breakdown)

    def __repr__(self) -> str:
        names = [name for name in vars(type(self)) if not name.startswith("_")]
        return f"<Figures: {', '.join(names)}>"

    def steps(self, lane: int = 0) -> Figure:
        """Wall time of each step of a lane (row of `lanes`): busy by category, idle by cause."""
        lanes = len(self._material.breakdown.tables["lanes"])
        if lanes and not 0 <= lane < lanes:
            raise UsageError(f"lane {lane}: there are lanes 0 to {lanes - 1}")
        return _figure(step_bars.steps(self._material, lane), "no step was recorded on a GPU")

    def icicle(self) -> Figure:
        """GPU activity by phase, module, category and kernel; a click goes into a part of it."""
        return _figure(icicle(self._material), "no GPU activity was recorded")

    def timeline(self) -> Figure:
        """The step nearest to the median as it ran."""
        return _figure(step_bars.timeline(self._material), "no GPU activity was recorded")

    def lanes(self) -> Figure:
        """Processes and devices beside each other."""
        return _figure(step_bars.lanes(self._material), "there is one process with one device")

    def quantization(self, by: str = "role") -> Figure:
        """Quantization on the GPU between its bounds, by `role` or `module`."""
        if by not in ("role", "module"):
            raise UsageError(f"by {by}: choose role or module")
        return _figure(bars.quantization(self._material, by), "no kernel quantizes")

    def host_ranges(self) -> Figure:
        """Host ranges that the GPU waits for."""
        return _figure(bars.host_ranges(self._material), "no idle time is charged to a host range")

    def gemms(self) -> Figure:
        """GEMM time by role and format."""
        return _figure(bars.gemm_formats(self._material), "there is no GEMM")

    def fp8_health(self, measure: str = "range_used") -> Figure:
        """Module by step: `range_used`, `clipped`, `at_max`, `flushed` or `not_finite`."""
        if measure not in fp8_charts.MEASURES:
            raise UsageError(f"measure {measure}: choose one of {', '.join(fp8_charts.MEASURES)}")
        return _figure(fp8_charts.health_map(self._material, measure), "no FP8 statistics of this were recorded")

    def tensor_history(self, name: str) -> Figure:
        """One tensor over the steps; `name` is a module's path, a dot and the role."""
        maps = self._material.fp8
        histories = {history.name: history for history in maps.histories} if maps else {}
        if name not in histories:
            known = ", ".join(list(histories)[:5])
            raise UsageError(f"{name}: no history; " + (f"there are {known}" if known else "none was recorded"))
        return _figure(fp8_charts.tensor_history(histories[name]), "")


def _figure(spec: dict[str, Any] | None, why_not: str) -> Figure:
    if spec is None:
        raise UsageError(f"nothing to draw: {why_not}")
    try:
        from plotly.graph_objects import Figure
    except ImportError as error:
        raise UsageError(NO_PLOTLY) from error
    figure = Figure(spec)
    return figure.update_layout(template="plotly_white", font={"size": 12}, legend={"orientation": "h", "y": -0.18})
