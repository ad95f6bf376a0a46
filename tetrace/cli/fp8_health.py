"""`tetrace fp8 health`: what is wrong, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli import fp8_words as words
from tetrace.cli.pages import Output, output_options
from tetrace.report.commands import with_path
from tetrace.units import plural

if TYPE_CHECKING:
    from tetrace.fp8.flags import Problem
    from tetrace.fp8.health import Health
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@output_options
def health(run: Path, output: Output) -> None:
    """Say what is wrong with the FP8 of a recording, worst first.

    NaN and Inf with their origin, saturation, underflow, gradients lost before their first scale, scales that nothing
    set, that are stale or that something changed, one Inf that freezes an amax history, amaxes that jump or stay zero,
    ranks that disagree, recipes whose flags do not apply; each with layer, tensor, steps, a number and what to do.
    """
    import tetrace
    from tetrace.fp8.health import check_health

    output.check(run)
    trace = tetrace.load(run)
    whole = output.wide or output.format_name == "markdown"
    output.write(page(run, trace, check_health(trace), output.rows, whole))


def page(run: Path, trace: Trace, found: Health, top: int, whole: bool = False) -> Page:
    """The problems as a table, with what was seen where there is room (`whole`), and what to do about those shown."""
    from tetrace.fp8.health import COLUMNS, rows_of
    from tetrace.report.grid import Column, Grid
    from tetrace.report.page import Page

    shown = found.problems[: words.first(top, len(found.problems))]
    has_ranks = any(problem.ranks for problem in shown)
    columns = (
        Column("", number=False),
        Column("problem", number=False),
        Column("tensor", number=False, code=True),
        Column("step"),
        *([Column("rank", number=False)] if has_ranks else []),
        Column("how much"),
        *([Column("what was seen", number=False)] if whole else []),
    )
    rows = tuple(_line(problem, has_ranks, whole) for problem in shown)
    grid = Grid("Problems, worst first", columns, rows, note=words.note(len(found.problems) - len(shown)))
    return Page(
        title=words.title(
            trace, f"{plural(found.tensors, 'tensor')}, {found.quantized:,} quantized to FP8", found.seen
        ),
        verdict=found.verdict,
        grids=(grid,) if rows else (),
        advice=tuple(with_path(line, str(run)) for line in _advice(shown, whole)),
        notices=(*words.notices(trace), *words.by_rows(trace.words("fp8_tensors", "scaling"))),
        columns=COLUMNS,
        rows=[{**row, "advice": with_path(row["advice"], str(run))} for row in rows_of(found)],
        facts={
            "healthy": found.healthy,
            "tensors": found.tensors,
            "quantized": found.quantized,
            "steps": list(found.steps),
        },
    )


def _line(problem: Problem, has_ranks: bool, whole: bool) -> tuple[str, ...]:
    return (
        problem.level,
        problem.title,
        f"{problem.name} +{problem.tensors - 1:,} more" if problem.tensors > 1 else problem.name,
        words.steps(problem.first_step, problem.last_step, problem.steps),
        *([problem.ranks] if has_ranks else []),
        _size(problem),
        *([problem.evidence] if whole else []),
    )


def _size(problem: Problem) -> str:
    """The number of a problem with its unit, short."""
    if problem.number != problem.number:
        return ""
    if problem.unit.startswith("of "):
        return words.share(problem.number)
    if problem.unit.startswith("times"):
        return f"{words.number(problem.number)}×"
    return (
        f"{problem.number:,.3g} {problem.unit}".strip()
        if problem.number < 1000
        else f"{problem.number:,.0f} {problem.unit}"
    )


def _advice(shown: Sequence[Problem], whole: bool) -> Iterator[str]:
    """What to do about each kind, with what was seen of its worst where the table does not say it."""
    told = set()
    for problem in shown:
        if problem.title not in told:
            told.add(problem.title)
            where = f", {problem.name} at step {problem.first_step}" if problem.name else ""
            seen = "" if whole else f"{where}: {problem.evidence}"
            yield f"{problem.title}{seen}. {problem.advice[0].upper()}{problem.advice[1:]}."
