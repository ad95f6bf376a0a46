"""What a study's `model.py` builds: one training step, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Says that the phase of this name (forward, backward, optimizer) ends here. Waits for nothing.
Mark = Callable[[str], None]


@dataclass(frozen=True)
class Workload:
    """`step(mark)` runs one training step and returns its loss, a tensor that it has not read (no `.item()`), or None.

    `tokens` and `flops` are those of one step; `flops` counts the matrix products of forward and backward, 2·M·N·K each,
    None where nobody has counted. `model` tells the number of parameters. `facts` are words for the report, such as
    which version of a package was taken.
    """

    step: Callable[[Mark], Any]
    tokens: int
    flops: int | None = None
    model: Any = None
    facts: Mapping[str, str] = field(default_factory=dict)
