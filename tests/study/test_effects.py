"""What each option does: values of an axis against its first one, in the section, the headline, tables and the screen."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.study.made import RECORDINGS, Made, study
from tests.study.stack import table
from tetrace.study.effects import axes, effect_words, effects_section
from tetrace.study.fastest import idle_words
from tetrace.study.idle import idle_share, slowed
from tetrace.study.material import Material
from tetrace.study.page import document
from tetrace.study.report import Report, first_screen, write

# Rounds drift together: pairs of rounds do not.
DRIFT = (1.0, 1.02, 0.98, 1.04, 1.0, 1.06, 0.96)
# What the second of a pair does beside it: intervals of 0.99 to 1.01 around a ratio.
OWN = (1.0, 0.99, 1.01, 1.0, 0.99, 1.01, 1.0)

MODULES = """
title = "Modules"
question = "What do fused modules gain?"
[[matrix]]
name = "main"
baseline = "unfused-none"
axes.modules = ["unfused", "fused"]
axes.recipe = ["none", "hybrid", "block"]
"""
# ms a step of each configuration: fused gains nothing with none, and a quarter with the others.
TIMES = {
    "unfused-none": 10.0, "unfused-hybrid": 12.5, "unfused-block": 12.5,
    "fused-none": 10.0, "fused-hybrid": 10.0, "fused-block": 10.2,
}  # fmt: skip


def rounds(ms: float, own: bool = False) -> list[float]:
    return [ms * drift * (each if own else 1) for drift, each in zip(DRIFT, OWN, strict=True)]


def made(folder: Path, toml: str, times: dict[str, float], **fields: dict[str, Any]) -> Material:
    """Those times; rounds of every configuration but the first are of their own by 1%."""
    of = study(folder, toml)
    results = Made(of)
    for place, (name, ms) in enumerate(times.items()):
        results.measured(
            name, total=rounds(ms, own=bool(place)), fields={"tokens": 64, "flops": 8, **fields.get(name, {})}
        )
    return Material(results.write(folder / "results"), of)


def test_each_value_is_set_against_the_first_with_all_else_equal(tmp_path):
    material = made(tmp_path, MODULES, TIMES)
    write(material.folder, material.study)
    text = (material.folder / "REPORT.md").read_text(encoding="utf-8")
    assert table(text, "What modules does") == [
        ["modules", "over", "with", "times faster", "95%", "verdict"],
        ["fused", "unfused", "none", "1.000", "0.990–1.010", "not told apart"],
        ["fused", "unfused", "hybrid", "1.250", "1.250–1.250", "faster"],
        ["fused", "unfused", "block", "1.225", "1.225–1.225", "faster"],
    ]
    assert table(text, "What recipe does")[1:] == [
        ["hybrid", "none", "unfused", "0.800", "0.792–0.808", "slower"],
        ["hybrid", "none", "fused", "1.000", "1.000–1.000", "not told apart"],
        ["block", "none", "unfused", "0.800", "0.792–0.808", "slower"],
        ["block", "none", "fused", "0.980", "0.980–0.980", "slower"],
    ]
    section = text.split("## What each option does")[1].split("###")[0]
    assert text.index("## Measured") < text.index("## What each option does")
    assert (
        "modules: fused over unfused 1.00× (0.99 to 1.01) with none; 1.23× to 1.25× (1.23 to 1.25) with hybrid, block."
        in section
    )
    assert (
        "recipe: hybrid over none 0.80× (0.79 to 0.81) with unfused; 1.00× (1.00 to 1.00) with fused; block over none 0.80× to "
        "0.98× (0.79 to 0.98) with unfused, fused." in section
    )


def test_the_headline_answers_the_question(tmp_path):
    """After what is fastest: the axes that do most, the largest first. The first screen says so in lines of its own."""
    material = made(tmp_path, MODULES, TIMES | {"fused-hybrid": 9.0})
    report = Report(material)
    assert report.verdict == (
        "Fastest: fused-hybrid, 9.000 ms a step, 1.111× (1.100 to 1.122) as fast as unfused-none. modules: fused over unfused "
        "not told apart with none; 1.23× to 1.39× with hybrid, block. recipe: hybrid over none 0.80× with unfused; 1.11× "
        "with fused; block over none 0.80× to 0.98× with unfused, fused."
    )  # fmt: skip
    write(material.folder, material.study)
    lines = (material.folder / "REPORT.md").read_text(encoding="utf-8").splitlines()
    assert lines[4:8] == [f"**{report.lead}**", "", *(f"- {line}" for line in report.answers)]
    shown = first_screen(material.folder, material.study, 300).splitlines()
    assert [line for line in shown if line.startswith(("Fastest", "What do", "modules:", "recipe:"))] == [
        "Fastest: fused-hybrid, 9.000 ms a step, 1.111× (1.100 to 1.122) as fast as unfused-none.",
        "What do fused modules gain?",
        *report.answers,
    ]
    sections = {one["id"]: one for one in document(report, "v")["sections"]}
    assert [one["grid"]["title"] for one in sections["effects"]["blocks"] if one["type"] == "table"] == [
        "What modules does",
        "What recipe does",
    ]


def test_what_no_round_tells_is_in_no_headline(tmp_path):
    """Axes without an effect, and one round without an interval."""
    alike = made(tmp_path / "alike", MODULES, dict.fromkeys(TIMES, 10.0))
    assert effect_words(alike) == ()
    assert Report(alike).answers == ()
    assert Report(alike).verdict == Report(alike).short_verdict
    of = study(tmp_path / "once", MODULES)
    results = Made(of)
    for name, ms in TIMES.items():
        results.measured(name, total=[ms])
    once = Material(results.write(tmp_path / "once/results"), of)
    assert effect_words(once) == ()
    assert (
        "modules: fused over unfused 1.00× to 1.25× (no interval) with none, hybrid, block."
        in effects_section(once).said
    )


def test_effects_for_programs(tmp_path):
    material = made(tmp_path, MODULES, {name: TIMES[name] for name in ("unfused-none", "fused-none", "unfused-block")})
    write(material.folder, material.study)
    rows = list(csv.DictReader((material.folder / "effects.csv").open(encoding="utf-8")))
    assert [{key: value for key, value in row.items() if not key.startswith("speedup")} for row in rows] == [
        {
            "matrix": "main", "axis": "modules", "value": "fused", "over": "unfused", "with": "none",
            "configuration": "fused-none", "against": "unfused-none", "rounds": "7", "verdict": "not told apart",
            "operations": "1.0",
        },
        {
            "matrix": "main", "axis": "recipe", "value": "block", "over": "none", "with": "unfused",
            "configuration": "unfused-block", "against": "unfused-none", "rounds": "7", "verdict": "slower",
            "operations": "1.0",
        },
    ]  # fmt: skip
    assert float(rows[1]["speedup"]) == pytest.approx(0.8, abs=1e-6)
    kept = json.loads((material.folder / "report.json").read_text(encoding="utf-8"))
    assert [row["configuration"] for row in kept["effects"]] == ["fused-none", "unfused-block"]


def test_the_first_value_is_the_first_that_the_study_has(tmp_path):
    """What it excludes is no reference; what failed is one, and then nothing is said."""
    toml = """
    title = "Attention"
    [[matrix]]
    name = "main"
    axes.implementation = ["torch", "te", "te_fp8"]
    axes.attention = ["by_hand", "fused", "flash"]
    exclude = [
        {implementation = "torch", attention = ["fused", "flash"]},
        {implementation = ["te", "te_fp8"], attention = "by_hand"},
    ]
    """
    times = {"torch-by_hand": 9.0, "te-fused": 8.0, "te-flash": 8.0, "te_fp8-flash": 4.0}
    material = made(tmp_path, toml, times)
    found = {axis.name: [(one.of, one.base) for one in axis.effects] for axis in axes(material)}
    assert found == {"implementation": [("te_fp8-flash", "te-flash")], "attention": [("te-flash", "te-fused")]}


SIZES = """
title = "Sizes"
[[matrix]]
name = "main"
baseline = {recipe = "none"}
axes.size = ["small", "large"]
axes.recipe = ["none", "fp8"]
"""


def test_steps_of_other_work_are_not_compared(tmp_path):
    """Of other tokens not at all; of other operations with how many, and never in the headline."""
    times = {"small-none": 1.0, "small-fp8": 1.3, "large-none": 10.0, "large-fp8": 8.0}
    tokens = {name: {"tokens": 512} for name in times if name.startswith("large")}
    material = made(tmp_path / "tokens", SIZES, times, **tokens)
    section = effects_section(material)
    assert (
        "size: large-none over small-none, large-fp8 over small-fp8 not compared: their steps are of other tokens."
        in section.said
    )
    assert [grid.title for grid in section.grids] == ["What recipe does"]
    flops = {name: {"flops": 4} for name in times if name.startswith("large")}
    material = made(tmp_path / "flops", SIZES, times, **flops)
    assert [(row[3], row[6]) for row in effects_section(material).grids[0].rows] == [
        ("0.100", "0.500×"),
        ("0.163", "0.500×"),
    ]
    assert [words.partition(":")[0] for words in effect_words(material)] == ["recipe"]


def test_only_what_ran_side_by_side_is_compared(tmp_path):
    of = study(tmp_path, MODULES)
    results = Made(of)
    for name, group in (("unfused-none", "a"), ("fused-none", "a"), ("unfused-hybrid", "b")):
        results.measured(name, total=rounds(TIMES[name]), rounds={"group": group})
    material = Material(results.write(tmp_path / "results"), of)
    assert [axis.name for axis in axes(material) if axis.effects] == ["modules"]
    assert (
        "recipe: unfused-hybrid over unfused-none not compared: they never ran side by side."
        in effects_section(material).said
    )


def test_matrices_are_named_where_there_are_several(tmp_path):
    """A matrix of one axis has its baseline, and the headline is of the first matrix."""
    toml = (
        MODULES
        + """
[[matrix]]
name = "lines"
axes.width = ["narrow", "wide"]
[[matrix]]
name = "more"
axes.modules = ["unfused", "fused"]
axes.length = ["short", "long"]
"""
    )
    names = ("narrow", "wide")
    times = TIMES | {f"lines:{name}": 1.0 + place for place, name in enumerate(names)}
    times |= {"more:unfused-short": 5.0, "more:fused-short": 1.0}
    material = made(tmp_path, toml, times)
    section = effects_section(material)
    assert [grid.title for grid in section.grids] == [
        "What modules (main) does", "What recipe (main) does", "What modules (more) does",
    ]  # fmt: skip
    assert "modules (more): fused over unfused 5.00× (5.00 to 5.00) with short." in section.said
    assert [words.partition(":")[0] for words in effect_words(material)] == ["modules", "recipe"]
    assert not any("5.00" in words for words in effect_words(material))


def test_what_identical_configurations_differ_by_tells_nothing(tmp_path):
    """Two that run the same are 5% apart: 3% is no effect, though its interval is above 1."""
    toml = (
        MODULES
        + """
[[matrix]]
name = "again"
axes.modules = ["unfused"]
axes.recipe = ["none"]
"""
    )
    times = {"unfused-none": 10.0, "fused-none": 9.6, "unfused-block": 8.0}
    alone = made(tmp_path / "alone", MODULES, times)
    verdicts = [one.verdict for axis in axes(alone) for one in axis.effects]
    assert verdicts == ["faster", "faster"]
    beside = made(tmp_path / "beside", toml, times | {"again:unfused-none": 10.5})
    assert [one.verdict for axis in axes(beside) for one in axis.effects] == ["not told apart", "faster"]
    said = effects_section(beside).said
    assert any("identical configurations from each other (at most 5.0%)" in line for line in said)
    assert "modules: fused over unfused 1.04× (1.03 to 1.05), not told apart, with none." in said


@pytest.mark.parametrize(
    ("recorded", "alone", "words"),
    [
        # As recorded it idles 74% to 86%: the recorder slows the host.
        (("bf16", "fp8-delayed"), (20.0, 12.0), "The GPU idles 74% to 83% of a step, so the host decides"),
        # Without a recorder the GPU works most of the step, or all but a tenth of it.
        (
            ("bf16", "fp8-delayed"),
            (6.0, 6.0),
            "The GPU idles 42% to 47% of a step of unfused-hybrid, unfused-none: it waits for the host",
        ),
        (("bf16", "fp8-delayed"), (3.8, 3.5), ""),
        (
            ("bf16", "fp8-delayed", "fp8-delayed-graphs"),
            (20.0, 12.0, 4.0),
            "In 2 of 3 configurations the GPU idles more than half of a step (74% to 83%), so there the host decides",
        ),
        # Of most only: else it is named where.
        *(
            (recorded, alone, "The GPU idles 83% of a step of unfused-none: it waits for the host")
            for recorded, alone in (
                (("bf16", "fp8-delayed-graphs"), (20.0, 4.0)),
                (("bf16", "", ""), (20.0, 20.0, 20.0)),
            )
        ),
    ],
)
def test_a_gpu_that_idles_is_said_to(tmp_path, recorded, alone, words):
    of = study(tmp_path, MODULES)
    results = Made(of)
    for name, recording, ms in zip(TIMES, recorded, alone, strict=False):
        results.measured(name, total=rounds(ms), recording=RECORDINGS / f"{recording}.tetrace" if recording else "")
    material = Material(results.write(tmp_path / "results"), of)
    assert idle_words(material) == words
    assert words in Report(material).verdict
    assert [line for line in Report(material).answers if "idles" in line] == ([f"{words}."] if words else [])


def test_a_gpu_that_waits_for_another_stream_does_not_wait_for_the_host(tmp_path, monkeypatch):
    material = made(tmp_path, MODULES, dict.fromkeys(TIMES, 4.0))
    totals = {"activities": 1, "steps": 1, "wall_ns": 5_000_000, "busy_ns": 1_000_000, "all_idle_ns": 4_000_000}
    run = SimpleNamespace(totals=SimpleNamespace(**totals, idle_ns={"host_bound": 1_000_000, "dependency": 3_000_000}))
    monkeypatch.setattr(Material, "breakdown", lambda _self, _name: run)
    monkeypatch.setattr("tetrace.study.idle.works_ns", lambda _run: 1_000_000.0)
    assert idle_words(material) == "The GPU idles 75% of a step"


@pytest.mark.parametrize(
    ("recorded_idle_ns", "alone", "idle", "slow"),
    [
        (4_000_000, 2.0, 0.5, 2.5),
        (4_000_000, 4.0, 0.75, None),
        (4_000_000, 0.9, 0.0, 5 / 0.9),
        # The GPU works all of the recorded step: a timed one is longer by its clock, and idles no more.
        (100_000, 6.0, 0.02, None),
    ],
)
def test_idle_is_of_the_step_that_no_recorder_slowed(tmp_path, monkeypatch, recorded_idle_ns, alone, idle, slow):
    material = made(tmp_path, MODULES, dict.fromkeys(TIMES, alone))
    works = 5_000_000 - recorded_idle_ns
    totals = {"activities": 1, "steps": 1, "wall_ns": 5_000_000, "busy_ns": works, "all_idle_ns": recorded_idle_ns}
    monkeypatch.setattr(Material, "breakdown", lambda _self, _name: SimpleNamespace(totals=SimpleNamespace(**totals)))
    monkeypatch.setattr("tetrace.study.idle.works_ns", lambda _run: float(works))
    name = next(iter(TIMES))
    assert idle_share(material, name) == pytest.approx(idle)
    assert slowed(material, name) == (slow and pytest.approx(slow))


@pytest.mark.parametrize(
    ("room", "words"),
    [
        # The fourth takes no more words than to say where it is.
        (3, "not told apart with fused; block over none 0.80× with unfused; 1.11× with fused"),
        (2, "not told apart with fused; 2 more of recipe under What each option does"),
    ],
)
def test_a_headline_has_three_clauses_of_an_axis(tmp_path, monkeypatch, room, words):
    """Values that fare otherwise beside one another's others are clauses of their own; the section has them all."""
    monkeypatch.setattr("tetrace.study.effects._CLAUSES", room)
    material = made(tmp_path, MODULES, TIMES | {"fused-block": 9.0})
    (short,) = (words for words in effect_words(material) if words.startswith("recipe"))
    assert short == f"recipe: hybrid over none 0.80× with unfused; {words}"
    clauses = (
        "recipe: hybrid over none 0.80× (0.79 to 0.81) with unfused; 1.00× (1.00 to 1.00) with fused; "
        "block over none 0.80× (0.79 to 0.81) with unfused"
    )
    assert f"{clauses}; 1.11× (1.11 to 1.11) with fused." in effects_section(material).said


@pytest.mark.parametrize(
    ("te_unfused", "words"),
    [
        (0.96, "over by_hand-own: te 1.04× to 1.11×; fp8 1.67×."),
        (1.0, "over by_hand-own: te 1.11× with fused and not told apart with unfused; fp8 1.67×."),
    ],
)
def test_a_baseline_that_no_axis_is_set_against_is_told_first(tmp_path, te_unfused, words):
    """It differs from all others in both axes, so no line of an axis says what they gain over it."""
    of = study(
        tmp_path,
        """
        title = "t"
        [[matrix]]
        name = "main"
        baseline = "by_hand-own"
        exclude = [{way = "by_hand", attention = ["fused", "unfused"]}, {way = ["te", "fp8"], attention = "own"}]
        axes.way = ["by_hand", "te", "fp8"]
        axes.attention = ["own", "fused", "unfused"]
        """,
    )
    made = Made(of)
    times = {"by_hand-own": 1.0, "te-fused": 0.9, "te-unfused": te_unfused, "fp8-fused": 0.6, "fp8-unfused": 0.6}
    for name, ms in times.items():
        made.measured(name, total=[ms] * 8)
    answers = Report(Material(made.write(tmp_path / "results"), of)).answers
    assert answers[0] == words
    assert answers[1].startswith("way: fp8 over te ")


def test_a_baseline_that_an_axis_is_set_against_is_told_once(tmp_path):
    of = study(
        tmp_path,
        'title = "t"\n[[matrix]]\nname = "main"\nbaseline = "a-x"\naxes.one = ["a", "b"]\naxes.two = ["x", "y"]\n',
    )
    made = Made(of)
    for name, ms in (("a-x", 1.0), ("a-y", 0.9), ("b-x", 0.8), ("b-y", 0.7)):
        made.measured(name, total=[ms] * 8)
    assert [words.partition(":")[0] for words in effect_words(Material(made.write(tmp_path / "results"), of))] == [
        "one",
        "two",
    ]
