"""What the sites of tetrace's own instrumentation say: exact words, no reading of names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tetrace.attribute import vocabulary
from tetrace.attribute.vocabulary import (
    BACKWARD,
    CLIP_MODULE,
    INSPECTION_MODULE,
    LOSS_MODULE,
    OPTIMIZER,
    OPTIMIZER_MODULE,
    PHASES,
    SCALE_UPDATE_MODULE,
    Meaning,
)

if TYPE_CHECKING:
    from tetrace.trace.trace import Trace

# Phase and pseudo-module of kinds that are never inside a module.
_OF_KIND = {
    "backward": (BACKWARD, ""),
    "optimizer": (OPTIMIZER, OPTIMIZER_MODULE),
    "zero_grad": (OPTIMIZER, OPTIMIZER_MODULE),
    "grad_clip": (OPTIMIZER, CLIP_MODULE),
    "scale_update": (-1, SCALE_UPDATE_MODULE),
    "loss": (BACKWARD, LOSS_MODULE),
    "inspection": (-1, INSPECTION_MODULE),
}
_COLUMNS = ("kind", "name", "phase", "module", "role")


def meanings(trace: Trace) -> list[Meaning]:
    """The meaning of every row of table `sites`."""
    words = {name: trace.words("sites", name) for name in _COLUMNS}
    codes = [trace.column("sites", name).tolist() for name in _COLUMNS]
    return [
        _meaning(*(words[name][code] for name, code in zip(_COLUMNS, row, strict=True)))
        for row in zip(*codes, strict=True)
    ]


def _meaning(kind: str, name: str, phase: str, module: str, role: str) -> Meaning:
    if kind == "annotate":
        return vocabulary.meaning(name)
    if kind == "step":
        return Meaning(step=-1, kind=kind)
    of_kind, path = _OF_KIND.get(kind, (-1, ""))
    own = PHASES.index(phase) if phase in PHASES else of_kind
    return Meaning(phase=own, kind=kind, path=module or path, role=role, operator=True)
