"""Tensors that are hard to count, and how what was counted is compared with the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tetrace.fp8 import recorded, reference, rows

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
EXACT = ("elements", "zeros", "nans", "infs", "saturated", "flushed", "subnormal")
KINDS = (
    *("normal", "zeros", "relu", "nan", "inf", "minus_zero", "subnormal", "equal", "powers", "wide", "heavy", "huge"),
    *("tiny", "bits", "outlier", "edges"),
)
# Of float32 sums of at most 256 elements a thread, before they are added up in float64.
SUM_TOLERANCE = 2.0**-16
# Squares of what a cast loses, of products that were rounded to fp32.
ERROR_TOLERANCE = 2.0**-10


def values(kind: str, size: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """A tensor of a kind, shape (size,)."""
    random = torch.Generator().manual_seed(seed + size)
    normal = torch.randn(size, generator=random)
    uniform = torch.rand(size, generator=random)
    if kind == "bits":
        whole = torch.randint(-(2**31), 2**31 - 1, (size,), generator=random, dtype=torch.int32)
        return whole.view(torch.float32) if dtype == torch.float32 else whole.to(torch.int16).view(dtype)
    made = {
        "normal": lambda: normal,
        "zeros": lambda: torch.zeros(size),
        "relu": lambda: normal.relu(),
        "nan": lambda: torch.where(uniform < 0.01, torch.nan, normal),
        "inf": lambda: torch.where(uniform < 0.01, normal.sign() * torch.inf, normal),
        "minus_zero": lambda: torch.where(uniform < 0.5, -0.0, normal),
        "subnormal": lambda: normal * torch.finfo(dtype).tiny / 4,
        "equal": lambda: torch.full((size,), 1.3),
        "powers": lambda: torch.exp2((uniform * 40 - 30).floor()) * normal.sign(),
        "wide": lambda: torch.exp2(uniform * 70 - 45) * normal.sign(),
        "heavy": lambda: normal / uniform.clamp(1e-6) ** 2,
        "huge": lambda: normal * torch.finfo(dtype).max / 8,
        "tiny": lambda: normal * 1e-30,
        "outlier": lambda: torch.where(uniform < 0.001, 3e4, normal),
        "edges": lambda: torch.exp2((uniform * 30 - 20).floor()) * (1 + (normal.abs() * 4).floor() % 4 / 4),
    }[kind]()
    return made.to(dtype)


def scales(kind: str) -> list[float]:
    """A power of two, current scaling's for a normal tensor, and one that flushes or saturates much."""
    return {"huge": [2.0**-110, 1e-36], "tiny": [2.0**100, 3e31]}.get(kind, [1.0, 98.19, 6000.0, 0.0013])


def counted(counters: Any, tensors: list[tuple[Any, ...]], dtype: int, **call: int) -> tuple[Any, Any]:
    """Rows, and counts of bins by row, of what `counters` (`_C.fp8_inspect` and the like) gives."""
    found, bins = counters(tensors, dtype, **call)
    places = recorded.unpacked(bins)
    counts = np.zeros((len(tensors), reference.BINS), np.int64)
    np.add.at(counts, (places["order"], places["bin"]), places["count"])
    return np.frombuffer(found, rows.ROW), counts


def differences(row: Any, counts: Any, wanted: Any, wanted_counts: Any, absolute_sum: float) -> list[str]:
    """What is not as the reference has it, each with both values."""
    found = [f"{name}: {row[name]}, not {wanted[name]}" for name in EXACT if row[name] != wanted[name]]
    found += [
        f"{name}: {row[name]!r}, not {wanted[name]!r}"
        for name in ("amax", "smallest", "scale", "scale_min", "scale_max")
        if not np.isclose(row[name], wanted[name], rtol=2e-7, atol=0, equal_nan=True)
    ]
    near = {
        "sum": SUM_TOLERANCE * absolute_sum,
        "square_sum": SUM_TOLERANCE * wanted["square_sum"],
        # A value that the format holds exactly may be off by the rounding of its product.
        "squared_error": ERROR_TOLERANCE * wanted["squared_error"] + 2.0**-44 * wanted["square_sum"],
    }
    for name, tolerance in near.items():
        both_unknown = np.isnan(row[name]) and np.isnan(wanted[name])
        if not both_unknown and not abs(row[name] - wanted[name]) <= tolerance:
            found.append(f"{name}: {row[name]!r}, not {wanted[name]!r} by {tolerance:.3g}")
    if counts is not None and (counts != wanted_counts).any():
        place = int(np.flatnonzero(counts != wanted_counts)[0])
        found.append(f"bin {place}: {counts[place]}, not {wanted_counts[place]}")
    return found


def absolute_sum(tensor: torch.Tensor) -> float:
    """Of finite values, which the tolerance of their sum is relative to."""
    single = tensor.float()
    return float(single[single.isfinite()].double().abs().sum())


def code_values(size: int, seed: int = 0, all_codes: bool = True) -> torch.Tensor:
    """FP8 bytes, NaN and Inf among them if `all_codes`."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256 if all_codes else 120, (size,), generator=random, dtype=torch.uint8)


def block_scales(layout: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Inverse scales of a matrix as Transformer Engine lays them out, with garbage where it pads."""
    random = torch.Generator().manual_seed(seed)

    def ceil(number: int, unit: int) -> int:
        return -(-number // unit) * unit

    if layout == reference.MX:
        shape = (ceil(height, 128), ceil(ceil(width, 32) // 32, 4))
        made = torch.randint(110, 140, shape, generator=random, dtype=torch.uint8)
        made[height:], made[:, ceil(width, 32) // 32 :] = 255, 255
        return made
    if layout == reference.ROWS:
        shape, used = (ceil(width, 128) // 128, ceil(height, 4)), (ceil(width, 128) // 128, height)
    else:
        shape = (ceil(height, 128) // 128, ceil(ceil(width, 128) // 128, 4))
        used = (shape[0], ceil(width, 128) // 128)
    exponents = torch.randint(-12, 2, shape, generator=random)
    made = torch.exp2(exponents.float()) * (1 + torch.rand(shape, generator=random))
    made[used[0] :], made[:, used[1] :] = torch.nan, torch.nan
    return made
