"""Claims that another study's results decide, and what FP8 made of gradients there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.fp8.made import Made as Recorded
from tests.study.made import Made, study
from tetrace.errors import InputError
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN
from tetrace.study.figures import value
from tetrace.study.material import Material
from tetrace.study.numerics import numbers_section
from tetrace.study.report import Report, write
from tetrace.trace import store

TRAINS = """
title = "It trains"
[[matrix]]
name = "main"
axes.recipe = ["e4m3", "hybrid"]
"""
CLAIM = """
title = "It is timed"
[[matrix]]
name = "main"
axes.kind = ["one"]
[[claim]]
says = "HYBRID rounds gradients less"
study = "trains"
figure = "gradient_error_pct"
of = "hybrid"
against = "e4m3"
at_most = 0.9
why = "E5M2 has fewer digits"
"""
# Most of E5M2's range below what E4M3 can tell from zero once the largest is at its end.
GRADIENT = np.append(np.linspace(1.0, 2.0, 900), np.full(100, 1e-6))


def recorded(folder: Path, name: str, number_format: str, largest: float) -> Path:
    """Gradients of two steps: the first at a scale of 1, which loses most of them and says nothing of the format."""
    run = Recorded()
    for step, scale in ((0, 1.0), (1, largest / 2.0)):
        values = GRADIENT * (1.0 if step else 1e-9)
        run.tensor(step, "a.grad_output", values, scale=scale, format=number_format, phase="backward")
        run.tensor(step, "a.input", [1.0, 3.0], scale=scale, format="E4M3")
    path = folder / f"{name}.tetrace"
    store.write(run.trace(), path)
    return path


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("profiles")
    of = study(folder / "trains", TRAINS)
    made = Made(of)
    for name, number_format, largest in (("e4m3", "E4M3", 448.0), ("hybrid", "E5M2", 57344.0)):
        made.measured(name, total=[1.0] * 8, recording=recorded(folder, name, number_format, largest))
    made.write(folder / "trains/results/h200")
    return folder


def test_what_fp8_makes_of_gradients(profiles: Path) -> None:
    found = Material(profiles / "trains/results/h200", study(profiles / "trains", TRAINS))
    errors = [value(found, "gradient_error_pct", name).estimate.value for name in ("e4m3", "hybrid")]
    assert errors[1] == pytest.approx(2 * errors[0], rel=0.15)
    assert value(found, "gradient_flushed_pct", "e4m3").words() == "10%"
    assert value(found, "gradient_flushed_pct", "hybrid").words() == "0%"
    assert value(found, "gradient_clipped_pct", "hybrid").words() == "0%"
    assert value(found, "gradient_format", "hybrid").word == "E5M2"
    assert value(found, "gradient_flushed_pct", "hybrid", "e4m3").words() == "0.000× (0% and 10%)"


def test_gradients_have_a_table_where_they_were_recorded(profiles: Path) -> None:
    found = Material(profiles / "trains/results/h200", study(profiles / "trains", TRAINS))
    grid = numbers_section(found).grids[-1]
    assert grid.title == "What FP8 makes of gradients"
    assert [column.head for column in grid.columns] == ["configuration", "format", "error", "becomes zero", "clipped"]
    errors = [value(found, "gradient_error_pct", name).words() for name in ("e4m3", "hybrid")]
    assert grid.rows == (("e4m3", "E4M3", errors[0], "10%", "0%"), ("hybrid", "E5M2", errors[1], "0%", "0%"))


def test_a_claim_is_judged_by_the_other_study_of_the_same_machine(profiles: Path) -> None:
    of = study(profiles / "timed", CLAIM)
    folder = Made(of).measured("one", total=[1.0] * 8).write(profiles / "timed/results/h200")
    (judged,) = Report(Material(folder, of)).judged
    assert judged.verdict == FAILS
    assert judged.here.startswith(("1.9", "2.0"))
    assert judged.here.endswith("%), in study trains")
    assert judged.why == "E5M2 has fewer digits"
    write(folder, of)
    assert ",trains\n" in (folder / "claims.csv").read_text(encoding="utf-8")


def test_without_results_of_that_machine_it_cannot_be_told(profiles: Path) -> None:
    of = study(profiles / "timed", CLAIM)
    folder = Made(of).measured("one", total=[1.0] * 8).write(profiles / "timed/results/b300")
    (judged,) = Report(Material(folder, of)).judged
    assert (judged.verdict, judged.here) == (UNKNOWN, "")
    assert judged.why == "study trains has no results called b300 here"


def test_what_the_other_study_does_not_have_is_said(profiles: Path) -> None:
    of = study(profiles / "timed", CLAIM.replace('"e4m3"', '"e5m2"'))
    folder = Made(of).measured("one", total=[1.0] * 8).write(profiles / "timed/results/h200")
    (judged,) = Report(Material(folder, of)).judged
    assert (judged.verdict, judged.why) == (UNKNOWN, "in study trains: e5m2 was not run; E5M2 has fewer digits")
    assert judged.verdict != HOLDS


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('study = "trains"', 'study = "../trains"', "write the name of the folder of a study beside this one"),
        ('"gradient_error_pct"', '"speedup"', "study in [[claim]] 1: is for figures"),
    ],
)
def test_what_a_claim_on_another_study_may_not_say(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError) as error:
        study(tmp_path, CLAIM.replace(old, new))
    assert said in str(error.value)
