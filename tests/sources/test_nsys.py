"""Nsight Systems exports of few rows, and the tables they become."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

import tetrace
from tests.sources.exports import AUTOGRAD, MAIN, Export, all_rows, columns, process_id, shown, thread_id
from tetrace.errors import InputError
from tetrace.trace.trace import Trace

KERNEL, RUNTIME, NVTX = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Export], Trace]:
    """The trace of an export, which is the same from SQLite and from Parquet."""

    def read_both(export: Export) -> Trace:
        trace = tetrace.load(export.sqlite(tmp_path / "run.sqlite"))
        assert all_rows(trace) == all_rows(tetrace.load(export.parquetdir(tmp_path / "run")))
        return trace

    return read_both


def small() -> Export:
    """A forward range that launches one kernel."""
    return Export().range("forward", 0, 40).launch("gemm", call=(5, 8), runs=(10, 30))


def test_a_whole_export(read: Callable[[Export], Trace]) -> None:
    export = (
        small()
        .call("cudaMemcpyAsync_v3020", 41, 44, correlation=7)
        .copy(50, 60, size=4096, kind=2, stream=13, correlation=7)
        .call("cudaMemsetAsync_v3020", 45, 46, correlation=8)
        .memset(62, 63, size=16, correlation=8)
        .call("cudaStreamSynchronize_v3020", 47, 70, correlation=9)
        .synchronization(48, 69, 3, stream=13, correlation=9)
        .overhead("Chunk Allocation", 71, 73)
        .rows("ThreadNames", {"nameId": 5, "globalTid": thread_id(1, MAIN)})
        .rows("PROCESSES", {"globalPid": process_id(1), "pid": 1, "name": "/opt/me/bin/python3.12"})
        .rows("TARGET_INFO_GPU", gpu := {"id": 3, "name": "NVIDIA H200", "smCount": 132, "totalMemory": 10**11})
        .rows("TARGET_INFO_CUDA_DEVICE", {"gpuId": 3, "cudaId": 0, "pid": 1})
        .rows("META_DATA_EXPORT", {"name": "EXPORT_PRODUCT_VERSION", "value": "2025.3.2.0"})
        .rows("META_DATA_EXPORT", {"name": "EXPORT_SCHEMA_VERSION", "value": "3.20.3"})
        .rows("META_DATA_CAPTURE", {"name": "PROCESS_0:CUDA_GRAPH_TRACE_OPTIONS:MODE", "value": "Graph"})
    )
    gpu |= {"memoryBandwidth": 4 * 10**12, "computeMajor": 9, "computeMinor": 0, "cuDevice": 0, "vmId": 0}
    export.tables["ThreadNames"][0]["nameId"] = export.text_id("pt_main_thread")
    trace = read(export)
    assert {name: shown(trace, name) for name in trace.tables} == {
        "processes": [{"process": 0, "global_id": process_id(1), "pid": 1, "name": "python3.12"}],
        "threads": [
            {"thread": 0, "process": 0, "global_id": thread_id(1, MAIN), "tid": MAIN, "name": "pt_main_thread"}
        ],
        "devices": [
            {
                "process": 0, "device": 0, "gpu": 3, "sm_count": 132, "memory_bytes": 10**11,
                "bandwidth_bytes_per_s": 4 * 10**12, "compute_capability": 90, "name": "NVIDIA H200",
            }
        ],
        "activities": [
            {
                "process": 0, "start_ns": 10, "end_ns": 30, "device": 0, "stream": 7, "correlation": 1,
                "kind": "kernel", "name": "gemm", "grid_x": 8, "grid_y": 1, "grid_z": 1,
                "block_x": 128, "block_y": 1, "block_z": 1, "registers": 90, "shared_bytes": 1024,
            },
            {
                "process": 0, "start_ns": 50, "end_ns": 60, "device": 0, "stream": 13, "correlation": 7,
                "kind": "memcpy", "name": "memcpy DtoH", "bytes": 4096,
            },
            {
                "process": 0, "start_ns": 62, "end_ns": 63, "device": 0, "stream": 7, "correlation": 8,
                "kind": "memset", "name": "memset", "bytes": 16,
            },
        ],
        "calls": [
            {"process": 0, "thread": 0, "start_ns": start, "end_ns": end, "correlation": id_, "kind": kind, "name": name}
            for start, end, id_, kind, name in [
                (5, 8, 1, "launch", "cudaLaunchKernel"),
                (41, 44, 7, "launch", "cudaMemcpyAsync"),
                (45, 46, 8, "launch", "cudaMemsetAsync"),
                (47, 70, 9, "synchronize", "cudaStreamSynchronize"),
            ]
        ],
        "ranges": [
            {"process": 0, "thread": 0, "start_ns": 0, "end_ns": 40, "kind": "push_pop", "name": "forward"}
        ],
        "synchronizations": [
            {"process": 0, "start_ns": 48, "end_ns": 69, "device": 0, "stream": 13, "correlation": 9, "kind": "stream"}
        ],
        "overheads": [
            {"process": 0, "thread": 0, "start_ns": 71, "end_ns": 73, "kind": "profiler", "name": "Chunk Allocation"}
        ],
    }  # fmt: skip
    found = trace.metadata
    assert (found.recorder, found.graph_mode) == ("Nsight Systems 2025.3.2.0 (schema 3.20.3)", "graph")
    assert (found.source, found.source_format) == ("run.sqlite", "Nsight Systems SQLite export")
    assert (found.notices, found.dropped_records) == ((), 0)


def test_registered_strings_leave_the_text_empty(read: Callable[[Export], Trace]) -> None:
    export = (
        Export()
        .range("plain", 0, 10)
        .range(None, 1, 9, registered="registered")
        .range("", 2, 8, registered="plain")
        .range("text wins", 3, 7, registered="registered")
        .range(None, 4, 6)
        .range(None, 5, 6, registered="aten::mul, seq = 9")
    )
    assert columns(read(export), "ranges", "name", "sequence") == [
        ("plain", -1),
        ("registered", -1),
        ("plain", -1),
        ("text wins", -1),
        ("", -1),
        ("aten::mul", 9),
    ]


def test_a_name_in_two_places_is_one_word(read: Callable[[Export], Trace]) -> None:
    trace = read(Export().range("x", 0, 1).range(None, 2, 3, registered="x").range("x, seq = 3", 4, 5))
    assert sorted(trace.words("ranges", "name")) == ["", "x"]


def test_text_that_is_null_for_many_rows_and_then_is_not(read: Callable[[Export], Trace]) -> None:
    export = Export()
    for i in range(6_000):
        export.range(None, i, i + 1, registered="first")
    export.range("then text", 6_000, 6_001)
    trace = read(export)
    assert trace.rows("ranges") == 6_001
    assert columns(trace, "ranges", "name")[-2:] == [("first",), ("then text",)]


def test_integers_that_are_null_for_many_rows_and_then_are_not(read: Callable[[Export], Trace]) -> None:
    export = Export()
    for i in range(6_000):
        export.kernel("k", i, i + 1, correlation=None, graphNodeId=None)
    export.kernel("k", 6_000, 6_001, correlation=2**31 + 5, graphNodeId=2**40)
    assert columns(read(export), "activities", "correlation", "graph_node")[-2:] == [(-1, 0), (2**31 + 5, 2**40)]


def test_numbers_that_are_stored_as_text(tmp_path: Path) -> None:
    text = dict.fromkeys(("start", "end", "globalPid", "globalTid", "correlationId", "streamId", "nameId"), "TEXT")
    as_text = tetrace.load(small().sqlite(tmp_path / "text.sqlite", text))
    parquet = tetrace.load(small().parquetdir(tmp_path / "text", dict.fromkeys(text, pa.large_string())))
    assert all_rows(as_text) == all_rows(parquet) == all_rows(tetrace.load(small().sqlite(tmp_path / "run.sqlite")))


def test_rows_in_no_order(read: Callable[[Export], Trace]) -> None:
    export = Export()
    for start in (30, 10, 20):
        export.launch(f"k{start}", (start, start + 1), (start + 5, start + 6)).range(f"r{start}", start, start + 4)
    export.range("outer", 10, 50)
    trace = read(export)
    assert columns(trace, "activities", "name", "start_ns") == [("k10", 15), ("k20", 25), ("k30", 35)]
    assert columns(trace, "calls", "start_ns") == [(10,), (20,), (30,)]
    assert columns(trace, "ranges", "name") == [("outer",), ("r10",), ("r20",), ("r30",)]


def test_push_pop_and_start_end_ranges_count_and_nothing_else_does(read: Callable[[Export], Trace]) -> None:
    export = Export()
    for kind in (33, 34, 39, 59, 60, 75, 97):
        export.range(f"type {kind}", kind, None if kind in (34, 75) else kind + 1, kind=kind)
    assert columns(read(export), "ranges", "kind", "name", "start_ns", "end_ns") == [
        ("push_pop", "type 59", 59, 60),
        ("start_end", "type 60", 60, 61),
    ]


def test_ranges_that_are_still_open_end_with_the_recording(read: Callable[[Export], Trace]) -> None:
    trace = read(small().range("step", 3, None).range("inner", 4, None, kind=60))
    assert columns(trace, "ranges", "name", "end_ns") == [("forward", 40), ("step", 40), ("inner", 40)]
    assert trace.metadata.notices == ("2 ranges were still open when recording ended; they end with the recording",)


def test_correlation_ids_that_two_processes_share(read: Callable[[Export], Trace]) -> None:
    export = Export()
    for process in (2, 1):
        export.range(f"rank {process}", 0, 9, process=process)
        export.launch(f"kernel {process}", (1, 2), (3, 5), process=process, correlation=77)
    trace = read(export)
    assert columns(trace, "processes", "pid") == [(1,), (2,)]
    assert columns(trace, "activities", "process", "name", "correlation") == [(0, "kernel 1", 77), (1, "kernel 2", 77)]
    links = tetrace.analyze(trace, steps="all").attribution.links
    assert [trace.words("ranges", "name")[code] for code in trace.column("ranges", "name")[links.range]] == [
        "rank 1",
        "rank 2",
    ]


def test_thread_ids_use_all_their_bits(tmp_path: Path) -> None:
    # Above the process are bits of the host and the virtual machine. SQLite has no unsigned integers, Parquet has.
    process, thread = 0xFFFFFE, 0xFFFFFE

    def export(host: int) -> Export:
        pid = host + (process << 24)
        made = Export().range("r", 0, 9, globalTid=pid + thread).kernel("k", 3, 4, correlation=1, globalPid=pid)
        return made.call("cudaLaunchKernel", 1, 2, correlation=1, globalTid=pid + thread)

    host = 0xAB << 56
    signed = tetrace.load(export(host - (1 << 64)).sqlite(tmp_path / "run.sqlite"))
    assert columns(signed, "threads", "tid", "process") == [(thread, 0)]
    assert columns(signed, "processes", "global_id", "pid") == [(host - (1 << 64) + (process << 24), process)]
    assert all_rows(signed) == all_rows(tetrace.load(export(host).parquetdir(tmp_path / "run")))


ABSENT = {
    KERNEL: {"activities", "devices"},
    RUNTIME: {"calls"},
    NVTX: {"ranges"},
    "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": {"synchronizations"},
    "PROFILER_OVERHEAD": {"overheads"},
    "CUDA_GRAPH_NODE_EVENTS": {"graph_nodes"},
}


def everything() -> Export:
    """An export with a row in every table that becomes one of the trace."""
    return small().synchronization(31, 32, 4).overhead("Chunk Allocation", 33, 34).node(5, 35)


@pytest.mark.parametrize("table", ABSENT)
def test_an_absent_table_was_not_captured(table: str, read: Callable[[Export], Trace]) -> None:
    whole = {"processes", "threads", "devices", "activities", "calls", "ranges"}
    whole |= {"synchronizations", "overheads", "graph_nodes"}
    trace = read(everything().without(table))
    assert set(trace.tables) == whole - ABSENT[table] | {"devices"}
    assert trace.rows("devices") == int(table != KERNEL)


@pytest.mark.parametrize("table", ABSENT)
def test_an_empty_table_was_captured_and_holds_nothing(table: str, read: Callable[[Export], Trace]) -> None:
    trace = read(everything().without(table).rows(table))
    for name in ABSENT[table] - {"devices"}:
        assert trace.has(name)
        assert trace.rows(name) == 0
    tetrace.analyze(trace, steps="all")


def test_copies_without_a_table_of_kernels_say_so(read: Callable[[Export], Trace]) -> None:
    trace = read(Export().copy(0, 9))
    assert trace.metadata.notices == ("there is no table CUPTI_ACTIVITY_KIND_KERNEL: kernels were not captured",)


def test_a_host_that_waits_for_a_stream_is_no_stream_that_waits(read: Callable[[Export], Trace]) -> None:
    """Nsight Systems writes cudaStreamSynchronize of the default stream as a stream's wait, 2022.1 cudaEventSynchronize."""
    export = (
        Export()
        .launch("k", (0, 5), (10, 20), correlation=1)
        .call("cudaStreamSynchronize_v3020", 30, 40, correlation=2)
        .synchronization(31, 39, 2, correlation=2)
        .synchronization(50, 51, 2, correlation=3)  # of a call that the export lacks
        .synchronization(60, 61, 1, correlation=4)
        .call("cudaStreamSynchronize_v3020", 70, 80, correlation=3, process=2)
        .kernel("k", 85, 90, correlation=9, process=2)
        .call("cudaEventSynchronize", 100, 120, correlation=5)
        .synchronization(101, 119, 2, correlation=5)
        .call("cudaDeviceSynchronize", 130, 140, correlation=6)
        .synchronization(131, 139, 1, correlation=6)
    )
    assert columns(read(export), "synchronizations", "start_ns", "kind") == [
        (31, "stream"), (50, "stream_wait"), (60, "event"), (101, "event"), (131, "context"),
    ]  # fmt: skip


def test_graphs_that_were_recorded_whole(read: Callable[[Export], Trace]) -> None:
    export = Export().call("cudaGraphLaunch_v10000", 0, 5, correlation=4).graph(6, 90, correlation=4)
    trace = read(export)
    assert shown(trace, "activities") == [
        {
            "process": 0, "start_ns": 6, "end_ns": 90, "device": 0, "stream": 7, "correlation": 4, "kind": "graph",
            "name": "CUDA graph (recorded whole)",
        }
    ]  # fmt: skip
    assert columns(trace, "calls", "kind", "name") == [("graph_launch", "cudaGraphLaunch")]
    assert trace.metadata.graph_mode == "graph"
    assert trace.metadata.notices == (
        "1 CUDA graph launches were recorded whole, their kernels were not captured; "
        "record with --cuda-graph-trace=node to see them",
    )


def test_graphs_that_were_recorded_node_by_node(read: Callable[[Export], Trace]) -> None:
    export = (
        Export()
        .node(11, created=2, thread=AUTOGRAD)
        .node(1 << 40, created=4, original=11)
        .call("cudaGraphLaunch_v10000", 10, 15, correlation=4)
        .kernel("a", 20, 30, correlation=4, graphNodeId=1 << 40)
        .memset(31, 32, correlation=4, graphNodeId=12)
    )
    trace = read(export)
    assert shown(trace, "graph_nodes") == [
        {"process": 0, "thread": 1, "created_ns": 2, "graph_node": 11},
        {"process": 0, "thread": 0, "created_ns": 4, "graph_node": 1 << 40, "original_node": 11},
    ]
    assert columns(trace, "activities", "name", "graph_node", "correlation") == [("a", 1 << 40, 4), ("memset", 12, 4)]
    assert trace.metadata.graph_mode == "node"


@pytest.mark.parametrize(("value", "mode"), [("Node", "node"), ("graph", "graph"), ("SECRET", ""), ("", "")])
def test_the_mode_of_graphs_is_one_of_two_words(value: str, mode: str, read: Callable[[Export], Trace]) -> None:
    export = small().rows("META_DATA_CAPTURE", {"name": "P:CUDA_GRAPH_TRACE_OPTIONS:MODE", "value": value})
    assert read(export).metadata.graph_mode == mode


def test_overheads_of_the_profiler_of_the_driver_and_back_pressure(read: Callable[[Export], Trace]) -> None:
    export = small().overhead("NVTX initialization", 1, 2)
    for kind, name in ((2, "JIT"), (3, "flush"), (6, "load"), (8, "Command Buffer Full")):
        export.overhead(name, kind * 10, kind * 10 + 5, kind)
    assert columns(read(export), "overheads", "kind", "name", "start_ns") == [
        ("profiler", "NVTX initialization", 1),
        ("driver", "JIT", 20),
        ("profiler", "flush", 30),
        ("driver", "load", 60),
        ("back_pressure", "Command Buffer Full", 80),
    ]


def test_a_runtime_call_and_the_driver_call_inside_it_share_an_id(read: Callable[[Export], Trace]) -> None:
    export = Export().call("cudaLaunchKernel_v7000", 0, 9, correlation=1).call("cuLaunchKernelEx", 2, 8, correlation=1)
    trace = read(export.kernel("k", 10, 20, correlation=1))
    assert columns(trace, "calls", "name", "correlation") == [("cudaLaunchKernel", 1), ("cuLaunchKernelEx", 1)]
    assert tetrace.analyze(trace, steps="all").attribution.links.call.tolist() == [0]


@pytest.mark.parametrize(
    ("recorded", "kept"),
    [
        ("cudaLaunchKernel_v7000", ("cudaLaunchKernel", "launch")),
        ("cudaLaunchKernelExC_v11060", ("cudaLaunchKernelExC", "launch")),
        ("cudaLaunchKernel_ptsz_v7000", ("cudaLaunchKernel", "launch")),
        ("cudaLaunchCooperativeKernel_v9000", ("cudaLaunchCooperativeKernel", "launch")),
        ("cuLaunchKernelEx", ("cuLaunchKernelEx", "launch")),
        ("cudaGraphLaunch_v10000", ("cudaGraphLaunch", "graph_launch")),
        ("cuGraphLaunch", ("cuGraphLaunch", "graph_launch")),
        ("cudaMemcpyAsync_ptsz_v7000", ("cudaMemcpyAsync", "launch")),
        ("cuMemcpyHtoDAsync_v2", ("cuMemcpyHtoDAsync_v2", "launch")),
        ("cudaEventSynchronize_v3020", ("cudaEventSynchronize", "synchronize")),
        ("cudaMalloc_v3020", ("cudaMalloc", "allocate")),
        ("cuModuleLoadData", ("cuModuleLoadData", "load")),
        ("cudaSomethingNew_v15000", ("cudaSomethingNew", "other")),
        ("cudaGetDevice_v3020", None),
        ("cudaEventRecord_v3020", None),
        ("void cutlass::gemm(int)", None),
        ("nvte_quantize", None),
    ],
)
def test_names_of_calls(recorded: str, kept: tuple[str, str] | None, read: Callable[[Export], Trace]) -> None:
    trace = read(small().without(RUNTIME).call(recorded, 1, 2))
    assert columns(trace, "calls", "name", "kind") == ([kept] if kept else [])


def test_diagnostics_of_lost_records_are_told_without_what_is_private(read: Callable[[Export], Trace]) -> None:
    export = small()
    for severity, text in [
        (1, "Number of CUDA events dropped: 5"),
        (2, "1,200 CUDA events were dropped, see /home/me/my secret folder/log.txt for more"),
        (3, "Some records were lost by 'secret host' with KEY=secret"),
        (2, "Not all CUDA events might have been collected."),
        (2, "Not all CUDA events might have been collected."),
        (2, "CUDA profiling might have not been started correctly."),
    ]:
        export.rows("DIAGNOSTIC_EVENT", {"timestamp": 0, "source": 1, "severity": severity, "text": text})
    metadata = read(export).metadata
    assert metadata.notices == (
        "1,200 CUDA events were dropped, see … for more",
        "Some records were lost by … with …",
        "nsys warns: Not all CUDA events might have been collected.",
    )
    assert metadata.dropped_records == 1200


@pytest.mark.parametrize("table", ["META_DATA_EXPORT", "EXPORT_META_DATA"])
def test_both_names_of_the_table_about_the_export(table: str, read: Callable[[Export], Trace]) -> None:
    export = small().rows(table, {"name": "EXPORT_PRODUCT_VERSION", "value": "2022.4.2.50"})
    assert read(export).metadata.recorder == "Nsight Systems 2022.4.2.50 (schema unknown)"


def test_columns_that_older_exports_do_not_have(read: Callable[[Export], Trace]) -> None:
    optional = ("greenContextId", "graphNodeId", "mangledName", "registersPerThread", "gridX", "staticSharedMemory")
    export = small().range("registered", 1, 2).without(*(f"{KERNEL}.{name}" for name in optional))
    trace = read(export.without(f"{NVTX}.textId", f"{NVTX}.eventType", f"{NVTX}.endGlobalTid"))
    assert shown(trace, "activities") == [
        {
            "process": 0, "start_ns": 10, "end_ns": 30, "device": 0, "stream": 7, "correlation": 1, "kind": "kernel",
            "name": "gemm", "grid_y": 1, "grid_z": 1, "block_x": 128, "block_y": 1, "block_z": 1,
        }
    ]  # fmt: skip
    assert columns(trace, "ranges", "name", "kind") == [("forward", "push_pop"), ("registered", "push_pop")]


def test_kernels_that_only_have_a_short_name(read: Callable[[Export], Trace]) -> None:
    trace = read(small().without(f"{KERNEL}.demangledName", f"{KERNEL}.mangledName"))
    assert columns(trace, "activities", "name") == [("short",)]


@pytest.mark.parametrize(
    "column",
    [f"{KERNEL}.start", f"{KERNEL}.streamId", f"{RUNTIME}.nameId", f"{RUNTIME}.globalTid", f"{NVTX}.start",
     "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION.syncType", "CUDA_GRAPH_NODE_EVENTS.graphNodeId"],
)  # fmt: skip
def test_a_missing_column_is_named(column: str, tmp_path: Path) -> None:
    table, name = column.split(".")
    for path in (
        everything().without(column).sqlite(tmp_path / "run.sqlite"),
        everything().without(column).parquetdir(tmp_path / "run"),
    ):
        with pytest.raises(InputError, match=f"^{path}: table {table} has no column '{name}' \\(it has .*export .*$"):
            tetrace.load(path)


def test_activities_without_a_process_belong_to_the_only_one(read: Callable[[Export], Trace]) -> None:
    trace = read(small().without(f"{KERNEL}.globalPid"))
    assert columns(trace, "processes", "global_id") == [(process_id(1),)]
    assert columns(trace, "activities", "process", "name") == [(0, "gemm")]


def test_activities_without_a_process_where_only_ranges_say_which(read: Callable[[Export], Trace]) -> None:
    trace = read(small().without(RUNTIME, f"{KERNEL}.globalPid"))
    assert columns(trace, "processes", "global_id") == [(process_id(1),)]


def test_activities_without_a_process_where_there_are_two(tmp_path: Path) -> None:
    export = small().launch("other", (5, 6), (7, 8), process=2).without(f"{KERNEL}.globalPid")
    with pytest.raises(InputError, match=r"does not say which of 2 processes its rows belong to"):
        tetrace.load(export.sqlite(tmp_path / "run.sqlite"))


def test_ranges_of_emit_nvtx(read: Callable[[Export], Trace]) -> None:
    export = (
        Export()
        .range("aten::linear, seq = 12, op_id = 40, sizes = [[2, 3], [4, 3]]", 0, 9)
        .range("autograd::engine::evaluate_function: AddmmBackward0, seq = 12, op_id = 41", 20, 29, AUTOGRAD)
        .range("sizes = [] is no operator", 30, 31)
    )
    assert columns(read(export), "ranges", "name", "sequence", "thread") == [
        ("aten::linear", 12, 0),
        ("autograd::engine::evaluate_function: AddmmBackward0", 12, 1),
        ("sizes = [] is no operator", -1, 0),
    ]


def test_processes_that_did_nothing_are_left_out(read: Callable[[Export], Trace]) -> None:
    trace = read(small().call("cudaMalloc_v3020", 0, 3, process=2))
    assert columns(trace, "processes", "pid") == [(1,)]
    assert columns(trace, "calls", "name") == [("cudaLaunchKernel",)]


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tetrace.load(small().sqlite(tmp_path / "run.sqlite"), lambda done, total: told.append((done, total)))
    assert told == [(i + 1, len(told)) for i in range(len(told))]
