"""Trains small layers for twenty steps with fixed seeds and prints every loss and the weights' digest, bit for bit.

A script of a user, run by test_bit_for_bit.py plain and recorded: it knows nothing of tetrace.
"""

import argparse
import hashlib
import json
import os
import sys

os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "0"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import transformer_engine.pytorch as te
from transformer_engine.common import recipe as recipes

HIDDEN, FFN, HEADS, BATCH, SEQ = 256, 1024, 4, 4, 64


class Block(torch.nn.Module):
    """What torch.compile takes of Transformer Engine: linears, with PyTorch around them."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(HIDDEN, dtype=torch.bfloat16, device="cuda")
        self.up = te.Linear(HIDDEN, FFN, params_dtype=torch.bfloat16)
        self.down = te.Linear(FFN, HIDDEN, params_dtype=torch.bfloat16)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.down(torch.nn.functional.gelu(self.up(self.norm(hidden))))


def layer(number: int) -> torch.nn.Module:
    return te.TransformerLayer(
        HIDDEN, FFN, HEADS, layer_number=number, hidden_dropout=0.1, attention_dropout=0.0,
        self_attn_mask_type="causal", attn_input_format="bshd", params_dtype=torch.bfloat16,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", choices=("none", "delayed", "current", "block"), required=True)
    parser.add_argument("--mode", choices=("eager", "checkpoint", "compile", "graphs"), required=True)
    args = parser.parse_args()
    torch.manual_seed(1)
    recipe = {
        "none": lambda: None,
        "delayed": recipes.DelayedScaling,
        "current": recipes.Float8CurrentScaling,
        "block": recipes.Float8BlockScaling,
    }[args.recipe]()
    enabled = recipe is not None
    layers = torch.nn.ModuleList(Block() if args.mode == "compile" else layer(n + 1) for n in range(2))
    batch = torch.randn(BATCH, SEQ, HIDDEN, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    target = torch.randn_like(batch)
    calls = list(layers)
    if args.mode == "graphs":
        samples = tuple((torch.randn_like(batch, requires_grad=True),) for _ in calls)
        calls = te.make_graphed_callables(tuple(calls), samples, enabled=enabled, recipe=recipe)

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        with te.autocast(enabled=enabled, recipe=recipe):
            for call in calls:
                hidden = te.checkpoint(call, hidden) if args.mode == "checkpoint" else call(hidden)
        return hidden

    if args.mode == "compile":
        forward = torch.compile(forward)
    optimizer = torch.optim.AdamW(layers.parameters(), lr=1e-3)
    losses = []
    for _ in range(20):
        loss = (forward(batch) - target).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    weights = hashlib.sha256()
    for parameter in layers.parameters():
        weights.update(parameter.detach().view(torch.uint8).cpu().numpy().tobytes())
    json.dump({"losses": [float(loss).hex() for loss in losses], "weights": weights.hexdigest()}, sys.stdout)


if __name__ == "__main__":
    main()
