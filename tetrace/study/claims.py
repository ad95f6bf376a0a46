"""Whether the claims of a note hold here: each a condition on a figure, with its verdict, number and interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tetrace.study.figures import value
from tetrace.study.identical import deviation
from tetrace.study.results import FAILED, INTERRUPTED, TIMED_OUT, WAITING
from tetrace.study.statistics import APART, NO_SERIES, ORDER, STEPS, STUDENT
from tetrace.study.value import TIMES, WORD, Value, finite_word, number, state_word, word_of

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.spec import Claim
    from tetrace.study.statistics import Estimate

HOLDS, FAILS, UNKNOWN = "holds", "does not hold here", "cannot be told"
VERDICTS = (HOLDS, FAILS, UNKNOWN)
_NO_RUN = "told without a run"
# What it is in when nothing can be said of how it would have ended.
_NO_STATE = (INTERRUPTED, WAITING, TIMED_OUT)


@dataclass(frozen=True)
class Judged:
    """A claim with its verdict. `here` is the figure as measured, `limit` what it was held against, `why` one sentence
    where it does not hold or cannot be told."""

    claim: Claim
    verdict: str
    here: str
    limit: str
    why: str
    value: Value


def judge(material: Material, claim: Claim, found: Value | None = None) -> Judged:
    """The verdict on one claim; `found` is its figure where that is no figure of a configuration (a crossing)."""
    if claim.study:
        return _judge_elsewhere(material, claim)
    if claim.figure == "none":
        if claim.holds is not None:
            return Judged(claim, HOLDS if claim.holds else FAILS, _NO_RUN, "", claim.why, Value())
        return Judged(claim, UNKNOWN, "", "", claim.why or "it is about nothing that a run measures", Value())
    if found is None:
        found = _figure(material, claim)
    verdict, reason = _verdict(material, claim, found)
    here = _here(material, claim, found)
    why = reason if verdict == UNKNOWN and reason else ""
    if verdict != HOLDS and claim.why:
        why = f"{why}; {claim.why}" if why else claim.why
    return Judged(claim, verdict, here if found.known else "", limit_words(claim, found.unit), why, found)


def _judge_elsewhere(material: Material, claim: Claim) -> Judged:
    """The verdict by the results of another study on the same machine, which is named beside the figure."""
    other = material.of_study(claim.study)
    if isinstance(other, str):
        return Judged(claim, UNKNOWN, "", "", other, Value(reason=other))
    found = judge(other, replace(claim, study=""))
    here = f"{found.here}, in study {claim.study}" if found.here else ""
    why = f"in study {claim.study}: {found.why}" if found.why and not found.value.known else found.why
    return replace(found, claim=claim, here=here, why=why)


def _here(material: Material, claim: Claim, found: Value) -> str:
    own = material.configuration(claim.of)
    if claim.figure == "finite" and found.known and own is not None:
        return own.losses.lost or finite_word(True)
    return _word(claim, found.word) if claim.figure == "state" and found.known else found.words()


def _word(claim: Claim, value: str | bool | float | None) -> str:
    """A word of a claim's figure."""
    return {"state": state_word, "finite": finite_word}.get(claim.figure, word_of)(value)


def _figure(material: Material, claim: Claim) -> Value:
    """The figure of a claim; none of a configuration that was measured otherwise than the study plans."""
    for name in filter(None, (claim.of, claim.against)):
        if said := material.stale(name):
            return Value(reason=f"{name} was {said}")
    return value(material, claim.figure, claim.of, claim.against)


def _verdict(material: Material, claim: Claim, found: Value) -> tuple[str, str]:
    if not found.known:
        return UNKNOWN, found.reason
    if claim.figure == "state":
        return _of_state(material, claim, str(found.word))
    if found.estimate is not None and found.clocks_apart > 1:
        return _at_other_clocks(claim, found.estimate, found.clocks_apart)
    if found.estimate is not None:
        return _beside_identical(material, claim, found, *_of_number(claim, found.estimate))
    word = f"{found.word} {found.also}" if found.also else found.word
    return (HOLDS if _is_one_of(claim, word) else FAILS), ""


def _of_state(material: Material, claim: Claim, state: str) -> tuple[str, str]:
    if state in _NO_STATE:
        return UNKNOWN, f"{claim.of} is {state}"
    if not _is_one_of(claim, state):
        return FAILS, ""
    own = material.configuration(claim.of)
    planned = material.study.configuration(claim.of)
    if state == FAILED and own and planned and planned.expects is not None and not own.expected:
        said = f"{own.error.type}: {own.error.message}" if own.error else "an error that was not kept"
        return UNKNOWN, f"it failed for another reason ({said})"
    return HOLDS, ""


def _of_number(claim: Claim, found: Estimate) -> tuple[str, str]:
    if found.low is None or found.high is None:
        return UNKNOWN, _no_interval(found)
    if claim.equals is not None or claim.one_of:
        wanted = [claim.equals] if claim.equals is not None else list(claim.one_of)
        return _of_equals([float(one) for one in wanted if isinstance(one, int | float)], found)
    low, high = _limits(claim)
    if low <= found.low and found.high <= high:
        return HOLDS, ""
    if found.high < low or found.low > high:
        return FAILS, ""
    return UNKNOWN, "its interval lies on both sides of the limit"


def _at_other_clocks(claim: Claim, found: Estimate, apart: float) -> tuple[str, str]:
    """The verdict on a ratio of recorded times; that the GPU's clock keeps it from being told where that alone does."""
    verdict, why = _of_number(claim, found)
    if verdict != UNKNOWN or found.low is None or found.high is None:
        return verdict, why
    if _of_number(claim, replace(found, low=found.low * apart, high=found.high / apart))[0] == UNKNOWN:
        return verdict, why
    return UNKNOWN, f"the GPU's clock differs by as much between both recordings ({100 * (apart - 1):.1f}%)"


def _beside_identical(material: Material, claim: Claim, found: Value, verdict: str, why: str) -> tuple[str, str]:
    """The verdict on a ratio of times where it stays when the interval is wider by what identical configurations differ
    by."""
    one = found.estimate
    if one is None or one.low is None or one.high is None:
        return verdict, why
    if verdict == UNKNOWN or found.unit != TIMES or one.way not in (ORDER, STUDENT):
        return verdict, why
    pair = tuple(filter(None, (claim.of, claim.against)))
    by = math.exp(deviation(material, _column(material, claim.figure), pair))
    if _of_number(claim, replace(one, low=one.low / by, high=one.high * by))[0] == verdict:
        return verdict, why
    return UNKNOWN, f"identical configurations differ by as much ({100 * (by - 1):.1f}%)"


def _column(material: Material, figure: str) -> str:
    """Which time a figure is of: a phase, else the whole step."""
    phase = figure.removesuffix("speedup").removesuffix("ms").rstrip("_")
    return phase if phase in material.phases else "total"


def _no_interval(found: Estimate) -> str:
    if found.way == APART:
        return "no round of one ran beside a round of the other: measure both together"
    if found.way == STEPS:
        from tetrace.breakdown.noise import FEWEST_STEPS

        return f"{found.rounds} recorded steps, {FEWEST_STEPS} are needed"
    if found.way == NO_SERIES:
        return "it is of the whole recording, without a value for each step"
    return "one round has no interval: repeat it" if found.rounds else "one sample has no interval"


def _of_equals(wanted: Sequence[float], found: Estimate) -> tuple[str, str]:
    """A number that was measured equals another where its interval holds it."""
    low, high = (found.value if end is None else end for end in (found.low, found.high))
    return (HOLDS if any(low <= one <= high for one in wanted) else FAILS), ""


def _limits(claim: Claim) -> tuple[float, float]:
    if claim.between is not None:
        return claim.between
    low = float("-inf") if claim.at_least is None else claim.at_least
    return low, float("inf") if claim.at_most is None else claim.at_most


def _is_one_of(claim: Claim, word: str | bool | None) -> bool:
    wanted = [claim.equals] if claim.equals is not None else list(claim.one_of)
    if isinstance(word, bool):
        return word in [one for one in wanted if isinstance(one, bool)]
    said = str(word).lower()
    asked = [str(one).lower() for one in wanted]
    if claim.figure == "error":
        return any(one in said for one in asked)
    # Several backends may have run: `FlashAttention, FusedAttention`.
    return any(one in (said, *(part.strip() for part in said.split(","))) for one in asked)


def limit_words(claim: Claim, unit: str) -> str:
    """What a claim asks of its figure."""

    def said(one: float | str | bool) -> str:
        is_number = isinstance(one, int | float) and not isinstance(one, bool)
        return number(float(one), unit) if is_number and unit != WORD else _word(claim, one)

    if claim.between is not None:
        return f"{said(claim.between[0])} to {said(claim.between[1])}"
    parts = []
    if claim.at_least is not None:
        parts.append(f"at least {said(claim.at_least)}")
    if claim.at_most is not None:
        parts.append(f"at most {said(claim.at_most)}")
    if claim.equals is not None:
        parts.append(said(claim.equals))
    if claim.one_of:
        parts.append(" or ".join(said(one) for one in claim.one_of))
    return ", ".join(parts)


def noted_words(claim: Claim, unit: str) -> str:
    """What the note says of it."""
    noted = claim.noted
    if noted is None:
        return ""
    if isinstance(noted, int | float) and not isinstance(noted, bool):
        return number(float(noted), unit) if unit in (TIMES, "ms", "%", "s", "/s", "bytes") else f"{noted:,}"
    return _word(claim, noted)


def count_words(judged: Sequence[Judged]) -> str:
    """`7 claims hold, 1 does not hold here, 2 cannot be told`, with a noun in the first part; empty without claims."""
    counts = {verdict: sum(one.verdict == verdict for one in judged) for verdict in VERDICTS}
    verbs = {
        HOLDS: ("holds", "hold"),
        FAILS: ("does not hold here", "do not hold here"),
        UNKNOWN: (UNKNOWN, UNKNOWN),
    }
    said = [(many, verbs[kind][many != 1]) for kind, many in counts.items() if many]
    nouns = [("claim " if many == 1 else "claims ") if not place else "" for place, (many, _) in enumerate(said)]
    return ", ".join(f"{many} {noun}{verb}" for noun, (many, verb) in zip(nouns, said, strict=True))
