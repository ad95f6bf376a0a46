"""Which kernels of one run do the work of which kernels of another: by the same name, by role and shape, by order."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tetrace.attribute.attribution import UNATTRIBUTED_MODULE
from tetrace.breakdown.account import BUSY, Account, Line

_Key = tuple[str, ...]


class Match(NamedTuple):
    """Families of the kernels that do some work in either run, empty where a run has none, and the work's role."""

    before: str = ""
    after: str = ""
    role: str = ""

    @property
    def words(self) -> str:
        """One family where they are the same, an arrow where one replaces the other."""
        before, after = self.before, self.after
        return before if before == after else f"{before} → {after}" if before and after else before or after


NO_MATCH = Match()


def match_kernels(a: Account, b: Account) -> tuple[list[Match], list[Match]]:
    """For every line of `a` and of `b` the kernels that do its work in both; `NO_MATCH` for lines of idle time.

    What is called the same is the same; of what is left, the n-th kernel of a place in one run is the n-th of that place
    in the other. Places are told by role and shape, then by role and module, and where a run does not tell the role, by
    the module.
    """
    found = ([NO_MATCH] * len(a.lines), [NO_MATCH] * len(b.lines))
    left = [{i for i, line in enumerate(one.lines) if line.kind == BUSY} for one in (a, b)]
    for place in (_name_in_module, _shape, _module, _name, _any_role):
        mine, theirs = (_grouped(one, rows, place) for one, rows in zip((a, b), left, strict=True))
        for key in mine.keys() & theirs.keys():
            for match, *rows in _paired(a, b, mine[key], theirs[key]):
                for side in (0, 1):
                    left[side].difference_update(rows[side])
                    for row in rows[side]:
                        found[side][row] = match
    for row in left[0]:
        found[0][row] = Match(before=a.lines[row].name, role=a.lines[row].role)
    for row in left[1]:
        found[1][row] = Match(after=b.lines[row].name, role=b.lines[row].role)
    return found


def _name_in_module(line: Line) -> _Key:
    return (line.category, line.operation, line.phase, line.role, line.module, line.name)


def _shape(line: Line) -> _Key:
    # Without a role a shape tells little, and without a shape a role does not tell the place.
    return (line.category, line.operation, line.phase, line.role, line.shape) if line.role and line.shape else ()


def _module(line: Line) -> _Key:
    return (line.category, line.operation, line.phase, line.role, line.module)


def _name(line: Line) -> _Key:
    return (line.category, line.operation, line.phase, line.role, line.name)


def _any_role(line: Line) -> _Key:
    return (line.category, line.phase, line.module) if line.module != UNATTRIBUTED_MODULE else ()


def _grouped(account: Account, rows: set[int], place: Callable[[Line], _Key]) -> dict[_Key, list[int]]:
    """Lines by their place, in the order in which they come in a step."""
    grouped: dict[_Key, list[int]] = {}
    for row in sorted(rows, key=lambda i: (int(account.order[i]), i)):
        key = place(account.lines[row])
        if key:
            grouped.setdefault(key, []).append(row)
    return grouped


def _paired(a: Account, b: Account, mine: list[int], theirs: list[int]) -> list[tuple[Match, list[int], list[int]]]:
    """Kernels of one place in both runs: those of the same name first, then the others one by one, in order."""
    of_a, of_b = _by_family(a, mine), _by_family(b, theirs)
    pairs = [(name, name, of_a.pop(name), of_b.pop(name)) for name in [*of_a] if name in of_b]
    pairs += [(before, after, of_a[before], of_b[after]) for before, after in zip(of_a, of_b, strict=False)]
    return [(Match(before, after, _role(a, rows, b, others)), rows, others) for before, after, rows, others in pairs]


def _role(a: Account, mine: list[int], b: Account, theirs: list[int]) -> str:
    """The role that either run tells; fused kernels have one where plain ones have none."""
    roles = [*(b.lines[row].role for row in theirs), *(a.lines[row].role for row in mine)]
    return next((role for role in roles if role), "")


def _by_family(account: Account, rows: list[int]) -> dict[str, list[int]]:
    families: dict[str, list[int]] = {}
    for row in rows:
        families.setdefault(account.lines[row].name, []).append(row)
    return families
