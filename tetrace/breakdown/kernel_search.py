"""Kernels whose name matches a regular expression, by where they ran."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tetrace.breakdown.tables import Column, Declaration, Table
from tetrace.errors import UsageError

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown

KERNEL_MATCHES = Declaration(
    "kernel_matches",
    "One row a kernel whose name matches `--kernel`, module and phase.",
    (
        Column("name", "", "Demangled name."),
        Column("module", "", "Module it ran in, or unattributed."),
        Column("phase", "", "Phase it ran in, or unattributed."),
        Column("count", "count", "Activities."),
        Column("total_ns", "ns", "Duration summed over activities (over streams: work, not time)."),
        Column("min_ns", "ns", "Shortest."),
        Column("max_ns", "ns", "Longest."),
    ),
)


def kernel_matches(breakdown: Breakdown, pattern: str) -> Table:
    """The selected activities whose name `pattern` finds, kernels with the largest sum first.

    Raises `UsageError` when the pattern is no regular expression or finds nothing.
    """
    import numpy as np

    from tetrace.attribute.distinct import counts, distinct, sums
    from tetrace.breakdown.scope import Scope, phase_words

    try:
        matches = re.compile(pattern).search
    except re.error as error:
        raise UsageError(
            f"--kernel {pattern}: not a regular expression ({error}); write special characters as \\("
        ) from error
    scope = Scope(breakdown.attribution, breakdown.selection)
    words = scope.trace.words("activities", "name")
    code = scope.column("name")
    found = np.array([bool(matches(word)) for word in words], np.bool_)[code] if len(words) else np.zeros(0, np.bool_)
    if not found.any():
        kernels = len(breakdown.tables["kernels"])
        raise UsageError(
            f"--kernel {pattern}: finds none of the {kernels} kernels; --by kernel --wide --top 0 lists their names"
        )
    (name, module, phase), group = distinct(code[found], scope.module[found], scope.phase[found])
    size, duration = len(name), scope.duration[found]
    shortest, longest = np.full(size, np.iinfo(np.int64).max), np.zeros(size, np.int64)
    np.minimum.at(shortest, group, duration)
    np.maximum.at(longest, group, duration)
    total = sums(group, size, duration)
    of_kernel = np.bincount(name, weights=total)[name]
    table = Table(
        KERNEL_MATCHES,
        {
            "name": [words[c] for c in name.tolist()],
            "module": scope.module_words(module),
            "phase": phase_words(phase),
            "count": counts(group, size),
            "total_ns": total,
            "min_ns": shortest,
            "max_ns": longest,
        },
    )
    return table.take(np.lexsort((-total, name, -of_kernel)))
