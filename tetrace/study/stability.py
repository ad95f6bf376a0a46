"""What became of the numbers: losses, the first tensor that was not finite, clipping, and shapes that FP8 refuses."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.errors import TetraceError
from tetrace.study.results import FAILED, Configuration

if TYPE_CHECKING:
    from tetrace.fp8.flags import Problem
    from tetrace.fp8.lost_gradients import LostGradients
    from tetrace.fp8.origins import Origin
    from tetrace.fp8.shape_rules import Rule
    from tetrace.fp8.shapes import ShapeRow
    from tetrace.study.material import Material
    from tetrace.trace.trace import Trace

# Where an error's text has the numbers of the tensor.
_HOLE = re.compile(r"\\\{\w+\\\}")
_DIMS = re.compile(r"dims=\[([\d, ]+)\]")
_SCALING_WORDS = ("current", "block", "mxfp8", "nvfp4")


@dataclass(frozen=True)
class Clipped:
    """A tensor's observation with the largest share of elements that were clipped, and in how many of its `observations` some
    were (`clipped`)."""

    tensor: str
    step: int
    share: float
    clipped: int
    observations: int


@dataclass(frozen=True)
class Numbers:
    """What FP8 statistics of a recording say: `origin` is the first tensor that was not finite, `clipped` where most was
    clipped; None where nothing was. `observations` is how much was looked at, `checked` whether outputs, losses,
    gradients and parameters were among it. `worst` has every tensor that was clipped at all, by its worst observation;
    of `codes_only` tensors it is not known. `lost`: the gradients that became zero before their first scale; None where
    none did."""

    name: str
    origin: Origin | None
    clipped: Clipped | None
    worst: tuple[Clipped, ...]
    codes_only: int
    problems: tuple[Problem, ...]
    verdict: str
    observations: int
    steps: int
    checked: bool
    lost: LostGradients | None = None

    @property
    def most_clipped(self) -> float | None:
        """The largest share of a tensor that was clipped; None where none is seen to be, and of some that is not known."""
        if self.clipped is None:
            return None if self.codes_only else 0.0
        return self.clipped.share


@dataclass(frozen=True)
class Refused:
    """A dimension that FP8 refuses. `where` is the module, or the option that has the number; `use` the next one that
    fits; `source` how it is known."""

    name: str
    where: str
    dimension: str
    value: int
    divisor: int
    use: int
    gemm: str
    source: str


@functools.lru_cache(maxsize=256)
def numbers(material: Material, name: str) -> Numbers | str:
    """The FP8 statistics of a configuration's recording; the reason where there are none."""
    from tetrace.fp8.flags import Recorded
    from tetrace.fp8.health import check_health
    from tetrace.fp8.lost_gradients import lost_gradients
    from tetrace.fp8.nonfinite import find_nonfinite

    trace = material.trace(name)
    if isinstance(trace, str):
        return trace
    if not trace.has("fp8_tensors"):
        return 'not recorded: no FP8 statistics (arguments = ["--fp8"] under [recording])'
    try:
        found, health, lost = find_nonfinite(trace), check_health(trace), lost_gradients(Recorded(trace))
    except TetraceError as error:
        return f"not recorded: {error}"
    worst, codes_only = _clipped(trace)
    return Numbers(
        name=name,
        origin=found.origins[0] if found.origins else None,
        clipped=worst[0] if worst else None,
        worst=worst,
        codes_only=codes_only,
        problems=health.problems,
        verdict=health.verdict,
        observations=found.observations,
        steps=len(found.steps),
        checked=found.checked,
        lost=lost,
    )


def _clipped(trace: Trace) -> tuple[tuple[Clipped, ...], int]:
    """Every tensor of which some observation was clipped, the worst first (the earliest of equal observations), and of how
    many only FP8 codes were seen, which do not tell."""
    from tetrace.fp8.observations import QUANTIZED, clipped, tensors

    rows = tensors(trace)
    many = clipped(rows)
    by_tensor: dict[str, list[tuple[float, int]]] = {}
    for row in np.flatnonzero((many >= 0) & (rows["elements"] > 0)).tolist():
        share = float(many[row] / rows["elements"][row])
        by_tensor.setdefault(rows.name(row), []).append((share, int(rows["step"][row])))
    found = []
    for tensor, seen in by_tensor.items():
        share, step = max(seen, key=lambda one: (one[0], -one[1]))
        times = sum(each > 0 for each, _ in seen)
        if times:
            found.append(Clipped(tensor, step, share, times, len(seen)))
    codes = {rows.name(row) for row in np.flatnonzero(rows.isin("source", QUANTIZED)).tolist()}
    return tuple(sorted(found, key=lambda one: (-one.share, one.step, one.tensor))), len(codes - by_tensor.keys())


def refused(material: Material, found: Configuration) -> list[Refused]:
    """Which dimensions made a configuration fail, by the rules of Transformer Engine; none where it was no shape.

    Known from its own recording, from that of a configuration that differs in its recipe alone, or by its error: then
    the options that have such numbers are named.
    """
    if found.state != FAILED or found.error is None:
        return []
    rules = list(_rules(f"{found.error.type}: {found.error.message}\n{found.error.output}"))
    if not rules:
        return []
    of_recording = _recorded(material, found)
    if of_recording:
        return of_recording
    return list(_by_error(found, rules))


def _recorded(material: Material, found: Configuration) -> list[Refused]:
    from tetrace.fp8.recorded_shapes import recorded_shapes

    scaling = _scaling(found)
    for name in (found.name, *_alike(material, found)):
        trace = material.trace(name)
        if isinstance(trace, str):
            continue
        try:
            rows = recorded_shapes(trace, scaling).report.failures
        except TetraceError:
            continue
        source = "its recording" if name == found.name else f"the recording of {name}"
        if rows:
            return [_of_row(found.name, row, source) for row in rows]
    return []


def _of_row(name: str, row: ShapeRow, source: str) -> Refused:
    gemm = f"{row.gemm} ({row.phase})"
    return Refused(name, row.module or "(model)", row.dimension, row.value, row.divisor, row.padded, gemm, source)


def _alike(material: Material, found: Configuration) -> Iterator[str]:
    """Configurations of the same model and sizes under another recipe."""
    ignored = {"recipe", "format", "fp8_format", "margin"}

    def sizes(one: Configuration) -> dict[str, object]:
        return {key: value for key, value in one.options.items() if key not in ignored}

    for one in material.configurations:
        if one.name != found.name and sizes(one) == sizes(found):
            yield one.name


def _scaling(found: Configuration) -> str:
    recipe = str(found.options.get("recipe", "")).lower()
    return next((word for word in _SCALING_WORDS if word in recipe), "delayed")


def _rules(text: str) -> Iterator[Rule]:
    """Rules whose error this is, whatever numbers it has."""
    from tetrace.fp8.shape_rules import RULES

    for rule in RULES:
        for error in rule.errors:
            if re.search(_HOLE.sub(lambda _: r"[\d, \[\]()]+", re.escape(error.text)), text):
                yield rule
                break
    # What Transformer Engine 1 said, and notes quote.
    if "GEMM algorithm not found" in text:
        yield from (rule for rule in RULES if any("algorithm" in error.text for error in rule.errors))


def _by_error(found: Configuration, rules: list[Rule]) -> Iterator[Refused]:
    """What an error says itself, or the options whose numbers its rules do not take."""
    from tetrace.fp8.shape_rules import CHECKED

    assert found.error is not None
    said = _DIMS.search(found.error.message)
    if said:
        yield from _by_dims(found, [int(word) for word in said.group(1).split(",") if word.strip()])
        return
    scaling, told = _scaling(found), set()
    rules = [rule for rule in rules if scaling in rule.scalings]
    # Models here are of Transformer Engine's own modules, where a rule for them raises such an error.
    own = [rule for rule in rules if CHECKED[0] in rule.classes] or rules
    for rule in sorted(own, key=lambda rule: -rule.divisor):
        for option, value in found.options.items():
            is_size = isinstance(value, int) and not isinstance(value, bool) and value > rule.divisor
            if not is_size or value % rule.divisor == 0 or option in told:
                continue
            told.add(option)
            gemm = f"{rule.gemm} ({rule.phase})"
            where = f"option {option}"
            yield Refused(
                found.name, where, rule.dimension, value, rule.divisor, _padded(value, rule.divisor), gemm, "its error"
            )


def _by_dims(found: Configuration, dims: list[int]) -> Iterator[Refused]:
    """Of a tensor that the error names: all dimensions but the last together, and the last."""
    if not dims:
        return
    sizes = {"leading dimensions": (math.prod(dims[:-1]), 8), "last dimension": (dims[-1], 16)}
    for dimension, (value, divisor) in sizes.items():
        if value % divisor:
            option = next((key for key, one in found.options.items() if one == value and one is not True), "")
            where = f"option {option}" if option else f"tensor {dims}"
            yield Refused(
                found.name, where, dimension, value, divisor, _padded(value, divisor), "fprop (forward)", "its error"
            )


def _padded(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor
