"""What to look at next where a tensor was not finite: by the operation that made it, and what that read."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np

from tetrace.fp8.observations import BACKWARD, OPTIMIZER

if TYPE_CHECKING:
    from tetrace.fp8.nonfinite import Origin, Seen

# The largest finite number of a type; fp32's for all others, as bf16 ends near it.
_LARGEST_HALF = 65504.0
_LARGEST = {"float16": _LARGEST_HALF, "half": _LARGEST_HALF}
_LARGEST_SINGLE = float(np.finfo(np.float32).max)


def advice(origin: Origin) -> str:
    """What to look at next."""
    kind = origin.tensor.role.rpartition(".")[2]
    if origin.overflowed_half:
        return f"fp16 ends at {_LARGEST_HALF:,.0f}: train in bf16, or scale this tensor down"
    if kind == "weight" and origin.before and origin.before.role.endswith(".parameter"):
        return f"it was finite after step {origin.before.step}: look at what wrote to it since (a load, a hook, a copy in place)"
    if kind in ("weight", "parameter") or origin.tensor.phase == OPTIMIZER:
        return "look at the gradient and the learning rate of the step before; clip gradients, or skip steps that are not finite"
    if kind == "loss":
        return "look at the logits and the labels: a log of 0, an index outside the vocabulary, a mean over no token"
    if origin.tensor.phase == BACKWARD:
        return "look at what backward divides by (softmax, norm, sqrt), and at the loss scale with fp16"
    operation = origin.tensor.operation
    if "Norm" in operation:
        return f"look at what it read: {operation} divides by the root of a variance, and squares can overflow"
    if operation == "Embedding":
        return "Embedding copies rows of its weight: look at what wrote to it"
    if operation.endswith("Linear") or operation.startswith("Conv"):
        return _of_product(origin)
    return "look at what its operation divides by or exponentiates, and at its amax in the steps before"


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
    # Of a row no more products are summed than an operand has elements.
    most = known[0].amax * known[1].amax * max(one.tensor_elements for one in known)
    if most > _LARGEST.get(origin.dtype, _LARGEST_SINGLE):
        largest = max(known, key=lambda one: one.amax)
        return f"{does}; the largest that it read is {largest.name} (amax {largest.amax:.3g}): look at how it grew"
    partly = [one.name for one in known if one.sampled]
    if partly:
        again = f"record it again with all rows: --fp8-modules '{re.escape(origin.tensor.module)}' without --fp8-rows"
        return f"{does}, and only some rows of {' and '.join(partly)} were looked at: {again}"
    since = [before.step for _, before in held if before]
    causes = [f"{' or '.join(unseen)} was written to{f' since step {min(since)}' if since else ''}"] if unseen else []
    if origin.before:
        causes.append(f"its input is another tensor than {origin.before.name}")
    why = ", or ".join(causes) or "look at what else writes to its output"
    return f"{does}, and what was seen of its operands is too small to overflow: {why}"


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
