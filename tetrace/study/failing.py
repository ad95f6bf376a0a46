"""Which configurations failed, in a few words: by the values of options that they share, and that no other has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tetrace.study.results import FAILED
from tetrace.study.section import cut, several

if TYPE_CHECKING:
    from tetrace.study.material import Material
    from tetrace.study.results import Configuration

_NAMED = 5


def failing_words(material: Material) -> str:
    """`24 of 59 configurations fail, as expected: vocabulary 50264 with recipe e4m3, hybrid`; empty where none does."""
    members = material.configurations
    failed = [one for one in members if one.state == FAILED]
    if not failed:
        return ""
    expected = sum(one.expected for one in failed)
    some = "" if not expected else ", as expected" if expected == len(failed) else f", {expected} of them as expected"
    fail = "configurations fails" if len(failed) == 1 else "configurations fail"
    which = shared_values(members, failed) or several([one.name for one in failed])
    return cut(f"{len(failed)} of {len(members)} {fail}{some}: {which}")


def shared_values(members: Sequence[Configuration], chosen: Sequence[Configuration]) -> str:
    """The values of axes that all chosen ones have, and no other member of their matrix; empty where others have them too."""
    if len({one.matrix for one in chosen}) != 1:
        return ""
    of = [one for one in members if one.matrix == chosen[0].matrix]
    own = {axis: list(dict.fromkeys(str(one.axes[axis]) for one in chosen)) for axis in chosen[0].axes}
    every = {axis: {str(one.axes[axis]) for one in of} for axis in own}
    parts = {axis: labels for axis, labels in own.items() if set(labels) != every[axis]}
    alike = [one.name for one in of if all(str(one.axes[axis]) in labels for axis, labels in parts.items())]
    if not parts or alike != [one.name for one in chosen]:
        return ""
    return " with ".join(f"{axis} {several(labels, _NAMED)}" for axis, labels in parts.items())
