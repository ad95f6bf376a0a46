"""In which order backward made gradients that were read together, right before the optimizer's step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tetrace.fp8.observations import BACKWARD, FORWARD, Rows

if TYPE_CHECKING:
    from collections.abc import Sequence

# Gradients with which a module's backward begins, or that of one of its GEMMs.
_BEGIN_BACKWARD = ("grad_output", "do")
# Modules that compute with their own parameters, by the end of their class's name; another one at the root contains some.
_LEAVES = ("Linear", "Norm", "Embedding", "MLP", "Conv1d", "Conv2d", "Conv3d")


def in_order_of_backward(rows: Rows, of_step: Sequence[int], gradients: Sequence[int]) -> list[int]:
    """Rows of `gradients` in the order in which backward made them, the first one first.

    The modules' forwards, last to first; where gradients of outputs were quantized, those modules in the order in which
    that was. Modules of which no forward was observed come last, and those that contain others, which use their own
    parameters anywhere in their forward: in reverse order of parameters.
    """
    place = places(rows, of_step, gradients)
    parts = _parts(rows, of_step)

    def key(row: int) -> tuple[int, int, int]:
        module, role = rows.keys[int(rows.tensor[row])]
        if module not in place:
            return len(place), 0, -row
        return place[module], _within(parts.get(module, {}), role, len(rows)), row

    return sorted(gradients, key=key)


def places(rows: Rows, of_step: Sequence[int], gradients: Sequence[int]) -> dict[str, int]:
    """The place in backward of each module of `gradients` that has a known one."""
    forward, backward = _seen_in(rows, of_step, FORWARD), _seen_in(rows, of_step, BACKWARD)
    modules = dict.fromkeys(rows.keys[int(rows.tensor[row])][0] for row in gradients)
    known = sorted(
        (one for one in modules if one in forward and not _contains(rows, one, forward)),
        key=lambda one: -forward[one],
    )
    known += [one for one in modules if one not in forward and one in backward]
    by_backward = iter(sorted((one for one in known if one in backward), key=lambda one: backward[one]))
    known = [next(by_backward) if one in backward else one for one in known]
    return {module: number for number, module in enumerate(known)}


def _seen_in(rows: Rows, of_step: Sequence[int], phase: str) -> dict[str, int]:
    """Where each module was last seen in forward, or first in backward."""
    found: dict[str, int] = {}
    for row in of_step:
        module, role = rows.keys[int(rows.tensor[row])]
        if rows.text("phase", row) != phase or role == "loss":
            continue
        if phase == FORWARD:
            found[module] = row
        elif role.rpartition(".")[2] in _BEGIN_BACKWARD:
            found.setdefault(module, row)
    return found


def _contains(rows: Rows, module: str, forward: dict[str, int]) -> bool:
    """Whether the module has others in it, whose forwards were observed."""
    if any(other.startswith(f"{module}.") for other in forward):
        return True
    # The root has the name of its class, and what is in it does not begin with that.
    kind = rows.text("operation", forward[module])
    return kind == module and not kind.endswith(_LEAVES)


def _parts(rows: Rows, of_step: Sequence[int]) -> dict[str, dict[str, int]]:
    """Where the gradient of the output of each GEMM of a module was first seen: `fc1` of `fc1.grad_output`."""
    found: dict[str, dict[str, int]] = {}
    for row in of_step:
        module, role = rows.keys[int(rows.tensor[row])]
        part, _, kind = role.rpartition(".")
        if kind in _BEGIN_BACKWARD:
            found.setdefault(module, {}).setdefault(part, row)
    return found


def _within(parts: dict[str, int], role: str, end: int) -> int:
    """Where the module's own backward came to a parameter: the gradient of its GEMM's output; of its norm at the end."""
    name = role.rpartition(".")[0]
    if "norm" in name:
        return end
    return next((row for part, row in parts.items() if name.startswith(part)), 0)
