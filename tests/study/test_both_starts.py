"""Verdicts on timed steps that another start turns round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.study.made import Made, study
from tetrace.study.both_starts import in_both_starts
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, judge
from tetrace.study.material import Material
from tetrace.study.report import Report

TOML = """
title = "Two ways"
[[matrix]]
name = "main"
axes.way = ["a", "b"]
baseline = "a"
[[claim]]
says = "b is faster"
figure = "speedup"
of = "b"
at_least = 1.05
why = "it has less to do"
[[claim]]
says = "b takes at most 9 ms"
figure = "total_ms"
of = "b"
at_most = 9.0
[[claim]]
says = "b needs no more memory"
figure = "memory_ratio"
of = "b"
at_most = 1.0
"""
NOISE = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01, 1.0)
LATE = {"began_ns": 600 * 10**9}


def made(folder: Path, a: float, b: float, rounds: Any = None, **fields: Any) -> Material:
    of = study(folder, TOML)
    results = Made(of)
    for place, (name, ms) in enumerate({"a": a, "b": b}.items()):
        total = [ms * NOISE[(each + place) % 7] for each in range(7)]
        memory = {"peak_allocated_bytes": 1000, **fields}
        results.measured(name, total=total, rounds=rounds, fields=memory)
    return Material(results.write(folder / "results"), of)


def both(here: Material, there: Material | None) -> list[tuple[str, str]]:
    return [(one.verdict, one.why) for one in Report(here, there).judged]


def test_a_verdict_that_another_start_turns_round_cannot_be_told(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1", 10.0, 8.0), made(tmp_path / "2", 10.0, 12.0, LATE)
    assert both(here, None) == [(HOLDS, ""), (HOLDS, ""), (HOLDS, "")]
    assert both(here, there) == [
        (UNKNOWN, "another start, 2026-11-21, says 0.842× (0.817 to 0.842); it has less to do"),
        (UNKNOWN, "another start, 2026-11-21, says 12.000 ms (11.880 to 12.120)"),
        # No round times it.
        (HOLDS, ""),
    ]
    # And the other way.
    assert [verdict for verdict, _ in both(there, here)] == [UNKNOWN, UNKNOWN, HOLDS]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        # It says the same.
        (10.0, 8.5),
        # It cannot tell.
        (10.0, 9.0),
    ],
)
def test_one_that_it_does_not_turn_round_stays(tmp_path: Path, a: float, b: float) -> None:
    here, there = made(tmp_path / "1", 10.0, 8.0), made(tmp_path / "2", a, b, LATE)
    assert [verdict for verdict, _ in both(here, there)] == [HOLDS] * 3


def test_what_was_measured_otherwise_is_not_asked(tmp_path: Path) -> None:
    here = made(tmp_path / "1", 10.0, 8.0, tokens=100)
    there = made(tmp_path / "2", 10.0, 12.0, LATE, tokens=200)
    assert [verdict for verdict, _ in both(here, there)] == [HOLDS] * 3
    # Nor is the very same measurement another start.
    one = judge(here, here.study.claims[0])
    assert in_both_starts(here, made(tmp_path / "3", 10.0, 12.0, tokens=100), one).verdict == HOLDS


def test_one_that_cannot_be_told_here_is_not_told_by_another(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1", 10.0, 9.5), made(tmp_path / "2", 10.0, 12.0, LATE)
    (of_speed, _, _) = both(here, there)
    assert of_speed[0] == UNKNOWN
    assert FAILS in [verdict for verdict, _ in both(there, None)]
