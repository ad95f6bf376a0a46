"""The first words of a verdict: which configuration is fastest, as far as rounds can tell."""

from __future__ import annotations

from collections.abc import Sequence

from tetrace.study.material import Material
from tetrace.study.results import Configuration
from tetrace.study.section import cut, several, times


def fastest_words(material: Material) -> str:
    """What is fastest, by how much, and what it is not told apart from; where steps are of different work, what gains most."""
    members = material.matrices()[0][1] if material.matrices() else ()
    timed = [one for one in members if material.time(one.name) is not None and not material.stale(one.name)]
    if not timed:
        return "Nothing was measured" + (" as the study plans it now" if any(one.rounds for one in members) else "")
    if _different_work(material, timed):
        return _gains_most(material, timed)
    known = [(found.value, one.name) for one in timed if (found := material.time(one.name)) is not None]
    ns, name = min(known)
    base = material.baseline(name)
    words = f"Fastest: {cut(name, 80)}, {ns / 1e6:,.3f} ms a step"
    alike = [one for _, one in sorted(known) if one != name and _may_be_as_fast(material, one, name)]
    if base and base not in alike and (speedup := material.speedup(name, base)):
        words += f", {times(speedup)} of {base}"
    return f"{words}, not told apart from {several(alike)}" if alike else words


def _gains_most(material: Material, members: Sequence[Configuration]) -> str:
    """The largest speed-up over an own baseline: times of different work say nothing of each other."""
    own = [(one.name, material.baseline(one.name)) for one in members]
    known = [(found, name, base) for name, base in own if base and (found := material.speedup(name, base)) is not None]
    if not known:
        return "No configuration was measured beside its baseline"
    best, name, base = max(known, key=lambda one: one[0].value)
    words = f"{cut(name, 80)}, {times(best)} of {cut(base, 80)}"
    if best.value < 1:
        return f"Nothing is faster than its baseline: at best {words}"
    # Of other work, and so no pairs of rounds: their own intervals.
    alike = [
        other
        for found, other, _ in known
        if other != name and (found.overlaps(best) or not (found.has_interval and best.has_interval))
    ]
    more = f", not told apart from the speed-up of {several(alike)}" if alike else ""
    return f"Largest speed-up over its own baseline: {words}{more}"


def _may_be_as_fast(material: Material, name: str, fastest: str) -> bool:
    found = material.speedup(fastest, name)
    # Without an interval, or where both are not to be compared, nothing tells them apart.
    return found is None or found.low is None or found.low <= 1


def _different_work(material: Material, members: Sequence[Configuration]) -> bool:
    """Whether steps of a matrix are of different work: other tokens or operations, or a baseline for each."""
    bases = {material.baseline(one.name) for one in members} - {""}
    sizes = {(one.tokens, one.flops) for one in members}
    return len(bases) > 1 or len(sizes) > 1
