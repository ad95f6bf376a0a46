"""Why one configuration is faster than another: the difference of their recordings, charged to kernels and host ranges.

Rows of `tetrace diff` are put together where they are one cause to a reader: the same kernels, or the same host range of
all layers; causes of a kind are a group. Either adds up to the recorded difference exactly, as rationals of nanoseconds,
and that is asserted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import NOISE, TOO_FEW
from tetrace.breakdown.compare import CAUSES_OF_CHANGE, Comparison, compare
from tetrace.breakdown.launch import NO_RANGE, QUANTIZING_RANGE, STEP_RANGE
from tetrace.errors import ConservationError
from tetrace.report.diff import sentence

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.changes import Change

# Groups that together are less than this share of the difference may be one row: no row may hide more.
WORTH_A_ROW = Fraction(1, 20)
# A difference of less than this share of all changes is what is left of their cancelling out: shares of it say nothing.
_CANCELS_OUT = Fraction(1, 10)
# What `tetrace record --fp8` adds to a run, and a run without it does not do.
OWN_KERNELS = "tetrace's own FP8 statistics"
_WAITING = {
    "host_bound": "GPU waits for the host",
    "launch_latency": "GPU waits for a launch",
    "synchronization": "GPU waits, the host synchronizes",
    "dependency": "GPU waits for another stream",
    "graph": "GPU waits inside CUDA graphs",
    "profiler": "GPU waits for the recorder",
    "unexplained": "GPU waits, unexplained",
}
# `layers.3.mlp` and `layers.4.mlp` are one place in a model; `4.0.0b11` and `v2.8` are versions.
_VERSION = re.compile(r"v\d+")
_DOTTED = re.compile(r"(?<![\w.])[\w.]+(?![\w.])")
_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
# Calls that tetrace's instrumentation names by what they do and the tensor's role: `layernorm_fwd input`, `quantize weight`.
_QUANTIZING = re.compile(r"quantize|scale update|^\S+ (input|weight|grad_output)$")


@dataclass(frozen=True)
class Cause:
    """What took another time, in a phase. `name` is the kernels, before → after where others replace them, or the host
    range that the GPU waited for; `group` what it is counted under. Times and counts are those of an average step."""

    kind: str
    group: str
    phase: str
    name: str
    before_ns: Fraction
    after_ns: Fraction
    count: tuple[Fraction, Fraction]

    @property
    def difference_ns(self) -> Fraction:
        """By how much it takes longer in the second run."""
        return self.after_ns - self.before_ns


@dataclass(frozen=True)
class Group:
    """Causes of one kind, the largest first: a category of kernels, or why the GPU waited and what the host did then."""

    name: str
    causes: tuple[Cause, ...]

    @cached_property
    def before_ns(self) -> Fraction:
        """What they take together in the first run."""
        return sum((cause.before_ns for cause in self.causes), Fraction(0))

    @cached_property
    def after_ns(self) -> Fraction:
        """What they take together in the second run."""
        return sum((cause.after_ns for cause in self.causes), Fraction(0))

    @property
    def difference_ns(self) -> Fraction:
        """By how much they take longer in the second run."""
        return self.after_ns - self.before_ns


@dataclass(frozen=True)
class Explanation:
    """The recordings of two configurations, `names`, against each other: `causes` are all, the largest first.

    `step_ns` and `busy_ns` are those of an average recorded step of either, `parts_ns` the differences by category, with
    `launches` for the time that the GPU waits for the host or a launch. `verdict` says whether it is more than noise;
    `timed_ns` are those of a step of either as it was timed without a recorder, None where one was not.
    """

    names: tuple[str, str]
    sentence: str
    verdict: str
    step_ns: tuple[Fraction, Fraction]
    busy_ns: tuple[Fraction, Fraction]
    causes: tuple[Cause, ...]
    parts_ns: Mapping[str, Fraction]
    timed_ns: tuple[float, float] | None = None

    @property
    def difference_ns(self) -> Fraction:
        """By how much a recorded step takes longer in the second run."""
        return self.step_ns[1] - self.step_ns[0]

    @property
    def explains(self) -> bool:
        """Whether the recorded difference can explain the timed one: it is more than noise, of the same sign, and off by no
        more than the timed difference."""
        if self.verdict in (NOISE, TOO_FEW):
            return False
        if self.timed_ns is None:
            return True
        timed, recorded = self.timed_ns[1] - self.timed_ns[0], float(self.difference_ns)
        if not timed or not recorded:
            return timed == recorded
        return timed * recorded > 0 and abs(recorded - timed) <= abs(timed)

    @cached_property
    def changed_ns(self) -> Fraction:
        """The differences of all groups without their signs."""
        return _changed(self.groups)

    @property
    def has_shares(self) -> bool:
        """Whether shares of the difference say anything: not where it is noise, or changes cancel out."""
        return self.verdict != NOISE and abs(self.difference_ns) >= _CANCELS_OUT * self.changed_ns

    @property
    def kernels(self) -> tuple[Cause, ...]:
        """The causes in which the GPU works."""
        return tuple(cause for cause in self.causes if cause.kind == BUSY)

    @property
    def work_ns(self) -> tuple[Fraction, Fraction]:
        """What the GPU works in an average step of either run, without what the recorder launched."""
        own = [group for group in self.groups if group.name == OWN_KERNELS]
        before, after = (sum((getattr(one, name) for one in own), Fraction(0)) for name in ("before_ns", "after_ns"))
        return self.busy_ns[0] - before, self.busy_ns[1] - after

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """All causes by group, the largest first."""
        return grouped(self.causes)

    def groups_of(self, phase: str) -> tuple[Group, ...]:
        """The causes of one phase by group, the largest first."""
        return grouped([cause for cause in self.causes if cause.phase == phase])

    def rows(self) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        """The groups worth a row of their own, and those that are one together: 5% of the difference at most, or of all
        changes where shares of the difference say nothing."""
        enough = WORTH_A_ROW * (abs(self.difference_ns) if self.has_shares else self.changed_ns)
        shown = list(self.groups)
        left: list[Group] = []
        while shown and _changed([shown[-1], *left]) <= enough:
            left.insert(0, shown.pop())
        return (tuple(shown), tuple(left)) if len(left) > 1 else ((*shown, *left), ())


def grouped(causes: Iterable[Cause]) -> tuple[Group, ...]:
    """Causes by group, the largest first."""
    found: dict[str, list[Cause]] = {}
    for cause in causes:
        found.setdefault(cause.group, []).append(cause)
    groups = [Group(name, tuple(members)) for name, members in found.items()]
    return tuple(sorted(groups, key=lambda group: (-abs(group.difference_ns), group.name)))


def quotable(explanation: Explanation, phase: str = "") -> Sequence[Group]:
    """The groups that may be quoted as what makes the timed difference, of one phase where it is named, the largest first:
    all that the recorder did not add, or only those in which the GPU works where the recorded difference does not explain
    the timed one (then the recorder decides how long the GPU waits for the host)."""
    groups = explanation.groups_of(phase) if phase else explanation.groups
    own = [group for group in groups if group.name != OWN_KERNELS]
    return own if explanation.explains else [group for group in own if group.causes[0].kind == BUSY]


def explain(
    a: Breakdown, b: Breakdown, names: tuple[str, str], timed_ns: tuple[float, float] | None = None
) -> Explanation:
    """Why `b` takes another time than `a`; `timed_ns` are their steps without a recorder. Raises `UsageError` where one
    holds no GPU activity, `ConservationError` where the causes are not the difference."""
    comparison = compare(a, b, names)
    totals, steps = [run.totals for run in (a, b)], comparison.step.steps
    made = Explanation(
        names=comparison.names,
        sentence=sentence(comparison, {"launches": "waiting for launches"}),
        verdict=comparison.step.verdict,
        step_ns=comparison.step.per_step_ns,
        busy_ns=(Fraction(totals[0].busy_ns, steps[0]), Fraction(totals[1].busy_ns, steps[1])),
        causes=tuple(sorted(_causes(comparison), key=_largest_first)),
        parts_ns=comparison.parts,
        timed_ns=timed_ns,
    )
    _check(made)
    return made


def _causes(comparison: Comparison) -> Iterable[Cause]:
    found: dict[tuple[str, str, str, str], list[Fraction]] = {}
    for key, row in _keys(comparison):
        sums = found.setdefault(key, [Fraction(0)] * 4)
        counts = (Fraction(number, steps) for number, steps in zip(row.count, row.steps, strict=True))
        for place, value in enumerate((*row.per_step_ns, *counts)):
            sums[place] += value
    for (kind, group, phase, name), (before, after, *count) in found.items():
        yield Cause(kind, group, phase, name, before, after, (count[0], count[1]))


def _keys(comparison: Comparison) -> Iterable[tuple[tuple[str, str, str, str], Change]]:
    """Rows of busy time by kernel and of idle time by host range: together all of both steps."""
    for row in comparison.tables[CAUSES_OF_CHANGE].rows:
        kind, category, phase, name = row.labels
        if kind == BUSY:
            yield (kind, _category(category, name), phase, name), row
    for row in comparison.tables["idle"].rows:
        cause, phase, name, module = row.labels
        yield (IDLE, f"{_WAITING[cause]}: {_doing(name, module)}", phase, _any_layer(name)), row


def _category(category: str, name: str) -> str:
    if category == "other":
        return f"kernel {name}"
    if category == INSPECTION:
        return OWN_KERNELS
    return "GEMMs" if category == "gemm" else category


def _doing(name: str, module: str) -> str:
    """What the host did meanwhile, by the range it was in."""
    if name.startswith(NO_RANGE):
        return "outside of any range"
    if name == STEP_RANGE:
        return "between modules"
    if name == module:
        return "Python of modules"
    if QUANTIZING_RANGE.search(name) or _QUANTIZING.search(name):
        return "calls that quantize"
    if "gemm" in name.lower():
        return "GEMM calls"
    if _ATTENTION.search(name):
        return "attention calls"
    return "optimizer" if module == "(optimizer)" else _any_layer(name)


def _any_layer(name: str) -> str:
    """A name with `*` for the numbers in paths of modules, whose components are names and whole numbers."""

    def starred(found: re.Match[str]) -> str:
        first, *rest = found.group().split(".")
        begins = first.isidentifier() and not _VERSION.fullmatch(first)
        begins = begins or (first.isdigit() and rest[:1] != [] and rest[0].isidentifier())
        if not begins or not all(part.isdigit() or part.isidentifier() for part in rest):
            return found.group()
        return ".".join([first, *("*" if part.isdigit() else part for part in rest)])

    return _DOTTED.sub(starred, name)


def _largest_first(cause: Cause) -> tuple[Fraction, Fraction, str, str, str]:
    return (-abs(cause.difference_ns), -max(cause.before_ns, cause.after_ns), cause.group, cause.name, cause.phase)


def _changed(groups: Sequence[Group]) -> Fraction:
    return sum((abs(group.difference_ns) for group in groups), Fraction(0))


def _check(explanation: Explanation) -> None:
    """The causes are both steps and their difference, to the last fraction of a nanosecond."""
    before = sum((group.before_ns for group in explanation.groups), Fraction(0))
    after = sum((group.after_ns for group in explanation.groups), Fraction(0))
    if (before, after) != explanation.step_ns:
        said = " and ".join(
            f"{float(one):.3f} of {float(of):.3f}" for one, of in zip((before, after), explanation.step_ns, strict=True)
        )
        raise ConservationError(f"{' and '.join(explanation.names)}: causes sum to {said} ns; please report this")
