"""The JSON for chrome://tracing, read back: what the Perfetto file has, and nothing that a name could break."""

from __future__ import annotations

import functools
import json
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from tests.report.drawn import RECORDINGS, attributed, drawn, recorded
from tests.report.test_perfetto import HOSTILE
from tests.traces import Recording
from tetrace.breakdown.timeline import Timeline, timeline
from tetrace.report import chrome


def document(drawn: Timeline) -> dict[str, Any]:
    """The parsed document, its decimals as they are written."""
    pieces = list(chrome.chunks(drawn, "0"))
    assert sum(count for count, _ in pieces) == drawn.slices
    text = b"".join(piece for _, piece in pieces).decode("ascii")
    return json.loads(text, parse_float=Decimal)


@functools.cache
def exported(name: str) -> dict[str, Any]:
    """The document of a recording of the repository."""
    return document(timeline(attributed(name)))


def of_kind(found: dict[str, Any], phase: str) -> list[dict[str, Any]]:
    """Events of a phase (`X`, `s`, `f`, `C`, `M`)."""
    return [event for event in found["traceEvents"] if event["ph"] == phase]


def said(found: dict[str, Any], what: str, argument: str) -> dict[tuple[int, int], Any]:
    """What metadata events called `what` say of each row of the viewer."""
    events = (event for event in of_kind(found, "M") if event["name"] == what)
    return {(event["pid"], event["tid"]): event["args"][argument] for event in events}


def ns(us: Decimal) -> int:
    """Microseconds as nanoseconds: there is no part of one."""
    assert us * 1000 == int(us * 1000)
    return int(us * 1000)


@pytest.mark.parametrize("name", RECORDINGS)
class TestRecordings:
    """Every recording of the repository."""

    def test_the_slices_are_those_of_the_perfetto_file(self, name: str) -> None:
        found = exported(name)
        begins = found["otherData"]["begins_ns"]
        spans = Counter()
        for event in of_kind(found, "X"):
            notes = {key: value for key, value in event["args"].items() if key != "category"}
            start = begins + ns(event["ts"])
            spans[event["name"], event["cat"], start, start + ns(event["dur"]), frozenset(notes.items())] += 1
        assert spans == Counter(
            (
                one.name,
                one.category,
                one.start,
                one.end,
                frozenset((n, v) for n, v in one.notes.items() if n != "category"),
            )
            for one in recorded(name).slices
        )

    def test_slices_of_a_row_nest(self, name: str) -> None:
        open_until: dict[tuple[int, int], list[Decimal]] = {}
        slices = sorted(of_kind(exported(name), "X"), key=lambda e: (e["ts"], -e["dur"]))
        for event in slices:
            stack = open_until.setdefault((event["pid"], event["tid"]), [])
            while stack and stack[-1] <= event["ts"]:
                stack.pop()
            assert not stack or event["ts"] + event["dur"] <= stack[-1]
            stack.append(event["ts"] + event["dur"])

    def test_flows_and_counters_are_those_of_the_perfetto_file(self, name: str) -> None:
        found, read = exported(name), recorded(name)
        begins = found["otherData"]["begins_ns"]
        at = {
            (e["ph"], e["id"]): (e["pid"], e["tid"], begins + ns(e["ts"]))
            for e in of_kind(found, "s") + of_kind(found, "f")
        }
        assert len(at) == len(of_kind(found, "s")) + len(of_kind(found, "f"))
        for kind, own in (("s", read.of("cuda_api")), ("f", read.of("cuda_api", "range", "step", but=True))):
            wanted = {(kind, flow): one.start for one in own for flow in one.flows}
            assert {key: time for key, (_, _, time) in at.items() if key[0] == kind} == wanted
        slices = {(e["pid"], e["tid"], begins + ns(e["ts"])) for e in of_kind(found, "X")}
        assert set(at.values()) <= slices
        counted: dict[tuple[int, str], list[tuple[int, float]]] = {}
        for event in of_kind(found, "C"):
            ((_, value),) = event["args"].items()
            counted.setdefault((event["pid"], event["name"]), []).append((begins + ns(event["ts"]), value))
        assert counted == read.counters


def test_rows_are_named_and_ordered() -> None:
    found = document(timeline(attributed("profiles/ddp/results/nvidia-h200-x2/fp8-straggler.tetrace")))
    names = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in of_kind(found, "M")
        if event["name"] == "thread_name"
    }
    assert {"python", "pt_autograd_0", "GPU 0 · NVIDIA H200 · stream 7", "GPU 1 · NVIDIA H200 · steps"} <= set(
        names.values()
    )
    assert {(event["pid"], event["tid"]) for event in of_kind(found, "X")} == set(names)
    places = {
        (e["pid"], e["tid"]): e["args"]["sort_index"] for e in of_kind(found, "M") if e["name"] == "thread_sort_index"
    }
    order = [names[row] for row in sorted(names, key=lambda row: places[row]) if row[0] == 2033]
    streams = [name for name in order if "stream" in name]
    assert order.index("GPU 0 · NVIDIA H200 · steps") < order.index(streams[0])
    assert order[-len(streams) :] == streams
    assert streams == sorted(streams, key=lambda name: int(name.rpartition(" ")[2]))
    assert list(said(found, "process_name", "name").values()) == [
        "rank 0 · python · pid 2033",
        "rank 1 · python · pid 2034",
    ]


def test_what_overlaps_has_rows_of_its_own() -> None:
    recording = Recording().range("a", 0, 30).range("b", 20, 50).range("s", 10, 40, kind="start_end")
    recording.range("t", 20, 50, kind="start_end")
    for number, runs in enumerate([(10, 50), (20, 30)]):
        recording.launch(f"k{number}", (number, number + 0.5), runs)
    found = document(drawn(recording))
    named = {tid: name for (_, tid), name in said(found, "thread_name", "name").items()}
    rows = {
        event["name"]: named[event["tid"]] for event in of_kind(found, "X") if event["cat"] not in ("cuda_api", "step")
    }
    assert rows == {
        "a": "thread 1",
        "b": "thread 1 · overlapping ranges",
        "s": "thread 1 · start/end ranges",
        "t": "thread 1 · start/end ranges (2)",
        "k0": "GPU 0 · NVIDIA H200 · stream 7",
        "k1": "GPU 0 · NVIDIA H200 · stream 7 (2)",
    }


def test_hostile_names_do_no_harm() -> None:
    recording = Recording().range("forward", 0, 1000)
    for number, name in enumerate(HOSTILE):
        at = 20 * number
        recording.range(name, at, at + 15).launch(name, (at + 1, at + 2), (at + 3, at + 4))
        recording.site("module", name, at + 5, at + 14, module=name, phase="forward", shape=name, role=name)
    recording.named(HOSTILE[0] + HOSTILE[1], 1)
    made = drawn(recording)
    raw = b"".join(piece for _, piece in chrome.chunks(made, "</script>"))
    assert raw.isascii()
    assert b"<" not in raw
    assert all(byte == 10 or byte >= 32 for byte in raw)
    assert len(raw) < 400_000
    found = document(made)
    names = [event["name"] for event in of_kind(found, "X") if event["cat"] not in ("range", "cuda_api", "step")]
    assert len(names) == len(HOSTILE)
    assert HOSTILE[0] in names
    assert all(name.isprintable() and len(name) <= 4000 for name in names)


def test_pieces_are_cut_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    made = timeline(attributed("profiles/layer_stack/results/nvidia-h200/fp8-delayed-graphs.tetrace"))
    whole = document(made)["traceEvents"]
    monkeypatch.setattr(chrome, "_SLICES_AT_ONCE", 7)
    cut = document(made)["traceEvents"]
    assert sorted(map(str, cut)) == sorted(map(str, whole))


def test_a_clock_of_years_keeps_its_nanoseconds() -> None:
    """A double holds 2^53 of what it counts: microseconds since 1970 would be good to a quarter of one."""
    found = document(timeline(attributed("tests/data/kineto_qwen_h100.json.gz")))
    assert found["otherData"]["begins_ns"] > 2**60
    times = [event["ts"] for event in of_kind(found, "X")]
    assert min(times) == 0
    assert all(int(float(time) * 1000 + 0.5) == ns(time) for time in times)
