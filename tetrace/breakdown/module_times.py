"""Times of modules on their streams, over the sampled steps of a run that was recorded with CUDA events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.breakdown.selection import ALL, STEADY, in_slice, process_index
from tetrace.breakdown.tables import MODULE_TIMES, Table
from tetrace.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]
    Mask = npt.NDArray[np.bool_]

STEP = "(step)"


def module_times_table(attribution: Attribution, steps: str, process: int | None) -> Table:
    """The table of `steps` (`steady` leaves the declared warm-up out) and a process, or all.

    Raises `UsageError` when nothing of what was measured is left.
    """
    trace = attribution.trace
    chosen = np.flatnonzero(_chosen(attribution, steps, process))
    module, phase = (trace.column("module_times", name)[chosen].astype(np.int64) for name in ("module", "phase"))
    phases = trace.words("module_times", "phase")
    where = np.stack([trace.column("module_times", name)[chosen].astype(np.int64) for name in ("process", "step")])
    # Two models, or two wrappers, may have modules of one path: what a step spent in it is their sum.
    keys, samples = np.unique(np.stack([module * max(len(phases), 1) + phase, *where]), axis=1, return_inverse=True)
    samples = samples.reshape(-1)
    count, skipped, elapsed = (
        _summed(trace.column("module_times", name)[chosen].astype(np.int64), samples, keys.shape[1])
        for name in ("count", "skipped", "stream_elapsed_ns")
    )
    # Keys are sorted: a module's samples in a phase lie side by side.
    first = np.flatnonzero(np.append(True, keys[0][1:] != keys[0][:-1])[: keys.shape[1]])
    groups = keys[0][first]
    own = [slice(begin, end) for begin, end in zip(first, [*first[1:], keys.shape[1]], strict=False)]
    rows = [_row(elapsed[part], count[part], skipped[part]) for part in own]
    modules = trace.words("module_times", "module")
    columns = {
        "module": [modules[group // len(phases)] for group in groups.tolist()],
        "phase": [phases[group % len(phases)] for group in groups.tolist()],
        **{
            column.name: np.array([row[place] for row in rows], np.int64)
            for place, column in enumerate(MODULE_TIMES.columns[2:])
        },
    }
    table = Table(MODULE_TIMES, columns).sorted_by("mean_ns")
    is_step = np.array([name != STEP for name in table["module"]], np.bool_)
    return table.take(np.argsort(is_step, kind="stable"))


def _chosen(attribution: Attribution, steps: str, process: int | None) -> Mask:
    trace = attribution.trace
    numbers = trace.column("module_times", "step")
    if steps == ALL or not len(numbers):
        chosen = np.ones(len(numbers), np.bool_)
    elif steps == STEADY:
        chosen = numbers >= int(trace.metadata.facts.get("options", {}).get("warmup") or 0)
        chosen = chosen if chosen.any() else np.ones(len(numbers), np.bool_)
    else:
        chosen = in_slice(numbers, steps)
    if process is not None and len(numbers):
        chosen &= trace.column("module_times", "process") == process_index(attribution, process)
    if len(numbers) and not chosen.any():
        raise UsageError(
            f"--steps {steps} leaves no step of {trace.metadata.source} that was measured; they are "
            f"{numbers.min()} to {numbers.max()}, --steps all counts everything"
        )
    return chosen


def _summed(values: Integers, groups: Integers, number: int) -> Integers:
    total = np.zeros(number, np.int64)
    np.add.at(total, groups, values)
    return total


def _row(elapsed: Integers, count: Integers, skipped: Integers) -> tuple[int, ...]:
    """The numbers of the table, in its order, from those of single steps; steps with skipped calls do not count."""
    whole = np.sort(elapsed[skipped == 0])
    if not len(whole):
        return (0, len(elapsed), *(0,) * 7)
    # The least value that this share does not exceed, as numpy's quantile by "inverted_cdf", which takes much longer.
    median, p95 = (int(whole[-(-len(whole) * percent // 100) - 1]) for percent in (50, 95))
    total = int(whole.sum())
    return (
        len(whole), len(elapsed) - len(whole), int(count[skipped == 0].sum()), total, total // len(whole),
        median, p95, int(whole[0]), int(whole[-1]),
    )  # fmt: skip
