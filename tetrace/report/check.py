"""What a check says: a page with a row for each limit, JUnit's XML for CI servers, and annotations for GitHub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from tetrace.breakdown.check import BROKEN, KEPT, SKIPPED, Check, Result
from tetrace.breakdown.figures import FIGURES
from tetrace.report.grid import Column, Grid, printable
from tetrace.report.page import Page

# Names may be as long as files allow; what is said of them need not be.
_LONGEST = 300
COLUMNS = ("check", "status", "value", "limit", "baseline", "ratio", "ratio_noise", "remark", "sentence")


def check_page(result: Result) -> Page:
    """The page of a check: what broke first, then what was kept."""
    order = sorted(result.checks, key=lambda check: (BROKEN, SKIPPED, KEPT).index(check.status))
    rows = [_row(check) for check in order]
    heads = (
        Column("", False), Column("figure", False, code=True), Column("value"), Column("limit"),
        Column("baseline", keep=1), Column("ratio", keep=1), Column("±", keep=2), Column("", False, 3, prose=True),
    )  # fmt: skip
    lines = tuple(_line(check) for check in order)
    return Page(
        title=_short(f"{result.run}, against {result.baseline}" if result.baseline else result.run),
        verdict=verdict(result),
        grids=(Grid("Limits", heads, lines),),
        columns=COLUMNS,
        rows=rows,
        facts={"broken": len(result.broken), "checks": len(result.checks)},
    )


def verdict(result: Result) -> str:
    """One sentence: whether the budget is kept, and what is worst."""
    broken, skipped = result.broken, [check for check in result.checks if check.status == SKIPPED]
    why = ", ".join(dict.fromkeys(check.remark for check in skipped))
    left = f"; {len(skipped)} skipped ({_short(why)})" if skipped else ""
    if not broken:
        count = len(result.checks) - len(skipped)
        return f"The budget is kept: {count} {'limit' if count == 1 else 'limits'}{left}."
    return f"Over budget: {len(broken)} of {len(result.checks)} limits{left}; {_short(broken[0].words)}."


def _line(check: Check) -> tuple[str, ...]:
    ratio = "" if check.ratio is None else f"{check.ratio:.3f}"
    noise = "" if check.ratio_noise is None else f"{check.ratio_noise:.3f}"
    said = (check.status, check.name, check.value, check.limit, check.baseline, ratio, noise, check.remark)
    return tuple(_short(word) for word in said)


def _row(check: Check) -> dict[str, Any]:
    return {
        "check": _short(check.name),
        "status": check.status,
        "value": _short(check.value),
        "limit": _short(check.limit),
        "baseline": _short(check.baseline),
        "ratio": check.ratio,
        "ratio_noise": check.ratio_noise,
        "remark": check.remark,
        "sentence": _short(check.sentence),
    }


def junit(result: Result) -> str:
    """The check as a suite of JUnit's XML, one case a limit."""
    counts = {status: sum(check.status == status for check in result.checks) for status in (BROKEN, SKIPPED)}
    numbers = {"tests": str(len(result.checks)), "failures": str(counts[BROKEN]), "errors": "0"}
    root = ElementTree.Element("testsuites", {"name": "tetrace check", **numbers})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": f"tetrace check {_short(result.run)}", **numbers, "skipped": str(counts[SKIPPED])}
    )
    for check in result.checks:
        case = ElementTree.SubElement(suite, "testcase", {"classname": "tetrace.check", "name": _short(check.name)})
        if check.status == BROKEN:
            failure = ElementTree.SubElement(case, "failure", {"type": "budget", "message": _short(check.words)})
            failure.text = _short(f"{check.words}. {check.sentence}")
        elif check.status == SKIPPED:
            ElementTree.SubElement(case, "skipped", {"message": _short(check.remark)})
        else:
            ElementTree.SubElement(case, "system-out").text = _short(check.words)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def github_commands(result: Result) -> str:
    """GitHub's workflow commands: an error for each limit that broke, a notice where none did."""
    return "".join(f"{line}\n" for line in _commands(result))


def _commands(result: Result) -> Iterator[str]:
    for check in result.broken:
        title = _escaped(_short(f"tetrace: {check.name}"), ":,")
        yield f"::error title={title}::{_escaped(_short(f'{result.run}: {check.words}'))}"
    if not result.broken:
        yield f"::notice title=tetrace::{_escaped(_short(f'{result.run}: {verdict(result)}'))}"


def _escaped(text: str, more: str = "") -> str:
    """`text` in a workflow command, which ends at a line's end."""
    for character in ("%", "\r", "\n", *more):
        text = text.replace(character, f"%{ord(character):02X}")
    return text


def figures_page() -> Page:
    """Every figure that a budget can limit."""
    rows: Sequence[dict[str, Any]] = [
        {"figure": figure.name, "unit": figure.unit or "count", "sentence": figure.sentence} for figure in FIGURES
    ]
    heads = (Column("figure", False, code=True), Column("unit", False), Column("", False, prose=True))
    lines = tuple(tuple(str(word) for word in row.values()) for row in rows)
    verdict = f"{len(FIGURES)} figures that [limits] and [baseline] of a budget can name."
    return Page("tetrace check", verdict, (Grid("Figures", heads, lines),), columns=tuple(rows[0]), rows=rows)


def _short(text: str) -> str:
    """One line without control characters, also those that XML forbids, and of a length that can be read."""
    text = "".join("�" if 0xD800 <= ord(c) <= 0xDFFF else c for c in printable(text[: _LONGEST + 1]))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
