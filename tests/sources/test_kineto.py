"""PyTorch profiler files as traces: small files and the tables they become, a real one, and bad ones."""

from __future__ import annotations

import collections
import gzip
import json
import shutil
from decimal import Decimal
from pathlib import Path

import pytest

from tetrace.errors import InputError
from tetrace.sources import kineto

REAL = Path(__file__).parent.parent / "data" / "kineto_qwen_h100.json.gz"
HOST = {"pid": 500, "tid": 501}


H200 = {
    "id": 0, "name": "NVIDIA H200", "totalGlobalMem": 10**11, "computeMajor": 9, "computeMinor": 0, "numSms": 132,
}  # fmt: skip
RESOURCES = {"registers per thread": 90, "shared memory": 2048}


def on_gpu(stream):
    return {"pid": 0, "tid": stream, "device": 0, "stream": stream}


def event(category, name, ts, dur, **more):
    """An event of the main thread, times in µs; what has no field of its own goes into its arguments."""
    fields = {key: more.pop(key) for key in ("pid", "tid") if key in more}
    return {"ph": "X", "cat": category, "name": name, "ts": ts, "dur": dur, **HOST, **fields, "args": more}


def kernel(name, ts, dur, correlation, stream=7, device=0, **more):
    arguments = {"device": device, "stream": stream, "correlation": correlation, **more}
    return event("kernel", name, ts, dur, pid=device, tid=stream, **arguments)


def call(name, ts, dur, correlation, category="cuda_runtime", **more):
    return event(category, name, ts, dur, correlation=correlation, **more)


def naming(kind, name, pid=500, tid=501):
    return {"ph": "M", "name": kind, "ts": 0, "pid": pid, "tid": tid, "args": {"name": name}}


def file_of(tmp_path, *events, name="trace.json", **beside):
    path = tmp_path / name
    path.write_text(json.dumps({"schemaVersion": 1, **beside, "traceEvents": events}))
    return path


def read(tmp_path, *events, **beside):
    return kineto.read(file_of(tmp_path, *events, **beside))


def table(trace, name, *columns):
    """Rows of a table as tuples; of the columns named, or of all."""
    rows = trace.tables[name].to_pylist()
    return [tuple(row[column] for column in columns) if columns else tuple(row.values()) for row in rows]


def test_a_step_becomes_the_whole_trace(tmp_path):
    trace = read(
        tmp_path,
        naming("process_name", "/home/somebody/bin/python3"),
        naming("thread_name", "thread 501 (python3)"),
        naming("thread_name", "thread 77 (pt_autograd_0)", tid=77),
        naming("thread_name", "stream 7 ", pid=0, tid=7),
        event("user_annotation", "ProfilerStep#6", 0, 100),
        event("python_function", "nn.Module: LayerNormLinear_3", 1, 20),
        event("python_function", "module.py(1915): __getattr__", 2, 1),
        event("cpu_op", "aten::mm", 2, 9, **{"Sequence number": 41, "Input Dims": [[2, 3], [3, 4]]}),
        event("cpu_op", "MmBackward0", 30, 9, tid=77, **{"Sequence number": 41, "Fwd thread id": 1}),
        event("gpu_user_annotation", "ProfilerStep#6", 20, 60, pid=0, tid=7),
        call("cudaLaunchKernel", 3.5, 2, 11),
        kernel("gemm<a, b>", 20.125, 5.5, 11, grid=[8, 4, 2], block=[128, 1, 1], **RESOURCES),
        call("cudaMemcpyAsync", 32, 1, 12, tid=77),
        event("gpu_memcpy", "Memcpy HtoD (Pageable -> Device)", 40, 1, **on_gpu(8), correlation=12, bytes=64),
        call("cudaMemsetAsync", 6, 1, 13),
        event("gpu_memset", "Memset (Device)", 27, 1, **on_gpu(7), correlation=13, bytes=4),
        call("cudaFuncGetAttributes", 7, 1, 14),
        call("cudaStreamSynchronize", 50, 10, 15),
        event("cuda_sync", "Stream Sync", 50, 9, **on_gpu(7), correlation=15),
        event("cuda_sync", "Context Sync", 70, 9, **{**on_gpu(-1), "stream": 4294967295}, correlation=0),
        event("overhead", "Activity Buffer Request", 4, 1, pid=-1, tid=0),
        event("overhead", "Command Buffer Full", 5, 1, pid=-1, tid=0),
        event("overhead", "Lazy Function Loading", 7, 1, pid=-1, tid=0),
        deviceProperties=[H200],
        distributedInfo={"backend": "nccl", "rank": 3, "world_size": 8},
        baseTimeNanoseconds=1_000_000,
        environment={"TOKEN": "s3cret"},
    )  # fmt: skip
    assert table(trace, "processes") == [(0, 500, 500, 3, "python3")]
    assert table(trace, "threads") == [(0, 0, 501, 501, "python3"), (1, 0, 77, 77, "pt_autograd_0"), (2, 0, 0, 0, "")]
    assert table(trace, "devices") == [(0, 0, -1, 132, 10**11, -1, 90, "NVIDIA H200")]
    assert table(trace, "activities") == [
        (0, 1_020_125, 1_025_625, 0, 7, 11, "kernel", "gemm<a, b>", 0, -1, 8, 4, 2, 128, 1, 1, 90, 2048),
        (0, 1_027_000, 1_028_000, 0, 7, 13, "memset", "memset", 0, 4, -1, -1, -1, -1, -1, -1, -1, -1),
        (0, 1_040_000, 1_041_000, 0, 8, 12, "memcpy", "memcpy HtoD", 0, 64, -1, -1, -1, -1, -1, -1, -1, -1),
    ]
    assert table(trace, "calls") == [
        (0, 0, 1_003_500, 1_005_500, 11, "launch", "cudaLaunchKernel"),
        (0, 0, 1_006_000, 1_007_000, 13, "launch", "cudaMemsetAsync"),
        (0, 1, 1_032_000, 1_033_000, 12, "launch", "cudaMemcpyAsync"),
        (0, 0, 1_050_000, 1_060_000, 15, "synchronize", "cudaStreamSynchronize"),
    ]
    assert table(trace, "ranges") == [
        (0, 0, 1_000_000, 1_100_000, -1, -1, "annotation", "ProfilerStep#6"),
        (0, 0, 1_001_000, 1_021_000, -1, -1, "module", "nn.Module: LayerNormLinear_3"),
        (0, 0, 1_002_000, 1_011_000, 41, -1, "operator", "aten::mm"),
        (0, 1, 1_030_000, 1_039_000, 41, -1, "operator", "MmBackward0"),
    ]
    assert table(trace, "synchronizations") == [
        (0, 1_050_000, 1_059_000, 0, 7, 15, "stream"),
        (0, 1_070_000, 1_079_000, 0, -1, -1, "context"),
    ]
    assert table(trace, "overheads") == [
        (0, 2, 1_004_000, 1_005_000, "profiler", "Activity Buffer Request"),
        (0, 2, 1_005_000, 1_006_000, "back_pressure", "Command Buffer Full"),
        (0, 2, 1_007_000, 1_008_000, "driver", "Lazy Function Loading"),
    ]
    assert not trace.has("graph_nodes")
    metadata = trace.metadata
    assert (metadata.source, metadata.source_format, metadata.recorder) == (
        "trace.json",
        "kineto json",
        "PyTorch profiler",
    )
    assert (metadata.graph_mode, metadata.notices, metadata.dropped_records) == ("", (), 0)
    assert "s3cret" not in str(trace)


def test_tables_without_events_were_not_captured(tmp_path):
    trace = read(tmp_path, event("cpu_op", "aten::mm", 2, 9))
    assert sorted(trace.tables) == ["processes", "ranges", "threads"]


def test_gpu_events_alone_belong_to_one_unknown_process(tmp_path):
    trace = read(tmp_path, naming("process_name", "python", pid=0), kernel("k", 1, 1, 9))
    assert table(trace, "processes") == [(0, -1, -1, -1, "")]
    assert table(trace, "activities", "process", "name", "correlation") == [(0, "k", 9)]


def test_spellings_of_2021(tmp_path):
    trace = read(
        tmp_path,
        event("Operator", "aten::mm", 1613979640000000, 30, pid=9, tid="123"),
        event("Runtime", "cudaLaunchKernel", 1613979640000001, 2, pid=9, tid="123", correlation=5),
        event("Kernel", "gemm", 1613979640000010, 3, **{**on_gpu(7), "tid": "stream 7"}, correlation=5),
        event("Memcpy", "Memcpy DtoD (Device -> Device)", 1613979640000020, 1, **{**on_gpu(7), "tid": "stream 7"}),
    )  # fmt: skip
    assert table(trace, "threads", "tid") == [(123,)]
    assert table(trace, "ranges", "start_ns", "kind", "name") == [(1613979640000000000, "operator", "aten::mm")]
    assert table(trace, "activities", "start_ns", "stream", "name") == [
        (1613979640000010000, 7, "gemm"),
        (1613979640000020000, 7, "memcpy DtoD"),
    ]


def test_threads_that_have_words_for_ids(tmp_path):
    trace = read(tmp_path, event("cpu_op", "a", 1, 1, tid="main"), event("cpu_op", "b", 2, 1, tid="io"))
    assert table(trace, "threads", "tid", "name") == [(-1, "main"), (-1, "io")]
    assert table(trace, "ranges", "thread", "name") == [(0, "a"), (1, "b")]


def test_a_driver_call_inside_a_runtime_call_counts_once(tmp_path):
    trace = read(
        tmp_path,
        call("cudaLaunchKernelExC", 10, 5, 1),
        call("cuLaunchKernelEx", 11, 3, 1, "cuda_driver"),
        call("cuLaunchKernel", 20, 3, 2, "cuda_driver"),
        call("cudaLaunchKernel", 30, 5, 3),
        call("cuLaunchKernel", 31, 3, 4, "cuda_driver"),  # the kernel names this one
        call("cuLaunchKernel", 31, 3, 5, "cuda_driver", tid=502),  # another thread
        *(kernel("k", 40 + i, 1, correlation) for i, correlation in enumerate((1, 2, 4, 5))),
    )
    assert table(trace, "calls", "start_ns", "correlation", "name") == [
        (10_000, 1, "cudaLaunchKernelExC"),
        (20_000, 2, "cuLaunchKernel"),
        (30_000, 3, "cudaLaunchKernel"),
        (31_000, 4, "cuLaunchKernel"),
        (31_000, 5, "cuLaunchKernel"),
    ]


def test_a_call_that_an_activity_names_is_a_launch_whatever_it_is_called(tmp_path):
    calls = [call("cudaSomethingNew", 1, 1, 1), call("hipLaunchKernel", 3, 1, 2), call("hipGetDevice", 5, 1, 3)]
    trace = read(tmp_path, *calls, kernel("k", 9, 1, 1), kernel("k", 11, 1, 2))
    assert table(trace, "calls", "kind", "name") == [("launch", "cudaSomethingNew"), ("launch", "hipLaunchKernel")]


def test_kernels_of_a_cuda_graph(tmp_path):
    nodes = [kernel("k", 10 * node, 1, 5, **{"graph node id": node, "graph id": 2}) for node in (1, 2)]
    trace = read(tmp_path, call("cudaGraphLaunch", 1, 1, 5), *nodes)
    assert trace.metadata.graph_mode == "node"
    assert table(trace, "activities", "correlation", "graph_node") == [(5, 1), (5, 2)]


def test_gpu_events_of_two_processes_follow_their_calls(tmp_path):
    second = {"pid": 600, "tid": 601}
    trace = read(
        tmp_path,
        call("cudaLaunchKernel", 1, 1, 11), call("cudaLaunchKernel", 2, 1, 12),
        call("cudaLaunchKernel", 1, 1, 21, **second), call("cudaLaunchKernel", 2, 1, 12, **second),
        kernel("a", 5, 1, 11), kernel("b", 5, 1, 21, device=1),
        kernel("on 0", 7, 1, 12), kernel("on 1", 7, 1, 12, device=1),  # both processes have a call 12
        event("python_function", "nn.Module: Net_0", 0, 1, pid=0, tid=0),
        distributedInfo={"rank": 3},
    )  # fmt: skip
    assert table(trace, "processes", "pid", "rank") == [(500, -1), (600, -1)]
    assert table(trace, "activities", "process", "name") == [(0, "a"), (0, "on 0"), (1, "b"), (1, "on 1")]
    assert trace.metadata.notices == (
        "2 GPU events name no call of a single process; they count for the one that uses their device",
        "1 python_function events are of no known process; they were left out",
    )


def test_events_that_occur_twice_count_once(tmp_path):
    twice = [call("cudaLaunchKernel", 1, 1, 5), kernel("k", 5, 2, 5)]
    trace = read(tmp_path, *twice, *twice, kernel("k", 5, 2, 6, stream=8))
    assert table(trace, "activities", "stream", "correlation") == [(7, 5), (8, 6)]
    assert trace.rows("calls") == 1
    assert trace.metadata.notices == (
        "1 kernel events occur twice; each counts once",
        "1 cuda_runtime events occur twice; each counts once",
    )


def test_what_cannot_be_read_is_said(tmp_path):
    path = file_of(tmp_path, kernel("bad \x01 name", 1, 1, 9), event("cpu_op", "aten::mm", "soon", 1), {"ph": "E"})
    path.write_bytes(path.read_bytes().replace(b"\\u0001", b"\xff"))
    trace = kineto.read(path)
    assert table(trace, "activities", "name") == [("bad \ufffd name",)]
    assert trace.metadata.notices == (
        "1 events have no start or duration that can be read; they were left out",
        "1 events begin without an end or end without a beginning; they were left out",
        "1 names of kernel events are not UTF-8; bad bytes show as \ufffd",
    )


def test_gzip_files_are_read_also_several_in_one(tmp_path):
    text = file_of(tmp_path, kernel("k", 1, 1, 9)).read_bytes()
    path = tmp_path / "trace.json.gz"
    path.write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]) + b"\0" * 100)
    assert table(kineto.read(path), "activities", "name") == [("k",)]


def test_progress_is_told_in_bytes_of_the_file(tmp_path):
    told = []
    kineto.read(REAL, lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (REAL.stat().st_size, REAL.stat().st_size)


def test_the_real_file_loses_nothing():
    trace = kineto.read(REAL)
    expected, found = collections.Counter(), collections.Counter()
    with gzip.open(REAL) as file:
        events = json.load(file, parse_float=Decimal)["traceEvents"]
    for one in events:
        if one.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            expected[one["cat"], one["args"]["correlation"]] += int(one["dur"] * 1000)
    categories = {"kernel": "kernel", "memcpy": "gpu_memcpy", "memset": "gpu_memset"}
    for kind, correlation, start, end in table(trace, "activities", "kind", "correlation", "start_ns", "end_ns"):
        found[categories[kind], correlation] += end - start
    assert found == expected
    rows = {name: trace.rows(name) for name in trace.tables}
    assert rows == {"processes": 1, "threads": 1, "devices": 1, "activities": 1707, "calls": 1201, "ranges": 4503}
    assert table(trace, "devices", "sm_count", "name") == [(132, "NVIDIA H100 80GB HBM3")]
    assert trace.metadata.notices == ()


GOOD = json.dumps({"traceEvents": [kernel("k", 1, 1, 9)]}).encode()
AGAIN = "export it again with torch.profiler's export_chrome_trace, or copy it again"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", f"not a whole JSON trace: it is empty; {AGAIN}"),
        (b"\n", f"not a whole JSON trace: it is empty; {AGAIN}"),
        (b"SQLite", f"not a whole JSON trace: at byte 0 it has 'S' instead of a '{{' or '['; {AGAIN}"),
        (GOOD[:-1], f"not a whole JSON trace: it ends at byte {len(GOOD) - 1} in the middle of its values; {AGAIN}"),
        (GOOD[:-9], f"not a whole JSON trace: it ends at byte {len(GOOD) - 9} in the middle of its events; {AGAIN}"),
        (b"{}", f"JSON without 'traceEvents', so no PyTorch profiler trace; {AGAIN}"),
        (b'{"traceEvents": {}}', f"JSON without 'traceEvents', so no PyTorch profiler trace; {AGAIN}"),
        (b'{"traceEvents": []}', "its list of events is empty; profile at least one training step with torch.profiler"),
        (b"[1, 2]", f"not a whole JSON trace: at byte 1 it has '1' instead of an event; {AGAIN}"),
        (
            b'[{"ph": "X", "cat": "net", "name": "get", "ts": 1, "dur": 1}]',
            "none of its 1 events is one of the PyTorch profiler; profile at least one training step",
        ),
        (
            gzip.compress(GOOD, mtime=0)[:-9],
            f"the gzip file is cut short after {len(gzip.compress(GOOD)) - 9} bytes; {AGAIN}",
        ),
        (gzip.compress(GOOD, mtime=0)[:12] + b"\xff" * 40, "the gzip file is damaged ("),
        (gzip.compress(GOOD, mtime=0) + b"more", "the gzip file is damaged ("),
        (gzip.compress(b"", mtime=0), f"not a whole JSON trace: it is empty; {AGAIN}"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        kineto.read(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == content


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path):
    whole = file_of(
        tmp_path, event("cpu_op", "aten::mm", 1, 1), kernel("k", 1, 1, 9), last={"a": [1, "]}"]}
    ).read_bytes()
    path = tmp_path / "cut.json"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            kineto.read(path)


def test_the_input_may_be_read_only(tmp_path):
    path = shutil.copy(REAL, tmp_path / "trace.json.gz")
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    assert kineto.read(path).rows("activities") == 1707
