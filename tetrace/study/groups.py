"""Which configurations should be alive together: those that the report compares, so that their rounds take turns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from tetrace.study.results import Configuration
from tetrace.study.spec import Planned, Study

Pair = frozenset[str]


def compared(study: Study) -> set[Pair]:
    """Pairs of configurations whose ratio is reported: with the baseline, in a claim, in a note's table, along a sweep."""
    names = {planned.name for planned in study.configurations}
    return {pair for pair in map(frozenset, _compared(study)) if len(pair) == 2 and pair <= names}


def _compared(study: Study) -> Iterator[tuple[str, str]]:
    yield from ((planned.name, planned.baseline) for planned in study.configurations)
    yield from ((claim.of, claim.against) for claim in study.claims)
    for note in study.notes:
        yield from ((row.configuration, note.rows[0].configuration) for row in note.rows)
    for sweep in study.sweeps:
        at = {
            tuple(planned.axes.items()): planned.name
            for planned in study.configurations
            if planned.matrix == sweep.matrix
        }
        for axes, name in at.items():
            if sweep.group in dict(axes) and sweep.baseline:
                yield name, at.get(tuple({**dict(axes), sweep.group: sweep.baseline}.items()), name)


def interleaved(one: Configuration, other: Configuration) -> int:
    """How many rounds of both were next to each other: of one number, in one group."""
    mine, its = ({(each.round, each.group) for each in both.rounds} for both in (one, other))
    return len(mine & its)


def next_of(
    members: Sequence[str], left: Sequence[Planned], again: Sequence[Planned], apart: Collection[Pair], places: int
) -> Planned | None:
    """What joins a group with `members` that has `places` left; None where nothing should.

    Of `left`, and of what was measured and may be measured `again` beside what it is compared with, it is the one that
    is compared with most members. `apart`: pairs that were not interleaved yet.
    """
    if not members:
        return left[0] if left else None
    wanted = {
        name: {other for pair in apart if name in pair for other in pair - {name}} for pair in apart for name in pair
    }

    def gain(planned: Planned) -> int:
        return len(wanted.get(planned.name, set()) & set(members))

    # The last place is not for one that would be without what it is compared with.
    free = [planned for planned in left if gain(planned) or places > 1 or not wanted.get(planned.name)]
    # What is there already comes first: a member waits for it, and the others can wait for the next group.
    candidates = [*(planned for planned in again if planned.name not in members and gain(planned)), *free]
    return max(candidates, key=gain, default=None)
