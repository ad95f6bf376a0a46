"""Rows of tensors that are on no device, and the files that rows go into."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np

from tetrace import _C
from tetrace.fp8 import formats, recorded, reference, rows
from tetrace.instrument import fp8_operands
from tetrace.instrument.fp8_operands import Operand

_BLOCKS = (reference.ROWS, reference.SQUARES, reference.MX)


class Observer:
    """Makes rows on the host, in the order of calls."""

    def __init__(self, histogram: bool, blocks: bool, every: int = 1) -> None:
        self._histogram, self._blocks, self._every = histogram, blocks, every
        self._rows: list[bytes] = []
        self._bins: list[bytes] = []
        self._of_blocks: list[bytes] = []

    def observe(self, operand: Operand, site: int, step: int, check: bool = False) -> None:
        """Looks at a tensor now; with `check`, only at what is not finite and the like."""
        looked_at = operand.tensor if check else self._sample(operand)
        row, counts = _measured(operand._replace(tensor=looked_at))
        order = _C.watch_order()
        if looked_at.numel() < operand.tensor.numel():
            row["whole"] = operand.tensor.numel()
            row["flags"] |= rows.SAMPLED
        row["order"], row["site"], row["step"] = order, site, step
        row["flags"] &= ~np.uint32(rows.HISTOGRAM)
        whole = not check and not operand.codes
        if self._histogram and whole:
            row["flags"] |= rows.HISTOGRAM
            self._bins.append(recorded.packed(order, counts))
        if self._blocks and whole and operand.tensor.dim() > 1 and operand.tensor.numel():
            exponents = {layout: reference.block_exponents(operand.tensor, layout) for layout in _BLOCKS}
            self._of_blocks += [_blocks(order, one, exponents[one]) for one in _BLOCKS]
        self._rows.append(row.tobytes())

    def _sample(self, operand: Operand) -> Any:
        """The rows that a device would look at."""
        tensor, columns = operand.tensor, fp8_operands.width(operand.tensor)
        if self._every == 1 or operand.layout != fp8_operands.TENSOR or not columns or not tensor.numel():
            return tensor
        height = tensor.numel() // columns
        is_whole = _C.fp8_rows_of_sample(height, columns, self._every) == height
        return tensor if is_whole else tensor.reshape(height, columns)[:: self._every]

    def take(self) -> tuple[bytes, bytes, bytes]:
        """Rows, counts of bins and of blocks since the last time."""
        taken = b"".join(self._rows), b"".join(self._bins), b"".join(self._of_blocks)
        for held in (self._rows, self._bins, self._of_blocks):
            held.clear()
        return taken


def _measured(operand: Operand) -> tuple[Any, Any]:
    """The row and the histogram of a tensor."""
    number_format = formats.FORMATS.get(operand.format)
    tensor = operand.tensor.detach()
    tensor = tensor.reshape(-1, tensor.shape[-1]) if operand.columns else tensor.reshape(-1)
    if operand.codes and number_format is not None:
        return reference.measure_codes(tensor, number_format, operand.scales, operand.layout)
    if number_format is None or operand.scales is None:
        return reference.measure(tensor)
    scales = operand.scales
    if operand.layout == fp8_operands.TENSOR and operand.is_inverse:
        scales = 1 / scales
    return reference.measure(tensor, number_format, scales, operand.layout)


def _blocks(order: int, layout: int, counts: Any) -> bytes:
    """Places of `counts` that are not zero, with their counts, as rows of `recorded.BLOCK`."""
    places = np.flatnonzero(counts)
    found = np.zeros(len(places), recorded.BLOCK)
    found["order"], found["layout"], found["bin"], found["count"] = order, layout, places, counts[places]
    return found.tobytes()


class Appending:
    """A file without a buffer, so that a killed process leaves what it wrote; a full disk is no error."""

    def __init__(self, path: Path, header: bytes) -> None:
        self._file = io.FileIO(path, "w")
        self.append(header)

    def append(self, data: bytes) -> None:
        """Writes at the end."""
        with contextlib.suppress(OSError, ValueError):
            self._file.write(data)

    def close(self) -> None:
        """Ends it."""
        self._file.close()
