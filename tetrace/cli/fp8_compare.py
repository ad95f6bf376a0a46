"""`tetrace fp8 compare`: two recordings side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli import fp8_words as words
from tetrace.cli.pages import Output, output_options
from tetrace.units import plural

if TYPE_CHECKING:
    from tetrace.fp8.comparison import Comparison, Difference
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace


@click.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, max=100),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Amaxes that differ by more are where two runs part.",
)
@output_options
def compare(a: Path, b: Path, tolerance: float, output: Output) -> None:
    """Compare the tensors of two recordings, and say at which step they part.

    Tensors are matched by module and role, over the steps that both recordings have.
    """
    import tetrace
    from tetrace.fp8.comparison import compare as compared

    output.check(a, b)
    first, second = tetrace.load(a), tetrace.load(b)
    found = compared(first, second, tolerance=tolerance / 100)
    output.write(page(first, second, f"A {a.name} · B {b.name}", found, output.rows))


def page(a: Trace, b: Trace, title: str, found: Comparison, top: int) -> Page:
    """Each tensor of both, in the order in which they part."""
    from tetrace.fp8.comparison import COLUMNS, rows_of
    from tetrace.report.grid import Column
    from tetrace.report.page import Page

    shown = found.differences[: words.first(top, len(found.differences))]
    rows = tuple(_line(one) for one in shown)
    columns: tuple[Column, ...] = (Column("tensor", number=False, code=True), Column("parts at"))
    columns += tuple(Column(head, keep=keep) for head, keep in _heads(rows))
    left = len(found.differences) - len(shown)
    grid = dataclasses.replace(
        words.recorded(columns, rows),
        title=f"Tensors of both, those that part first; over {len(found.steps):,} steps but for the amax where they part",
        note=words.note(left, rows),
    )
    return Page(
        title=title,
        verdict=_verdict(found),
        said=(*_alone("A", found.only_a), *_alone("B", found.only_b), *_sampled_apart(found), *_codes(found)),
        grids=(grid,) if rows else (),
        notices=(
            *(f"A: {line}" for line in words.notices(a)),
            *(f"B: {line}" for line in words.notices(b)),
            *words.by_rows([side.scaling for one in found.differences for side in (one.a, one.b)]),
        ),
        columns=COLUMNS,
        rows=rows_of(found),
        facts={name: list(getattr(found, name)) for name in ("only_a", "only_b", "steps", "sampled_apart")},
    )


_PAIRS = (
    *(("amax there", 0), ("largest", 4), ("scale", 4), ("clipped", 1), ("at ±max", 2)),
    *(("flushed", 1), ("SNR", 3)),
)


def _heads(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[str, int]]:
    """The heads of the pairs of columns, and which are kept longest; `B` alone says nothing where its A is left out."""
    for pair, (name, keep) in enumerate(_PAIRS):
        has_a = any(row[2 + 2 * pair] != words.UNKNOWN for row in rows)
        yield f"{name} A", keep
        yield "B" if has_a or not rows else f"{name} B", keep


def _line(one: Difference) -> tuple[str, ...]:
    a, b = one.a, one.b
    return (
        one.name,
        str(one.parts_at) if one.parts_at >= 0 else "same",
        words.number(one.a_amax_there) if one.parts_at >= 0 else "",
        words.number(one.b_amax_there) if one.parts_at >= 0 else "",
        words.number(a.amax),
        words.number(b.amax),
        words.number(a.scale),
        words.number(b.scale),
        words.share(a.clipped),
        words.share(b.clipped),
        words.share(a.at_max),
        words.share(b.at_max),
        words.share(a.flushed),
        words.share(b.flushed),
        words.decibels(a.snr_db),
        words.decibels(b.snr_db),
    )


def _verdict(found: Comparison) -> str:
    if not found.steps:
        return "The recordings have no step in common, so there is nothing to compare."
    if not found.differences:
        return "The recordings have no tensor in common: modules or roles have other names."
    parted = sum(one.parts_at >= 0 for one in found.differences)
    same = f"{len(found.differences):,} tensors in {len(found.steps):,} steps"
    if found.first is None:
        return f"They do not part: amaxes of {same} are within {100 * found.tolerance:g}%."
    return (
        f"They part at step {found.first.parts_at} in {found.first.name}, then in {parted - 1:,} more of {same} "
        f"(amaxes further apart than {100 * found.tolerance:g}%)."
    )


def _sampled_apart(found: Comparison) -> list[str]:
    if not found.sampled_apart:
        return []
    many = f"{len(found.sampled_apart):,} tensor{'' if len(found.sampled_apart) == 1 else 's'}"
    return [f"A and B looked at other shares of the rows of {many} (--fp8-rows): amaxes of these are not compared"]


def _codes(found: Comparison) -> Iterator[str]:
    """Of how many tensors a side saw FP8 codes alone: what a cast clipped and flushed is not known then."""
    for side in ("a", "b"):
        many = sum(not math.isnan(getattr(one, side).at_max) for one in found.differences)
        if many:
            tensors = plural(many, "tensor")
            yield f"{side.upper()}: only the FP8 codes of {tensors} were seen; those that are the largest value are at ±max"


def _alone(side: str, names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - 5:,} more" if len(names) > 5 else ""
    return [f"only in {side}: {', '.join(names[:5])}{more}"]
