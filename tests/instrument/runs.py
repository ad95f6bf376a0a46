"""Small training runs on the CPU, instrumented in this process, and the ranges that they leave."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

from tetrace import _C  # noqa: E402
from tetrace.instrument import start  # noqa: E402

__all__ = ["Block", "Net", "Row", "checkpoint", "names", "nn", "process_folder", "read", "record", "torch", "train"]


@dataclass(frozen=True)
class Row:
    """One range: `open` is True when it was never closed."""

    kind: str
    phase: str
    name: str
    depth: int
    step: int
    start_ns: int
    end_ns: int
    described: dict[str, Any]


def record(folder: Path, body: Callable[[], object], **options: object) -> list[Row]:
    """The ranges of all threads while `body` runs, thread by thread, in order of their starts."""
    gc.collect()
    folder.mkdir(parents=True, exist_ok=True)
    start.start(folder, options)
    try:
        body()
    finally:
        start.stop()
    return read(folder)


def process_folder(folder: Path) -> Path:
    """The folder of the only process in a recording."""
    (found,) = folder.glob("process-*")
    return found


def read(folder: Path) -> list[Row]:
    """The ranges of the only process in a recording."""
    where = process_folder(folder)
    sites = {site["site"]: site for site in map(json.loads, (where / "sites.jsonl").read_text().splitlines())}
    rows = []
    for ring in sorted(where.glob("ranges-*.bin")):
        table = _C.read_ring(str(ring))
        columns = [table[name].tolist() for name in ("site", "depth", "step", "start_ns", "end_ns")]
        for site, *rest in zip(*columns, strict=True):
            about = sites[site]
            rows.append(Row(about["kind"], about["phase"], about["name"], *rest, about))
    return rows


def names(rows: Iterable[Row], kind: str = "module", phase: str = "") -> list[str]:
    """Names of the ranges of a kind and phase; of equal neighbours only the first."""
    found = [row.name for row in rows if row.kind == kind and (not phase or row.phase == phase)]
    return [name for place, name in enumerate(found) if place == 0 or found[place - 1] != name]


class Block(nn.Module):
    """A residual block with dropout."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Any) -> Any:
        """Adds the block's output to `x`."""
        return x + self.dropout(self.mlp(self.norm(x)))


class Net(nn.Module):
    """Two blocks and a head; `call(layer, x)` calls each block."""

    def __init__(self, call: Callable[[Any, Any], Any] = lambda layer, x: layer(x), width: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(2))
        self.head = nn.Linear(width, width)
        self._call = call

    def forward(self, x: Any) -> Any:
        """The head's output."""
        for layer in self.layers:
            x = self._call(layer, x)
        return self.head(x)


def train(model: Any, steps: int = 3, accumulate: int = 1, optimizer: Any = None) -> list[float]:
    """Losses of `steps` steps on random data."""
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        for _ in range(accumulate):
            loss = model(torch.randn(4, 8)).pow(2).mean()
            loss.backward()
            losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad()
    return losses
