"""Which configurations are at which place of a sweep, in its own matrix and in others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.spec import Sweep

# A group of a sweep, and the labels of all other axes.
Key = tuple[str, tuple[tuple[str, str], ...]]


def placed_in(material: Material, sweep: Sweep) -> list[tuple[float, Key, Configuration]]:
    """The configurations of a sweep, each with its place and line: those of its matrix, then those of others."""
    found: list[tuple[float, Key, Configuration]] = []
    lines: dict[Key, list[Configuration]] = {}
    for one in material.configurations:
        if one.matrix == sweep.matrix and (x := place(one, sweep.along)) is not None:
            key = (one.axes.get(sweep.group, ""), _others(one, sweep))
            found.append((x, key, one))
            lines.setdefault(key, []).append(one)
    bases: dict[tuple[float, object], str] = {}
    # The baseline's first: what is set against it is taken from the same matrix, whose rounds ran side by side.
    for key in sorted(lines, key=lambda key: key[0] != sweep.baseline):
        group, others = key
        for x, members in _elsewhere(material, sweep, lines[key]).items():
            one = min(members, key=lambda one: one.matrix != bases.get((x, others), one.matrix))
            found.append((x, key, one))
            if group == sweep.baseline:
                bases[x, others] = one.matrix
    return found


def _elsewhere(material: Material, sweep: Sweep, members: Sequence[Configuration]) -> dict[float, list[Configuration]]:
    """Places of a line that only other matrices have, with what they timed there: options and environment are those of the
    line but for the place. None where more than the place changes along the line."""
    found: dict[float, list[Configuration]] = {}
    along = sweep.along
    rest = {_rest(one, along) for one in members}
    if len(rest) > 1 or any(along not in one.options for one in members):
        return found
    own = {place(one, along) for one in members}
    for one in material.configurations:
        if one.matrix == sweep.matrix or not one.is_timed or along not in one.options or _rest(one, along) not in rest:
            continue
        if (x := place(one, along)) is not None and x not in own:
            found.setdefault(x, []).append(one)
    return found


def _rest(one: Configuration, along: str) -> str:
    """What a configuration is but for its place."""
    options = sorted((key, repr(said)) for key, said in one.options.items() if key != along)
    return repr((options, sorted(one.environment.items())))


def place(one: Configuration, along: str) -> float | None:
    """Where a configuration is along an option; None where that is no number."""
    said: Any = one.options.get(along, one.axes.get(along))
    try:
        return float(said)
    except (TypeError, ValueError):
        return None


def _others(one: Configuration, sweep: Sweep) -> tuple[tuple[str, str], ...]:
    return tuple((axis, label) for axis, label in one.axes.items() if axis not in (sweep.along, sweep.group))
