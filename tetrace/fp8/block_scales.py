"""How Transformer Engine laid out the scales of a tensor in blocks: told by attributes, since its classes moved."""

from __future__ import annotations

from typing import Any


def are_compact(tensor: Any) -> bool:
    """Whether they lie row by row, as they are gathered over ranks: a GEMM takes them transposed."""
    return "COMPACT" in str(getattr(tensor, "_data_format", ""))


def are_swizzled(tensor: Any) -> bool:
    """Whether they lie in the order in which a GEMM reads them."""
    return bool(getattr(tensor, "_with_gemm_swizzled_scales", False))
