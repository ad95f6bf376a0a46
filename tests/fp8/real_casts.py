"""Tensors that are quantized for real, beside what `tetrace.fp8.what_if` says of them from recorded statistics alone.

What quantizes is given: Transformer Engine's quantizers on a GPU (tests/gpu/test_live_whatif.py, benchmarks/fp8_whatif.py),
plain torch on the CPU (test_real_casts.py). What is measured is read off the codes that it made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from tests.fp8.made import Made
from tetrace import fp8
from tetrace.fp8 import recorded, reference
from tetrace.fp8.formats import FORMATS
from tetrace.fp8.whatif import what_if
from tetrace.fp8.whatif_rows import Row, decibels

LARGEST_CODE = {"E4M3": 0x7E, "E5M2": 0x7B}
LAYOUTS = {"1x128": reference.ROWS, "128x128": reference.SQUARES, "1x32": reference.MX}
MARGINS = range(5)
# What the estimate of SNR is for: values spread within their bins, of which no few are nearly all of the sum of squares.
SPREAD = ("normal", "normal, fp32", "normal, fp16", "heavy tails", "half zeros", "rows apart")
# The amax that delayed scaling had in its history, in amaxes of the tensor: it grew, it is the same, it shrank.
HISTORIES = (0.8, 1.0, 2.0)


@dataclass(frozen=True)
class Cast:
    """A way to quantize. `layout` is that of block-wise scales."""

    recipe: str
    format: str
    margin: int = 0
    power_of_two: bool = False
    layout: str = ""

    def __str__(self) -> str:
        margin = f", margin {self.margin}" if self.recipe == "delayed" else ""
        powers = ", powers of two" if self.power_of_two and self.recipe != "mxfp8" else ""
        return f"{self.recipe} {self.format}{' ' if self.layout else ''}{self.layout}{margin}{powers}"

    def asked(self) -> dict[str, Any]:
        """How `what_if` is asked for it."""
        if self.recipe == "delayed":
            return {"format": self.format, "margin": self.margin}
        powers = {} if self.recipe == "mxfp8" else {"power_of_two": self.power_of_two}
        return {"recipe": self.recipe, "format": self.format, **powers}

    @property
    def role(self) -> str:
        """The role under which a tensor has blocks of this layout."""
        return "weight" if self.layout == "128x128" else "input"


DELAYED = tuple(Cast("delayed", name, margin) for name in FORMATS for margin in MARGINS)
CURRENT = tuple(Cast("current", name, power_of_two=powers) for name in FORMATS for powers in (False, True))
BLOCK = tuple(
    Cast("block", name, power_of_two=powers, layout=layout)
    for name in FORMATS
    for layout in ("1x128", "128x128")
    for powers in (True, False)
)
MXFP8 = tuple(Cast("mxfp8", name, power_of_two=True, layout="1x32") for name in FORMATS)


class Quantized(NamedTuple):
    """What a quantizer made of a tensor: codes as bytes, their values as float32, and what each element was multiplied by."""

    codes: torch.Tensor
    values: torch.Tensor
    scales: torch.Tensor


# (tensor, way, scale of delayed scaling) to what came of it.
Quantize = Callable[[torch.Tensor, Cast, float], Quantized]


class Result(NamedTuple):
    """A tensor that was cast, and the prediction. Shares as in `whatif.Row`."""

    name: str
    cast: Cast
    saturated: float
    flushed: float
    snr_db: float
    row: Row
    kept: float  # elements that are not zero, of all

    @property
    def is_inside(self) -> bool:
        """Whether what was measured is within the bounds."""
        row, slack = self.row, 1e-12
        saturated = row.saturated_lower - slack <= self.saturated <= row.saturated_upper + slack
        return saturated and row.flushed_lower - slack <= self.flushed <= row.flushed_upper + slack

    @property
    def snr_off_db(self) -> float:
        """How far the estimate is from what was measured."""
        return abs(self.row.snr_db - self.snr_db)

    @property
    def width(self) -> float:
        """How far the bounds are apart, in elements of all; the wider ones."""
        flushed = (self.row.flushed_upper - self.row.flushed_lower) * self.kept
        return max(self.row.saturated_upper - self.row.saturated_lower, flushed)


def drawn(device: str, rows: int, columns: int) -> dict[str, torch.Tensor]:
    """Random tensors: of few binades and of many, with long tails, with outliers, with zeros, in three number types."""
    torch.manual_seed(17)

    def normal() -> torch.Tensor:
        return torch.randn(rows, columns, device=device)

    chance = torch.rand(rows, columns, device=device)
    degrees = sum(normal().square() for _ in range(3)) / 3
    made = {
        "normal": normal().bfloat16(),
        "normal, fp32": normal() * 3,
        "normal, fp16": (normal() / 50).half(),
        "heavy tails": (normal() / degrees.sqrt()).bfloat16(),
        "outliers": torch.where(chance < 1e-4, 300 * normal(), normal()).bfloat16(),
        "many binades": (1.5 * normal()).exp().bfloat16() * normal().sign().bfloat16(),
        "half zeros": normal().relu().bfloat16(),
        "rows apart": (normal() * torch.randn(rows, 1, device=device).mul(1.5).exp() / 1000).bfloat16(),
    }
    return {name: tensor.contiguous() for name, tensor in made.items()}


def of_training(body: torch.nn.Module, head: torch.nn.Module, hidden: torch.Tensor, steps: int = 5) -> dict[str, Any]:
    """Tensors of the last of a few training steps on noise: what a body returns and a head makes of it, their gradients, a
    weight and its gradient."""
    torch.manual_seed(18)
    parameters = [*body.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        between = body(hidden)
        between.retain_grad()
        scores = head(between)
        scores.retain_grad()
        flat = scores.float().reshape(-1, scores.shape[-1])
        target = torch.randint(flat.shape[1], (len(flat),), device=flat.device)
        torch.nn.functional.cross_entropy(flat, target).backward()
        optimizer.step()
    weight = max((one for one in body.parameters() if one.dim() == 2), key=torch.Tensor.numel)
    found = {
        "activation": between,
        "gradient of it": between.grad,
        "gradient of the logits": scores.grad,
        "weight": weight,
        "gradient of the weight": weight.grad,
    }
    return {name: one.detach().reshape(-1, one.shape[-1]).contiguous().clone() for name, one in found.items()}


class Recorded:
    """Tensors, the scales that delayed scaling, E4M3, had for them, and the recording of it."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self.tensors = tensors
        self.scales = {name: delayed_scale(tensor, place) for place, (name, tensor) in enumerate(tensors.items())}
        self.trace = record(tensors, self.scales)

    def results(self, cast: Cast, quantize: Quantize) -> list[Result]:
        """Every tensor in a way, measured and predicted."""
        rows = {row.module: row for row in what_if(self.trace, **cast.asked()).rows if row.role == cast.role}
        found = []
        for name, tensor in self.tensors.items():
            moved = np.float32(self.scales[name]) * np.float32(FORMATS[cast.format].largest / 448 / 2**cast.margin)
            made = quantize(tensor, cast, float(moved))
            kept = float((tensor != 0).float().mean(dtype=torch.float64))
            found.append(Result(name, cast, *measured(tensor, cast, made), rows[name], kept))
        return found


def delayed_scale(tensor: torch.Tensor, place: int) -> float:
    """What E4M3 without a margin has of an amax history that is not the tensor's own."""
    amax = np.float32(float(tensor.abs().amax())) * np.float32(HISTORIES[place % len(HISTORIES)])
    return float(np.float32(448) / amax)


def measured(tensor: torch.Tensor, cast: Cast, made: Quantized) -> tuple[float, float, float]:
    """Shares of elements that saturated and, of those that are not zero, that became zero, and the SNR in dB.

    `AssertionError` where an element beyond the largest value is not at it.
    """
    number_format, values = FORMATS[cast.format], tensor.float()
    codes = made.codes.reshape(tensor.shape) & 0x7F
    # The scale of a block that is no power of two may be rounded up, which puts its amax a bit above: no loss.
    largest = number_format.largest * (1 + 2**-21 if cast.layout else 1)
    beyond, nonzero = values.abs() * made.scales > largest, values != 0
    assert bool((codes[beyond] == LARGEST_CODE[cast.format]).all()), f"{cast}: a cast that does not saturate"
    flushed = int((nonzero & (codes == 0)).sum())
    lost = (values.double() - made.values.reshape(tensor.shape).double()).square().sum()
    snr_db = decibels(float(values.double().square().sum()), float(lost))
    return int(beyond.sum()) / tensor.numel(), flushed / max(int(nonzero.sum()), 1), snr_db


def record(tensors: Mapping[str, torch.Tensor], scales: Mapping[str, float]) -> Any:
    """A recording in which each tensor was quantized in delayed scaling, E4M3, as an input and as a weight."""
    made = Made()
    for name, tensor in tensors.items():
        for role in ("input", "weight"):
            order = len(made.tensors)
            seen = fp8.inspect(tensor, "E4M3", scales[name])
            counted = ("elements", "zeros", "saturated", "flushed", "subnormal")
            same = (*counted, "amax", "smallest", "mean_square", "squared_error")
            columns = {one: getattr(seen, one) for one in same}
            made.tensor(0, f"{name}.{role}", np.zeros(1), scale=scales[name], **columns)
            counts = seen.histogram
            made.histograms += [
                {"process": 0, "order": order, "bin": one, "count": int(counts[one])} for one in np.flatnonzero(counts)
            ]
            made.blocks += [
                {"process": 0, "order": order, "layout": layout, "bin": one, "count": int(held[one])}
                for layout, held in block_exponents(tensor).items()
                for one in np.flatnonzero(held)
            ]
    return made.trace()


def block_exponents(tensor: torch.Tensor) -> dict[str, Any]:
    """How many blocks have an amax of each exponent, as a recording counts them."""
    if not tensor.is_cuda:
        return {name: reference.block_exponents(tensor, layout) for name, layout in LAYOUTS.items()}
    from tetrace.instrument.fp8_blocks import Blocks

    taken: list[bytes] = []
    blocks = Blocks(taken.append)
    blocks.observe(tensor, 0)
    blocks.turn()
    blocks.take(wait=True)
    rows = np.frombuffer(b"".join(taken), recorded.BLOCK)
    found = {name: np.zeros(256, np.int64) for name in LAYOUTS}
    for name, layout in LAYOUTS.items():
        mine = rows[rows["layout"] == layout]
        found[name][mine["bin"]] = mine["count"]
    return found


def spread(inverse: torch.Tensor, layout: str, shape: torch.Size) -> torch.Tensor:
    """The inverse scale of each element of a matrix, from those of its blocks as Transformer Engine lays them out."""
    rows, columns = shape
    if layout == "1x128":
        return inverse[:, :rows].T.repeat_interleave(128, 1)[:, :columns]
    tall = inverse.repeat_interleave(128, 0)[:rows]
    return tall.repeat_interleave(128, 1)[:, :columns]


def table(found: Iterable[Result]) -> str:
    """A row a way to quantize, over all tensors, in Markdown."""
    by_cast: dict[Cast, list[Result]] = {}
    for one in found:
        by_cast.setdefault(one.cast, []).append(one)
    lines = [
        "| cast | tensors | inside | saturated, at most | flushed, at most | bounds apart, at most | SNR off, median | most |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cast, mine in by_cast.items():
        off = [one.snr_off_db for one in mine]
        lines.append(
            f"| {cast} | {len(mine)} | {sum(one.is_inside for one in mine)} | {_share(one.saturated for one in mine)} "
            f"| {_share(one.flushed for one in mine)} | {_share(one.width for one in mine)} "
            f"| {np.median(off):.2f} dB | {max(off):.2f} dB |"
        )
    return "\n".join(lines)


def _share(shares: Iterable[float]) -> str:
    return f"{100 * max(shares):.3g}%"
