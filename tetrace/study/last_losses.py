"""Last losses over those of another: what such a ratio scatters by, as far as the study itself shows it.

Each configuration trains once, with one seed. What its last loss would be in another draw of weights and data is seen only
where the study has configurations that are alike but for options that draw them anew (`redraws`): another vocabulary.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tetrace.fp8.flags import share_words
from tetrace.study.results import MEASURED
from tetrace.study.statistics import DRAWS, NONE, Estimate
from tetrace.study.value import TIMES, Value

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration

# Of groups that differ in their last losses, the worst are named.
_NAMED = 4


@dataclass(frozen=True)
class Group:
    """Configurations that are alike but for what draws weights and data anew. `label`: the values that they share; `ratios`:
    last losses over those of their baselines, at one and the same step."""

    label: str
    names: tuple[str, ...]
    ratios: tuple[float, ...]

    @property
    def spread(self) -> float:
        """The |log ratio| that the members are apart by at most."""
        return math.log(max(self.ratios) / min(self.ratios))


def last_loss_over(material: Material, of: str, against: str) -> Value:
    """A loss over another at the last step that both have, as the table of losses has it, with the interval that other draws
    leave; without one where there is no other draw."""
    pair = [material.configuration(name) for name in (of, against)]
    found = pair[0].losses.over_its(pair[1].losses) if pair[0] and pair[1] else None
    if found is None:
        return Value(reason=f"losses of {of} and {against} are not finite at the last step of both")
    ratio, apart = found[0], scatter(material)
    if apart is None:
        return Value(Estimate(ratio, None, None, 0, NONE), unit=TIMES)
    by = math.exp(apart)
    return Value(Estimate(ratio, ratio / by, ratio * by, 0, DRAWS), unit=TIMES)


def scatter(material: Material) -> float | None:
    """The largest |log ratio| that last losses over their baselines' are apart by within a group; None where no group has two
    members."""
    return max((one.spread for one in groups(material) if len(one.ratios) > 1), default=None)


_known: weakref.WeakKeyDictionary[Material, tuple[Group, ...]] = weakref.WeakKeyDictionary()


def groups(material: Material) -> tuple[Group, ...]:
    """Configurations with a last loss and a baseline's, in the order of the study; those of another last step than the first
    are left out."""
    if material not in _known:
        _known[material] = _groups(material)
    return _known[material]


def _groups(material: Material) -> tuple[Group, ...]:
    alike: dict[str, list[tuple[Configuration, float]]] = {}
    steps = set()
    for one, ratio, step in _over_baselines(material):
        steps.add(step)
        if step == min(steps):
            alike.setdefault(_key(material, one), []).append((one, ratio))
    return tuple(
        Group(
            _label(material, members[0][0]),
            tuple(one.name for one, _ in members),
            tuple(ratio for _, ratio in members),
        )
        for members in alike.values()
    )


def _over_baselines(material: Material) -> Iterator[tuple[Configuration, float, int]]:
    for one in material.configurations:
        base = material.configuration(material.baseline(one.name))
        if base is None or base.name == one.name or {one.state, base.state} != {MEASURED}:
            continue
        found = None if material.apart(one.name, base.name) else one.losses.over_its(base.losses)
        if found and found[0] > 0:
            yield one, *found


def _key(material: Material, one: Configuration) -> str:
    kept = {option: value for option, value in one.options.items() if option not in material.study.redraws}
    return repr((sorted(kept.items(), key=str), sorted(one.environment.items())))


def _label(material: Material, one: Configuration) -> str:
    """`e4m3-0`: the values of axes that do not draw anew."""
    kept = [str(label) for axis, label in one.axes.items() if axis not in material.study.redraws]
    return "-".join(kept) or one.name


def spread_words(material: Material) -> str:
    """What a ratio of last losses is judged by; empty where nothing says what it scatters by."""
    apart, redraws = scatter(material), " and ".join(material.study.redraws)
    if apart is None:
        return ""
    return (
        "Each configuration trains once, all with the same seed. Those that are alike but for what draws weights or data anew "
        f"({redraws}) differ by {100 * math.expm1(apart):.1f}% at most in their last loss over their baseline's: by that a "
        "claim's ratio of last losses may be off either way."
    )


def last_losses_words(material: Material, clipped: Mapping[str, float]) -> str:
    """Last losses over their baselines', the worst first, and the largest share of a tensor that was clipped, by name where it
    is known: `e4m3-0 1.19× to 1.20×, 77.1%; e4m3-1 1.12×, 57.5%; 4 more 1.01× to 1.06×, 0%`; empty without two groups."""
    found = sorted(groups(material), key=lambda one: -max(one.ratios))
    if len(found) < 2:
        return ""
    many = len(found) if len(found) <= _NAMED + 1 else _NAMED
    parts = [_group_words(one.label, [one], clipped) for one in found[:many]]
    if left := found[many:]:
        parts.append(_group_words(f"{len(left)} more", left, clipped))
    of_clipped = ", and the most of a tensor that is clipped" if clipped else ""
    return f"last loss over its baseline's{of_clipped}{_axes_words(material)}: {'; '.join(parts)}"


def _axes_words(material: Material) -> str:
    """What labels are of: `, by recipe and margin`."""
    axes = [axis for axis in material.study.matrices[0].axes if axis not in material.study.redraws]
    return f", by {' and '.join(axes)}" if axes else ""


def _group_words(label: str, of: Sequence[Group], clipped: Mapping[str, float]) -> str:
    ratios = [ratio for one in of for ratio in one.ratios]
    ends = dict.fromkeys(f"{one:.2f}×" for one in (min(ratios), max(ratios)))
    shares = [clipped[name] for one in of for name in one.names if name in clipped]
    most = f", {share_words(max(shares)) if max(shares) else '0%'}" if shares else ""
    return f"{label} {' to '.join(ends)}{most}"
