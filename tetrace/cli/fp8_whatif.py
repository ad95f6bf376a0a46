"""`tetrace fp8 whatif`: would another recipe, format or margin have held?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli import fp8_words as words
from tetrace.cli.pages import Output, output_options
from tetrace.report.commands import with_path

if TYPE_CHECKING:
    from tetrace.fp8.whatif import WhatIf
    from tetrace.fp8.whatif_rows import Row
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace

_OVER_ALL = "shares and SNR are over all steps; the verdict counts by the worst"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, required=True, metavar="NAME=VALUE...")
@output_options
def whatif(run: Path, settings: tuple[str, ...], output: Output) -> None:
    """Say what another recipe, format or margin would have done to each tensor that was recorded.

    \b
    recipe=current|delayed|block|mxfp8  what is left out is as it ran
    format=E4M3|E5M2|HYBRID         HYBRID is E4M3 forward and E5M2 for gradients
    margin=0..16  history=1..1024  algorithm=max|most_recent    of delayed scaling
    power_of_two=yes|no             of current and block scaling

    They may be joined by commas: recipe=delayed,format=E4M3,margin=1. Saturation and underflow are bounds that hold,
    SNR is an estimate.
    """
    import tetrace
    from tetrace.fp8.settings import parse
    from tetrace.fp8.whatif import what_if

    output.check(run)
    asked = parse(settings)
    trace = tetrace.load(run)
    output.write(page(run, trace, what_if(trace, **vars(asked)), output.rows))


def page(run: Path, trace: Trace, found: WhatIf, top: int) -> Page:
    """What would be clipped and flushed, tensor by tensor, the worst first."""
    from tetrace.fp8.whatif import COLUMNS, rows_of
    from tetrace.report.grid import Column, Grid
    from tetrace.report.page import Page

    shown = found.rows[: words.first(top, len(found.rows))]
    heads = (
        *(("tensor", False, 0), ("ran", False, 2), ("what if", False, 1), ("clipped", True, 0), ("flushed", True, 0)),
        *(("SNR dB, about", True, 0), ("worst step", True, 3), ("most clipped", True, 3), ("most flushed", True, 3)),
    )
    columns = tuple(Column(head, number, keep, code=head == "tensor") for head, number, keep in heads)
    rows = tuple(_line(row) for row in shown)
    note = "; ".join(filter(None, (words.note(len(found.rows) - len(shown), rows), _OVER_ALL)))
    grid = Grid(f"Each tensor with {found.settings}", columns, rows, note=note)
    return Page(
        title=words.title(trace, str(found.settings)),
        verdict=found.verdict,
        grids=(grid,) if rows else (),
        advice=tuple(with_path(line, str(run)) for line in _advice(found)),
        notices=(*words.notices(trace), *_limits(found), *words.by_rows(_recipes(found))),
        columns=COLUMNS,
        rows=rows_of(found),
        facts={
            "settings": vars(found.settings),
            "unanswered": dict(found.unanswered),
            "wanted_history": found.wanted_history,
            "sampled": found.sampled,
            "steps_left_out": list(found.steps_left_out),
            "tensors_left_out": found.tensors_left_out,
            "steps_not_finite": list(found.steps_not_finite),
            "first_step": found.first_step and found.first_step._asdict(),
            "powers_of_two": list(found.powers_of_two),
            "clipped": vars(found.clipped),
            "flushed": vars(found.flushed),
            "snr": {"better": found.better, "worse": found.worse},
        },
    )


def _recipes(found: WhatIf) -> set[str]:
    return {recipe for row in found.rows for recipe in (row.recipe, row.ran_recipe)}


def _line(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.ran_recipe} {row.ran_format}".strip(),
        f"{row.recipe} {row.format}",
        *(
            ran if row.as_ran else _change(ran, would)  # its own histogram tells what ran no better than it was counted
            for ran, would in (
                (words.share(row.ran_clipped), words.bounds(*row.clipped)),
                (words.share(row.ran_flushed), words.bounds(*row.flushed)),
                (words.decibels(row.ran_snr_db), words.decibels(row.snr_db)),
            )
        ),
        str(row.worst_step),
        *(
            ran if row.as_ran else _change(ran, would)
            for ran, would in (
                (words.share(row.worst_ran_clipped), words.bounds(*row.worst_clipped)),
                (words.share(row.worst_ran_flushed), words.bounds(*row.worst_flushed)),
            )
        ),
    )


def _change(ran: str, would: str) -> str:
    return ran if ran == would else f"{ran} → {would}"


def _advice(found: WhatIf) -> Iterator[str]:
    """What formats and margins cannot help with."""
    from tetrace.fp8.observations import DELAYED
    from tetrace.fp8.whatif import NOTABLE_FLUSHED

    unset = [row for row in found.rows if row.unset_steps and row.worst_flushed_upper > NOTABLE_FLUSHED]
    if not unset:
        return
    lost = f"{len(unset):,} of those flushed have a step before their first scale, which is 1 then whatever margin and format"
    if any(row.ran_recipe == DELAYED for row in unset):
        yield f"{lost}: see Gradients lost in `tetrace fp8 health RUN`; recipe=current has no such step."
    else:
        # What lies behind a gradient that is lost wholly is zero, and gets its scale a step later: that did not run.
        yield f"{lost}. Steps after it can lose those behind them too, which is not recorded; recipe=current has no such step."


def _limits(found: WhatIf) -> list[str]:
    """What of the question could not be answered, or only in part."""
    lines = [
        f"{many:,} tensor{'' if many == 1 else 's'} not answered for: {why}" for why, many in found.unanswered.items()
    ]
    had = max((row.history for row in found.rows), default=0)
    if found.wanted_history > had and found.rows:
        wanted = f"an amax history of {found.wanted_history:,} steps"
        asked = f"{wanted} was asked for" if found.settings.history else f"it would have {wanted}"
        lines.append(f"{asked}, the longest recorded one has {had:,}")
    if found.steps_left_out:
        of = f"{found.tensors_left_out:,} tensor{'' if found.tensors_left_out == 1 else 's'}"
        first, last, many = found.steps_left_out[0], found.steps_left_out[-1], len(found.steps_left_out)
        steps = f"step{'' if many == 1 else 's'} {words.steps(first, last, many)}"
        lines.append(f"{steps} of {of} left out, of what ran too: what scale there would have been was not recorded")
    if found.steps_not_finite:
        one, last, many = found.steps_not_finite[0], found.steps_not_finite[-1], len(found.steps_not_finite)
        steps = f"step{'' if many == 1 else 's'} {words.steps(one, last, many)}"
        lines.append(f"{steps} left out where a tensor held a NaN or an Inf, of what ran too: see `tetrace fp8 nan`")
    lines += found.powers_of_two
    if found.sampled:
        lines.append("histograms are of a sample of each tensor's rows: bounds are estimates")
    return lines
