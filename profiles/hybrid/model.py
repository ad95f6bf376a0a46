"""Llama-1B shapes, four ways: te.TransformerLayer, te.MultiheadAttention with te.LayerNormMLP, and a hybrid of Transformer
Engine's linears with PyTorch's attention by cuDNN, whose tensor operations (or all of it) may be compiled."""

import pathlib
import sys

import torch
import transformer_engine.pytorch as te
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from tetrace.study import Workload

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import flops
from recipes import fp8_recipe

DEVICE = "cuda"
DTYPE = torch.bfloat16


def split_heads(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, ...]:
    """[batch, seq, 3 · hidden] to queries, keys and values, each [batch, heads, seq, dim]."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).contiguous().unbind(0)


def apply_rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class TransformerLayer(nn.Module):
    """What Transformer Engine has for the whole layer."""

    def __init__(self, hidden: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.layer = te.TransformerLayer(
            hidden,
            ffn,
            heads,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            self_attn_mask_type="causal",
            attn_input_format="bshd",
            params_dtype=DTYPE,
        )

    def forward(self, x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        return self.layer(x, rotary_pos_emb=rotary)


class MultiheadAttention(nn.Module):
    """te.MultiheadAttention standing alone, as it is without further arguments: the norm before it is a module too."""

    def __init__(self, hidden: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.norm = te.LayerNorm(hidden, dtype=DTYPE)
        self.attention = te.MultiheadAttention(
            hidden, heads, attention_dropout=0.0, attn_mask_type="causal", qkv_format="bshd", params_dtype=DTYPE
        )
        self.mlp = te.LayerNormMLP(hidden, ffn, params_dtype=DTYPE)

    def forward(self, x: torch.Tensor, rotary: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm(x), rotary_pos_emb=rotary)
        return x + self.mlp(x)


class Hybrid(nn.Module):
    """te.LayerNormLinear, PyTorch's attention by cuDNN, te.Linear, te.LayerNormMLP."""

    def __init__(self, hidden: int, ffn: int, heads: int, compiled: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = te.LayerNormLinear(hidden, 3 * hidden, params_dtype=DTYPE)
        self.proj = te.Linear(hidden, hidden, params_dtype=DTYPE)
        self.mlp = te.LayerNormMLP(hidden, ffn, params_dtype=DTYPE)
        self.split_heads = torch.compile(split_heads) if compiled else split_heads
        self.apply_rope = torch.compile(apply_rope) if compiled else apply_rope

    def forward(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        query, key, value = self.split_heads(self.qkv(x), self.heads)
        query, key = self.apply_rope(query, *rotary), self.apply_rope(key, *rotary)
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            context = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(context.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


class Torch(nn.Module):
    """The same layer without Transformer Engine."""

    def __init__(self, hidden: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, 3 * hidden))
        self.proj = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(
            nn.LayerNorm(hidden), nn.Linear(hidden, ffn), nn.GELU(approximate="tanh"), nn.Linear(ffn, hidden)
        )

    def forward(self, x: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        query, key, value = split_heads(self.qkv(x), self.heads)
        query, key = apply_rope(query, *rotary), apply_rope(key, *rotary)
        context = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(context.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


def make_layer(approach: str, compiled: str, hidden: int, ffn: int, heads: int) -> nn.Module:
    if approach == "transformer_layer":
        return TransformerLayer(hidden, ffn, heads)
    if approach == "multihead_attention":
        return MultiheadAttention(hidden, ffn, heads)
    if approach == "hybrid":
        layer = Hybrid(hidden, ffn, heads, compiled == "tensor operations")
    else:
        layer = Torch(hidden, ffn, heads).to(device=DEVICE, dtype=DTYPE)
    if compiled != "everything":
        return layer
    # Each layer's modules may be compiled for themselves, and again once FP8 is initialized: all of them, not the first 8.
    torch._dynamo.config.recompile_limit = 64
    return torch.compile(layer)


def build(
    *, approach: str, compiled: str, recipe: str, layers: int, hidden: int, ffn: int, heads: int, batch: int, seq: int
) -> Workload:
    """Forward and backward of the stack.

    FLOPs: of each layer the four linears and the causal attention (profiles/flops.py).
    """
    fp8 = fp8_recipe(recipe)
    model = nn.ModuleList(make_layer(approach, compiled, hidden, ffn, heads) for _ in range(layers))
    rotary = te.RotaryPositionEmbedding(hidden // heads)(seq)
    if approach in ("hybrid", "torch"):
        angle = rotary.reshape(seq, hidden // heads)
        rotary = angle.cos().to(DTYPE), angle.sin().to(DTYPE)
    inputs = torch.randn(batch, seq, hidden, dtype=DTYPE, device=DEVICE, requires_grad=True)

    def step(mark):
        x = inputs
        with te.autocast(enabled=fp8 is not None, recipe=fp8):
            for layer in model:
                x = layer(x, rotary)
        loss = x.float().square().mean()
        mark("forward")
        loss.backward()
        mark("backward")
        model.zero_grad()
        inputs.grad = None
        return loss

    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, ffn), (ffn, hidden)]
    of_layer = flops.linears(batch * seq, shapes) + flops.causal_attention(batch, seq, hidden)
    return Workload(step=step, tokens=batch * seq, flops=layers * of_layer, model=model)
