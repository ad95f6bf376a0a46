"""A recording whose names try to break what shows them."""

from __future__ import annotations

from pathlib import Path

from tests.traces import Recording
from tetrace.trace import store

NAMES = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "\u202eeno rehto eht\u2066",
    "a|b`c`*d*\r\n::error::x\n]]>&amp;",
    "=cmd|' /C calc'!A0",
    "k" * 100_000,
)


def write(path: Path, length: float = 10, first: str = "") -> Path:
    """Three steps with a kernel and a range of each name, as a `.tetrace`."""
    recording = Recording()
    for step in range(10):
        at = 1000 * step
        recording.range(f"step_{step}", at, at + 1000).range("forward", at, at + 900)
        for i, name in enumerate((*NAMES, *([first] if first else []))):
            begin = at + 100 * i
            recording.range(name, begin + 1, begin + 90)
            recording.launch(name, (begin + 2, begin + 3), (begin + 4, begin + 4 + length))
    store.write(recording.trace(), path, replace=True)
    return path
