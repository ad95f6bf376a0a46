"""What kind of work a GPU activity is, from its demangled name and the C range of Transformer Engine around it.

A kernel that only quantizes, transposes FP8 data, finds amax, updates scales or swizzles them is `quantization`, so
that this category's total is the lower bound of the quantization overhead. A kernel that does other work as well
keeps that work's category and says `fused_quantization`; `fp8_share` gives the FP8 part of the bytes it moves.
`inspection` is what tetrace itself launched to look at FP8 tensors: no work of the script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from tetrace.attribute import kernel_names as names
from tetrace.attribute.kernel_rules import ATTENTION, DIRECTION, GEMM, OTHER, QUANTIZATION, RULES, Rule

CATEGORIES = (
    "gemm", "attention", "quantization", "normalization", "activation", "rope", "softmax_loss", "embedding", "dropout",
    "moe", "elementwise", "optimizer", "communication", "memory", "other", "inspection",
)  # fmt: skip

ATTENTION_BACKENDS = (
    "cuDNN", "FlashAttention 2", "FlashAttention 3", "FlashAttention 4", "torch flash", "torch mem-efficient",
    "torch flex", "TE unfused", "linear attention",
)  # fmt: skip

_LONGEST_TEXT = 4096  # characters of a name that are looked at: what tells kernels apart stands in front


@dataclass(frozen=True)
class KernelClass:
    """What a kernel is.

    category: one of `CATEGORIES`. fused_quantization: it quantizes beside the work its category names.
    formats: operands of a GEMM or an attention (`E4M3×E5M2`, `BF16`, `FP16/BF16` where the name says 16 bits only),
    or the FP8 format a quantizing kernel produces or reads; "" unknown. operation: a finer word within the category.
    family: a stable short name. fp8_share: bytes of FP8, and all bytes, that it moves for each element; (0, 0) where
    nothing is fused.
    """

    category: str
    fused_quantization: bool = False
    formats: str = ""
    operation: str = ""
    family: str = ""
    fp8_share: tuple[int, int] = (0, 0)


def classify(name: str, kind: str = "kernel", call_range: str = "") -> KernelClass:
    """What the activity called `name` is. `kind` as in table `activities`.

    `call_range`: the innermost `nvte_*` range around its launch, "" if none; it decides what the name leaves open.
    """
    return _classify(name[:_LONGEST_TEXT], kind, call_range)


def classify_all(kernel_names: Sequence[str]) -> list[KernelClass]:
    """`classify` of kernels by their names alone, in order."""
    return [_classify(name[:_LONGEST_TEXT], "kernel", "") for name in kernel_names]


def attention_backend(kernel: KernelClass) -> str:
    """Which of `ATTENTION_BACKENDS` an attention kernel belongs to; "" for helpers and other categories."""
    if kernel.category != ATTENTION:
        return ""
    return next((backend for backend in ATTENTION_BACKENDS if kernel.family.startswith(backend)), "")


@lru_cache(maxsize=1 << 16)
def _classify(text: str, kind: str, call_range: str) -> KernelClass:
    base, end = names.own_name(text) if kind == "kernel" else (kind, len(text))
    inner = names.functor(text, end)
    for rule in _candidates(names.without_index(base), inner):
        if _holds(rule, text, call_range):
            return _describe(rule, base, inner, text, call_range)
    return KernelClass(OTHER, family=names.stem(base))


def _describe(rule: Rule, base: str, inner: str, text: str, call_range: str) -> KernelClass:
    share = names.fp8_share(text, rule.traffic) if rule.traffic else (0, 0)
    formats = _formats(rule, base, text, fused=share != (0, 0))
    operation = rule.operation
    if operation == DIRECTION:
        operation = names.direction(base, inner, call_range if rule.range else "")
    family = _family(rule, base, inner, text, formats)
    return KernelClass(rule.category, share != (0, 0), formats, operation, family, share)


def _formats(rule: Rule, base: str, text: str, *, fused: bool) -> str:
    if rule.category == GEMM:
        # A reduction or an epilogue belongs to a product whose operands its name does not give.
        return "" if rule.operation else names.gemm_format(base, text)
    if rule.category == ATTENTION:
        return "" if rule.operation == "aux" else names.attention_format(base, text)
    return names.quantized_format(text) if fused or rule.category == QUANTIZATION else ""


def _family(rule: Rule, base: str, inner: str, text: str, formats: str) -> str:
    match rule.family:
        case "{base}":
            return base
        case "{stem}":
            return names.stem(base)
        case "{nccl}":
            return names.collective(base)
        case "{copy}":
            return names.copy_direction(text)
    word = names.family_word(formats)
    stem = names.stem(base) if "{stem}" in rule.family else ""
    return rule.family.format(base=base, inner=inner, stem=stem, format=word).replace("<>", "").strip()


def _holds(rule: Rule, text: str, call_range: str) -> bool:
    return _found(rule.range, call_range) and _found(rule.where, text)


def _found(pattern: str, text: str) -> bool:
    return not pattern or _compiled(pattern).search(text) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


@cache
def _first() -> re.Pattern[str]:
    """All rows' names in one alternation, a group each: finding a kernel's first row is one match, not hundreds."""
    return re.compile("|".join(f"({rule.name})" for rule in RULES))


@lru_cache(maxsize=1 << 16)
def _candidates(base: str, inner: str) -> tuple[Rule, ...]:
    """The rows whose name and functor fit, in order, up to the first without a further condition."""
    match = _first().fullmatch(base)
    if match is None or match.lastindex is None:
        return ()
    found: list[Rule] = []
    for position, rule in enumerate(RULES[match.lastindex - 1 :]):
        named = position == 0 or _compiled(rule.name).fullmatch(base) is not None
        if named and _found(rule.inner, inner):
            found.append(rule)
            if not (rule.where or rule.range):
                break
    return tuple(found)
