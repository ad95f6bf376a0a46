"""Which configurations failed, by the values that they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.study.made import Made, study
from tetrace.study.failing import failing_words
from tetrace.study.material import Material

TOML = """
title = "t"
[[matrix]]
name = "main"
axes.vocabulary = [50264, 50304]
axes.recipe = ["none", "e4m3", "block"]
"""
NAMES = [f"{size}-{recipe}" for size in (50264, 50304) for recipe in ("none", "e4m3", "block")]


@pytest.mark.parametrize(
    ("failed", "words"),
    [
        ([], ""),
        (["50264-e4m3", "50264-block"], "2 of 6 configurations fail: vocabulary 50264 with recipe e4m3, block"),
        (["50264-none", "50264-e4m3", "50264-block"], "3 of 6 configurations fail: vocabulary 50264"),
        # What they share, another has too; and what fails altogether shares nothing that another has not.
        (["50264-e4m3", "50304-block"], "2 of 6 configurations fail: 50264-e4m3, 50304-block"),
        (NAMES[:1], "1 of 6 configurations fails: vocabulary 50264 with recipe none"),
        (NAMES, "6 of 6 configurations fail: 50264-none, 50264-e4m3, 50264-block and 3 more"),
    ],
)
def test_what_fails_by_what_it_shares(tmp_path: Path, failed: Sequence[str], words: str) -> None:
    of = study(tmp_path / "study", TOML)
    made = Made(of)
    for name in NAMES:
        made = made.failed(name, "E", "m") if name in failed else made.measured(name, total=[1.0])
    assert failing_words(Material(made.write(tmp_path / "results"), of)) == words


def test_what_was_expected_is_said(tmp_path: Path) -> None:
    of = study(tmp_path / "study", TOML)
    made = Made(of).failed(NAMES[1], "E", "m", expected=True).failed(NAMES[2], "E", "m")
    found = failing_words(Material(made.write(tmp_path / "results"), of))
    assert found.startswith("2 of 2 configurations fail, 1 of them as expected: ")
