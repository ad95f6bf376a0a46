"""Trains small Transformer Engine layers for ten steps with fixed seeds, plants a fault if told to, and prints every loss
and the weights' digest, bit for bit. A script of a user, run by test_live_fp8.py: it knows nothing of tetrace.
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

HIDDEN, FFN, HEADS, BATCH, SEQ, LAYERS, STEPS = 256, 1024, 4, 4, 64, 4, 10
RECIPES = {
    "none": lambda: None,
    "delayed": lambda: recipes.DelayedScaling(amax_history_len=16),
    "current": recipes.Float8CurrentScaling,
    "block": recipes.Float8BlockScaling,
}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            te.TransformerLayer(
                HIDDEN, FFN, HEADS, layer_number=n + 1, hidden_dropout=0.0, attention_dropout=0.0,
                self_attn_mask_type="causal", attn_input_format="bshd", params_dtype=torch.bfloat16,
            )
            for n in range(LAYERS)
        )  # fmt: skip

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def plant(fault: str, model: Model, step: int) -> None:
    """What goes wrong: an Inf in what layer 2 is given at step 7, a scale that is 1 again, a weight a million times as large."""
    layer = model.layers[2]
    if fault == "inf" and step == 7:

        def break_it(_module, given):
            changed = given[0].clone()
            changed.view(-1)[5] = float("inf")
            return (changed, *given[1:])

        layer.register_forward_pre_hook(break_it)
    if fault == "scale" and step == 7:
        layer.layernorm_mlp.fp8_meta["scaling_fwd"].scale.fill_(1.0)
    if fault == "weight" and step == 5:
        with torch.no_grad():
            layer.layernorm_mlp.fc2_weight.mul_(1e6)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--fault", choices=("inf", "scale", "weight"), default="")
    args = parser.parse_args()
    torch.manual_seed(1)
    recipe, model = RECIPES[args.recipe](), Model()
    batch = torch.randn(BATCH, SEQ, HIDDEN, dtype=torch.bfloat16, device="cuda")
    target = torch.randn_like(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(STEPS):
        plant(args.fault, model, step)
        with te.autocast(enabled=recipe is not None, recipe=recipe):
            loss = (model(batch) - target).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    weights = hashlib.sha256()
    for parameter in model.parameters():
        weights.update(parameter.detach().view(torch.uint8).cpu().numpy().tobytes())
    json.dump({"losses": [float(loss).hex() for loss in losses], "weights": weights.hexdigest()}, sys.stdout)


if __name__ == "__main__":
    main()
