"""Ranges that only the rings hold, placed on the clock of Nsight Systems."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.sources.exports import Export
from tests.sources.test_sidecar import in_a_process
from tetrace import _C, load
from tetrace.trace.trace import Trace

# Nsight Systems' clock begins with its session; here it also loses a microsecond every millisecond.
BEGAN_NS, DRIFT = 1_700_000_000_000_000_000, 1e-3
STEPS, MODULES = 4, 8


def record(folder: Path) -> None:
    """Steps of modules with a quantize call in each, as under Nsight Systems."""
    from tetrace.instrument import ranges

    own = folder / f"process-{os.getpid()}"
    own.mkdir(parents=True)
    (own / "process.json").write_text(json.dumps({"pid": os.getpid()}))
    (folder / "run.json").write_text("{}")
    ranges.open(own, ranges.CALLS)
    modules = [ranges.site("module", f"fc{n}", phase="forward", module=f"fc{n}") for n in range(MODULES)]
    quantize = [ranges.site("quantize", "quantize input", module=f"fc{n}", role="input") for n in range(MODULES)]
    for step in range(STEPS):
        ranges.set_step(step)
        for outer, inner in zip(modules, quantize, strict=True):
            ranges.push(outer)
            ranges.push(inner)
            ranges.pop()
            ranges.pop()
    ranges.close()


def on_nsys(ns: int) -> int:
    return round((ns - BEGAN_NS) * (1 - DRIFT))


def exported(folder: Path, also: bool = False, without: int = 0) -> tuple[Trace, list[tuple[int, int]]]:
    """The trace of what `record` left with an export of its modules (and calls, if `also`), and where the calls belong.

    The first `without` ranges of modules are not in the export.
    """
    in_a_process(record, folder)
    (ring_file,) = folder.glob("process-*/ranges-*.bin")
    ring = _C.read_ring(str(ring_file))
    (lines,) = (path.read_text().splitlines() for path in folder.glob("process-*/sites.jsonl"))
    described = {site["site"]: site for site in map(json.loads, lines)}
    export, calls, modules = Export(), [], 0
    for site, step, start, end in zip(
        *(ring[name].tolist() for name in ("site", "step", "start_ns", "end_ns")), strict=True
    ):
        kind, times = described[site]["kind"], (on_nsys(start), on_nsys(end))
        if kind == "quantize":
            calls.append(times)
        modules += kind == "module"
        if (kind == "module" and modules > without) or (also and kind != "module"):
            where = {"thread": int(ring["thread"]), "process": int(ring["process"])}
            payload = {"domainId": 1, "uint64Value": site | (step + 1) << 32}
            # NVTX is told before the ring, and again after it.
            export.range(described[site]["name"], times[0] - 150, times[1] + 150, **where, **payload)
    export.sqlite(folder / "nsys.sqlite")
    return load(folder), calls


def of_calls(trace: Trace) -> list[tuple[int, int]]:
    rows = trace.tables["ranges"].to_pylist()
    return [(row["start_ns"], row["end_ns"]) for row in rows if row["name"] == "quantize input"]


def most_off_ns(calls: list[tuple[int, int]]) -> float:
    """By how much a call may be off: ranges of all steps make one point of the clocks, so what they lose between the first
    and the last is not seen, and that is more where somebody else had the processor meanwhile."""
    return 200 + DRIFT * (calls[-1][1] - calls[0][0])


def test_calls_are_placed_within_their_modules(tmp_path: Path) -> None:
    trace, calls = exported(tmp_path)
    found = of_calls(trace)
    assert len(found) == STEPS * MODULES
    for (start, end), (wanted, wanted_end) in zip(found, calls, strict=True):
        assert abs(start - wanted) < most_off_ns(calls)
        assert abs(end - wanted_end) < most_off_ns(calls)
    assert {row["sequence"] for row in trace.tables["ranges"].to_pylist()} == set(range(STEPS))


def test_a_capture_that_began_later_is_matched_by_step(tmp_path: Path) -> None:
    trace, calls = exported(tmp_path, without=MODULES + 3)
    found = of_calls(trace)
    assert found
    for one, wanted in zip(reversed(found), reversed(calls), strict=False):
        assert abs(one[0] - wanted[0]) < most_off_ns(calls)


def test_calls_that_nsys_recorded_are_not_doubled(tmp_path: Path) -> None:
    trace, calls = exported(tmp_path, also=True)
    assert of_calls(trace) == [(start - 150, end + 150) for start, end in calls]


def test_clocks_that_cannot_be_matched_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tetrace.sources.merge._FEWEST_PAIRS", STEPS * MODULES + 1)
    trace, _ = exported(tmp_path)
    assert of_calls(trace) == []
    assert any("too few ranges" in notice for notice in trace.metadata.notices)
