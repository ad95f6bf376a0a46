"""What to try of another recipe, format or margin, with commands that a recording can answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tetrace.fp8.hypothetical_scales import margin_of_run
from tetrace.fp8.observations import DELAYED

if TYPE_CHECKING:
    from tetrace.fp8.flags import Recorded

# What is further beyond, in powers of two, clips many elements whatever margin is worth its loss at the small end.
_LARGEST_MARGIN = 2


def whatif_words(recorded: Recorded, settings: str, *others: str) -> str:
    """Where to see what settings would have done: a what-if of this recording, or of a new one where it lacks what that
    is answered from."""
    options, lacks = "--fp8", "" if recorded.trace.has("fp8_histograms") else "histograms of magnitudes"
    if settings == "recipe=block" and not recorded.trace.rows("fp8_blocks"):
        options, lacks = "--fp8 --fp8-blocks", lacks or "amaxes of blocks"
    said = " or ".join([f"`tetrace fp8 whatif {'NEW' if lacks else 'RUN'} {settings}`", *others])
    if not lacks:
        return f"see {said}"
    return f"this recording has no {lacks}: record again with `tetrace record {options} COMMAND`, then see {said}"


def clipped_words(recorded: Recorded, row: int, beyond: float) -> str:
    """What helps a tensor whose amax was `beyond` times what its scale fits: a margin makes room for a little alone."""
    margins = []
    if recorded.rows.isin("scaling", DELAYED)[row] and 1 < beyond <= 2.0**_LARGEST_MARGIN:
        margins.append(f"margin={margin_of_run(recorded.updates) + math.ceil(math.log2(beyond))}")
    return f"its amax grows faster than the history follows; {whatif_words(recorded, 'recipe=current', *margins)}"
