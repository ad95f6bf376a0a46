"""The real recordings of tests/data: sums against plain SQL on the export, and what is known of their runs."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import recorded
from tetrace.breakdown.gaps import CAUSES
from tetrace.breakdown.tables import Table

DATA = Path(__file__).parent / "data"
EXPORTS = sorted(path.name for path in DATA.glob("*.sqlite"))
COPIES = {1: "HtoD", 2: "DtoH", 8: "DtoD"}
ACTIVITIES = """
    SELECT globalPid, deviceId, start, end, value FROM CUPTI_ACTIVITY_KIND_KERNEL JOIN StringIds ON id = demangledName
    UNION ALL SELECT globalPid, deviceId, start, end, copyKind FROM CUPTI_ACTIVITY_KIND_MEMCPY
    UNION ALL SELECT globalPid, deviceId, start, end, 'memset' FROM CUPTI_ACTIVITY_KIND_MEMSET
"""


def sql(name: str, query: str) -> list[tuple[Any, ...]]:
    """Rows of a query on an export in tests/data."""
    with closing(sqlite3.connect(f"file:{DATA / name}?mode=ro&immutable=1", uri=True)) as database:
        return database.execute(query).fetchall()


def lanes(name: str) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """Start and end of all activities, by process and device."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for process, device, start, end, _ in sql(name, ACTIVITIES):
        found[process, device].append((start, end))
    return found


def union(spans: list[tuple[int, int]], first: int, last: int) -> int:
    """Time between `first` and `last` that at least one span covers."""
    covered, reached = 0, first
    for start, end in sorted(spans):
        covered += max(min(end, last) - max(start, reached), 0)
        reached = max(reached, min(end, last))
    return covered


def rows(table: Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """Some columns of a table."""
    return zip(*(table[name] if isinstance(table[name], list) else table[name].tolist() for name in names), strict=True)


@pytest.mark.parametrize("name", EXPORTS)
class TestSums:
    """Every number adds up, and to what the export says."""

    def test_kernels_as_in_plain_sql(self, name: str) -> None:
        expected: dict[str, tuple[int, int]] = {}
        query = f"SELECT value, COUNT(*), SUM(end - start) FROM ({ACTIVITIES}) GROUP BY value"
        for word, count, total in sql(name, query):
            expected[f"memcpy {COPIES[word]}" if word in COPIES else word] = (count, total)
        found: dict[str, tuple[int, int]] = {}
        for word, count, total in rows(recorded(name, "all").tables["kernels"], "name", "count", "total_ns"):
            # One name may be of several classes: TE's range around its launch tells them apart.
            before = found.get(word, (0, 0))
            found[word] = (before[0] + count, before[1] + total)
        assert found == expected

    def test_every_activity_counts_once(self, name: str) -> None:
        breakdown = recorded(name, "all")
        ((count, total),) = sql(name, f"SELECT COUNT(*), SUM(end - start) FROM ({ACTIVITIES})")
        assert (breakdown.totals.activities, breakdown.totals.activity_ns) == (count, total)
        for table in ("phases", "kernels", "modules", "lanes"):
            assert int(breakdown.tables[table]["count"].sum()) == count
            assert int(breakdown.tables[table]["total_ns"].sum()) == total

    def test_busy_and_wall_of_each_lane(self, name: str) -> None:
        expected = []
        for spans in lanes(name).values():
            first, last = min(start for start, _ in spans), max(end for _, end in spans)
            expected.append((last - first, union(spans, first, last)))
        assert sorted(rows(recorded(name, "all").tables["lanes"], "wall_ns", "busy_ns")) == sorted(expected)

    @pytest.mark.parametrize("steps", ["all", "steady"])
    def test_busy_and_idle_are_wall(self, name: str, steps: str) -> None:
        breakdown = recorded(name, steps)
        for table in ("steps", "lanes"):
            for row in rows(breakdown.tables[table], "wall_ns", "busy_ns", *(f"{cause}_ns" for cause in CAUSES)):
                assert row[0] == sum(row[1:])
        totals = breakdown.totals
        assert totals.wall_ns == totals.busy_ns + totals.all_idle_ns

    def test_busy_time_of_each_window(self, name: str) -> None:
        breakdown = recorded(name, "all")
        windows, of_lane = breakdown.attribution.windows, lanes(name)
        process = breakdown.attribution.trace.column("processes", "global_id")[windows.process].tolist()
        where = zip(process, windows.device.tolist(), windows.start.tolist(), windows.end.tolist(), strict=True)
        expected = [union(of_lane[one, device], start, end) for one, device, start, end in where]
        assert breakdown.tables["steps"]["busy_ns"].tolist() == expected

    def test_windows_tile_their_lane(self, name: str) -> None:
        windows = recorded(name, "all").attribution.windows
        where = sorted(rows_of_windows(windows))
        for (process, device, _, end), (next_process, next_device, start, _) in pairwise(where):
            assert end == start or (process, device) != (next_process, next_device)

    def test_nearly_nothing_is_of_category_other(self, name: str) -> None:
        breakdown = recorded(name, "all")
        other = sum(
            total for category, total in rows(breakdown.tables["phases"], "category", "total_ns") if category == "other"
        )
        assert other < 0.005 * breakdown.totals.activity_ns

    def test_phases_are_known(self, name: str) -> None:
        totals = recorded(name).totals
        assert totals.unattributed_phase_ns < 0.02 * totals.activity_ns


def rows_of_windows(windows: Any) -> list[tuple[int, int, int, int]]:
    """Process, device, start and end of windows."""
    return list(
        zip(
            windows.process.tolist(), windows.device.tolist(), windows.start.tolist(), windows.end.tolist(), strict=True
        )
    )


class TestFp8:
    """te4-fp8: delayed scaling, bound by launches."""

    def test_a_steady_step(self) -> None:
        totals = recorded("te4-fp8.sqlite").totals
        assert totals.busy_ns / totals.steps == pytest.approx(3.1e6, rel=0.03)
        assert totals.step_median_ns == pytest.approx(18.1e6, rel=0.03)
        assert totals.all_idle_ns / totals.wall_ns == pytest.approx(0.83, abs=0.01)

    def test_all_gemms_ran_in_fp8(self) -> None:
        coverage = recorded("te4-fp8.sqlite").fp8_coverage
        assert coverage.fp8_ns == coverage.gemm_ns > 0
        assert coverage.unknown_ns == 0

    def test_two_scale_updates_a_step(self) -> None:
        breakdown = recorded("te4-fp8.sqlite")
        assert breakdown.quantization_bounds.scale_updates == 2 * breakdown.totals.steps

    def test_it_is_launch_bound(self) -> None:
        breakdown = recorded("te4-fp8.sqlite")
        assert breakdown.verdict.startswith("Launch-bound: ")
        assert "the recorder slows the host" in breakdown.verdict
        ranges = rows(breakdown.tables["host_ranges"], "range", "quantizes", "host_bound_ns")
        assert any(quantizes and ns > 0 for _, quantizes, ns in ranges)
        assert breakdown.totals.idle_ns["host_bound"] > 0.7 * breakdown.totals.wall_ns


def test_bf16_steps_are_shorter_though_the_gpu_works_longer() -> None:
    fp8, bf16 = recorded("te4-fp8.sqlite").totals, recorded("te4-bf16.sqlite").totals
    assert bf16.step_median_ns < fp8.step_median_ns
    assert bf16.busy_ns / bf16.steps > fp8.busy_ns / fp8.steps
    # Why: the host keeps the device waiting less.
    assert bf16.idle_ns["host_bound"] / bf16.steps < fp8.idle_ns["host_bound"] / fp8.steps


def test_kernels_of_graphs_keep_their_phase_and_module() -> None:
    breakdown = recorded("graphs-node.sqlite")
    attribution = breakdown.attribution
    in_graph = attribution.trace.column("activities", "graph_node") != 0
    assert in_graph.sum() > 1000
    modules = [attribution.module_names[code] for code in set(attribution.module[in_graph].tolist()) if code >= 0]
    assert len(modules) > 4
    assert breakdown.totals.idle_ns["graph"] > 0
    assert attribution.trace.metadata.graph_mode == "node"


def test_ranks_count_their_own_steps_and_wait_for_the_late_one() -> None:
    breakdown = recorded("ddp-straggler.sqlite")
    steps = [
        (process, step) for process, step, used in rows(breakdown.tables["steps"], "process", "step", "used") if used
    ]
    assert steps == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    waiting = recorded("ddp-straggler.sqlite", "all").tables["lanes"]["waiting_ns"].tolist()
    assert waiting[0] > 30_000_000
    assert 0 <= waiting[1] < 1_000_000
