"""Findings from FP8 statistics: what makes results wrong comes before what costs time, and is gone with its cause."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.breakdown.test_findings import GEMM, early
from tests.fp8.made import Made
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import Breakdown, break_down
from tetrace.breakdown.finding import Finding

SOUND = [2.0, 1.0, 0.5, 0.25]


def with_kernels(made: Made) -> Breakdown:
    """The breakdown of a run that was launched late, with these FP8 statistics."""
    kernels, values = early((GEMM, 50), (GEMM, 50), gap=100).trace(), made.trace()
    tables = {**values.tables, **kernels.tables}
    return break_down(attribute(dataclasses.replace(kernels, tables=tables)), steps="all")


def of_fp8(breakdown: Breakdown) -> list[Finding]:
    return [finding for finding in breakdown.findings if finding.name.startswith("fp8_")]


def one(values: list[float], scale: float = 64.0, **columns: object) -> Made:
    return Made().tensor(4, "layers.1.fc1.grad_output", values, scale=scale, **columns)  # type: ignore[arg-type]


CASES: dict[str, tuple[Callable[[], Made], str, bool]] = {
    # name: with its cause, the mark in place of a time, whether it comes before all others
    "fp8_non_finite": (lambda: one([np.nan, *SOUND]), "NaN", True),
    "fp8_saturation": (lambda: one([1e3, *SOUND]), "clipped", True),
    "fp8_underflow": (lambda: one([1e-9, *SOUND]), "flushed", True),
    "fp8_frozen_history": (lambda: one(SOUND).update(4, "a.weight", 1.0, 1.0, np.inf, 2.0), "FP8", True),
}


@pytest.mark.parametrize("name", CASES)
def test_a_finding_comes_with_its_cause(name: str) -> None:
    made, mark, urgent = CASES[name]
    (finding,) = of_fp8(with_kernels(made()))
    assert (finding.name, finding.cost, finding.urgent, finding.ns) == (name, mark, urgent, 0)
    assert "at step 4: " in finding.evidence
    assert finding.advice.startswith("tetrace fp8 ")


def test_a_sound_run_has_none() -> None:
    assert of_fp8(with_kernels(one(SOUND))) == []
    assert with_kernels(one(SOUND)).fp8_health is not None


def test_a_recording_without_statistics_has_none() -> None:
    plain = break_down(attribute(early((GEMM, 50)).trace()), steps="all")
    assert (plain.fp8_health, of_fp8(plain)) == (None, [])


def test_what_makes_results_wrong_comes_first() -> None:
    names = [finding.name for finding in with_kernels(one([np.nan, *SOUND])).findings]
    assert names == ["fp8_non_finite", "host_bound"]


def test_a_warning_comes_after_what_costs_time() -> None:
    made = one([1e-9, *([1.0] * 49)])
    assert [finding.name for finding in with_kernels(made).findings] == ["host_bound", "fp8_underflow"]


def test_gradients_lost_before_the_first_scale_are_one() -> None:
    made = one([1e-5, 1e-6], scale=1.0).tensor(5, "layers.1.fc1.grad_output", [1e-5, 1e-6], scale=2.0**20)
    (finding,) = of_fp8(with_kernels(made))
    assert (finding.name, finding.cost, finding.urgent) == ("fp8_lost_gradients", "flushed", False)
    assert finding.title == "FP8: Gradients lost"
    assert finding.evidence.startswith(
        "layers.1.fc1.grad_output at step 4: 1 of 1 gradient in step 4, before their first"
    )


def test_tensors_of_one_kind_are_one_finding() -> None:
    made = one([1e3, *SOUND]).tensor(4, "layers.0.fc1.input", [1e6, *SOUND], scale=64.0)
    (finding,) = of_fp8(with_kernels(made))
    assert finding.evidence.endswith("; 2 tensors in all")
