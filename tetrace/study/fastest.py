"""The first words of a verdict: which configuration is fastest, as far as rounds can tell, and whether the GPU idles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tetrace.study.identical import deviation, twins
from tetrace.study.idle import idle_share
from tetrace.study.material import Material
from tetrace.study.results import MEASURED, Configuration
from tetrace.study.section import cut, several, times
from tetrace.study.statistics import APART, Estimate

# Why a GPU idles where the host decides how long a step takes.
_HOST = ("host_bound", "launch_latency", "synchronization")
# A ratio that may be 1 and so many times more, or less, says nothing of a configuration.
_NOISY = 2
# From this share of a step on the GPU's idling is named.
_MUCH = 0.2


def fastest_words(material: Material) -> str:
    """What is fastest, by how much, and what it is not told apart from; where steps are of different work, what gains most."""
    members = material.matrices()[0][1] if material.matrices() else ()
    timed = [one for one in members if material.time(one.name) is not None and not material.stale(one.name)]
    if not timed:
        return "Nothing was measured" + (" as the study plans it now" if any(one.rounds for one in members) else "")
    if _different_work(material, timed):
        return _gains_most(material)
    known = [(found.value, one.name) for one in timed if (found := material.time(one.name)) is not None]
    ns, name = min(known)
    base = material.baseline(name)
    words = f"Fastest: {cut(name, 80)}, {ns / 1e6:,.3f} ms a step"
    others = {one: _widened(material, name, one) for _, one in sorted(known) if one != name}
    apart = [one for one, found in others.items() if found is not None and found.way == APART]
    alike = [one for one, found in others.items() if one not in apart and _may_be_as_fast(found)]
    if base and base not in alike and base not in apart and (speedup := material.speedup(name, base)):
        words += f", {times(speedup)} as fast as {base}"
    if alike:
        words += f", not told apart from {several(alike)}"
    if apart:
        which = apart[0] if len(apart) == 1 else f"{len(apart)} others"
        words += f"{';' if alike else ','} {cut(which, 80)} never ran beside it"
    return words + _faster_elsewhere(material, name)


def compares_other_work(material: Material) -> bool:
    """Whether steps of the first matrix are of different work, so that none is the fastest."""
    members = material.matrices()[0][1] if material.matrices() else ()
    return _different_work(material, [one for one in members if one.is_timed and not material.stale(one.name)])


def _widened(material: Material, of: str, against: str) -> Estimate | None:
    """A speed-up, its interval wider by what identical configurations differ by: so effects and claims are told."""
    found = material.speedup(of, against)
    return None if found is None else found.wider(_apart_by(material, of, against))


def _apart_by(material: Material, *of: str) -> float:
    """By which factor identical configurations differ, those like `of`."""
    return math.exp(deviation(material, of=of))


def _faster_elsewhere(material: Material, name: str) -> str:
    """The fastest of all other matrices, where it does the same work in a time that is told to be less; else empty."""
    best, own = material.configuration(name), material.time(name)
    if best is None or own is None or own.low is None or not (best.tokens and best.flops):
        return ""
    others = [one for _, members in material.matrices()[1:] for one in members if one.name not in twins(material)[name]]
    found = []
    for one in others:
        time = material.time(one.name)
        if time is None or material.apart(one.name, name) or _different_work(material, (best, one)):
            continue
        if time.high is not None and time.high * _apart_by(material, one.name, name) < own.low:
            found.append((time.value, one.name))
    if not found:
        return ""
    ns, other = min(found)
    ratio = material.speedup(other, name)
    beside = ", which never ran beside it" if ratio is not None and ratio.way == APART else ""
    return f"; the same work takes {ns / 1e6:,.3f} ms as {cut(other, 80)}{beside}"


def _gains_most(material: Material) -> str:
    """The largest speed-up over an own baseline, of all matrices: times of different work say nothing of each other."""
    own = [(one.name, material.baseline(one.name)) for one in material.configurations]
    known = [(found, name, base) for name, base in own if base and (found := material.speedup(name, base)) is not None]
    if not known:
        return "No configuration was measured beside its baseline"
    wide = {name: found.wider(_apart_by(material, name, base)) for found, name, base in known}
    told = [one for one in known if (low := wide[one[1]].low) is not None and low > 1]
    best, name, base = max(told or known, key=lambda one: one[0].value)
    words = f"{cut(name, 80)}, {times(best)} as fast as {cut(base, 80)}"
    if all(one.high is not None and one.high < 1 for one in wide.values()):
        return f"Nothing is faster than its baseline: at best {words}"
    # Of other work, and so no pairs of rounds: their own intervals.
    others = [one for _, one, _ in sorted(known, key=lambda one: -one[0].value) if one not in twins(material)[name]]
    alike = [one for one in others if _may_be_equal(wide[one], wide[name])]
    said = f"the speed-up of {several(alike)}" if alike else ""
    if not told and _is_too_noisy(best):
        return f"No configuration is told to be faster than its baseline: rounds are too noisy to tell ({words})"
    if not told:
        words = f"No configuration is told to be faster than its baseline: at best {words}"
        high = wide[name].high
        if high is None or high >= 1:
            return f"{words}, not told apart from it" + (f", nor from {said}" if said else "")
        return f"{words}, not told apart from {said}" if said else words
    more = f", not told apart from {said}" if said else ""
    return f"Largest speed-up over its own baseline: {words}{more}"


def _may_be_equal(one: Estimate, other: Estimate) -> bool:
    return one.overlaps(other) or not (one.has_interval and other.has_interval)


def _is_too_noisy(found: Estimate) -> bool:
    """Whether a ratio may lie on either side of 1, and so far from it that none of them is the best."""
    if found.low is None or found.high is None:
        return False
    return found.low <= 1 <= found.high and (found.low < 1 / _NOISY or found.high > _NOISY)


def _may_be_as_fast(found: Estimate | None) -> bool:
    """Whether a speed-up leaves open which is faster: without an interval, or where both are not to be compared, it does."""
    return found is None or found.low is None or found.low <= 1


def _different_work(material: Material, members: Sequence[Configuration]) -> bool:
    """Whether steps of a matrix are of different work: other tokens, operations or parameters. Where a model does not count
    them, a baseline for each is how the study says so."""
    work = {(one.tokens, one.flops, one.parameters) for one in members}
    if len(work) > 1:
        return True
    is_counted = all(one.tokens and one.flops for one in members)
    return not is_counted and len({material.baseline(one.name) for one in members} - {""}) > 1


def idle_words(material: Material) -> str:
    """That the GPU idles most of a timed step, where recordings say so of most configurations of the first matrix; else
    which of them it idles in for more than a fifth of one. Empty where it does in none."""
    members = material.matrices()[0][1] if material.matrices() else ()
    measured = [one.name for one in members if one.state == MEASURED]
    known = {name: idle_share(material, name) or 0.0 for name in measured if not material.stale(name)}
    idle = {name: share for name, share in known.items() if share > 0.5}
    if 2 * len(idle) <= len(measured):
        return _idles_in(material, {name: share for name, share in known.items() if share > _MUCH})
    shares = _range(idle)
    decides = all(_waits_for_the_host(material, name) for name in idle)
    if len(idle) == len(measured):
        return f"The GPU idles {shares} of a step{', so the host decides' if decides else ''}"
    which = f"In {len(idle)} of {len(measured)} configurations"
    said = f"{which} the GPU idles more than half of a step ({shares})"
    return f"{said}, so there the host decides" if decides else said


def _idles_in(material: Material, idle: Mapping[str, float]) -> str:
    """In which configurations the GPU idles for much of a step, the longest first."""
    if not idle:
        return ""
    names = several([cut(name, 80) for name in sorted(idle, key=lambda name: -idle[name])])
    decides = all(_waits_for_the_host(material, name) for name in idle)
    return f"The GPU idles {_range(idle)} of a step of {names}{': it waits for the host' if decides else ''}"


def _range(shares: Mapping[str, float]) -> str:
    return " to ".join(dict.fromkeys(f"{100 * share:.0f}%" for share in (min(shares.values()), max(shares.values()))))


def _waits_for_the_host(material: Material, name: str) -> bool:
    """Whether it is mostly the host that the GPU waits for, as recorded."""
    run = material.breakdown(name)
    assert run is not None
    return 2 * sum(run.totals.idle_ns.get(cause, 0) for cause in _HOST) > run.totals.all_idle_ns
