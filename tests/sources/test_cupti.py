"""What the collector leaves as a trace: every column of every table, what is outside the window, and what is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.test_report import run as tetrace
from tests.sources.collected import AUTOGRAD, MAIN, PID, Collected, table
from tetrace import _C, load
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import break_down
from tetrace.sources import cupti_rows
from tetrace.sources.cupti_events import (
    DROPPED_BY_CUPTI,
    DROPPED_HERE,
    FAILED,
    FLUSHED,
    OFF,
    ON,
    RESUMED,
    TEXTS_FULL,
    UNWRITTEN,
    YIELDED,
)
from tetrace.trace.trace import Trace

CAST = "_ZN18transformer_engine6detail21cast_transpose_kernelEPKfPh"
CAST_NAME = "transformer_engine::detail::cast_transpose_kernel(float const*, unsigned char*)"


def recorded(tmp_path: Path, *processes: Collected) -> Trace:
    """The trace of processes, as `tetrace report` reads it."""
    folder = tmp_path / "run.tetrace.recording"
    for process in processes:
        process.write(folder)
    return load(folder)


def whole(collected: Collected) -> Collected:
    """`collected` with the end of a process that ended well."""
    return collected.event(OFF, 2000).event(FLUSHED, 2001)


def test_layouts_are_those_of_the_library() -> None:
    for name, (kind, size, fields) in _C.collector_rows().items():
        names, offsets, formats = zip(*fields, strict=True)
        layout = np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": size})
        assert layout == cupti_rows.DTYPES[name], name
        assert cupti_rows.KINDS.get(name, 0) == kind, name
    assert _C.collector_rows().keys() == cupti_rows.DTYPES.keys()


def test_names_are_demangled() -> None:
    assert _C.demangle([CAST, "_Znot", "i", "triton_poi_fused_0", ""]) == [
        CAST_NAME, "_Znot", "i", "triton_poi_fused_0", "",
    ]  # fmt: skip


def a_process(pid: int = PID) -> Collected:
    """One of each."""
    on_device = {"device": 0, "context": 1}
    return whole(
        Collected(pid)
        .event(ON, 1000)
        .device()
        .launch(CAST, call=(1005, 1008), runs=(1010, 1030))
        .call("cudaMemcpyAsync_v3020", 1040, 1042, correlation=2)
        .rows("memcpy", start=1045, end=1050, bytes=64, correlation=2, stream=8, copy_kind=2, **on_device)
        .rows("memset", start=1051, end=1052, bytes=32, correlation=3, stream=7, **on_device)
        .call("cudaGetDevice_v3020", 1053, 1054)
        .call("cudaStreamSynchronize_v3020", 1055, 1060, correlation=4, thread=AUTOGRAD)
        .rows("sync", start=1056, end=1059, correlation=4, stream=7, context=1, event=0xFFFFFFFF, type=3)
        .rows("sync", start=1061, end=1062, correlation=5, stream=0xFFFFFFFF, context=2, type=9)
        .rows("overhead", start=1063, end=1064, type=6 << 16, thread=MAIN)
        .rows("overhead", start=1065, end=1066, type=1 << 16, thread=0)
        .rows("overhead", start=1067, end=1068, type=1, thread=MAIN)
        .rows("node", created=900, node=1 << 40, thread=MAIN)
        .range("forward", 1001, 1035)
        .range("NCCL:ncclAllReduce", 1036, 1037, AUTOGRAD, sequence=12)
        .range("still open", 1070, 0, depth=-1)
        .site("module", "layers.0", 1002, 1034, step=3, phase="forward", module="layers.0")
    )


def test_every_table(tmp_path: Path) -> None:
    trace = recorded(tmp_path, a_process())
    assert {name: trace.rows(name) for name in trace.tables} == {
        "processes": 1, "threads": 2, "devices": 1, "activities": 3, "calls": 4, "synchronizations": 2, "overheads": 3,
        "graph_nodes": 1, "ranges": 4, "sites": 1,
    }  # fmt: skip
    assert table(trace, "processes", "pid", "name") == [(PID, "python")]
    assert table(trace, "threads", "tid", "name") == [(MAIN, "python"), (AUTOGRAD, "python")]
    times = ("start_ns", "end_ns")
    where = ("device", "stream", "correlation", "graph_node", "bytes")
    assert table(trace, "activities", *times, "kind", "name", *where) == [
        (1010, 1030, "kernel", CAST_NAME, 0, 7, 1, 0, -1),
        (1045, 1050, "memcpy", "memcpy DtoH", 0, 8, 2, 0, 64),
        (1051, 1052, "memset", "memset", 0, 7, 3, 0, 32),
    ]
    size = ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "registers", "shared_bytes")
    assert table(trace, "activities", *size) == [(2, 1, 1, 128, 1, 1, 32, 1040), (-1,) * 8, (-1,) * 8]
    assert table(trace, "calls", *times, "thread", "correlation", "kind", "name") == [
        (1005, 1008, 0, 1, "launch", "cudaLaunchKernel"),
        (1040, 1042, 0, 2, "launch", "cudaMemcpyAsync"),
        (1053, 1054, 0, 0, "other", "cudaGetDevice"),
        (1055, 1060, 1, 4, "synchronize", "cudaStreamSynchronize"),
    ]
    assert table(trace, "synchronizations", *times, "device", "stream", "correlation", "kind") == [
        (1056, 1059, 0, 7, 4, "stream"),
        (1061, 1062, -1, -1, 5, "synchronization kind 9"),
    ]
    assert table(trace, "overheads", *times, "thread", "kind", "name") == [
        (1063, 1064, 0, "back_pressure", "command buffer full"),
        (1065, 1066, 0, "profiler", "flush of a buffer"),
        (1067, 1068, 0, "driver", "compiling"),
    ]
    assert table(trace, "graph_nodes", "created_ns", "thread", "graph_node", "original_node") == [(900, 0, 1 << 40, 0)]
    assert table(trace, "ranges", *times, "thread", "kind", "name", "sequence", "site") == [
        (1001, 1035, 0, "push_pop", "forward", -1, -1),
        (1002, 1034, 0, "push_pop", "layers.0", 3, 0),
        (1036, 1037, 1, "push_pop", "ncclAllReduce", 12, -1),
        (1070, 1070, 0, "start_end", "still open", -1, -1),
    ]
    assert table(
        trace, "devices", "device", "gpu", "sm_count", "compute_capability", "bandwidth_bytes_per_s", "name"
    ) == [(0, -1, 132, 90, 4_800_000_000_000, "NVIDIA H200")]
    about = trace.metadata
    assert (about.recorder, about.graph_mode, about.dropped_records) == ("tetrace collector (CUPTI 13.0)", "node", 0)
    assert about.source == "run.tetrace"
    assert about.notices == ("1 ranges were still open when recording ended; they end with the recording",)
    assert about.counts == {
        "call": 4, "call_name": 4, "device": 1, "kernel": 1, "memcpy": 1, "memset": 1, "node": 1, "overhead": 3, "sync": 2,
    }  # fmt: skip


@pytest.mark.parametrize(("version", "said"), [(22, "12.4"), (130200, "13.2"), (17, "API 17")])
def test_cupti_says_its_version_in_two_ways(tmp_path: Path, version: int, said: str) -> None:
    trace = recorded(tmp_path, whole(Collected(cupti=version).event(ON, 1000).kernel("k", 1010, 1020)))
    assert trace.metadata.recorder == f"tetrace collector (CUPTI {said})"


def test_processes_and_devices_are_told_apart(tmp_path: Path) -> None:
    first = Collected(100).event(ON, 1000).device().launch("a", (1001, 1002), (1003, 1004))
    second = Collected(200).event(ON, 1500).device(1, "NVIDIA H100").range("b's", 1501, 1504, thread=200)
    second.launch("b", (1501, 1502), (1503, 1504), thread=200, device=1).event(DROPPED_BY_CUPTI, 1600, count=2000)
    trace = recorded(tmp_path, whole(first), whole(second))
    assert table(trace, "processes", "pid") == [(100,), (200,)]
    assert table(trace, "activities", "process", "device", "name", "correlation") == [(0, 0, "a", 1), (1, 1, "b", 1)]
    assert table(trace, "calls", "process", "thread") == [(0, 0), (1, 1)]
    assert table(trace, "devices", "process", "device", "name") == [(0, 0, "NVIDIA H200"), (1, 1, "NVIDIA H100")]
    assert trace.metadata.notices == ("process 200: CUPTI dropped 2,000 records: its buffers were full",)
    assert trace.metadata.dropped_records == 2000


def test_a_file_that_is_cut_anywhere_gives_what_is_there(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1000)
    for number in range(4):
        collected.launch(f"kernel {number}", (1001, 1002), (1010 + number, 1020 + number))
    data, counts = collected.bytes(), []
    path = tmp_path / "cupti.bin"
    for length in range(0, len(data) + 1, 4):
        path.write_bytes(data[:length])
        found = cupti_rows.read(path)
        counts.append(found.count("kernel"))
        assert found.column("kernel", "start").tolist() == [1010, 1011, 1012, 1013][: counts[-1]]
        assert all(found.text(number) for number in found.column("kernel", "name").tolist())
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2, 3, 4}
    assert found.torn is False


def test_a_torn_end_is_told(tmp_path: Path) -> None:
    folder = whole(Collected().event(ON, 1000).kernel("k", 1010, 1020)).write(tmp_path / "run.tetrace.recording")
    path = folder / f"process-{PID}" / "cupti.bin"
    path.write_bytes(path.read_bytes()[:-30])
    trace = load(folder)
    assert table(trace, "activities", "name") == [("k",)]
    assert "the collector's file is cut off: the process was killed while it was written" in trace.metadata.notices


def test_a_process_that_was_killed_is_told(tmp_path: Path) -> None:
    trace = recorded(tmp_path, Collected().event(ON, 1000).kernel("k", 1010, 1020))
    assert trace.metadata.notices == (
        "the process was killed while it was recorded: what CUPTI had not handed over is missing",
    )


def test_what_was_lost_is_told(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1000).kernel("k", 1010, 1020)
    for what, count, why in (
        (DROPPED_BY_CUPTI, 3, ""),
        (DROPPED_HERE, 1000, "had not ended"),
        (DROPPED_HERE, 500, "had not ended"),
        (UNWRITTEN, 40, "the disk is full"),
    ):
        collected.event(what, 1500, why, count=count)
    trace = recorded(tmp_path, whole(collected.event(0, 0, count=7)))
    assert trace.metadata.notices == (
        "CUPTI dropped 3 records: its buffers were full",
        "1,500 records were dropped: had not ended",
        "40 records could not be written: the disk is full",
    )
    assert trace.metadata.dropped_records == 1543


SECOND = 1_000_000_000


def a_run_with(*events: tuple[int, int, str]) -> Collected:
    """A step a second, from second 1 on, with a kernel each and what happens at a time."""
    collected = Collected().event(ON, SECOND)
    for step in range(6):
        at = (step + 1) * SECOND
        collected.site("step", "step", at, at + SECOND, step)
        collected.site("module", "fc", at + 1, at + 900, step, phase="forward", module="fc")
        collected.kernel("k", at + 10, at + 20)
    for what, at, detail in events:
        collected.event(what, at, detail)
    return collected.event(OFF, 7 * SECOND).event(FLUSHED, 7 * SECOND)


def test_ranges_while_another_tool_has_cupti_are_left_out_but_for_steps(tmp_path: Path) -> None:
    taken, back = int(3.5 * SECOND), int(5.5 * SECOND)
    run = a_run_with((YIELDED, taken, "torch.profiler"), (RESUMED, back - 5, "no graphs from here"), (ON, back, ""))
    trace = recorded(tmp_path, run)
    modules = [number for number, name in table(trace, "ranges", "sequence", "name") if name == "fc"]
    steps = [number for number, name in table(trace, "ranges", "sequence", "name") if name == "step"]
    # The steps part those around them. The instrumentation has told by steps who had CUPTI.
    assert (modules, steps) == ([0, 1, 2, 5], [0, 1, 2, 3, 4, 5])
    assert [notice for notice in trace.metadata.notices if "no graphs from here" in notice]


def test_a_collector_that_fails_in_the_middle(tmp_path: Path) -> None:
    trace = recorded(tmp_path, a_run_with((FAILED, 4 * SECOND, "CUPTI refuses: out of memory")))
    assert trace.metadata.notices == (
        "the collector failed: CUPTI refuses: out of memory; nothing of the GPU was recorded from 3.000 s after recording "
        "began (step 3) on",
    )


@pytest.mark.parametrize(("cupti", "last", "told"), [(26, 2, True), (26, 4, False), (26, 5, False), (130000, 2, False)])
def test_last_steps_without_a_record(cupti: int, last: int, told: bool, tmp_path: Path) -> None:
    """Of six steps the first ones, up to `last`, left one. CUPTI 12 does not tell whether another tool took the others."""
    collected = Collected(cupti=cupti).event(ON, 1000)
    for step in range(6):
        collected.site("step", "step", 1000 + 100 * step, 1100 + 100 * step, step)
        if step <= last:
            collected.launch(
                "k", call=(1005 + 100 * step, 1008 + 100 * step), runs=(1010 + 100 * step, 1020 + 100 * step)
            )
    trace = recorded(tmp_path, collected.event(OFF, 1600).event(FLUSHED, 1601))
    silence = [notice for notice in trace.metadata.notices if "another tool took CUPTI's buffers" in notice]
    assert [notice.partition(" neither")[0] for notice in silence] == (["from step 3 on"] if told else [])


def test_a_collector_that_never_began_leaves_the_ranges(tmp_path: Path) -> None:
    """GPU activity is not captured then, which is not the same as none."""
    collected = Collected(cupti=0).event(FAILED, 1000, "another tool holds CUPTI").range("forward", 1001, 1020)
    trace = recorded(tmp_path, collected.site("step", "step", 1000, 1100, 0))
    assert not trace.has("activities")
    assert table(trace, "ranges", "name") == [("step",), ("forward",)]
    assert trace.metadata.recorder == "tetrace collector (NVTX only)"
    assert trace.metadata.notices == (
        "the collector failed: another tool holds CUPTI; nothing of the GPU was recorded",
    )


def test_only_what_lies_in_the_window_counts(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1000).kernel("k", 1500, 1510)
    for number, (start, end) in enumerate([(100, 900), (500, 1200), (1300, 1400), (1900, 2100), (2100, 2200)]):
        collected.site("module", f"module {number}", start, end, step=number)
        collected.range(f"range {number}", start, end)
        collected.site("step", "step", start, end, step=number)
    trace = recorded(tmp_path, whole(collected))
    found = table(trace, "ranges", "name", "sequence")
    assert sorted(name for name, _ in found if name.startswith("module")) == ["module 1", "module 2", "module 3"]
    assert sorted(name for name, _ in found if name.startswith("range")) == ["range 1", "range 2", "range 3"]
    assert [number for name, number in found if name == "step"] == [2, 3]


def test_the_module_of_a_kernel_whose_graph_was_captured_before_the_window(tmp_path: Path) -> None:
    collected = (
        Collected()
        .site("step", "step", 100, 200, 0)
        .site("module", "layers.0", 110, 150, phase="forward", module="layers.0")
        .site("module", "layers.1", 160, 190, phase="forward", module="layers.1")
        .rows("node", created=120, node=7, thread=MAIN)
        .rows("node", created=300, node=9, original=7, thread=MAIN)
        .event(ON, 1000)
        .site("step", "step", 1001, 1100, 5)
        .call("cudaGraphLaunch_v10000", 1010, 1020, correlation=1)
        .kernel("_Z4gemmv", 1030, 1040, correlation=1, graph_node=9)
    )
    trace = recorded(tmp_path, whole(collected))
    assert table(trace, "ranges", "name", "sequence") == [("layers.0", 0), ("step", 5)]
    attribution = attribute(trace)
    assert [attribution.module_names[code] for code in attribution.module] == ["layers.0"]


def test_what_has_no_name_is_kept(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1000)
    collected.rows("kernel", start=1010, end=1020, name=77, correlation=1)
    collected.rows("kernel", start=1030, end=1040, name=cupti_rows.NO_TEXT, correlation=2)
    collected.rows("call", start=1001, end=1002, call=5, correlation=1, thread=MAIN)
    trace = recorded(tmp_path, whole(collected))
    assert table(trace, "activities", "name") == [("(unnamed 77)",), ("(unnamed)",)]
    assert table(trace, "calls", "name", "kind") == [("(call 5)", "other")]


def test_frames_of_a_kind_to_come_are_skipped(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1000).frame(99, 4, 1, b"abcd").kernel("k", 1010, 1020)
    assert table(recorded(tmp_path, whole(collected)), "activities", "name") == [("k",)]


@pytest.mark.parametrize(
    ("collected", "problem"),
    [
        (Collected(version=9), r"is of version 9; this tetrace reads version 1"),
        (Collected().frame(2, 96, 1, bytes(96)), r"rows 'kernel' have 96 bytes, expected 80"),
    ],
)
def test_a_file_of_another_version_costs_the_gpu_only(tmp_path: Path, collected: Collected, problem: str) -> None:
    trace = recorded(tmp_path, collected.site("step", "step", 1000, 1100))
    assert table(trace, "ranges", "name") == [("step",)]
    assert any(problem in notice for notice in trace.metadata.notices)


def test_programs_of_one_process_are_rows_of_their_own(tmp_path: Path) -> None:
    """Numbers of texts, sites and correlations are those of a program: exec begins them anew."""
    folder = tmp_path / "run.tetrace.recording"
    names = ("first", "second", "third")
    for number, name in enumerate(names):
        at = 1000 * (number + 1)
        program = Collected(program=number).event(ON, at).device(name=f"GPU of {name}")
        program.site("module", f"layers of {name}", at + 1, at + 90, step=number, module=name)
        program.launch(name, call=(at + 5, at + 8), runs=(at + 10, at + 20)).range(f"range of {name}", at + 2, at + 50)
        program.event(OFF, at + 95).event(FLUSHED, at + 96).write(folder)
    (folder / f"process-{PID}-2" / "process.json").write_text(json.dumps({"pid": PID, "rank": 7}))
    trace = load(folder)
    assert table(trace, "processes", "process", "pid", "rank") == [(0, PID, -1), (1, PID, -1), (2, PID, 7)]
    assert table(trace, "threads", "process", "tid") == [(0, MAIN), (1, MAIN), (2, MAIN)]
    assert table(trace, "devices", "process", "name") == [(n, f"GPU of {name}") for n, name in enumerate(names)]
    assert table(trace, "activities", "process", "name", "correlation") == [
        (n, name, 1) for n, name in enumerate(names)
    ]
    assert table(trace, "ranges", "process", "name", "site") == [
        (0, "layers of first", 0), (0, "range of first", -1), (1, "layers of second", 1), (1, "range of second", -1),
        (2, "layers of third", 2), (2, "range of third", -1),
    ]  # fmt: skip
    assert table(trace, "sites", "process", "module") == [(0, "first"), (1, "second"), (2, "third")]
    attribution = attribute(trace)
    assert [attribution.module_names[module] for module in attribution.module.tolist()] == ["first", "second", "third"]


@pytest.mark.parametrize(
    ("gone_us", "back_us", "silent", "left_out"),
    [(645, 950, {7, 8}, [6, 9]), (600, 905, {6, 7, 8}, [5, 9]), (640, 660, set(), [6])],
)
def test_steps_in_which_another_tool_had_cupti_are_not_used(
    tmp_path: Path, gone_us: int, back_us: int, silent: set[int], left_out: list[int]
) -> None:
    """A window from the last kernel before to the first one after it would be one overlong step."""
    collected = Collected().event(ON, 1_000_000)
    for step in range(14):  # of 100 µs each, with a kernel where one was recorded
        at = 1_000_000 + 100_000 * step
        collected.site("step", "step", at, at + 100_000, step=step)
        if step not in silent:
            collected.launch("k", call=(at + 10_000, at + 11_000), runs=(at + 20_000, at + 30_000))
    gone, back = (1_000_000 + 1000 * us for us in (gone_us, back_us))
    collected.event(YIELDED, gone, "torch.profiler").event(RESUMED, back).event(ON, back)
    collected.event(OFF, 2_500_000).event(FLUSHED, 2_500_001)
    selection = break_down(attribute(recorded(tmp_path, collected))).selection
    reasons = dict(zip(selection.windows.step.tolist(), selection.reason, strict=True))
    told = "not recorded whole, the recorder was off for a part of it"
    assert [step for step, why in reasons.items() if why == told] == left_out
    wall = (selection.windows.end - selection.windows.start)[selection.used]
    assert wall.tolist() == [100_000] * (14 - len(silent) - len(left_out) - 1)  # nor is the last, which is open


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_the_gpu_had_not_finished_when_another_tool_took_cupti(comes_back: bool, tmp_path: Path) -> None:
    """The host is in step 6 then; on a stream of two the GPU has finished nothing of steps 4 to 6."""
    collected, taken, back = Collected().event(ON, 1_000_000), 1_640_000, 1_900_000
    for step in [*range(7), *(range(9, 14) if comes_back else ())]:
        at = 1_000_000 + 100_000 * step
        collected.site("step", "step", at, at + 100_000, step=step)
        for call in (at + 2000, at + 4000):
            collected.launch("k", call=(call, call + 1000), runs=(call + 10_000, call + 11_000))
        if step in (4, 5, 6):
            collected.call("cudaLaunchKernel_v7000", at + 6000, at + 7000, correlation=900 + step)
        else:
            collected.launch("on a side stream", call=(at + 6000, at + 7000), runs=(at + 20_000, at + 30_000), stream=9)
    # These are not missing: one was refused, one is a node of a graph, and a copy may be of no bytes.
    collected.call("cudaLaunchKernel_v7000", 1_110_000, 1_111_000, correlation=800, return_value=1)
    collected.call("cudaLaunchKernel_v7000", 1_120_000, 1_121_000, correlation=801)
    collected.rows("node", created=1_120_500, node=7, thread=MAIN)
    collected.call("cudaMemcpyAsync_v3020", 1_130_000, 1_131_000, correlation=802)
    collected.event(YIELDED, taken, "torch.profiler").event(DROPPED_HERE, taken + 10, "had not ended", count=1)
    if comes_back:
        collected.event(RESUMED, back - 5).event(ON, back).event(OFF, 2_500_000)
    trace = recorded(tmp_path, collected.event(FLUSHED, 2_500_001))
    assert [notice for notice in trace.metadata.notices if "left no record" in notice] == [
        "from 0.000 s after recording began (step 4) on 3 launches left no record: the GPU had not finished them when "
        "torch.profiler took CUPTI"
    ]
    assert trace.metadata.dropped_records == 3
    [[_, begin, end, since]] = trace.metadata.facts["unrecorded"]
    assert (begin, since) == (taken, 1_406_000)
    assert end == back if comes_back else end > back
    windows = break_down(attribute(trace), steps="all").selection.windows
    lacking = [step for step, whole in zip(windows.step.tolist(), windows.recorded.tolist(), strict=True) if not whole]
    assert lacking == [4, 5, 6]


def test_what_a_program_lost_is_told_of_it(tmp_path: Path) -> None:
    lossy = Collected(program=1).event(ON, 2000).kernel("k", 2010, 2020).event(DROPPED_BY_CUPTI, 2030, count=3)
    trace = recorded(tmp_path, whole(Collected().event(ON, 1000).kernel("k", 1010, 1020)), lossy.event(FLUSHED, 2040))
    assert f"process {PID} (its program 2): CUPTI dropped 3 records: its buffers were full" in trace.metadata.notices


def test_texts_that_were_too_many_are_told(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1_000).kernel("k", 1010, 1020).site("step", "step", 1_000, 9 * 10**9, step=4)
    collected.rows("event", at=1_500_001_000, what=TEXTS_FULL, detail=collected.text("NVTX ranges"), count=32 << 20)
    trace = recorded(tmp_path, collected.event(OFF, 9 * 10**9).event(FLUSHED, 9 * 10**9))
    told = "NVTX ranges have more different texts than the 32 MiB that are kept: from 1.500 s after recording began "
    told += "(step 4) on new ones are called (unnamed); leave numbers out of the texts of ranges"
    assert told in trace.metadata.notices
    assert told in " ".join(tetrace("report", tmp_path / "run.tetrace.recording").stdout.split())


def test_ranges_of_a_process_without_cuda_count_while_the_others_are_recorded(tmp_path: Path) -> None:
    loader = Collected(200).range("late", 1500, 1510, thread=200).range("early", 500, 600, thread=200)
    folder = whole(Collected().event(ON, 1000).kernel("k", 1010, 1020)).write(tmp_path / "run.tetrace.recording")
    loader.write(folder)
    assert table(load(folder), "ranges", "name") == [("late",)]


def test_the_report_of_a_recording(tmp_path: Path) -> None:
    collected = Collected().event(ON, 1).device()
    for step in range(6):
        at = 1000 + step * 100_000
        collected.site("step", "step", at, at + 100_000, step)
        for layer in range(3):
            begin = at + layer * 30_000
            path = f"layers.{layer}"
            collected.site("module", path, begin, begin + 20_000, step, phase="forward", module=path)
            collected.launch(CAST, (begin + 1000, begin + 3000), (begin + 4000, begin + 10_000))
            collected.launch("_Z4gemmv", (begin + 5000, begin + 7000), (begin + 10_000, begin + 25_000))
    folder = tmp_path / "run.tetrace.recording"
    collected.event(OFF, 700_000).event(FLUSHED, 700_000).write(folder)
    run: dict[str, Any] = {"command": ["train.py"], "ended": {"finished": True}}
    (folder / "run.json").write_text(json.dumps(run))
    done = tetrace("report", folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("run.tetrace · tetrace collector · NVIDIA H200 · pid 100\nsteps 0–4 (5 of 6)")
    assert "busy                    0.063    63.0%" in done.stdout
    assert "layers.2" in tetrace("report", folder, "--by", "module").stdout
