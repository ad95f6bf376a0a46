"""Trains a stack of large layers, bound by the GPU, with `tetrace.timer` around; its history goes to the file named.

A script of a user, run by test_live_timing.py under a collector: both measure the same steps.
"""

import argparse

import torch
from torch import nn

import tetrace


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(nn.functional.gelu(self.up(self.norm(hidden))))


class Model(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(width) for _ in range(3))
        self.head = nn.Linear(width, width)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return self.head(hidden)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--history", required=True)
    parser.add_argument("--steps", type=int, default=12)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = Model(4096).to("cuda", torch.bfloat16)
    batch = torch.randn(16384, 4096, dtype=torch.bfloat16, device="cuda")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, foreach=True)
    with tetrace.timer(model, every=1, history=args.history):
        for _ in range(args.steps):
            model(batch).float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    main()
