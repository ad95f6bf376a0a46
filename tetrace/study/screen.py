"""What the terminal shows of a study: made from its report, kept beside it, read again without recordings or steps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tetrace.report.grid import Column, Grid
from tetrace.report.page import Page
from tetrace.study.csv_tables import one_line
from tetrace.study.effects import effect_rows
from tetrace.study.material import Material
from tetrace.study.measured import claims_title, measured_grid
from tetrace.study.repetition import repetition_words
from tetrace.study.results import RESULTS_FILE
from tetrace.study.section import cut
from tetrace.study.speedups import explained_words
from tetrace.study.surroundings import notices

if TYPE_CHECKING:
    from tetrace.study.report import Report

REPORT_FILE, PAGE_FILE, SCREEN_FILE = "REPORT.md", "report.html", "report.json"
_VERSION = 3
# Rows of the first screen's tables together, and of claims at least.
_ROWS, _CLAIMS = 30, 6


def screen(report: Report) -> Page:
    """Verdict, answers, the first matrix, claims, and where to read on."""
    material = report.material
    matrices = material.matrices()
    rows = _ROWS - min(len(report.judged), _CLAIMS)
    grids = [_shortened(measured_grid(material, *matrices[0], brief=True), rows)] if matrices else []
    if report.judged:
        heads = (
            Column("claim", number=False, wrap=True), Column("verdict", number=False, least=19),
            Column("here", number=False, keep=1, wrap=True, least=24),
        )  # fmt: skip
        lines = tuple((one.claim.says, one.verdict, one.here or one.why) for one in report.judged)
        grids.append(
            _shortened(Grid(claims_title(report.study), heads, lines), _ROWS - len(grids[0].rows) if grids else _ROWS)
        )
    repeated = (repetition_words(material, report.other),) if report.other else ()
    words = (report.study.question, report.study.glossary, *report.answers, *report.crossings)
    others = len(matrices) - 1
    more = f"; {others} more table{'' if others == 1 else 's'} there" if others > 0 else ""
    return Page(
        title=report.title,
        verdict=report.short_verdict,
        grids=tuple(grids),
        said=(*(cut(line) for line in words if line), *repeated),
        advice=(f"All of it{_with(_explained(material))}: {REPORT_FILE} and {PAGE_FILE} in {material.folder}{more}.",),
        notices=tuple(notices(material)),
    )


def _explained(material: Material) -> str:
    """How many speed-ups are explained; empty where no recording was looked at."""
    return explained_words(material) if material.has_recordings else ""


def _with(words: str) -> str:
    return f", {words}" if words else ""


def _shortened(grid: Grid, most: int) -> Grid:
    left = len(grid.rows) - most
    return grid if left <= 0 else replace(grid, rows=grid.rows[:most], note=f"{left} more in {REPORT_FILE}")


def _plain_page(page: Page) -> dict[str, Any]:
    return {
        "title": page.title,
        "verdict": page.verdict,
        "said": list(page.said),
        "notices": list(page.notices),
        "grids": [
            {
                "title": grid.title,
                "columns": [
                    [one.head, one.number, one.keep, one.code, one.prose, one.wrap, one.least] for one in grid.columns
                ],
                "rows": [list(row) for row in grid.rows],
                "note": grid.note,
            }
            for grid in page.grids
        ],
    }


def kept(folder: Path, report: Report) -> str:
    """The first screen as text that `stored` reads, as long as the results in `folder` are those of the report."""
    explained = _explained(report.material)
    found = {
        "version": _VERSION, "of": _digest(folder), "explained": explained, **_plain_page(screen(report)),
        "effects": effect_rows(report.material),
    }  # fmt: skip
    return json.dumps(one_line(found), indent=1, ensure_ascii=False) + "\n"


def stored(folder: Path) -> Page | None:
    """The first screen as the last report left it; None where that was of other results, or cannot be read."""
    try:
        kept = json.loads((folder / SCREEN_FILE).read_text(encoding="utf-8"))
        if kept["version"] != _VERSION or kept["of"] != _digest(folder):
            return None
        grids = tuple(
            Grid(
                str(grid["title"]),
                tuple(
                    Column(str(head), bool(number), int(keep), bool(code), "", int(least), bool(prose), bool(wrap))
                    for head, number, keep, code, prose, wrap, least in grid["columns"]
                ),
                tuple(tuple(map(str, row)) for row in grid["rows"]),
                note=str(grid["note"]),
            )
            for grid in kept["grids"]
        )
        said, warned = (tuple(map(str, kept[name])) for name in ("said", "notices"))
        # Where it lies may have changed: a folder can be moved, or come with the package.
        advice = (f"All of it{_with(str(kept.get('explained', '')))}: {REPORT_FILE} in {folder}.",)
        return Page(str(kept["title"]), str(kept["verdict"]), grids, said, advice, warned)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(folder: Path) -> str:
    # Line ends are no content: git may change them.
    return hashlib.sha256((folder / RESULTS_FILE).read_bytes().replace(b"\r\n", b"\n")).hexdigest()
