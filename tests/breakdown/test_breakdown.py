"""Breakdowns of small traces: idle by cause, windows that tile, sums that add up."""

from __future__ import annotations

import numpy as np
import pytest

from tests.attribute.test_attribution import ADAM, CAST, GEMM, te_linear
from tests.report.runs import recorded
from tests.traces import AUTOGRAD, Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.account import account
from tetrace.breakdown.analysis import Breakdown, break_down
from tetrace.breakdown.busy_categories import busy_by_category
from tetrace.breakdown.figures import FIGURES, Run
from tetrace.breakdown.gaps import CAUSES
from tetrace.breakdown.without_recorder import waiting_ns
from tetrace.errors import UsageError
from tetrace.report.facts import facts
from tetrace.report.scale import scale_of


def idle(breakdown: Breakdown) -> dict[str, int]:
    """Idle µs by cause that are not zero, over the selected frames."""
    return {cause: ns // 1000 for cause, ns in breakdown.totals.idle_ns.items() if ns}


def whole(recording: Recording) -> Breakdown:
    """Everything of a recording, as one frame a lane."""
    return break_down(attribute(recording.trace()), steps="all")


def test_every_cause_of_idle_time() -> None:
    recording = (
        Recording()
        .range("forward", 0, 1000)
        .launch("a", call=(0, 2), runs=(10, 20))
        # Host-bound from 20 to 30, then 4 µs of launch latency, which is less than the floor.
        .launch("b", call=(30, 32), runs=(34, 40))
        # The host sits in a synchronization until 50, then launches at 52.
        .call("cudaStreamSynchronize", 40, 50, "synchronize")
        .launch("c", call=(52, 54), runs=(56, 60))
        # The profiler works from 60 to 70.
        .profiler(60, 70)
        .launch("d", call=(72, 74), runs=(76, 80))
        # Launched long before on a stream that waits for another.
        .stream_wait(76.5, stream=8)
        .launch("e", call=(77, 78), runs=(90, 95), stream=8)
        # Launched long before, and nothing says why it is late.
        .launch("f", call=(78.5, 79), runs=(105, 110))
        # Two nodes of one graph.
        .launch("g", call=(109, 109.5), runs=(110, 115), correlation=99, node=5)
        .launch("h", call=(109, 109.5), runs=(118, 120), correlation=99, node=6)
    )
    breakdown = whole(recording)
    assert breakdown.totals.latency_floor_ns == 8000, "three launches on idle streams tell none"
    assert idle(breakdown) == {
        "host_bound": 10 + 2 + 2,
        "synchronization": 10,
        "launch_latency": 4 + 4 + 4,
        "dependency": 10,
        "graph": 3,
        "profiler": 10,
        "unexplained": 10,
    }
    assert breakdown.totals.busy_ns + breakdown.totals.all_idle_ns == breakdown.totals.wall_ns == 110_000


def launched_on_an_idle_stream(launches: int) -> Recording:
    """So many launches, each 4 µs before its kernel, after a first one that was queued 100 ms before the recording."""
    recording = Recording().range("forward", 0, 200_000).launch("first", (0, 1), (100_000, 100_010))
    for i in range(launches):
        at = 100_050 + 50 * i
        recording.launch("a", (at, at + 1), (at + 4, at + 10))
    return recording


def test_the_first_activity_of_a_stream_tells_no_launch_latency() -> None:
    told, untold = whole(launched_on_an_idle_stream(10)), whole(launched_on_an_idle_stream(9))
    assert (told.launch.latency_median_ns, told.launch.latency_p95_ns, told.launch.latency_samples) == (4000, 4000, 10)
    assert told.totals.latency_floor_ns == 4000
    assert (untold.launch.latency_median_ns, untold.launch.latency_p95_ns, untold.launch.latency_samples) == (-1, -1, 9)
    assert untold.totals.latency_floor_ns == 8000, "a floor all the same, to tell causes apart"
    said = [line for fact in facts(untold, scale_of(untold)) if fact.label == "launches" for line in fact.lines]
    assert "latency not told: 9 idle streams" in said[1]
    latency = next(figure for figure in FIGURES if figure.name == "launch_latency_us")
    assert (latency.value(Run(told)), latency.value(Run(untold))) == (4.0, None)
    assert (account(told).latency_ns.tolist(), account(untold).latency_ns.tolist()) == ([4000.0], [8000.0])


@pytest.mark.parametrize(("device", "samples"), [(0, 10), (-1, 10), (1, 15)])
def test_a_stream_that_was_told_to_wait_tells_no_launch_latency(device: int, samples: int) -> None:
    """Its kernel starts when the event comes, however early it was launched. Another device's stream of the same number is
    another stream; where the device is not known it may be this one."""
    recording = launched_on_an_idle_stream(10)
    for i in range(5):
        at = 101_000 + 50 * i
        recording.stream_wait(at - 1, stream=7, device=device).launch("a", (at, at + 1), (at + 30, at + 40))
    launch = whole(recording).launch
    assert launch.latency_samples == samples
    assert launch.latency_median_ns == 4000
    assert (launch.latency_p95_ns == 4000) == (samples == 10)


def queued(kernels: int, gap: float) -> Recording:
    """Kernels of 10 µs that were launched 100 ms before they run, with gaps of so many µs between them."""
    recording = Recording().range("forward", 0, 200_000)
    for i in range(kernels):
        at = 100_000 + (10 + gap) * i
        recording.launch("a", (i, i + 0.5), (at, at + 10))
    return recording


def test_no_gap_between_queued_activities_waits_for_the_host() -> None:
    breakdown = whole(queued(100, 2))
    assert breakdown.launch.latency_samples == 0
    assert idle(breakdown) == {"queued": 99 * 2}
    assert waiting_ns(breakdown) == 0
    assert breakdown.totals.busy_ns + breakdown.totals.all_idle_ns == breakdown.totals.wall_ns
    said = [line for fact in facts(breakdown, scale_of(breakdown)) if fact.label == "launches" for line in fact.lines]
    assert "latency not told: no idle stream" in said[1]


def test_only_short_gaps_in_the_queue_of_one_stream_are_between_queued_activities() -> None:
    assert idle(whole(queued(10, 8))) == {"queued": 9 * 8}
    assert idle(whole(queued(10, 8.5))) == {"unexplained": int(9 * 8.5)}
    other_stream = Recording().launch("a", (0, 1), (100, 110)).launch("b", (2, 3), (112, 120), stream=8)
    assert idle(whole(other_stream)) == {"unexplained": 2}


def test_launch_latency_counts_from_the_call_also_where_that_is_before_the_gap() -> None:
    """Called 5 µs before the GPU runs dry: of the floor of 8 µs three are left. A call that lasts longer counts whole."""
    called = Recording().launch("a", (0, 1), (10, 20)).launch("b", (15, 16), (30, 40))
    assert idle(whole(called)) == {"launch_latency": 3, "unexplained": 7}
    lasts = Recording().launch("a", (0, 1), (10, 20)).launch("b", (15, 29), (30, 40))
    assert idle(whole(lasts)) == {"launch_latency": 9, "unexplained": 1}


def test_host_bound_idle_is_charged_to_the_innermost_range_of_the_launching_thread() -> None:
    recording = (
        Recording()
        .range("backward", 0, 100)
        .range("_Linear_backward", 12, 20, AUTOGRAD)
        .range("nvte_quantize_v2", 14, 18, AUTOGRAD)
        .launch("a", call=(0, 1), runs=(5, 10))
        .launch(CAST, call=(17, 18), runs=(21, 25), thread=AUTOGRAD)
    )
    table = whole(recording).tables["host_ranges"]
    # One gap in three pieces: it counts where the longest is.
    assert [
        (row["range"], row["phase"], row["gaps"], row["host_bound_ns"], row["quantizes"]) for row in table.rows()
    ] == [
        ("nvte_quantize_v2", "backward", 1, 3000, 1),
        ("(no range)", "backward", 0, 2000, 0),
        ("_Linear_backward", "backward", 0, 2000, 0),
    ]


@pytest.mark.parametrize("name", ["te4-fp8.sqlite", "ddp-straggler.sqlite"])
def test_a_gap_counts_once_in_a_total(name: str) -> None:
    """Gaps that end in an activity whose call began after the GPU had run dry."""
    breakdown = recorded(name, "all")
    trace, links = breakdown.attribution.trace, breakdown.attribution.links
    start, end = (trace.column("activities", column) for column in ("start_ns", "end_ns"))
    lane = list(zip(*(trace.column("activities", column).tolist() for column in ("process", "device")), strict=True))
    late, busy_until = 0, dict.fromkeys(lane, -1)
    for i in np.lexsort((end, start)).tolist():
        runs_dry = busy_until[lane[i]]
        if 0 <= runs_dry < start[i] and links.call[i] >= 0:
            late += int(trace.column("calls", "start_ns")[links.call[i]] > runs_dry)
        busy_until[lane[i]] = max(runs_dry, int(end[i]))
    counted = int(breakdown.tables["host_ranges"]["gaps"].sum())
    assert counted == late > 500
    of = account(breakdown)
    assert counted == sum(
        n for line, n in zip(of.lines, of.count.tolist(), strict=True) if line.category == "host_bound"
    )


def steps_of(walls: list[int]) -> Recording:
    """Steps of these lengths in µs, with one kernel of 5 µs each."""
    recording, at = Recording(), 0
    for i, wall in enumerate(walls):
        recording.range(f"step_{i}", at, at + wall).launch(GEMM, (at + 1, at + 2), (at + 3, at + 8))
        at += wall
    return recording


def test_windows_tile_and_warm_up_is_left_out() -> None:
    breakdown = break_down(attribute(steps_of([900, 110, 100, 100, 100]).trace()))
    columns = ("step", "used", "reason", "wall_ns", "busy_ns")
    assert [tuple(row[c] for c in columns) for row in breakdown.tables["steps"].rows()] == [
        (0, 0, "warm-up, far slower than the median", 900_000, 5_000),
        (1, 1, "", 110_000, 5_000),
        (2, 1, "", 100_000, 5_000),
        (3, 1, "", 100_000, 5_000),
        (4, 0, "last, its end was not recorded", 5_000, 5_000),
    ]
    assert (breakdown.totals.steps, breakdown.totals.wall_ns, breakdown.totals.activities) == (3, 310_000, 3)


def test_a_window_that_holds_the_time_of_steps_without_work_is_left_out() -> None:
    recording, at = Recording(), 0
    for i in range(12):
        recording.range(f"step_{i}", at, at + 100)
        if i not in (5, 6, 7):
            recording.launch(GEMM, (at + 1, at + 2), (at + 3, at + 8))
        at += 100
    selection = break_down(attribute(recording.trace())).selection
    reasons = dict(zip(selection.windows.step.tolist(), selection.reason, strict=True))
    expected = {4: "with the time of steps after it, which launched nothing", 11: "last, its end was not recorded"}
    assert {step: reason for step, reason in reasons.items() if reason} == expected


def test_a_device_that_works_in_every_second_step_only_has_whole_windows() -> None:
    recording, at = Recording(), 0
    for i in range(12):
        recording.range(f"step_{i}", at, at + 100)
        if i % 2 == 0:
            recording.launch(GEMM, (at + 1, at + 2), (at + 3, at + 8))
        at += 100
    assert break_down(attribute(recording.trace())).selection.used.tolist() == [True] * 5 + [False]


@pytest.mark.parametrize(("steps", "used"), [("1:3", [1, 2]), ("2", [2]), ("3:", [3, 4]), ("all", [0, 1, 2, 3, 4])])
def test_steps_chosen_by_number(steps: str, used: list[int]) -> None:
    table = break_down(attribute(steps_of([100] * 5).trace()), steps=steps).tables["steps"]
    assert [step for step, is_used in zip(table["step"], table["used"], strict=True) if is_used] == used


@pytest.mark.parametrize("steps", ["7:9", "nonsense"])
def test_a_choice_of_nothing_says_what_there_is(steps: str) -> None:
    with pytest.raises(UsageError, match=r"--steps"):
        break_down(attribute(steps_of([100] * 5).trace()), steps=steps)


def test_spill_reconciles_windows_with_the_steps_that_launched_the_work() -> None:
    recording = steps_of([100, 100, 100])
    # Launched in step 0 on another stream, it runs into step 1 by 7 µs (whose window begins at 103).
    recording.launch("late", (90, 91), (95, 110), stream=9)
    table = break_down(attribute(recording.trace()), steps="0:2").tables["steps"]
    assert [(row["activities"], row["busy_ns"], row["spill_ns"]) for row in table.rows()][:2] == [
        (2, 13_000, 7_000),
        (1, 7_000, 0),
    ]


def test_exposed_communication_is_what_compute_does_not_hide() -> None:
    reduce = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    recording = Recording().launch(GEMM, (0, 1), (2, 10)).launch(reduce, (2, 3), (6, 20), stream=9)
    breakdown = whole(recording)
    lane = breakdown.tables["lanes"].rows()[0]
    assert (lane["busy_ns"], lane["exposed_communication_ns"]) == (18_000, 10_000)
    assert breakdown.tables["communication"]["exposed_ns"].tolist() == [10_000]


def test_ranks_wait_for_the_last_one() -> None:
    reduce = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
    recording = Recording()
    for process, start in ((1, 10), (2, 40)):
        recording.launch(reduce, (start - 5, start - 4), (start, 50), process=process)
    assert whole(recording).tables["lanes"]["waiting_ns"].tolist() == [30_000, 0]


def test_all_tables_of_a_te_step_sum_to_its_activity() -> None:
    recording = Recording().range("step_0", 0, 200).range("forward", 0, 50).range("backward", 50, 110)
    te_linear(te_linear(recording, 0, "forward"), 60, "backward").range("optimizer", 110, 150).launch(
        ADAM, (120, 121), (125, 130)
    )
    breakdown = whole(recording)
    quantization = breakdown.quantization_bounds
    assert (quantization.lower_ns, quantization.upper_ns, quantization.weight_casts) == (3_000, 3_000, 1)
    assert breakdown.fp8_coverage.fp8_ns == breakdown.fp8_coverage.gemm_ns == 7_000
    for name in ("phases", "kernels", "modules"):
        assert int(breakdown.tables[name]["total_ns"].sum()) == breakdown.totals.activity_ns == 15_000
    assert set(breakdown.totals.idle_ns) == set(CAUSES)


def test_tables_are_pandas_attributes() -> None:
    frame = whole(Recording().launch(GEMM, (0, 1), (2, 10))).kernels
    assert frame.loc[0, ["name", "total_ns"]].tolist() == [GEMM, 8_000]


def meeting(first: int, last: int) -> Recording:
    """Two ranks and three all-reduces, of which the second rank's recording holds some; it comes 30 µs late each time."""
    recording = Recording()
    for process, late in ((1, 0), (2, 30)):
        for i in range(3) if process == 1 else range(first, last):
            at = 100 * i + late
            recording.launch(
                "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(A)",
                (at + 1, at + 2),
                (at + 10, 100 * i + 50),
                process=process,
            )
    return recording


def test_ranks_are_not_matched_where_one_recording_begins_later() -> None:
    assert whole(meeting(0, 3)).tables["lanes"]["waiting_ns"].tolist() == [90_000, 0]
    assert whole(meeting(1, 3)).tables["lanes"]["waiting_ns"].tolist() == [-1, -1]


def test_fp8_inspection_is_a_category_of_its_own_and_no_part_of_a_recorded_call() -> None:
    recording = (
        Recording()
        .site("quantize", "quantize input", 0, 10, module="proj", role="input", phase="forward")
        .launch(CAST, (1, 2), (3, 8))
        .launch("tetrace_fp8_bf16_moments_one", (4, 5), (8, 11))
        .site("inspection", "FP8 inspection", 12, 20)
        .launch("memset", (13, 14), (15, 17), kind="memset", stream=9)
    )
    breakdown = whole(recording)
    of_category: dict[str, int] = {}
    for row in breakdown.tables["phases"].rows():
        of_category[row["category"]] = of_category.get(row["category"], 0) + row["total_ns"]
    assert of_category == {"quantization": 5000, "inspection": 3000 + 2000}
    assert sum(of_category.values()) == breakdown.totals.activity_ns
    assert sum(breakdown.tables["modules"]["total_ns"].tolist()) == breakdown.totals.activity_ns
    assert busy_by_category(breakdown).totals() == {"quantization": 5000, "inspection": 5000}
    assert breakdown.quantization_bounds.upper_ns == 5000
    assert [(row["activities"], row["total_ns"]) for row in breakdown.tables["recorded_calls"].rows()] == [(1, 5000)]
    line = next(fact for fact in facts(breakdown, scale_of(breakdown)) if fact.label == "FP8 inspection").lines[0]
    assert line == "5.00 µs of GPU activity = 50.0%, 2 kernels and copies: tetrace's own, not the script's"
