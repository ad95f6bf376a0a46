"""Why configurations differ: each speed-up explained by both timed steps and what their recordings say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tetrace.breakdown.account import IDLE
from tetrace.breakdown.changes import NOISE, TOO_FEW
from tetrace.report.grid import Column, Grid
from tetrace.study.causes import Cause, Group
from tetrace.study.explanation import LEAST_FACTOR, MOST_FACTOR, NOT_SHOWN, NOT_TIMED, Explanation
from tetrace.study.section import Section, cut, several, signs, times
from tetrace.study.speedups import is_told, pairs, speedups, unexplained_words
from tetrace.units import three_digits

if TYPE_CHECKING:
    from tetrace.study.material import Material

# Causes of a group that its row names.
_NAMED = 3
EXPLANATION_COLUMNS = (
    "configuration", "against", "group", "kind", "phase", "name", "before_ns_exact", "after_ns_exact",
    "difference_ns_exact", "difference_ms", "timed_before_ms", "timed_after_ms",
)  # fmt: skip


def why_section(material: Material) -> Section:
    """An explanation of every speed-up."""
    found = pairs(material)
    if not found and not speedups(material):
        return Section("why", "Where each speed-up comes from")
    said = [
        "Differences of a step as timed without a recorder, from its baseline; the rows of a table add up to both steps "
        "exactly. What the GPU works is taken from the recordings. What it waits is what the timed step leaves for it: a "
        "recorder, or somebody else on the machine, slows the host and so lengthens waiting. It is split between host ranges "
        "as in the recording, since a host that is slowed is slowed in all that it does; that is assumed for the split, not "
        "for the sum. Where the GPU works all of a step, its clock is what differs: kernels then are longer or shorter as in "
        "recorded steps of other lengths. Attention is fused kernels, and softmax: matrix products of unfused attention are "
        "GEMMs."
    ]
    grids, more, shown = [], [], []
    for name, base in found:
        one = material.explanation(name, base)
        if isinstance(one, str):
            continue
        shown.append(one)
        grids.append(explanation_grid(material, one))
        more.append(causes_grid(one))
    told = [one for one in shown if is_told(material, *reversed(one.names))]
    if left := sum(one.doubt not in ("", NOT_SHOWN) for one in told):
        said.append(
            f"{left} of {len(shown)} tables {'does' if left == 1 else 'do'} not explain the timed difference: too few steps "
            "were recorded, or work of the GPU may be off by more than a tenth of all that changed."
        )
    if turned := sum(one.doubt == NOT_SHOWN for one in told):
        are = "is of a difference" if turned == 1 else "are of differences"
        said.append(
            f"{turned} of {len(shown)} tables {are} that the recordings do not show: most of what was timed is waiting, "
            "and the recorded steps wait the other way round."
        )
    if alike := len(shown) - len(told):
        said.append(
            f"{alike} of {len(shown)} tables {'is' if alike == 1 else 'are'} of steps that timing does not tell apart: there is "
            "no speed-up to explain, and what stands there may cancel out, or be noise."
        )
    said += unexplained_words(material)
    return Section("why", "Where each speed-up comes from", tuple(said), tuple(grids), more=tuple(more))


def explanation_grid(material: Material, found: Explanation) -> Grid:
    """The groups of a difference that matter, with what is most of each."""
    heads: tuple[Column, ...] = (
        Column("before ms", keep=2), Column("after ms", keep=2), Column("difference"), Column("of it"),
        Column("what", number=False), Column("most of it", number=False, code=False, keep=1),
    )  # fmt: skip
    shown, left = found.rows()
    lines = [_row(found, [group], group.name, _most(group.causes)) for group in shown]
    if left:
        lines.append(_row(found, left, f"{len(left)} smaller causes", cut(", ".join(one.name for one in left), 200)))
    whole = _share(found, found.difference_ns).removeprefix("+")
    step = "timed step" if found.timed_ns else "recorded step"
    total: tuple[str, ...] = (*map(_ms, found.explained_ns), _signed(found.difference_ns), whole, step, "")
    base, name = found.names
    told = is_told(material, name, base)
    title = f"{name} against {base}: {times(material.speedup(name, base))}{_does_not_explain(found, told)}"
    if not (found.has_shares and told):
        heads, lines, total = heads[:3] + heads[4:], [row[:3] + row[4:] for row in lines], total[:3] + total[4:]
    return Grid(title, heads, tuple(lines), total if found.difference_ns else (), how_it_adds_up(material, found))


def _does_not_explain(found: Explanation, told: bool) -> str:
    """That a table does not explain the timed difference, and why; empty where it does."""
    if found.doubt == NOT_TIMED:
        return "; recorded difference, not timed without a recorder"
    if not told:
        return "; not told apart"
    if found.doubt == NOT_SHOWN:
        return "; not shown by the recordings"
    why = {
        TOO_FEW: "too few steps were recorded",
        NOISE: f"work of the GPU may be off by {_words(found.off_by_ns or 0)} of {_words(found.changes_ns)} ms that changed",
    }
    return f"; does not explain the timed difference: {why[found.doubt]}" if found.doubt else ""


def _row(found: Explanation, groups: Sequence[Group], name: str, most: str) -> tuple[str, ...]:
    before, after = (sum((getattr(group, end) for group in groups), Fraction(0)) for end in ("before_ns", "after_ns"))
    return _ms(before), _ms(after), _signed(after - before), _share(found, after - before), name, most


def _most(causes: Sequence[Cause]) -> str:
    named = [cause for cause in causes[:_NAMED] if cause.difference_ns and cause.name != cause.group]
    return "; ".join(f"{cut(cause.name, 80)} ({cause.phase}) {_signed(cause.difference_ns)}" for cause in named)


def causes_grid(found: Explanation) -> Grid:
    """Every cause of a difference: the page's table."""
    heads = (
        Column("what", number=False), Column("phase", number=False), Column("kernels or host range", number=False, code=True),
        Column("before ms"), Column("after ms"), Column("difference"), Column("of it"), Column("recorded before ms"),
        Column("recorded after ms"), Column("count before"), Column("count after"),
    )  # fmt: skip
    rows = tuple(
        (
            cause.group, cause.phase, cause.name, _ms(cause.before_ns), _ms(cause.after_ns), _signed(cause.difference_ns),
            _share(found, cause.difference_ns), *map(_ms, cause.recorded_ns),
            *(f"{float(one):,.1f}".removesuffix(".0") for one in cause.count),
        )
        for cause in found.causes
        if cause.before_ns or cause.after_ns or any(cause.recorded_ns)
    )  # fmt: skip
    return Grid(f"{found.names[1]} against {found.names[0]}, every cause", heads, rows)


def how_it_adds_up(material: Material, found: Explanation) -> str:
    """What of a timed difference is work of the GPU and what waiting, and how waiting is split."""
    if found.timed_ns is None:
        return f"{found.sentence} Without a recorder it was not timed."
    a, b = found.timed_ns
    works = found.work_ns[1] - found.work_ns[0]
    noise = "" if found.work_noise_ns is None else f" (±{_words(found.work_noise_ns)})"
    parts = [
        f"{_plus(works)}{noise} is work of the GPU",
        f"{_plus(found.waiting_ns[1] - found.waiting_ns[0])} waiting",
    ]
    residue = found.charged.residue_ns
    if any(residue):
        parts.append(f"{_plus(residue[1] - residue[0])} what the recordings do not have")
    few = " Too few steps were recorded to tell it from noise." if found.doubt == TOO_FEW else ""
    said = [
        *_not_shown_words(found),
        f"A step takes {_words(a)} and {_words(b)} ms, {_plus(b - a)} ms: {', '.join(parts)}.{few}",
        *_factor_words(found),
        *_turned_words(found),
        *(_clock_words(material, found, side) for side in (0, 1) if found.charged.by_clock_ns[side]),
        *(_residue_words(material, found, side) for side in (0, 1) if residue[side]),
        f"The recorded steps take {_words(found.step_ns[0])} and {_words(found.step_ns[1])} ms.",
        *_elsewhere_words(material, found),
    ]
    return signs(" ".join(said))


def _not_shown_words(found: Explanation) -> Iterator[str]:
    """That the recordings differ otherwise than the timed steps, and what of the rows is from them all the same."""
    if found.doubt == NOT_SHOWN:
        noise = ", within the noise of the recordings" if found.verdict == NOISE else ""
        yield (
            f"The recordings do not show this difference (recorded {_plus(found.recorded_difference_ns)} ms against timed "
            f"{_plus(found.difference_ns)} ms{noise}): only rows of the GPU's work are from them."
        )


def _elsewhere_words(material: Material, found: Explanation) -> Iterator[str]:
    """Whose recording is of another start of the machine than its timed steps, or made much later."""
    others = [name for name in found.names if material.recorded_elsewhere(name) is not None]
    if len(others) == 1:
        yield f"{others[0]} was recorded in another start of the machine than it was timed in."
    elif others:
        yield "Both were recorded in another start of the machine than they were timed in."
    later = {name: hours for name in found.names if (hours := material.recorded_hours_later(name))}
    if len(later) == 2 and len(set(later.values())) == 1:
        yield f"Both were recorded {max(later.values())} h after they were timed."
    else:
        yield from (f"{name} was recorded {hours} h after it was timed." for name, hours in later.items())


def _factor_words(found: Explanation) -> Iterator[str]:
    """How many times its recorded waiting each step waits, and what it means where that is far from 1."""
    factors = found.charged.factors
    known = [(name, one) for name, one in zip(found.names, factors, strict=True) if one is not None]
    if not known:
        return
    yield f"Waiting is that of the recordings times {' and '.join(_factor(one) for one in factors)}."
    slower = [name for name, one in known if 0 < one < LEAST_FACTOR]
    if slower:
        yield (
            f"The host was slower while {' and '.join(slower)} {'was' if len(slower) == 1 else 'were'} recorded: the recorder "
            "or somebody else slowed it."
        )
    if longer := [name for name, one in known if one > MOST_FACTOR]:
        yield f"The host was slower while {' and '.join(longer)} {'was' if len(longer) == 1 else 'were'} timed."


def _turned_words(found: Explanation) -> Iterator[str]:
    """Rows of waiting that went the other way in the recordings: their sign is that of the factors."""
    turned = [
        group.name
        for group in found.rows()[0]
        if group.kind == IDLE and group.recorded_difference_ns * group.difference_ns < 0
    ]
    if turned:
        yield f"As recorded, {several(turned, 2)} went the other way: how waiting is split is not known so well there."


def _factor(one: Fraction | None) -> str:
    return "none" if one is None else three_digits(float(one)) if one else "0"


def _clock_words(material: Material, found: Explanation, side: int) -> str:
    """What a timed step takes more, or less, than its recording since the GPU's clock was another, and whose time that is."""
    longer = float(found.charged.by_clock_ns[side] or 0)
    off_by = abs(longer) * found.rates_off_by[side]
    more, and_so = ("more", "longer") if longer > 0 else ("less", "shorter")
    return (
        f"The GPU works all of {found.names[side]}, which takes {_words(abs(longer))} ms {more} than recorded "
        f"({_clocks(material, found.names[side])}): kernels are {and_so} by that as they were in recorded steps of other "
        f"lengths (±{_words(off_by)})."
    )


def _residue_words(material: Material, found: Explanation, side: int) -> str:
    """What a timed step takes beside its work and its waiting, and why that may be."""
    name, left = found.names[side], found.charged.residue_ns[side]
    why = f"kernels were {'faster' if left < 0 else 'slower'} ({_clocks(material, name)})"
    if left < 0:
        return f"{name} takes {_words(-left)} ms less than its recording works: {why}."
    return f"{name} takes {_words(left)} ms more than its recording works and waits: the host was slowed, or {why}."


def _clocks(material: Material, name: str) -> str:
    """What changes the speed of kernels, as rounds noted it."""
    one = material.configuration(name)
    rounds = one.rounds if one is not None else ()
    capped = sum("power cap" in each.throttled for each in rounds)
    return f"clocks: under the power cap in {capped} of {len(rounds)} rounds" if capped else "clocks"


def explanation_rows(material: Material) -> Iterator[dict[str, Any]]:
    """Every cause of every speed-up, exactly as recorded, with what it takes of the timed steps: rows of explanations.csv."""
    for name, base in pairs(material):
        found = material.explanation(name, base)
        if isinstance(found, str):
            continue
        for cause in found.charged.causes:
            before, after = cause.recorded_ns
            timed = (cause.before_ns, cause.after_ns) if found.timed_ns else (None, None)
            yield dict(
                zip(
                    EXPLANATION_COLUMNS,
                    (
                        name, base, cause.group, cause.kind, cause.phase, cause.name, str(before), str(after),
                        str(after - before), float(after - before) / 1e6,
                        *(None if one is None else float(one) / 1e6 for one in timed),
                    ),
                    strict=True,
                )
            )  # fmt: skip


def _ms(ns: Fraction | float) -> str:
    return f"{float(ns) / 1e6:,.3f}"


def _signed(ns: Fraction | float) -> str:
    return f"{float(ns) / 1e6:+,.3f}" if ns else "0"


def _plus(ns: Fraction | float) -> str:
    return f"{'+' if ns >= 0 else '-'}{three_digits(abs(float(ns)) / 1e6)}"


def _words(ns: Fraction | float) -> str:
    return three_digits(float(ns) / 1e6)


def _share(found: Explanation, part: Fraction) -> str:
    """A part of the difference; empty where shares of it say nothing."""
    return f"{float(100 * part / found.difference_ns):+.1f}%" if found.has_shares and found.difference_ns else ""
