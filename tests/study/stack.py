"""A study of the layer stack, made with real recordings, and the tables of its report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tests.study.made import CALIBRATED, Made, study

TOML = """
title = "Layer stack"
question = "What does FP8 gain?"
[options]
layers = 4
[[matrix]]
name = "main"
axes.recipe.none = {}
axes.recipe.delayed = {recipe = "delayed"}
axes.recipe.graphs = {recipe = "delayed", graphs = true}
axes.recipe.block = {recipe = "block"}
baseline = "none"
[[note]]
title = "A note"
hardware = "H100"
[[note.row]]
configuration = "none"
label = "BF16"
forward_ms = 4.4
total_ms = 10.0
peak_gb = 3.00
[[note.row]]
configuration = "delayed"
label = "FP8"
forward_ms = 8.0
total_ms = 17.5
peak_gb = 3.5
speedup = 0.57
[[note.row]]
configuration = "graphs"
label = "FP8 in graphs"
total_ms = 5.0
[[note.row]]
configuration = "block"
label = "FP8 by blocks"
total_ms = 12.0
state = "measured"
[[claim]]
says = "FP8 is faster"
figure = "speedup"
of = "delayed"
noted = 1.2
at_least = 1.1
why = "the step waits for the host"
[[claim]]
says = "FP8's forward is faster"
figure = "forward_speedup"
of = "delayed"
at_least = 1.1
[[claim]]
says = "Graphs pay"
figure = "speedup"
of = "graphs"
at_least = 2.0
[[claim]]
says = "Every GEMM is in FP8"
figure = "fp8_coverage_pct"
of = "delayed"
at_least = 95
[[claim]]
says = "It is stable"
figure = "none"
"""


# Rounds drift together: pairs of rounds do not.
DRIFT = (1.0, 1.01, 0.99, 1.02, 1.0, 1.03, 0.98)


FIELDS = {"tokens": 4096, "flops": 3 * 10**12, "peak_allocated_bytes": 3 * 10**9, "first_step_ns": 2 * 10**9}


CLOCKS = {"sm_mhz": 1980.0, "power_w": 512.4, "temperature_c": 51.0}


def rounds(ms: float) -> list[float]:
    return [ms * factor for factor in DRIFT]


def stack(folder: Path, recordings: bool = True, **facts: Any) -> tuple[Path, Any]:
    """The layer stack's study with its four real recordings, or without any."""
    of = study(folder, TOML)
    made = Made(of, peaks={"bf16_flops": 800e12, "fp8_flops": 1400e12, "measured_at": CALIBRATED}, **facts)
    for name, recording, forward, backward in (
        ("none", "bf16", 4.0, 6.0),
        ("delayed", "fp8-delayed", 8.0, 9.0),
        ("graphs", "fp8-delayed-graphs", 1.0, 2.0),
    ):
        made.measured(
            name, recording=recording if recordings else "", forward=rounds(forward), backward=rounds(backward),
            fields=FIELDS, rounds=CLOCKS,
        )  # fmt: skip
    made.failed("block", "ValueError", "no such scale", "line one\nline two")
    return made.write(folder / "results"), of


def table(text: str, title: str) -> list[list[str]]:
    """The cells of the pipe table under a heading, with its head."""
    below = text.split(f"\n### {title}\n", 1)[1]
    lines = [line for line in below.split("\n\n")[0].splitlines() if line.startswith("|")]
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().strip("`*") for cell in row] for row in cells if not row[0].strip().startswith((":--", "--"))]


OWN_BASELINES = """
title = "Sizes"
[[matrix]]
name = "main"
axes.size = ["small", "large"]
axes.recipe = ["none", "fp8"]
baseline = {recipe = "none"}
"""
