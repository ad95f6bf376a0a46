"""Where NaN and Inf came from: the first tensor that was not finite, the operation that made it, and what it read.

What was observed is a list of tensors in the order in which they came to be. The operation that made the first bad one
is known where its module's own tensors were seen before it; otherwise it lies between two observations.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.fp8.backward_order import in_order_of_backward, places
from tetrace.fp8.nonfinite_ranks import kind_of, of_first_rank, senders, step_of
from tetrace.fp8.observations import (
    BACKWARD,
    CHECK,
    FORWARD,
    RECOMPUTE,
    Rows,
    non_finite,
    processes,
    switched_off,
    tensors,
    whole_steps,
)
from tetrace.fp8.origins import NonFinite, Origin, Seen

if TYPE_CHECKING:
    from tetrace.fp8.observations import Places
    from tetrace.trace.trace import Trace

# How many of the tensors that went bad next are named, and how many steps before are told of the first.
_NAMED, _STEPS_BEFORE = 8, 5
# How many times its amax a parameter has after a step of the optimizer that went wrong, and how large it is then.
_JUMP, _LARGE = 1000.0, 1.0
# Results of a module's forward, and the tensors of its own that it reads for them.
_RESULTS, _OPERANDS = ("output", "o"), ("input", "weight", "qkv", "s")
_OF_GRADIENT = ("grad_output", "input", "do", "dp")
# Of what backward hands on: the operation that made it, and what it reads.
_HANDED_ON = {
    "grad_input": ("input gradient GEMM", ("grad_output", "weight")),
    "dqkv": ("backward", ("qkv", "o", "do")),
}


def find_nonfinite(trace: Trace) -> NonFinite:
    """The origins of NaN and Inf in a recording. A finite step between two bad ones makes the second an origin again.

    Raises `InputError` where no FP8 statistics were recorded.
    """
    rows = tensors(trace)
    names = processes(trace)
    compiled = _compiled(trace)
    found = (_origin(rows, names, first, last) for first, last in _stretches(rows))
    origins = tuple(replace(one, compiled=_within(rows, one.tensor.module, compiled)) for one in found)
    steps = tuple(int(step) for step in np.unique(rows["step"]))
    checked = bool(rows.isin("source", CHECK).any())
    return NonFinite(origins, len(rows), steps, checked, whole_steps(rows), switched_off(trace))


def _compiled(trace: Trace) -> list[str]:
    """Modules that torch.compile took whole, by the names of what was compiled."""
    if not trace.has("sites"):
        return []
    words, kinds = trace.words("sites", "module"), trace.words("sites", "kind")
    pairs = zip(trace.column("sites", "kind").tolist(), trace.column("sites", "module").tolist(), strict=True)
    named = dict.fromkeys(words[module] for kind, module in pairs if kinds[kind] == "compiled")
    return [name.removeprefix("(compiled: ").removesuffix(")") for name in named]


def _within(rows: Rows, module: str, compiled: list[str]) -> str:
    """The one of `compiled` that holds `module`; empty where none does."""
    inside = [one for one in compiled if module == one or module.startswith(f"{one}.")]
    if inside:
        return max(inside, key=len)
    # What is in a root does not begin with its name: of it no forward was observed.
    roots = [one for one in compiled if not any(name.startswith(f"{one}.") for name, _ in rows.keys)]
    return roots[0] if len(roots) == 1 and module not in _forwards(rows) and not module.startswith("(") else ""


def _forwards(rows: Rows) -> set[str]:
    """Modules of which something was observed in forward."""
    forward = np.unique(rows.tensor[rows.isin("phase", FORWARD, RECOMPUTE)]).tolist()
    return {rows.keys[tensor][0] for tensor in forward}


def _stretches(rows: Rows) -> Iterator[tuple[int, int]]:
    """First and last step of each run of recorded steps that held something that was not finite."""
    steps = np.unique(rows["step"])
    bad = np.isin(steps, rows["step"][non_finite(rows) > 0])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], bad, [False]]).astype(np.int8)))
    for begin, end in edges.reshape(-1, 2).tolist():
        yield int(steps[begin]), int(steps[end - 1])


def _origin(rows: Rows, names: dict[int, str], first: int, last: int) -> Origin:
    bad = non_finite(rows) > 0
    row = _first_made(rows, of_first_rank(rows, np.flatnonzero(bad & (rows["step"] == first))))
    process = int(rows["process"][row])
    # Rows are sorted by process: what this one did until then is a slice.
    begin = int(np.searchsorted(rows["process"], process))
    past = np.arange(begin, row)
    made_by, read = _producer(rows, row, past)
    during = np.flatnonzero(bad & (rows["step"] >= first) & (rows["step"] <= last))
    return Origin(
        tensor=_seen(rows, row),
        process=process,
        rank=names.get(process, ""),
        dtype=rows.text("dtype", row),
        made_by=made_by,
        read=read,
        before=None if made_by else _last_finite(rows, row, past),
        next=_next(rows, row, during[rows["process"][during] == process]),
        tensors=len(np.unique(rows.tensor[during])),
        last_step=last,
        before_amax=_amax_before(rows, row, past),
        parameters=_parameters(rows, row, past, [one.role for one in read]),
        received_from=senders(rows, names, row),
        **_jumped(rows, row, past),
        **_of_backward(rows, row),
    )


def _first_made(rows: Rows, bad: Places) -> int:
    """The first row of `bad`, of one step and process; of gradients, which are read together before the optimizer's step, the
    one that backward made first."""
    first = int(bad[0])
    if kind_of(rows, first) != "gradient":
        return first
    of_step, among = step_of(rows, first), set(bad.tolist())
    ordered = in_order_of_backward(rows, of_step.tolist(), _batch(rows, first, of_step))
    return next(row for row in ordered if row in among)


def _batch(rows: Rows, row: int, of_step: Places) -> list[int]:
    """The gradients that were read together with the one in `row`: those around it, with nothing else in between."""
    kind = np.array([kind_of(rows, one) == "gradient" for one in of_step.tolist()])
    place = int(np.searchsorted(of_step, row))
    others = np.flatnonzero(~kind)
    begin, end = np.searchsorted(others, place) - 1, np.searchsorted(others, place)
    first = int(others[begin]) + 1 if begin >= 0 else 0
    last = int(others[end]) if end < len(others) else len(of_step)
    found: list[int] = of_step[first:last].tolist()
    return found


def _of_backward(rows: Rows, row: int) -> dict[str, Any]:
    """What the other gradients of the step say of a gradient that is the first that is not finite."""
    if kind_of(rows, row) != "gradient":
        return {}
    of_step = step_of(rows, row)
    together = _batch(rows, row, of_step)
    ordered = in_order_of_backward(rows, of_step.tolist(), together)
    bad = [one for one in ordered if rows["nans"][one] > 0 or rows["infs"][one] > 0]
    modules = [rows.keys[int(rows.tensor[one])][0] for one in ordered]
    place = ordered.index(row)
    own = modules[place]
    return {
        "backward_before": tuple(dict.fromkeys(module for module in modules[:place] if module != own)),
        "gradients": (len(bad), len(ordered)),
        "place_known": own in places(rows, of_step.tolist(), together),
        "alone": any(module != own for module in modules[place:])
        and all(modules[ordered.index(one)] == own for one in bad),
        "wholly": all(rows["nans"][one] == rows["elements"][one] for one in bad),
    }


def _producer(rows: Rows, row: int, past: Places) -> tuple[str, tuple[Seen, ...]]:
    """The operation that made the tensor in `row`, in words, and what it read; empty where it was not observed."""
    module, role = rows.keys[int(rows.tensor[row])]
    kind = role.rpartition(".")[2]
    now = past[rows["step"][past] == rows["step"][row]]
    if kind in _RESULTS and rows.text("phase", row) != BACKWARD:
        read = _own(rows, now, module, _OPERANDS, role)
        recomputed = " again, in recompute" if rows.text("phase", row) == RECOMPUTE else ""
        return (f"forward of {module}{recomputed}", read) if read else ("", ())
    if kind == "gradient":
        read = _own(rows, now, module, _OF_GRADIENT, role)
        return (f"weight gradient GEMM of {module}", read) if read and _of_a_gemm(role) else ("", ())
    if kind in _HANDED_ON:
        operation, operands = _HANDED_ON[kind]
        read = _own(rows, now, module, operands, role)
        return (f"{operation} of {module}", read) if read else ("", ())
    if kind == "parameter":
        read = _own(rows, now, module, ("gradient",), role)
        return "optimizer step", read
    return "", ()


def _of_a_gemm(role: str) -> bool:
    """Whether the gradient is a GEMM's: of a weight, and not of a norm or a bias."""
    return "weight" in role and "norm" not in role


def _own(rows: Rows, among: Places, module: str, roles: tuple[str, ...], result: str) -> tuple[Seen, ...]:
    """The newest observation of each tensor of `module` that has one of `roles` and can be an operand of `result`."""
    found: dict[str, int] = {}
    for row in among.tolist():
        its_module, role = rows.keys[int(rows.tensor[row])]
        if its_module == module and role.rpartition(".")[2] in roles and _belongs(role, result):
            found[role] = row
    return tuple(_seen(rows, row) for row in found.values())


def _belongs(role: str, result: str) -> bool:
    """Whether `role` is of the same parameter as `result` (`weight.gradient`), or of its GEMM (`fc1.input` of
    `fc1_weight.gradient`)."""
    of, name = role.rpartition(".")[0], result.rpartition(".")[0]
    if role.endswith("gradient"):
        return of == name
    return not of or not name or name.startswith(of)


def _last_finite(rows: Rows, row: int, past: Places) -> Seen | None:
    """The last observation before `row` that was finite; for a weight the last one of itself, for a gradient the last one
    of the step's forward and loss: gradients are read together, after all of backward."""
    good = past[non_finite(rows)[past] == 0]
    module, role = rows.keys[int(rows.tensor[row])]
    if kind_of(rows, row) == "gradient":
        good = good[(rows["step"][good] == rows["step"][row]) & rows.isin("phase", FORWARD)[good]]
    if role.rpartition(".")[2] == "weight":
        part = role.rpartition(".")[0]
        parameters = {role, f"{part}_weight.parameter" if part else "weight.parameter"}
        own = [tensor for tensor, (name, held) in enumerate(rows.keys) if name == module and held in parameters]
        good = good[np.isin(rows.tensor[good], own)]
    return _seen(rows, int(good[-1])) if len(good) else None


def _parameters(rows: Rows, row: int, past: Places, read: list[str]) -> tuple[tuple[Seen | None, Seen | None], ...]:
    """Parameters of the module whose forward made `row`, before and after it; not those that are among what it `read`."""
    module, role = rows.keys[int(rows.tensor[row])]
    if role.rpartition(".")[2] not in _RESULTS or rows.text("phase", row) == BACKWARD:
        return ()
    known = {f"{one.replace('.', '_')}.parameter" for one in read}
    roles = {held: key for key, (name, held) in enumerate(rows.keys) if name == module and held.endswith(".parameter")}
    same_step = np.flatnonzero((rows["process"] == rows["process"][row]) & (rows["step"] == rows["step"][row]))
    found = []
    for held, tensor in roles.items():
        earlier = past[rows.tensor[past] == tensor]
        later = same_step[(same_step > row) & (rows.tensor[same_step] == tensor)]
        if held in known or not (len(earlier) or len(later)):
            continue
        found.append(
            (
                _seen(rows, int(earlier[-1])) if len(earlier) else None,
                _seen(rows, int(later[0])) if len(later) else None,
            )
        )
    return tuple(found)


def _jumped(rows: Rows, row: int, past: Places) -> dict[str, Any]:
    """Parameters that jumped when they were last read before `row`, which was made in forward, and what grew before them."""
    if rows.text("phase", row) not in (FORWARD, RECOMPUTE):
        return {}
    role = np.array([held.endswith("parameter") for _, held in rows.keys], np.bool_)
    parameters = past[role[rows.tensor[past]]]
    steps = np.unique(rows["step"][parameters])[-2:].tolist()
    if len(steps) < 2:
        return {}
    before, after = (
        {int(rows.tensor[one]): int(one) for one in parameters[rows["step"][parameters] == step]} for step in steps
    )
    amax, own = rows["amax"], rows.keys[int(rows.tensor[row])][0]
    grown = {
        tensor: amax[now] / amax[before[tensor]]
        for tensor, now in after.items()
        if tensor in before and amax[now] >= _LARGE and 0 < amax[before[tensor]] <= amax[now] / _JUMP
    }
    ordered = sorted(grown, key=lambda tensor: (rows.keys[tensor][0] != own, -grown[tensor]))
    if not ordered:
        return {}
    jumped = tuple((_seen(rows, before[tensor]), _seen(rows, after[tensor])) for tensor in ordered)
    between = past[(past > max(before.values())) & (past < min(after.values()))]
    return {"jumped": jumped, "grew_first": _grew_first(rows, past, between)}


def _grew_first(rows: Rows, past: Places, between: Places) -> tuple[Seen, Seen] | None:
    """The first of the rows `between` with a thousandfold of all that its tensor had before: that and its last one before."""
    amax = rows["amax"]
    for row in between[amax[between] >= _LARGE].tolist():
        earlier = past[(past < row) & (rows.tensor[past] == rows.tensor[row]) & np.isfinite(amax[past])]
        if len(earlier) and 0 < amax[earlier].max() <= amax[row] / _JUMP:
            return _seen(rows, int(earlier[-1])), _seen(rows, row)
    return None


def _next(rows: Rows, row: int, bad: Places) -> tuple[Seen, ...]:
    """The tensors that went bad next, each once; of gradients that were read together those that backward made next."""
    later = bad[bad > row].tolist()
    if kind_of(rows, row) == "gradient":
        of_step = step_of(rows, row)
        ordered, among = in_order_of_backward(rows, of_step.tolist(), _batch(rows, row, of_step)), set(bad.tolist())
        last = max(ordered)
        later = [*(one for one in ordered if one in among), *(one for one in later if one > last)]
    named: dict[int, int] = {int(rows.tensor[row]): row}
    for one in later:
        named.setdefault(int(rows.tensor[one]), one)
        if len(named) > _NAMED:
            break
    return tuple(_seen(rows, one) for one in list(named.values())[1:])


def _amax_before(rows: Rows, row: int, past: Places) -> tuple[tuple[int, float], ...]:
    own = past[(rows.tensor[past] == rows.tensor[row]) & np.isfinite(rows["amax"][past])]
    largest: dict[int, float] = {}
    for one in own.tolist():
        step = int(rows["step"][one])
        largest[step] = max(largest.get(step, 0.0), float(rows["amax"][one]))
    largest.pop(int(rows["step"][row]), None)
    return tuple(sorted(largest.items())[-_STEPS_BEFORE:])


def _seen(rows: Rows, row: int) -> Seen:
    module, role = rows.keys[int(rows.tensor[row])]
    return Seen(
        step=int(rows["step"][row]),
        module=module,
        role=role,
        phase=rows.text("phase", row),
        operation=rows.text("operation", row),
        elements=int(rows["elements"][row]),
        nans=max(int(rows["nans"][row]), 0),
        infs=max(int(rows["infs"][row]), 0),
        amax=float(rows["amax"][row]),
        tensor_elements=max(int(rows["tensor_elements"][row]), int(rows["elements"][row])),
    )
