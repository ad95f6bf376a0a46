"""`tetrace fp8 whatif`: would another recipe, format or margin have held?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli import fp8_words as words
from tetrace.cli.pages import Output, output_options

if TYPE_CHECKING:
    from tetrace.fp8.whatif import Row, WhatIf
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace

# A change of SNR below this is within what the estimate is good for.
_CHANGE_DB = 1.0


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
    from tetrace.fp8.settings import parse
    from tetrace.fp8.whatif import what_if

    output.check(run)
    asked = parse(settings)
    trace = words.load(run)
    output.write(page(trace, what_if(trace, **vars(asked)), output.rows))


def page(trace: Trace, found: WhatIf, top: int) -> Page:
    """What would be clipped and flushed, tensor by tensor, the worst first."""
    from tetrace.fp8.whatif import COLUMNS, rows_of
    from tetrace.report.grid import Column, Grid
    from tetrace.report.page import Page

    shown = found.rows[: words.first(top, len(found.rows))]
    heads = (
        *(("tensor", False, 0), ("ran", False, 2), ("what if", False, 1), ("clipped", True, 0), ("flushed", True, 0)),
        *(("SNR dB, about", True, 0), ("worst step", True, 3)),
    )
    columns = tuple(Column(head, number, keep, code=head == "tensor") for head, number, keep in heads)
    rows = tuple(_line(row) for row in shown)
    grid = Grid(
        f"Each tensor with {found.settings}", columns, rows, note=words.note(len(found.rows) - len(shown), rows)
    )
    return Page(
        title=words.title(trace, str(found.settings)),
        verdict=_verdict(found),
        grids=(grid,) if rows else (),
        notices=(*trace.metadata.notices, *_limits(found)),
        columns=COLUMNS,
        rows=rows_of(found),
        facts={
            "settings": vars(found.settings),
            "unanswered": dict(found.unanswered),
            "wanted_history": found.wanted_history,
            "sampled": found.sampled,
        },
    )


def _line(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        f"{row.ran_recipe} {row.ran_format}".strip(),
        f"{row.recipe} {row.format}",
        _change(words.share(row.ran_saturated), words.bounds(row.saturated_lower, row.saturated_upper)),
        _change(words.share(row.ran_flushed), words.bounds(row.flushed_lower, row.flushed_upper)),
        _change(words.decibels(row.ran_snr_db), words.decibels(row.snr_db)),
        str(row.worst_step),
    )


def _change(ran: str, would: str) -> str:
    return ran if ran == would else f"{ran} → {would}"


def _verdict(found: WhatIf) -> str:
    from tetrace.fp8.whatif import NOTABLE

    if not found.rows:
        reasons = ", ".join(f"{reason} ({many:,} tensors)" for reason, many in found.unanswered.items())
        return f"No tensor can be answered for: {reasons or 'none was recorded before it was quantized'}."
    # The amax itself is never lost to current scaling: it may be beyond the largest value by a rounding.
    clipped = [row for row in found.rows if row.saturated_lower > 0 and row.recipe != "current"]
    flushed = [row for row in found.rows if row.flushed_lower >= NOTABLE]
    change = [row.snr_change_db for row in found.rows if math.isfinite(row.snr_change_db)]
    worse, better = sum(db <= -_CHANGE_DB for db in change), sum(db >= _CHANGE_DB for db in change)
    parts = [
        f"{len(clipped):,} of {len(found.rows):,} tensors would be clipped" + _worst(clipped, "saturated_upper"),
        f"{len(flushed):,} would lose more than {100 * NOTABLE:.0f}% to zero" + _worst(flushed, "flushed_upper"),
        f"SNR falls in {worse:,}"
        + (f" (by up to {-min(change):.0f} dB)" if worse else "")
        + f" and gains in {better:,}",
    ]
    return f"With {found.settings}: {'; '.join(parts)}."


def _worst(rows: list[Row], share: str) -> str:
    if not rows:
        return ""
    worst = max(rows, key=lambda row: float(getattr(row, share)))
    return f" ({worst.name} most, {words.share(getattr(worst, share))})"


def _limits(found: WhatIf) -> list[str]:
    """What of the question could not be answered, or only in part."""
    lines = [
        f"{many:,} tensor{'' if many == 1 else 's'} not answered for: {why}" for why, many in found.unanswered.items()
    ]
    had = max((row.history for row in found.rows), default=0)
    if found.wanted_history > had and found.rows:
        lines.append(
            f"an amax history of {found.wanted_history:,} steps was asked for, the longest recorded one has {had:,}"
        )
    if found.sampled:
        lines.append("histograms are of a sample of each tensor's rows: bounds are estimates")
    return lines
