"""Modules of work that was launched outside every module's range, where tetrace's instrumentation says the rest.

Autograd sums gradients between its nodes: such work is that of the node before. What follows the model's forward is
the loss, what comes before it the input; collectives that nobody's range explains reduce gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.host import Host
from tetrace.attribute.link import Links
from tetrace.attribute.vocabulary import BACKWARD, FORWARD, LOSS_MODULE, OPTIMIZER, UNATTRIBUTED

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

INPUT_MODULE, REDUCE_MODULE = "(input)", "(gradient_reduce)"


def name_outside(
    host: Host, links: Links, phase: Codes, range_phase: Codes, is_communication: Mask, names: list[str], module: Codes
) -> None:
    """Give activities of unknown module (-1) the pseudo-module or module they belong to, in place.

    `phase`, `is_communication` and `module` are per activity, `range_phase` per host range.
    """
    begins = np.flatnonzero(host.is_kind("module", "compiled", "loss")) if len(host) else np.empty(0, np.int64)
    if not len(begins):
        return
    reduce = (module < 0) & is_communication & (phase == BACKWARD)
    module[reduce] = _code(names, REDUCE_MODULE)
    rows = np.flatnonzero((module < 0) & (links.thread >= 0) & (phase != OPTIMIZER) & (phase != UNATTRIBUTED))
    for thread in np.unique(links.thread[rows]).tolist():
        own = begins[host.thread[begins] == thread]
        mine = rows[links.thread[rows] == thread]
        backward, forward = own[range_phase[own] == BACKWARD], own[range_phase[own] != BACKWARD]
        _between_nodes(host, links, backward, mine[phase[mine] == BACKWARD], names, module)
        left = mine[module[mine] < 0]
        _around_forward(host, links, forward, left, phase, names, module)


def _code(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)


def _between_nodes(
    host: Host, links: Links, nodes: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], names: list[str], module: Codes
) -> None:
    """Work between two nodes of autograd is that of the first."""
    if not len(nodes) or not len(rows):
        return
    place = np.searchsorted(host.start[nodes], links.launch_ns[rows], side="right") - 1
    # Every path has its code already (modules.py), and there may be thousands.
    code_of = {name: code for code, name in enumerate(names)}
    path = np.array([code_of.get(meaning.path, -1) for meaning in host.meanings], np.int32)
    module[rows] = np.where(place >= 0, path[host.word[nodes[np.maximum(place, 0)]]], -1)


def _around_forward(
    host: Host,
    links: Links,
    forward: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
    phase: Codes,
    names: list[str],
    module: Codes,
) -> None:
    """Before the model's first forward of a step: its input; after its last, and in backward's own thread: the loss."""
    if not len(rows):
        return
    module[rows[phase[rows] == BACKWARD]] = _code(names, LOSS_MODULE)
    rows = rows[phase[rows] == FORWARD]
    # Ranks step at different times: only the steps of this thread's process part its work.
    of_thread = np.flatnonzero(host.thread == links.thread[rows[0]]) if len(rows) else np.empty(0, np.int64)
    is_step = host.is_kind("step")
    if len(of_thread):
        is_step &= host.process == host.process[of_thread[0]]
    steps = host.start[np.flatnonzero(is_step)]
    bounds = np.sort(steps)
    of_row = np.searchsorted(bounds, links.launch_ns[rows], side="right")
    first = np.full(len(bounds) + 1, np.iinfo(np.int64).max)
    if len(forward):
        np.minimum.at(first, np.searchsorted(bounds, host.start[forward], side="right"), host.start[forward])
    before = links.launch_ns[rows] < first[of_row]
    module[rows[before]] = _code(names, INPUT_MODULE)
    module[rows[~before]] = _code(names, LOSS_MODULE)
