"""Floating-point operations of a step: matrix products, 2·M·N·K each, forward and backward."""

from collections.abc import Iterable


def linears(tokens: int, shapes: Iterable[tuple[int, int]]) -> int:
    """Of linear layers with these (in, out) features: forward, gradient of the input and gradient of the weight."""
    return sum(3 * 2 * tokens * features * out for features, out in shapes)


def causal_attention(batch: int, seq: int, hidden: int) -> int:
    """Of one causal attention over `hidden` = heads · head dimension.

    Two products in the forward (QKᵀ, PV) and four in the backward (of V, P, Q and K), for the seq · (seq + 1) / 2 pairs
    of a query and a key that the mask leaves: what a backend computes beyond them, or again, is its cost.
    """
    pairs = batch * seq * (seq + 1) // 2
    return (2 + 4) * 2 * pairs * hidden
