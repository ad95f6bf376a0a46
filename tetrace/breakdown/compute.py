"""GEMMs by format, and attention by the backend that ran."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.classify import attention_backend
from tetrace.attribute.distinct import counts, distinct, sums
from tetrace.attribute.vocabulary import BACKWARD
from tetrace.breakdown.recorded import in_attention, recorded_classes
from tetrace.breakdown.scope import Scope, phase_words, role_words
from tetrace.breakdown.tables import ATTENTION, GEMMS, Table

_FP8 = re.compile(r"^(E4M3|E5M2|FP8)(×(E4M3|E5M2|FP8))?$")
UNFUSED = "TE unfused"


@dataclass(frozen=True)
class Coverage:
    """Share of GEMM time that ran in FP8, in ns; `unknown_ns` is of GEMMs whose name does not tell their format."""

    gemm_ns: int
    fp8_ns: int
    unknown_ns: int


def is_fp8(formats: str) -> bool:
    """Whether `formats` of a GEMM means that both operands are FP8."""
    return bool(_FP8.match(formats))


def gemms_table(scope: Scope) -> Table:
    """GEMMs by module, phase, role, format and family; reductions of a split GEMM carry its role."""
    chosen = scope.in_category("gemm")
    labels = [(one.formats, one.family) for one in scope.attribution.classes]
    words = list(dict.fromkeys(labels)) or [("", "")]
    label = np.array([words.index(one) for one in labels] or [0], np.int32)[scope.kernel_class]
    (module, phase, role, said), index = distinct(
        scope.module[chosen], scope.phase[chosen], scope.role[chosen], label[chosen]
    )
    formats = [words[code][0] for code in said.tolist()]
    columns = {
        "module": scope.module_words(module),
        "phase": phase_words(phase),
        "role": role_words(role),
        "formats": formats,
        "fp8": np.array([is_fp8(one) for one in formats], np.int64),
        "kernel": [words[code][1] for code in said.tolist()],
        "count": counts(index, len(module)),
        "total_ns": sums(index, len(module), scope.duration[chosen]),
    }
    return Table(GEMMS, columns).sorted_by("total_ns")


def coverage(table: Table) -> Coverage:
    """FP8 coverage of GEMM time."""
    total = table["total_ns"]
    unknown = np.array([not formats for formats in table["formats"]], np.bool_)
    return Coverage(int(total.sum()), int(total[table["fp8"] == 1].sum()), int(total[unknown].sum()))


def attention_table(scope: Scope) -> Table:
    """Attention by module, phase, backend and direction. Unfused attention is GEMMs and a softmax inside the module."""
    backend_of_class = _backends(scope.attribution)
    unfused = _unfused(scope)
    words = list(dict.fromkeys([*backend_of_class, UNFUSED]))
    code = np.array([words.index(word) for word in backend_of_class] or [0], np.int32)[scope.kernel_class]
    code = np.where(unfused, words.index(UNFUSED), code)
    chosen = scope.in_category("attention") | unfused
    classes = scope.attribution.classes
    labels = [(one.formats, one.operation or one.category) for one in classes]
    distinct_labels = list(dict.fromkeys(labels)) or [("", "")]
    label = np.array([distinct_labels.index(one) for one in labels] or [0], np.int32)[scope.kernel_class]
    (module, phase, backend, said), index = distinct(
        scope.module[chosen], scope.phase[chosen], code[chosen], label[chosen]
    )
    columns = {
        "module": scope.module_words(module),
        "phase": phase_words(phase),
        "backend": [words[c] for c in backend.tolist()],
        "formats": [distinct_labels[c][0] for c in said.tolist()],
        "direction": [distinct_labels[c][1] for c in said.tolist()],
        "count": counts(index, len(module)),
        "total_ns": sums(index, len(module), scope.duration[chosen]),
    }
    return Table(ATTENTION, columns).sorted_by("total_ns")


def attention_kernels(scope: Scope) -> np.ndarray:
    """The activities of that table."""
    return scope.in_category("attention") | _unfused(scope)


def _backends(attribution: Attribution) -> list[str]:
    return [attention_backend(one) or ("helper" if one.category == "attention" else "") for one in attribution.classes]


def _unfused(scope: Scope) -> np.ndarray:
    """GEMMs and softmax of a DotProductAttention that ran no fused kernel: TE's unfused backend."""
    classes = recorded_classes(scope.trace)
    names = [in_attention(name, classes) for name in scope.attribution.module_names]
    found = np.array([*names, False], np.bool_)[scope.module] & scope.in_category("gemm", "softmax_loss")
    return found | _products_around_softmax(scope) if found.any() else found


def _products_around_softmax(scope: Scope) -> np.ndarray:
    """GEMMs of unfused attention's backward, which no range names: two before each softmax backward and two after it."""
    classes = scope.attribution.classes
    backward = [
        one.category == "attention" and one.operation == "backward" and "unfused" in one.family for one in classes
    ]
    softmax = np.array(backward or [False], np.bool_)[scope.kernel_class]
    product = scope.in_category("gemm") & (scope.module < 0) & (scope.phase == BACKWARD)
    rows = np.flatnonzero(softmax | product)
    links = scope.attribution.links
    rows = rows[np.lexsort((links.launch_ns[scope.rows[rows]], links.thread[scope.rows[rows]]))]
    marks = np.flatnonzero(softmax[rows])
    near = (marks[:, None] + np.array([-2, -1, 1, 2])).ravel()
    near = near[(near >= 0) & (near < len(rows))]
    found = np.zeros(len(scope.rows), np.bool_)
    found[rows[near]] = product[rows[near]]
    return found
