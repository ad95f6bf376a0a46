"""Which activities start late because their stream was told to wait for an event of another stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.distinct import distinct

if TYPE_CHECKING:
    import numpy.typing as npt


def told_to_wait(attribution: Attribution, activities: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.bool_]:
    """Of `activities`, rows of the trace's table, those whose stream was told, since the launch before theirs on that
    stream, to wait for an event; shape as `activities`. None where a recording has no such waits."""
    trace, links = attribution.trace, attribution.links
    kinds = list(trace.words("synchronizations", "kind"))
    result = np.zeros(len(activities), np.bool_)
    if "stream_wait" not in kinds or not len(activities):
        return result
    waits = np.flatnonzero(trace.column("synchronizations", "kind") == kinds.index("stream_wait"))
    when = trace.column("synchronizations", "start_ns")[waits]
    # Devices number their streams alike. Of a wait whose device is not known any may be meant.
    names = ("process", "device", "stream")
    places, which = distinct(*(trace.column("synchronizations", name)[waits] for name in names))
    own = [trace.column("activities", name) for name in names]
    for i, place in enumerate(zip(*(part.tolist() for part in places), strict=True)):
        same = np.ones(len(own[0]), np.bool_)
        for column, value in zip(own, place, strict=True):
            same &= (column == value) | (column is own[1] and value < 0)
        asked = np.flatnonzero(same[activities])
        if not len(asked):
            continue
        times = np.sort(when[which == i])
        launches = np.sort(links.launch_ns[same])
        launch = links.launch_ns[activities[asked]]
        place_of = np.searchsorted(launches, launch) - 1
        previous = np.where(place_of >= 0, launches[np.maximum(place_of, 0)], np.iinfo(np.int64).min)
        found = np.searchsorted(times, launch, side="right") > np.searchsorted(times, previous, side="right")
        result[asked] |= found
    return result
