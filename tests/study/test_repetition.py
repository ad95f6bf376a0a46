"""Two runs of one study side by side, as whole tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.errors import UsageError
from tetrace.study.material import Material
from tetrace.study.repetition import repetition_section, repetition_words
from tetrace.study.report import first_screen, write

TOML = """
title = "Three ways"
[[matrix]]
name = "main"
axes.way = ["a", "b", "c"]
baseline = "a"
"""
NOISE = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01, 1.0)


def made(folder: Path, **ms: float) -> Material:
    of = study(folder, TOML)
    results = Made(of)
    for name, value in ms.items():
        # Not the same noise in all, or every ratio would be exact.
        results.measured(name, total=[value * NOISE[(place + ord(name)) % 7] for place in range(7)])
    return Material(results.write(folder / "results"), of)


def test_a_repetition_on_a_slower_host(tmp_path: Path) -> None:
    here = made(tmp_path / "here", a=10.0, b=8.0, c=10.0)
    there = made(tmp_path / "there", a=12.0, b=9.6, c=12.0)
    section = repetition_section(here, there)
    (grid,) = section.grids
    assert grid.rows == (
        ("a", "10.000", "9.900–10.100", "12.000", "11.880–12.120", "no", "–", "", "–", "", "–"),
        ("b", "8.000", "7.920–8.080", "9.600", "9.504–9.696", "no", "1.262", "1.225–1.263", "1.262", "1.225–1.263", "yes"),
        ("c", "10.000", "9.900–10.100", "12.000", "11.880–12.120", "no", "1.000", "0.980–1.020", "1.000", "0.980–1.020", "yes"),
    )  # fmt: skip
    assert section.said[1:] == (
        "main: the same ranking of 2 pairs, of 3 configurations, that both runs tell apart; 1 pair is told apart by one run at "
        "most.",
    )


def test_the_same_in_a_sentence(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1", a=10.0, b=8.0, c=10.0), made(tmp_path / "2", a=12.0, b=9.6, c=13.0)
    begins = f"Against another run of it, {there.folder}: "
    assert repetition_words(here, there) == (
        f"{begins}both runs tell 2 of 3 pairs apart, in the same order; 95% intervals overlap for 0 of 3 step times and 1 of 2 "
        "speed-ups; the largest shift of a step time is that of c, 13.000 ms there and 10.000 here (−23.1%)."
    )
    turned = made(tmp_path / "3", a=8.0, b=10.0)
    assert repetition_words(here, turned).removeprefix(f"Against another run of it, {turned.folder}: ") == (
        "both runs tell 1 of 1 pairs apart, 1 of them in opposite order (a and b); 95% intervals overlap for 0 of 2 step times "
        "and 0 of 1 speed-ups; the largest shift of a step time is that of a, 8.000 ms there and 10.000 here (+25.0%)."
    )
    alike = made(tmp_path / "4", a=10.0, c=10.0)
    said = repetition_words(alike, alike)
    assert "whether the ranking is the same cannot be told: both runs tell none of 1 pairs apart;" in said
    assert said.endswith("; no step time differs.")
    assert "no two configurations to rank;" in repetition_words(here, made(tmp_path / "5", a=10.0))


def test_a_ranking_of_pairs_that_nobody_tells_apart_cannot_be_told(tmp_path: Path) -> None:
    here, there = (made(tmp_path / run, a=10.0, c=10.0) for run in ("here", "there"))
    assert repetition_section(here, there).said[1:] == (
        "main: whether the ranking is the same cannot be told: both runs tell apart no pair of 2 configurations.",
    )


def test_results_of_another_study_are_refused(tmp_path: Path) -> None:
    here = made(tmp_path / "here", a=10.0, b=8.0)
    there = made(tmp_path / "there", a=10.0, b=8.0)
    with pytest.raises(UsageError, match=r"holds results of study there, not of here"):
        write(here.folder, here.study, there.folder)
    with pytest.raises(UsageError, match=r"holds results of study there, not of here"):
        write(there.folder, here.study)
    assert not (there.folder / "REPORT.md").exists()


def test_opposite_orders_are_named(tmp_path: Path) -> None:
    section = repetition_section(made(tmp_path / "1", a=10.0, b=8.0), made(tmp_path / "2", a=8.0, b=10.0, c=1.0))
    assert section.said[1:] == ("main: ranked in opposite order: a and b.",)
    assert [row[0] for row in section.grids[0].rows] == ["a", "b"]


def test_nothing_in_common(tmp_path: Path) -> None:
    section = repetition_section(made(tmp_path / "1", a=10.0), made(tmp_path / "2", b=8.0))
    assert not section.grids
    assert section.said[1:] == ("They have no measured configuration in common.",)
    here, there = made(tmp_path / "1", a=10.0), made(tmp_path / "2", b=8.0)
    assert repetition_words(here, there).endswith("/2/results: they have no measured configuration in common.")


def test_it_is_in_the_report(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1/three", a=10.0, b=8.0), made(tmp_path / "2/three", a=10.0, b=8.0)
    write(here.folder, here.study, there.folder)
    text = (here.folder / "REPORT.md").read_text(encoding="utf-8")
    assert "## Against another run of it" in text
    assert "main: the same ranking of 1 pair, of 2 configurations, that both runs tell apart." in text
    assert "Against another run of it" in first_screen(here.folder, here.study)
    write(here.folder, here.study)
    assert "Against another run" not in (here.folder / "REPORT.md").read_text(encoding="utf-8")
    assert "Against another run of it" not in first_screen(here.folder, here.study)
