"""Recipes, quantizers and the scales of delayed scaling."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

import torch


class DType(enum.Enum):
    kByte, kFloat32, kBFloat16, kFloat8E4M3, kFloat8E5M2 = range(5)  # noqa: N815 - theirs


@dataclass
class QParams:
    power_2_scale: bool = False
    amax_epsilon: float = 0.0


class Format(enum.Enum):
    E4M3, HYBRID = range(2)


@dataclass
class Recipe:
    fp8_format: Format = Format.HYBRID
    fp8_dpa: bool = False


@dataclass
class DelayedScaling(Recipe):
    margin: int = 0
    amax_history_len: int = 1024


@dataclass
class Float8CurrentScaling(Recipe):
    use_power_2_scales: bool = False

    fp8_quant_fwd_inp = QParams()


class Quantizer:
    def __init__(self, dtype: DType) -> None:
        self.dtype = dtype
        self.rowwise_usage = self.columnwise_usage = True

    def set_usage(self, *, rowwise: bool | None = None, columnwise: bool | None = None) -> None:
        self.rowwise_usage = self.rowwise_usage if rowwise is None else rowwise
        self.columnwise_usage = self.columnwise_usage if columnwise is None else columnwise

    def __eq__(self, other: object) -> bool:
        """By value, as since 2.20."""
        return type(self) is type(other) and self.dtype == other.dtype

    __hash__ = None  # type: ignore[assignment]


class Float8Quantizer(Quantizer):
    def __init__(self, dtype: DType, scale: Any = None, amax: Any = None) -> None:
        super().__init__(dtype)
        self.scale = torch.ones(1) if scale is None else scale
        self.amax = torch.zeros(1) if amax is None else amax

    def scale_inv(self, tensor: torch.Tensor) -> torch.Tensor:
        """The cast keeps its largest magnitude for the update."""
        self.amax.copy_(torch.maximum(self.amax, tensor.detach().abs().max().float().reshape(self.amax.shape)))
        return 1 / self.scale.clone()


class Float8CurrentScalingQuantizer(Quantizer):
    force_pow_2_scales = False

    def scale_inv(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor.detach().abs().max().float() / fp8_max(self.dtype)).reshape(1)


def fp8_max(dtype: DType) -> float:
    return 448.0 if dtype is DType.kFloat8E4M3 else 57344.0


@dataclass
class ScalingState:
    """Scales and amaxes of a module's tensors in one direction."""

    scale: torch.Tensor
    amax_history: torch.Tensor


def update_scales(amax: Any, histories: Any, scales: Any, algo: str, dtype: Any, margin: float) -> None:
    """Their update: the amaxes of the step become the newest of the history, and the largest of that the scale."""
    for history, scale in zip(histories, scales, strict=True):
        own, amax = amax[: len(scale)], amax[len(scale) :]
        history.copy_(torch.roll(history, -1, 0))
        history[-1], history[0] = own, 0
        largest = history.amax(0)
        scale.copy_(torch.where(largest > 0, fp8_max(dtype) / 2**margin / largest, scale))
