"""Operations of te.ops, and what fuses them."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.instrument.standins.compiled import general_gemm
from tests.instrument.standins.recipes import DType, Float8Quantizer


def operation_classes(tex: ModuleType, manager: Any) -> dict[str, type]:
    """te.ops: the fuser runs the operations, and modules are never called."""

    class FusibleOperation(nn.Module):
        def fuser_forward(self, x: torch.Tensor) -> torch.Tensor:
            raise NotImplementedError

    class BasicOperation(FusibleOperation):
        _quantizers: Any = None

        def fuser_forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.op_forward(x)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fuser_forward(x)

    class BasicLinear(BasicOperation):
        def __init__(self, features: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.eye(features))

        def op_forward(self, x: torch.Tensor) -> torch.Tensor:
            # With delayed scaling they are new in each forward.
            made = [Float8Quantizer(DType.kFloat8E4M3) for _ in range(2)]
            self._quantizers = {"forward": made, "backward": [Float8Quantizer(DType.kFloat8E5M2)]}
            return general_gemm(tex, tex.quantize(self.weight, made[1]), tex.quantize(x, made[0]))

    class Sequential(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for operation in self:
                x = operation.fuser_forward(x)
            return x

    return {one.__name__: one for one in (FusibleOperation, BasicOperation, BasicLinear, Sequential)}
