"""Largest magnitudes of blocks, with `--fp8-blocks`: how many blocks of a tensor on a device have which exponent.

Made with a few of torch's own kernels a tensor, which is dear: what this is for, what-if of block recipes, needs few steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from tetrace.fp8 import recorded

# Layouts as tetrace/fp8/recorded.py numbers them, with their (rows, columns).
_LAYOUTS = {1: (1, 128), 2: (128, 128), 3: (1, 32)}
_EXPONENTS = 256
_ELEMENTS_AT_ONCE = 1 << 28

_cuda: Any = torch.cuda


class _Copy(NamedTuple):
    orders: list[int]
    values: Any
    ready: Any


class Blocks:
    """Counts on the device, and copies of them on their way to the host."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        # By stream, on which they are read as well: what was launched there before need not be waited for.
        self._counted: dict[Any, list[tuple[int, torch.Tensor]]] = {}
        self._waiting: list[_Copy] = []

    def observe(self, tensor: torch.Tensor, order: int) -> None:
        """Counts the blocks of a tensor, taken as the matrix of its last dimension, on its current stream."""
        if order < 0 or tensor.dim() < 2 or not tensor.numel():
            return
        matrix = tensor.detach().reshape(-1, tensor.shape[-1])
        counts = torch.stack([_count(matrix, *shape) for shape in _LAYOUTS.values()])
        self._counted.setdefault(_cuda.current_stream(tensor.device), []).append((order, counts))

    def turn(self) -> None:
        """Begins the copy of what was counted, and hands on what has come."""
        for stream, counted in self._counted.items():
            with _cuda.stream(stream):
                values = torch.stack([counts for _, counts in counted])
                host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
                host.copy_(values, non_blocking=True)
                ready = _cuda.Event()
                ready.record()
                self._waiting.append(_Copy([order for order, _ in counted], host, ready))
        self._counted.clear()
        self.take()

    def take(self, wait: bool = False) -> None:
        """Hands on what has come; with `wait`, all of it."""
        while self._waiting and (wait or self._waiting[0].ready.query()):
            done = self._waiting.pop(0)
            if wait:
                done.ready.synchronize()
            self._take(b"".join(_rows(done)))


def _count(matrix: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Blocks by exponent of their amax, int32 of shape (256,); what is not finite counts as 0."""
    counts = torch.zeros(_EXPONENTS, dtype=torch.int64, device=matrix.device)
    # So many rows at once that the copies in fp32 stay small beside the model.
    rows = max(_ELEMENTS_AT_ONCE // max(matrix.shape[1], 1) // height * height, height)
    for part in torch.split(matrix, rows):
        magnitudes = part.float().nan_to_num(0.0, 0.0, 0.0).abs()
        padding = (0, -part.shape[1] % width, 0, -part.shape[0] % height)
        padded = torch.nn.functional.pad(magnitudes, padding) if any(padding) else magnitudes
        blocks = padded.view(padded.shape[0] // height, height, padded.shape[1] // width, width)
        exponents = (blocks.amax((1, 3)).contiguous().view(torch.int32) >> 23).long().flatten()
        counts.scatter_add_(0, exponents, torch.ones_like(exponents))
    return counts.int()


def _rows(copy: _Copy) -> Iterator[bytes]:
    values = copy.values.numpy()
    for order, by_layout in zip(copy.orders, values, strict=True):
        for layout, counts in zip(_LAYOUTS, by_layout, strict=True):
            places = np.flatnonzero(counts)
            found = np.zeros(len(places), recorded.BLOCK)
            found["order"], found["layout"], found["bin"], found["count"] = order, layout, places, counts[places]
            yield found.tobytes()
