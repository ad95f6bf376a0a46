"""Which speed-ups a report says, and which of them it explains: those that options are told to make too."""

from __future__ import annotations

from pathlib import Path

from tests.study.made import Made, study
from tetrace.study.material import Material
from tetrace.study.speedups import pairs, speedups, unexplained_words

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


def test_what_runs_the_same_as_an_explained_pair_is_not_explained_again(tmp_path):
    found = material(tmp_path, TOML + AGAIN, **{"again:fp8": 3.0, "again:both": 2.5})
    assert pairs(found) == [*BASELINES, ("again:both", "again:fp8"), ("fused-fp8", "fused-none")]
    assert ("fused-fp8", "unfused-fp8") in speedups(found)


def test_an_effect_without_a_recording_is_a_speedup_too(tmp_path):
    found = material(tmp_path, TOML + 'recording = ["*-none"]\n')
    assert pairs(found) == [("fused-none", "unfused-none")]
    assert ("fused-fp8", "unfused-fp8") in speedups(found)
    assert any(
        "fused-fp8 against unfused-fp8" in line and line.endswith(": timed only, as the study says.")
        for line in unexplained_words(found)
    )
