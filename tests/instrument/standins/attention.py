"""Modules of attention, with the choice of a backend."""

from __future__ import annotations

import logging
from types import ModuleType
from typing import Any

import torch
from torch import nn


def attention_modules(version: tuple[int, int], base: type, prefix: str) -> dict[str, ModuleType]:
    utils, backends, dot = (ModuleType(f"{prefix}.{name}") for name in ("utils", "backends", "dot_product_attention"))

    class AttentionLogging:
        _log_level = logging.WARNING
        _stream_handler = logging.StreamHandler()

    def get_attention_backend(attention_params: Any = None) -> tuple[Any, ...]:
        logger = logging.getLogger("DotProductAttention")
        logger.setLevel(AttentionLogging._log_level)
        if not logger.hasHandlers():
            logger.addHandler(AttentionLogging._stream_handler)
        logger.debug("Running with config=%s", attention_params)
        logger.debug("Disabling FlashAttention 3 for compute capability != sm90")
        logger.debug("Disabling UnfusedDotProductAttention due to NVTE_UNFUSED_ATTN=%s", 0)
        logger.info("this is for users who ask for it")
        logger.debug("Selected backend = %s.", "FusedAttention")
        return False, None, True, 1, False, [False, True, True]

    class Backend(nn.Module):
        def forward(self, q: Any, **kwargs: Any) -> torch.Tensor:
            return q * 2

    names = ("FlashAttention", "FusedAttention", "UnfusedDotProductAttention")
    classes = {name: type(name, (Backend,), {"forward": _forward_of(name)}) for name in names}

    class DotProductAttention(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.flash_attention, self.fused_attention = classes["FlashAttention"](), classes["FusedAttention"]()
            self.selected: Any = None

        def forward(self, q: torch.Tensor) -> torch.Tensor:
            if self.selected is None:
                self.selected = utils.get_attention_backend(q.shape)
            return self.fused_attention(q, fused_attention_backend=self.selected[3])

    utils.AttentionLogging, utils.get_attention_backend = AttentionLogging, get_attention_backend
    for name, one in classes.items():
        setattr(backends, name, one)
    dot.DotProductAttention = DotProductAttention
    return {module.__name__: module for module in (utils, backends, dot)}


def _forward_of(name: str) -> Any:
    def forward(self: Any, query_layer: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return query_layer * 2

    return forward
