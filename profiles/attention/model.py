"""GPT-2's decoder block: by hand in PyTorch, or te.TransformerLayer, whose attention backend the environment chooses."""

import contextlib
import pathlib
import sys
from importlib.metadata import PackageNotFoundError, version

import torch
import transformer_engine.pytorch as te
from torch import nn

from tetrace.study import Workload

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import flops
from recipes import fp8_recipe

DEVICE = "cuda"
DTYPE = torch.bfloat16


class Block(nn.Module):
    """GPT-2's block with every operation by hand: norm, projections, scores, mask, softmax, context, MLP."""

    def __init__(self, hidden: int, ffn: int, heads: int, seq: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.fc1, self.fc2 = nn.Linear(hidden, ffn), nn.Linear(ffn, hidden)
        future = torch.ones(seq, seq, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        weights = torch.softmax(scores.masked_fill(self.future, float("-inf")), dim=-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.norm_1(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.norm_2(x)), approximate="tanh"))


def make_block(implementation: str, hidden: int, ffn: int, heads: int, seq: int) -> nn.Module:
    if implementation == "vanilla":
        return Block(hidden, ffn, heads, seq).to(device=DEVICE, dtype=DTYPE)
    # No dropout: the block by hand has none, and FlashAttention 3 and 4 refuse it.
    return te.TransformerLayer(
        hidden,
        ffn,
        heads,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        self_attn_mask_type="causal",
        attn_input_format="bshd",
        params_dtype=DTYPE,
    )


def installed_flash_attention() -> str:
    """Each FlashAttention that is installed; Transformer Engine takes the newest that can do a layer."""
    found = []
    for package in ("flash-attn", "flash-attn-3", "flash-attn-4"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found) or "none"


def build(*, implementation: str, recipe: str, hidden: int, ffn: int, heads: int, batch: int, seq: int) -> Workload:
    """Forward and backward of one block.

    FLOPs: the four linears and the causal attention (profiles/flops.py); the block by hand computes what the mask hides
    as well, which is not counted.
    """
    fp8 = fp8_recipe(recipe)
    block = make_block(implementation, hidden, ffn, heads, seq)
    # A gradient of the input is asked for, as by the block before it.
    inputs = torch.randn(batch, seq, hidden, dtype=DTYPE, device=DEVICE, requires_grad=True)

    def step(mark):
        with te.autocast(enabled=fp8 is not None, recipe=fp8):
            output = block(inputs)
        loss = output.float().square().mean()
        mark("forward")
        loss.backward()
        mark("backward")
        block.zero_grad()
        inputs.grad = None
        return loss

    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, ffn), (ffn, hidden)]
    count = flops.linears(batch * seq, shapes) + flops.causal_attention(batch, seq, hidden)
    facts = {"FlashAttention installed": installed_flash_attention()}
    return Workload(step=step, tokens=batch * seq, flops=count, model=block, facts=facts)
