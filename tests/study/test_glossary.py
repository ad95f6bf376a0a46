"""What a study's words mean stands below its question, wherever a report begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.study import spec
from tetrace.study.material import Material
from tetrace.study.page import document
from tetrace.study.report import Report, first_screen, write
from tetrace.study.section import cut

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
TOML = """
title = "t"
question = "What does FP8 gain?"
[words]
none = "BF16, no FP8"
hybrid = "E4M3 and E5M2"
[[matrix]]
name = "main"
axes.recipe = ["none", "hybrid"]
baseline = "none"
"""


@pytest.mark.parametrize("toml", [TOML, TOML.replace('none = "BF16, no FP8"\nhybrid = "E4M3 and E5M2"', "")])
def test_words_stand_below_the_question(tmp_path, toml):
    of = study(tmp_path, toml)
    said = "none: BF16, no FP8; hybrid: E4M3 and E5M2" if of.words else ""
    made = Made(of).measured("none", total=[2.0] * 8).measured("hybrid", total=[1.0] * 8)
    folder = made.write(tmp_path / "results")
    write(folder, of)
    assert of.glossary == said
    below = (folder / "REPORT.md").read_text(encoding="utf-8").split("What does FP8 gain?\n\n")[1]
    assert below.startswith(f"{said}\n\n**Fastest: hybrid" if said else "**Fastest: hybrid")
    page = document(Report(Material(folder, of)), "1")
    assert (page["steps_used"], page["plain_step"]) == ("What does FP8 gain?", said)
    assert ("What does FP8 gain?\nnone: BF16" in first_screen(folder, of, 200)) == bool(said)


@pytest.mark.parametrize("name", ["fusion", "hybrid", "attention", "gated", "stability"])
def test_each_study_says_what_its_recipes_are(name):
    of = spec.read(PROFILES / name)
    axes = of.matrices[0].axes
    assert set(axes.get("recipe", axes.get("implementation", {}))) <= set(of.words)
    assert cut(of.glossary) == of.glossary  # whole on the first screen
