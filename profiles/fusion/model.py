"""A stack of transformer layers from Transformer Engine's parts: unfused (LayerNorm, Linear) or fused (LayerNormLinear,
LayerNormMLP)."""

import pathlib
import sys

import torch
import transformer_engine.pytorch as te
from torch import nn
from transformer_engine.pytorch.attention.rope import apply_rotary_pos_emb

from tetrace.study import Workload

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import flops
from recipes import fp8_recipe

DEVICE = "cuda"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class UnfusedMLP(nn.Module):
    """What te.LayerNormMLP computes, each operation by itself."""

    def __init__(self, hidden: int, ffn: int, norm: type[nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = norm(hidden, dtype=dtype)
        self.fc1 = te.Linear(hidden, ffn, params_dtype=dtype)
        self.fc2 = te.Linear(ffn, hidden, params_dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(self.norm(x)), approximate="tanh"))


class Layer(nn.Module):
    """Pre-norm causal self-attention and a GELU MLP."""

    def __init__(
        self,
        hidden: int,
        ffn: int,
        heads: int,
        kv_heads: int,
        modules: str,
        normalization: str,
        qk_norm: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.head_dim = hidden // heads
        self.sizes = [heads * self.head_dim, kv_heads * self.head_dim, kv_heads * self.head_dim]
        norm = {"LayerNorm": te.LayerNorm, "RMSNorm": te.RMSNorm}[normalization]
        if modules == "fused":
            self.qkv = te.LayerNormLinear(hidden, sum(self.sizes), normalization=normalization, params_dtype=dtype)
            self.mlp = te.LayerNormMLP(hidden, ffn, normalization=normalization, params_dtype=dtype)
        else:
            self.qkv = nn.Sequential(norm(hidden, dtype=dtype), te.Linear(hidden, sum(self.sizes), params_dtype=dtype))
            self.mlp = UnfusedMLP(hidden, ffn, norm, dtype)
        self.q_norm = te.RMSNorm(self.head_dim, dtype=dtype) if qk_norm else None
        self.k_norm = te.RMSNorm(self.head_dim, dtype=dtype) if qk_norm else None
        self.attention = te.DotProductAttention(
            heads, self.head_dim, num_gqa_groups=kv_heads, qkv_format="bshd", attn_mask_type="causal"
        )
        self.proj = te.Linear(hidden, hidden, params_dtype=dtype)

    def forward(self, x: torch.Tensor, rotary: torch.Tensor | None = None) -> torch.Tensor:
        parts = self.qkv(x).split(self.sizes, dim=-1)
        query, key, value = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        if rotary is not None:
            query = apply_rotary_pos_emb(query, rotary, tensor_format="bshd", fused=True)
            key = apply_rotary_pos_emb(key, rotary, tensor_format="bshd", fused=True)
        if self.q_norm is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        x = x + self.proj(self.attention(query, key, value))
        return x + self.mlp(x)


def build(
    *,
    modules: str,
    recipe: str,
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    kv_heads: int,
    batch: int,
    seq: int,
    normalization: str,
    qk_norm: bool,
    rope: bool,
    dtype: str,
    graphs: bool,
) -> Workload:
    """Forward and backward of the stack; nothing is updated, as in the note. `graphs`: each layer in CUDA graphs.

    FLOPs: of each layer the four linears and the causal attention (profiles/flops.py).
    """
    fp8 = fp8_recipe(recipe)
    sizes = (hidden, ffn, heads, kv_heads)
    model = nn.ModuleList(Layer(*sizes, modules, normalization, qk_norm, DTYPES[dtype]) for _ in range(layers))
    rotary = te.RotaryPositionEmbedding(hidden // heads)(seq) if rope else None
    # Inside of a larger model the first layer gives a gradient to what is before it.
    inputs = torch.randn(batch, seq, hidden, dtype=DTYPES[dtype], device=DEVICE, requires_grad=True)

    if graphs:  # in place of each layer's forward; rotary frequencies are no input of theirs
        samples = tuple((torch.randn_like(inputs, requires_grad=True),) for _ in model)
        te.make_graphed_callables(tuple(model), samples, enabled=fp8 is not None, recipe=fp8)

    def step(mark):
        x = inputs
        with te.autocast(enabled=fp8 is not None, recipe=fp8):
            for layer in model:
                x = layer(x) if rotary is None else layer(x, rotary)
        loss = x.float().square().mean()
        mark("forward")
        loss.backward()
        mark("backward")
        model.zero_grad()
        inputs.grad = None
        return loss

    qkv = (heads + 2 * kv_heads) * (hidden // heads)
    linears = flops.linears(batch * seq, [(hidden, qkv), (hidden, hidden), (hidden, ffn), (ffn, hidden)])
    attention = flops.causal_attention(batch, seq, hidden)
    return Workload(step=step, tokens=batch * seq, flops=layers * (linears + attention), model=model)
