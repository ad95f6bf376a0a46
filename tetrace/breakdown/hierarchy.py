"""GPU activity from the whole down to kernels: phase, module, category, kernel family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.distinct import counts, distinct, sums
from tetrace.breakdown.scope import Scope, phase_words
from tetrace.errors import ConservationError

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown


@dataclass(frozen=True)
class Leaf:
    """Activities of one phase, module, category and kernel family: how many, and their duration summed over streams."""

    phase: str
    module: str
    category: str
    kernel: str
    count: int
    total_ns: int


def hierarchy(breakdown: Breakdown) -> list[Leaf]:
    """All selected activities, each in one leaf; the longest in sum first."""
    scope = Scope(breakdown.attribution, breakdown.selection)
    labels = [(one.category, one.family) for one in scope.attribution.classes]
    words = list(dict.fromkeys(labels)) or [("", "")]
    label = np.array([words.index(one) for one in labels] or [0], np.int32)[scope.kernel_class]
    (phase, module, word), index = distinct(scope.phase, scope.module, label)
    total, count = sums(index, len(phase), scope.duration), counts(index, len(phase))
    if int(total.sum()) != breakdown.totals.activity_ns:
        raise ConservationError(
            f"{scope.trace.metadata.source}: leaves sum to {total.sum()} ns of {breakdown.totals.activity_ns} ns; "
            "please report this"
        )
    rows = zip(
        phase_words(phase), scope.module_words(module), word.tolist(), count.tolist(), total.tolist(), strict=True
    )
    leaves = [
        Leaf(phase, module, category, kernel, number, ns)
        for phase, module, code, number, ns in rows
        for category, kernel in [words[code]]
    ]
    return sorted(leaves, key=lambda leaf: -leaf.total_ns)
