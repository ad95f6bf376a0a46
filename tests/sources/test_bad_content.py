"""Exports that can be read and hold odd things: a report that says what is not there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import tetrace
from tests.sources.exports import Export, columns
from tests.sources.readings import error_of, load
from tests.sources.test_nsys import small

KERNEL, RUNTIME, NVTX = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"


class TestContent:
    """Exports that can be read and hold odd things."""

    def test_without_cuda_tables(self, tmp_path: Path) -> None:
        trace = load(Export().range("forward", 0, 9).sqlite(tmp_path / "run.sqlite"))
        assert trace.tables.keys() == {"processes", "threads", "ranges", "devices"}

    def test_without_ranges(self, tmp_path: Path) -> None:
        trace = load(small().without(NVTX).sqlite(tmp_path / "run.sqlite"))
        assert trace.tables.keys() == {"processes", "threads", "activities", "calls", "devices"}

    def test_with_strings_alone(self, tmp_path: Path) -> None:
        trace = load(Export().sqlite(tmp_path / "run.sqlite"))
        assert {name: trace.rows(name) for name in trace.tables} == {"processes": 0, "threads": 0, "devices": 0}

    def test_null_correlation_ids(self, tmp_path: Path) -> None:
        export = (
            Export().call("cudaLaunchKernel", 0, 1).call("cudaLaunchKernel", 1, 2).kernel("a", 2, 3).kernel("b", 4, 5)
        )
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name", "correlation") == [("a", -1), ("b", -1)]
        assert tetrace.analyze(trace, steps="all").attribution.links.call.tolist() == [-1, -1]

    def test_kernels_that_start_before_their_launch(self, tmp_path: Path) -> None:
        export = Export().launch("early", (100, 110), (50, 105)).launch("late", (120, 125), (115, 140))
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        assert (breakdown.totals.wall_ns, breakdown.totals.busy_ns) == (90, 80)

    def test_times_that_go_backwards_count_as_empty(self, tmp_path: Path) -> None:
        export = Export().launch("a", (8, 5), (30, 10)).launch("b", (9, 10), (30, 40)).range("r", 7, 3)
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name", "start_ns", "end_ns") == [("b", 30, 40), ("a", 30, 30)]
        assert columns(trace, "calls", "start_ns", "end_ns") == [(8, 8), (9, 10)]
        assert trace.metadata.notices == (
            "1 activities end before they start; they count as empty",
            "1 calls end before they start; they count as empty",
            "1 ranges end before they start; they count as empty",
        )

    def test_activities_of_one_stream_that_overlap(self, tmp_path: Path) -> None:
        export = Export()
        for i in range(4):
            export.launch("k", (i, i + 1), (10 + i, 30 - i))
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        assert (breakdown.totals.activity_ns, breakdown.totals.busy_ns, breakdown.totals.wall_ns) == (68, 20, 20)

    @pytest.mark.parametrize("time", [2**63 - 1, 2**63 - 2, 2**62 + 1, -(2**63), -(2**63) + 1, -(2**62) - 1, 2**60])
    def test_times_that_cannot_be_are_left_out(self, time: int, tmp_path: Path) -> None:
        export = small().launch("b", (41, 42), (43, 44)).launch("far", (45, 46), (time, min(time + 1, 2**63 - 1)))
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name") == [("gemm",), ("b",)]
        assert [notice.split(" (")[0] for notice in trace.metadata.notices] == [
            "1 activities have no start; they are left out"
            if time == -(2**63)
            else "1 activities have times that cannot be"
        ]

    @pytest.mark.parametrize("end", [2**63 - 1, 2**62, -(2**63), None])
    def test_ends_that_cannot_be(self, end: int | None, tmp_path: Path) -> None:
        export = small().launch("b", (41, 42), (43, 44))
        export.tables[KERNEL][0]["end"] = end
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        ending, said = (
            (44, "were still open when recording ended") if end and end > 0 else (10, "end before they start")
        )
        assert columns(trace, "activities", "start_ns", "end_ns")[0] == (10, ending)
        assert trace.metadata.notices[0].startswith(f"1 activities {said}")

    def test_all_times_near_the_limit_of_int64(self, tmp_path: Path) -> None:
        export, late = Export(), 2**63 - 100
        export.range("r", late, late + 40).launch("k", (late + 1, late + 2), (late + 3, late + 30))
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert trace.rows("activities") == trace.rows("ranges") == 0
        assert len(trace.metadata.notices) == 3

    def test_times_since_1970_are_times(self, tmp_path: Path) -> None:
        late = 1_800_000_000_000_000_000
        export = Export().launch("k", (late, late + 2), (late + 3, late + 30))
        assert columns(load(export.sqlite(tmp_path / "run.sqlite")), "activities", "end_ns") == [(late + 30,)]

    def test_null_times(self, tmp_path: Path) -> None:
        export = small().kernel("k", None, 9).range("r", None, 9).call("cudaLaunchKernel", None, None)
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert trace.metadata.notices == (
            "1 activities have no start; they are left out",
            "1 calls have no start; they are left out",
            "1 ranges have no start; they are left out",
        )

    def test_rows_without_a_thread(self, tmp_path: Path) -> None:
        trace = load(small().range("whose?", 1, 2, globalTid=None).sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "ranges", "name") == [("forward",)]
        assert trace.metadata.notices == ("1 ranges do not say their thread; they are left out",)
        assert trace.rows("processes") == 1

    def test_numbers_that_are_out_of_range(self, tmp_path: Path) -> None:
        huge: dict[str, Any] = dict.fromkeys(("gridX", "blockY", "registersPerThread", "deviceId"), 2**40)
        export = Export().launch("k", (0, 1), (2, 3), **huge, dynamicSharedMemory=2**31, streamId=-5)
        assert columns(
            load(export.sqlite(tmp_path / "run.sqlite")), "activities", "grid_x", "device", "shared_bytes"
        ) == [(-1, -1, -1)]

    @pytest.mark.parametrize("letter", ["k", "走", "<"])
    def test_names_of_100_kilobytes(self, letter: str, tmp_path: Path) -> None:
        name = letter * 100_000
        path = (
            Export()
            .range(name, 0, 9)
            .launch(name, (1, 2), (3, 4))
            .call(f"cuda{name}", 5, 6)
            .sqlite(tmp_path / "a.sqlite")
        )
        assert columns(load(path), "activities", "name") == columns(load(path), "ranges", "name") == [(name,)]

    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        bad, shown = b"a\xff\xfe\x00b", "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\0b"
        export = (
            Export().range(bad, 0, 9).range(b"a\xfe\xff\x00b", 5, 6).launch(bad, (1, 2), (3, 4)).call(b"cuda\xff", 5, 6)
        )
        for path in (export.sqlite(tmp_path / "run.sqlite"), export.parquetdir(tmp_path / "run")):
            trace = load(path)
            assert columns(trace, "activities", "name") == [(shown,)]
            assert columns(trace, "ranges", "name") == [(shown,), (shown,)]
            assert trace.metadata.notices == tuple(
                f"1 names of {table} are not UTF-8; bad bytes show as \N{REPLACEMENT CHARACTER}"
                for table in ("activities", "ranges")
            )

    def test_strings_that_are_not_there(self, tmp_path: Path) -> None:
        export = Export().kernel("gone", 0, 1).kernel("k", 2, 3, demangledName=None)
        export.tables["StringIds"].clear()
        trace = load(export.sqlite(tmp_path / "run.sqlite"))
        assert columns(trace, "activities", "name") == [("(unnamed 0)",), ("(unnamed)",)]

    def test_words_where_numbers_are_expected(self, tmp_path: Path) -> None:
        export = small().kernel("k", "soon", 9)  # type: ignore[arg-type]
        said = error_of(export.sqlite(tmp_path / "run.sqlite"))
        assert "CUPTI_ACTIVITY_KIND_KERNEL.start holds 'soon' instead of a whole number" in said

    def test_copies_alone(self, tmp_path: Path) -> None:
        export = Export().call("cudaMemcpyAsync", 0, 5, correlation=1).copy(6, 9, correlation=1).copy(12, 15)
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        assert (breakdown.totals.busy_ns, breakdown.totals.wall_ns) == (6, 9)

    def test_steps_in_which_nothing_was_launched(self, tmp_path: Path) -> None:
        export = Export().launch("k", (500, 501), (502, 520))
        for i in range(4):
            export.range(f"step_{i}", i * 10, i * 10 + 10)
        assert tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite"))).totals.activities == 1

    def test_steps_whose_work_comes_in_another_order(self, tmp_path: Path) -> None:
        export = Export()
        for i, runs in enumerate((100, 300, 200, 400, 500)):
            export.range(f"step_{i}", i * 10, i * 10 + 10).launch("k", (i * 10, i * 10 + 5), (runs, runs + 50))
        steps = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all").tables["steps"]
        assert steps["wall_ns"].tolist() == [200, 0, 100, 100, 50]
        assert steps["busy_ns"].tolist() == [100, 0, 50, 50, 50]

    @pytest.mark.parametrize("shape", ["one empty", "all empty at one time", "one", "at one time", "calls alone"])
    def test_recordings_of_next_to_nothing(self, shape: str, tmp_path: Path) -> None:
        export = Export().range("step_0", 0, 100)
        for _ in range(1 if shape.startswith("one") else 5):
            length = 0 if "empty" in shape else 5
            export.launch("k", (10, 10 + length), (20, 20 + length))
        if shape == "calls alone":
            export.without(KERNEL)
        breakdown = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all")
        totals = breakdown.totals
        lasts = 5 if shape in ("one", "at one time") else 0
        assert totals.busy_ns + sum(totals.idle_ns.values()) == totals.wall_ns == lasts

    @pytest.mark.parametrize("empty", [(0,), (9,), (0, 9), (0, 5, 9), range(10)])
    def test_activities_of_no_length_at_the_ends(self, empty: Sequence[int], tmp_path: Path) -> None:
        export = Export()
        for process in (1, 2, 3):
            for i in range(10):
                lasts = 0 if i in empty and process != 2 else 5
                export.launch("k", (i * 10, i * 10 + 1), (100 + i * 10, 100 + i * 10 + lasts), process=process)
        lanes = tetrace.analyze(load(export.sqlite(tmp_path / "run.sqlite")), steps="all").tables["lanes"]
        ends = 90 if 9 in empty else 95
        busy = 5 * (10 - len(empty))
        assert (lanes["wall_ns"].tolist(), lanes["busy_ns"].tolist()) == ([ends, 95, ends], [busy, 50, busy])
