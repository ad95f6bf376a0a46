"""A stack of MLPs: put your own model and training step here.

Each configuration of study.toml has its own process, which imports this file and calls `build` with its options.
"""

import torch
from torch import nn

from tetrace.study import Mark, Workload

DEVICE = "cpu"  # "cuda" for a GPU, here and in study.toml


class Layer(nn.Module):
    """A residual MLP."""

    def __init__(self, hidden: int, width: int, activation: str) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.up, self.down = nn.Linear(hidden, width * hidden), nn.Linear(width * hidden, hidden)
        self.activation = {"gelu": nn.GELU(), "relu": nn.ReLU()}[activation]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(self.activation(self.up(self.norm(x))))


def build(*, layers: int, hidden: int, width: int, activation: str, batch: int, seq: int) -> Workload:
    """The training step to measure. FLOPs: matrix products of forward and backward, 2·M·N·K each."""
    model = nn.Sequential(*(Layer(hidden, width, activation) for _ in range(layers))).to(DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    inputs = torch.randn(batch, seq, hidden, device=DEVICE)

    def step(mark: Mark) -> torch.Tensor:
        loss = (model(inputs) - inputs).square().mean()
        mark("forward")  # the phase of this name ended here
        loss.backward()
        mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        mark("optimizer")
        return loss  # the tensor: .item() would wait for the GPU in every step

    tokens = batch * seq
    weights = layers * 2 * width * hidden * hidden
    # Forward, gradient of the input, gradient of the weight. The first layer's input asks for no gradient: that product,
    # one of 3 · 2 · layers, is counted all the same.
    return Workload(step=step, tokens=tokens, flops=3 * 2 * tokens * weights, model=model)
