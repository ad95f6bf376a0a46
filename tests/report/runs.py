"""Runs that the tests of reports are about: one in a few lines, and the two recordings of tests/data."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.attribute.test_attribution import ADAM, ADD, te_linear
from tests.traces import AUTOGRAD, Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import Breakdown, break_down
from tetrace.report.reporter import FORMATS, Options
from tetrace.sources.detect import load

DATA = Path(__file__).parent.parent / "data"


def three_steps(ranges: bool = True) -> Recording:
    """Three steps of 200 µs: a te.Linear forward and backward, an addition, and Adam."""
    recording = Recording()
    for step in range(3):
        at = 200 * step
        recording.range(f"step_{step}", at, at + 200).range("forward", at, at + 50)
        te_linear(recording, at + 5, "forward")
        recording.range("backward", at + 50, at + 110)
        te_linear(recording, at + 55, "backward")
        recording.launch(ADD, (at + 85, at + 86), (at + 88, at + 91), AUTOGRAD)
        recording.range("optimizer", at + 110, at + 150).launch(ADAM, (at + 120, at + 121), (at + 125, at + 140))
    if not ranges:
        recording.ranges.clear()
    return recording


def breakdown_of(recording: Recording, steps: str = "steady") -> Breakdown:
    """The breakdown of a made recording."""
    return break_down(attribute(recording.trace()), steps=steps)


@cache
def recorded(name: str, steps: str = "steady") -> Breakdown:
    """The breakdown of a recording in tests/data."""
    return break_down(attribute(load(DATA / name)), steps=steps)


def rendered(breakdown: Breakdown, format_name: str = "terminal", **options: object) -> str:
    """The single text document of a format."""
    reporter = next(known for known in FORMATS if known.name == format_name).load()
    document = reporter(Options(**options)).documents(breakdown)[""]  # type: ignore[arg-type]
    assert isinstance(document, str)
    return document
