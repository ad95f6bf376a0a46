"""What to look at next where a tensor was not finite: by the operation that made it, and what that read."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.observations import BACKWARD, OPTIMIZER
from tetrace.units import plural

if TYPE_CHECKING:
    from tetrace.fp8.origins import Origin, Seen

# The largest finite number of a type; fp32's for all others, as bf16 ends near it. Older recordings name no type of outputs.
_LARGEST_HALF = 65504.0
_LARGEST = {"float16": _LARGEST_HALF, "half": _LARGEST_HALF}
_LARGEST_SINGLE = float(np.finfo(np.float32).max)


def advice(origin: Origin) -> str:
    """What to look at next."""
    if not origin.received_from:
        return _of_its_own(origin)
    sent = f"what {origin.senders} computes last, and what is sent from there"
    # What a module returns may be its own doing too.
    return f"{_of_its_own(origin)}; or look at {sent}" if origin.tensor.role == "output" else f"look at {sent}"


def _of_its_own(origin: Origin) -> str:
    """What its own rank can have done."""
    kind = origin.tensor.role.rpartition(".")[2]
    if origin.jumped:
        return _of_a_jump(origin)
    if kind == "gradient":
        return _of_gradient(origin)
    if kind == "weight" and origin.before and origin.before.role.endswith(".parameter"):
        return f"it was finite after step {origin.before.step}: look at what wrote to it since (a load, a hook, a copy in place)"
    if kind == "parameter" and origin.read:
        return (
            f"its gradient was finite (amax {origin.read[0].amax:.3g}), the optimizer's step did it: look at the learning "
            "rate, and at what the optimizer divides by"
        )
    if kind in ("weight", "parameter") or origin.tensor.phase == OPTIMIZER:
        return "look at the gradient and the learning rate of the step before; clip gradients, or skip steps that are not finite"
    if origin.overflowed_half and _largest_product(origin) > _LARGEST_HALF:
        return f"fp16 ends at {_LARGEST_HALF:,.0f}: train in bf16, or scale this tensor down"
    if kind == "loss":
        return "look at the logits and the labels: a log of 0, an index outside the vocabulary, a mean over no token"
    if origin.tensor.phase == BACKWARD:
        return "look at what backward divides by (softmax, norm, sqrt), and at the loss scale with fp16"
    operation = origin.tensor.operation
    # What a norm with a linear in it quantizes is what its norm made.
    if "Norm" in operation and not any(one.role.endswith("input") for one in origin.read):
        return _of_norm(origin)
    if operation == "Embedding":
        return "Embedding copies rows of its weight: look at what wrote to it"
    if _is_product(operation):
        return _of_product(origin)
    return "look at what its operation divides by or exponentiates, and at its amax in the steps before"


def _of_a_jump(origin: Origin) -> str:
    """Parameters became huge, and finite, in the optimizer's step before a forward that then went wrong."""
    before, after = origin.jumped[0]
    steps = f"step {after.step}" if after.step - before.step == 1 else f"steps {before.step + 1} to {after.step}"
    more = len(origin.jumped) - 1
    others = f", and {plural(more, 'more parameter')} jumped too" if more else ""
    if origin.grew_first:
        was, grew = origin.grew_first
        return (
            f"{grew.name} grew first: its amax went from {was.amax:.3g} in step {was.step} to {grew.amax:.3g} in step "
            f"{grew.step}, before the optimizer's step, which then took {after.name} from {before.amax:.3g} to "
            f"{after.amax:.3g}{others}: look at what changed it (data, a write to it from outside, a loss scale)"
        )
    return (
        f"the optimizer did it in {steps}: {after.name} went from amax {before.amax:.3g} to {after.amax:.3g}{others}, with "
        "no NaN seen: look at the learning rate of that step, and at the size of its gradients"
    )


def _of_gradient(origin: Origin) -> str:
    """Backward made it: the optimizer comes after."""
    where = (
        "look at what writes to it (a hook, an operation in place), and at its own operation"
        if origin.alone
        else "look at what backward divides by (softmax, norm, sqrt)"
    )
    return (
        f"{where}; clipping cannot help a gradient that is not finite itself, skipping the step does: GradScaler does so on "
        "purpose, and lowers its loss scale"
    )


def _of_norm(origin: Origin) -> str:
    """Only squares of huge values overflow, and an epsilon keeps it from a division by zero."""
    does = f"{origin.tensor.operation} divides by the root of a variance"
    _, read = _operands(origin)
    if read is None:
        return f"{does}: look for what is not finite, or so large that its square overflows, in its input"
    most, seen = read.amax**2 * read.tensor_elements, f"{read.name} (amax {read.amax:.3g})"
    if most > _LARGEST.get(origin.dtype, _LARGEST_SINGLE):
        return f"{does}, and squares of what it read can overflow: {seen}: look at how it grew"
    causes = _causes(origin) or "look at what else writes to its output"
    if not origin.dtype:
        return f"{does}{_of_no_known_type(f'squares of what was seen before it, {seen},', most)}: {causes}"
    return (
        f"{does}, and squares of what was seen before it ({read.name}, amax {read.amax:.3g}) cannot overflow: {causes}"
    )


def _of_no_known_type(what: str, most: float) -> str:
    """What can be said of the range of a result, at most `most`, where the recording does not name its number type."""
    if most <= _LARGEST_HALF:
        return f", and {what} cannot even reach {_LARGEST_HALF:,.0f}, where fp16 ends"
    return f"; its number type was not recorded: if it is fp16, {what} can go beyond {_LARGEST_HALF:,.0f}; if not"


def _causes(origin: Origin) -> str:
    """What can be where all that was seen of operands is small: another one, or one that changed since."""
    held = [(before or after, before) for before, after in origin.parameters]
    unseen = [one.name.removesuffix(".parameter") for one, _ in held if one]
    since = [before.step for _, before in held if before]
    causes = [f"{' or '.join(unseen)} was written to{f' since step {min(since)}' if since else ''}"] if unseen else []
    if origin.before:
        causes.append(f"its input is another tensor than {origin.before.name}")
    return ", or ".join(causes)


def _of_product(origin: Origin) -> str:
    """What makes a result of products and sums not finite: an operand that is not finite, or that is too large."""
    does = f"{origin.tensor.operation} multiplies and adds"
    weight, read = _operands(origin)
    known = [one for one in (weight, read) if one]
    held = [(before or after, before) for before, after in origin.parameters]
    unseen = [one.name.removesuffix(".parameter") for one, _ in held if one]
    if len(known) < 2:
        if weight and not read and weight.step >= origin.tensor.step - 1:
            given = f"what {origin.tensor.module} is given in step {origin.tensor.step} was not observed"
            when = (
                f"{'after' if weight.step < origin.tensor.step else 'in'} step {weight.step} (amax {weight.amax:.3g})"
            )
            return f"its parameters were finite {when}, and {given}: a batch of data, or what runs before it"
        missing = unseen or [word for word, one in (("weight", weight), ("input", read)) if not one]
        return f"{does}: look for what is not finite, or huge, in its {' and '.join(missing)}"
    most = _most(known[0], known[1])
    if most > _LARGEST.get(origin.dtype, _LARGEST_SINGLE):
        largest = max(known, key=lambda one: one.amax)
        return f"{does}; the largest that it read is {largest.name} (amax {largest.amax:.3g}): look at how it grew"
    partly = [one.name for one in known if one.sampled]
    if partly:
        again = f"record it again with all rows: --fp8-modules '{re.escape(origin.tensor.module)}' without --fp8-rows"
        return f"{does}, and only some rows of {' and '.join(partly)} were looked at: {again}"
    why = _causes(origin) or "look at what else writes to its output"
    if not origin.dtype:
        seen = " and ".join(f"{one.name} (amax {one.amax:.3g})" for one in known)
        return f"{does}{_of_no_known_type(f'what was seen of its operands, {seen},', most)}: {why}"
    return f"{does}, and what was seen of its operands is too small to overflow: {why}"


def _is_product(operation: str) -> bool:
    """Whether all that it does is to multiply and add."""
    return operation.endswith("Linear") or operation.startswith("Conv") or operation == "generic_gemm"


def _largest_product(origin: Origin) -> float:
    """The largest magnitude that products of what was seen can add up to; infinite where that is not known."""
    weight, read = _operands(origin)
    if not _is_product(origin.tensor.operation) or weight is None or read is None or weight.sampled or read.sampled:
        return math.inf
    return _most(weight, read)


def _most(one: Seen, other: Seen) -> float:
    """Of a row no more products are summed than an operand has elements."""
    return one.amax * other.amax * max(one.tensor_elements, other.tensor_elements)


def _operands(origin: Origin) -> tuple[Seen | None, Seen | None]:
    """Weight and input as last seen: of a module that quantizes nothing the parameter, and the output before it in the
    same step."""
    known = [*origin.read, *(before for before, _ in origin.parameters if before)]
    if origin.before and origin.before.step == origin.tensor.step and origin.before.role == "output":
        known.append(origin.before)
    known = [one for one in known if not math.isnan(one.amax) and "bias" not in one.role]
    weights, others = ([one for one in known if ("weight" in one.role) is wanted] for wanted in (True, False))
    return max(weights, key=_amax, default=None), max(others, key=_amax, default=None)


def _amax(seen: Seen) -> float:
    return seen.amax
