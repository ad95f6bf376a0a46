"""How a report writes: one minus sign, no sign before 0, code spans, and facts that all share once."""

from __future__ import annotations

import pytest

from tests.study.made import Made, study
from tetrace.report.grid import Column, Grid
from tetrace.report.markdown import escaped
from tetrace.study.material import Material
from tetrace.study.section import Section, signs
from tetrace.study.surroundings import environment_section


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("-0.486 ms, +1.5", "−0.486 ms, +1.5"),
        ("+0.000 and -0.000, +0.0% or -0", "0.000 and 0.000, 0.0% or 0"),
        ("+0.001 (-0.010)", "+0.001 (−0.010)"),
        ("it adds +0.000.", "it adds 0.000."),
        # Names, dates and ranges keep their dashes.
        ("length:256-4096 on 2026-11-21, fp8-2, --8, 1e-5", "length:256-4096 on 2026-11-21, fp8-2, --8, 1e-5"),
    ],
)
def test_one_minus_sign(text, written):
    assert signs(text) == written


def test_code_and_quoted_texts_stay_as_they_are():
    grid = Grid("a -1", (Column("name", code=True), Column("ms")), (("x -1", "-1"),), ("", "-2"), "-3")
    found = Section("s", "t", ("-4",), (grid,), (("q", "-5"),), more=(grid,)).typeset()
    expected = Grid("a −1", grid.columns, (("x -1", "−1"),), ("", "−2"), "−3")
    assert (found.grids, found.more) == ((expected,), (expected,))
    assert (found.said, found.quoted) == (("−4",), (("q", "-5"),))


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("see `tetrace fp8 shapes` and `a_b<c>`", "see `tetrace fp8 shapes` and `a_b<c>`"),
        ("one ` alone_", "one \\` alone\\_"),
        ("`a|b`", "\\`a\\|b\\`"),
        ("``a`` <b>", "\\`\\`a\\`\\` \\<b\\>"),
        ("\\`a`b`", "\\\\`a`b\\`"),
    ],
)
def test_code_in_words_stays_code_in_markdown(word, written):
    assert escaped(word) == written


def test_facts_that_all_share_are_said_once(tmp_path):
    of = study(tmp_path, 'title = "t"\nquestion = "q"\n[[matrix]]\nname = "main"\naxes.kind = ["a", "b"]\n')
    made = Made(of)
    for name, parameters in (("a", 1000), ("b", 2000)):
        fields = {"facts": {"lib": "4.0"}, "parameters": parameters, "environment": {"THREADS": "1"}}
        made.measured(name, total=[1.0] * 8, fields=fields)
    section = environment_section(Material(made.write(tmp_path / "results"), of))
    assert section.said == ("All configurations: lib: 4.0; THREADS=1.",)
    (grid,) = (one for one in section.grids if one.title == "What configurations say of themselves")
    assert grid.rows == (("a", "1,000 parameters"), ("b", "2,000 parameters"))
    # Of one configuration nothing is shared.
    alone = Made(of).measured("a", total=[1.0] * 8, fields={"facts": {"lib": "4.0"}})
    section = environment_section(Material(alone.write(tmp_path / "alone"), of))
    assert (section.said, section.grids[-1].rows) == ((), (("a", "lib: 4.0"),))
