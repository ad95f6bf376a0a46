"""What is compared was measured alike, as the study plans it, and side by side; anything else is a row that says so."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from tests.study.made import RECORDINGS, Made, study
from tetrace.study.claims import UNKNOWN, judge
from tetrace.study.ledger import digests
from tetrace.study.material import Material
from tetrace.study.report import Report, write
from tetrace.study.spec import Claim
from tetrace.study.surroundings import notices

TOML = """
title = "t"
question = "q"
[options]
pause = 0.02
[[matrix]]
name = "main"
axes.way = ["a", "b", "c"]
baseline = "a"
[[claim]]
says = "b is faster"
figure = "speedup"
of = "b"
against = "a"
at_least = 1.5
[[claim]]
says = "b is small"
figure = "peak_bytes"
of = "b"
at_most = 10
"""
NOISE = (1.0, 1.01, 0.99, 1.02, 1.0, 1.03, 0.98, 1.0)
FIELDS = {"peak_allocated_bytes": 5}


def both(folder: Path, fields: Any = None, rounds: Any = None, of: Any = None, **facts: Any) -> Material:
    """`a` at 2 ms and `b` at 1 ms, which differs as `fields` and `rounds` say; `c` fails."""
    of = of or study(folder, TOML)
    made = Made(of, **facts).measured(
        "a",
        total=[2 * one for one in NOISE],
        fields={**FIELDS, "context": "one"},
        rounds={"group": "one"},
        recording="bf16",
    )
    more = {**FIELDS, "context": "one", **(fields or {})}
    made.measured("b", total=NOISE, fields=more, rounds=rounds or {"group": "one"}, recording="fp8-delayed")
    return Material(made.failed("c", "E", "m").write(folder / "results"), of)


def row(material: Material, name: str) -> dict[str, str]:
    """A row of the report's table of configurations, by its heads."""
    (grid,) = Report(material).sections[0].grids
    heads = [column.head for column in grid.columns]
    return dict(zip(heads, next(one for one in grid.rows if one[0] == name), strict=True))


def test_what_is_alike_is_compared(tmp_path: Path) -> None:
    material = both(tmp_path)
    assert material.speedup("b", "a").low == pytest.approx(2, rel=1e-6)
    assert [judge(material, claim).verdict for claim in material.study.claims] == ["holds", "holds"]
    assert (row(material, "b")["speed-up"], row(material, "a")["speed-up"]) == ("2.000", "1")
    assert material.odd("b") == material.stale("b") == ""


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"options": {"pause": 0.04, "way": "b"}}, "measured with other options (pause)"),
        ({"options": {"way": "b"}}, "measured with other options (pause)"),
        ({"environment": {"NVTE_FLASH_ATTN": "1"}}, "measured with other variables (NVTE_FLASH_ATTN)"),
        ({"code": {"model.py": "0123456789abcdef"}}, "measured with another model.py"),
    ],
)
def test_what_the_study_plans_no_more_is_compared_with_nothing(tmp_path: Path, fields: Any, said: str) -> None:
    material = both(tmp_path, fields)
    assert material.stale("b") == said
    assert material.speedup("b", "a") is None
    for claim in material.study.claims:
        judged = judge(material, claim)
        assert (judged.verdict, judged.why) == (UNKNOWN, f"b was {said}")
    found = row(material, "b")
    assert (found["total ms"], found["speed-up"], found[""]) == ("1.000", "–", said)
    assert material.explanation("b", "a") == f"b was {said}"
    assert Report(material).verdict.startswith("Fastest: a, 2.000 ms a step; 2 claims cannot be told; ")
    write(material.folder, material.study)
    rows = list(csv.DictReader((material.folder / "configurations.csv").open(encoding="utf-8")))
    assert [(one["speedup"], one["measured_otherwise"]) for one in rows] == [("", ""), ("", said), ("", "")]


def test_a_baseline_of_an_earlier_study_is_no_baseline(tmp_path: Path) -> None:
    of = study(tmp_path, TOML)
    made = (
        Made(of)
        .measured("a", total=[2.0] * 7, fields={"options": {"pause": 9, "way": "a"}})
        .measured("b", total=[1.0] * 7)
    )
    material = Material(made.write(tmp_path / "results"), of)
    assert row(material, "a")[""] == "measured with other options (pause)"
    assert "speed-up" not in row(material, "a")
    assert row(material, "b")[""] == "a was measured with other options (pause)"


def test_what_was_measured_with_this_code_is_as_planned(tmp_path: Path) -> None:
    of = study(tmp_path, TOML)
    code = {**digests(tmp_path), "gone.py": "0123456789abcdef"}  # of a file that is not here nothing is known
    assert both(tmp_path, {"code": code}, of=of).stale("b") == ""


def test_options_that_the_run_was_told_to_change_are_planned(tmp_path: Path) -> None:
    of = study(tmp_path, TOML)
    fields = {"options": {"pause": 0.5, "way": "b"}}
    assert both(tmp_path / "1", fields, of=of, options_changed={"pause": 0.5}).stale("b") == ""
    assert both(tmp_path / "2", fields, of=of.with_options({"pause": 0.5})).stale("b") == ""
    found = both(tmp_path / "3", fields, of=of, options_changed={"gone": 1})
    assert found.stale("b") == "measured with other options (pause)"


CONTEXTS = {
    "one": {
        "machine": {"gpu": "A"},
        "versions": {"torch": "2.10", "te": "2"},
        "environment": {},
        "measure": {"steps": 20},
    },
    "two": {
        "machine": {"gpu": "A"},
        "versions": {"torch": "2.11", "te": "2"},
        "environment": {},
        "measure": {"steps": 20},
    },
    "three": {
        "machine": {"gpu": "B"},
        "versions": {"torch": "2.10", "te": "2"},
        "environment": {"NVTE_X": "1"},
        "measure": {},
    },
}


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ("two", "measured with other versions (torch)"),
        (
            "three",
            "measured on another machine (gpu) and in another environment (NVTE_X) and with other steps or warm-up (steps)",
        ),
        ("gone", "measured in a context that was not kept, maybe another"),
        (None, "measured in a context that was not kept, maybe another"),
    ],
)
def test_what_was_measured_otherwise_is_not_compared(tmp_path: Path, context: str | None, said: str) -> None:
    material = both(tmp_path, {"context": context}, contexts=CONTEXTS)
    assert (material.stale("b"), material.odd("b")) == ("", f"{said} than a")
    assert material.speedup("b", "a") is None
    speedup, alone = (judge(material, claim) for claim in material.study.claims)
    assert (speedup.verdict, speedup.why) == (UNKNOWN, f"b was {said} than a")
    assert alone.verdict == "holds"  # of itself alone it is a figure
    ratio = judge(material, Claim("s", "peak_bytes", "b", "a", at_most=10))
    assert ratio.verdict == UNKNOWN
    assert row(material, "b")[""] == f"{said} than a"


def test_results_of_earlier_versions_have_no_context_at_all(tmp_path: Path) -> None:
    of = study(tmp_path, TOML)
    made = Made(of).measured("a", total=[2.0] * 7).measured("b", total=[1.0] * 7)
    assert Material(made.write(tmp_path / "results"), of).speedup("b", "a").value == 2


def test_contexts_are_shown(tmp_path: Path) -> None:
    material = both(tmp_path, {"context": "three"}, contexts=CONTEXTS)
    (section,) = (one for one in Report(material).sections if one.id == "environment")
    (grid,) = (one for one in section.grids if one.title == "What surrounded them")
    assert grid.rows == (
        ("a", "machine: gpu=A; environment: none; measure: steps=20"),
        ("b", "machine: gpu=B; environment: NVTE_X=1; measure: none"),
    )
    alike = both(tmp_path / "alike", contexts=CONTEXTS)
    assert "What surrounded them" not in repr(Report(alike).sections)


def test_rounds_that_were_not_side_by_side_give_no_interval(tmp_path: Path) -> None:
    material = both(tmp_path, rounds={"group": "two"})
    found = material.speedup("b", "a")
    assert (found.value, found.low, found.high) == (pytest.approx(2), None, None)
    judged = judge(material, material.study.claims[0])
    assert (judged.verdict, judged.here) == (UNKNOWN, "2.000× (not interleaved)")
    assert judged.why == "no round of one ran beside a round of the other: measure both together"
    heads = [column.head for column in Report(material).sections[0].grids[0].columns]
    cells = Report(material).sections[0].grids[0].rows[1]
    assert cells[heads.index("speed-up") : heads.index("speed-up") + 2] == ("2.000", "not interleaved")
    write(material.folder, material.study)
    text = (material.folder / "REPORT.md").read_text(encoding="utf-8")
    assert "Not interleaved: b and a never ran side by side" in text
    rows = list(csv.DictReader((material.folder / "configurations.csv").open(encoding="utf-8")))
    assert [(one["speedup_low"], one["speedup_high"]) for one in rows] == [("", "")] * 3


def test_rows_of_other_rounds_say_of_how_many(tmp_path: Path) -> None:
    """What the last run measured is not what every row is of."""
    of = study(tmp_path, TOML)
    made = Made(of, measure={"rounds": 3}).measured("a", total=[2.0] * 8).measured("b", total=[1.0] * 3)
    material = Material(made.write(tmp_path / "results"), of)
    assert (row(material, "a")["rounds"], row(material, "b")["rounds"]) == ("8", "3")
    text = repr(Report(material).sections)
    assert "('measure, last run', 'rounds 3; rows are of 3 to 8 rounds')" in text
    same = Made(of).measured("a", total=[2.0] * 3).measured("b", total=[1.0] * 3)
    assert "rounds" not in row(Material(same.write(tmp_path / "same"), of), "a")


def test_a_recording_is_only_compared_where_the_times_are(tmp_path: Path) -> None:
    assert RECORDINGS.is_dir()
    material = both(tmp_path, {"context": "two"}, contexts=CONTEXTS)
    assert material.explanation("b", "a") == "b was measured with other versions (torch) than a"
    assert not isinstance(both(tmp_path / "alike").explanation("b", "a"), str)


@pytest.mark.parametrize(("rounds", "is_said"), [(1, False), (4, False), (7, True), (8, False)])
def test_an_odd_number_of_rounds_is_said(tmp_path: Path, rounds: int, is_said: bool) -> None:
    of = study(tmp_path, TOML)
    made = Made(of, measure={"rounds": rounds}).measured("a", total=[2.0] * rounds)
    said = notices(Material(made.write(tmp_path / "results"), of))
    assert any("of an odd number" in line for line in said) == is_said
