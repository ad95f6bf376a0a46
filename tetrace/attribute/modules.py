"""Modules of host ranges: paths where ranges name them, numbers where Transformer Engine names only a class.

TE's ranges say `Linear forward`, never which Linear. Instances are numbered by their order in the step, and backward
takes the numbers in reverse, because autograd runs the graph backwards. Where autograd's sequence numbers were
recorded, they link a backward op to the forward op exactly and go before the order.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.distinct import alike, distinct
from tetrace.attribute.host import Host
from tetrace.attribute.steps import Steps
from tetrace.attribute.vocabulary import BACKWARD, RECOMPUTE

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Modules:
    """`of_range` per host range: code into `names`, -1 unknown. `instance` per host range: the row of the range that
    begins the TE module it is in, -1 outside."""

    names: list[str]
    of_range: Codes
    instance: Codes


def modules(host: Host, steps: Steps, phase: Codes, autograd: Mask) -> Modules:
    """The module of every range. `phase` is per range, `autograd` per thread."""
    begins = _instances(host)
    rows = np.flatnonzero(begins).astype(np.int32)
    instance = host.inherit(np.where(begins, np.arange(len(host), dtype=np.int32), -1))
    names: dict[str, int] = {}
    own = _scopes(host, instance, names)
    around = host.inherit(own)
    numbers = _numbers(host, steps, phase, rows)
    own[rows] = _named_instances(host, rows, numbers, around, phase, names)
    of_range = host.inherit(own)
    linked = _by_sequence(host, phase, autograd, of_range)
    if (linked >= 0).any():
        of_range = host.inherit(np.where(linked >= 0, linked, own))
        # What sits inside a linked op keeps to it: the order of instances is only a guess beside it.
        of_range = np.where(host.inherit(linked) >= 0, host.inherit(linked), of_range)
    exact = host.inherit(_exact(host, names))
    return Modules(list(names), np.where(exact >= 0, exact, of_range).astype(np.int32), instance)


def _exact(host: Host, names: dict[str, int]) -> Codes:
    """Own module of ranges whose site says its path; nothing that is only read from names goes before it."""
    if not len(host):
        return np.empty(0, np.int32)
    return np.array([_code(names, m.path) if m.path else -1 for m in host.meanings], np.int32)[host.word]


def _instances(host: Host) -> Mask:
    """Ranges that begin the forward or backward of a TE module: the outermost of those of one class."""
    if not len(host):
        return np.zeros(0, np.bool_)
    classes = {name: code for code, name in enumerate(dict.fromkeys(meaning.begins for meaning in host.meanings))}
    codes = np.array([classes[meaning.begins] for meaning in host.meanings], np.int32)[host.word]
    whole = np.array([bool(m.begins) and m.part in ("", "wgrad") for m in host.meanings], np.bool_)[host.word]
    around = host.inherit(np.where(whole, codes, -1))
    outer = np.where(host.parent >= 0, around[np.maximum(host.parent, 0)], -1)
    return whole & (outer != codes)


def _scopes(host: Host, instance: Codes, names: dict[str, int]) -> Codes:
    """Own module of ranges that name one: pseudo-modules, paths, and the user's own scopes joined by `/`."""
    own = np.full(len(host), -1, np.int32)
    if not len(host):
        return own
    fixed = np.array(
        [
            _code(names, m.module) if m.module.startswith("(") or (m.module and m.operator) else -1
            for m in host.meanings
        ],
        np.int32,
    )
    own = fixed[host.word]
    text = [
        m.module if m.module and not m.operator and m.module[0] != "(" else word if m.scope else ""
        for m, word in zip(host.meanings, host.words, strict=True)
    ]
    is_scope = np.array([bool(t) for t in text], np.bool_)[host.word] & (instance < 0) & ~host.operator
    scope = np.where(is_scope, np.arange(len(host), dtype=np.int32), -1)
    enclosing = np.where(host.parent >= 0, host.inherit(scope)[np.maximum(host.parent, 0)], -1)
    todo = np.flatnonzero(is_scope)
    while len(todo):
        # Level by level: a scope is named once the one around it is.
        ready = (enclosing[todo] < 0) | (own[np.maximum(enclosing[todo], 0)] >= 0)
        level, todo = todo[ready], todo[~ready]
        outer = np.where(enclosing[level] >= 0, own[np.maximum(enclosing[level], 0)], -1)
        (outers, words), which = distinct(outer, host.word[level])
        known = list(names)
        pairs = zip(outers.tolist(), words.tolist(), strict=True)
        codes = [_code(names, f"{known[a]}/{text[word]}" if a >= 0 else text[word]) for a, word in pairs]
        own[level] = np.array(codes, np.int32)[which]
    return own


def _code(names: dict[str, int], name: str) -> int:
    return names.setdefault(name, len(names))


def _numbers(host: Host, steps: Steps, phase: Codes, rows: Codes) -> Codes:
    """Number of each instance among those of its class in its step, shape (rows,); -1 for a backward without forward."""
    numbers = np.full(len(rows), -1, np.int32)
    if not len(rows):
        return numbers
    order = np.lexsort((host.start[rows], host.process[rows]))
    process, step = host.process[rows[order]], _steps_of_ranges(host, steps, rows)[order]
    word, way = host.word[rows[order]], phase[rows[order]]
    starts = np.flatnonzero(np.append(True, (np.diff(process) != 0) | (np.diff(step) != 0))).astype(np.int32)
    lengths = np.diff(np.append(starts, len(rows)))
    # Nothing is carried from step to step, and steps repeat: each sequence of modules is numbered once.
    for group in alike(starts, np.zeros(len(starts), np.int32), word, way):
        own = slice(int(starts[group[0]]), int(starts[group[0]] + lengths[group[0]]))
        found = _numbers_of_step([host.meanings[code].begins for code in word[own].tolist()], way[own].tolist())
        where = (starts[group][:, None] + np.arange(len(found))).ravel()
        numbers[order[where]] = np.tile(np.array(found, np.int32), len(group))
    return numbers


def _numbers_of_step(names: list[str], ways: list[int]) -> list[int]:
    """Numbers of the modules of one step, in the order in which they begin."""
    numbers = [-1] * len(names)
    counter: defaultdict[str, int] = defaultdict(int)
    waiting: defaultdict[str, list[int]] = defaultdict(list)
    recomputed: list[int] = []
    backward_began = False
    for i, (name, way) in enumerate(zip(names, ways, strict=True)):
        if way == RECOMPUTE:
            recomputed.append(i)
        elif way == BACKWARD:
            backward_began = True
            _number_recomputed(recomputed, names, waiting, numbers)
            if waiting[name]:
                numbers[i] = waiting[name].pop()
        else:
            if backward_began:
                # The next micro-batch of the same step: the same modules again.
                counter.clear()
                backward_began = False
            numbers[i] = counter[name]
            counter[name] += 1
            waiting[name].append(numbers[i])
    return numbers


def _number_recomputed(
    rows: list[int], names: list[str], waiting: defaultdict[str, list[int]], numbers: list[int]
) -> None:
    """A recomputed stretch is the one whose backward comes next: of each class the last that still wait, in order."""
    for name in dict.fromkeys(names[row] for row in rows):
        same = [row for row in rows if names[row] == name]
        last = waiting[name][-len(same) :]
        for row, number in zip(same[len(same) - len(last) :], last, strict=True):
            numbers[row] = number
    rows.clear()


def _steps_of_ranges(host: Host, steps: Steps, rows: Codes) -> Codes:
    """Row of `Steps` in which each range starts, -1 outside all."""
    found = np.full(len(rows), -1, np.int32)
    for process in np.unique(steps.process).tolist():
        of_process = np.flatnonzero(steps.process == process)
        mine = np.flatnonzero(host.process[rows] == process)
        position = np.searchsorted(steps.start[of_process], host.start[rows[mine]], side="right") - 1
        found[mine] = np.where(position >= 0, of_process[np.maximum(position, 0)], -1)
    return found


def _named_instances(
    host: Host, rows: Codes, numbers: Codes, around: Codes, phase: Codes, names: dict[str, int]
) -> Codes:
    """Code of each instance's name: scope, class and number. Backward and recompute take the forward's scope."""
    known = list(names)
    prefix: dict[tuple[str, int], str] = {}
    later = np.isin(phase[rows], (BACKWARD, RECOMPUTE)).astype(np.int32)
    # Ordered by `later`, so that forward comes first and the others find its scope.
    (is_later, words, number, scopes), index = distinct(
        later, host.word[rows], numbers, np.where(later == 1, -1, around[rows])
    )
    codes = []
    for after, word, count, scope in zip(
        is_later.tolist(), words.tolist(), number.tolist(), scopes.tolist(), strict=True
    ):
        name = host.meanings[word].begins
        if not after:
            prefix.setdefault((name, count), _scope_name(known, scope))
        own = prefix.get((name, count), "") if after else _scope_name(known, scope)
        codes.append(_code(names, _joined(own, name, count)) if count >= 0 else -1)
    return np.array(codes, np.int32)[index] if len(index) else np.empty(0, np.int32)


def _scope_name(known: list[str], scope: int) -> str:
    return known[scope] if scope >= 0 and known[scope][0] != "(" else ""


def _joined(prefix: str, name: str, number: int) -> str:
    if not prefix:
        return f"{name}.{number}"
    # The profiler of PyTorch names the module itself: Linear_2 in the path is that instance already.
    parts = prefix.split("/")
    known = [i for i, part in enumerate(parts) if part.rsplit("_", 1)[0] == name]
    return "/".join(parts[: known[-1] + 1]) if known else f"{prefix}/{name}.{number}"


def _by_sequence(host: Host, phase: Codes, autograd: Mask, of_range: Codes) -> Codes:
    """Module of backward ops by the sequence number of their forward op, shape (ranges,); -1 where there is none."""
    linked = np.full(len(host), -1, np.int32)
    # A sequence of a range with a site is the number of its step.
    numbered = (host.sequence >= 0) & ~host.says("kind")
    if not numbered.any():
        return linked
    backward = numbered & ((phase == BACKWARD) | (phase == RECOMPUTE) | autograd[host.thread])
    forward = np.flatnonzero(numbered & ~backward & (of_range >= 0))
    backward = np.flatnonzero(backward & (phase == BACKWARD))
    if not len(forward) or not len(backward):
        return linked
    # Several ops carry a number until a node takes it: the last one that started is the node's.
    forward = forward[np.lexsort((host.start[forward], host.sequence[forward], host.process[forward]))]
    key = _process_number(host.process[forward], host.sequence[forward])
    wanted = _process_number(host.process[backward], host.sequence[backward])
    position = np.searchsorted(key, wanted, side="right") - 1
    match = (position >= 0) & (key[np.maximum(position, 0)] == wanted)
    linked[backward[match]] = of_range[forward[position[match]]]
    return linked


def _process_number(process: Codes, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return (process.astype(np.int64) << 40) | number
