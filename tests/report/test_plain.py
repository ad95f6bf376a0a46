"""CSV and JSON whose words no screen and no spreadsheet takes for a command."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from tests.cli.hostile import NAMES
from tetrace.report.plain import csv_text, json_text


def cell(word: object) -> str:
    """What a reader of the CSV finds for `word`."""
    ((found,),) = list(csv.reader(io.StringIO(csv_text(["head"], [[word]]))))[1:]
    return found


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1+1", "' =1+1"),
        ("\r=1+1", "' =1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("'=1", "''=1"),
        ("a=b", "a=b"),
        ("'quoted'", "'quoted'"),
        ("-7", "-7"),
        ("-7/3", "-7/3"),
        ("-1.5e-05", "-1.5e-05"),
        (-7, "-7"),
        ("\x1b[31mred\x9b2J\u202e", "�[31mred�2J�"),
        ("a\nb", "a b"),
        ("", ""),
    ],
)
def test_a_cell(word: object, written: str) -> None:
    assert cell(word) == written


@pytest.mark.parametrize("word", ["=a", "'=a", "''@a", "-x", "plain", "'plain"])
def test_who_takes_one_apostrophe_off_has_the_text(word: str) -> None:
    """The rule of the docstring."""
    found = cell(word)
    assert (found[1:] if re.match(r"'+\s*[=+\-@]", found) else found) == word


def test_json_reads_back_and_commands_nothing() -> None:
    value = {"names": [*NAMES, "\u2028\x7f\ud800\U000e0001 é µ 漢"], "ns": -3}
    text = json_text(value)
    assert json.loads(text) == value
    assert all(one.isprintable() or one == "\n" for one in text)
    assert "é µ 漢" in text
