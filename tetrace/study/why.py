"""Why configurations differ: each speed-up explained by both recordings, and what each of them ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tetrace.breakdown.changes import NOISE, TOO_FEW
from tetrace.report.grid import Column, Grid
from tetrace.study.explanation import Cause, Explanation, Group
from tetrace.study.figures import backend_words, number, value
from tetrace.study.identical import twins
from tetrace.study.payoff import LAUNCH_BOUND
from tetrace.study.section import NOTHING, Section, cut, several, times, without_empty
from tetrace.units import three_digits

if TYPE_CHECKING:
    from tetrace.study.material import Material

# Causes of a group that its row names.
_NAMED = 3
# What a recorder adds to a step is about nothing below this share of the step.
_ADDS_NOTHING = 0.01
_RECORDED = ("fp8_coverage_pct", "quantization_pct", "launches", "idle_pct")
EXPLANATION_COLUMNS = (
    "configuration", "against", "group", "kind", "phase", "name", "before_ns_exact", "after_ns_exact",
    "difference_ns_exact", "difference_ms",
)  # fmt: skip


def pairs(material: Material) -> list[tuple[str, str]]:
    """Configurations that were measured and are recorded, each with what a speed-up of it is against: its baseline, what a
    claim compares it with, and the first row of a note's table."""
    own = [one.name for one in material.recorded()]
    asked = [(name, material.baseline(name)) for name in own]
    claims = [claim for claim in material.study.claims if claim.figure.endswith("speedup")]
    asked += [(claim.of, claim.against or material.baseline(claim.of)) for claim in claims]
    for note in material.study.notes:
        asked += [(row.configuration, note.rows[0].configuration) for row in note.rows[1:]]
    known = set(own)
    found: list[tuple[str, str]] = []
    for of, against in asked:
        if of in known and against in known and of != against and (against, of) not in found:
            found.append((of, against))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Unexplained:
    """A speed-up that no recordings explain: of `of` against `against`, because of `why`. `twins` are configurations with
    the same options, whose recordings do; else None."""

    of: str
    against: str
    why: str
    twins: tuple[str, str] | None


def speedups(material: Material) -> list[tuple[str, str]]:
    """Every speed-up that the report says: of each configuration over its baseline, and what claims and notes compare."""
    asked = [(one.name, material.baseline(one.name)) for one in material.configurations]
    asked += pairs(material)
    asked += [
        (claim.of, claim.against or material.baseline(claim.of))
        for claim in material.study.claims
        if claim.figure.endswith("speedup")
    ]
    found: list[tuple[str, str]] = []
    for of, against in asked:
        is_new = (of, against) not in found and (against, of) not in found
        if is_new and of and against and of != against and material.speedup(of, against) is not None:
            found.append((of, against))
    return found


def unexplained(material: Material) -> list[Unexplained]:
    """The speed-ups that recordings do not explain."""
    explained = {pair for pair in pairs(material) if not isinstance(material.explanation(*pair), str)}
    same = twins(material)
    found = []
    for of, against in speedups(material):
        if {(of, against), (against, of)} & explained:
            continue
        said = material.explanation(of, against)
        candidates = ((a, b) for a in same[of] for b in same[against])
        alike = next((pair for pair in candidates if {pair, pair[::-1]} & explained), None)
        found.append(Unexplained(of, against, said if isinstance(said, str) else "", alike))
    return found


def explained_words(material: Material) -> str:
    """`with every speed-up explained`, or how many of them; empty where there is none. A table that does not explain the
    timed difference explains no speed-up."""
    every = len(speedups(material))
    missing = {(one.of, one.against): one.twins for one in unexplained(material)}
    left = sum(not _explains(material, missing.get(pair, pair)) for pair in speedups(material))
    if not every:
        return ""
    return "with every speed-up explained" if not left else f"with {every - left} of {every} speed-ups explained"


def _explains(material: Material, pair: tuple[str, str] | None) -> bool:
    """Whether the recordings of a pair, in either order, explain its timed difference."""
    found = [material.explanation(*one) for one in (pair, pair[::-1])] if pair else []
    return any(not isinstance(one, str) and one.explains for one in found)


def _unexplained_words(material: Material) -> list[str]:
    """What is explained elsewhere, and what is not, by reason."""
    said: list[str] = []
    by_reason: dict[str, list[Unexplained]] = {}
    for one in unexplained(material):
        if one.twins:
            said.append(
                f"{one.of} against {one.against} runs the same as {one.twins[0]} against {one.twins[1]}: see there."
            )
        else:
            by_reason.setdefault(one.why.removeprefix(f"{one.of}: ").removeprefix(f"{one.against}: "), []).append(one)
    for reason, members in by_reason.items():
        names = several([f"{one.of} against {one.against}" for one in members], 6)
        said.append(cut(f"Not explained: {names}: {reason}.", 1200))
    return said


def why_section(material: Material) -> Section:
    """An explanation of every speed-up."""
    found = pairs(material)
    if not found and not speedups(material):
        return Section("why", "Where each speed-up comes from")
    said = [
        "Differences of an average recorded step, from its baseline; the rows of a table add up to it exactly. "
        "A recorder slows the host, so a step that waits for the host takes longer recorded than alone: both are said."
    ]
    grids, more, shown = [], [], []
    for name, base in found:
        one = material.explanation(name, base)
        if isinstance(one, str):
            continue
        shown.append(one)
        grids.append(explanation_grid(material, one))
        more.append(causes_grid(one))
    if left := sum(not one.explains for one in shown):
        said.append(
            f"{left} of {len(shown)} tables {'does' if left == 1 else 'do'} not explain the timed difference: the recorded "
            "one is within noise, of too few steps, of the other sign, or off by more than the timed one. What is quoted of "
            "such a table elsewhere is work of the GPU alone."
        )
    said += _unexplained_words(material)
    return Section("why", "Where each speed-up comes from", tuple(said), tuple(grids), more=tuple(more))


def explanation_grid(material: Material, found: Explanation) -> Grid:
    """The groups of a difference that matter, with what is most of each."""
    heads: tuple[Column, ...] = (
        Column("before ms", keep=2), Column("after ms", keep=2), Column("difference"), Column("of it"),
        Column("what", number=False), Column("most of it", number=False, code=False, keep=1),
    )  # fmt: skip
    shown, left = found.rows()
    lines = [_group_row(found, group) for group in shown]
    if left:
        lines.append(_left_row(found, left))
    whole = _share(found, found.difference_ns).removeprefix("+")
    total: tuple[str, ...] = (*map(_ms, found.step_ns), _signed(found.difference_ns), whole, "recorded step", "")
    base, name = found.names
    title = f"{name} against {base}: {times(material.speedup(name, base))}{_does_not_explain(found)}"
    if not found.has_shares:
        heads, lines, total = heads[:3] + heads[4:], [row[:3] + row[4:] for row in lines], total[:3] + total[4:]
    return Grid(title, heads, tuple(lines), total if found.difference_ns else (), both_numbers(material, found))


def _does_not_explain(found: Explanation) -> str:
    """That a recorded difference is not what makes the timed one; empty where it may be."""
    if found.explains:
        return ""
    why = {NOISE: ", within noise", TOO_FEW: ", of too few steps"}.get(found.verdict, "")
    recorded = f"recorded {_plus(float(found.difference_ns))} ms{why}"
    if found.timed_ns is None:
        return f"; explains nothing: {recorded}".replace("-", "−")
    timed = f"timed {_plus(found.timed_ns[1] - found.timed_ns[0])} ms"
    return f"; does not explain the timed difference: {recorded}, {timed}".replace("-", "−")


def _group_row(found: Explanation, group: Group) -> tuple[str, ...]:
    return (
        _ms(group.before_ns),
        _ms(group.after_ns),
        _signed(group.difference_ns),
        _share(found, group.difference_ns),
        group.name,
        _most(group.causes),
    )


def _left_row(found: Explanation, left: Sequence[Group]) -> tuple[str, ...]:
    before, after = (sum((getattr(group, name) for group in left), Fraction(0)) for name in ("before_ns", "after_ns"))
    words = f"{len(left)} smaller causes"
    names = ", ".join(group.name for group in left)
    return (
        _ms(before),
        _ms(after),
        _signed(after - before),
        _share(found, after - before),
        words,
        cut(names, 200),
    )


def _most(causes: Sequence[Cause]) -> str:
    named = [cause for cause in causes[:_NAMED] if cause.difference_ns]
    return "; ".join(f"{cut(cause.name, 80)} ({cause.phase}) {_signed(cause.difference_ns)}" for cause in named)


def causes_grid(found: Explanation) -> Grid:
    """Every cause of a difference: the page's table."""
    heads = (
        Column("what", number=False), Column("phase", number=False), Column("kernels or host range", number=False, code=True),
        Column("before ms"), Column("after ms"), Column("difference"), Column("of it"), Column("count before"),
        Column("count after"),
    )  # fmt: skip
    rows = tuple(
        (
            cause.group, cause.phase, cause.name, _ms(cause.before_ns), _ms(cause.after_ns), _signed(cause.difference_ns),
            _share(found, cause.difference_ns), *(f"{float(one):,.1f}".removesuffix(".0") for one in cause.count),
        )
        for cause in found.causes
        if cause.before_ns or cause.after_ns
    )  # fmt: skip
    return Grid(f"{found.names[1]} against {found.names[0]}, every cause", heads, rows)


def both_numbers(material: Material, found: Explanation) -> str:
    """How the recorded difference relates to the one that was timed without a recorder."""
    said = found.sentence
    if found.verdict == TOO_FEW:
        said += " Too few steps were recorded to tell it from noise."
    if found.timed_ns is None:
        return f"{said} Without a recorder it was not timed."
    a, b = found.timed_ns
    adds = [float(recorded) - time for recorded, time in zip(found.step_ns, (a, b), strict=True)]
    return (
        f"{said} Timed without a recorder a step takes {_words(a)} and {_words(b)} ms, {_plus(b - a)} ms: "
        f"{_plus(float(found.work_ns[1] - found.work_ns[0]))} of it is work of the GPU as recorded, {_rest(material, found)}. "
        f"Recording adds {_words(adds[0])} and {_words(adds[1])} ms."
    ).replace("-", "−")


def _rest(material: Material, found: Explanation) -> str:
    """What a timed difference is beside the recorded work: waiting, as far as the recordings leave room for it. A recorder
    slows the host and so lengthens waiting; it cannot shorten it."""
    assert found.timed_ns is not None
    waits = [time - float(busy) for time, busy in zip(found.timed_ns, found.work_ns, strict=True)]
    idle = [float(step - busy) for step, busy in zip(found.step_ns, found.busy_ns, strict=True)]
    # What recording adds to a step beside the kernels that it launches itself.
    adds = [recorded - alone for recorded, alone in zip(idle, waits, strict=True)]
    rest = waits[1] - waits[0]
    is_more_than_idle = abs(rest) > idle[rest > 0]
    if all(one < LAUNCH_BOUND * float(step) for one, step in zip(idle, found.step_ns, strict=True)):
        if is_more_than_idle:
            return (
                f"{_plus(rest)} is more than waiting can be where recorded steps idle {_words(idle[0])} and {_words(idle[1])} "
                f"ms: kernels at another speed than recorded ({_clocks(material, found)})"
            )
        if any(one < _ADDS_NOTHING * time for one, time in zip(adds, found.timed_ns, strict=True)):
            return (
                f"{_plus(rest)} is not waiting, which a recorder lengthens: kernels at another speed than recorded "
                f"({_clocks(material, found)})"
            )
    elif is_more_than_idle or min(adds) < -abs(rest) / 10:
        return f"{_plus(rest)} is waiting or kernels at another speed, which the recordings do not tell"
    return f"{_plus(rest)} waiting"


def _clocks(material: Material, found: Explanation) -> str:
    """What changes the speed of kernels, as rounds of both noted it."""
    members = [one for name in found.names if (one := material.configuration(name)) is not None]
    rounds = [each for one in members for each in one.rounds]
    capped = sum("power cap" in each.throttled for each in rounds)
    return f"clocks: under the power cap in {capped} of {len(rounds)} rounds" if capped else "clocks"


def recorded_section(material: Material) -> Section:
    """What each recording shows: coverage, quantization, launches, waiting, backends; and what backends refused."""
    heads = [
        Column("configuration", number=False, code=True), Column("recorded ms"), Column("timed alone ms", keep=2),
        Column("GPU works ms"), Column("FP8 coverage"), Column("quantization", keep=1), Column("launches"),
        Column("idle", keep=1), Column("attention", number=False), Column("note", number=False),
    ]  # fmt: skip
    members = material.recorded()
    if not members:
        return Section("recorded", "What ran")
    rows: list[tuple[str, ...]] = []
    refusals: list[tuple[str, str, str]] = []
    notices: dict[str, list[str]] = {}
    for one in members:
        rows.append(_recorded_row(material, one.name))
        run = material.breakdown(one.name)
        if run is not None:
            refusals += [(one.name, backend, reason) for backend, reason in refused_backends(run)]
            for line in run.attribution.trace.metadata.notices:
                notices.setdefault(line, []).append(one.name)
    shown, lines = without_empty(heads, rows)
    grids = [Grid("Recordings: an average steady step", shown, lines)]
    if refusals:
        by_reason: dict[tuple[str, str], list[str]] = {}
        for name, backend, reason in refusals:
            by_reason.setdefault((backend, reason), []).append(name)
        columns = (Column("backend", number=False), Column("refused because", number=False), Column("in", number=False))
        grids.append(
            Grid(
                "Attention backends that Transformer Engine refused",
                columns,
                tuple((backend, cut(reason), several(names)) for (backend, reason), names in by_reason.items()),
            )
        )
    said = "FP8 coverage is of GEMM time, quantization of GPU activity, idle of the recorded step."
    return Section(
        "recorded",
        "What ran",
        (said, *(cut(f"{several(names)}: {line}.") for line, names in notices.items())),
        tuple(grids),
    )


def _recorded_row(material: Material, name: str) -> tuple[str, ...]:
    run, alone = material.run(name), material.time(name)
    timed = NOTHING if alone is None else f"{alone.value / 1e6:,.3f}"
    if isinstance(run, str):
        return (name, NOTHING, timed, NOTHING, *[NOTHING] * len(_RECORDED), "", cut(run))
    totals = run.breakdown.totals
    if not totals.activities:
        return (name, NOTHING, timed, NOTHING, *[NOTHING] * len(_RECORDED), "", "no GPU activity was captured")
    steps = max(totals.steps, 1)
    figures = [value(material, figure, name) for figure in _RECORDED]
    backend = backend_words(material, name)
    return (
        name,
        f"{totals.wall_ns / steps / 1e6:,.3f}",
        timed,
        f"{totals.busy_ns / steps / 1e6:,.3f}",
        *(NOTHING if one.estimate is None else number(one.estimate.value, one.unit) for one in figures),
        str(backend.word) if backend.known else "",
        "",
    )


def refused_backends(run: Any) -> Iterator[tuple[str, str]]:
    """Backends that Transformer Engine refused in a recording, each with its first reason."""
    told: set[str] = set()
    for refused in run.tables["attention_backends"]["refused"]:
        for one in str(refused).split("; "):
            backend, _, reason = one.partition(": ")
            if reason and backend not in told:
                told.add(backend)
                yield backend, reason


def explanation_rows(material: Material) -> Iterator[dict[str, Any]]:
    """Every cause of every speed-up, exactly: rows of explanations.csv."""
    for name, base in pairs(material):
        found = material.explanation(name, base)
        for cause in () if isinstance(found, str) else found.causes:
            yield dict(
                zip(
                    EXPLANATION_COLUMNS,
                    (
                        name, base, cause.group, cause.kind, cause.phase, cause.name, str(cause.before_ns),
                        str(cause.after_ns), str(cause.difference_ns), float(cause.difference_ns) / 1e6,
                    ),
                    strict=True,
                )
            )  # fmt: skip


def _ms(ns: Fraction | float) -> str:
    return f"{float(ns) / 1e6:,.3f}"


def _signed(ns: Fraction | float) -> str:
    return f"{float(ns) / 1e6:+,.3f}" if ns else "0"


def _plus(ns: float) -> str:
    return f"{'+' if ns >= 0 else '-'}{three_digits(abs(ns) / 1e6)}"


def _words(ns: float) -> str:
    return three_digits(ns / 1e6)


def _share(found: Explanation, part: Fraction) -> str:
    """A part of the recorded difference; empty where shares of it say nothing."""
    return f"{float(100 * part / found.difference_ns):+.1f}%" if found.has_shares and found.difference_ns else ""
