"""Sweeps: which line is faster where, where lines cross, and what intervals leave open."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.study.claims import UNKNOWN, judge
from tetrace.study.effects import axes
from tetrace.study.material import Material
from tetrace.study.report import Report
from tetrace.study.screen import screen
from tetrace.study.sizes import crossing_words, crossings_sentence, pays_words, sweeps_section
from tetrace.study.spec import Claim
from tetrace.study.sweep import Swept, crossing_value, sweep_of

TOML = """
title = "t"
question = "q"
[[matrix]]
name = "first"
axes.only = ["one"]
[[matrix]]
name = "length"
axes.seq = [256, 512, 1024, 2048]
axes.attention = ["fused", "flash", "unfused"]
baseline = {attention = "fused"}
[[sweep]]
matrix = "length"
along = "seq"
group = "attention"
baseline = "fused"
title = "Length"
"""
# ms at each length; the rounds of a configuration scatter by 1% together with those of the others, so pairs do not.
TIMES = {"fused": (1.0, 2.0, 4.0, 8.0), "flash": (1.5, 2.5, 3.5, 5.0), "unfused": (1.25, 2.5, 5.0, None)}
DRIFT = (1.0, 1.01, 0.99, 1.02, 0.98, 1.0, 1.01)


def swept(folder: Path, times=TIMES, scatter=None) -> tuple[Material, Swept]:
    of = study(folder, TOML)
    made = Made(of)
    for group, values in times.items():
        for seq, ms in zip((256, 512, 1024, 2048), values, strict=True):
            name = f"length:{seq}-{group}"
            if ms is None:
                made.failed(name, "OutOfMemoryError", "CUDA out of memory")
                continue
            rounds = [ms * factor * (scatter or {}).get((group, seq), [1] * 7)[n] for n, factor in enumerate(DRIFT)]
            made.measured(name, total=rounds)
    material = Material(made.write(folder / "results"), of)
    return material, sweep_of(material, of.sweeps[0])


def test_lines_ratios_and_crossings(tmp_path):
    _, found = swept(tmp_path)
    lines = {line.name: line for line in found.lines}
    assert [point.x for point in lines["flash"].points] == [256, 512, 1024, 2048]
    assert [round(point.ratio.value, 4) for point in lines["flash"].points] == [0.6667, 0.8, 1.1429, 1.6]
    assert [point.verdict for point in lines["flash"].points] == ["slower", "slower", "faster", "faster"]
    assert [point.ratio for point in lines["fused"].points] == [None] * 4
    assert lines["unfused"].points[-1].ratio is None
    (crossing,) = found.crossings
    assert (crossing.line.name, crossing.becomes, crossing.between) == ("flash", "faster", (512, 1024))
    # By hand: log 0.8 and log 8/7, a straight line in log2 of the length.
    share = math.log(0.8) / (math.log(0.8) - math.log(8 / 7))
    assert crossing.at == pytest.approx(512 * 2**share)
    assert crossing_words(found) == [
        "Length: flash becomes faster than fused at seq between 512 and 1,024, interpolated 790.",
        "Length: unfused is slower than fused at every measured seq (256 to 1,024).",
    ]


def test_the_table_of_a_sweep(tmp_path):
    _, found = swept(tmp_path)
    (grid,) = sweeps_section([found]).grids
    assert grid.title == "Length, ms; times faster than fused"
    assert [column.head for column in grid.columns] == [
        *("seq", "fused", "flash", "times faster", "95%", "unfused", "times faster", "95%"),
    ]
    assert grid.rows == (
        ("256", "1.000", "1.500", "0.667", "0.667–0.667", "1.250", "0.800", "0.800–0.800"),
        ("512", "2.000", "2.500", "0.800", "0.800–0.800", "2.500", "0.800", "0.800–0.800"),
        ("1,024", "4.000", "3.500", "1.143", "1.143–1.143", "5.000", "0.800", "0.800–0.800"),
        ("2,048", "8.000", "5.000", "1.600", "1.600–1.600", "failed", "–", ""),
    )


@pytest.mark.parametrize(("title", "name"), [('title = "Of 512"\n', "Of 512"), ("", "other, total_ms")])
def test_sentences_of_two_sweeps_along_one_option_are_told_apart(tmp_path, title, name):
    """By their titles, or else by what is swept; also on the first screen."""
    # Another option: those of the same would be identical, and not told apart.
    own = 'name = "other"\noptions.batch = 2'
    other = TOML.partition("[[matrix]]")[2].replace('name = "length"', own).replace('"length"', '"other"')
    other = other.replace('title = "Length"\n', title)
    of = study(tmp_path, TOML + "[[matrix]]" + other.partition("[[matrix]]")[2])
    made = Made(of)
    for matrix, factor in (("length", 1.0), ("other", 0.75)):
        for group, values in (("fused", TIMES["fused"]), ("flash", TIMES["flash"])):
            for seq, ms in zip((256, 512, 1024, 2048), values, strict=True):
                own = factor if group == "flash" else 1.0
                made.measured(f"{matrix}:{seq}-{group}", total=[ms * own * drift for drift in DRIFT])
    material = Material(made.write(tmp_path / "results"), of)
    said = sweeps_section([sweep_of(material, one) for one in of.sweeps]).said
    # 1.5, 2.5, 3.5, 5.0 ms against 1, 2, 4, 8; three quarters of them.
    assert [one.partition(":")[0] for one in said] == ["Length", "Length", name, name]
    assert said[0].startswith("Length: flash becomes faster than fused at seq between 512 and 1,024, interpolated 790")
    assert said[2].startswith(f"{name}: flash becomes faster than fused at seq between ")
    assert said[3].startswith(f"{name}: flash over fused changes along seq")
    # Steps of other work: where one pays is what the verdict begins with, of both sweeps.
    report = Report(material)
    places = [one.partition(" at seq ")[2].removesuffix(".") for one in (said[0], said[2])]
    lead = f"Attention flash becomes faster than fused (length: {places[0]}; "
    assert report.lead.startswith(f"{lead}{name[0].lower()}{name[1:]}: {places[1]})")
    assert not any("becomes faster" in one for one in screen(report).said)


SIZES = """
title = "t"
question = "q"
[options]
batch = 1
seq = 512
fp8 = false
[[matrix]]
name = "main"
axes.size.small = {}
axes.size.large = {batch = 64, seq = 2048}
axes.recipe.none = {}
axes.recipe.fp8 = {fp8 = true}
[[matrix]]
name = "batch"
axes.batch = [8, 32]
axes.recipe.none = {}
axes.recipe.fp8 = {fp8 = true}
[[matrix]]
name = "other"
axes.way.a = {}
options.batch = 16
axes.recipe.none = {}
axes.recipe.fp8 = {fp8 = true}
[[matrix]]
name = "once_more"
options = {batch = 16}
axes.recipe.fp8 = {fp8 = true}
axes.recipe.none = {}
[[sweep]]
matrix = "batch"
along = "batch"
group = "recipe"
baseline = "none"
title = "Batch"
"""


def sizes(folder: Path, gains: dict[str, float]) -> Material:
    """How many times faster FP8 is, by matrix and size; all that is of one matrix ran side by side."""
    of = study(folder, SIZES)
    made = Made(of)
    for name, gain in gains.items():
        for recipe in ("none", "fp8"):
            planned = of.configuration(name.format(recipe))
            tokens = planned.options["batch"] * planned.options["seq"]
            ms = tokens / (gain if recipe == "fp8" else 1)
            fields, own = {"tokens": tokens}, {"group": planned.matrix}
            made.measured(planned.name, total=[ms * drift for drift in DRIFT], fields=fields, rounds=own)
    return Material(made.write(folder / "results"), of)


def test_places_of_other_matrices_with_the_same_options_count(tmp_path):
    """What is there in two is taken from that of the baseline."""
    own = {"small-{}": 0.5, "large-{}": 1.5, "batch:8-{}": 0.75, "batch:32-{}": 1.25}
    material = sizes(tmp_path, {**own, "other:a-{}": 0.875, "once_more:{}": 0.9})
    found = sweep_of(material, material.study.sweeps[0])
    line = next(one for one in found.lines if one.group == "fp8")
    assert [(one.x, one.name, one.verdict) for one in line.points] == [
        (1, "small-fp8", "slower"), (8, "batch:8-fp8", "slower"), (16, "other:a-fp8", "slower"), (32, "batch:32-fp8", "faster"),
    ]  # fmt: skip
    assert [one.between for one in found.crossings] == [(16, 32)]
    (grid,) = sweeps_section([found]).grids
    assert grid.note == (
        "Of other matrices, with the same options: batch 1 (small-none, small-fp8); 16 (other:a-none, other:a-fp8)."
    )
    # Large steps have another length, too: they are no place of this sweep.
    assert Report(material).lead.startswith(
        "Recipe fp8 becomes faster than none between 8,192 and 16,384 tokens a step (batch: between 16 and 32, interpolated "
    )


def test_an_option_that_the_line_does_not_have_is_no_place(tmp_path):
    """Of a study whose places differ in two options nothing is taken from elsewhere."""
    of = study(
        tmp_path,
        SIZES.replace("axes.batch = [8, 32]", "axes.batch.8 = {batch = 8, seq = 64}\naxes.batch.32 = {batch = 32}"),
    )
    made = Made(of)
    for name in ("small-none", "small-fp8", "batch:8-none", "batch:8-fp8"):
        made.measured(name, total=[1.0] * 8)
    material = Material(made.write(tmp_path / "results"), of)
    assert [[one.x for one in line.points] for line in sweep_of(material, of.sweeps[0]).lines] == [[8], [8]]


def test_lines_that_do_not_pay_are_told_beside_one_that_does(tmp_path):
    """One that never crosses, and one that becomes slower."""
    material, found = swept(tmp_path)
    side = "Length: unfused is slower than fused at every measured seq (256 to 1,024)"
    assert pays_words(material, [found])[1:] == (side,)
    later = replace(found.crossings[0], becomes="slower", between=(1024, 2048))
    words = pays_words(material, [replace(found, crossings=(*found.crossings, later))])
    assert words[1:] == (
        "Length: flash becomes slower than fused at seq between 1,024 and 2,048, interpolated 790",
        side,
    )


def test_places_in_doubt_decide_nothing(tmp_path):
    times = {"fused": (1.0, 2.0, 4.0, 8.0), "flash": (1.5, 2.0, 4.0, 5.0), "unfused": (1.0, 2.0, 4.0, 8.0)}
    wide = [0.97, 1.03, 0.98, 1.02, 0.99, 1.01, 1.0]
    scatter = {(group, seq): wide for group in ("flash", "unfused") for seq in (256, 512, 1024, 2048)}
    material, found = swept(tmp_path, times, scatter)
    (crossing,) = found.crossings
    assert crossing.between == (256, 2048)
    assert crossing_words(found)[1] == (
        "Length: unfused is not told apart from fused at any measured seq (256 to 2,048)."
    )
    assert crossing_value(material, [found], "length", "unfused", "fused").reason == (
        "intervals do not tell unfused and fused apart anywhere"
    )


@pytest.mark.parametrize(
    ("alike", "verdicts", "between"),
    [
        (1.0, ["slower", "slower", "faster", "faster"], (512, 1024)),
        # 7 / 8 and its inverse are no further from 1 than 1.15; 0.8 is.
        (1.15, ["slower", "slower", "as fast", "faster"], (512, 2048)),
        (1.7, ["as fast"] * 4, None),
    ],
)
def test_a_place_is_told_beside_what_identical_configurations_differ_by(tmp_path, alike, verdicts, between):
    """As effects are: a table of those and a sentence on a sweep never contradict each other."""
    of = study(tmp_path, TOML + '[[matrix]]\nname = "again"\naxes.seq = [256]\naxes.attention = ["fused"]\n')
    made = Made(of).measured("again:256-fused", total=[alike * drift for drift in DRIFT])
    for group in ("fused", "flash"):
        for seq, ms in zip((256, 512, 1024, 2048), TIMES[group], strict=True):
            made.measured(f"length:{seq}-{group}", total=[ms * drift for drift in DRIFT])
    material = Material(made.write(tmp_path / "results"), of)
    found = sweep_of(material, of.sweeps[0])
    points = next(line for line in found.lines if line.name == "flash").points
    assert [point.verdict for point in points] == verdicts
    told = {effect.of: effect.verdict for axis in axes(material) for effect in axis.effects if axis.name == "attention"}
    assert [told[point.name].replace("not told apart", "as fast") for point in points] == verdicts
    assert [one.between for one in found.crossings] == ([between] if between else [])
    if not between:
        assert crossing_words(found) == [
            "Length: flash is not told apart from fused at any measured seq (256 to 2,048), beside what identical configurations "
            "differ by."
        ]
        assert not crossing_value(material, [found], "length", "flash", "fused").known


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        ((1.25, 2.5, 4.0, 8.0), "slower than fused up to seq 512; at 1,024, 2,048 not told apart."),
        ((1.0, 2.5, 5.0, 9.0), "slower than fused from seq 512 on; at 256 not told apart."),
        ((1.25, 2.0, 4.0, 9.0), "slower than fused at seq 256, 2,048; at 512, 1,024 not told apart."),
        ((1.0, 2.0, 4.0, 7.0), "faster than fused at seq 2,048; at 256, 512, 1,024 not told apart."),
    ],
)
def test_a_line_that_never_crosses_is_told_where_it_is_told(tmp_path, ms, words):
    """As fast as the baseline, where nothing more is known than that both are not told apart, it is not called."""
    wide = {("unfused", seq): [0.97, 1.03, 0.98, 1.02, 0.99, 1.01, 1.0] for seq in (256, 512, 1024, 2048)}
    _, found = swept(tmp_path, {"fused": TIMES["fused"], "unfused": ms}, wide)
    assert crossing_words(found) == [f"Length: unfused is {words}"]


def test_lines_of_a_sweep_are_one_sentence_of_the_list(tmp_path):
    _, found = swept(tmp_path)
    own, other = (words.removeprefix("Length: ").removesuffix(".") for words in crossing_words(found))
    assert crossings_sentence(found) == f"Length: {own}; {other}."
    assert crossings_sentence(replace(found, lines=())) == ""


def test_a_single_place_is_no_range(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of)
    for group in ("fused", "unfused"):
        made.measured(f"length:256-{group}", total=[TIMES[group][0]] * 7)
    found = sweep_of(Material(made.write(tmp_path / "results"), of), of.sweeps[0])
    assert crossing_words(found) == ["Length: unfused is slower than fused at seq 256, the only one measured of both."]


def test_one_round_decides_nothing(tmp_path):
    """Without intervals no line crosses another for certain, and no claim on where it does has a verdict."""
    of = study(tmp_path, TOML)
    made = Made(of)
    for group in ("fused", "flash"):
        for seq, ms in zip((256, 512, 1024, 2048), TIMES[group], strict=True):
            made.measured(f"length:{seq}-{group}", total=[ms])
    material = Material(made.write(tmp_path / "results"), of)
    found = sweep_of(material, of.sweeps[0])
    assert found.crossings == ()
    assert crossing_words(found) == [
        "Length: flash and fused are not told apart at every measured seq (256 to 2,048): there are no intervals.",
    ]
    claimed = crossing_value(material, [found], "length", "flash", "fused")
    assert claimed.reason == "intervals do not tell flash and fused apart anywhere"
    assert judge(material, Claim("s", "crossing", "flash", "fused", "length", at_least=1), claimed).verdict == UNKNOWN


def test_faster_and_later_slower_is_not_always_faster(tmp_path):
    times = {"fused": (1.0, 2.0, 4.0, 8.0), "flash": (0.5, 1.0, 8.0, 16.0), "unfused": (2.0, 1.0, 8.0, 4.0)}
    material, found = swept(tmp_path, times)
    assert crossing_value(material, [found], "length", "flash", "fused").reason == (
        "flash is not faster from one seq on: it becomes slower between 512 and 1,024"
    )
    assert crossing_value(material, [found], "length", "unfused", "fused").reason == (
        "unfused is not faster from one seq on: it becomes faster between 256 and 512, slower between 512 and 1,024, faster "
        "between 1,024 and 2,048"
    )


def test_figures_that_are_counted_have_exact_ratios(tmp_path):
    of = study(tmp_path, TOML + 'figure = "peak_bytes"\n')
    made = Made(of)
    for group, size in (("fused", 100), ("flash", 50)):
        for seq in (256, 512):
            made.measured(f"length:{seq}-{group}", total=[1.0] * 7, fields={"peak_allocated_bytes": size * seq})
    lines = {line.name: line for line in sweep_of(Material(made.write(tmp_path / "r"), of), of.sweeps[0]).lines}
    assert [(one.ratio.value, one.ratio.low, one.ratio.high) for one in lines["flash"].points] == [(0.5, 0.5, 0.5)] * 2


def test_the_figure_of_a_claim(tmp_path):
    material, found = swept(tmp_path)
    one = crossing_value(material, [found], "length", "flash", "fused").estimate
    assert (round(one.value), one.low, one.high) == (790, 512, 1024)
    # Never faster: beyond what was measured. The other way round: from the first place on.
    never = crossing_value(material, [found], "length", "unfused", "fused").estimate
    assert (never.value, never.low, never.high) == (math.inf, 1024, math.inf)
    always = crossing_value(material, [found], "length", "fused", "unfused").estimate
    assert (always.value, always.low, always.high) == (256, -math.inf, 256)
    assert crossing_value(material, [found], "gone", "a", "b").reason == "there is no sweep of gone"
    assert crossing_value(material, [found], "length", "gone", "fused").reason == (
        "gone and fused were not both measured along seq"
    )
