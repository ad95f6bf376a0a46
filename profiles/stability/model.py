"""GPT-2, three ways, trained in FP8: te.TransformerLayer, custom attention with te.Linear, and fused modules."""

import pathlib
import sys

import torch
import transformer_engine.pytorch as te
from torch import nn

from tetrace.study import Workload

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import flops
from recipes import fp8_recipe

DEVICE = "cuda"
DTYPE = torch.bfloat16


def transformer_layer(hidden: int, heads: int) -> nn.Module:
    return te.TransformerLayer(
        hidden,
        4 * hidden,
        heads,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        self_attn_mask_type="causal",
        attn_input_format="bshd",
        params_dtype=DTYPE,
    )


class CustomLayer(nn.Module):
    """Attention by hand, between modules of Transformer Engine that are not fused."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = te.LayerNorm(hidden, dtype=DTYPE), te.LayerNorm(hidden, dtype=DTYPE)
        self.qkv = te.Linear(hidden, 3 * hidden, params_dtype=DTYPE)
        self.proj = te.Linear(hidden, hidden, params_dtype=DTYPE)
        self.fc1 = te.Linear(hidden, 4 * hidden, params_dtype=DTYPE)
        self.fc2 = te.Linear(4 * hidden, hidden, params_dtype=DTYPE)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        return self.proj((weights @ value).transpose(1, 2).flatten(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attend(self.attention_norm(x))
        return x + self.fc2(nn.functional.gelu(self.fc1(self.mlp_norm(x)), approximate="tanh"))


class FusedLayer(nn.Module):
    """te.LayerNormLinear, PyTorch's attention, te.Linear and te.LayerNormMLP."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = te.LayerNormLinear(hidden, 3 * hidden, params_dtype=DTYPE)
        self.proj = te.Linear(hidden, hidden, params_dtype=DTYPE)
        self.mlp = te.LayerNormMLP(hidden, 4 * hidden, params_dtype=DTYPE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        context = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.proj(context.transpose(1, 2).flatten(2))
        return x + self.mlp(x)


LAYERS = {"transformer_layer": transformer_layer, "custom": CustomLayer, "fused": FusedLayer}


class Model(nn.Module):
    """Tokens to logits, with learned positions."""

    def __init__(self, kind: str, layers: int, hidden: int, heads: int, vocabulary: int, seq: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, hidden, device=DEVICE, dtype=DTYPE)
        self.positions = nn.Embedding(seq, hidden, device=DEVICE, dtype=DTYPE)
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.layers = nn.Sequential(*(LAYERS[kind](hidden, heads) for _ in range(layers)))
        self.norm = te.LayerNorm(hidden, dtype=DTYPE)
        self.lm_head = te.Linear(hidden, vocabulary, bias=False, params_dtype=DTYPE)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.lm_head(self.norm(self.layers(x)))


def build(
    *,
    model: str,
    recipe: str,
    margin: int,
    vocabulary: int,
    layers: int,
    hidden: int,
    heads: int,
    batch: int,
    seq: int,
    learning_rate: float,
) -> Workload:
    """A training step on random tokens, the same in each step, so that a loss that is well falls. lm_head is in FP8 too.

    FLOPs: of each layer the four linears and the causal attention, and lm_head (profiles/flops.py).
    """
    fp8 = fp8_recipe(recipe, margin=margin)
    trained = Model(model, layers, hidden, heads, vocabulary, seq)
    optimizer = torch.optim.AdamW(trained.parameters(), lr=learning_rate, fused=True)
    data = torch.randint(vocabulary, (batch, seq + 1), device=DEVICE)
    tokens, targets = data[:, :-1], data[:, 1:].flatten()

    def step(mark):
        with te.autocast(enabled=fp8 is not None, recipe=fp8):
            logits = trained(tokens)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets)
        mark("forward")
        loss.backward()
        mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        mark("optimizer")
        return loss

    shapes = [(hidden, 3 * hidden), (hidden, hidden), (hidden, 4 * hidden), (4 * hidden, hidden)]
    of_layer = flops.linears(batch * seq, shapes) + flops.causal_attention(batch, seq, hidden)
    count = layers * of_layer + flops.linears(batch * seq, [(hidden, vocabulary)])
    return Workload(step=step, tokens=batch * seq, flops=count, model=trained)
