"""Two runs of one study side by side, as whole tables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.study.made import Made, study
from tetrace.errors import UsageError
from tetrace.study import resolve
from tetrace.study.material import Material
from tetrace.study.other_start import other_start
from tetrace.study.repetition import repetition_section, repetition_words, reversed_words
from tetrace.study.report import Report, first_screen, write
from tetrace.study.spec import read

TOML = """
title = "Three ways"
[[matrix]]
name = "main"
axes.way = ["a", "b", "c"]
baseline = "a"
"""
NOISE = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01, 1.0)


# Starts of a machine: how long its clock had run at 10:00, when rounds began.
EARLY, LATE = {"began_ns": 7200 * 10**9}, {"began_ns": 600 * 10**9}


def made(
    folder: Path, rounds: dict[str, Any] = LATE, *, facts: Any = None, fields: Any = None, **ms: float
) -> Material:
    of = study(folder, TOML)
    results = Made(of, **(facts or {}))
    for name, value in ms.items():
        # Not the same noise in all, or every ratio would be exact.
        total = [value * NOISE[(place + ord(name)) % 7] for place in range(7)]
        results.measured(name, total=total, rounds=rounds, fields=fields)
    return Material(results.write(folder / "results"), of)


def test_a_repetition_on_a_slower_host(tmp_path: Path) -> None:
    here = made(tmp_path / "here", a=10.0, b=8.0, c=10.0)
    there = made(tmp_path / "there", EARLY, a=12.0, b=9.6, c=12.0)
    section = repetition_section(here, there)
    (grid,) = section.grids
    of_a, of_c = ("9.900–10.100", "12.000", "11.880–12.120", "-16.7%", "no"), ("1.000", "0.980–1.020")
    of_b = ("7.920–8.080", "9.600", "9.504–9.696", "-16.7%", "no")
    assert grid.rows == (
        ("a", "10.000", *of_a, "–", "", "–", "", "–", "–"),
        ("b", "8.000", *of_b, "1.262", "1.225–1.263", "1.262", "1.225–1.263", "+0.0%", "yes"),
        ("c", "10.000", *of_a, *of_c, *of_c, "+0.0%", "yes"),
    )
    assert section.said == (
        "The other run: NVIDIA H200, 2026-11-21 10:00:00, in results. It was timed in the start of the machine of 2026-11-21 "
        "08:00 UTC, this one in that of 2026-11-21 09:50 UTC.",
        "main: the same ranking of 2 pairs, of 3 configurations, that both runs tell apart; 1 pair is told apart by one run at "
        "most.",
        "Intervals of 0 of 3 step times overlap; those that do not moved from the other run to this one: a -16.7%, b -16.7%, "
        "c -16.7%.",
        "A step that waits for the host takes longer on a start with a slower host, and its baseline does too: that moves "
        "times more than speed-ups.",
        "Intervals of 2 of 2 speed-ups overlap.",
    )


def test_the_same_start_is_no_second_one(tmp_path: Path) -> None:
    section = repetition_section(made(tmp_path / "1", a=10.0, b=8.0), made(tmp_path / "2", a=10.1, b=8.1))
    assert section.said[0].endswith(
        "Both were timed in one start of the machine, that of 2026-11-21 09:50 UTC: this is no second start."
    )


def test_the_very_same_measurement_is_left_out(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1", a=10.0, b=8.0, c=5.0), made(tmp_path / "2", a=10.0, b=8.1, c=5.1)
    section = repetition_section(here, there)
    assert "Not compared, the very same measurement in both: a." in section.said
    (grid,) = section.grids
    assert [row[0] for row in grid.rows] == ["b", "c"]
    assert section.said[2].startswith("main: the same ranking of 1 pair, of 2 configurations")
    assert not any("speed-ups overlap" in said for said in section.said), "their baseline is left out"
    only = repetition_section(here, made(tmp_path / "3", a=10.0))
    assert not only.grids
    assert only.said[-1] == "Nothing is compared."


def test_what_ran_with_other_versions_or_options_is_not_compared(tmp_path: Path) -> None:
    def run(name: str, torch: str, batch: int, tokens: int = 64, **more: Any) -> Material:
        context = {"versions": {"torch": torch, **more}, "machine": {"driver": "580.1"}}
        fields = {"context": "x", "options": {"batch": batch}, "tokens": tokens}
        ms = 10.0 + len(list(tmp_path.iterdir()))
        return made(tmp_path / name, facts={"contexts": {"x": context}}, fields=fields, a=ms, b=ms / 2)

    here = run("1", "2.11", 8)
    other = repetition_section(here, run("2", "2.12", 4))
    assert other.said[1:] == (
        "Not compared, measured with other options (batch) and with other versions (torch): a, b.",
        "Nothing is compared.",
    )
    assert not other.grids
    assert "with other work in a step (tokens): a, b." in repetition_section(here, run("3", "2.11", 8, 32)).said[1]
    newer = repetition_section(here, run("4", "2.11", 8, flash_attn="4.0"))
    assert newer.said[1] == "They differ in versions that only one of both lists (flash_attn)."
    assert newer.grids


def test_an_older_study_is_compared_with_itself(tmp_path: Path) -> None:
    """Its rows are not those that the study plans today: it had an option less, and another model."""
    here = made(tmp_path / "now", a=10.0, b=8.0)
    old = made(tmp_path / "old", EARLY, fields={"code": {"model.py": "0"}, "key": "k"}, a=10.1, b=8.1)
    assert Material(old.folder, here.study).speedup("b", "a") is None
    other = Material(old.folder, here.study, as_planned=False)
    said = repetition_section(here, other).said
    assert "Intervals of 1 of 1 speed-ups overlap." in said
    assert any(line.startswith("main: the same ranking of 1 pair") for line in said)


def test_identical_configurations_leave_less_to_rank(tmp_path: Path) -> None:
    """Of a and b, which are the same and 20% apart, so that the 11% of c tell nothing."""
    same = {"options": {}, "environment": {}}
    runs = [
        made(tmp_path / str(n), start, fields=same, a=10.0 + n, b=12.0, c=9.0) for n, start in enumerate((LATE, EARLY))
    ]
    (said,) = [line for line in repetition_section(*runs).said if line.startswith("main")]
    assert said == (
        "main: whether the ranking is the same cannot be told: both runs tell apart no pair of 3 configurations."
    )


def test_the_same_in_short(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1", a=10.0, b=8.0, c=10.0), made(tmp_path / "2", EARLY, a=12.0, b=9.6, c=13.0)
    assert repetition_words(here, there) == (
        "Against another run of it, results: main: the same ranking of 2 pairs, of 3 configurations, that both runs tell apart; "
        "1 pair is told apart by one run at most; intervals of 0 of 3 step times overlap; intervals of 1 of 2 speed-ups overlap."
    )
    nothing = repetition_words(here, made(tmp_path / "3", EARLY, d=8.0))
    assert nothing == "Against another run of it, results: They have no measured configuration in common."


def test_a_ranking_of_pairs_that_nobody_tells_apart_cannot_be_told(tmp_path: Path) -> None:
    here, there = made(tmp_path / "here", a=10.0, c=10.0), made(tmp_path / "there", EARLY, a=10.0, c=10.0)
    assert repetition_section(here, there).said[1] == (
        "main: whether the ranking is the same cannot be told: both runs tell apart no pair of 2 configurations."
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
    assert section.said[1] == "main: 1 of 1 pairs that both runs tell apart are ranked in opposite order: a and b."
    assert [row[0] for row in section.grids[0].rows] == ["a", "b"]


def test_opposite_orders_are_on_the_first_screen(tmp_path: Path) -> None:
    """What another start ranks the other way answers no question for good."""
    here, there = made(tmp_path / "1", a=10.0, b=8.0, c=5.0), made(tmp_path / "2", EARLY, a=8.0, b=10.0, c=5.0)
    said = "Another start, 2026-11-21, ranks 1 of 3 pairs the other way (a and b)"
    assert reversed_words(here, there) == said
    assert f"{said}." in Report(here, there).answers
    assert reversed_words(here, here) == ""
    # That of the fastest is not one of many.
    faster = made(tmp_path / "3", a=10.0, b=8.0, c=20.0)
    assert reversed_words(faster, there) == (
        "Another start, 2026-11-21, ranks 3 of 3 pairs the other way (b and c, a and b, a and c): the fastest there was c"
    )


def test_whether_a_step_waits_for_the_host_where_orders_are_opposite() -> None:
    """In the study `hybrid` it does: the host of one start was faster by a sixth."""
    place = resolve.find("hybrid")
    today, earlier = place.results / "h200", place.results / "h200-2026-11-22"
    runs = [Material(today, read(place.folder)), Material(earlier, read(place.folder), False, as_planned=False)]
    said = reversed_words(*runs)
    # What is fastest here leads, though others come before it in the study.
    assert "ranks 9 of 55 pairs the other way (delayed-hybrid_compiled and delayed-hybrid, " in said
    assert ": the fastest there were delayed-hybrid and avoid:torch; in each" in said
    assert "a step waits for the host, whose speed differs from start to start" in said


def test_nothing_in_common(tmp_path: Path) -> None:
    section = repetition_section(made(tmp_path / "1", a=10.0), made(tmp_path / "2", b=8.0))
    assert not section.grids
    assert section.said[1:] == (
        "Only this run timed 1 of its configurations: a.",
        "They have no measured configuration in common.",
    )


def test_it_is_in_the_report(tmp_path: Path) -> None:
    here, there = made(tmp_path / "1/three", a=10.0, b=8.0), made(tmp_path / "2/three", EARLY, a=10.0, b=8.0)
    write(here.folder, here.study, there.folder)
    text = (here.folder / "REPORT.md").read_text(encoding="utf-8")
    assert "## Against another run of it" in text
    assert "main: the same ranking of 1 pair, of 2 configurations, that both runs tell apart." in text
    assert "Against another run of it" in first_screen(here.folder, here.study)
    write(here.folder, here.study)
    assert "Against another run" not in (here.folder / "REPORT.md").read_text(encoding="utf-8")
    assert "Against another run of it" not in first_screen(here.folder, here.study)


def test_another_start_beside_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest of those that have its name and a date, and can be read; none of them is a result of the study by itself."""
    monkeypatch.chdir(tmp_path)
    here, there = made(tmp_path / "1/three", a=10.0, b=8.0), made(tmp_path / "2/three", EARLY, a=10.1, b=8.1)
    of = study(tmp_path / "profiles/three", TOML)
    results = of.folder / "results"
    for name in ("h200", "h200-2026-11-01", "h200-2026-11-21", "h200-quick", "b300-2026-11-30"):
        shutil.copytree(here.folder, results / name)
    shutil.copytree(there.folder, results / "h200-2026-11-20")
    (results / "h200-2026-11-21/study.json").write_text("{")
    assert other_start(results / "h200", of.name) == results / "h200-2026-11-20"
    assert other_start(Path("profiles/three/results/h200"), of.name) == results / "h200-2026-11-20"
    for name in ("h200-quick", "h200-2026-11-20", "b300-2026-11-30"):
        assert other_start(results / name, of.name) is None
    stored = resolve.stored(resolve.find("three"))
    assert sorted(folder.name for folder in stored.folders) == ["b300-2026-11-30", "h200", "h200-quick"]
    assert ["h200-2026-11-21/study.json" in line for line in stored.unreadable] == [True]
    write(results / "h200", of)
    assert "in h200-2026-11-20. It was timed in" in (results / "h200/REPORT.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("fusion", "2026-11-22"),
        ("gated", "2026-11-23"),
        ("hybrid", "2026-11-22"),
        ("attention", "2026-11-23"),
        ("stability", "2026-11-23"),
    ],
)
def test_studies_that_tetrace_brings_have_another_start(name: str, date: str) -> None:
    place = resolve.find(name)
    today = place.results / "h200"
    assert [folder.name for folder in resolve.stored(place).folders] == ["h200"]
    folder = other_start(today, name)
    assert folder is not None
    runs = [Material(today, read(place.folder), False), Material(folder, read(place.folder), False, as_planned=False)]
    section = repetition_section(*runs)
    assert f"It was timed in the start of the machine of {date}" in section.said[0]
    assert any("that both runs tell apart" in said and "cannot be told" not in said for said in section.said)
    assert not any("Not compared" in said for said in section.said)
    if name != "hybrid":  # whose steps wait for hosts that differed: its first screen says so
        assert not any("opposite" in said for said in section.said)
    assert "step times overlap" in " ".join(section.said)
