"""What a recording without a GPU says first: what a step takes the host, or why nothing was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.vocabulary import INSPECTION_MODULE
from tetrace.breakdown.selection import STEADY
from tetrace.units import duration, steps_until_end, three_digits

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.tables import Table

_PHASES = ("forward", "backward", "optimizer")


def host_verdict(breakdown: Breakdown) -> str:
    """The verdict of a recording without GPU activities, of its steps by the host's clock."""
    if not len(breakdown.tables["host_modules"]):
        return _nothing_in_the_window(breakdown) or "No GPU activity was captured, so there is nothing to break down."
    steps = breakdown.tables["host_steps"]
    used = steps.take(np.flatnonzero(steps["used"] == 1))
    if not len(used):
        return "No GPU was captured: what follows is the time of the host."
    wall = used["wall_ns"]
    takes = f"a step takes {duration(float(np.median(wall)))}"
    if len(used) > 1:
        processes = len(np.unique(used["process"]))
        several = f" in {processes} processes" if processes > 1 else ""
        takes += f" (median of {len(used)} steps{several}), {duration(float(wall.mean()))} on average"
    return (
        f"No GPU was captured, these are the host's times: {takes}{_phases(used)}.{_inspection(breakdown, len(used))}"
    )


def _phases(used: Table) -> str:
    """The phases of an average step, and what is left of it where no two of them ran at once."""
    if any((used[f"{phase}_ns"] < 0).any() for phase in _PHASES):
        return ""
    sums = {phase: int(used[f"{phase}_ns"].sum()) for phase in _PHASES}
    left = int(used["wall_ns"].sum()) - sum(sums.values())
    if left > 0:
        sums["all else"] = left
    words = (f"{name} {three_digits(ns / len(used) / 1e6)}" for name, ns in sums.items() if ns)
    return f": {', '.join(words)} ms"


def _inspection(breakdown: Breakdown, steps: int) -> str:
    """What tetrace's own look at FP8 took of the steps: without a GPU it computes on the host."""
    modules = breakdown.tables["host_modules"]
    own = modules["self_ns"][np.array([word == INSPECTION_MODULE for word in modules["module"]], np.bool_)]
    return (
        f" Of an average step tetrace's own FP8 inspection is {duration(float(own.sum()) / steps)}."
        if own.sum()
        else ""
    )


def _nothing_in_the_window(breakdown: Breakdown) -> str:
    """Why nothing was recorded, by the steps that were asked for and the last one that ran; empty where that is not it."""
    options = breakdown.attribution.trace.metadata.facts.get("options", {})
    steps = breakdown.tables["host_steps"]
    if not options or not len(steps) or options.get("seconds") is not None:
        return ""
    first, end, last = int(options.get("first_step") or 0), options.get("last_step"), int(steps["step"].max())
    wanted = f"{first}:{'' if end is None else end}"
    if last < first:
        said = f"The steps {wanted} that were asked for were never reached: the script ended {steps_until_end(last)}"
        whole = steps["wall_ns"][(steps["used"] == 1) & (steps["step"] < last)]
        return said + (f"; a step took the host {duration(float(np.median(whole)))}." if len(whole) else ".")
    until = f"until the script ended, {steps_until_end(last)}"
    return f"Nothing was recorded in the steps {wanted}: no module was called {until}."


def missed_window(breakdown: Breakdown) -> str:
    """That nothing was recorded in the later steps that were asked for, and the way out; empty where something was."""
    options = breakdown.attribution.trace.metadata.facts.get("options", {})
    if breakdown.totals.activities or len(breakdown.tables["host_modules"]) or not options.get("first_step"):
        return ""
    nothing = _nothing_in_the_window(breakdown)
    return nothing and f"{nothing.rstrip('.')}; {other_window(breakdown)}"


def other_window(breakdown: Breakdown) -> str:
    """Which steps to record instead, by those that ran."""
    last = int(breakdown.tables["host_steps"]["step"].max())
    return f"record {f'with --steps within 0:{last}, or ' if last else ''}without --steps"


def is_one_step(breakdown: Breakdown) -> bool:
    """Whether a run with several calls of backward, or of a module without any, has one step: no optimizer drove a loop."""
    steps, modules = breakdown.tables["host_steps"], breakdown.tables["host_modules"]
    if not len(steps) or int(steps["step"].max()) > 0:
        return False
    backwards = int(steps["backwards"].max())
    return backwards > 1 or (backwards == 0 and int(modules["calls"].max(initial=0)) > 1)


def warm_up(breakdown: Breakdown) -> int:
    """Below which step all counted ones are, where `--warmup` left no other; 0 where it did."""
    declared = int(breakdown.attribution.trace.metadata.facts.get("options", {}).get("warmup") or 0)
    if breakdown.totals.activities:
        if breakdown.selection.steps_option != STEADY:
            return 0
        frames = breakdown.selection.frames.step
        numbers = breakdown.attribution.steps.number[frames[frames >= 0]]
    else:
        steps = breakdown.tables["host_steps"]
        numbers = steps["step"][(steps["used"] == 1) & (steps["forward_ns"] >= 0)]
    return declared if len(numbers) and int(numbers.max()) < declared else 0
