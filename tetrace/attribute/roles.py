"""Roles: which tensor a call quantizes (input, weight, grad_output) and which GEMM of a module runs (fprop, dgrad, wgrad).

TE's C ranges do not say it, their order inside a module does: it is fixed by TE's sources (module/linear.py,
layernorm_linear.py, layernorm_mlp.py, grouped_linear.py), and where TE's Python ranges name the part, that decides.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from tetrace.attribute.distinct import alike
from tetrace.attribute.host import Host
from tetrace.attribute.vocabulary import BACKWARD

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]

INPUT, WEIGHT, GRAD_OUTPUT, FPROP, DGRAD, WGRAD = range(6)
# Those behind the first six are only known where tetrace's instrumentation recorded the call.
ROLES = (
    "input", "weight", "grad_output", "fprop", "dgrad", "wgrad",
    "output", "grad_input", "qkv", "o", "s", "do", "dp", "dqkv",
)  # fmt: skip
NONE = -1

Call = tuple[str, str]  # name of the C range, name of the Python part it is in

_GEMM = re.compile(r"^nvte_.*gemm")
_QUANTIZE = re.compile(r"^nvte_(group_)?(quantize|cast|multi_cast|fp8_quantize|fp8_cast)")
_AMAX = re.compile(r"^nvte_(group_)?compute_amax")
_AUXILIARY = re.compile(r"^nvte_((group_)?compute_(amax|scale)|.*swizzle|.*transpose)")
_NORM = re.compile(r"^nvte_(layernorm|rmsnorm)_fwd")
_ACTIVATION = re.compile(
    r"^nvte_(d?)(gelu|geglu|qgelu|qgeglu|relu|reglu|srelu|sreglu|silu|swiglu|clamped_\w+|scaled_\w+)$"
)
_INPUT_PARTS = {"input_cast_comm", "gemm_input_cast_comm", "norm", "norm_input_cast"}
_BACKWARD_PARTS = {
    "grad_output_preprocess": GRAD_OUTPUT, "column_parallel_comm_input": INPUT, "dgrad_gemm": WEIGHT, "wgrad_gemm": INPUT,
}  # fmt: skip
_WEIGHTS = {"LayerNormMLP": 2}


def roles(host: Host, instance: Codes, phase: Codes) -> Codes:
    """Role of every range (index of ROLES or -1). `instance` and `phase` are per range, as modules and phases give them."""
    own = np.full(len(host), NONE, np.int32)
    calls = host.says("c_call") if len(host) else np.zeros(0, np.bool_)
    outermost = calls & (instance >= 0) & ~((host.parent >= 0) & calls[np.maximum(host.parent, 0)])
    rows = np.flatnonzero(outermost)
    own[rows] = _roles_in_order(host, instance[rows], phase, host.word[rows], host.words, _parts(host)[rows])
    exact = host.inherit(_exact(host))
    return np.where(exact >= 0, exact, host.inherit(own)).astype(np.int32)


def _exact(host: Host) -> Codes:
    """Own role of ranges whose site says it: quantize calls and GEMMs that tetrace's instrumentation recorded."""
    if not len(host):
        return np.empty(0, np.int32)
    return np.array([ROLES.index(m.role) if m.role in ROLES else NONE for m in host.meanings], np.int32)[host.word]


def roles_of_kernels(
    host: Host, instance: Codes, phase: Codes, launch_ns: npt.NDArray[np.int64], call: Codes, calls: list[str]
) -> Codes:
    """Role of activities where no C range was recorded: each stands for the call that would have launched it.

    `instance`, `launch_ns` and `call` are per activity: the module's range, the time of the launch, and the place in
    `calls` of the C range it stands for (-1 none). `phase` is per range.
    """
    found = np.full(len(instance), NONE, np.int32)
    rows = np.flatnonzero((instance >= 0) & (call >= 0))
    rows = rows[np.lexsort((launch_ns[rows], instance[rows]))]
    found[rows] = _roles_in_order(host, instance[rows], phase, call[rows], calls, np.full(len(rows), -1, np.int32))
    return found


def _roles_in_order(host: Host, instance: Codes, phase: Codes, word: Codes, words: list[str], part: Codes) -> Codes:
    """Role of each call, given the calls of each instance in their order; worked out once for instances that are alike."""
    found = np.full(len(instance), NONE, np.int32)
    if not len(instance):
        return found
    starts = np.flatnonzero(np.diff(instance, prepend=-1)).astype(np.int32)
    lengths = np.diff(np.append(starts, len(instance)))
    for group in alike(starts, host.word[instance[starts]], word, part):
        begin = int(instance[starts[group[0]]])
        own = slice(int(starts[group[0]]), int(starts[group[0]] + lengths[group[0]]))
        said = [host.meanings[code].part if code >= 0 else "" for code in part[own].tolist()]
        sequence = list(zip((words[code] for code in word[own].tolist()), said, strict=True))
        meaning = host.meanings[host.word[begin]]
        one = _roles_of_calls(meaning.begins, int(phase[begin]) == BACKWARD, meaning.part, sequence)
        where = (starts[group][:, None] + np.arange(len(one))).ravel()
        found[where] = np.tile(np.array(one, np.int32), len(group))
    return found


def _parts(host: Host) -> Codes:
    """Word of the nearest range around, or itself, that names a part of a module; -1 where none does."""
    names = (
        np.array([bool(meaning.part) for meaning in host.meanings], np.bool_)[host.word] if len(host) else np.empty(0)
    )
    return host.inherit(np.where(names, host.word, -1)) if len(host) else np.empty(0, np.int32)


def _roles_of_calls(module: str, backward: bool, part: str, calls: list[Call]) -> list[int]:
    """Role of each C call of one module in order."""
    if module == "DotProductAttention":
        return [NONE] * len(calls)
    if part == "wgrad":
        return [WGRAD if _GEMM.match(name) else INPUT if _is_quantizing(name) else NONE for name, _ in calls]
    return _backward(calls) if backward else _forward(module, calls)


def _is_quantizing(name: str) -> bool:
    return bool(_QUANTIZE.match(name) or _AUXILIARY.match(name))


def _forward(module: str, calls: list[Call]) -> list[int]:
    found = [NONE] * len(calls)
    first = 0
    for i, (name, _) in enumerate(calls):
        if _GEMM.match(name):
            found[i] = FPROP
            _roles_before_gemm(module, calls, first, i, found)
            first = i + 1
    for i in range(first, len(calls)):
        # After the last GEMM: its output, which is somebody's input.
        found[i] = INPUT if _is_quantizing(calls[i][0]) else NONE
    return found


def _roles_before_gemm(module: str, calls: list[Call], first: int, gemm: int, found: list[int]) -> None:
    """Roles of the calls between two GEMMs: the input comes first, the weights last."""
    units = _tensors(calls, first, gemm)
    unnamed = [unit for unit in units if not any(calls[i][1] in _INPUT_PARTS for i in unit)]
    named_input = len(unnamed) < len(units)
    normalized = any(_NORM.match(calls[i][0]) for i in range(first, gemm))
    weights = _weight_units(calls, unnamed, named_input, normalized, first > 0, _WEIGHTS.get(module, 1))
    for i in range(first, gemm):
        name = calls[i][0]
        found[i] = INPUT if _is_quantizing(name) or _NORM.match(name) or _ACTIVATION.match(name) else NONE
    for unit in weights:
        for i in unit:
            found[i] = WEIGHT


def _tensors(calls: list[Call], first: int, last: int) -> list[list[int]]:
    """Calls that quantize one tensor each: amax and scale come before the cast they are for."""
    units: list[list[int]] = []
    open_unit: list[int] = []
    for i in range(first, last):
        name = calls[i][0]
        if _QUANTIZE.match(name):
            units.append([*open_unit, i])
            open_unit = []
        elif _AUXILIARY.match(name) and not name.startswith("nvte_transpose"):
            open_unit.append(i)
    return units


def _weight_units(
    calls: list[Call], units: list[list[int]], named_input: bool, normalized: bool, later_gemm: bool, weights: int
) -> list[list[int]]:
    """Which of the units quantize weights."""
    if later_gemm:
        # Second GEMM of LayerNormMLP, or the next of fused ops: its weight may have been cast before the first one.
        return units[1:] if len(units) > 1 else []
    if named_input:
        return units
    if len({calls[unit[-1]][0] for unit in units}) == 2:
        # Grouped modules cast all inputs in one kind of call and the weights in another.
        kind = calls[units[0][-1]][0]
        return [unit for unit in units if calls[unit[-1]][0] != kind]
    if normalized:
        # Delayed scaling casts inside the norm; with current scaling the norm finds amax and a cast without it follows.
        separate = len(units) > weights or bool(
            units and len(units[0]) > 1 and not any(_AMAX.match(calls[i][0]) for i in units[0])
        )
        return units[1:] if separate else units
    return units[len(units) // 2 :] if len(units) > 1 else []


def _backward(calls: list[Call]) -> list[int]:
    found = [NONE] * len(calls)
    gemms = [i for i, (name, _) in enumerate(calls) if _GEMM.match(name)]
    for order, i in enumerate(gemms):
        part = calls[i][1]
        # A lone GEMM is the weight's: the input of a first layer needs no gradient.
        second = order % 2 == 1 or len(gemms) == 1
        found[i] = DGRAD if part == "dgrad_gemm" else WGRAD if part == "wgrad_gemm" else WGRAD if second else DGRAD
    after_dgrad = False
    for i, (name, part) in enumerate(calls):
        if found[i] in (DGRAD, WGRAD):
            after_dgrad = found[i] == DGRAD
        elif part in _BACKWARD_PARTS and _is_quantizing(name):
            found[i] = _BACKWARD_PARTS[part]
        elif name.startswith("nvte_transpose"):
            # Hopper's FP8 GEMMs want both operands row-major: dgrad needs the weight transposed, wgrad the input.
            found[i] = INPUT if after_dgrad else WEIGHT
        elif _is_quantizing(name) or _ACTIVATION.match(name):
            found[i] = GRAD_OUTPUT
    return found
