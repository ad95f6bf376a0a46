"""`tetrace fp8 tensor`: one tensor, step by step."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tetrace.cli import fp8_words as words
from tetrace.cli.pages import Output, output_options

if TYPE_CHECKING:
    from tetrace.fp8.history import History, Step
    from tetrace.report.page import Page
    from tetrace.trace.trace import Trace

_BARS = "▁▂▃▄▅▆▇█"
_GAP, _BAD = " ", "×"
_WIDEST = 80


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("name")
@output_options
def tensor(run: Path, name: str, output: Output) -> None:
    """Show one tensor by step: amax, scale, range used, what was clipped and flushed, SNR.

    NAME is a module's path, a dot, and the tensor's role in it: layers.3.mlp.fc1.weight. Where only the FP8 codes of a
    tensor were seen, what is told is how many are the format's largest value (at ±max): clipped, or just that.
    """
    import tetrace
    from tetrace.fp8.history import tensor_history

    output.check(run)
    trace = tetrace.load(run)
    output.write(page(trace, tensor_history(trace, name), output.rows))


def page(trace: Trace, found: History, top: int) -> Page:
    """Sparklines over all steps, and a table of the newest."""
    from tetrace.fp8.history import COLUMNS, rows_of
    from tetrace.report.grid import Column
    from tetrace.report.page import Page

    shown = found.steps[len(found.steps) - words.first(top, len(found.steps)) :]
    heads = (("step", 0), ("amax", 0), ("scale", 0), ("of range", 1), ("clipped", 0), ("at ±max", 0), ("flushed", 0))
    more = (("SNR dB", 1), ("next scale", 3), ("NaN", 0), ("Inf", 0), ("zeros", 2))
    columns = tuple(Column(head, keep=keep) for head, keep in (*heads, *more))
    rows = tuple(_line(step) for step in shown)
    left = len(found.steps) - len(shown)
    earlier = f"{left:,} earlier step{'' if left == 1 else 's'}: --top 0 shows all" if left else ""
    about = (found.format, found.scaling, found.dtype, found.shape, found.operation)
    # That flushing is not known is news: of most tensors it is.
    grid = words.recorded(columns, rows, always=["flushed"] if found.steps_of_codes else [])
    note = words.note(0, grid.rows)
    many = f"{len(found.steps):,} steps{_codes(found)}{_worst(found.steps)}"
    return Page(
        title=words.title(trace, found.name),
        verdict=f"{found.name}: {', '.join(word for word in about if word)}, {many}.",
        said=tuple(_sparklines(found)),
        grids=(dataclasses.replace(grid, title="By step", note="; ".join(filter(None, (earlier, note)))),),
        notices=(*words.notices(trace), *words.by_rows([found.scaling])),
        columns=COLUMNS,
        rows=rows_of(found),
        facts={
            **{name: getattr(found, name) for name in ("module", "role", "scaling", "dtype", "shape")},
            "number_format": found.format,
            "seen_as": found.source,
        },
    )


def _codes(found: History) -> str:
    """That only FP8 codes were seen, and of how many steps: what a cast lost is not known then."""
    if not found.steps_of_codes:
        return ""
    few = f" in {found.steps_of_codes:,} of them" if found.steps_of_codes < len(found.steps) else ""
    return f"; only its FP8 codes were seen{few}"


def _worst(steps: Sequence[Step]) -> str:
    """The steps in which most was clipped, flushed and not finite; nothing where none was."""
    said = []
    for word, name in (("clipped", "clipped"), ("flushed", "flushed")):
        worst = max(steps, key=lambda step: -1.0 if math.isnan(getattr(step, name)) else getattr(step, name))
        if getattr(worst, name) > 0:
            said.append(f"{word} most in step {worst.step} ({words.share(getattr(worst, name))})")
    bad = [step.step for step in steps if step.nans > 0 or step.infs > 0]
    if bad:
        said.append(f"not finite in {len(bad):,}, first in step {bad[0]}")
    return f"; {', '.join(said)}" if said else ""


def _line(step: Step) -> tuple[str, ...]:
    return (
        str(step.step),
        words.number(step.amax),
        words.number(step.scale),
        words.number(step.range_used) + "×" * (step.range_used == step.range_used),
        words.share(step.clipped),
        words.share(step.at_max),
        words.share(step.flushed),
        words.decibels(step.snr_db),
        words.number(step.next_scale),
        words.UNKNOWN if step.nans < 0 else f"{step.nans:,}",
        words.UNKNOWN if step.infs < 0 else f"{step.infs:,}",
        words.share(step.zeros),
    )


def _sparklines(found: History) -> list[str]:
    """Amax and scale over the steps, on a scale of logarithms."""
    lines = []
    bad = [step.nans > 0 or step.infs > 0 for step in found.steps]
    for name in ("amax", "scale"):
        values = [getattr(step, name) for step in found.steps]
        known = [value for value in values if value > 0 and math.isfinite(value)]
        if known and len(values) > 1:
            low, high = words.number(min(known)), words.number(max(known))
            spread = low if low == high else f"{low} to {high}"
            lines.append(f"{name:<5} {sparkline(values, bad)} {spread}")
    return lines


def sparkline(values: Sequence[float], bad: Sequence[bool] = (), width: int = _WIDEST) -> str:
    """Values as bars by their logarithm; more of them than `width` are drawn by the largest of each stretch.

    A cross is where something was not finite, a gap where nothing was measured.
    """
    bad = bad or [False] * len(values)
    many = min(len(values), width)
    cuts = [i * len(values) // many for i in range(many + 1)] if many else [0]
    stretches = [(values[a:b], any(bad[a:b])) for a, b in itertools.pairwise(cuts)]
    largest = [max((math.log2(v) for v in part if v > 0 and math.isfinite(v)), default=None) for part, _ in stretches]
    known = [value for value in largest if value is not None]
    low, spread = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)

    def bar(value: float | None, crossed: bool) -> str:
        if crossed:
            return _BAD
        if value is None:
            return _GAP
        return _BARS[round((value - low) / spread * (len(_BARS) - 1))] if spread else _BARS[0]

    return "".join(bar(value, crossed) for value, (_, crossed) in zip(largest, stretches, strict=True))
