"""Which speed-ups a report says, and which of them it explains: those that options are told to make too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.explanations import explained
from tests.study.made import Made, study
from tetrace.study.explanation import NOT_SHOWN
from tetrace.study.material import Material
from tetrace.study.speedups import explained_words, pairs, speedups, unexplained_words
from tetrace.study.why import why_section

TOML = """
title = "t"
question = "q"
[options]
fused = false
recipe = "none"
[[matrix]]
name = "main"
axes.module.unfused = {}
axes.module.fused = {fused = true}
axes.recipe.none = {}
axes.recipe.fp8 = {recipe = "fp8"}
baseline = "unfused-none"
"""
TIMES = {"unfused-none": 4.0, "unfused-fp8": 3.0, "fused-none": 3.5, "fused-fp8": 2.5}
BASELINES = [("unfused-fp8", "unfused-none"), ("fused-none", "unfused-none"), ("fused-fp8", "unfused-none")]
AGAIN = """
[[matrix]]
name = "again"
axes.recipe.fp8 = {recipe = "fp8"}
axes.recipe.both = {recipe = "fp8", fused = true}
baseline = "fp8"
"""


def material(folder: Path, toml: str = TOML, **times: float) -> Material:
    of = study(folder, toml)
    made = Made(of)
    for name, ms in {**TIMES, **times}.items():
        made.measured(name, total=[ms] * 8)
    return Material(made.write(folder / "results"), of)


def test_what_an_option_is_told_to_do_is_explained_once(tmp_path):
    found = material(tmp_path)
    # Those against the first of both axes are effects too.
    assert pairs(found) == [*BASELINES, ("fused-fp8", "unfused-fp8"), ("fused-fp8", "fused-none")]
    assert speedups(found) == pairs(found)


def test_what_timing_does_not_tell_is_not_explained(tmp_path):
    found = material(tmp_path, **{"fused-fp8": 3.0})
    assert pairs(found) == [*BASELINES, ("fused-fp8", "fused-none")]
    assert speedups(found)[-2:] == [("fused-fp8", "fused-none"), ("fused-fp8", "unfused-fp8")]
    assert "Not told apart, and so not asked for: fused-fp8 against unfused-fp8." in unexplained_words(found)


@pytest.mark.parametrize("explains", [True, False])
def test_what_runs_the_same_as_an_explained_pair_is_not_explained_again(tmp_path, explains):
    found = material(tmp_path, TOML + AGAIN, **{"again:fp8": 3.0, "again:both": 2.5})
    one = explained((5, 4), (4, 4), (9, 8), noise=0.01 if explains else 5)
    assert one.explains is explains
    found.explanation = lambda of, against: one
    own = [] if explains else [("fused-fp8", "unfused-fp8")]
    assert pairs(found) == [*BASELINES, ("again:both", "again:fp8"), *own, ("fused-fp8", "fused-none")]
    assert ("fused-fp8", "unfused-fp8") in speedups(found)


def test_an_effect_without_a_recording_is_a_speedup_too(tmp_path):
    found = material(tmp_path, TOML + 'recording = ["*-none"]\n')
    assert pairs(found) == [("fused-none", "unfused-none")]
    assert ("fused-fp8", "unfused-fp8") in speedups(found)
    assert any(
        "fused-fp8 against unfused-fp8" in line and line.endswith(": timed only, as the study says.")
        for line in unexplained_words(found)
    )


@pytest.mark.parametrize(
    ("turned", "words", "said"),
    [
        ((), "with every speed-up explained", ""),
        (
            BASELINES[:1],
            "with 4 of 5 speed-ups explained, 1 not shown by its recordings",
            "1 of 5 tables is of a difference that the recordings do not show: ",
        ),
        (
            BASELINES[:2],
            "with 3 of 5 speed-ups explained, 2 not shown by their recordings",
            "2 of 5 tables are of differences that the recordings do not show: ",
        ),
    ],
)
def test_what_the_recordings_do_not_show_is_counted_apart(tmp_path, turned, words, said):
    found = material(tmp_path)
    # Timed 1 ms longer, all of it waiting: the recordings of the first wait 2 ms less, those of the second 1 ms more.
    shown = {True: explained((5, 4.9), (10, 8), (9, 10)), False: explained((5, 4.9), (4, 5), (9, 10))}
    assert [shown[one].doubt for one in (True, False)] == [NOT_SHOWN, ""]
    found.explanation = lambda of, against: replace(shown[(of, against) in turned], names=(against, of))
    assert explained_words(found) == words
    lines = [line for line in why_section(found).said if "recordings do not show" in line]
    assert [line.startswith(said) for line in lines] == [True] * bool(turned)


def test_what_recordings_of_the_other_direction_explain_is_counted_apart(tmp_path):
    found = material(tmp_path)
    # 1 ms less as timed, all of it work, which the recordings have: those of the first wait 3 ms more.
    shown = {True: explained((5, 4), (4, 7), (9, 8)), False: explained((5, 4), (4, 4), (9, 8))}
    assert [shown[one].is_opposed for one in (True, False)] == [True, False]
    found.explanation = lambda of, against: replace(shown[(of, against) == BASELINES[0]], names=(against, of))
    assert explained_words(found) == (
        "with every speed-up explained, 4 by recordings that show them and 1 by recordings whose steps differ the other way"
    )
    assert any(
        line.startswith("1 of 5 tables has recordings whose steps differ the other") for line in why_section(found).said
    )
