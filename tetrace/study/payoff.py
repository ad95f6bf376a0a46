"""From which size on one group of a sweep pays against another, predicted from recordings at two sizes.

A step takes the longer of two times. What the GPU works: by category a straight line in the tokens of a step through the two
recorded sizes, attention's in tokens times sequence length; and what it waits between kernels. What the host needs to launch
it: the same at every size, the median over all sizes whose steps it decides, as timed without a recorder, which would slow
the host; or, of two recorded sizes alone, that of the smaller one. Sizes may be of another matrix: their options differ in
sizes alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.study.statistics import Estimate, estimate

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.sweep import Line, Swept

# From this share of a step on, waiting for the host makes it a step of the host's time.
LAUNCH_BOUND = 0.15
# Options that change how much work a step is, and nothing else of it.
SIZES = ("batch", "seq", "sequence", "length", "micro_batch", "micro_batches")
_LENGTHS = ("seq", "sequence", "length")
BETWEEN = "between kernels"
_HOST = ("host_bound", "launch_latency", "synchronization", "profiler")
# What lies between kernels whatever the size: a GPU that has work queued waits so long for each launch.
_GAPS = ("launch_latency", "unexplained")
_PIECES = 400


@dataclass(frozen=True)
class Size:
    """How much work a step is: its tokens, and the length of its sequences (1 where no option says it)."""

    tokens: float
    length: float

    def of(self, category: str) -> float:
        """What a category's time is a straight line in."""
        return self.tokens * self.length if category == "attention" else self.tokens


@dataclass(frozen=True)
class Recorded:
    """A recorded size: GPU time of a step by category (ns), what it waits between kernels, the share of the step in
    which it waited for the host, and the step as it was timed without a recorder."""

    name: str
    size: Size
    gpu_ns: Mapping[str, float]
    gaps_ns: float
    waiting: float
    timed_ns: float


@dataclass(frozen=True)
class Model:
    """What predicts a step of a group: by category ns and ns for each token (attention: token times length), and the
    host's ns, by the timed steps that it decides, `hosts_ns` by configuration; where it decides none it needs `most_ns` at
    most, a whole step."""

    group: str
    lines: Mapping[str, tuple[float, float]]
    hosts_ns: Mapping[str, float]
    most_ns: float
    recorded: tuple[Recorded, Recorded]

    @property
    def host(self) -> Estimate | None:
        """What the host needs for a step, ns: the median with its interval; None where it decides no step."""
        return estimate(list(self.hosts_ns.values()))

    def without(self, name: str) -> Model:
        """The same, as if that size had not been timed; itself where the host decides no other."""
        others = {other: ns for other, ns in self.hosts_ns.items() if other != name}
        return replace(self, hosts_ns=others) if others else self

    def with_host(self, ns: float) -> Model:
        """The same, with a host that needs so long for a step."""
        return replace(self, hosts_ns={"": ns})

    @property
    def of_recorded(self) -> Model | None:
        """The same, with the host of the smaller recorded size: it launches as much at every other. None where the GPU's work
        hides how long that takes."""
        small = self.recorded[0]
        waits = self.gpu_ns(small.size) < (1 - LAUNCH_BOUND) * small.timed_ns
        return self.with_host(small.timed_ns) if waits else None

    def gpu_ns(self, size: Size) -> float:
        """What the GPU works in a step of that size."""
        return sum(max(fixed + each * size.of(category), 0.0) for category, (fixed, each) in self.lines.items())

    def step_ns(self, size: Size) -> float:
        """What a step of that size takes."""
        return max(self.host.value if self.host else 0.0, self.gpu_ns(size))


@dataclass(frozen=True)
class Predicted:
    """A measured size against its prediction from all others, ns. `recorded`: what the GPU works was taken from it too.
    `alone_ns` is its prediction from the two recorded sizes alone; None of these, and where they do not show the host."""

    name: str
    group: str
    x: float
    tokens: int
    predicted_ns: float
    measured_ns: float
    recorded: bool
    alone_ns: float | None = None

    @property
    def error(self) -> float:
        """By how much the prediction is too long, as a share of what was measured."""
        return self.predicted_ns / self.measured_ns - 1


@dataclass(frozen=True)
class Change:
    """Where the order of two predicted steps changes: at `x` of the sweep, with so many tokens a step; `pays` says
    whether the group is faster from there on. `between` has it as far as the interval of what hosts need tells; None
    where it does not."""

    x: float
    tokens: float
    pays: bool
    between: tuple[float, float] | None = None


@dataclass(frozen=True)
class Payoff:
    """A group of a sweep against its baseline's. `rows` are all measured sizes, `ends` the least and largest place. `alone` are
    the changes that the two recorded sizes of either predict, without any other; None where they do not show both hosts."""

    sweep: Swept
    of: Model
    against: Model
    changes: tuple[Change, ...]
    pays_at_first: bool
    ends: tuple[float, float]
    rows: tuple[Predicted, ...]
    alone: tuple[Change, ...] | None = None
    pays_at_first_alone: bool = False


def payoffs(material: Material, swept: Swept) -> list[Payoff]:
    """What recordings predict of each line against the baseline's; none where two sizes of either were not recorded, or
    all steps of the sweep are of one size."""
    if not swept.sweep.group or swept.sweep.figure != "total_ms":
        return []
    found = []
    for line in swept.lines:
        base = _baseline(swept, line)
        if base is None or base is line or material.apart(line.points[0].name, base.points[0].name):
            continue
        of, against = _model(material, swept, line), _model(material, swept, base)
        if of and against:
            found.append(_payoff(material, swept, (line, base), (of, against)))
    return found


def _baseline(swept: Swept, line: Line) -> Line | None:
    for one in swept.lines:
        if one.group == swept.sweep.baseline and one.others == line.others:
            return one
    return None


def _model(material: Material, swept: Swept, line: Line) -> Model | None:
    members = [one for point in line.points if (one := material.configuration(point.name)) is not None]
    if len({one.tokens for one in members if one.tokens}) < 2:
        return None
    alike = _alike(material, swept, members)
    recorded = [found for each in alike if (found := _recorded(material, each)) is not None]
    recorded.sort(key=lambda one: (one.size.tokens, one.size.length))
    if not recorded or recorded[0].size.tokens == recorded[-1].size.tokens:
        return None
    small, large = recorded[0], recorded[-1]
    lines = _straight(small, large)
    if large.waiting < LAUNCH_BOUND:
        lines[BETWEEN] = (large.gaps_ns, 0.0)
    model = Model(line.name, lines, {}, small.timed_ns, (small, large))
    timed = {one.name: (one, ns.value) for one in alike if one.tokens and (ns := material.time(one.name))}
    hosts = {
        name: step for name, (one, step) in timed.items() if model.gpu_ns(size_of(one)) < (1 - LAUNCH_BOUND) * step
    }
    return replace(model, hosts_ns=hosts)


def _alike(material: Material, swept: Swept, members: Sequence[Configuration]) -> list[Configuration]:
    """Configurations that differ from those of a line in sizes alone, whatever matrix they are of."""
    ignored = {*SIZES, swept.sweep.along}

    def rest(one: Configuration) -> tuple[dict[str, object], dict[str, str]]:
        return {key: value for key, value in one.options.items() if key not in ignored}, dict(one.environment)

    wanted = rest(members[0])
    return [
        one
        for one in material.configurations
        if one.is_timed and rest(one) == wanted and not material.apart(one.name, members[0].name)
    ]


def _straight(a: Recorded, b: Recorded) -> dict[str, tuple[float, float]]:
    lines = {}
    for category in sorted(a.gpu_ns.keys() | b.gpu_ns.keys()):
        low, high = a.gpu_ns.get(category, 0.0), b.gpu_ns.get(category, 0.0)
        start, end = a.size.of(category), b.size.of(category)
        each = (high - low) / (end - start) if end != start else 0.0
        lines[category] = (low - each * start, each)
    return lines


def size_of(own: Configuration) -> Size:
    """The size of a configuration's step."""
    length = next((own.options[key] for key in _LENGTHS if isinstance(own.options.get(key), int | float)), 1)
    return Size(float(own.tokens or 0), float(length))


def _recorded(material: Material, own: Configuration) -> Recorded | None:
    from tetrace.breakdown.busy_categories import busy_by_category

    run, timed = material.breakdown(own.name), material.time(own.name)
    if run is None or not own.tokens or timed is None or not run.totals.activities:
        return None
    totals = run.totals
    steps = max(totals.steps, 1)
    gpu = {category: ns / steps for category, ns in busy_by_category(run).totals().items() if category != INSPECTION}
    # What the GPU waits for in itself (streams, graphs) grows with its work, not with the host's.
    for cause, ns in totals.idle_ns.items():
        if ns and cause not in (*_HOST, *_GAPS):
            gpu[f"idle, {cause}"] = ns / steps
    return Recorded(
        name=own.name,
        size=size_of(own),
        gpu_ns=gpu,
        gaps_ns=sum(totals.idle_ns[cause] for cause in _GAPS) / steps,
        waiting=sum(totals.idle_ns[cause] for cause in _HOST) / max(totals.wall_ns, 1),
        timed_ns=timed.value,
    )


def _payoff(material: Material, swept: Swept, lines: tuple[Line, Line], models: tuple[Model, Model]) -> Payoff:
    rows = [row for line, model in zip(lines, models, strict=True) for row in _rows(material, line, model)]
    sizes = sizes_along(material, lines[0])
    places = [point.x for point in lines[0].points]
    ends = (min(places), max(places))
    changes, pays_at_first = break_even(*models, ends, sizes)
    changes = _with_intervals(changes, models, ends, sizes)
    found = Payoff(swept, models[0], models[1], tuple(changes), pays_at_first, ends, tuple(rows))
    of, against = (model.of_recorded for model in models)
    if of is None or against is None:
        return found
    alone, first = break_even(of, against, ends, sizes)
    return replace(found, alone=tuple(alone), pays_at_first_alone=first)


def _with_intervals(
    changes: list[Change], models: tuple[Model, Model], ends: tuple[float, float], sizes: Callable[[float], Size]
) -> list[Change]:
    """The places with how far they move while both hosts need anything in their intervals; without where they come or go."""
    found = [
        break_even(of, against, ends, sizes)[0]
        for of, against in itertools.product(*(_extremes(model) for model in models))
    ]
    if any([one.pays for one in each] != [one.pays for one in changes] for each in found):
        return changes
    moved = [[each[place].x for each in found] for place in range(len(changes))]
    return [replace(one, between=(min(xs), max(xs))) for one, xs in zip(changes, moved, strict=True)]


def _extremes(model: Model) -> list[Model]:
    host = model.host
    if host is None or host.low is None or host.high is None:
        return [model]
    return [model.with_host(host.low), model.with_host(host.high)]


def _rows(material: Material, line: Line, model: Model) -> list[Predicted]:
    made = []
    used, of_recorded = {one.name for one in model.recorded}, model.of_recorded
    for point in line.points:
        own, timed = material.configuration(point.name), material.time(point.name)
        if own is not None and own.tokens and timed is not None:
            size, is_used = size_of(own), point.name in used
            predicted = model.without(point.name).step_ns(size)
            alone = of_recorded.step_ns(size) if of_recorded and not is_used else None
            made.append(Predicted(point.name, line.name, point.x, own.tokens, predicted, timed.value, is_used, alone))
    return made


def sizes_along(material: Material, line: Line) -> Callable[[float], Size]:
    """The size of a step at any place of a sweep: a straight line between measured places."""
    known = [
        (point.x, size_of(own))
        for point in line.points
        if (own := material.configuration(point.name)) is not None and own.tokens
    ]

    def size(x: float) -> Size:
        for (x0, a), (x1, b) in itertools.pairwise(known):
            if x <= x1:
                share = (x - x0) / (x1 - x0) if x1 > x0 else 0.0
                return Size(a.tokens + share * (b.tokens - a.tokens), a.length + share * (b.length - a.length))
        return known[-1][1]

    return size


def break_even(
    of: Model, against: Model, ends: tuple[float, float], sizes: Callable[[float], Size]
) -> tuple[list[Change], bool]:
    """Where the order of both predicted steps changes along a sweep, and whether `of` is faster at its beginning."""

    def gap(x: float) -> float:
        size = sizes(x)
        return of.step_ns(size) - against.step_ns(size)

    low, high = ends
    places = [low + (high - low) * place / _PIECES for place in range(_PIECES + 1)]
    pays_at_first = gap(low) < 0
    pays, found = pays_at_first, []
    for a, b in itertools.pairwise(places):
        if (gap(b) < 0) != pays:
            pays = not pays
            x = _root(gap, a, b, pays)
            found.append(Change(x, sizes(x).tokens, pays))
    return found, pays_at_first


def _root(gap: Callable[[float], float], a: float, b: float, pays: bool) -> float:
    """Where a gap changes its sign, by halving."""
    for _ in range(60):
        middle = (a + b) / 2
        a, b = (a, middle) if (gap(middle) < 0) == pays else (middle, b)
    return b
