"""A language model with gated attention, SwiGLU and RMSNorm, in which every linear layer is te.Linear, lm_head too."""

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
DTYPE = torch.bfloat16


def make_norm(norm: str, hidden: int) -> nn.Module:
    if norm == "te":
        return te.RMSNorm(hidden, dtype=DTYPE)
    return nn.RMSNorm(hidden, eps=1e-5, device=DEVICE, dtype=DTYPE)


def linear(features: int, out: int) -> te.Linear:
    return te.Linear(features, out, bias=False, params_dtype=DTYPE)


class Layer(nn.Module):
    """Causal self-attention whose output is gated by its input, and a SwiGLU MLP.

    `first` says whether this is the first micro-batch of a step, so that FP8 weights are cast once a step; None: in
    each.
    """

    def __init__(self, hidden: int, ffn: int, heads: int, norm: str) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = make_norm(norm, hidden), make_norm(norm, hidden)
        self.qkv_proj, self.attention_gate = linear(hidden, 3 * hidden), linear(hidden, hidden)
        self.attention = te.DotProductAttention(heads, hidden // heads, qkv_format="bshd", attn_mask_type="causal")
        self.out_proj = linear(hidden, hidden)
        self.gate_proj, self.up_proj, self.down_proj = linear(hidden, ffn), linear(hidden, ffn), linear(ffn, hidden)

    def attend(self, x: torch.Tensor, rotary: torch.Tensor, first: bool | None) -> torch.Tensor:
        qkv = self.qkv_proj(x, is_first_microbatch=first).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.unbind(2)
        query = apply_rotary_pos_emb(query, rotary, tensor_format="bshd", fused=True)
        key = apply_rotary_pos_emb(key, rotary, tensor_format="bshd", fused=True)
        context = self.attention(query, key, value)
        gate = torch.sigmoid(self.attention_gate(x, is_first_microbatch=first))
        return self.out_proj(context * gate, is_first_microbatch=first)

    def feed(self, x: torch.Tensor, first: bool | None) -> torch.Tensor:
        gate = nn.functional.silu(self.gate_proj(x, is_first_microbatch=first))
        return self.down_proj(gate * self.up_proj(x, is_first_microbatch=first), is_first_microbatch=first)

    def forward(self, x: torch.Tensor, rotary: torch.Tensor, first: bool | None) -> torch.Tensor:
        x = x + self.attend(self.attention_norm(x), rotary, first)
        return x + self.feed(self.mlp_norm(x), first)


class Model(nn.Module):
    """Tokens to logits."""

    def __init__(self, layers: int, hidden: int, ffn: int, heads: int, vocabulary: int, seq: int, norm: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, hidden, device=DEVICE, dtype=DTYPE)
        self.layers = nn.ModuleList(Layer(hidden, ffn, heads, norm) for _ in range(layers))
        self.norm = make_norm(norm, hidden)
        self.lm_head = linear(hidden, vocabulary)
        self.rotary = te.RotaryPositionEmbedding(hidden // heads)(seq)

    def forward(self, tokens: torch.Tensor, first: bool | None) -> torch.Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x, self.rotary, first)
        return self.lm_head(self.norm(x), is_first_microbatch=first)


def build(
    *,
    recipe: str,
    norm: str,
    layers: int,
    hidden: int,
    ffn: int,
    heads: int,
    vocabulary: int,
    batch: int,
    seq: int,
    accumulate: int,
    cache_weights: bool,
    learning_rate: float,
) -> Workload:
    """A training step on random tokens, the same in each step: `batch` sequences in `accumulate` micro-batches.

    FLOPs: of each layer six linears and the causal attention, and lm_head
    (profiles/flops.py).
    """
    if batch % accumulate:
        raise ValueError(
            f"batch = {batch} is no multiple of accumulate = {accumulate}: some sequences would be left out"
        )
    fp8 = fp8_recipe(recipe, amax_history_len=1024, amax_compute_algo="most_recent")
    model = Model(layers, hidden, ffn, heads, vocabulary, seq, norm)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)
    data = torch.randint(vocabulary, (accumulate, batch // accumulate, seq + 1), device=DEVICE)

    def step(mark):
        total = torch.zeros((), device=DEVICE)
        for index, tokens in enumerate(data):
            with te.autocast(enabled=fp8 is not None, recipe=fp8):
                logits = model(tokens[:, :-1], index == 0 if cache_weights else None)
            loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), tokens[:, 1:].flatten()) / accumulate
            total += loss.detach()
            mark("forward")
            loss.backward()
            mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        mark("optimizer")
        return total

    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, hidden), (hidden, ffn), (hidden, ffn), (ffn, hidden)]
    of_layer = flops.linears(batch * seq, shapes) + flops.causal_attention(batch, seq, hidden)
    count = layers * of_layer + flops.linears(batch * seq, [(hidden, vocabulary)])
    return Workload(step=step, tokens=batch * seq, flops=count, model=model)
