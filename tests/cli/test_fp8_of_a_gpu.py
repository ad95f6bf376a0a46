"""`tetrace fp8` on what an H200 recorded: a model in E4M3 with delayed scaling, whose first gradients grow faster than their
history follows (tests/data/README.md)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cli.test_report import run
from tests.report.runs import DATA

RECORDING = DATA / "stability-e4m3.tetrace"


def asked(command: str, *arguments: str) -> dict[str, Any]:
    done = run("fp8", command, RECORDING, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def test_health_names_the_gradient_that_was_clipped() -> None:
    worst = asked("health")["rows"][0]
    assert (worst["kind"], worst["level"]) == ("saturation", "critical")
    assert (worst["module"], worst["role"], worst["first_step"]) == ("layers.0.proj", "grad_output", 3)
    assert worst["number"] == pytest.approx(0.7711544, abs=1e-7)


def test_nothing_was_not_finite() -> None:
    said = asked("nan")
    assert said["rows"] == []
    assert said["checked"]
    assert said["verdict"] == "All finite: no NaN and no Inf in 3,969 observations of 21 steps."


def test_whatif_counts_what_its_table_has() -> None:
    """Format.HYBRID does not help with what is clipped, nor in the step before the first scale; a scale of each step does."""
    found = asked("whatif", "format=HYBRID")
    clipped = sum(row["worst_saturated_lower"] > 1e-4 for row in found["rows"])
    assert (found["clipped"]["least"], found["clipped"]["ran"], clipped) == (4, 4, 4)
    assert found["verdict"] == (
        "format=HYBRID against what ran, of 51 tensors, each by its worst step: more than 0.01% clipped in 4 → 4, more than "
        "1% flushed in 17 → 17; SNR better by 1 dB or more in 8, worse in 2."
    )
    assert (
        "clipped in 4 → 0, more than 1% flushed in 17 → 0" in asked("whatif", "recipe=current,format=HYBRID")["verdict"]
    )
    assert asked("whatif", "format=E4M3")["verdict"].startswith(
        "format=E4M3 is what ran, so nothing changes: of 51 tensors"
    )


def test_pages_name_the_file_that_was_given() -> None:
    """It was renamed since it was recorded."""
    for command in (["health"], ["nan"], ["tensor", "(loss)"], ["whatif", "margin=1"]):
        assert asked(*command)["source"].startswith("stability-e4m3.tetrace")


def test_a_scale_of_each_step_would_have_held() -> None:
    rows = asked("whatif", "recipe=current")["rows"]
    clipped = max(rows, key=lambda row: float(row["ran_saturated"]))
    assert (clipped["module"], clipped["role"]) == ("layers.0.proj", "grad_output")
    assert clipped["ran_saturated"] > 0.03  # over all steps
    assert max(row["saturated_upper"] for row in rows) < 1e-5
    assert all(row["saturated_lower"] <= row["saturated_upper"] for row in rows)
