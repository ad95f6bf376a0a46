"""What changed from one run to another, and where: the accounts of both, subtracted, in every way one may ask.

Differences are of integer totals over the used steps, each divided by their number, as exact rationals: every table adds
up to the difference of what it splits, and that is asserted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute.distinct import sums
from tetrace.breakdown.account import BUSY, FUSED, IDLE, Account, Line, account
from tetrace.breakdown.changes import ALL_BUSY, ALL_IDLE, BOTH_KINDS, NOISE, SAME, Change, Changes
from tetrace.breakdown.lengths import WHOLE_STEP, Lengths, part_of
from tetrace.breakdown.matching import Match, match_kernels
from tetrace.breakdown.noise import Noise, Series, noise
from tetrace.breakdown.pace import Pace, pace
from tetrace.errors import ConservationError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from tetrace.breakdown.analysis import Breakdown

    Times = npt.NDArray[np.int64]
    Key = Callable[[Line, Match], "tuple[str, ...] | None"]
    # By phase, or of `WHOLE_STEP` alone; None where it is not the clock that sets a length.
    Paces = Mapping[str, Pace | None]

STEP, PARTS, CAUSES_OF_CHANGE = "step", "parts", "rows"
# Cells of a matrix of rows and steps that are held at once.
_CELLS = 1 << 22
# Causes of idle time that the floor of launch latency tells apart.
_CUT_BY_FLOOR = ("launch_latency", "queued", "unexplained")


@dataclass(frozen=True)
class Comparison:
    """One run against another. `a` is what is compared with, `b` what is compared; `tables` by name.

    `step` is the change of the whole step. `noise` is None where a run has too few steps to tell. `paces` are those of either
    run by what of a step is of one length, which its noise is of; empty where the lengths of no steps are known.
    """

    names: tuple[str, str]
    breakdowns: tuple[Breakdown, Breakdown]
    step: Change
    tables: dict[str, Changes]
    paces: tuple[Paces, Paces] = field(default_factory=lambda: ({}, {}))

    @property
    def difference_ns(self) -> Fraction:
        """By how much an average step takes longer."""
        return self.step.difference_ns

    @cached_property
    def parts(self) -> dict[str, Fraction]:
        """Differences of `gemm` and so on for the GPU, and of `launches` and so on for idle time; they add up to the
        step's. Launches are what the GPU idles because the host was late, and the latency of launches."""
        found: dict[str, Fraction] = {}
        for name, row in self._rows_of_parts():
            found[name] = found.get(name, Fraction(0)) + row.difference_ns
        return found

    @cached_property
    def unsure_parts(self) -> frozenset[str]:
        """The parts of which no row differs by more than noise, though it differs."""
        rows = list(self._rows_of_parts())
        told = {name for name, row in rows if row.verdict not in (NOISE, SAME)}
        return frozenset(name for name, row in rows if row.verdict == NOISE) - told

    def _rows_of_parts(self) -> Iterator[tuple[str, Change]]:
        for row in self.tables[PARTS].rows:
            kind, what = row.labels
            yield _LAUNCHES if kind == IDLE and what in ("host_bound", "launch_latency") else what, row


_LAUNCHES = "launches"


def compare(
    a: Breakdown, b: Breakdown, names: tuple[str, str] = ("", ""), *, lengths: Lengths | None = None
) -> Comparison:
    """What changed from `a` to `b`. `names` are what to call them; empty: the names of their files.

    `lengths` are for whoever knows by other means how long steps are. Where the GPU's clock sets that (`pace.py`), noise is that
    of steps as long as the average one: the whole step has no noise then. Where it does not in both runs, noise is that of
    such phases, if no other one is recorded. Raises `UsageError` where a run has no GPU activity.
    """
    return compare_all([a, b], names, lengths=lengths)[0]


def compare_all(
    runs: Sequence[Breakdown], names: Sequence[str] = (), *, lengths: Lengths | None = None
) -> tuple[Comparison, ...]:
    """Every run but the first against the first; `lengths` as above."""
    for run in runs:
        if not hasattr(run, "attribution"):
            raise UsageError(f"compare takes what tetrace.analyze(trace) returns, not a {type(run).__name__}")
    said = [name or run.attribution.trace.metadata.source for name, run in zip(_padded(names, runs), runs, strict=True)]
    for name, run in zip(said, runs, strict=True):
        if not run.totals.activities:
            raise UsageError(
                f"{name}: holds no GPU activity to compare; record it on a GPU, with nsys or --collector cupti"
            )
        if run.selection.per_step != runs[0].selection.per_step:
            raise UsageError(f"{name}: --steps all cannot be compared with single steps")
    with ThreadPoolExecutor(2) as pool:
        # Nearly all of the work leaves the interpreter's lock.
        own = {id(run): run for run in runs}
        accounts = dict(zip(own, pool.map(account, own.values()), strict=True))
    first, *others = (accounts[id(run)] for run in runs)
    return tuple(
        _compared(first, other, (said[0], name), (runs[0], run), lengths)
        for other, name, run in zip(others, said[1:], runs[1:], strict=True)
    )


def _padded(names: Sequence[str], runs: Sequence[Breakdown]) -> list[str]:
    return [*names, *[""] * (len(runs) - len(names))]


def _compared(
    a: Account, b: Account, names: tuple[str, str], runs: tuple[Breakdown, Breakdown], lengths: Lengths | None
) -> Comparison:
    matches = match_kernels(a, b)
    groups = [_Groups.of(view, (a, b), matches) for view in VIEWS]
    paces = ({}, {}) if lengths is None else _paces((a, b), lengths)
    rows = _changes((a, b), groups, paces)
    tables = {}
    for view, group in zip(VIEWS, groups, strict=True):
        own, rows = rows[: len(group.labels)], rows[len(group.labels) :]
        tables[view.name] = Changes(view.name, view.title, view.keys, view.whole, own)
    (step,) = tables.pop(STEP).rows
    comparison = Comparison(names, runs, step, tables, paces)
    _check(comparison)
    return comparison


def _paces(both: tuple[Account, Account], lengths: Lengths) -> tuple[Paces, Paces]:
    recorded = {line.phase for one in both for line, ns in zip(one.lines, _ns_of_lines(one), strict=True) if ns}
    parts = {
        part: {phase for phase in recorded if part_of(phase, lengths.phases_ns) == part} for part in lengths.phases_ns
    }
    first, second = ({WHOLE_STEP: pace(one)} for one in both)
    # One clock is behind all phases: all of a step tells it best.
    if None not in (first[WHOLE_STEP], second[WHOLE_STEP]):
        return first, second
    if not all(parts.values()) or recorded != set().union(*parts.values()):
        first, second = ({WHOLE_STEP: pace(one, length_ns=ns)} for one, ns in zip(both, lengths.step_ns, strict=True))
        return first, second
    first, second = (
        {part: pace(one, phases, lengths.phases_ns[part][side]) for part, phases in parts.items()}
        for side, one in enumerate(both)
    )
    return first, second


def _ns_of_lines(one: Account) -> Times:
    return sums(one.line, len(one.lines), one.ns)


@dataclass(frozen=True)
class View:
    """A way to split the account: `key` gives the labels of a line's row, None for lines that are not in the table.

    `by_cause`: what the floor of launch latency tells apart are different rows, so that the floor makes a difference.
    """

    name: str
    title: str
    keys: tuple[str, ...]
    whole: str
    key: Key
    by_cause: bool = False


@dataclass(frozen=True)
class _Groups:
    """Rows of one table: their labels, and the row of each line of both accounts (-1 none)."""

    labels: list[tuple[str, ...]]
    of_line: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
    by_cause: bool

    @staticmethod
    def of(view: View, accounts: tuple[Account, Account], matches: tuple[list[Match], list[Match]]) -> _Groups:
        places: dict[tuple[str, ...], int] = {}
        rows_of = []
        for one, match in zip(accounts, matches, strict=True):
            keys = [view.key(line, found) for line, found in zip(one.lines, match, strict=True)]
            rows = [-1 if said is None else places.setdefault(said, len(places)) for said in keys]
            rows_of.append(np.array(rows, np.int32))
        return _Groups(list(places), (rows_of[0], rows_of[1]), view.by_cause)


def _changes(
    accounts: tuple[Account, Account], groups: list[_Groups], paces: tuple[Paces, Paces]
) -> tuple[Change, ...]:
    """The rows of all tables, one table after the other: noise is worked out for all of them at once."""
    labels = [label for group in groups for label in group.labels]
    sides = [_Side.of(accounts[i], groups, i, paces[i]) for i in (0, 1)]
    a, b = sides
    known = noise(a.series, b.series) if all(one.breakdown.selection.per_step for one in accounts) else None
    half = _with_the_floors(known, a, b) if known else None
    steps = (a.steps, b.steps)
    return tuple(
        Change(
            labels=label,
            steps=steps,
            total_ns=(a.total_ns[i], b.total_ns[i]),
            work_ns=(a.work_ns[i], b.work_ns[i]),
            count=(a.count[i], b.count[i]),
            median_ns=(a.median_ns[i], b.median_ns[i]),
            noise_ns=(float(half.a[i]), float(half.b[i])) if half else None,
            difference_noise_ns=float(half.difference[i]) if half else None,
        )
        for i, label in enumerate(labels)
    )


def _with_the_floors(known: Noise, a: _Side, b: _Side) -> Noise:
    """Noise of the rows, with that of the launch latencies' floors (the last row) for every stretch that they cut."""
    cut = np.maximum(a.cut_by_floor, b.cut_by_floor)
    return Noise(
        known.a[:-1] + a.cut_by_floor * known.a[-1],
        known.b[:-1] + b.cut_by_floor * known.b[-1],
        known.difference[:-1] + cut * known.difference[-1],
    )


@dataclass(frozen=True)
class _Side:
    """One run by the rows of all tables. `series` has a last row more, the launch latency, and parts of one length where
    they have a pace; `cut_by_floor` says how many idle stretches of a step in each row depend on its median."""

    steps: int
    total_ns: list[int]
    work_ns: list[int]
    count: list[int]
    median_ns: list[Fraction]
    series: Series
    cut_by_floor: npt.NDArray[np.float64]

    @staticmethod
    def of(one: Account, groups: list[_Groups], side: int, paces: Paces) -> _Side:
        rows = sum(len(group.labels) for group in groups)
        total, work, count, cut = (np.zeros(rows, np.int64) for _ in range(4))
        by_floor = np.array([line.category in _CUT_BY_FLOOR for line in one.lines], np.bool_) * one.count
        periods = int(one.period.max(initial=-1)) + 1
        series, medians, first = np.zeros((rows + 1, periods)), [], 0
        known = [one.to_average_ns for one in paces.values() if one is not None]
        to_average_ns = sum(known[1:], known[0]) if known else None
        for group in groups:
            of_line, size = group.of_line[side], len(group.labels)
            here = slice(first, first + size)
            total[here] = sums(*_kept(of_line[one.line], size, one.ns))
            work[here] = sums(*_kept(of_line, size, one.work_ns))
            count[here] = sums(*_kept(of_line, size, one.count))
            if group.by_cause:
                cut[here] = sums(*_kept(of_line, size, by_floor))
            medians += _medians(one, size, of_line, series[here])
            if to_average_ns is not None:
                row = of_line[one.line]
                kept = row >= 0
                np.add.at(series[here], (row[kept], one.period[one.frame[kept]]), to_average_ns[kept])
            first += size
        lanes = np.bincount(one.period, minlength=periods).astype(np.float64)
        np.add.at(series[-1], one.period, one.latency_ns)
        return _Side(
            steps=one.frames,
            total_ns=total.tolist(),
            work_ns=work.tolist(),
            count=count.tolist(),
            median_ns=medians,
            series=Series(series, lanes),
            cut_by_floor=cut / max(one.frames, 1),
        )


def _kept(row: npt.NDArray[np.int32], size: int, values: Times) -> tuple[npt.NDArray[np.int32], int, Times]:
    kept = row >= 0
    return (row, size, values) if kept.all() else (row[kept], size, values[kept])


def _medians(
    one: Account, size: int, of_line: npt.NDArray[np.int32], series: npt.NDArray[np.float64]
) -> list[Fraction]:
    """Medians of the rows over the steps of all lanes; fills `series`, shape (rows, periods)."""
    row, medians = of_line[one.line], []
    at_once = max(_CELLS // max(one.frames, 1), 1)
    one_lane = np.array_equal(one.period, np.arange(one.frames))
    for start in range(0, size, at_once):
        end = min(start + at_once, size)
        part = np.flatnonzero((row >= start) & (row < end))
        cells = (row[part] - start).astype(np.int64) * one.frames + one.frame[part]
        # Sums below 2^53 ns are exact as floats, and a step does not last a hundred days.
        matrix = np.bincount(cells, one.ns[part], (end - start) * one.frames).reshape(end - start, one.frames)
        if one_lane:
            series[start:end] = matrix
        else:
            np.add.at(series[start:end].T, one.period, matrix.T)
        medians += [Fraction(twice, 2) for twice in _twice_the_median(matrix)]
    return medians


def _twice_the_median(matrix: npt.NDArray[Any]) -> list[int]:
    """Twice the medians of rows of whole numbers: whole numbers themselves."""
    middle = [(matrix.shape[1] - 1) // 2, matrix.shape[1] // 2]
    parted = np.partition(matrix, middle, axis=1)
    return (parted[:, middle[0]] + parted[:, middle[1]]).astype(np.int64).tolist()


def _check(comparison: Comparison) -> None:
    """Every table adds up to the difference of what it splits."""
    a, b = (run.totals for run in comparison.breakdowns)
    steps = comparison.step.steps
    wholes = {
        BOTH_KINDS: Fraction(b.wall_ns, steps[1]) - Fraction(a.wall_ns, steps[0]),
        ALL_BUSY: Fraction(b.busy_ns, steps[1]) - Fraction(a.busy_ns, steps[0]),
        ALL_IDLE: Fraction(b.all_idle_ns, steps[1]) - Fraction(a.all_idle_ns, steps[0]),
    }
    for table in comparison.tables.values():
        if table.whole and table.difference_ns != wholes[table.whole]:
            raise ConservationError(
                f"{' and '.join(comparison.names)}: {table.name} differ by {float(table.difference_ns)} ns a step, their "
                f"{table.whole} time by {float(wholes[table.whole])} ns; please report this"
            )


def _row(line: Line, match: Match) -> tuple[str, ...]:
    name = match.words if line.kind == BUSY else line.name
    return (line.kind, line.category, line.phase, name)


def _kernel(line: Line, match: Match) -> tuple[str, ...] | None:
    return (line.category, line.phase, match.role, match.before, match.after) if line.kind == BUSY else None


def _quantization(line: Line, _match: Match) -> tuple[str, ...] | None:
    if line.kind == IDLE:
        return ("host", line.name, "", line.phase) if line.quantizes else None
    fused = f"{line.category} {line.operation}".strip() if line.quantizes == FUSED else line.operation
    return (line.quantizes, fused, line.role, line.phase) if line.quantizes else None


def _idle(line: Line, _match: Match) -> tuple[str, ...] | None:
    return (line.category, line.phase, line.name, line.module) if line.kind == IDLE else None


def _of_category(category: str, *fields: str) -> Key:
    def key(line: Line, _match: Match) -> tuple[str, ...] | None:
        if line.kind != BUSY or line.category != category:
            return None
        return tuple(getattr(line, name) for name in fields)

    return key


VIEWS: tuple[View, ...] = (
    View(STEP, "Step", (), BOTH_KINDS, lambda line, match: ()),
    View(
        PARTS,
        "Step time by category and cause",
        ("kind", "part"),
        BOTH_KINDS,
        lambda line, match: (line.kind, line.category),
        by_cause=True,
    ),
    View(CAUSES_OF_CHANGE, "What changed", ("kind", "part", "phase", "name"), BOTH_KINDS, _row, by_cause=True),
    View("phases", "Phases", ("phase", "kind"), BOTH_KINDS, lambda line, match: (line.phase, line.kind)),
    View("modules", "Modules", ("module", "kind"), BOTH_KINDS, lambda line, match: (line.module, line.kind)),
    View("kernels", "Kernels", ("category", "phase", "role", "before", "after"), ALL_BUSY, _kernel),
    View(
        "idle",
        "Idle time and the host ranges it is charged to",
        ("cause", "phase", "range", "module"),
        ALL_IDLE,
        _idle,
        by_cause=True,
    ),
    View("quantization", "Quantization", ("part", "operation", "role", "phase"), "", _quantization),
    View("formats", "GEMMs by format", ("formats",), "", _of_category("gemm", "formats")),
    View("attention", "Attention", ("kernel", "phase"), "", _of_category("attention", "name", "phase")),
)
