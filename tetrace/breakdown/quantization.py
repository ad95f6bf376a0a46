"""What FP8 costs on the GPU: kernels that only quantize (lower bound), the fused ones whole (upper), and between them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tetrace.attribute.distinct import counts, distinct, sums
from tetrace.attribute.roles import GRAD_OUTPUT, INPUT, WEIGHT
from tetrace.breakdown.scope import Scope, phase_words, role_words
from tetrace.breakdown.tables import QUANTIZATION, Table


@dataclass(frozen=True)
class Bounds:
    """Sums over the selected activities in ns. `estimate_ns` is -1 where a fused kernel's traffic is not known.

    `weight_casts` counts casts of weights and `weights` the modules' weights they are of, `scale_updates` kernels.
    """

    lower_ns: int
    upper_ns: int
    estimate_ns: int
    scale_update_ns: int
    scale_updates: int
    transpose_ns: int
    amax_ns: int
    weight_casts: int


def quantization_table(scope: Scope) -> Table:
    """Kernels that quantize, by module, phase, role and operation; the longest in sum first."""
    chosen = scope.in_category("quantization") | scope.fused
    classes = scope.attribution.classes
    operation, words = _operations(scope)
    (module, phase, role, word, fused), index = distinct(
        scope.module[chosen],
        scope.phase[chosen],
        _tensor_role(scope)[chosen],
        operation[chosen],
        scope.fused[chosen].astype(np.int32),
    )
    size = len(module)
    total = sums(index, size, scope.duration[chosen])
    numerator = np.array([one.fp8_share[0] for one in classes] or [0], np.int64)[scope.kernel_class[chosen]]
    denominator = np.array([one.fp8_share[1] for one in classes] or [0], np.int64)[scope.kernel_class[chosen]]
    is_fused = scope.fused[chosen]
    share = np.where(is_fused, scope.duration[chosen] * numerator // np.maximum(denominator, 1), scope.duration[chosen])
    unknown = sums(index, size, is_fused & (denominator == 0)) > 0
    columns = {
        "module": scope.module_words(module),
        "phase": phase_words(phase),
        "role": role_words(role),
        "operation": [words[code] for code in word.tolist()],
        "fused": fused.astype(np.int64),
        "count": counts(index, size),
        "total_ns": total,
        "estimate_ns": np.where(unknown, -1, sums(index, size, share)),
    }
    return Table(QUANTIZATION, columns).sorted_by("total_ns")


def _tensor_role(scope: Scope) -> np.ndarray:
    """Roles of tensors only: a scale swizzled for a GEMM carries the GEMM's role, which is no tensor."""
    return np.where(np.isin(scope.role, (INPUT, WEIGHT, GRAD_OUTPUT)), scope.role, -1).astype(np.int32)


def _operations(scope: Scope) -> tuple[np.ndarray, list[str]]:
    """Operation of each selected activity as a code; fused kernels say their category first."""
    labels = [
        f"{one.category} {one.operation}".strip() if one.fused_quantization else one.operation
        for one in scope.attribution.classes
    ]
    words = list(dict.fromkeys(labels)) or [""]
    code = np.array([words.index(label) for label in labels] or [0], np.int32)
    return code[scope.kernel_class], words


def bounds(scope: Scope, table: Table) -> Bounds:
    """The quantization overhead of the selected activities, from their table."""
    total, fused = table["total_ns"], table["fused"] == 1
    operation = np.array(table["operation"] or [""], dtype=object)

    def of(*names: str) -> np.ndarray:
        return np.isin(operation, names) if len(table) else np.zeros(0, np.bool_)

    estimate = table["estimate_ns"]
    weight = np.array([role == "weight" for role in table["role"]], np.bool_) & of(
        "cast", "cast_transpose", "block_cast"
    )
    return Bounds(
        lower_ns=int(total[~fused].sum()),
        upper_ns=int(total.sum()),
        estimate_ns=-1 if (estimate < 0).any() else int(estimate.sum()),
        scale_update_ns=int(total[of("scale_update", "amax_concat")].sum()),
        scale_updates=int(table["count"][of("scale_update")].sum()),
        transpose_ns=int(total[of("transpose")].sum()),
        amax_ns=int(total[of("amax", "amax_zero")].sum()),
        weight_casts=int(table["count"][weight].sum()),
    )
