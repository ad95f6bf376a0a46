"""The report of a study: REPORT.md, report.html and tables from what is stored, and the terminal's first screen."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tetrace.errors import UsageError
from tetrace.report.page import written
from tetrace.report.reporter import Options
from tetrace.study import screen
from tetrace.study.beside_note import notes_section, quoted_words
from tetrace.study.both_starts import in_both_starts
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, Judged, count_words, judge
from tetrace.study.csv_tables import CLAIM_COLUMNS, claim_row, configurations, csv_text
from tetrace.study.effects import EFFECT_COLUMNS, effect_rows, effect_words, effects_section
from tetrace.study.failing import failing_words
from tetrace.study.fastest import compares_other_work, fastest_words, idle_words
from tetrace.study.kernel_times import beside_words
from tetrace.study.material import Material
from tetrace.study.measured import claims_section, claims_title, failed_section, measured_section
from tetrace.study.numerics import (
    asks_for_numbers,
    loses_a_loss,
    losses_section,
    numbers_section,
    numbers_words,
    shapes_section,
)
from tetrace.study.other_start import other_start
from tetrace.study.recorded import recorded_section
from tetrace.study.repetition import repetition_section, reversed_words
from tetrace.study.results import FAILED, MEASURED, TIMED_OUT
from tetrace.study.screen import PAGE_FILE, REPORT_FILE, SCREEN_FILE
from tetrace.study.section import Section, cut
from tetrace.study.sizes import crossings_sentence, payoff_section, pays_words, sweeps_section
from tetrace.study.spec import Claim, Study
from tetrace.study.surroundings import clocks_section, environment_section, meaning_section, startup_section
from tetrace.study.sweep import Swept, crossing_value, sweep_of
from tetrace.study.why import EXPLANATION_COLUMNS, explanation_rows, why_section

# Sentences on crossings before the tables.
_CROSSINGS = 4
# Of what makes a difference, in a claim's reason.
_QUOTED = 2
TABLE_FILES = ("configurations.csv", "effects.csv", "claims.csv", "explanations.csv")


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

    def _judge(self, claim: Claim) -> Judged:
        one = _decided(self._of_step(claim))
        beside = beside_words(self.material, claim)
        return replace(one, why="; ".join(filter(None, (one.why, beside)))) if beside else one

    def _of_step(self, claim: Claim) -> Judged:
        if claim.figure != "crossing":
            one = judge(self.material, claim)
            return self._explained(in_both_starts(self.material, self.other, one) if self.other else one)
        found = crossing_value(self.material, self.swept, claim.sweep, claim.of, claim.against)
        return judge(self.material, claim, found)

    def _explained(self, one: Judged) -> Judged:
        """A speed-up that was told, or a time that the GPU works and is not what the note claims, with what makes the
        difference."""
        claim = one.claim
        against = claim.against or self.material.baseline(claim.of)
        is_work = claim.figure == "busy_ms" and bool(claim.against)
        is_told = one.verdict == FAILS or (one.verdict == HOLDS and not is_work)
        if not is_told or claim.study or not against or not (is_work or claim.figure.endswith("speedup")):
            return one
        found = self.material.explanation(claim.of, against)
        # Where a claim holds, nobody asks for the reason that there is none.
        if isinstance(found, str) or (one.verdict == HOLDS and not found.explains):
            return one
        phase = "" if is_work else claim.figure.removesuffix("speedup").rstrip("_")
        differs = f"what differs: {quoted_words(found, _QUOTED, phase, is_work)}"
        return replace(one, why=f"{one.why}; {differs}" if one.why else differs)

    @cached_property
    def title(self) -> str:
        """What was studied, on what."""
        machine = self.material.results.machine
        on = machine.get("gpu") or machine.get("cpu") or "this machine"
        return cut(f"{self.study.title} · {on} · {self.material.results.started[:10]}", 200)

    @property
    def lead(self) -> str:
        """The sentence that answers the study's question: what fails or loses its loss, from which size on it pays, or what is
        fastest."""
        return f"{self._first[0]}."

    @cached_property
    def answers(self) -> tuple[str, ...]:
        """Sentences after the first: what else the study asks, what the options do that do most, and whether the GPU idles."""
        again = reversed_words(self.material, self.other) if self.other else ""
        found = (*self._first[1:], *effect_words(self.material), idle_words(self.material), again)
        return tuple(f"{said}." for said in found if said)

    @cached_property
    def _first(self) -> tuple[str, ...]:
        """From which size on it pays where steps are of other work, what is fastest, and what became of the numbers: what the
        study asks for leads, and a loss that is not finite before all."""
        timed, numbers = (*self.pays, fastest_words(self.material)), numbers_words(self.material)
        if numbers and loses_a_loss(self.material):
            return (*numbers, *timed)
        if numbers and asks_for_numbers(self.study):
            return (*self._with_failing(*numbers), *timed)
        return (*timed, *numbers)

    @cached_property
    def pays(self) -> tuple[str, ...]:
        """From which size on it pays, where that is asked: steps of other work have no fastest."""
        return pays_words(self.material, self.swept) if compares_other_work(self.material) else ()

    @cached_property
    def crossings(self) -> tuple[str, ...]:
        """Where lines of sweeps cross, a sentence for each sweep; without what the lead says."""
        left = [one for one in self.swept if not self.pays or one.sweep.figure != "total_ms"]
        return tuple(said for one in left if (said := crossings_sentence(one)))[:_CROSSINGS]

    def _with_failing(self, losses: str, *more: str) -> tuple[str, ...]:
        failing = failing_words(self.material)
        return (f"{failing}. {losses}" if failing else losses, *more)

    @cached_property
    def verdict(self) -> str:
        """The lead, the answers, how claims fare, what failed."""
        if not self.answers:
            return self.short_verdict
        return " ".join([self.lead, *self.answers, *([self.fates] if self.fates else [])])

    @property
    def short_verdict(self) -> str:
        """The same in one sentence, without the answers."""
        return "; ".join([self._first[0], *self._fates]) + "."

    @property
    def fates(self) -> str:
        """How claims fare, and what failed, in a sentence; empty where there is nothing to say."""
        return f"{'; '.join(self._fates)}." if self._fates else ""

    @cached_property
    def _fates(self) -> tuple[str, ...]:
        """How claims fare, and what failed."""
        parts = []
        if self.judged:
            parts.append(count_words(self.judged))
        members = self.material.configurations
        failed = sum(one.state == FAILED for one in members)
        late = sum(one.state == TIMED_OUT for one in members)
        left = sum(one.state not in (MEASURED, FAILED, TIMED_OUT) for one in members)
        if failed and failing_words(self.material) not in self._first[0]:
            expected = sum(one.state == FAILED and one.expected for one in members)
            parts.append(
                f"{failed} of {len(members)} configurations failed" + (f", {expected} as expected" if expected else "")
            )
        if late:
            parts.append(f"{late} of {len(members)} configurations timed out")
        if left:
            were = "was not measured to its end" if left == 1 else "were not measured to their end"
            parts.append(f"{left} of {len(members)} configurations {were}")
        return tuple(parts)

    @cached_property
    def sections(self) -> tuple[Section, ...]:
        """All sections that say something."""
        material = self.material
        made = (
            measured_section(material),
            effects_section(material),
            notes_section(material),
            claims_section(self.judged, claims_title(self.study)),
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
        return tuple(one.typeset() for one in made if not one.empty)


def _decided(one: Judged) -> Judged:
    """A claim whose condition suffices without being needed cannot be told where that is missed."""
    if one.verdict != FAILS or not one.claim.otherwise:
        return one
    return replace(one, verdict=UNKNOWN, why="; ".join(filter(None, (one.claim.otherwise, one.why))))


def write(folder: Path, study: Study, against: Path | None = None) -> None:
    """Write REPORT.md, report.html, report.json (the first screen) and tables into `folder`, from the results there.
    `against` is a folder of results of the same study, which they are compared with: without it, those of another start of
    the machine that lie beside them.

    Raises `InputError` where there are no results, `UsageError` where they are of another study, or the folder cannot be
    written to.
    """
    from tetrace import __version__
    from tetrace.study.markdown import document
    from tetrace.study.page import html_page

    report = _compared(folder, study, against or other_start(folder, study.name))
    documents = {
        REPORT_FILE: document(report, __version__),
        PAGE_FILE: html_page(report, __version__),
        SCREEN_FILE: screen.kept(folder, report),
        "configurations.csv": csv_text(*configurations(report.material)),
        "effects.csv": csv_text(EFFECT_COLUMNS, effect_rows(report.material)),
        "claims.csv": csv_text(CLAIM_COLUMNS, map(claim_row, report.judged)),
        "explanations.csv": csv_text(EXPLANATION_COLUMNS, explanation_rows(report.material)),
    }
    for name, text in documents.items():
        _replace(folder / name, text)


def _compared(folder: Path, study: Study, against: Path | None) -> Report:
    """The report of the results in `folder`, beside those in `against`. Raises `UsageError` where they are of another study."""
    other = Material(against, study, recordings=False, as_planned=False) if against else None
    report = Report(Material(folder, study), other)
    for one in (report.material, other):
        if one is not None and one.results.study != study.name:
            raise UsageError(
                f"{one.folder}: holds results of study {one.results.study}, not of {study.name}; name another folder"
            )
    return report


def first_screen(
    folder: Path, study: Study, width: int = 100, color: bool = False, wide: bool = False, against: Path | None = None
) -> str:
    """What the terminal shows of stored results: as the last report said it, or without recordings where there is none
    of these results. `against`: beside those in another folder, which no file keeps. `wide`: rows are not cut to `width`.
    Raises `InputError` where there are no results."""
    from tetrace import __version__

    if against:
        page = screen.screen(_compared(folder, study, against))
    else:
        page = screen.stored(folder) or screen.screen(Report(Material(folder, study, recordings=False)))
    return written(page, "terminal", Options(wide=wide, width=max(width, 60), color=color, version=__version__))


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
