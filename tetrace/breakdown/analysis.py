"""A breakdown: where the selected steps spend their time. One function from an attribution to a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.breakdown.communication import communication_table
from tetrace.breakdown.compute import Coverage, attention_table, coverage, gemms_table
from tetrace.breakdown.gaps import CAUSES, idle
from tetrace.breakdown.kernels import kernels_table, memory_table, modules_table, phases_table
from tetrace.breakdown.launch import (
    LaunchCosts,
    floor,
    host_ranges_table,
    idle_stream_latency,
    launch_costs,
    launches_table,
    queue_depths,
)
from tetrace.breakdown.module_times import module_times_table
from tetrace.breakdown.quantization import Bounds, bounds, quantization_table
from tetrace.breakdown.recorded import recorded_tables
from tetrace.breakdown.scope import Scope
from tetrace.breakdown.selection import STEADY, Selection, select
from tetrace.breakdown.step_time import lanes_table, steps_table
from tetrace.breakdown.synchronizing import drains
from tetrace.breakdown.tables import DECLARATIONS, Table
from tetrace.errors import ConservationError
from tetrace.trace.schema import GRAPH

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from tetrace.breakdown.finding import Finding
    from tetrace.fp8.health import Health

    Times = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Totals:
    """Sums over the selected steps of all lanes, in ns; divide by `steps` for an average step of one lane.

    `wall_ns = busy_ns + sum(idle_ns.values())`. `activity_ns` sums durations over streams: work, not time.
    `step_median_ns`, `step_min_ns` and `step_max_ns` are of the wall time of single steps. `hidden_ns` is the part of
    `activity_ns` in CUDA graphs that were recorded whole: their kernels were not captured. `drained_ns` is the idle time
    that begins while the host sits in one of the `synchronizing_calls`, until the device has work again.
    `latency_floor_ns` is the median launch latency on idle streams, 8,000 where too few were idle to tell it.
    """

    steps: int
    lanes: int
    wall_ns: int
    busy_ns: int
    exposed_communication_ns: int
    idle_ns: Mapping[str, int]
    activity_ns: int
    activities: int
    unattributed_phase_ns: int
    inferred_phase_ns: int
    unattributed_module_ns: int
    step_median_ns: int
    step_min_ns: int
    step_max_ns: int
    quantization_host_ns: int
    latency_floor_ns: int
    hidden_ns: int
    synchronizing_calls: int
    drained_ns: int

    @property
    def all_idle_ns(self) -> int:
        """Idle time of all causes."""
        return sum(self.idle_ns.values())

    def per_step(self, ns: int) -> int:
        """The part of an average step in a sum over the steps, in whole ns."""
        return ns // max(self.steps, 1)


@dataclass(frozen=True)
class Breakdown:
    """Where the time went. `tables` are declared in `breakdown/tables.py`; each is also an attribute, as pandas."""

    attribution: Attribution
    selection: Selection
    totals: Totals
    launch: LaunchCosts
    quantization_bounds: Bounds
    fp8_coverage: Coverage
    tables: Mapping[str, Table]

    @property
    def findings(self) -> list[Finding]:
        """What holds the selected steps back, the costliest first."""
        from tetrace.breakdown.findings import findings

        return findings(self)

    @cached_property
    def fp8_health(self) -> Health | None:
        """What recorded FP8 statistics say is wrong, over all recorded steps; None where there are none."""
        from tetrace.fp8.health import check_health

        trace = self.attribution.trace
        return check_health(trace) if trace.has("fp8_tensors") else None

    @property
    def verdict(self) -> str:
        """One sentence: what the step is bound by."""
        from tetrace.breakdown.verdict import verdict

        return verdict(self)

    def __repr__(self) -> str:
        source = self.attribution.trace.metadata.source
        return f"<Breakdown of {source}: {self.verdict} Tables: {', '.join(self.tables)}>"

    def __getattr__(self, name: str) -> pd.DataFrame:
        tables = self.__dict__.get("tables", {})
        if name not in tables:
            raise AttributeError(f"a breakdown has no table '{name}'; it has {', '.join(tables)}")
        return tables[name].to_pandas()

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.tables]


def break_down(
    attribution: Attribution, *, steps: str = STEADY, device: int | None = None, process: int | None = None
) -> Breakdown:
    """The breakdown of `steps` (`steady`, `all`, or step numbers such as `5:10`) on a device and process, or on all.

    Raises `UsageError` when the choice leaves nothing, `ConservationError` when sums that must agree do not.
    """
    selection = select(attribution, steps, device, process)
    scope = Scope(attribution, selection)
    # Asked for once here, so that the threads below do not compute it twice.
    _ = scope.lanes, scope.duration, scope.category, scope.phase, scope.module, scope.exposed_communication
    latency, depth = idle_stream_latency(attribution), queue_depths(attribution)
    floor_ns = floor(latency, scope.rows)
    with ThreadPoolExecutor(2) as pool:
        # Two threads: nearly all of the work leaves the interpreter's lock, and idle time is the largest piece of it.
        idle_of_windows = pool.submit(idle, attribution, scope.lanes, selection.windows, floor_ns)
        simple = pool.submit(_tables_without_idle, scope, depth)
        of_windows = idle_of_windows.result()
        # The frames are the used windows, unless everything is counted.
        of_frames = (
            of_windows.of(selection.used)
            if selection.per_step
            else idle(attribution, scope.lanes, selection.frames, floor_ns)
        )
        tables = [
            steps_table(scope, of_windows),
            modules_table(scope, of_frames),
            host_ranges_table(scope, of_frames),
            lanes_table(scope, of_frames),
            module_times_table(attribution, steps, process),
            *simple.result(),
        ]
    by_name = {table.declaration.name: table for table in sorted(tables, key=_declared_order)}
    _check(scope, by_name)
    return Breakdown(
        attribution=attribution,
        selection=selection,
        totals=_totals(scope, by_name, floor_ns),
        launch=launch_costs(scope, by_name["launches"], latency, depth),
        quantization_bounds=bounds(scope, by_name["quantization"]),
        fp8_coverage=coverage(by_name["gemms"]),
        tables=by_name,
    )


def _declared_order(table: Table) -> int:
    return DECLARATIONS.index(table.declaration)


def _tables_without_idle(scope: Scope, depth: Times) -> list[Table]:
    return [
        kernels_table(scope),
        phases_table(scope),
        quantization_table(scope),
        launches_table(scope, depth),
        gemms_table(scope),
        attention_table(scope),
        communication_table(scope),
        memory_table(scope),
        *recorded_tables(scope),
    ]


def _totals(scope: Scope, tables: Mapping[str, Table], floor_ns: int) -> Totals:
    lanes, steps, hosts = tables["lanes"], tables["steps"], tables["host_ranges"]
    wall = steps["wall_ns"][steps["used"] == 1] if len(steps) else np.empty(0, np.int64)
    if not scope.selection.per_step:
        wall = lanes["wall_ns"]
    phases, modules = tables["phases"], tables["modules"]
    inferred = scope.attribution.phases.inferred[scope.rows]
    kinds = list(scope.trace.words("activities", "kind"))
    calls, drained = drains(scope)
    return Totals(
        steps=scope.selection.steps,
        lanes=len(lanes),
        wall_ns=int(lanes["wall_ns"].sum()),
        busy_ns=int(lanes["busy_ns"].sum()),
        exposed_communication_ns=int(lanes["exposed_communication_ns"].sum()),
        idle_ns={cause: int(lanes[f"{cause}_ns"].sum()) for cause in CAUSES},
        activity_ns=int(scope.duration.sum()),
        activities=len(scope.rows),
        unattributed_phase_ns=_of_word(phases, "phase", "unattributed"),
        inferred_phase_ns=int(scope.duration[inferred].sum()),
        unattributed_module_ns=_of_word(modules, "module", "unattributed"),
        step_median_ns=int(np.median(wall)) if len(wall) else 0,
        step_min_ns=int(wall.min(initial=0)) if not len(wall) else int(wall.min()),
        step_max_ns=int(wall.max(initial=0)),
        # BF16 opens the same ranges and quantizes nothing in them.
        quantization_host_ns=int(hosts["host_bound_ns"][hosts["quantizes"] == 1].sum())
        if len(tables["quantization"])
        else 0,
        latency_floor_ns=floor_ns,
        hidden_ns=int(scope.duration[scope.column("kind") == kinds.index(GRAPH)].sum()) if GRAPH in kinds else 0,
        synchronizing_calls=calls,
        drained_ns=drained,
    )


def _of_word(table: Table, column: str, word: str) -> int:
    return sum(ns for value, ns in zip(table[column], table["total_ns"].tolist(), strict=True) if value == word)


def _check(scope: Scope, tables: Mapping[str, Table]) -> None:
    """Categories, kernels and modules each sum to all selected GPU activity; host ranges to the host-bound idle."""
    whole = int(scope.duration.sum())
    for name in ("phases", "kernels", "modules"):
        part = int(tables[name]["total_ns"].sum())
        if part != whole or int(tables[name]["count"].sum()) != len(scope.rows):
            raise ConservationError(
                f"{scope.trace.metadata.source}: {name} sum to {part} ns of {whole} ns; please report this"
            )
    charged, idle_ns = int(tables["host_ranges"]["host_bound_ns"].sum()), int(tables["lanes"]["host_bound_ns"].sum())
    if charged != idle_ns:
        raise ConservationError(
            f"{scope.trace.metadata.source}: {charged} ns charged to host ranges of {idle_ns} ns host-bound; please report this"
        )
