"""Stand-ins for what the studies use of Transformer Engine, on the CPU: its names, arguments and shapes, in plain torch.

`tests/gpu/test_live_studies.py` compares the arguments with those of the installed Transformer Engine.
"""

from __future__ import annotations

import contextlib
import enum
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class Format(enum.Enum):
    E4M3, HYBRID = range(2)


@dataclass
class DelayedScaling:
    margin: int = 0
    fp8_format: Format = Format.HYBRID
    amax_history_len: int = 1024
    amax_compute_algo: str = "max"


@dataclass
class Float8CurrentScaling:
    fp8_format: Format = Format.HYBRID


@dataclass
class Float8BlockScaling:
    fp8_format: Format = Format.E4M3


class autocast(contextlib.AbstractContextManager):  # noqa: N801 - theirs
    """Which recipe modules run under; `entered` lists those of all contexts."""

    recipe: Any = None
    entered: list[Any] = []  # noqa: RUF012 - of the class, emptied by `installed`

    def __init__(self, enabled: bool = True, recipe: Any = None) -> None:
        assert enabled == (recipe is not None)
        self.own = recipe

    def __enter__(self) -> None:
        autocast.recipe = self.own
        autocast.entered.append(self.own)

    def __exit__(self, *error: Any) -> None:
        autocast.recipe = None


class LayerNorm(nn.Module):
    root = False

    def __init__(self, normalized_shape: int, eps: float = 1e-5, *, dtype: Any = None) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(normalized_shape, dtype=dtype))
        self.bias = None if self.root else nn.Parameter(torch.zeros(normalized_shape, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.root:
            return functional.rms_norm(x, self.weight.shape, self.weight, self.eps)
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(LayerNorm):
    root = True


class Linear(nn.Module):
    """Checks what an FP8 GEMM asks of dimensions, at the places where Transformer Engine does."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, params_dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype).normal_(std=0.023))
        self.bias = nn.Parameter(torch.zeros(out_features, dtype=params_dtype)) if bias else None

    def forward(self, inp: torch.Tensor, is_first_microbatch: bool | None = None) -> torch.Tensor:
        if autocast.recipe is not None:
            assert inp.shape[-1] % 16 == 0
            assert inp.shape[:-1].numel() % 8 == 0
            if self.weight.shape[0] % 16:
                raise RuntimeError("Leading dimension requirement on A for FP8 GEMM. Caller must pad.")
        return functional.linear(inp, self.weight, self.bias)


class LayerNormLinear(nn.Module):
    def __init__(
        self, in_features: int, out_features: int, normalization: str = "LayerNorm", params_dtype: Any = None
    ) -> None:
        super().__init__()
        self.norm = {"LayerNorm": LayerNorm, "RMSNorm": RMSNorm}[normalization](in_features, dtype=params_dtype)
        self.linear = Linear(in_features, out_features, params_dtype=params_dtype)

    def forward(self, inp: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(inp))


class LayerNormMLP(nn.Module):
    def __init__(
        self, hidden_size: int, ffn_hidden_size: int, normalization: str = "LayerNorm", params_dtype: Any = None
    ) -> None:
        super().__init__()
        self.fc1 = LayerNormLinear(hidden_size, ffn_hidden_size, normalization, params_dtype)
        self.fc2 = Linear(ffn_hidden_size, hidden_size, params_dtype=params_dtype)

    def forward(self, inp: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(inp), approximate="tanh"))


class DotProductAttention(nn.Module):
    """[batch, seq, heads, dim] to [batch, seq, heads · dim]."""

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int,
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
    ) -> None:
        super().__init__()
        assert (qkv_format, attn_mask_type, attention_dropout) == ("bshd", "causal", 0.0)
        self.shapes = (num_attention_heads, kv_channels), (num_gqa_groups or num_attention_heads, kv_channels)

    def forward(self, query_layer: torch.Tensor, key_layer: torch.Tensor, value_layer: torch.Tensor) -> torch.Tensor:
        assert query_layer.shape[2:] == self.shapes[0]
        assert key_layer.shape[2:] == value_layer.shape[2:] == self.shapes[1]
        query, key, value = (x.transpose(1, 2) for x in (query_layer, key_layer, value_layer))
        gqa = self.shapes[0] != self.shapes[1]
        context = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=gqa)
        return context.transpose(1, 2).flatten(2)


class MultiheadAttention(nn.Module):
    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        attention_dropout: float = 0.1,
        attn_mask_type: str = "causal",
        params_dtype: Any = None,
        qkv_format: str = "sbhd",
    ) -> None:
        super().__init__()
        dim = hidden_size // num_attention_heads
        self.dim = dim
        self.qkv = Linear(hidden_size, 3 * hidden_size, params_dtype=params_dtype)
        self.core_attention = DotProductAttention(
            num_attention_heads, dim, None, attention_dropout, qkv_format, attn_mask_type
        )
        self.proj = Linear(hidden_size, hidden_size, params_dtype=params_dtype)

    def forward(self, hidden_states: torch.Tensor, rotary_pos_emb: torch.Tensor | None = None) -> torch.Tensor:
        query, key, value = (x.unflatten(-1, (-1, self.dim)) for x in self.qkv(hidden_states).chunk(3, dim=-1))
        if rotary_pos_emb is not None:
            query, key = (apply_rotary_pos_emb(x, rotary_pos_emb, "bshd", fused=True) for x in (query, key))
        return self.proj(self.core_attention(query, key, value))


class TransformerLayer(nn.Module):
    def __init__(
        self,
        hidden_size: int,
        ffn_hidden_size: int,
        num_attention_heads: int,
        hidden_dropout: float = 0.1,
        attention_dropout: float = 0.1,
        self_attn_mask_type: str = "causal",
        params_dtype: Any = None,
        attn_input_format: str = "sbhd",
    ) -> None:
        super().__init__()
        assert hidden_dropout == 0.0
        self.norm = LayerNorm(hidden_size, dtype=params_dtype)
        self.self_attention = MultiheadAttention(
            *(hidden_size, num_attention_heads, attention_dropout, self_attn_mask_type, params_dtype, attn_input_format)
        )
        self.layernorm_mlp = LayerNormMLP(hidden_size, ffn_hidden_size, params_dtype=params_dtype)

    def forward(self, hidden_states: torch.Tensor, rotary_pos_emb: torch.Tensor | None = None) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attention(self.norm(hidden_states), rotary_pos_emb)
        return hidden_states + self.layernorm_mlp(hidden_states)


class RotaryPositionEmbedding(nn.Module):
    """[seq, 1, 1, dim] angles, each twice."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10000.0 ** (-torch.arange(0, dim, 2) / dim))

    def forward(self, max_seq_len: int) -> torch.Tensor:
        angles = torch.outer(torch.arange(max_seq_len), self.inv_freq)
        return torch.cat((angles, angles), dim=-1)[:, None, None]


def make_graphed_callables(
    modules: tuple[nn.Module, ...], sample_args: tuple[tuple[torch.Tensor, ...], ...], *, enabled: bool, recipe: Any
) -> tuple[nn.Module, ...]:
    """No graphs: each module has run its sample, as theirs has then."""
    for module, sample in zip(modules, sample_args, strict=True):
        with autocast(enabled=enabled, recipe=recipe):
            module(*sample)
    return modules


def apply_rotary_pos_emb(
    t: torch.Tensor, freqs: torch.Tensor, tensor_format: str = "sbhd", *, fused: bool = False
) -> torch.Tensor:
    assert tensor_format == "bshd"
    assert fused
    angles = freqs.transpose(0, 1)
    assert angles.shape[1] >= t.shape[1]
    assert angles.shape[-1] == t.shape[-1]
    angles = angles[:, : t.shape[1]]
    first, second = t.chunk(2, dim=-1)
    return (t * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()).to(t.dtype)


MODULES = {
    "transformer_engine": (),
    "transformer_engine.common": (),
    "transformer_engine.common.recipe": (Format, DelayedScaling, Float8CurrentScaling, Float8BlockScaling),
    "transformer_engine.pytorch": (
        *(autocast, Linear, LayerNorm, RMSNorm, LayerNormLinear, LayerNormMLP),
        *(DotProductAttention, MultiheadAttention, TransformerLayer, RotaryPositionEmbedding, make_graphed_callables),
    ),
    "transformer_engine.pytorch.attention": (),
    "transformer_engine.pytorch.attention.rope": (apply_rotary_pos_emb,),
}


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """The stand-ins importable in this process, in place of any Transformer Engine."""
    made = {name: ModuleType(name) for name in MODULES}
    for name, members in MODULES.items():
        vars(made[name]).update({member.__name__: member for member in members})
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(made[parent], own, made[name])
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    autocast.entered.clear()
    try:
        yield
    finally:
        for name, module in before.items():
            sys.modules.pop(name)
            if module is not None:
                sys.modules[name] = module
