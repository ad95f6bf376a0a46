"""Grids: what is cut and what is left out when the screen is narrow."""

from __future__ import annotations

import dataclasses

import pytest

from tetrace.report.grid import Column, Grid, cells, cut, cut_end, printable
from tetrace.report.terminal import table_lines

GRID = Grid(
    "",
    (
        Column("ms"),
        Column("count", keep=1),
        Column("block", number=False, keep=2),
        Column("kernel", number=False, code=True),
    ),
    (("1.5", "2", "128×1×1", "a_kernel_with_a_name_of_forty_characters"), ("12.25", "40", "", "short")),
    total=("13.75", "42", "", "all"),
)


def test_as_wide_as_it_is() -> None:
    assert GRID.lines(100) == [
        "   ms  count  block    kernel",
        "  1.5      2  128×1×1  a_kernel_with_a_name_of_forty_characters",
        "12.25     40           short",
        "13.75     42           all",
    ]


def test_names_are_cut_a_little_then_columns_left_out_then_names_cut_more() -> None:
    assert GRID.lines(61)[1] == "  1.5      2  128×1×1  a_kernel_with_a_na…of_forty_characters"
    assert GRID.lines(54)[:2] == ["   ms  count  kernel", "  1.5      2  a_kernel_with_a_name_of_forty_characters"]
    assert GRID.lines(44)[:2] == ["   ms  kernel", "  1.5  a_kernel_with_a_na…f_forty_characters"]
    assert GRID.lines(27)[:2] == ["   ms  kernel", "  1.5  a_kernel_…characters"]


def test_columns_that_are_left_out_are_counted_below() -> None:
    def last(width: int, wide: bool = False) -> str:
        return "".join(text for text, _ in list(table_lines(GRID, width, wide))[-1])

    assert last(100) == "13.75     42           all"
    assert last(54) == "1 column left out: --wide shows all"
    assert last(27) == "2 columns left out: --wide shows all"
    assert last(27, wide=True) == last(100)
    crowded = dataclasses.replace(GRID, title="Kernels")
    told = [list(table_lines(crowded, width, beside=True)) for width in (100, 54, 27)]
    assert ["".join(text for text, _ in lines[0]) for lines in told] == [
        "Kernels", "Kernels  1 column left out: --wide shows all", "Kernels"
    ]  # fmt: skip
    assert [len(lines) for lines in told] == [5, 5, 6]


def test_a_column_keeps_the_words_that_it_must_before_others_are_left_out() -> None:
    def grid(least: int) -> Grid:
        heads = (Column("name", number=False, least=least), Column("reason", number=False), Column("n", keep=1))
        return Grid("", heads, (("UnfusedDotProductAttention", "a reason of some length", "7"),))

    assert grid(0).lines(40)[1] == "UnfusedD…ttention  a reason…me length  7"
    assert grid(99).lines(42) == [
        "name                        reason",
        "UnfusedDotProductAttention  a reas… length",
    ]


def test_columns_of_a_pair_are_left_out_together() -> None:
    heads = (Column("name", number=False), *(Column(f"median {side}", keep=1, pair="median") for side in "ab"))
    grid = Grid("", heads, (("x", "1.0", "2.0"),))
    assert grid.lines(30)[0] == "name  median a  median b"
    assert grid.lines(20)[0] == "name"


@pytest.mark.parametrize("width", range(19, 80))
def test_no_line_is_wider_than_the_screen(width: int) -> None:
    assert max(cells(line) for line in GRID.lines(width)) <= width


@pytest.mark.parametrize(
    ("word", "width", "shown"),
    [("abcdef", 6, "abcdef"), ("abcdef", 5, "ab…ef"), ("abcdef", 2, "…f"), ("カーネルの名前", 7, "カ…前"), ("", 3, "")],
)
def test_the_middle_is_cut(word: str, width: int, shown: str) -> None:
    assert cut(word, width) == shown
    assert cells(shown) <= width


def test_a_sentence_is_cut_at_its_end() -> None:
    columns = Column("figure", number=False), Column("", number=False, prose=True)
    lines = Grid("", columns, (("busy_ms", "Time in which the GPU works, in a step."),)).lines(30)
    assert lines[1] == "busy_ms  Time in which the GP…"


def test_the_end_is_cut() -> None:
    assert (cut_end("one two three", 9), cut_end("one", 9)) == ("one two…", "one")


def test_one_printable_line() -> None:
    assert printable("a\nb\x1b[1m\tc\x00") == "a b�[1m c�"
