"""What ranks hold each other back with: one that arrives late at collectives, and communication that nothing hides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tetrace.breakdown.finding import OF_WALL, Finding, step_word
from tetrace.breakdown.without_recorder import plain_step
from tetrace.units import duration, percent

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

# From this share of wall on, waiting for a rank is the verdict.
_WAITS = 0.15


def late_rank(breakdown: Breakdown) -> str:
    """The verdict when ranks wait long for one of them; empty otherwise."""
    lanes = breakdown.tables["lanes"]
    waiting, wall = lanes["waiting_ns"], lanes["wall_ns"]
    if len(lanes) < 2 or (waiting < 0).any() or waiting.max() < _WAITS * wall.max():
        return ""
    late, steps = int(waiting.argmin()), max(int(lanes["steps"].max()), 1)
    others = waiting.sum() - waiting[late]
    longest = duration(int(others) // (len(lanes) - 1) // steps)
    step = (
        f"a step of {duration(int(wall.max()) // steps)}" if breakdown.selection.per_step else duration(int(wall.max()))
    )
    plain = plain_step(breakdown)
    without = f"; without the recorder a step takes {duration(plain.plain_ns)}" if plain else ""
    return (
        f"Held back by one rank: {_who(breakdown, late)} on device {lanes['device'][late]} arrives last at collectives, "
        f"the others wait {longest} for it in {step}; {_why_late(breakdown, late)}{without}."
    )


def _who(breakdown: Breakdown, lane: int) -> str:
    """The process of a lane: `rank 1 (pid 2034)`, or by its id alone."""
    lanes = breakdown.tables["lanes"]
    pid, rank = int(lanes["pid"][lane]), int(lanes["rank"][lane])
    return f"pid {pid}" if rank < 0 else f"rank {rank} (pid {pid})"


def _why_late(breakdown: Breakdown, late: int) -> str:
    """Whether the late rank's GPU works longer than the others', or its host keeps it waiting."""
    lanes = breakdown.tables["lanes"]
    works = lanes["busy_ns"] - lanes["exposed_communication_ns"]
    others = [i for i in range(len(lanes)) if i != late]
    longer = int(works[late]) - int(works[others].mean())
    if longer > 0.3 * int(lanes["waiting_ns"][others].mean()):
        return f"its GPU computes {duration(longer // max(int(lanes['steps'][late]), 1))} longer than theirs"
    idle = percent(int(lanes["host_bound_ns"][late]), int(lanes["wall_ns"][late]))
    caveat = ", which the recorder lengthens: time steps without it" if not plain_step(breakdown) else ""
    return f"its host leaves it idle {idle} of the time{caveat}"


def communication_findings(breakdown: Breakdown) -> Iterator[Finding]:
    """Communication that nothing hides, and ranks that wait for the last one."""
    wall, table = breakdown.totals.wall_ns, breakdown.tables["communication"]
    # Waiting for a late rank is a finding of its own; where ranks cannot be matched it is in here, and the line says so.
    known = len(table) > 0 and bool((table["waiting_ns"] >= 0).all())
    waited = int(table["waiting_ns"].sum()) if known else 0
    ns = max(breakdown.totals.exposed_communication_ns - waited, 0)
    if ns >= OF_WALL * wall and ns:
        yield Finding(
            "exposed_communication",
            breakdown.totals.per_step(ns),
            "communication that nothing hides",
            f"{percent(ns, wall)} of wall runs communication alone"
            + ("" if known else ", waiting for other ranks included"),
            "larger buckets, overlap with backward, fewer bytes",
        )
    lanes = breakdown.tables["lanes"]
    waiting = lanes["waiting_ns"]
    if len(lanes) < 2 or (waiting < 0).any() or waiting.max() < OF_WALL * max(lanes["wall_ns"].max(), 1):
        return
    longest, late = int(waiting.argmax()), int(waiting.argmin())
    yield Finding(
        "straggler",
        int(waiting[longest]) // max(int(lanes["steps"][longest]), 1),
        "ranks wait for the last one",
        f"{_who(breakdown, longest)} spends {percent(int(waiting[longest]), int(lanes['communication_ns'][longest]))} of its "
        f"communication until the last rank arrives, {_who(breakdown, late)} least",
        f"see what holds {_who(breakdown, late)} back: --process {lanes['pid'][late]}",
    )


def amax_findings(breakdown: Breakdown) -> Iterator[Finding]:
    """FP8's reductions of amax values, apart from waiting in them where that is known."""
    table = breakdown.tables["communication"]
    rows = [i for i, operation in enumerate(table["operation"]) if operation == "amax_reduce"]
    waits = table["waiting_ns"][rows]
    known = bool((waits >= 0).all())
    waited = int(waits.sum()) if known else 0
    ns, count = int(table["total_ns"][rows].sum()) - waited, int(table["count"][rows].sum())
    if count:
        waiting = f"and {duration(breakdown.totals.per_step(waited))} waiting in them for the last rank"
        yield Finding(
            "amax_reduction",
            breakdown.totals.per_step(ns),
            "amax values are reduced across ranks",
            f"{count / max(breakdown.totals.steps, 1):.0f} all-reduces {step_word(breakdown)} of a few bytes each, "
            + (waiting if known else "waiting for the last rank included"),
            "a smaller amax_reduction_group, or current scaling",
        )
