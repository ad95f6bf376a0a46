"""GEMMs by format, and attention by the backend that ran."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from tetrace.attribute.attribution import Attribution
from tetrace.attribute.classify import attention_backend
from tetrace.attribute.distinct import counts, distinct, sums
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
    classes = scope.attribution.classes
    (module, phase, role, code), index = distinct(
        scope.module[chosen], scope.phase[chosen], scope.role[chosen], scope.kernel_class[chosen]
    )
    kinds = [classes[c] for c in code.tolist()]
    keys = list(dict.fromkeys((m, p, r, k.formats, k.family) for m, p, r, k in zip(module.tolist(), phase.tolist(), role.tolist(), kinds, strict=True)))
    place = {key: i for i, key in enumerate(keys)}
    merged = np.array([place[(m, p, r, k.formats, k.family)] for m, p, r, k in zip(module.tolist(), phase.tolist(), role.tolist(), kinds, strict=True)], np.int32)
    index = merged[index] if len(merged) else index
    columns = {
        "module": scope.module_words(np.array([key[0] for key in keys], np.int64)),
        "phase": phase_words(np.array([key[1] for key in keys], np.int64)),
        "role": role_words(np.array([key[2] for key in keys], np.int64)),
        "formats": [key[3] for key in keys],
        "fp8": np.array([is_fp8(key[3]) for key in keys], np.int64),
        "kernel": [key[4] for key in keys],
        "count": counts(index, len(keys)),
        "total_ns": sums(index, len(keys), scope.duration[chosen]),
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
    chosen = scope.in_category("attention")
    unfused = _unfused(scope)
    words = list(dict.fromkeys([*backend_of_class, UNFUSED]))
    code = np.array([words.index(word) for word in backend_of_class] or [0], np.int32)[scope.kernel_class]
    code = np.where(unfused, words.index(UNFUSED), code)
    chosen |= unfused
    (module, phase, backend, kernel_class), index = distinct(scope.module[chosen], scope.phase[chosen], code[chosen], scope.kernel_class[chosen])
    classes = [scope.attribution.classes[c] for c in kernel_class.tolist()]
    columns = {
        "module": scope.module_words(module),
        "phase": phase_words(phase),
        "backend": [words[c] for c in backend.tolist()],
        "formats": [one.formats for one in classes],
        "direction": [one.operation or one.category for one in classes],
        "count": counts(index, len(module)),
        "total_ns": sums(index, len(module), scope.duration[chosen]),
    }
    return Table(ATTENTION, columns).sorted_by("total_ns")


def _backends(attribution: Attribution) -> list[str]:
    return [attention_backend(one) or ("helper" if one.category == "attention" else "") for one in attribution.classes]


def _unfused(scope: Scope) -> np.ndarray:
    """GEMMs and softmax of a DotProductAttention that ran no fused kernel: TE's unfused backend."""
    names = [name.rsplit("/", 1)[-1].startswith("DotProductAttention") for name in scope.attribution.module_names]
    in_attention = np.array([*names, False], np.bool_)[scope.module]
    return in_attention & scope.in_category("gemm", "softmax_loss")
