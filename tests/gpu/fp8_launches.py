"""Every kind of launch of csrc/fp8, for compute-sanitizer to look at; prints how many there were.

compute-sanitizer --tool memcheck python -m tests.gpu.fp8_launches
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import torch

from tests.fp8 import kernel_cases as cases
from tetrace import _C
from tetrace.fp8 import reference

HISTOGRAM, INVERSE = 1, 2
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
CODES = (3, 4)  # numbers of E4M3's and E5M2's bytes
LAYOUTS = (reference.TENSOR, reference.ROWS, reference.SQUARES, reference.MX)
FLAGS = (0, HISTOGRAM)


def launch(tensors: list[tuple[Any, ...]], dtype: int, **call: int) -> int:
    _C.fp8_inspect(0, torch.cuda.current_stream(0).cuda_stream, tensors, dtype, **call)
    return 1


def of_one_scale() -> int:
    """Rows that are dense, apart, and not aligned, with and without a cast; many tensors in one launch."""
    launches, scale = 0, torch.tensor([98.0], device="cuda")
    for (number, dtype), number_format, flags in itertools.product(enumerate(DTYPES), (0, 1, 2), FLAGS):
        given = [cases.values(kind, size, dtype).cuda() for kind in ("wide", "nan") for size in (1, 1003, 70_001)]
        whole = [(one.data_ptr(), 1, one.numel(), one.numel(), -1, scale.data_ptr(), 0) for one in given]
        memory = given[-1]
        apart = (memory.data_ptr() + 3 * memory.element_size(), 50, 1000, 1003, -1, scale.data_ptr(), 0)
        for tensors in (whole, [apart]):
            launches += launch(tensors, number, format=number_format, flags=flags)
    return launches


def of_blocks() -> int:
    """A scale for each block of values or of codes, in a shape that fills no block at its end."""
    launches = 0
    height, width = 133, 304
    for layout, flags, number in itertools.product(LAYOUTS, FLAGS, (0, 1, 2, *CODES)):
        if layout == reference.TENSOR:
            scales = torch.tensor([[0.01]], device="cuda")
        else:
            scales = cases.block_scales(layout, height, width).cuda()
        size = height * width
        given = cases.code_values(size) if number in CODES else cases.values("bits", size, DTYPES[number])
        given = given.cuda()
        one = (given.data_ptr(), height, width, width, -1, scales.data_ptr(), scales.stride(0))
        formats = (0,) if number in CODES else (1, 2)
        for number_format in formats:
            launches += launch([one], number, format=number_format, layout=layout, flags=flags | INVERSE)
    return launches


if __name__ == "__main__":
    sys.stdout.write(f"{of_one_scale() + of_blocks()}\n")
