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
    (processes, streams), which = distinct(
        trace.column("synchronizations", "process")[waits], trace.column("synchronizations", "stream")[waits]
    )
    process, stream = trace.column("activities", "process"), trace.column("activities", "stream")
    own_process, own_stream = process[activities], stream[activities]
    for i, (one, number) in enumerate(zip(processes.tolist(), streams.tolist(), strict=True)):
        asked = np.flatnonzero((own_process == one) & (own_stream == number))
        if not len(asked):
            continue
        times = np.sort(when[which == i])
        launches = np.sort(links.launch_ns[(process == one) & (stream == number)])
        launch = links.launch_ns[activities[asked]]
        place = np.searchsorted(launches, launch) - 1
        previous = np.where(place >= 0, launches[np.maximum(place, 0)], np.iinfo(np.int64).min)
        result[asked] = np.searchsorted(times, launch, side="right") > np.searchsorted(times, previous, side="right")
    return result
