"""Who launched every GPU activity, and what it is: the value that breakdowns are made from."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.attribute import host as host_ranges
from tetrace.attribute.classify import CATEGORIES, KernelClass, classify
from tetrace.attribute.distinct import distinct
from tetrace.attribute.host import Host
from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.attribute.link import Links, link
from tetrace.attribute.modules import modules
from tetrace.attribute.outside import name_outside
from tetrace.attribute.phases import Phases, phases
from tetrace.attribute.roles import DGRAD, FPROP, WGRAD, roles, roles_of_kernels
from tetrace.attribute.steps import Steps, Windows, find_steps, find_windows
from tetrace.attribute.vocabulary import (
    BACKWARD,
    CLIP_MODULE,
    FORWARD,
    INSPECTION_MODULE,
    LOSS_MODULE,
    OPTIMIZER,
    OPTIMIZER_MODULE,
    RECOMPUTE,
    SCALE_UPDATE_MODULE,
)
from tetrace.trace.trace import Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Mask = npt.NDArray[np.bool_]

UNATTRIBUTED_MODULE = "unattributed"
_LOSS = re.compile(r"nll_loss|cross_entropy|log_?softmax|CrossEntropy", re.IGNORECASE)
_QUANTIZATION_CALLS = {
    "cast": "nvte_quantize", "cast_transpose": "nvte_quantize", "block_cast": "nvte_quantize", "transpose": "nvte_transpose",
    "amax": "nvte_compute_amax", "amax_zero": "nvte_compute_amax", "scale_update": "nvte_compute_scale_from_amax",
}  # fmt: skip
_CALLS = (
    "nvte_quantize", "nvte_transpose", "nvte_compute_amax", "nvte_compute_scale_from_amax", "nvte_cublas_gemm",
    "nvte_quantize_dbias", "nvte_layernorm_fwd", "nvte_gelu",
)  # fmt: skip
_AUTOGRAD_GEMM = re.compile(r"^(?:autograd::engine::evaluate_function: )?(Addmm|Mm|Linear|Bmm|Baddbmm)Backward0$")


@dataclass(frozen=True)
class Attribution:
    """What is known of each activity, shape (activities,); codes are -1 where it is not known.

    `kernel_class` is an index into `classes`, `phase` one of vocabulary.PHASES (never -1), `step` a row of `steps`,
    `module` an index into `module_names`, `role` one of roles.ROLES. `range_module` and `range_phase` say the same of
    host ranges.
    """

    trace: Trace
    host: Host
    links: Links
    phases: Phases
    steps: Steps
    windows: Windows
    classes: list[KernelClass]
    kernel_class: Codes
    phase: Codes
    step: Codes
    module: Codes
    module_names: list[str]
    role: Codes
    range_module: Codes
    range_phase: Codes

    def category(self) -> Codes:
        """Category of each activity, an index into CATEGORIES, shape (activities,)."""
        return self.of_class([CATEGORIES.index(one.category) for one in self.classes])

    def is_operation(self, *operations: str) -> Mask:
        """Whether each activity's operation is one of `operations`, shape (activities,)."""
        return self.of_class([one.operation in operations for one in self.classes]).astype(np.bool_)

    def of_class(self, values: Sequence[int | bool]) -> Codes:
        """Per activity, the value of its kernel class, shape (activities,)."""
        return (
            np.array(values, np.int32)[self.kernel_class] if len(values) else np.zeros(len(self.kernel_class), np.int32)
        )


def attribute(trace: Trace) -> Attribution:
    """Link every activity of `trace` to its launch, and say its phase, step, module, role and class."""
    host = host_ranges.read(trace)
    links = link(trace, host)
    classes, kernel_class = _classify(trace, host, links)
    categories = np.array([one.category for one in classes] or [""])[kernel_class]
    is_optimizer = categories == "optimizer"
    is_forward = [one.operation == "forward" and one.category in ("attention", "normalization") for one in classes]
    is_either = [one.category == "quantization" and "E5M2" not in one.formats for one in classes]
    marks = (np.array(mark, np.bool_)[kernel_class] for mark in (is_forward, is_either))
    found_phases = phases(trace, host, links, is_optimizer, *marks)
    steps, step = find_steps(trace, host, links, is_optimizer, np.isin(categories, ("gemm", "attention")))
    found_modules = modules(host, steps, found_phases.of_range, found_phases.autograd)
    role_of_range = roles(host, found_modules.instance, found_phases.of_range)
    _activations_of_mlps(trace, host, links, found_modules.instance, classes, kernel_class)
    role = _at(role_of_range, links.range)
    if not host.says("c_call").any() if len(host) else False:
        instance = _at(found_modules.instance, links.range)
        call = np.array([_CALLS.index(_call_of(one)) if _call_of(one) else -1 for one in classes], np.int32)[
            kernel_class
        ]
        by_order = roles_of_kernels(host, instance, found_phases.of_range, links.origin_ns, call, list(_CALLS))
        role = np.where(role >= 0, role, by_order).astype(np.int32)
    names = list(found_modules.names)
    module = _at(found_modules.of_range, links.range)
    _pseudo_modules(module, names, classes, kernel_class, found_phases.of_activity)
    is_communication = categories == "communication"
    name_outside(host, links, found_phases.of_activity, found_phases.of_range, is_communication, names, module)
    return Attribution(
        trace=trace,
        host=host,
        links=links,
        phases=found_phases,
        steps=steps,
        windows=find_windows(trace, step, steps),
        classes=classes,
        kernel_class=kernel_class,
        phase=found_phases.of_activity,
        step=step,
        module=module,
        module_names=names,
        role=_roles_of_activities(host, links, role, categories, classes, kernel_class, found_phases),
        range_module=found_modules.of_range,
        range_phase=found_phases.of_range,
    )


def _call_of(one: KernelClass) -> str:
    """The C call of Transformer Engine that launches such a kernel, for traces that did not record its range."""
    if "amax_and_scale_update" in one.family:
        return ""
    if one.category == "quantization":
        return _QUANTIZATION_CALLS.get(one.operation, "")
    if one.category == "gemm":
        return "nvte_cublas_gemm" if not one.operation else ""
    if (
        one.fused_quantization
        and one.category in ("activation", "elementwise")
        and one.operation in ("backward", "dbias")
    ):
        return "nvte_quantize_dbias"
    if one.category == "normalization" and one.operation == "forward":
        return "nvte_layernorm_fwd"
    return "nvte_gelu" if one.category == "activation" else ""


def _at(values: Codes, rows: Codes) -> Codes:
    if not len(values):
        return np.full(len(rows), -1, np.int32)
    return np.where(rows >= 0, values[np.maximum(rows, 0)], -1).astype(np.int32)


def _classify(trace: Trace, host: Host, links: Links) -> tuple[list[KernelClass], Codes]:
    """The class of every activity, by its name and by the C range of Transformer Engine around its launch."""
    names, kinds = trace.words("activities", "name"), trace.words("activities", "kind")
    call = host.inherit(np.where(host.says("c_call"), host.word, -1)) if len(host) else np.empty(0, np.int32)
    combined, kernel_class = distinct(
        trace.column("activities", "name"), trace.column("activities", "kind"), _at(call, links.range)
    )
    classes = [
        classify(names[name], kinds[kind], host.words[word] if word >= 0 else "")
        for name, kind, word in zip(*(column.tolist() for column in combined), strict=True)
    ]
    _inspections(host, links, classes, kernel_class)
    _amax_neighbours(links, classes, kernel_class)
    return classes, kernel_class


def _inspections(host: Host, links: Links, classes: list[KernelClass], kernel_class: Codes) -> None:
    """What is launched while tetrace looks at FP8 tensors is no work of the script, whatever it is; in place."""
    if not len(host) or not host.is_kind("inspection").any():
        return
    inside = _at(host.inherit(np.where(host.is_kind("inspection"), 0, -1)), links.range) >= 0
    own = np.array([one.category == INSPECTION for one in classes], np.bool_)[kernel_class]
    none = {"formats": "", "fused_quantization": False, "fp8_share": (0, 0)}
    _reclass(classes, kernel_class, np.flatnonzero(inside & ~own), category=INSPECTION, operation="reading", **none)


def _activations_of_mlps(
    trace: Trace, host: Host, links: Links, instance: Codes, classes: list[KernelClass], kernel_class: Codes
) -> None:
    """One kernel casts bias gradients with and without the activation's: without a C range the module decides, in place."""
    fused = [one.operation == "dbias" and one.family.startswith("cast_transpose_fusion") for one in classes]
    rows = np.flatnonzero(np.array(fused or [False], np.bool_)[kernel_class]) if len(classes) else np.empty(0, np.int64)
    if not len(rows) or host.says("c_call").any():
        return
    is_mlp = np.array([meaning.begins == "LayerNormMLP" for meaning in host.meanings], np.bool_)
    begin = _at(instance, links.range[rows])
    rows = rows[(begin >= 0) & is_mlp[host.word[np.maximum(begin, 0)]]]
    _reclass(classes, kernel_class, rows, category="activation", operation="backward")


def _amax_neighbours(links: Links, classes: list[KernelClass], kernel_class: Codes) -> None:
    """What delayed scaling does just before it updates its scales is quantization too: the concatenation of the amax
    values, and the all-reduce of them, by their place before the update on the launching thread."""
    update = np.array([one.operation == "scale_update" for one in classes], np.bool_)[kernel_class]
    if not update.any():
        return
    # tetrace looks at amaxes between the two.
    others = np.flatnonzero(np.array([one.category != INSPECTION for one in classes], np.bool_)[kernel_class])
    order = others[np.lexsort((links.launch_ns[others], links.thread[others]))]
    place = np.empty(len(kernel_class), np.int64)
    place[order] = np.arange(len(order))
    families = [f"{one.category} {one.family} {one.operation}" for one in classes]
    for back, before in _neighbours(order, place[np.flatnonzero(update)], links.thread):
        words = [families[c] for c in kernel_class[before].tolist()]
        concat = np.array(["CatArray" in word for word in words], np.bool_)
        reduce = np.array([word.startswith("communication") for word in words], np.bool_) & (back == 1)
        _reclass(classes, kernel_class, before[concat], category="quantization", operation="amax_concat")
        _reclass(classes, kernel_class, before[reduce], operation="amax_reduce")


def _neighbours(
    order: npt.NDArray[np.int64], places: npt.NDArray[np.int64], thread: Codes
) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """Activities launched one and two places before `places` by the same thread."""
    found = []
    for back in (1, 2):
        earlier = places - back
        same = (earlier >= 0) & (thread[order[np.maximum(earlier, 0)]] == thread[order[places]])
        found.append((back, order[earlier[same]]))
    return found


def _reclass(classes: list[KernelClass], kernel_class: Codes, rows: npt.NDArray[np.int64], **changes: Any) -> None:
    for old in np.unique(kernel_class[rows]).tolist():
        classes.append(dataclasses.replace(classes[old], **changes))
        kernel_class[rows[kernel_class[rows] == old]] = len(classes) - 1


def _pseudo_modules(
    module: Codes, names: list[str], classes: list[KernelClass], kernel_class: Codes, phase: Codes
) -> None:
    """Optimizer, gradient clipping, scale updates and loss are modules of their own where no range says otherwise; in place."""

    def mark(rows: Mask, name: str) -> None:
        if rows.any():
            if name not in names:
                names.append(name)
            module[rows] = names.index(name)

    clip = np.array([one.operation in ("l2norm", "grad_clip") for one in classes], np.bool_)[kernel_class]
    loss = np.array([one.category == "softmax_loss" and bool(_LOSS.search(one.family)) for one in classes], np.bool_)[
        kernel_class
    ]
    # Delayed scaling updates the scales of all modules at once, from the backward of whichever ends it.
    update = [
        one.operation in ("amax_concat", "amax_reduce") or "amax_and_scale_update" in one.family for one in classes
    ]
    mark(np.array(update, np.bool_)[kernel_class], SCALE_UPDATE_MODULE)
    mark(np.array([one.category == INSPECTION for one in classes], np.bool_)[kernel_class], INSPECTION_MODULE)
    mark((module < 0) & (phase == OPTIMIZER) & clip, CLIP_MODULE)
    mark((module < 0) & (phase == OPTIMIZER), OPTIMIZER_MODULE)
    mark((module < 0) & loss & np.isin(phase, (FORWARD, BACKWARD, RECOMPUTE)), LOSS_MODULE)


def _roles_of_activities(
    host: Host,
    links: Links,
    role: Codes,
    categories: npt.NDArray[np.str_],
    classes: list[KernelClass],
    kernel_class: Codes,
    known: Phases,
) -> Codes:
    """Roles from TE's calls, and of other GEMMs from the phase and from autograd's nodes for matrix products."""
    gemm = (categories == "gemm") & (role < 0)
    role = np.where(categories == INSPECTION, -1, role).astype(np.int32)
    role[gemm & np.isin(known.of_activity, (FORWARD, RECOMPUTE))] = FPROP
    node_word = np.array([bool(_AUTOGRAD_GEMM.match(word)) for word in host.words], np.bool_)
    if not len(host) or not node_word.any():
        return role
    is_node = node_word[host.word]
    outermost = is_node & ~((host.parent >= 0) & is_node[np.maximum(host.parent, 0)])
    node = _at(host.inherit(np.where(outermost, np.arange(len(host), dtype=np.int32), -1)), links.range)
    reduction = np.array([one.operation == "splitK_reduce" for one in classes], np.bool_)[kernel_class]
    rows = np.flatnonzero(gemm & ~reduction & (node >= 0))
    rows = rows[np.lexsort((links.origin_ns[rows], node[rows]))]
    first = np.append(True, np.diff(node[rows]) != 0) if len(rows) else np.zeros(0, np.bool_)
    begins = np.flatnonzero(first)
    # Two products of one node are the gradients of its input and its weight, in this order (torch's derivatives.yaml).
    pairs = begins[np.diff(np.append(begins, len(rows))) == 2]
    role[rows[pairs]], role[rows[pairs + 1]] = DGRAD, WGRAD
    return role
