"""Last losses over those of another: told by what they scatter by where weights and data are drawn anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.errors import InputError
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, judge
from tetrace.study.last_losses import groups, last_losses_words, scatter, spread_words
from tetrace.study.material import Material
from tetrace.study.numerics import losses_section
from tetrace.study.results import Losses
from tetrace.study.spec import Claim

TOML = """
title = "t"
redraws = ["vocabulary"]
[[matrix]]
name = "main"
axes.vocabulary = [32, 48]
axes.recipe = ["none", "e4m3", "hybrid"]
baseline = { recipe = "none" }
"""
LAST = {"32-none": 1.0, "32-e4m3": 1.2, "32-hybrid": 1.04, "48-none": 2.0, "48-e4m3": 2.4, "48-hybrid": 2.12}


def trained(folder: Path, toml: str = TOML, **losses: list[float]) -> Material:
    of = study(folder / "study", toml)
    made = Made(of)
    for name, last in LAST.items():
        by_step = losses.get(name.replace("-", "_"), [9.0, 4.0, last])
        made.measured(name, total=[1.0] * 7, fields={"losses": Losses.of(by_step)})
    return Material(made.write(folder / "results"), of)


def claim(of: str, against: str, at_most: float) -> Claim:
    return Claim(says="s", figure="last_loss", of=of, against=against, at_most=at_most)


def test_configurations_that_are_alike_but_for_the_draw_tell_the_scatter(tmp_path):
    material = trained(tmp_path)
    assert [(one.label, one.names) for one in groups(material)] == [
        ("e4m3", ("32-e4m3", "48-e4m3")),
        ("hybrid", ("32-hybrid", "48-hybrid")),
    ]
    assert groups(material)[1].ratios == (1.04, 1.06)
    assert "differ by 1.9% at most" in spread_words(material)
    assert spread_words(material) in losses_section(material).said
    assert (
        last_losses_words(material, {}) == "last loss over its baseline's, by recipe: e4m3 1.20×; hybrid 1.04× to 1.06×"
    )
    known = {"32-e4m3": 0.5, "48-e4m3": 0.77, "32-hybrid": 0.0}
    assert last_losses_words(material, known).endswith(": e4m3 1.20×, 77.0%; hybrid 1.04× to 1.06×, 0%")


@pytest.mark.parametrize(
    ("of", "at_most", "verdict", "here"),
    [
        ("32-hybrid", 1.05, UNKNOWN, "1.040× (1.020 to 1.060)"),  # the other draw is above it
        ("32-hybrid", 1.1, HOLDS, "1.040× (1.020 to 1.060)"),
        ("32-e4m3", 1.05, FAILS, "1.200× (1.177 to 1.223)"),
    ],
)
def test_a_ratio_is_told_where_other_draws_leave_it(tmp_path, of, at_most, verdict, here):
    judged = judge(trained(tmp_path), claim(of, "32-none", at_most))
    assert (judged.verdict, judged.here) == (verdict, here)


def test_one_draw_tells_nothing_of_another(tmp_path):
    material = trained(tmp_path, TOML.replace('redraws = ["vocabulary"]', ""))
    assert scatter(material) is None
    assert spread_words(material) == ""
    judged = judge(material, claim("32-e4m3", "32-none", at_most=1.05))
    assert (judged.verdict, judged.here, judged.why) == (UNKNOWN, "1.200× (no interval)", "one sample has no interval")


def test_losses_of_another_last_step_are_no_other_draw(tmp_path):
    """It has fallen further since."""
    longer = {"48_none": [9.0, 4.0, 2.0, 1.0], "48_e4m3": [9.0, 4.0, 2.4, 2.0], "48_hybrid": [9.0, 4.0, 2.1, 1.9]}
    assert scatter(trained(tmp_path, **longer)) is None


def test_what_draws_anew_is_an_option_of_the_study(tmp_path):
    with pytest.raises(InputError, match="redraws: 'vocabularies' is not in this study; did you mean vocabulary"):
        study(tmp_path, TOML.replace('["vocabulary"]', '["vocabularies"]'))
