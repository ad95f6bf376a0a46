"""The Perfetto file, read back through the protos of the `perfetto` package: the same slices, times, flows, counters."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from tests.breakdown.test_host_run import host_run
from tests.report.drawn import (
    RECORDINGS,
    ROOT,
    activities,
    attributed,
    crossing,
    drawn,
    expected,
    parsed,
    read_back,
    recorded,
    rows,
)
from tests.traces import AUTOGRAD, Recording
from tetrace.attribute.attribution import UNATTRIBUTED_MODULE, attribute
from tetrace.attribute.classify import CATEGORIES
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.timeline import timeline
from tetrace.breakdown.timeline_counters import CLIPPED, LAUNCHES, MOST_CLIPPED, QUEUE
from tetrace.errors import UsageError
from tetrace.report import perfetto, protobuf
from tetrace.trace.arrays import text_column
from tetrace.trace.trace import Metadata, Trace, make_table


@pytest.mark.parametrize("steps", ["steady", "all"])
@pytest.mark.parametrize("name", RECORDINGS)
class TestRecordings:
    """Every recording of the repository."""

    def test_every_slice_is_there_once_at_its_time(self, name: str, steps: str) -> None:
        attribution = attributed(name)
        read, wanted = recorded(name, steps), expected(attribution, steps)
        assert Counter(one.span for one in activities(read)) == wanted["activities"]
        assert Counter(one.span for one in read.of("cuda_api")) == wanted["calls"]
        # A range with a site is called what the site says: a text that a collector cut is whole there.
        assert Counter(one.span[1:] for one in read.of("range")) == _times(wanted["ranges"])
        assert not crossing(read.slices)

    def test_slices_of_a_stream_share_no_time(self, name: str, steps: str) -> None:
        read = recorded(name, steps)
        assert {one.depth for one in [*activities(read), *read.of("step")]} <= {0}

    def test_flows_lead_from_each_call_to_what_it_launched(self, name: str, steps: str) -> None:
        attribution = attributed(name)
        drawn = timeline(attribution, steps=steps)
        activity, call = rows(attribution, "activities"), rows(attribution, "calls")
        links = zip(drawn.activities.tolist(), attribution.links.call[drawn.activities].tolist(), strict=True)
        wanted = Counter((call[of], activity[row]) for row, of in links if of >= 0)
        read = recorded(name, steps)
        ends = {flow: one.span for one in activities(read) for flow in one.flows}
        assert len(ends) == wanted.total()
        assert Counter((one.span, ends[flow]) for one in read.of("cuda_api") for flow in one.flows) == wanted

    def test_notes_are_what_the_report_says(self, name: str, steps: str) -> None:
        attribution = attributed(name)
        drawn = timeline(attribution, steps=steps)
        wanted: Counter[tuple[object, ...]] = Counter()
        activity, category = rows(attribution, "activities"), attribution.category().tolist()
        numbers = attribution.steps.number.tolist()
        for row in drawn.activities.tolist():
            module, step = attribution.module[row], attribution.step[row]
            wanted[
                activity[row],
                CATEGORIES[category[row]],
                PHASES[attribution.phase[row]],
                attribution.module_names[module] if module >= 0 else UNATTRIBUTED_MODULE,
                numbers[step] if step >= 0 and numbers[step] >= 0 else None,
            ] += 1
        assert wanted == Counter(
            (
                one.span,
                one.category,
                one.notes["phase"],
                one.notes.get("module", UNATTRIBUTED_MODULE),
                one.notes.get("step"),
            )
            for one in activities(recorded(name, steps))
        )

    def test_the_queue_is_counted(self, name: str, steps: str) -> None:
        attribution = attributed(name)
        trace, links = attribution.trace, attribution.links
        read, start = recorded(name, steps), trace.column("activities", "start_ns")
        pids = trace.column("processes", "pid").tolist()
        assert {pid for pid, _ in read.counters} == set(pids)
        for process, pid in enumerate(pids):
            known = (links.call >= 0) & (trace.column("activities", "process") == process)
            launched = np.sort(links.launch_ns[known])
            started = np.sort(np.maximum(start[known], links.launch_ns[known]))
            samples = read.counters[pid, QUEUE]
            # The first sample says what holds when the drawn time begins, which need not be a change.
            for time, depth in samples[1:]:
                assert depth == (launched <= time).sum() - (started <= time).sum()
            assert max(depth for _, depth in samples) > 0


def _times(spans: Counter[tuple[str, int, int]]) -> Counter[tuple[int, int]]:
    found: Counter[tuple[int, int]] = Counter()
    for (_, start, end), count in spans.items():
        found[start, end] += count
    return found


def test_ranks_are_processes_with_their_threads_devices_and_streams() -> None:
    read = recorded("profiles/ddp/results/nvidia-h200-x2/fp8-straggler.tetrace")
    paths = {read.path(track) for track in {one.track for one in read.slices}}
    assert {"rank 0 · python · pid 2033/GPU 0 · NVIDIA H200/stream 7", "python", "pt_autograd_0"} <= paths
    assert {"rank 1 · python · pid 2034/GPU 1 · NVIDIA H200/steps", "python/start/end ranges"} <= paths
    processes = [about.process for about in read.tracks.values() if about.HasField("process")]
    assert [about.pid for about in processes] == [2033, 2034]
    threads = [about.thread for about in read.tracks.values() if about.HasField("thread")]
    assert {about.pid for about in threads} == {2033, 2034}
    assert len({about.tid for about in threads}) == len(threads)


def test_recorded_calls_say_format_and_shape() -> None:
    read = recorded("profiles/layer_stack/results/nvidia-h200/fp8-delayed.tetrace")
    gemms = [one.notes for one in activities(read) if one.category == "gemm"]
    assert {notes["format"] for notes in gemms} == {"E4M3", "E4M3×E5M2"}
    assert all(len(str(notes["shape"]).split("x")) == 3 for notes in gemms if "shape" in notes)
    assert sum("shape" in notes for notes in gemms) > 0.9 * len(gemms)
    assert {"fprop", "dgrad", "wgrad"} == {notes["role"] for notes in gemms}
    quantizing = [one.notes for one in activities(read) if one.category == "quantization"]
    assert {"input", "weight", "grad_output"} <= {str(notes.get("role")) for notes in quantizing}
    modules = [one for one in read.of("range") if one.notes["kind"] == "module"]
    assert {"forward", "backward"} >= {str(one.notes["phase"]) for one in modules} > set()


def test_a_graph_launch_has_a_flow_to_every_node() -> None:
    recording = Recording().range("forward", 0, 50)
    recording.launch("a", (1, 3), (5, 7), node=1).launch("b", (1, 3), (7, 9), node=2, correlation=1)
    recording.launch("c", (10, 11), (12, 13), correlation=2)
    read = read_back(drawn(recording))
    ends = {flow: one.name for one in activities(read) for flow in one.flows}
    assert {one.name: [ends[flow] for flow in one.flows] for one in read.of("cuda_api")} == {
        "cudaGraphLaunch": ["a", "b"],
        "cudaLaunchKernel": ["c"],
    }


def test_calls_nest_in_the_ranges_around_them() -> None:
    recording = Recording().range("outer", 0, 40).range("inner", 5, 20).launch("k", (5, 20), (21, 22))
    recording.call("cudaEventSynchronize", 40, 40, "synchronize")
    read = read_back(drawn(recording))
    assert [(one.name, one.depth) for one in sorted(read.of("range", "cuda_api"), key=lambda one: (one.start, one.depth))] == [
        ("outer", 0),
        ("inner", 1),
        ("cudaLaunchKernel", 2),
        ("cudaEventSynchronize", 0),
    ]  # fmt: skip


def test_what_overlaps_on_a_thread_goes_beside() -> None:
    recording = Recording().range("a", 0, 30).range("b", 20, 50).range("c", 21, 25).range("d", 45, 60)
    recording.range("s", 10, 40, kind="start_end").range("t", 20, 50, kind="start_end")
    read = read_back(drawn(recording))
    assert {one.name: (read.path(one.track), one.depth) for one in read.slices} == {
        "a": ("thread 1", 0),
        "c": ("thread 1", 1),
        "d": ("thread 1", 0),
        "b": ("thread 1/overlapping ranges", 0),
        "s": ("thread 1/start/end ranges", 0),
        "t": ("thread 1/start/end ranges", 0),
    }
    assert not crossing(read.slices)
    assert len({one.track for one in read.slices}) == 4


def test_kernels_that_run_at_once_on_a_stream_have_tracks_of_their_own() -> None:
    recording = Recording().range("forward", 0, 100)
    for number, runs in enumerate([(10, 50), (20, 30), (30, 60), (50, 55), (60, 61)]):
        recording.launch(f"k{number}", (number, number + 0.5), runs)
    read = read_back(drawn(recording))
    tracks = {one.name: one.track for one in activities(read)}
    assert tracks["k0"] == tracks["k3"] == tracks["k4"] != tracks["k1"] == tracks["k2"]
    # One name: the viewer shows them as one track of two rows.
    assert {read.path(track).rpartition("/")[2] for track in tracks.values()} == {"stream 7"}


def test_slices_at_one_time_open_and_close_in_order() -> None:
    recording = Recording().range("outer", 0, 10).range("inner", 0, 10).range("point", 0, 0).range("last", 10, 10)
    recording.range("next", 10, 20).range("point in next", 10, 10)
    read = read_back(drawn(recording))
    found = sorted((one.name, one.start, one.end, one.depth) for one in read.slices)
    assert found == [
        ("inner", 0, 10_000, 1),
        ("last", 10_000, 10_000, 1),
        ("next", 10_000, 20_000, 0),
        ("outer", 0, 10_000, 0),
        ("point", 0, 0, 2),
        ("point in next", 10_000, 10_000, 1),
    ]


def test_only_the_chosen_steps_device_and_process() -> None:
    attribution = attributed("tests/data/ddp-straggler.sqlite")
    numbers = sorted(set(attribution.steps.number.tolist()))
    read = read_back(timeline(attribution, steps=str(numbers[2]), process=704))
    assert {one.notes["step"] for one in activities(read)} == {numbers[2]}
    assert [one.name for one in read.of("step")] == [f"step {numbers[2]}"]
    assert [about.process.pid for about in read.tracks.values() if about.HasField("process")] == [704]
    everything = read_back(timeline(attribution, steps="all", device=1))
    assert {read.name for read in everything.tracks.values() if read.name.startswith("GPU")} == {"GPU 1 · NVIDIA H200"}


def test_nothing_to_draw_is_said() -> None:
    with pytest.raises(UsageError, match="no GPU activity, range or API call"):
        timeline(attribute(Trace(Metadata("empty", "test"), {})))
    with pytest.raises(UsageError, match="leaves no step"):
        timeline(attributed("tests/data/te4-fp8.sqlite"), steps="1000:")


def test_ranges_alone_are_drawn() -> None:
    read = read_back(drawn(Recording().range("step_0", 0, 10).range("step_1", 10, 20)))
    assert [one.span for one in read.slices] == [("step_0", 0, 10_000), ("step_1", 10_000, 20_000)]
    assert read.counters == {}


def test_steps_and_process_choose_what_is_drawn_without_gpu_activities() -> None:
    attribution = attribute(host_run(12, range(12), processes=2).trace())
    for steps, process, numbers, processes in (
        ("7", None, {7}, 2),
        ("3:5", 1, {3, 4}, 1),
        ("steady", None, set(range(1, 11)), 2),
        ("all", 0, set(range(12)), 1),
    ):
        chosen = timeline(attribution, steps=steps, process=process)
        read = read_back(chosen)
        assert {one.notes["step"] for one in read.slices} == numbers, (steps, process)
        # Of each step the step itself, forward, backward and the optimizer.
        assert len(read.slices) == chosen.slices == 4 * len(numbers) * processes
    with pytest.raises(UsageError, match="leaves no step"):
        timeline(attribution, steps="700")
    with pytest.raises(UsageError, match="--steps 7 leaves no step of made; --steps all draws everything"):
        timeline(attribute(Recording().range("a", 0, 10).trace()), steps="7")


def test_a_clock_before_zero_is_moved() -> None:
    read = read_back(drawn(Recording().range("a", -5, 10).launch("k", (-4, -3), (-2, 1))))
    assert {one.name: (one.start, one.end) for one in read.slices if one.category != "step"} == {
        "a": (0, 15_000),
        "cudaLaunchKernel": (1_000, 2_000),
        "k": (3_000, 6_000),
    }


def test_processes_and_threads_that_share_a_number_stay_apart() -> None:
    trace = Recording().range("a", 0, 1).range("b", 0, 1, process=2).range("c", 0, 1, AUTOGRAD, process=2).trace()
    tables = dict(trace.tables)
    for table, name in (("processes", "pid"), ("threads", "tid")):
        place = tables[table].schema.get_field_index(name)
        same = np.full(tables[table].num_rows, 0, np.int64)
        import pyarrow as pa

        tables[table] = tables[table].set_column(place, tables[table].schema.field(place), pa.array(same))
    read = read_back(timeline(attribute(Trace(trace.metadata, tables)), steps="all"))
    threads = [(about.thread.pid, about.thread.tid) for about in read.tracks.values() if about.HasField("thread")]
    assert len(threads) == len(set(threads)) == 3
    assert all(pid > 0 and tid > 0 for pid, tid in threads)
    assert len({about.process.pid for about in read.tracks.values() if about.HasField("process")}) == 2


HOSTILE = [
    '<script>alert("x")</script>',
    "\x1b[31mred\x1b[0m",
    "a\0b\r\nc\td",
    "\u202eabc\u2066",
    "\ud800 alone",
    "quotes \"' and \\ back",
    "日本語 🚀",
    "",
    "x" * 100_000,
    "日" * 50_000,
]


def test_hostile_names_do_no_harm() -> None:
    recording = Recording().range("forward", 0, 1000)
    for number, name in enumerate(HOSTILE):
        at = 20 * number
        recording.range(name, at, at + 15).launch(name, (at + 1, at + 2), (at + 3, at + 4))
        recording.site("module", name, at + 5, at + 14, module=name, phase="forward", shape=name, role=name)
    recording.named(HOSTILE[0] + HOSTILE[1], 1)
    made = drawn(recording)
    trace, read = parsed(made), read_back(made)
    assert len(activities(read)) == len(HOSTILE)
    assert len(read.of("range")) == 2 * len(HOSTILE) + 1
    texts = [one.name for one in read.slices] + [str(v) for one in read.slices for v in one.notes.values()]
    texts += [about.thread.thread_name for about in read.tracks.values()]
    assert all(text.isprintable() and len(text) <= 4000 for text in texts)
    cut = [one.name for one in activities(read) if len(one.name) > 1000]
    assert len(cut) == 2
    assert all("…" in name for name in cut)
    assert '<script>alert("x")</script>' in texts
    assert trace.ByteSize() < 200_000


def test_many_names_are_interned_in_packets_of_moderate_size() -> None:
    recording = Recording()
    for number in range(300):
        recording.range(f"{number} {'y' * 3000}", number, number + 1)
    trace = parsed(drawn(recording))
    said = [packet for packet in trace.packet if packet.HasField("interned_data")]
    assert len(said) > 10
    assert max(packet.ByteSize() for packet in said) < 100_000
    assert said[0].sequence_flags & 1
    assert not any(packet.sequence_flags & 1 for packet in said[1:])
    assert len({entry.iid for packet in said for entry in packet.interned_data.event_names}) == 300


def test_pieces_are_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    attribution = attributed("profiles/layer_stack/results/nvidia-h200/fp8-delayed-graphs.tetrace")
    whole = b"".join(piece for _, piece in perfetto.chunks(timeline(attribution), "0"))
    monkeypatch.setattr(perfetto, "_EVENTS_AT_ONCE", 7)
    assert b"".join(piece for _, piece in perfetto.chunks(timeline(attribution), "0")) == whole


def fp8_steps() -> Trace:
    """Three steps that quantize, of a process of which it was recorded what was clipped; codes alone do not tell."""
    recording = Recording()
    for step in range(3):
        recording.site("step", "step", 100 * step, 100 * step + 100, step=step)
        recording.launch("k", (100 * step + 1, 100 * step + 2), (100 * step + 3, 100 * step + 90))
    trace = recording.trace()
    columns = {
        "process": np.zeros(6, np.int32),
        "step": np.array([0, 0, 1, 1, 9, 1], np.int32),
        "order": np.arange(6),
        "elements": np.array([100, 300, 100, 100, 1, 100]),
        "saturated": np.array([4, 0, 0, -1, 1, 50]),
    }
    texts = ("module", "role", "phase", "operation", "format", "scaling", "dtype", "shape")
    columns |= {name: text_column(np.zeros(6, np.int32), [""]) for name in texts}
    columns["source"] = text_column(np.array([0, 0, 0, 0, 0, 1], np.int32), ["input", "quantized"])
    tables = {**trace.tables, "fp8_tensors": make_table("fp8_tensors", columns, 6)}
    return dataclasses.replace(trace, tables=tables)


def test_what_is_clipped_is_counted_by_step_where_it_was_recorded() -> None:
    read = read_back(timeline(attribute(fp8_steps()), steps="all"))
    assert read.counters[1, CLIPPED] == [(0, 10_000.0), (100_000, 0.0)]
    assert read.counters[1, MOST_CLIPPED] == [(0, 40_000.0), (100_000, 0.0)]
    other = recorded("tests/data/te4-fp8.sqlite")
    assert {name for _, name in other.counters} == {QUEUE, LAUNCHES}


def test_launches_are_counted_by_the_millisecond() -> None:
    recording = Recording().range("forward", 0, 9000)
    for at in (100, 200, 1500, 4100, 4200, 5000):
        recording.launch("k", (at, at + 1), (at + 5, at + 6))
    recording.call("cudaMalloc", 300, 301, "allocate")
    read = read_back(drawn(recording))
    first = 100_000  # the first launch: nothing is drawn before
    assert read.counters[1, LAUNCHES] == [
        (first, 2), (1_000_000, 1), (2_000_000, 0), (4_000_000, 2), (5_000_000, 1),
    ]  # fmt: skip
    assert read.counters[1, QUEUE][:4] == [(100_000, 1), (105_000, 0), (200_000, 1), (205_000, 0)]


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32, 2**63 - 1, 2**64 - 1])
def test_whole_numbers_are_varints(value: int) -> None:
    from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]

    cells = protobuf.varints(np.array([value, 5], np.uint64))
    assert protobuf.varint(value) == _VarintBytes(value) == protobuf.joined([cells])[:-1].tobytes()


def test_the_recordings_are_there() -> None:
    assert len(RECORDINGS) >= 13
    assert all((ROOT / name).exists() for name in RECORDINGS)
