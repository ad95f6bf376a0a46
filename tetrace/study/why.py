"""Why configurations differ: each speed-up explained by both timed steps and what their recordings say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from tetrace.breakdown.changes import NOISE, TOO_FEW
from tetrace.report.grid import Column, Grid
from tetrace.study.adding_up import how_it_adds_up, in_ms
from tetrace.study.causes import Cause, Group
from tetrace.study.explanation import NOT_RECORDED, NOT_SHOWN, NOT_TIMED, Explanation
from tetrace.study.section import Section, cut, times
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
        "exactly. What the GPU works is taken from the recordings. What it waits is what the timed step leaves for it, phase by "
        "phase where phases were timed: a recorder, or somebody else on the machine, slows the host and so lengthens waiting. "
        "It is split between host ranges "
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
            "were recorded, work of the GPU may be off by more than a tenth of all that changed, or over 5% of it are not in the "
            "recordings."
        )
    if turned := sum(one.doubt == NOT_SHOWN for one in told):
        are = "is of a difference" if turned == 1 else "are of differences"
        said.append(
            f"{turned} of {len(shown)} tables {are} that the recordings do not show: most of what was timed is waiting, "
            "and the recorded steps wait the other way round."
        )
    if opposed := sum(one.is_opposed for one in told):
        said.append(
            f"{opposed} of {len(shown)} tables {'has' if opposed == 1 else 'have'} recordings whose steps differ the other way "
            "than the timed ones: hosts waited otherwise, or the GPU's clock was another, while they were made. The words "
            "under each begin with what of the difference is from the recordings."
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
    base, name = found.names
    told = is_told(material, name, base)
    shown, left = found.rows(told)
    lines = [_row(found, [group], group.name, _most(group.causes)) for group in shown]
    if left:
        hidden = found.hidden(left)
        of = "" if hidden is None else f", {three_digits(100 * float(hidden))}% of all changes"
        lines.append(
            _row(found, left, f"{len(left)} smaller causes{of}", cut(", ".join(one.name for one in left), 200))
        )
    whole = _share(found, found.difference_ns).removeprefix("+")
    step = "timed step" if found.timed_ns else "recorded step"
    total: tuple[str, ...] = (*map(_ms, found.explained_ns), _signed(found.difference_ns), whole, step, "")
    title = f"{name} against {base}: {times(material.speedup(name, base))}{_does_not_explain(found, told)}"
    if not (found.has_shares and told):
        heads, lines, total = heads[:3] + heads[4:], [row[:3] + row[4:] for row in lines], total[:3] + total[4:]
    return Grid(title, heads, tuple(lines), total if found.difference_ns else (), how_it_adds_up(material, found))


def _does_not_explain(found: Explanation, told: bool) -> str:
    """That a table does not explain the timed difference, and why, or that its recordings differ the other way; else empty."""
    if found.doubt == NOT_TIMED:
        return "; recorded difference, not timed without a recorder"
    if not told:
        return "; not told apart"
    if found.doubt == NOT_SHOWN:
        return "; not shown by the recordings"
    why = {
        TOO_FEW: "too few steps were recorded",
        NOT_RECORDED: f"{in_ms(found.charged.residue_apart_ns)} ms of it are not in the recordings",
        NOISE: f"work of the GPU may be off by {in_ms(found.off_by_ns or 0)} of {in_ms(found.changes_ns)} ms that changed",
    }
    if found.doubt:
        return f"; does not explain the timed difference: {why[found.doubt]}"
    return "; the recordings differ the other way" if found.is_opposed else ""


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


def _share(found: Explanation, part: Fraction) -> str:
    """A part of the difference; empty where shares of it say nothing."""
    return f"{float(100 * part / found.difference_ns):+.1f}%" if found.has_shares and found.difference_ns else ""
