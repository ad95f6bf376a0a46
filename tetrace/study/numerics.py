"""The section of a report on numbers: losses, what was not finite, what saturated, and shapes that FP8 refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tetrace.fp8.flags import share_words
from tetrace.fp8.nonfinite import counts
from tetrace.report.grid import Column, Grid
from tetrace.study.section import NOTHING, Section, cut, several, without_empty
from tetrace.study.stability import Numbers, Refused, numbers, refused

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration

# Problems of a configuration that its table names; the page has all.
_SHOWN = 5


def losses_section(material: Material) -> Section:
    """First and last loss of each configuration, and the first step whose loss was not finite."""
    members = [one for one in material.configurations if one.losses.by_step]
    if not members:
        return Section("losses", "Losses")
    heads = (
        Column("configuration", number=False, code=True), Column("first loss"), Column("last loss"), Column("lowest", keep=1),
        Column("steps"), Column("first not finite"),
    )  # fmt: skip
    return Section("losses", "Losses", (), (Grid("Losses by step", heads, tuple(map(_loss_row, members))),))


def _loss_row(one: Configuration) -> tuple[str, ...]:
    losses = one.losses
    finite = [loss for loss in losses.by_step if math.isfinite(loss)]
    bad = losses.first_nonfinite_step
    return (
        one.name,
        _number(losses.first),
        _number(losses.last),
        _number(min(finite) if finite else None),
        f"{len(losses.by_step):,}",
        "" if bad is None else f"step {bad}",
    )


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.4f}" if math.isfinite(value) else {math.inf: "Inf", -math.inf: "−Inf"}.get(value, "NaN")


def numbers_section(material: Material) -> Section:
    """What FP8 statistics say: the first tensor that was not finite, the largest saturation, health."""
    members = [one for one in material.recorded() if material.uses_fp8(one.name)]
    found = [(one.name, numbers(material, one.name)) for one in members]
    known = [said for _, said in found if isinstance(said, Numbers)]
    if not known and "--fp8" not in material.study.recording.arguments:
        return Section("numbers", "FP8 numbers")
    heads = (
        Column("configuration", number=False, code=True), Column("first not finite", number=False),
        Column("largest saturation", number=False), Column("health", number=False, keep=1),
    )  # fmt: skip
    rows = tuple(_numbers_row(name, said) for name, said in found)
    grids = [Grid("FP8 statistics as recorded", heads, rows)]
    more = []
    if any(said.worst for said in known):
        grids.append(_saturation_grid(known, _SHOWN))
        more.append(_saturation_grid(known, 0))
    if any(said.problems for said in known):
        grids.append(_problems_grid(known, _SHOWN))
        more.append(_problems_grid(known, 0))
    return Section("numbers", "FP8 numbers", (), tuple(grids), more=tuple(more))


def _numbers_row(name: str, said: Numbers | str) -> tuple[str, ...]:
    if isinstance(said, str):
        return (name, cut(said), "", "")
    most = said.saturated
    saturated = f"{share_words(most.share)} of {most.tensor}, step {most.step}" if most else "none"
    return (name, origin_words(said), saturated, said.verdict)


def origin_words(said: Numbers) -> str:
    """The first tensor that was not finite, in which step, and the operation that made it."""
    origin = said.origin
    if origin is None:
        checked = "" if said.checked else " of what is quantized"
        return f"none{checked} in {said.steps} steps"
    seen = origin.tensor
    if origin.made_by:
        made = f"made by {origin.made_by}"
    elif origin.before:
        made = f"after {origin.before.name} of step {origin.before.step}"
    else:
        made = "so from the first observation on"
    at = f", at {seen.operation}" if seen.operation else ""
    return f"{seen.name} at step {seen.step}{at}: {counts(seen)}, {made}"


def _saturation_grid(known: Sequence[Numbers], most: int) -> Grid:
    """The tensors of each configuration that were clipped, the worst first."""
    heads = (
        Column("configuration", number=False, code=True), Column("tensor", number=False, code=True),
        Column("most saturated"), Column("in step"), Column("clipped in"),
    )  # fmt: skip
    rows = tuple(
        (
            said.name, one.tensor, share_words(one.share), str(one.step),
            f"{one.clipped:,} of {one.observations:,} observations",
        )
        for said in known
        for one in said.worst[: most or None]
    )  # fmt: skip
    title = "Saturation by tensor, worst first" + (f": {most} of each configuration at most" if most else ", all")
    return Grid(title, heads, rows)


def _problems_grid(known: Sequence[Numbers], most: int) -> Grid:
    heads = (
        Column("configuration", number=False, code=True), Column("level", number=False), Column("problem", number=False),
        Column("tensor", number=False, code=True), Column("steps"), Column("what was seen", number=False, keep=1),
    )  # fmt: skip
    rows = []
    for said in known:
        for problem in said.problems[: most or None]:
            first, last = problem.first_step, problem.last_step
            steps = str(first) if first == last else f"{first}–{last}"
            rows.append((said.name, problem.level, problem.title, problem.name, steps, cut(problem.evidence)))
    title = "FP8 health, worst first" + (f": {most} of each configuration at most" if most else ", all problems")
    return Grid(title, heads, tuple(rows))


def shapes_section(material: Material) -> Section:
    """Dimensions that made configurations fail, and what to pad them to."""
    found: list[Refused] = [row for one in material.configurations for row in refused(material, one)]
    if not found:
        return Section("shapes", "Shapes that FP8 refuses")
    heads = (
        Column("configuration", number=False, code=True), Column("where", number=False, code=True),
        Column("dimension", number=False), Column("is"), Column("divisible by"), Column("use"),
        Column("GEMM", number=False), Column("known from", number=False, keep=1),
    )  # fmt: skip
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        said = (one.where, one.dimension, str(one.value), str(one.divisor), str(one.use), one.gemm, one.source)
        alike.setdefault(said, []).append(one.name)
    shown, lines = without_empty(heads, tuple((several(names), *said) for said, names in alike.items()))
    rules = "By the rules of Transformer Engine's FP8 GEMMs (tetrace fp8 shapes): the next value that fits is what to pad to."
    return Section("shapes", "Shapes that FP8 refuses", (rules,), (Grid("Dimensions that FP8 refuses", shown, lines),))
