"""Verdicts on timed steps that another start of the machine turns round: they are its host's, or clock's, and not told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, Judged, judge
from tetrace.study.repetition import left_out
from tetrace.study.statistics import ORDER

if TYPE_CHECKING:
    from tetrace.study.material import Material

_OPPOSITE = {HOLDS: FAILS, FAILS: HOLDS}


def in_both_starts(material: Material, other: Material, one: Judged) -> Judged:
    """The verdict as it is where another run of the study says the same, or nothing: where that tells the opposite of the same
    configurations, measured alike, it cannot be told, and `why` has the other run's number."""
    claim, found = one.claim, one.value.estimate
    if one.verdict not in _OPPOSITE or claim.study or found is None or found.way != ORDER:
        return one
    names = {claim.of, claim.against or material.baseline(claim.of)} - {""}
    if names & left_out(material, other).keys():
        return one
    there = judge(other, claim)
    if there.verdict != _OPPOSITE[one.verdict]:
        return one
    said = f"another start, {other.results.started[:10]}, says {there.here}"
    return replace(one, verdict=UNKNOWN, why=f"{said}; {claim.why}" if claim.why else said)
