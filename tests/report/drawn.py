"""What a timeline must show, worked out slice by slice from the trace, and what a Perfetto file shows when read back."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as proto

from tests.traces import Recording
from tetrace.attribute.attribution import Attribution, attribute
from tetrace.breakdown.selection import select
from tetrace.breakdown.timeline import Timeline, timeline
from tetrace.report import perfetto
from tetrace.sources.detect import load

ROOT = Path(__file__).parent.parent.parent
RECORDINGS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("profiles/*/results/nvidia-*/*.tetrace", "tests/data/*.sqlite", "tests/data/*.json.gz")
    for path in ROOT.glob(pattern)
)

Span = tuple[str, int, int]


@dataclass(frozen=True)
class Slice:
    """A slice as it is read back. `track` is whatever tells its track from others, `depth` counts slices around it."""

    track: int
    name: str
    category: str
    start: int
    end: int
    depth: int
    notes: dict[str, str | int]
    flows: tuple[int, ...]

    @property
    def span(self) -> Span:
        """What it is called and when it is."""
        return self.name, self.start, self.end


@dataclass
class Read:
    """A file as it is read back: slices, counters by pid and name (time, value), and descriptors of tracks by number."""

    slices: list[Slice] = field(default_factory=list)
    counters: dict[tuple[int, str], list[tuple[int, float]]] = field(default_factory=dict)
    tracks: dict[int, proto.TrackDescriptor] = field(default_factory=dict)

    def of(self, *categories: str, but: bool = False) -> list[Slice]:
        """Slices of these categories, or of all others."""
        return [one for one in self.slices if (one.category in categories) != but]

    def path(self, track: int) -> str:
        """Names of a track and of those around it, from the process on."""
        about = self.tracks[track]
        own = about.thread.thread_name or about.name or about.process.process_name
        return f"{self.path(about.parent_uuid)}/{own}" if about.parent_uuid else own


HOST = ("range", "cuda_api", "step")


def activities(read: Read) -> list[Slice]:
    """Slices of GPU activities."""
    return read.of(*HOST, but=True)


# --- reading back -----------------------------------------------------------------------------------------------------


def parsed(drawn: Timeline) -> proto.Trace:
    """The Perfetto file as the protos of its own package read it."""
    trace = proto.Trace()
    pieces = list(perfetto.chunks(drawn, "0"))
    assert sum(count for count, _ in pieces) == drawn.slices
    trace.ParseFromString(b"".join(piece for _, piece in pieces))
    return trace


def read_back(drawn: Timeline) -> Read:
    """The Perfetto file as trace_processor reads it: packets in the order of time, those at one time as they come."""
    read, open_slices = Read(), {}
    words: dict[str, dict[int, str]] = {"category": {}, "name": {}, "note": {}, "text": {}}
    events = []
    for packet in parsed(drawn).packet:
        _learn(packet, words, read)
        if packet.HasField("track_event"):
            assert packet.sequence_flags & 2
            assert packet.trusted_packet_sequence_id
            assert packet.track_event.track_uuid in read.tracks
            events.append(packet)
    for packet in sorted(events, key=lambda packet: packet.timestamp):
        event = packet.track_event
        stack = open_slices.setdefault(event.track_uuid, [])
        if event.type == event.TYPE_SLICE_BEGIN:
            stack.append(packet)
        elif event.type == event.TYPE_SLICE_END:
            read.slices.append(_slice(stack.pop(), packet.timestamp, len(stack), words))
        else:
            value = event.double_counter_value if event.HasField("double_counter_value") else event.counter_value
            about = read.tracks[event.track_uuid]
            assert about.HasField("counter")
            key = read.tracks[about.parent_uuid].process.pid, about.name
            read.counters.setdefault(key, []).append((packet.timestamp, value))
    assert not any(open_slices.values())
    return read


def _learn(packet: proto.TracePacket, words: dict[str, dict[int, str]], read: Read) -> None:
    if packet.HasField("track_descriptor"):
        assert packet.track_descriptor.uuid not in read.tracks
        read.tracks[packet.track_descriptor.uuid] = packet.track_descriptor
    said = packet.interned_data
    for kind, entries in (
        ("category", said.event_categories),
        ("name", said.event_names),
        ("note", said.debug_annotation_names),
    ):
        words[kind].update((entry.iid, entry.name) for entry in entries)
    words["text"].update((entry.iid, entry.str.decode("utf-8")) for entry in said.debug_annotation_string_values)


def _slice(begin: proto.TracePacket, end: int, depth: int, words: dict[str, dict[int, str]]) -> Slice:
    event = begin.track_event
    notes = {
        words["note"][note.name_iid]: words["text"][note.string_value_iid]
        if note.HasField("string_value_iid")
        else note.int_value
        for note in event.debug_annotations
    }
    name, (category,) = words["name"][event.name_iid], event.category_iids
    category = words["category"][category]
    return Slice(event.track_uuid, name, category, begin.timestamp, end, depth, notes, tuple(event.flow_ids))


# --- what must be there -----------------------------------------------------------------------------------------------


@functools.cache
def attributed(name: str) -> Attribution:
    """The attribution of a recording, by its path in the repository."""
    return attribute(load(ROOT / name))


@functools.cache
def recorded(name: str, steps: str = "steady") -> Read:
    """The Perfetto file of a recording, read back."""
    return read_back(timeline(attributed(name), steps=steps))


def drawn(recording: Recording, steps: str = "all", **choice: int) -> Timeline:
    """The timeline of a made recording."""
    return timeline(attribute(recording.trace()), steps=steps, **choice)


def rows(attribution: Attribution, table: str) -> list[tuple[str, int, int]]:
    """Name, start and end of each row of a table."""
    trace = attribution.trace
    words = trace.words(table, "name")
    columns = (trace.column(table, name).tolist() for name in ("name", "start_ns", "end_ns"))
    return [(words[code], start, end) for code, start, end in zip(*columns, strict=True)]


def expected(attribution: Attribution, steps: str) -> dict[str, Counter[Span]]:
    """Spans of activities, calls and ranges that must be drawn, each as often as it is there."""
    selection = select(attribution, steps)
    activity, call, span = (rows(attribution, table) for table in ("activities", "calls", "ranges"))
    chosen = [row for row, used in enumerate(selection.activities.tolist()) if used]
    launching = set(attribution.links.call[chosen].tolist())
    sites = attribution.trace.column("ranges", "site").tolist()
    kinds = [attribution.trace.words("sites", "kind")[c] for c in attribution.trace.column("sites", "kind").tolist()]
    windows = _host_windows(attribution, selection)
    return {
        "activities": Counter(activity[row] for row in chosen),
        "calls": Counter(
            one for row, one in enumerate(call) if row in launching or _meets(attribution, "calls", row, windows)
        ),
        "ranges": Counter(
            one
            for row, one in enumerate(span)
            if _meets(attribution, "ranges", row, windows) and (sites[row] < 0 or kinds[sites[row]] != "capture")
        ),
    }


def _host_windows(attribution: Attribution, selection: object) -> dict[int, list[tuple[int, int]]] | None:
    if not selection.per_step:  # type: ignore[attr-defined]
        return None
    found: dict[int, list[tuple[int, int]]] = {}
    steps = attribution.steps
    for row in set(selection.windows.step[selection.used].tolist()):  # type: ignore[attr-defined]
        found.setdefault(int(steps.process[row]), []).append((int(steps.start[row]), int(steps.end[row])))
    return found


def _meets(attribution: Attribution, table: str, row: int, windows: dict[int, list[tuple[int, int]]] | None) -> bool:
    if windows is None:
        return True
    trace = attribution.trace
    process, start, end = (int(trace.column(table, name)[row]) for name in ("process", "start_ns", "end_ns"))
    return any(start < last and max(end, start + 1) > first for first, last in windows.get(process, []))


def crossing(slices: Iterable[Slice]) -> list[tuple[Slice, Slice]]:
    """Pairs of slices on one track that share time and do not nest."""
    found = []
    stacks: dict[int, list[Slice]] = {}
    for one in sorted(slices, key=lambda one: (one.start, -one.end)):
        stack = stacks.setdefault(one.track, [])
        while stack and stack[-1].end <= one.start:
            stack.pop()
        if stack and one.end > stack[-1].end:
            found.append((stack[-1], one))
        stack.append(one)
    return found
