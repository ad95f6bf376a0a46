"""Ratios of a note beside those here: judged as claims are."""

from __future__ import annotations

import pytest

from tests.study.explanations import cause, explained
from tests.study.made import Made, study
from tests.study.stack import rounds, table
from tetrace.breakdown.account import BUSY
from tetrace.study.beside_note import notes_section
from tetrace.study.material import Material
from tetrace.study.report import Report, write

TOML = """
title = "t"
[[matrix]]
name = "main"
axes.kind = ["slow", "fast"]
baseline = "slow"
[[note]]
title = "A note"
[[note.row]]
label = "Slow"
configuration = "slow"
total_ms = 20.0
[[note.row]]
label = "Fast"
configuration = "fast"
total_ms = 10.0
[[claim]]
says = "Twice as fast, within 10%"
figure = "speedup"
of = "fast"
against = "slow"
between = [1.8, 2.2]
"""


def test_a_standard_deviation_stands_beside_the_notes(tmp_path):
    """Of all measured steps: three of each round, whose times differ by 1%."""
    of = study(tmp_path / "study", TOML.replace("total_ms = 10.0", "total_ms = 10.0\ntotal_std_ms = 0.2"))
    folder = Made(of).measured("slow", total=[1.0] * 7).measured("fast", total=[2.0] * 7).write(tmp_path / "results")
    material = Material(folder, of)
    found = {name: material.scatter(name) for name in ("slow", "fast", "none")}
    assert found["none"] is None
    assert found["slow"] == pytest.approx(1e6 * 0.01 * (14 / 20) ** 0.5)
    assert found["fast"] == pytest.approx(2 * found["slow"])
    write(folder, of)
    assert "| total std ms, noted | here |" in (folder / "REPORT.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("fast", "within", "agreement", "verdict"),
    [
        ([1.0] * 7, "yes", "1 is within 10% of the note's", "holds"),
        ([0.8] * 7, "no", "0 are within 10% of the note's, 1 is not", "does not hold here"),
        # The median is within 10%, its interval is not.
        ([1.0, 1.2, 1.0, 1.2, 1.0, 1.2, 1.1], "cannot be told", "0 are within 10% of the note's, 1 cannot be told",
         "cannot be told"),
    ],
)  # fmt: skip
def test_a_ratio_and_a_claim_on_it_are_judged_alike(tmp_path, fast, within, agreement, verdict):
    of = study(tmp_path / "study", TOML)
    made = Made(of).measured("slow", total=rounds(2.0))
    made.measured("fast", total=[ms * factor for ms, factor in zip(rounds(1.0), fast, strict=True)])
    folder = made.write(tmp_path / "results")
    write(folder, of)
    text = (folder / "REPORT.md").read_text(encoding="utf-8")
    assert table(text, "A note: how many times faster, noted and here")[1][6] == within
    assert f"A note: of 1 ratio (all pairs of rows) {agreement}." in text
    assert [one.verdict for one in Report(Material(folder, of)).judged] == [verdict]


def test_every_pair_of_rows_that_is_counted_is_in_the_table(tmp_path):
    third = '[[note.row]]\nlabel = "Faster"\nconfiguration = "faster"\ntotal_ms = 5.0\n[[claim]]'
    of = study(tmp_path / "study", TOML.replace('"fast"]', '"fast", "faster"]').replace("[[claim]]", third))
    made = Made(of)
    for name, ms in (("slow", 2.0), ("fast", 1.0), ("faster", 0.5)):
        made.measured(name, total=rounds(ms))
    section = notes_section(Material(made.write(tmp_path / "results"), of))
    assert [row[:3] for row in section.grids[1].rows] == [
        ("Fast", "Slow", "2.000"), ("Faster", "Slow", "4.000"), ("Faster", "Fast", "2.000"),
    ]  # fmt: skip
    assert section.said[1] == "A note: of 3 ratios (all pairs of rows) 3 are within 10% of the note's."


@pytest.mark.parametrize(
    ("column", "says"),
    [
        # In ms, `fast` less `slow`: GEMMs of the forward take 1 less, copies of the backward 2 less.
        ("total", "memory -2.000 ms (copy, backward); GEMMs -1.000 ms (nvjet, forward)"),
        ("forward", "GEMMs -1.000 ms (nvjet, forward)"),
    ],
)
def test_what_makes_a_difference_is_of_the_time_that_the_ratio_is_of(tmp_path, column, says):
    of = study(tmp_path / "study", TOML.replace("total_ms", f"{column}_ms"))
    made = Made(of)
    for name, forward, backward in (("slow", 3.0, 4.0), ("fast", 2.0, 2.0)):
        made.measured(name, forward=rounds(forward), backward=rounds(backward))
    material = Material(made.write(tmp_path / "results"), of)
    more = (cause(BUSY, "memory", "copy", 4, 2, phase="backward"),)
    found = explained((3, 2), (0.5, 0.5), (7.5, 4.5), more=more)
    material.explanation = lambda of, against: found
    (row,) = notes_section(material).grids[1].rows
    assert row[7] == says
