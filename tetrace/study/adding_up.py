"""The words under a table of causes: how the timed steps add up, and what of that is from the recordings."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import NOISE, TOO_FEW
from tetrace.breakdown.lengths import WHOLE_STEP
from tetrace.study.explanation import LEAST_FACTOR, MOST_FACTOR, NOT_SHOWN, Explanation
from tetrace.study.section import several, signs
from tetrace.study.speedups import is_told
from tetrace.units import three_digits

if TYPE_CHECKING:
    from tetrace.study.charged import Side
    from tetrace.study.material import Material

# From this share of the timed difference on, what a clock adds to either step is said first.
_MUCH = Fraction(1, 2)


def how_it_adds_up(material: Material, found: Explanation) -> str:
    """What of a timed difference is work of the GPU and what waiting, and how waiting is split."""
    if found.timed_ns is None:
        return f"{found.sentence} Without a recorder it was not timed."
    a, b = found.timed_ns
    works = found.work_ns[1] - found.work_ns[0]
    noise = "" if found.work_noise_ns is None else f" (±{in_ms(found.work_noise_ns)})"
    parts = [
        f"{_plus(works)}{noise} is work of the GPU",
        f"{_plus(found.waiting_ns[1] - found.waiting_ns[0])} waiting",
    ]
    residue = found.charged.residue_ns
    if any(residue):
        parts.append(f"{_plus(residue[1] - residue[0])} what the recordings do not have")
    few = " Too few steps were recorded to tell it from noise." if found.doubt == TOO_FEW else ""
    told = is_told(material, *reversed(found.names))
    said = [
        *(_other_clock_words(found) if told else ()),
        *_not_shown_words(found),
        *(_opposed_words(found) if told else ()),
        f"A step takes {in_ms(a)} and {in_ms(b)} ms, {_plus(b - a)} ms: {', '.join(parts)}.{few}",
        *_phase_words(found),
        *_factor_words(found),
        *_turned_words(found, told),
        *_part_words(material, found),
        f"The recorded steps take {in_ms(found.step_ns[0])} and {in_ms(found.step_ns[1])} ms.",
        *_elsewhere_words(material, found),
    ]
    return signs(" ".join(said))


def _phase_words(found: Explanation) -> Iterator[str]:
    """Each phase as it was timed, and what of it is work and waiting; nothing where phases were not timed."""
    for phase, (a, b) in found.phases_ns.items():
        works, waits = (after - before for before, after in (found.of_ns(kind, phase) for kind in (BUSY, IDLE)))
        left = b - a - works - waits
        factors = [one.factor for one in found.charged.parts[phase]]
        times = f" (that of the recordings times {' and '.join(map(_factor, factors))})" if any(factors) else ""
        parts = [f"{_plus(works)} work", f"{_plus(waits)} waiting{times}"]
        parts += [f"{_plus(left)} neither"] if left else []
        yield f"{phase.capitalize()} takes {in_ms(a)} and {in_ms(b)} ms of it, {_plus(b - a)}: {', '.join(parts)}."


def _other_clock_words(found: Explanation) -> Iterator[str]:
    """That a clock makes more than half of a difference, by what it adds to either step; nothing where it does not."""
    by_clock = found.charged.by_clock_ns
    if max(abs(one or Fraction(0)) for one in by_clock) <= _MUCH * abs(found.difference_ns):
        return
    both = " and ".join(
        f"{name} {_plus(one) if one else 0} ms" for name, one in zip(found.names, by_clock, strict=True)
    )
    yield f"The same kernels at another clock than recorded: {both}, beside {_plus(found.difference_ns)} ms as timed."


def _not_shown_words(found: Explanation) -> Iterator[str]:
    """That the recordings differ otherwise than the timed steps, and what of the rows is from them all the same."""
    if found.doubt == NOT_SHOWN:
        yield f"The recordings do not show this difference ({_both(found)}): only rows of the GPU's work are from them."


def _opposed_words(found: Explanation) -> Iterator[str]:
    """What of the difference is from recordings whose steps differ the other way: the GPU's work, as recorded or at another
    clock; else that it waits, and not how long."""
    if not found.is_opposed:
        return
    recorded, works = found.longer_as_recorded_ns(BUSY), found.work_ns[1] - found.work_ns[0]
    waits, waited = found.waiting_ns[1] - found.waiting_ns[0], found.longer_as_recorded_ns(IDLE)
    if recorded * found.difference_ns > 0:
        known = f"only the GPU's work is from them, {_plus(works)} ms"
    elif works * found.difference_ns > 0:
        known = f"the GPU's work is {_plus(recorded)} ms in them, and {_plus(works)} ms at the clock of the timed steps"
    else:
        known = f"that the GPU waits {'longer' if waits > 0 else 'less'} is from them, {_plus(waited)} ms, not how much"
    yield f"The recordings differ the other way ({_both(found)}): {known}."


def _both(found: Explanation) -> str:
    """The recorded difference and the timed one."""
    noise = ", within the noise of the recordings" if found.verdict == NOISE else ""
    return f"recorded {_plus(found.recorded_difference_ns)} ms against timed {_plus(found.difference_ns)} ms{noise}"


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
    """How many times its recorded waiting each step waits, and what it means where that is far from 1, of any phase."""
    whole = found.charged.parts.get(WHOLE_STEP)
    if whole and any(one.factor is not None for one in whole):
        yield f"Waiting is that of the recordings times {' and '.join(_factor(one.factor) for one in whole)}."
    factors = [
        [found.charged.parts[part][side].factor or Fraction(1) for part in found.waits_otherwise(side)]
        for side in (0, 1)
    ]
    slower = [name for name, own in zip(found.names, factors, strict=True) if any(one < LEAST_FACTOR for one in own)]
    if slower:
        yield (
            f"The host was slower while {' and '.join(slower)} {'was' if len(slower) == 1 else 'were'} recorded: the recorder "
            "or somebody else slowed it."
        )
    longer = [name for name, own in zip(found.names, factors, strict=True) if any(one > MOST_FACTOR for one in own)]
    if longer:
        yield f"The host was slower while {' and '.join(longer)} {'was' if len(longer) == 1 else 'were'} timed."


def _turned_words(found: Explanation, told: bool) -> Iterator[str]:
    """Rows of waiting that went the other way in the recordings: their sign is that of the factors."""
    turned = [
        group.name
        for group in found.rows(told)[0]
        if group.kind == IDLE and group.recorded_difference_ns * group.difference_ns < 0
    ]
    if turned:
        yield f"As recorded, {several(turned, 2)} went the other way: how waiting is split is not known so well there."


def _factor(one: Fraction | None) -> str:
    return "none" if one is None else three_digits(float(one)) if one else "0"


def _part_words(material: Material, found: Explanation) -> Iterator[str]:
    """What of either step, or a phase of it, the clock makes longer or shorter, or the recording does not have."""
    for say in (_clock_words, _residue_words):
        for side, name in enumerate(found.names):
            for part, sides in found.charged.parts.items():
                yield from say(material, found, sides[side], name, part)


def _clock_words(material: Material, found: Explanation, side: Side, name: str, part: str) -> Iterator[str]:
    """What is longer, or shorter, than its recording since the GPU's clock was another, and whose time that is."""
    if not side.by_clock_ns:
        return
    longer = float(side.by_clock_ns)
    off_by = found.clock_off_by_ns(found.names.index(name), part)
    more, and_so = ("more", "longer") if longer > 0 else ("less", "shorter")
    yield (
        f"The GPU works all of {_of(name, part)}, which takes {in_ms(abs(longer))} ms {more} than recorded "
        f"({_clocks(material, name)}): kernels are {and_so} by that as they were in recorded steps of other "
        f"lengths (±{in_ms(off_by)})."
    )


def _residue_words(material: Material, _found: Explanation, side: Side, name: str, part: str) -> Iterator[str]:
    """What is taken beside work and waiting, and why that may be."""
    left = side.residue_ns
    why = f"kernels were {'faster' if left < 0 else 'slower'} ({_clocks(material, name)})"
    if left < 0:
        yield f"{_of(name, part)} takes {in_ms(-left)} ms less than its recording works: {why}."
    if left > 0:
        yield f"{_of(name, part)} takes {in_ms(left)} ms more than its recording works and waits: the host was slowed, or {why}."


def _of(name: str, part: str) -> str:
    return f"{name} in {part}" if part else name


def _clocks(material: Material, name: str) -> str:
    """What changes the speed of kernels, as rounds noted it."""
    one = material.configuration(name)
    rounds = one.rounds if one is not None else ()
    capped = sum("power cap" in each.throttled for each in rounds)
    return f"clocks: under the power cap in {capped} of {len(rounds)} rounds" if capped else "clocks"


def in_ms(ns: Fraction | float) -> str:
    """Milliseconds, three digits."""
    return three_digits(float(ns) / 1e6)


def _plus(ns: Fraction | float) -> str:
    return f"{'+' if ns >= 0 else '-'}{three_digits(abs(float(ns)) / 1e6)}"
