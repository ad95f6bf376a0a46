"""Whether a ratio changes along a sweep."""

from __future__ import annotations

from pathlib import Path

from tests.study.made import Made, study
from tetrace.study.material import Material
from tetrace.study.sweep import Swept, sweep_of, trend_words

TOML = """
title = "t"
question = "q"
[[matrix]]
name = "main"
axes.batch = [1, 4, 16]
axes.recipe = ["none", "fp8"]
baseline = {recipe = "none"}
[[matrix]]
name = "twin"
axes.batch = [1]
axes.recipe = ["none"]
[[sweep]]
matrix = "main"
along = "batch"
group = "recipe"
baseline = "none"
"""
FACTORS = (0.98, 0.99, 0.99, 1.0, 1.0, 1.01, 1.01, 1.02)


def swept(folder: Path, speedups, group: str | None = None, twin: float = 0.0) -> Swept:
    """FP8's speed-up at each place; `twin`: how many times as long the same configuration takes under another name."""
    of = study(folder, TOML)
    made = Made(of)
    for batch, ratio in zip((1, 4, 16), speedups, strict=True):
        for recipe, ms in (("none", 10.0 * batch), ("fp8", 10.0 * batch / ratio if ratio else None)):
            if ms:
                factors = FACTORS if recipe == "fp8" else [1.0] * 8
                own = {"group": f"{batch} {recipe if group else ''}"}
                made.measured(f"{batch}-{recipe}", total=[ms * factor for factor in factors], rounds=own)
    if twin:
        made.measured("twin:1-none", total=[10.0 * twin] * 8, rounds={"group": "1 "})
    return sweep_of(Material(made.write(folder / "results"), of), of.sweeps[0])


def test_intervals_that_overlap_are_the_same(tmp_path):
    assert trend_words(swept(tmp_path, (0.72, 0.71, 0.73))) == [
        "fp8 over none is not told to change along batch, at every measured batch (1 to 16): 0.710× to 0.730×."
    ]


def test_intervals_apart_are_a_change(tmp_path):
    assert trend_words(swept(tmp_path, (0.72, 0.8, 1.5))) == [
        "fp8 over none changes along batch: 0.720× (0.706 to 0.735) at 1, 1.500× (1.471 to 1.531) at 16."
    ]


def test_identical_configurations_that_differ_as_much_leave_it_open(tmp_path):
    """By 10% between the places; so much the same configuration differs from itself."""
    (told,) = trend_words(swept(tmp_path / "a", (0.72, 0.72, 0.8)))
    assert "changes along batch" in told
    (untold,) = trend_words(swept(tmp_path / "b", (0.72, 0.72, 0.8), twin=1.1))
    assert "is not told to change along batch, at every measured batch" in untold


def test_one_place_or_no_interval_is_no_trend(tmp_path):
    assert trend_words(swept(tmp_path / "a", (0.72, None, None))) == []
    assert trend_words(swept(tmp_path / "b", (0.72, 0.8, 1.5), group="own")) == []


def test_lines_without_a_figure_are_left_out(tmp_path):
    """No table of dashes; one that failed is a finding."""
    of = study(tmp_path, TOML)
    made = Made(of)
    for batch in (1, 4, 16):
        made.measured(f"{batch}-none", total=[10.0] * 8).state(f"{batch}-fp8", "waiting", key="k")
    assert [line.group for line in sweep_of(Material(made.write(tmp_path / "a"), of), of.sweeps[0]).lines] == ["none"]
    failed = Made(of)
    for batch in (1, 4, 16):
        failed.failed(f"{batch}-none", "E", "m").state(f"{batch}-fp8", "waiting", key="k")
    assert [line.group for line in sweep_of(Material(failed.write(tmp_path / "b"), of), of.sweeps[0]).lines] == ["none"]
    waiting = Made(of).state("1-none", "waiting", key="k")
    assert sweep_of(Material(waiting.write(tmp_path / "c"), of), of.sweeps[0]).lines == ()
