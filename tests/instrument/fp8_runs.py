"""Runs that inspect FP8 on the CPU, on stand-ins of Transformer Engine, and their rows."""

from __future__ import annotations

from pathlib import Path

from tests.instrument.runs import record
from tetrace.sources import detect

ROOT = Path(__file__).parents[2]


LINEARS = [
    ("up", "input", "forward", "quantize", "E4M3"),
    ("up", "weight", "forward", "quantize", "E4M3"),
    ("down", "input", "forward", "quantize", "E4M3"),
    ("down", "weight", "forward", "quantize", "E4M3"),
    ("down", "grad_output", "backward", "bgrad_quantize", "E5M2"),
    ("up", "grad_output", "backward", "bgrad_quantize", "E5M2"),
]


def recorded(folder, body, **fp8):
    """The trace of what `body` does."""
    working = folder / "run.tetrace.recording"
    record(working, body, fp8=fp8)
    (working / "run.json").write_text("{}")
    return detect.load(working)


def frame(trace, table="fp8_tensors"):
    return trace.tables[table].to_pandas()


def quantized(trace):
    """Rows of what was quantized, checks left out."""
    rows = frame(trace)
    return rows[rows["source"] != "check"]


def tuples(rows, *names):
    return list(rows[list(names)].itertuples(index=False, name=None))
