"""Every speed-up that a report says, and which of them recordings explain."""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.study.effects import axes
from tetrace.study.explanation import NOT_SHOWN, Explanation
from tetrace.study.identical import deviation, twins
from tetrace.study.section import cut, several

if TYPE_CHECKING:
    from tetrace.study.material import Material


_known: weakref.WeakKeyDictionary[Material, list[tuple[str, str]]] = weakref.WeakKeyDictionary()


def pairs(material: Material) -> list[tuple[str, str]]:
    """Configurations that were measured and are recorded, each with what a speed-up of it is against: its baseline, what a
    claim compares it with, the first row of a note's table, and what an effect of an option is told against."""
    if material not in _known:
        _known[material] = _pairs(material)
    return _known[material]


def _pairs(material: Material) -> list[tuple[str, str]]:
    own = [one.name for one in material.recorded()]
    asked = [(name, material.baseline(name)) for name in own]
    claims = [claim for claim in material.study.claims if claim.figure.endswith("speedup")]
    asked += [(claim.of, claim.against or material.baseline(claim.of)) for claim in claims]
    for note in material.study.notes:
        asked += [(row.configuration, note.rows[0].configuration) for row in note.rows[1:]]
    known, same = set(own), twins(material)
    found: dict[tuple[str, str], None] = {}

    def add(pair: tuple[str, str]) -> None:
        if known.issuperset(pair) and pair[0] != pair[1] and pair[::-1] not in found:
            found[pair] = None

    for pair in asked:
        add(pair)
    for of, against in _effects(material):
        # One table for what runs the same under other names, where it explains both.
        alike = ((a, b) for a in same[of] for b in same[against])
        shown = (pair if pair in found else pair[::-1] for pair in alike if {pair, pair[::-1]} & found.keys())
        if is_told(material, of, against) and not any(_explains(material, pair) for pair in shown):
            add((of, against))
    return list(found)


def _explains(material: Material, pair: tuple[str, str]) -> bool:
    found = material.explanation(*pair)
    return not isinstance(found, str) and found.explains


def _effects(material: Material) -> list[tuple[str, str]]:
    """What the values of options are compared by, beside one another."""
    return [(one.of, one.base) for axis in axes(material) for one in axis.effects]


@dataclass(frozen=True)
class Unexplained:
    """A speed-up that no recordings explain: of `of` against `against`, because of `why`. `twins` are configurations with
    the same options, whose recordings do; else None."""

    of: str
    against: str
    why: str
    twins: tuple[str, str] | None


def speedups(material: Material) -> list[tuple[str, str]]:
    """Every speed-up that the report says: of each configuration over its baseline, of each value of an option over its
    first, and what claims and notes compare."""
    asked = [(one.name, material.baseline(one.name)) for one in material.configurations]
    asked += pairs(material) + _effects(material)
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
        # Nobody asks for what timing does not tell apart.
        said = material.explanation(of, against) if is_told(material, of, against) else ""
        candidates = ((a, b) for a in same[of] for b in same[against])
        alike = next((pair for pair in candidates if {pair, pair[::-1]} & explained), None)
        found.append(Unexplained(of, against, said if isinstance(said, str) else "", alike))
    return found


def is_told(material: Material, of: str, against: str) -> bool:
    """Whether timing tells two configurations apart: 1 is outside of the interval, widened by what identical
    configurations differ by. So it is taken where their speed-up has no interval."""
    found = material.speedup(of, against)
    if found is None or found.low is None or found.high is None:
        return True
    by = math.exp(deviation(material, of=(of, against)))
    return not found.low / by <= 1 <= found.high * by


def explained_words(material: Material) -> str:
    """`with every speed-up explained`, or how many of them, by what recordings, and how many their recordings do not show; empty
    where there is no ratio. A table that does not explain the timed difference explains no speed-up, and what timing does not
    tell apart is none."""
    missing = {(one.of, one.against): one.twins for one in unexplained(material)}
    every = speedups(material)
    told = [pair for pair in every if is_told(material, *pair)]
    found, alike = [_either_way(material, missing.get(pair, pair)) for pair in told], len(every) - len(told)
    if not told:
        return "with no ratio told from 1" if alike else ""
    explained = [one for one in found if one is not None and one.explains]
    turned = sum(one is not None and one.doubt == NOT_SHOWN for one in found)
    is_all = len(explained) == len(told)
    words = f"with {'every speed-up' if is_all else f'{len(explained)} of {len(told)} speed-ups'} explained"
    words += _by_what(explained)
    words += f", {turned} not shown by {'its' if turned == 1 else 'their'} recordings" if turned else ""
    return words + (f" ({alike} {'ratio is' if alike == 1 else 'ratios are'} not told from 1)" if alike else "")


def _by_what(explained: list[Explanation]) -> str:
    """How many are explained by recordings that show them; empty where all are."""
    opposed = sum(one.is_opposed for one in explained)
    way = "recordings whose steps differ the other way"
    return f", {len(explained) - opposed} by recordings that show them and {opposed} by {way}" if opposed else ""


def _either_way(material: Material, pair: tuple[str, str] | None) -> Explanation | None:
    """What explains a pair, in either order; None where it was not recorded."""
    if pair is None:
        return None
    # The other order is a comparison of its own, and takes as long.
    found = material.explanation(*(pair if pair in pairs(material) else pair[::-1]))
    return None if isinstance(found, str) else found


def unexplained_words(material: Material) -> list[str]:
    """What is explained elsewhere, and what is not, by reason."""
    said: list[str] = []
    by_reason: dict[str, list[Unexplained]] = {}
    alike = []
    for one in unexplained(material):
        if one.twins:
            said.append(
                f"{one.of} against {one.against} runs the same as {one.twins[0]} against {one.twins[1]}: see there."
            )
        elif not is_told(material, one.of, one.against):
            alike.append(f"{one.of} against {one.against}")
        else:
            by_reason.setdefault(one.why.removeprefix(f"{one.of}: ").removeprefix(f"{one.against}: "), []).append(one)
    if alike:
        said.append(cut(f"Not told apart, and so not asked for: {several(alike, 6)}.", 1200))
    for reason, members in by_reason.items():
        names = several([f"{one.of} against {one.against}" for one in members], 6)
        said.append(cut(f"Not explained: {names}: {reason}.", 1200))
    return said
