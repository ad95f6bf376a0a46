"""The section of a report on numbers: losses, what was not finite, what was clipped, and shapes that FP8 refused."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tetrace.fp8.flags import share_words
from tetrace.fp8.origins import counts
from tetrace.report.grid import Column, Grid
from tetrace.study.failing import shared_values
from tetrace.study.figures import value
from tetrace.study.last_losses import last_losses_words, spread_words
from tetrace.study.results import MEASURED
from tetrace.study.section import NOTHING, Section, cut, several, without_empty
from tetrace.study.stability import Numbers, Refused, numbers, refused
from tetrace.units import plural

if TYPE_CHECKING:
    from tetrace.fp8.lost_gradients import LostGradients
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration
    from tetrace.study.spec import Study

# Problems of a configuration that its table names; the page has all.
_SHOWN = 5
# Steps whose losses a table shows between the first and the last, and how much a loss moves where something is trained.
_STEPS = (1, 10, 20)
_TRAINED = 0.01
# Configurations that lose the same gradients are named in one row.
_ALIKE = 9
_STEPS_OF_LOST = 4
# Figures of claims on whether configurations run, and on what becomes of their numbers.
_OF_GRADIENTS = ("gradient_format", "gradient_error_pct", "gradient_flushed_pct", "gradient_clipped_pct")
_OF_NUMBERS = ("state", "error", "finite", "first_loss", "last_loss", "max_saturation_pct", *_OF_GRADIENTS)


def losses_section(material: Material) -> Section:
    """Losses of each configuration at a few steps, how they compare with its baseline's, and the first step whose loss was
    not finite. Nothing where nothing is trained."""
    members = [one for one in material.configurations if one.losses.by_step]
    if not members or _trains_nothing(members):
        return Section("losses", "Losses")
    heads = (
        Column("configuration", number=False, code=True), Column("first loss"),
        *(Column(f"step {step}", keep=1) for step in _STEPS), Column("last loss"), Column("over its baseline's", keep=2),
        Column("steps"), Column("first not finite"),
    )  # fmt: skip
    said = (
        "Steps are numbered from 0. A loss over its baseline's is of the last step that both have: "
        "above 1× it has fallen less.",
        *filter(None, [spread_words(material)]),
    )
    shown, rows = without_empty(heads, tuple(_loss_row(material, one) for one in members))
    compared = any(column.head == "over its baseline's" for column in shown)
    return Section("losses", "Losses", said if compared else (), (Grid("Losses by step", shown, rows),))


def _trains_nothing(members: Sequence[Configuration]) -> bool:
    """Whether losses of some configuration are all equal, and of no other move by more than scales of FP8 make them."""
    moved = []
    for one in members:
        losses = one.losses.by_step
        if one.losses.first_nonfinite_step is not None or not all(map(math.isfinite, losses)):
            return False
        if len(losses) > 1:
            moved.append((max(losses) - min(losses)) / max(abs(losses[0]), 1e-30))
    return bool(moved) and min(moved) == 0 and max(moved) < _TRAINED


def _loss_row(material: Material, one: Configuration) -> tuple[str, ...]:
    losses = one.losses
    bad = losses.first_nonfinite_step
    return (
        one.name,
        _number(losses.first),
        *(_number(_at(one, step)) for step in _STEPS),
        _number(losses.last),
        _over_baseline(material, one),
        f"{len(losses.by_step):,}",
        "" if bad is None else f"step {bad}",
    )


def _at(one: Configuration | None, step: int) -> float | None:
    return one.losses.by_step[step] if one is not None and step < len(one.losses.by_step) else None


def _over_baseline(material: Material, one: Configuration) -> str:
    """How many times its baseline's a loss is at the last step that both have, and which step that is."""
    base = material.configuration(material.baseline(one.name))
    found = None if base is None or material.apart(one.name, base.name) else one.losses.over_its(base.losses)
    return "" if found is None else f"{found[0]:.3f}× in step {found[1]:,}"


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.4f}" if math.isfinite(value) else {math.inf: "Inf", -math.inf: "−Inf"}.get(value, "NaN")


def numbers_section(material: Material) -> Section:
    """What FP8 statistics say: the first tensor that was not finite, what was clipped most, health."""
    members = [one for one in material.recorded() if material.uses_fp8(one.name)]
    found = [(one.name, numbers(material, one.name)) for one in members]
    known = [said for _, said in found if isinstance(said, Numbers)]
    if not known and "--fp8" not in material.study.recording.arguments:
        return Section("numbers", "FP8 numbers")
    heads = (
        Column("configuration", number=False, code=True), Column("first not finite", number=False),
        Column("most clipped", number=False), Column("health", number=False, keep=1),
    )  # fmt: skip
    rows = (*(_numbers_row(said) for said in known), *_unknown_rows(material, found))
    grids = [Grid("FP8 statistics as recorded", heads, rows)]
    more = []
    losing = [said for said in known if said.lost]
    if losing:
        grids.append(_lost_grid(losing))
    if any(said.worst for said in known):
        grids.append(_clipped_grid(known, _SHOWN))
        more.append(_clipped_grid(known, 0))
    if any(said.problems for said in known):
        grids.append(_problems_grid(known, _SHOWN))
        more.append(_problems_grid(known, 0))
    if made := list(_gradient_rows(material, [said.name for said in known])):
        grids.append(_gradient_grid(made))
    return Section("numbers", "FP8 numbers", _lost_words(known), tuple(grids), more=tuple(more))


def asks_for_numbers(study: Study) -> bool:
    """Whether what becomes of the numbers is what a study asks: most of its claims are about what fails and about losses;
    without claims, failures are expected."""
    figures = [claim.figure for claim in study.claims if claim.figure != "none" and not claim.study]
    if not figures:
        return any(matrix.expected for matrix in study.matrices)
    return 2 * sum(figure in _OF_NUMBERS for figure in figures) > len(figures)


def loses_a_loss(material: Material) -> bool:
    """Whether some loss stops being finite."""
    return any(one.losses.lost for one in material.configurations)


def numbers_words(material: Material) -> tuple[str, ...]:
    """What losses and FP8 statistics come to, in a sentence each; none where all losses are finite and the study does not ask
    for statistics."""
    # Of one that failed or was stopped nothing is known of the end.
    trained = [
        one
        for one in material.configurations
        if one.losses.first_nonfinite_step is not None or (one.state == MEASURED and one.losses.first is not None)
    ]
    if not trained:
        return ()
    bad = [one.name for one in trained if one.losses.lost]
    if not bad and "--fp8" not in material.study.recording.arguments:
        return ()
    said = [
        f"the loss of {len(bad)} of {len(trained)} configurations stops being finite: {several(bad, _ALIKE)}"
        if bad
        else f"the loss of each of {len(trained)} configurations stays finite"
    ]
    found = [numbers(material, one.name) for one in material.recorded() if material.uses_fp8(one.name)]
    known = [one for one in found if isinstance(one, Numbers)]
    wholly = {one.name: one.lost.name for one in known if one.lost and one.lost.wholly}
    if wholly:
        names = several(list(dict.fromkeys(wholly.values())), _ALIKE)
        seen = {one.name for one in known}
        members = [one for one in trained if one.name in seen]
        which = shared_values(members, [one for one in members if one.name in wholly])
        those = f"configurations in FP8 ({which})" if which else "configurations in FP8"
        steps = _wholly_words([one.lost for one in known if one.name in wholly and one.lost])
        said.append(
            f"in {len(wholly)} of {len(known)} {those} gradients become zero, since their first scale is 1: {steps}; "
            f"{names} first"
        )
    shares = {one.name: share for one in known if (share := one.most_clipped) is not None}
    if over := last_losses_words(material, shares):
        said.append(over)
    clipped = [(one.clipped, one.name) for one in known if one.clipped]
    if clipped:
        most, name = max(clipped, key=lambda each: each[0].share)
        said.append(
            f"at most {share_words(most.share)} of a tensor is clipped ({most.tensor} of {name}, step {most.step})"
        )
    return tuple(words[0].upper() + words[1:] for words in said)


def _wholly_words(lost: Sequence[LostGradients]) -> str:
    """How many gradients nothing was left of, in which steps: `17 of 17 in step 0, 16 in step 1`; of the one that loses most,
    where they differ."""
    most = max(lost, key=lambda one: sum(step.wholly for step in one.steps))
    first, *others = (step for step in most.steps if step.wholly)
    words = [f"{first.wholly} of {first.gradients} in step {first.step}"]
    words += [f"{one.wholly} in step {one.step}" for one in others]
    counted = {tuple((step.step, step.wholly, step.gradients) for step in one.steps) for one in lost}
    return f"{'at most ' if len(counted) > 1 else ''}{several(words, _STEPS_OF_LOST)}"


def _numbers_row(said: Numbers) -> tuple[str, ...]:
    return (said.name, origin_words(said), clipped_words(said), said.verdict)


def _unknown_rows(material: Material, found: Sequence[tuple[str, Numbers | str]]) -> Iterator[tuple[str, ...]]:
    """Configurations of which nothing is known, those with the same reason in one row."""
    alike: dict[str, list[str]] = {}
    for name, said in found:
        if isinstance(said, str):
            one = material.configuration(name)
            recording = one.recording if one and one.recording else name
            # A reason may name the recording that it is of.
            reason = said.replace(f"{material.folder / recording}: ", "").replace(recording, "its recording")
            alike.setdefault(reason, []).append(name)
    return ((several(names, _ALIKE), cut(reason), "", "") for reason, names in alike.items())


def _lost_words(known: Sequence[Numbers]) -> tuple[str, ...]:
    """How many configurations lose gradients before their first scale; nothing where none does."""
    losing = [said.lost for said in known if said.lost]
    if not losing:
        return ()
    wholly, many = sum(lost.wholly for lost in losing), len(known)
    less = len(losing) - wholly
    if not wholly:
        said = f"{less} of {many} configurations lose most elements of some gradients"
    else:
        said = f"{wholly} of {many} configurations lose gradients wholly"
        said += f", {less} more lose most elements of some" if less else ""
    return (f"In first steps, at a scale of 1 since nothing has set it yet, {said}.",)


def _lost_grid(losing: Sequence[Numbers]) -> Grid:
    """Gradients that became zero before their first scale; configurations that lost the same in one row."""
    heads = (
        Column("configuration", number=False, code=True), Column("gradients lost", number=False),
        Column("wholly", number=False), Column("the first", number=False, code=True),
        Column("of it", number=False, keep=1),
    )  # fmt: skip
    alike: dict[tuple[str, ...], list[str]] = {}
    for said in losing:
        lost = said.lost
        assert lost is not None
        whole = "none" if not lost.wholly else ", ".join(str(step.wholly) for step in lost.steps[:_ALIKE])
        alike.setdefault((lost.steps_words, whole, lost.name, lost.first_words), []).append(said.name)
    rows = tuple((several(names, _ALIKE), *row) for row, names in alike.items())
    note = "Lost: of what is not zero at least half becomes zero; wholly: 99% of the sum of squares, or zero after such a one."
    return Grid("Gradients lost before their first scale", heads, rows, note=note)


def _gradient_rows(material: Material, names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """What FP8 made of each configuration's gradients, as claims have it."""
    for name in names:
        found = [value(material, figure, name) for figure in _OF_GRADIENTS]
        if all(one.known for one in found):
            yield (name, *(one.words() for one in found))


def _gradient_grid(rows: Sequence[tuple[str, ...]]) -> Grid:
    heads = (
        Column("configuration", number=False, code=True), Column("format", number=False), Column("error"),
        Column("becomes zero"), Column("clipped"),
    )  # fmt: skip
    note = (
        "Error: the root of the squared error over the sum of squares, the median of all gradients; the rest is of all their "
        "elements. Gradients that delayed scaling had no scale for yet are left out."
    )
    return Grid("What FP8 makes of gradients", heads, tuple(rows), note=note)


def origin_words(said: Numbers) -> str:
    """The first tensor that was not finite, in which step, and the operation that made it."""
    origin = said.origin
    if origin is None:
        checked = "" if said.checked else " of what is quantized"
        return f"none{checked} in {said.steps} steps"
    seen = origin.tensor
    if origin.made_by:
        made = f"made by {origin.made_by}"
    elif origin.before:
        made = f"after {origin.before.name} of step {origin.before.step}"
    else:
        made = "so from the first observation on"
    at = f", at {seen.operation}" if seen.operation else ""
    return f"{seen.name} at step {seen.step}{at}: {counts(seen)}, {made}"


def clipped_words(said: Numbers) -> str:
    """Which tensor was clipped most and in which step, and of how many that is not known."""
    most = said.clipped
    words = f"{share_words(most.share)} of {most.tensor}, step {most.step}" if most else "none"
    unknown = f"; not known of {plural(said.codes_only, 'tensor')} seen as FP8 codes alone"
    return words + (unknown if said.codes_only else "")


def _clipped_grid(known: Sequence[Numbers], most: int) -> Grid:
    """The tensors of each configuration that were clipped, the worst first."""
    heads = (
        Column("configuration", number=False, code=True), Column("tensor", number=False, code=True),
        Column("most clipped"), Column("in step"), Column("clipped in"),
    )  # fmt: skip
    rows = tuple(
        (
            said.name, one.tensor, share_words(one.share), str(one.step),
            f"{one.clipped:,} of {one.observations:,} observations",
        )
        for said in known
        for one in said.worst[: most or None]
    )  # fmt: skip
    title = "Clipped tensors, worst first" + (f": {most} of each configuration at most" if most else ", all")
    return Grid(title, heads, rows)


def _problems_grid(known: Sequence[Numbers], most: int) -> Grid:
    heads = (
        Column("configuration", number=False, code=True), Column("level", number=False), Column("problem", number=False),
        Column("tensor", number=False, code=True), Column("steps"), Column("what was seen", number=False, keep=1),
    )  # fmt: skip
    rows = []
    for said in known:
        for problem in said.problems[: most or None]:
            first, last = problem.first_step, problem.last_step
            steps = str(first) if first == last else f"{first}–{last}"
            rows.append((said.name, problem.level, problem.title, problem.name, steps, cut(problem.evidence)))
    title = "FP8 health, worst first" + (f": {most} of each configuration at most" if most else ", all problems")
    return Grid(title, heads, tuple(rows))


def shapes_section(material: Material) -> Section:
    """Dimensions that made configurations fail, and what to pad them to."""
    found: list[Refused] = [row for one in material.configurations for row in refused(material, one)]
    if not found:
        return Section("shapes", "Shapes that FP8 refuses")
    heads = (
        Column("configuration", number=False, code=True), Column("where", number=False, code=True),
        Column("dimension", number=False), Column("is"), Column("divisible by"), Column("use"),
        Column("GEMM", number=False), Column("known from", number=False, keep=1),
    )  # fmt: skip
    alike: dict[tuple[str, ...], list[str]] = {}
    for one in found:
        said = (one.where, one.dimension, str(one.value), str(one.divisor), str(one.use), one.gemm, one.source)
        alike.setdefault(said, []).append(one.name)
    shown, lines = without_empty(heads, tuple((several(names), *said) for said, names in alike.items()))
    rules = "By the rules of Transformer Engine's FP8 GEMMs (tetrace fp8 shapes): the next value that fits is what to pad to."
    return Section("shapes", "Shapes that FP8 refuses", (rules,), (Grid("Dimensions that FP8 refuses", shown, lines),))
