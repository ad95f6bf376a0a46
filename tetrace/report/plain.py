"""CSV and JSON whose words no screen and no spreadsheet takes for a command: names from a recording may hold anything."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tetrace.report.grid import printable

# What spreadsheets take for a formula (OWASP, "CSV Injection"), also in full width, behind spaces, or escaped already.
_FORMULA = re.compile(r"'*\s*[=+\-@\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?(/\d+)?", re.IGNORECASE)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV under their head. Numbers are as they are, and so is text that is a number or a fraction (`-7/3`).

    In other text control characters are replaced, as in every report: JSON and Parquet have names exactly. Text that
    begins as a formula does (= + - @, a tab or a carriage return before them) gets an apostrophe in front, and so does
    such text behind apostrophes: who reads `'=x` or `''=x` takes one apostrophe off.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    word = printable(value)
    return f"'{word}" if _FORMULA.match(word) and not _NUMBER.fullmatch(word) else word


def json_text(value: Any) -> str:
    """`value` as JSON, two spaces deep. What cannot be seen, or commands a screen, is escaped: it reads back as it was."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    unseen = {one for one in set(text) if not one.isprintable() and one != "\n"}
    return text.translate({ord(one): json.dumps(one)[1:-1] for one in unseen}) + "\n"
