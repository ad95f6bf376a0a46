"""A timeline as a Perfetto trace (.pftrace): packets of protos/perfetto/trace/trace_packet.proto, written as they come.

Every name is written once and then told by number (interned). Of slices at the same time the file's order is the order
in which they open and close: Perfetto sorts by time and keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tetrace.breakdown.timeline import Timeline
from tetrace.breakdown.timeline_track import HOST, NO_STEP, OVERLAPPING, STREAM, Track, runs
from tetrace.report import protobuf as pb
from tetrace.report.drawn import Numbers, device_name, process_name, safe, stream_number, thread_name

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.timeline_counters import Counter
    from tetrace.breakdown.timeline_labels import Label

    Codes = npt.NDArray[np.int32]
    Times = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

# Fields of the protos, by message: trace_packet, track_descriptor, process_descriptor, thread_descriptor,
# counter_descriptor, track_event, debug_annotation, interned_data. Fields never change their number.
_PACKET = 1
_TIMESTAMP, _SEQUENCE, _TRACK_EVENT, _INTERNED, _FLAGS, _TRACK, _FIRST = 8, 10, 11, 12, 13, 60, 87
_UUID, _NAME, _PROCESS, _THREAD, _PARENT, _COUNTER, _CHILDREN, _RANK = 1, 2, 3, 4, 5, 8, 11, 12
_PID, _PROCESS_NAME, _LABELS = 1, 6, 8
_THREAD_PID, _TID, _THREAD_NAME = 1, 2, 5
_UNIT_NAME = 6
_CATEGORY, _NOTE, _TYPE, _EVENT_NAME, _EVENT_TRACK, _COUNT, _DOUBLE, _FLOW = 3, 4, 9, 10, 11, 30, 44, 47
_NOTE_NAME, _NOTE_INT, _NOTE_TEXT = 1, 4, 17
_CATEGORIES, _NAMES, _NOTE_NAMES, _NOTE_TEXTS = 1, 2, 3, 29
_BEGIN, _END, _COUNTED = 1, 2, 4
_EXPLICIT = 3
_CLEARED, _NEEDED = 1, 2
# One writer: whatever is interned holds for the whole file.
_WRITER = pb.field(_SEQUENCE, 1)
_EVENTS_AT_ONCE = 1 << 15
_INTERNED_AT_ONCE = 1 << 16
_STEP = "step"


def chunks(timeline: Timeline, version: str) -> Iterator[tuple[int, bytes]]:
    """The file piece by piece, each with the number of slices that it finishes."""
    writer = _Writer(timeline)
    yield from ((0, piece) for piece in writer.interned())
    yield 0, writer.processes(version)
    for track in timeline.tracks():
        uuid, said = writer.track(track)
        yield 0, said
        yield from writer.slices(track, uuid)
        # A track may be a large part of all memory: the next one is made when this one is gone.
        del track
    for counter in timeline.counters():
        yield from ((0, piece) for piece in writer.counter(counter))


@dataclass
class _Interned:
    """Words of one kind by number, from 1 on."""

    number: int
    words: dict[str, int] = field(default_factory=dict)

    def __call__(self, word: str) -> int:
        return self.words.setdefault(word, len(self.words) + 1)

    def entries(self) -> Iterator[bytes]:
        for word, iid in self.words.items():
            yield pb.field(self.number, pb.field(1, iid) + pb.field(2, word))


class _Writer:
    """Numbers of tracks and words, and the packets that use them."""

    def __init__(self, timeline: Timeline) -> None:
        self._numbers = Numbers(timeline.trace)
        self._timeline = timeline
        self._tracks = 0
        self._of_process: dict[int, int] = {}
        self._of_group: dict[tuple[int, str, int], int] = {}
        # Times are unsigned there; a recorder's clock may begin anywhere.
        self._zero = min(timeline.begins_ns, 0)
        self._category, self._name = _Interned(_CATEGORIES), _Interned(_NAMES)
        self._note, self._text = _Interned(_NOTE_NAMES), _Interned(_NOTE_TEXTS)
        self._step = self._note(_STEP)
        # Row 0 ends a slice, the others begin one.
        self._events = pb.table([pb.field(_TYPE, _END), *map(self._begin, timeline.labels)])

    def _begin(self, label: Label) -> bytes:
        """What all slices of a label have in their first packet."""
        parts = [pb.field(_TYPE, _BEGIN), pb.field(_CATEGORY, self._category(label.category))]
        parts.append(pb.field(_EVENT_NAME, self._name(safe(label.name))))
        for name, value in label.notes:
            said = (
                pb.field(_NOTE_INT, value) if isinstance(value, int) else pb.field(_NOTE_TEXT, self._text(safe(value)))
            )
            parts.append(pb.field(_NOTE, pb.field(_NOTE_NAME, self._note(name)) + said))
        return b"".join(parts)

    def interned(self) -> Iterator[bytes]:
        """All words, in packets of moderate size; the first also begins the writer's sequence."""
        start = _WRITER + pb.field(_FLAGS, _CLEARED | _NEEDED) + pb.field(_FIRST, 1)
        waiting = bytearray()
        for kind in (self._category, self._name, self._note, self._text):
            for entry in kind.entries():
                waiting += entry
                if len(waiting) > _INTERNED_AT_ONCE:
                    yield _packet(start + pb.field(_INTERNED, bytes(waiting)))
                    start, waiting = _WRITER + pb.field(_FLAGS, _NEEDED), bytearray()
        yield _packet(start + pb.field(_INTERNED, bytes(waiting)))

    def _new(self) -> int:
        self._tracks += 1
        return self._tracks

    def _described(self, *fields: bytes) -> bytes:
        return _packet(_WRITER + pb.field(_TRACK, b"".join(fields)))

    def processes(self, version: str) -> bytes:
        """What processes are called."""
        packets = []
        for process in self._timeline.processes:
            uuid = self._of_process[process] = self._new()
            name = pb.field(_PROCESS_NAME, process_name(self._timeline.trace, process))
            labels = (f"tetrace {version}", safe(self._timeline.trace.metadata.source))
            said = name + b"".join(pb.field(_LABELS, label) for label in labels)
            about = pb.field(_PID, self._numbers.pids[process]) + said
            packets.append(self._described(pb.field(_UUID, uuid), pb.field(_PROCESS, about)))
        return b"".join(packets)

    def track(self, track: Track) -> tuple[int, bytes]:
        """The number of a track, and the packets that say what it is called and where it stands."""
        if track.kind == HOST:
            around, said = self._group((track.process, HOST, track.thread), self._thread(track))
            if not track.lane and not track.name:
                return around, said
        else:
            around, said = self._group((track.process, STREAM, track.device), self._device(track))
        uuid = self._new()
        place = [pb.field(_PARENT, around), pb.field(_NAME, track.name or OVERLAPPING)]
        if track.kind == STREAM:
            place.append(pb.field(_RANK, 1 + stream_number(track.name)))
        return uuid, said + self._described(pb.field(_UUID, uuid), *place)

    def _group(self, group: tuple[int, str, int], about: bytes) -> tuple[int, bytes]:
        """The track that others stand in, with what it is called where it is new."""
        if group in self._of_group:
            return self._of_group[group], b""
        uuid = self._of_group[group] = self._new()
        return uuid, self._described(pb.field(_UUID, uuid), about)

    def _thread(self, track: Track) -> bytes:
        numbers, trace = self._numbers, self._timeline.trace
        about = pb.field(_THREAD_PID, numbers.pids[track.process]) + pb.field(_TID, numbers.tids[track.thread])
        return pb.field(_THREAD, about + pb.field(_THREAD_NAME, thread_name(trace, track.thread)))

    def _device(self, track: Track) -> bytes:
        parent = pb.field(_PARENT, self._of_process[track.process]) + pb.field(_CHILDREN, _EXPLICIT)
        return parent + pb.field(_NAME, device_name(self._timeline.trace, track.process, track.device))

    def slices(self, track: Track, uuid: int) -> Iterator[tuple[int, bytes]]:
        """Packets that begin and end the slices of a track."""
        of_track = pb.field(_EVENT_TRACK, uuid)
        first_flow = np.append(0, np.cumsum(track.flow_count))
        for row, is_end, time in _events(track):
            begins = ~is_end
            count = np.where(begins, track.flow_count[row], 0)
            flows = runs(first_flow[row], count, track.flows)
            event = self._events.at(np.where(begins, track.label[row] + 1, 0))
            step = np.where(begins, self._timeline.step_numbers(track.step[row]), NO_STEP)
            yield int(is_end.sum()), self._packets(time, event, of_track, step, flows, count)

    def _packets(self, time: Times, event: pb.Cells, of_track: bytes, step: Times, flows: Times, count: Codes) -> bytes:
        rows = len(time)
        tails = pb.fixed64(_FLOW, flows)
        parts = [event, pb.constant(of_track, rows), *self._noted_step(step)]
        length = np.sum([part.length for part in parts], axis=0) + count * tails.shape[1]
        head = [pb.constant(pb.key(_TIMESTAMP, 0), rows), pb.varints(time - self._zero)]
        head += [pb.constant(_WRITER + pb.field(_FLAGS, _NEEDED) + pb.key(_TRACK_EVENT, 2), rows), pb.varints(length)]
        whole = np.sum([part.length for part in head], axis=0) + length
        parts = [pb.constant(pb.key(_PACKET, 2), rows), pb.varints(whole), *head, *parts]
        fixed = np.sum([part.length for part in parts], axis=0)
        return pb.with_tails(pb.joined(parts), fixed, tails, count).tobytes()

    def _noted_step(self, step: Times) -> list[pb.Cells]:
        """The number of the step as a note, where it is known and not negative."""
        known = step >= 0
        if not known.any():
            return []
        number = pb.varints(np.maximum(step, 0))
        note = pb.field(_NOTE_NAME, self._step) + pb.key(_NOTE_INT, 0)
        head = [pb.constant(pb.key(_NOTE, 2), len(step)), pb.varints(len(note) + number.length)]
        return [pb.where(known, part) for part in (*head, pb.constant(note, len(step)), number)]

    def counter(self, counter: Counter) -> Iterator[bytes]:
        """What a counter is called, and its samples."""
        uuid = self._new()
        about = pb.field(_COUNTER, pb.field(_UNIT_NAME, counter.unit))
        parent = pb.field(_PARENT, self._of_process[counter.process])
        yield self._described(pb.field(_UUID, uuid), parent, pb.field(_NAME, counter.name), about)
        start = pb.field(_TYPE, _COUNTED) + pb.field(_EVENT_TRACK, uuid)
        for first in range(0, len(counter), _EVENTS_AT_ONCE):
            chosen = slice(first, first + _EVENTS_AT_ONCE)
            event = _value(start, counter.value[chosen])
            time = counter.time[chosen]
            nothing = np.full(len(time), NO_STEP)
            yield self._packets(time, event, b"", nothing, nothing[:0], np.zeros(len(time), np.int32))


def _packet(content: bytes) -> bytes:
    return pb.field(_PACKET, content)


def _value(start: bytes, value: npt.NDArray[np.generic]) -> pb.Cells:
    rows = len(value)
    if value.dtype.kind == "f":
        cells = pb.fixed64(_DOUBLE, value)
        said = [pb.Cells(cells, np.full(rows, cells.shape[1]))]
    else:
        said = [pb.constant(pb.key(_COUNT, 0), rows), pb.varints(value)]
    return pb.side_by_side(pb.constant(start, rows), *said)


def _events(track: Track) -> Iterator[tuple[Codes, Mask, Times]]:
    """Begins and ends of a track's slices by time, in pieces: row, whether it is an end, and when.

    At one time what is open ends first, the innermost before what is around it; then begins are in the order of rows. A
    slice of no length ends at once.
    """
    rows, lasts = np.arange(len(track), dtype=np.int32), track.end > track.start
    ends = rows[lasts][::-1]
    begins = np.repeat(rows, np.where(lasts, 1, 2))
    time = np.concatenate([track.end[ends], track.start[begins]])
    order = np.argsort(time, kind="stable").astype(np.int32)
    del time
    row = np.concatenate([ends, begins])
    is_end = np.append(np.ones(len(ends) + 1, np.bool_), begins[1:] == begins[:-1])[: len(row)]
    is_end[len(ends) : len(ends) + 1] = False
    for first in range(0, len(order), _EVENTS_AT_ONCE):
        piece = order[first : first + _EVENTS_AT_ONCE]
        chosen, over = row[piece], is_end[piece]
        yield chosen, over, np.where(over, track.end[chosen], track.start[chosen])
