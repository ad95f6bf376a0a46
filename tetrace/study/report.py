"""The report of a study: REPORT.md, report.html and tables from what is stored, and the terminal's first screen."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from tetrace.errors import UsageError
from tetrace.report.grid import Column, Grid, printable
from tetrace.report.page import Page, written
from tetrace.report.reporter import Options
from tetrace.study.claims import FAILS, Judged, count_words, judge
from tetrace.study.material import Material
from tetrace.study.measured import (
    claims_section,
    failed_section,
    largest_words,
    measured_grid,
    measured_section,
    notes_section,
)
from tetrace.study.numerics import losses_section, numbers_section, shapes_section
from tetrace.study.repetition import repetition_section
from tetrace.study.results import FAILED, MEASURED, RESULTS_FILE, Configuration
from tetrace.study.section import Section, cut, several, times
from tetrace.study.sizes import crossing_words, payoff_section, sweeps_section
from tetrace.study.spec import Study
from tetrace.study.statistics import Estimate
from tetrace.study.surroundings import clocks_section, environment_section, meaning_section, notices, startup_section
from tetrace.study.sweep import Swept, crossing_value, sweep_of
from tetrace.study.why import EXPLANATION_COLUMNS, explained_words, explanation_rows, recorded_section, why_section

REPORT_FILE, PAGE_FILE, SCREEN_FILE = "REPORT.md", "report.html", "report.json"
TABLE_FILES = ("configurations.csv", "claims.csv", "explanations.csv")
_SCREEN_VERSION = 1
# Rows of the first screen's tables together, and of claims at least.
_ROWS, _CLAIMS = 30, 6
_CLAIM_COLUMNS = (
    "claim", "verdict", "figure", "of", "against", "noted", "value", "low", "high", "word",
    "limit", "why",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """A study's results as a report: verdict, notices, sections."""

    material: Material
    other: Material | None = None  # another run of the study, which this one is compared with

    @property
    def study(self) -> Study:
        """The study."""
        return self.material.study

    @cached_property
    def swept(self) -> tuple[Swept, ...]:
        """Its sweeps as measured."""
        return tuple(sweep_of(self.material, one) for one in self.study.sweeps)

    @cached_property
    def judged(self) -> tuple[Judged, ...]:
        """Its claims with their verdicts."""
        return tuple(self._judge(claim) for claim in self.study.claims)

    def _judge(self, claim: Any) -> Judged:
        if claim.figure != "crossing":
            return self._explained(judge(self.material, claim))
        found = crossing_value(self.material, self.swept, claim.sweep, claim.of, claim.against)
        return judge(self.material, claim, found)

    def _explained(self, one: Judged) -> Judged:
        """A speed-up that is not what the note claims, with what makes the difference in both recordings."""
        claim = one.claim
        against = claim.against or self.material.baseline(claim.of)
        if one.verdict != FAILS or not claim.figure.endswith("speedup") or not against:
            return one
        found = self.material.explanation(claim.of, against)
        if isinstance(found, str):
            return one
        phase = claim.figure.removesuffix("speedup").rstrip("_")
        recorded = f"recorded: {largest_words(found.groups_of(phase) if phase else found.groups, 2)}"
        return replace(one, why=f"{one.why}; {recorded}" if one.why else recorded)

    @cached_property
    def title(self) -> str:
        """What was studied, on what."""
        machine = self.material.results.machine
        on = machine.get("gpu") or machine.get("cpu") or "this machine"
        gpus = machine.get("gpus") or 1
        many = f"{gpus} × " if isinstance(gpus, int) and gpus > 1 else ""
        return cut(f"{self.study.title} · {many}{on} · {self.material.results.started[:10]}", 200)

    @cached_property
    def verdict(self) -> str:
        """One sentence: what is fastest, by how much, how claims fare, what failed."""
        parts = [self._fastest()]
        if self.judged:
            parts.append(count_words(self.judged))
        members = self.material.configurations
        failed = sum(one.state == FAILED for one in members)
        left = sum(one.state not in (MEASURED, FAILED) for one in members)
        if failed:
            expected = sum(one.state == FAILED and one.expected for one in members)
            parts.append(
                f"{failed} of {len(members)} configurations failed" + (f", {expected} as expected" if expected else "")
            )
        if left:
            parts.append(f"{left} of {len(members)} configurations were not measured to their end")
        return "; ".join(parts) + "."

    def _fastest(self) -> str:
        material = self.material
        members = material.matrices()[0][1] if material.matrices() else ()
        timed = [one for one in members if material.time(one.name) is not None and not material.stale(one.name)]
        if not timed:
            return "Nothing was measured" + (" as the study plans it now" if any(one.rounds for one in members) else "")
        if _different_work(material, timed):
            return self._gains_most(timed)
        known = [(found.value, one.name) for one in timed if (found := material.time(one.name)) is not None]
        ns, name = min(known)
        base = material.baseline(name)
        words = f"Fastest: {cut(name, 80)}, {ns / 1e6:,.3f} ms a step"
        alike = [one for _, one in sorted(known) if one != name and self._may_be_as_fast(one, name)]
        if base and base not in alike and (speedup := material.speedup(name, base)):
            words += f", {times(speedup)} of {base}"
        return f"{words}, not told apart from {several(alike)}" if alike else words

    def _gains_most(self, members: Sequence[Configuration]) -> str:
        """The largest speed-up over an own baseline: times of different work say nothing of each other."""
        material = self.material
        own = [(one.name, material.baseline(one.name)) for one in members]
        known = [
            (found, name, base) for name, base in own if base and (found := material.speedup(name, base)) is not None
        ]
        if not known:
            return "No configuration was measured beside its baseline"
        best, name, base = max(known, key=lambda one: one[0].value)
        words = f"{cut(name, 80)}, {times(best)} of {cut(base, 80)}"
        if best.value < 1:
            return f"Nothing is faster than its baseline: at best {words}"
        # Of other work, and so no pairs of rounds: their own intervals.
        alike = [
            other
            for found, other, _ in known
            if other != name and (found.overlaps(best) or not (found.has_interval and best.has_interval))
        ]
        more = f", not told apart from the speed-up of {several(alike)}" if alike else ""
        return f"Largest speed-up over its own baseline: {words}{more}"

    def _may_be_as_fast(self, name: str, fastest: str) -> bool:
        found = self.material.speedup(fastest, name)
        # Without an interval, or where both are not to be compared, nothing tells them apart.
        return found is None or found.low is None or found.low <= 1

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections that say something."""
        material = self.material
        made = (
            measured_section(material),
            notes_section(material),
            claims_section(self.judged),
            *([repetition_section(material, self.other)] if self.other else []),
            failed_section(material),
            why_section(material),
            recorded_section(material),
            sweeps_section(self.swept),
            payoff_section(material, self.swept),
            losses_section(material),
            numbers_section(material),
            shapes_section(material),
            startup_section(material),
            clocks_section(material),
            environment_section(material),
            meaning_section(),
        )
        return tuple(one for one in made if not one.empty)


def _different_work(material: Material, members: Sequence[Configuration]) -> bool:
    """Whether steps of a matrix are of different work: other tokens or operations, or a baseline for each."""
    bases = {material.baseline(one.name) for one in members} - {""}
    sizes = {(one.tokens, one.flops) for one in members}
    return len(bases) > 1 or len(sizes) > 1


def write(folder: Path, study: Study, against: Path | None = None) -> None:
    """Write REPORT.md, report.html, report.json (the first screen) and tables into `folder`, from the results there.
    `against` is a folder of results of the same study, which they are compared with.

    Raises `InputError` where there are no results, `UsageError` where they are of another study, or the folder cannot be
    written to.
    """
    from tetrace import __version__
    from tetrace.study.markdown import document
    from tetrace.study.page import html_page

    other = Material(against, study, recordings=False) if against else None
    report = Report(Material(folder, study), other)
    for one in (report.material, other):
        if one is not None and one.results.study != study.name:
            raise UsageError(
                f"{one.folder}: holds results of study {one.results.study}, not of {study.name}; name another folder"
            )
    page = _plain_page(_screen(report))
    screen = {"version": _SCREEN_VERSION, "of": _digest(folder), "explained": _explained(report.material), **page}
    documents = {
        REPORT_FILE: document(report, __version__),
        PAGE_FILE: html_page(report, __version__),
        SCREEN_FILE: json.dumps(_one_line(screen), indent=1, ensure_ascii=False) + "\n",
        "configurations.csv": _table(*_configurations(report.material)),
        "claims.csv": _table(_CLAIM_COLUMNS, map(_claim_row, report.judged)),
        "explanations.csv": _table(EXPLANATION_COLUMNS, explanation_rows(report.material)),
    }
    for name, text in documents.items():
        _replace(folder / name, text)


def first_screen(folder: Path, study: Study, width: int = 100, color: bool = False) -> str:
    """What the terminal shows of stored results: as the last report said it, or without recordings where there is none
    of these results. Raises `InputError` where there are no results."""
    from tetrace import __version__

    page = _stored(folder) or _screen(Report(Material(folder, study, recordings=False)))
    return written(page, "terminal", Options(width=max(width, 60), color=color, version=__version__))


def _screen(report: Report) -> Page:
    """Verdict, the first matrix, claims, and where to read on."""
    material = report.material
    matrices = material.matrices()
    rows = _ROWS - min(len(report.judged), _CLAIMS)
    grids = [_shortened(measured_grid(material, *matrices[0], brief=True), rows)] if matrices else []
    if report.judged:
        heads = (
            Column("claim", number=False), Column("verdict", number=False, keep=0), Column("here", number=False, keep=1),
        )  # fmt: skip
        lines = tuple((cut(one.claim.says), one.verdict, cut(one.here or one.why, 160)) for one in report.judged)
        grids.append(
            _shortened(Grid("Claims of the note", heads, lines), _ROWS - len(grids[0].rows) if grids else _ROWS)
        )
    crossings = [line for swept in report.swept for line in crossing_words(swept)]
    others = len(matrices) - 1
    more = f"; {others} more table{'' if others == 1 else 's'} there" if others > 0 else ""
    return Page(
        title=report.title,
        verdict=report.verdict,
        grids=tuple(grids),
        said=tuple(cut(line) for line in (report.study.question, *crossings[:4]) if line),
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
                "columns": [[one.head, one.number, one.keep, one.code] for one in grid.columns],
                "rows": [list(row) for row in grid.rows],
                "note": grid.note,
            }
            for grid in page.grids
        ],
    }


def _stored(folder: Path) -> Page | None:
    """The first screen as the last report left it; None where that was of other results, or cannot be read."""
    try:
        kept = json.loads((folder / SCREEN_FILE).read_text(encoding="utf-8"))
        if kept["version"] != _SCREEN_VERSION or kept["of"] != _digest(folder):
            return None
        grids = tuple(
            Grid(
                str(grid["title"]),
                tuple(
                    Column(str(head), bool(number), int(keep), bool(code))
                    for head, number, keep, code in grid["columns"]
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


def _configurations(material: Material) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """All configurations as a table for programs: times in ns, empty where they were not measured."""
    times_of = ("total", *material.phases)
    columns = [
        "configuration", "matrix", "state", "rounds", "tokens", "flops", "parameters", "peak_allocated_bytes",
        "first_step_ns", "first_loss", "last_loss", "first_nonfinite_step", "recording", "against",
        *(f"{name}_ns{end}" for name in times_of for end in ("", "_low", "_high")), "speedup", "speedup_low", "speedup_high",
        "measured_otherwise",
    ]  # fmt: skip
    rows = []
    for one in material.configurations:
        base = material.baseline(one.name)
        found = {
            "configuration": one.name, "matrix": one.matrix, "state": one.state, "rounds": len(one.rounds),
            "tokens": one.tokens, "flops": one.flops, "parameters": one.parameters,
            "peak_allocated_bytes": one.peak_allocated_bytes, "first_step_ns": one.first_step_ns,
            "first_loss": one.losses.first, "last_loss": one.losses.last,
            "first_nonfinite_step": one.losses.first_nonfinite_step, "recording": one.recording, "against": base,
        }  # fmt: skip
        for name in times_of:
            found |= _with_ends(f"{name}_ns", material.time(one.name, name))
        found |= _with_ends("speedup", material.speedup(one.name, base) if base else None)
        found["measured_otherwise"] = material.odd(one.name) or None
        rows.append(found)
    return tuple(columns), rows


def _with_ends(name: str, found: Estimate | None) -> dict[str, Any]:
    return {name: found and found.value, f"{name}_low": found and found.low, f"{name}_high": found and found.high}


def _claim_row(one: Judged) -> dict[str, Any]:
    number = one.value.estimate
    return {
        "claim": one.claim.says, "verdict": one.verdict, "figure": one.claim.figure, "of": one.claim.of,
        "against": one.claim.against, "noted": one.claim.noted, "value": number and number.value,
        "low": number and number.low, "high": number and number.high, "word": one.value.word, "limit": one.limit, "why": one.why,
    }  # fmt: skip


def _table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_one_line(name) for name in columns])
    for row in rows:
        writer.writerow(["" if row[name] is None else _one_line(row[name]) for name in columns])
    return text.getvalue()


def _one_line(value: Any) -> Any:
    """Texts without control characters, also those inside of lists and tables."""
    if isinstance(value, Mapping):
        return {key: _one_line(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_one_line(one) for one in value]
    return printable(value) if isinstance(value, str) else value


def _replace(file: Path, text: str) -> None:
    """Beside its final name and renamed: a file that exists is a whole one."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", errors="replace")
        unfinished.replace(file)
    except OSError as error:
        raise UsageError(f"{file}: cannot be written ({error.strerror}); name another folder with --output") from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
