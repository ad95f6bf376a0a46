"""A timeline as JSON of the Trace Event Format, for chrome://tracing and the tools that read it; written as it goes.

Times are microseconds from the first slice on, with three decimals: nanoseconds are kept, which a reader that holds
numbers as doubles would lose of a clock that has run for years. `otherData.begins_ns` is when that was.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.breakdown.timeline import Timeline
from tetrace.breakdown.timeline_track import HOST, OVERLAPPING, STEPS, STREAM, Track
from tetrace.report.drawn import Numbers, device_name, process_name, safe, stream_number, thread_name

if TYPE_CHECKING:
    from tetrace.breakdown.timeline_counters import Counter
    from tetrace.breakdown.timeline_labels import Label

_SLICES_AT_ONCE = 1 << 15
# Rows of the viewer by kind: host threads, then each device's steps and streams.
_ROW = {HOST: 0, STEPS: 1 << 20, STREAM: 1 << 21}
_FLOW = '"name":"launch","cat":"launch"'


def chunks(timeline: Timeline, version: str) -> Iterator[tuple[int, bytes]]:
    """The document piece by piece, each with the number of slices that it finishes."""
    source, begins = safe(timeline.trace.metadata.source), timeline.begins_ns
    about = {"tetrace": version, "source": source, "begins_ns": begins}
    yield 0, f'{{"displayTimeUnit":"ns","otherData":{_text(about)},"traceEvents":[\n'.encode()
    lines = _Lines(timeline)
    yield 0, ",\n".join(lines.processes()).encode()
    for number, track in enumerate(timeline.tracks()):
        yield from lines.track(track, number)
        # A track may be a large part of all memory: the next one is made when this one is gone.
        del track
    for counter in timeline.counters():
        yield from ((0, piece) for piece in lines.counter(counter))
    yield 0, b"\n]}\n"


def _text(value: Any) -> str:
    """As JSON in ASCII: what a name holds cannot end a script or a string that the document is put in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c").replace(">", "\\u003e")


class _Lines:
    """Events as lines of JSON."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._numbers = Numbers(timeline.trace)
        self._zero = timeline.begins_ns
        # A viewer's thread is a number: those of threads are their own, all other tracks get the next ones.
        self._spare = max(self._numbers.tids, default=0)
        self._heads = [_head(label) for label in timeline.labels]

    def processes(self) -> Iterator[str]:
        """What processes are called."""
        for place, process in enumerate(self._timeline.processes):
            pid = self._numbers.pids[process]
            yield _metadata("process_name", pid, 0, name=process_name(self._timeline.trace, process))
            yield _metadata("process_sort_index", pid, 0, sort_index=place)

    def track(self, track: Track, number: int) -> Iterator[tuple[int, bytes]]:
        """What a track is called, its slices, and the ends of flows that lie in it."""
        pid, tid = self._numbers.pids[track.process], self._tid(track)
        place = _ROW[track.kind] + (number if track.kind != STREAM else stream_number(track.name))
        named = (_metadata("thread_name", pid, tid, name=self._name(track)),)
        yield 0, self._joined([*named, _metadata("thread_sort_index", pid, tid, sort_index=place)])
        begins = np.append(0, np.cumsum(track.flow_count))
        for first in range(0, len(track), _SLICES_AT_ONCE):
            last = min(first + _SLICES_AT_ONCE, len(track))
            flows = slice(begins[first], begins[last])
            lines = self._slices(track, slice(first, last), f'"pid":{pid},"tid":{tid}')
            yield (
                last - first,
                self._joined(itertools.chain(lines, self._flows(track, slice(first, last), flows, pid, tid))),
            )

    def _slices(self, track: Track, rows: slice, where: str) -> Iterator[str]:
        start, end = track.start[rows], track.end[rows]
        heads = map(self._heads.__getitem__, track.label[rows].tolist())
        columns = (
            heads,
            self._timeline.step_numbers(track.step[rows]).tolist(),
            _us(start - self._zero),
            _us(end - start),
        )
        for head, step, at, length in zip(*columns, strict=True):
            noted = f',"step":{step}' if step >= 0 else ""
            yield f'{head}{noted}}},{where},"ts":{at},"dur":{length}}}'

    def _flows(self, track: Track, rows: slice, flows: slice, pid: int, tid: int) -> Iterator[str]:
        """Flows begin in a call on the host and end in what it launched."""
        ends = "" if track.kind == HOST else ',"bp":"e"'
        kind = "s" if track.kind == HOST else "f"
        at = _us(np.repeat(track.start[rows] - self._zero, track.flow_count[rows]))
        for time, one in zip(at, track.flows[flows].tolist(), strict=True):
            yield f'{{"ph":"{kind}",{_FLOW},"id":{one},"pid":{pid},"tid":{tid},"ts":{time}{ends}}}'

    def counter(self, counter: Counter) -> Iterator[bytes]:
        """The samples of a counter."""
        head = f'{{"ph":"C","name":{_text(counter.name)},"pid":{self._numbers.pids[counter.process]},"ts":'
        unit = _text(counter.unit)
        for first in range(0, len(counter), _SLICES_AT_ONCE):
            chosen = slice(first, first + _SLICES_AT_ONCE)
            times, values = _us(counter.time[chosen] - self._zero), counter.value[chosen].tolist()
            yield self._joined(
                f'{head}{at},"args":{{{unit}:{value!r}}}}}' for at, value in zip(times, values, strict=True)
            )

    def _joined(self, lines: Any) -> bytes:
        return "".join(f",\n{line}" for line in lines).encode()

    def _tid(self, track: Track) -> int:
        if track.kind == HOST and not track.lane and not track.name:
            return self._numbers.tids[track.thread]
        self._spare += 1
        return self._spare

    def _name(self, track: Track) -> str:
        trace = self._timeline.trace
        beside = f" ({track.lane + 1})" if track.lane else ""
        if track.kind != HOST:
            return f"{device_name(trace, track.process, track.device)} · {track.name}{beside}"
        name = thread_name(trace, track.thread)
        own = track.name or (OVERLAPPING if track.lane else "")
        return f"{name} · {own}{beside if track.name else ''}" if own else name


def _head(label: Label) -> str:
    """The line of a slice up to its last note."""
    notes = {"category": label.category, **{name: safe(v) if isinstance(v, str) else v for name, v in label.notes}}
    start = {"ph": "X", "name": safe(label.name), "cat": label.category, "args": notes}
    return _text(start)[:-2]


def _metadata(what: str, pid: int, tid: int, **arguments: Any) -> str:
    return _text({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": arguments})


def _us(ns: Any) -> list[str]:
    """Microseconds with the nanoseconds as decimals."""
    whole, rest = np.divmod(ns, 1000)
    return [f"{us}.{part:03d}" for us, part in zip(whole.tolist(), rest.tolist(), strict=True)]
