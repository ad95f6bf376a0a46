"""What two recordings differ in: every kernel and every host range that the GPU waited for, with what each took in either.

Rows of `tetrace diff` are put together where they are one cause to a reader: the same kernels, or the same host range of
all layers; causes of a kind are a group.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING

from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.attribute.vocabulary import INSPECTION_MODULE
from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.compare import CAUSES_OF_CHANGE, PARTS, Comparison
from tetrace.breakdown.launch import NO_RANGE, QUANTIZING_RANGE, STEP_RANGE
from tetrace.breakdown.lengths import part_of

if TYPE_CHECKING:
    from tetrace.breakdown.changes import Change

# What `tetrace record --fp8` adds to a run, and a run without it does not do.
OWN_KERNELS = "tetrace's own FP8 statistics"
_LINEAR = "casts and GEMMs"
_WAITING = {
    "host_bound": "GPU waits for the host",
    "launch_latency": "GPU waits for a launch",
    "synchronization": "GPU waits, the host synchronizes",
    "dependency": "GPU waits for another stream",
    "graph": "GPU waits inside CUDA graphs",
    "profiler": "GPU waits for the recorder",
    "queued": "GPU between queued activities",
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
    range that the GPU waited for; `group` what it is counted under.

    Times and counts are those of an average step: `before_ns` and `after_ns` of the steps that are explained, `recorded_ns`
    of the recorded ones. `noise_ns` is that of the recorded difference, None where too few steps were recorded. `rates` are
    by how much it is longer for each ns that its part of either step is longer, where the GPU's clock sets how long that
    is: all causes' of a part add up to 1. Else 0.
    """

    kind: str
    group: str
    phase: str
    name: str
    before_ns: Fraction
    after_ns: Fraction
    count: tuple[Fraction, Fraction]
    recorded_ns: tuple[Fraction, Fraction]
    noise_ns: float | None = None
    rates: tuple[Fraction, Fraction] = (Fraction(0), Fraction(0))

    @property
    def difference_ns(self) -> Fraction:
        """By how much it takes longer in the second run."""
        return self.after_ns - self.before_ns

    @property
    def is_own(self) -> bool:
        """Whether it is the recorder's: a step that is timed alone does not run it, or wait for it."""
        return self.group.endswith(OWN_KERNELS)


@dataclass(frozen=True)
class Group:
    """Causes of one kind, the largest first: a category of kernels, or why the GPU waited and what the host did then."""

    name: str
    causes: tuple[Cause, ...]

    @property
    def kind(self) -> str:
        """Whether the GPU works in it, or waits."""
        return self.causes[0].kind

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

    @property
    def recorded_difference_ns(self) -> Fraction:
        """By how much they took longer in the second recording."""
        return sum((cause.recorded_ns[1] - cause.recorded_ns[0] for cause in self.causes), Fraction(0))

    @property
    def is_told(self) -> bool:
        """Whether the difference is more than noise, that of all causes together, as if they went the same way: as it was
        recorded too, since another clock makes no difference between kernels."""
        noise = [cause.noise_ns for cause in self.causes if cause.noise_ns is not None]
        both = abs(self.difference_ns), abs(self.recorded_difference_ns)
        return len(noise) == len(self.causes) and min(both) > sum(noise)


def grouped(causes: Iterable[Cause]) -> tuple[Group, ...]:
    """Causes by group, the largest first."""
    found: dict[str, list[Cause]] = {}
    for cause in causes:
        found.setdefault(cause.group, []).append(cause)
    groups = [Group(name, tuple(sorted(members, key=largest_first))) for name, members in found.items()]
    return tuple(sorted(groups, key=lambda group: (-abs(group.difference_ns), group.name)))


def largest_first(cause: Cause) -> tuple[Fraction, Fraction, str, str, str]:
    """The key by which causes are sorted."""
    return (-abs(cause.difference_ns), -max(cause.before_ns, cause.after_ns), cause.group, cause.name, cause.phase)


def causes_of(comparison: Comparison) -> Iterable[Cause]:
    """All causes of a recorded difference."""
    per_ns = [_rates(comparison, side) for side in (0, 1)]
    found: dict[tuple[str, str, str, str], list[Change]] = {}
    for key, row in _keys(comparison):
        found.setdefault(key, []).append(row)
    for key, rows in found.items():
        before, after = (sum((row.per_step_ns[side] for row in rows), Fraction(0)) for side in (0, 1))
        first, second = (
            sum((Fraction(row.count[side], row.steps[side]) for row in rows), Fraction(0)) for side in (0, 1)
        )
        of = (key[2], rows[0].labels[1]) if key[0] == BUSY else None
        rates = before * per_ns[0].get(of, 0), after * per_ns[1].get(of, 0)
        yield Cause(*key, before, after, (first, second), (before, after), _noise(rows), rates)


def _rates(comparison: Comparison, side: int) -> dict[tuple[str, str] | None, Fraction]:
    """By phase and category: by how much a ns of its kernels is longer for each ns that its part of one side's step is longer;
    none where the GPU's clock does not set how long that is. Over all kernels of a part they add up to 1 exactly."""
    paces = {part: known for part, known in comparison.paces[side].items() if known is not None}
    works: dict[str, dict[str, Fraction]] = {}
    places: dict[tuple[str, str], str] = {}
    for row in comparison.tables[CAUSES_OF_CHANGE].rows:
        kind, category, phase, _ = row.labels
        part = part_of(phase, comparison.paces[side])
        if kind == BUSY and row.per_step_ns[side] and part in paces and category in paces[part].rates:
            own = works.setdefault(part, {})
            own[category] = own.get(category, Fraction(0)) + row.per_step_ns[side]
            places[phase, category] = part
    found: dict[tuple[str, str] | None, Fraction] = {}
    for (phase, category), part in places.items():
        rates = {one: Fraction(paces[part].rates[one]) for one in works[part]}
        found[phase, category] = rates[category] / sum(rates.values()) / works[part][category]
    return found


def work_noise_ns(comparison: Comparison) -> float | None:
    """Noise of the difference of what the GPU works, without tetrace's own kernels; None where too few steps were recorded.

    Categories and their noise are worked out together, at one level for all rows of a comparison (family-wise), so their
    sum bounds that of the work.
    """
    rows = comparison.tables[PARTS].rows
    return _noise([row for row in rows if row.labels[0] == BUSY and row.labels[1] != INSPECTION])


def _noise(rows: Iterable[Change]) -> float | None:
    noise = [row.difference_noise_ns for row in rows]
    known = [one for one in noise if one is not None]
    return sum(known) if known and len(known) == len(noise) else None


def _keys(comparison: Comparison) -> Iterable[tuple[tuple[str, str, str, str], Change]]:
    """Rows of busy time by kernel and of idle time by host range: together all of both steps."""
    for row in comparison.tables[CAUSES_OF_CHANGE].rows:
        kind, category, phase, name = row.labels
        if kind == BUSY:
            yield (kind, _category(category, name), phase, name), row
    categories = _categories(comparison)
    for row in comparison.tables["idle"].rows:
        cause, phase, name, module = row.labels
        is_bare = name.startswith((NO_RANGE, STEP_RANGE)) and module != INSPECTION_MODULE
        doing = _on_the_way(phase, name, categories) if is_bare else _doing(name, module)
        yield (IDLE, f"{_WAITING[cause]}: {doing}", phase, any_layer(name)), row


def _category(category: str, name: str) -> str:
    if category == "other":
        return f"kernel {name}"
    if category == INSPECTION:
        return OWN_KERNELS
    return "GEMMs" if category == "gemm" else category


def _categories(comparison: Comparison) -> dict[str, str]:
    """What each kernel that ran in either run is, by its name: its category; those that mostly take tensors of linear layers
    are one, since a linear layer's backward begins with a GEMM in BF16 and with a cast in FP8."""
    counts: dict[str, Counter[str]] = {}
    for row in comparison.tables["kernels"].rows:
        category, _, role, *names = row.labels
        of = _LINEAR if category in ("gemm", "quantization") or role else category
        for name in names:
            counts.setdefault(name, Counter())[of] += sum(row.count)
    return {name: found.most_common(1)[0][0] for name, found in counts.items()}


def _on_the_way(phase: str, name: str, categories: dict[str, str]) -> str:
    """What the host was on its way to where its thread was in no range but the step's. In backward no range at all is a thread
    of autograd, in its engine or in a node of PyTorch's own: the thread that called backward is in the range of the phase."""
    where, _, before = name.partition(" before ")
    kernels = _category(categories.get(before, before), before)
    who = "autograd" if phase == "backward" and where == NO_RANGE else "between modules"
    return f"{who}, before {kernels}" if kernels else who


def _doing(name: str, module: str) -> str:
    """What the host did meanwhile, by the range it was in; of what ends in tetrace's own kernels it counts for nothing."""
    if module == INSPECTION_MODULE:
        return OWN_KERNELS
    if name == module:
        return "Python of modules"
    if QUANTIZING_RANGE.search(name) or _QUANTIZING.search(name):
        return "calls that quantize"
    if "gemm" in name.lower():
        return "GEMM calls"
    if _ATTENTION.search(name):
        return "attention calls"
    return "optimizer" if module == "(optimizer)" else any_layer(name)


def any_layer(name: str) -> str:
    """A name with `*` for the numbers in paths of modules, whose components are names and whole numbers."""

    def starred(found: re.Match[str]) -> str:
        first, *rest = found.group().split(".")
        begins = first.isidentifier() and not _VERSION.fullmatch(first)
        begins = begins or (first.isdigit() and rest[:1] != [] and rest[0].isidentifier())
        if not begins or not all(part.isdigit() or part.isidentifier() for part in rest):
            return found.group()
        return ".".join([first, *("*" if part.isdigit() else part for part in rest)])

    return _DOTTED.sub(starred, name)
