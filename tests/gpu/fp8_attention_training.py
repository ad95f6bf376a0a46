"""Trains small models whose attention runs in FP8 for ten steps with fixed seeds, plants an Inf in V if told to, and prints every
loss and the weights' digest, bit for bit. A script of a user, run by test_live_fp8_attention.py: of tetrace it knows
`tetrace.watch` alone, and that only with --watch.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys

# cuDNN before 9.19 has no deterministic FP8 attention, and Transformer Engine then refuses it. With one block of keys, as
# here, nothing is added up in an order that changes.
os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] = "1"
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
import transformer_engine.pytorch as te
from transformer_engine.common import recipe as recipes

# What cuDNN's FP8 attention takes on Hopper: 128 per head, sequences of multiples of 128, as many heads of K and V as of Q.
HIDDEN, FFN, HEADS, BATCH, SEQ, LAYERS, STEPS = 256, 512, 2, 4, 128, 3, 10
BF16 = torch.bfloat16


class Layer(te.TransformerLayer):
    def __init__(self, number: int) -> None:
        super().__init__(
            HIDDEN, FFN, HEADS, layer_number=number, hidden_dropout=0.0, attention_dropout=0.0, fuse_qkv_params=True,
            self_attn_mask_type="causal", attn_input_format="bshd", params_dtype=BF16,
        )  # fmt: skip

    @property
    def core(self) -> torch.nn.Module:
        return self.self_attention.core_attention


class Attention(torch.nn.Module):
    """MultiheadAttention alone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.self_attention = te.MultiheadAttention(
            HIDDEN, HEADS, attention_dropout=0.0, attn_mask_type="causal", qkv_format="bshd", layer_number=number,
            fuse_qkv_params=True, params_dtype=BF16,
        )  # fmt: skip

    @property
    def core(self) -> torch.nn.Module:
        return self.self_attention.core_attention

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.self_attention(hidden)


class Product(torch.nn.Module):
    """DotProductAttention alone, between linears of the script's own: Q, K and V are three tensors."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.proj = (te.Linear(HIDDEN, HIDDEN, params_dtype=BF16) for _ in range(4))
        self.core = te.DotProductAttention(
            HEADS,
            HIDDEN // HEADS,
            attention_dropout=0.0,
            attn_mask_type="causal",
            qkv_format="bshd",
            layer_number=number,
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        shape = (*hidden.shape[:2], HEADS, HIDDEN // HEADS)
        read = (one(hidden).view(shape) for one in (self.query, self.key, self.value))
        return hidden + self.proj(self.core(*read))


class Model(torch.nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        made = {"layer": Layer, "attention": Attention, "product": Product}[kind]
        self.layers = torch.nn.ModuleList(made(number + 1) for number in range(LAYERS))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


def break_v(_module, given, named):
    """An Inf in V, which is a tensor of its own or a part of Q, K and V in one."""
    packed = named.get("qkv_layer")
    changed = (given[2] if packed is None else packed).clone()
    v = changed if packed is None else changed.select(named["qkv_interleave_dim"], 2)
    v[0, 3, 0, 5] = float("inf")
    if packed is None:
        return (*given[:2], changed, *given[3:]), named
    return given, {**named, "qkv_layer": changed}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("layer", "attention", "product"), required=True)
    parser.add_argument("--recipe", choices=("delayed", "current"), default="delayed")
    parser.add_argument("--mha", action="store_true")
    parser.add_argument("--fault", choices=("inf",), default="")
    parser.add_argument("--watch", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    asked = {"fp8_dpa": True, "fp8_mha": args.mha}
    recipe = (
        recipes.DelayedScaling(amax_history_len=16, **asked)
        if args.recipe == "delayed"
        else recipes.Float8CurrentScaling(**asked)
    )
    model = Model(args.model)
    batch = torch.randn(BATCH, SEQ, HIDDEN, dtype=BF16, device="cuda")
    target = torch.randn_like(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses, printed, watch = [], {}, contextlib.nullcontext()
    if args.watch:
        import tetrace

        watch = tetrace.watch(model)
    with watch as watched:
        for step in range(STEPS):
            if args.fault and step == 7:
                model.layers[2].core.register_forward_pre_hook(break_v, with_kwargs=True)
            with te.autocast(enabled=True, recipe=recipe):
                loss = (model(batch) - target).float().square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    weights = hashlib.sha256()
    for parameter in model.parameters():
        weights.update(parameter.detach().view(torch.uint8).cpu().numpy().tobytes())
    if args.watch:
        rows = watched.table()
        names = ["module", "role", "phase", "operation", "source"]
        printed["watched"] = sorted(
            map(list, rows[rows["source"] != "check"][names].itertuples(index=False, name=None))
        )
    printed |= {"losses": [float(loss).hex() for loss in losses], "weights": weights.hexdigest()}
    json.dump(printed, sys.stdout)


if __name__ == "__main__":
    main()
