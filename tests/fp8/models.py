"""Stand-ins for Transformer Engine's modules: their names, where they are defined, and their parameters; on the CPU."""

from __future__ import annotations

import torch


class _Linear(torch.nn.Module):
    def __init__(self, in_features: int, out_features: int, **parameters: tuple[int, int]) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for name, shape in (parameters or {"weight": (out_features, in_features)}).items():
            self.register_parameter(name, torch.nn.Parameter(torch.empty(shape, device="meta")))


def _named(name: str, module: str) -> type[_Linear]:
    return type(name, (_Linear,), {"__module__": f"transformer_engine.pytorch.{module}"})


Linear = _named("Linear", "module.linear")
LayerNormLinear = _named("LayerNormLinear", "module.layernorm_linear")
BasicLinear = _named("BasicLinear", "ops.basic.basic_linear")
_LayerNormMLP = _named("LayerNormMLP", "module.layernorm_mlp")
_GroupedLinear = _named("GroupedLinear", "module.grouped_linear")


def operation(in_features: int, out_features: int) -> torch.nn.Module:
    """A te.ops.Linear, which holds a BasicLinear."""
    outer = type("Linear", (torch.nn.Module,), {"__module__": "transformer_engine.pytorch.ops.linear"})()
    outer.basic_ops = torch.nn.ModuleList([BasicLinear(in_features, out_features)])
    return outer


def layer_norm_mlp(hidden: int, ffn: int, gated: bool = False) -> torch.nn.Module:
    """A LayerNormMLP; the activation of a gated one takes two of its columns for one."""
    return _LayerNormMLP(hidden, ffn, fc1_weight=(ffn * (1 + gated), hidden), fc2_weight=(hidden, ffn))


def grouped_linear(groups: int, in_features: int, out_features: int) -> torch.nn.Module:
    """A GroupedLinear."""
    return _GroupedLinear(
        in_features, out_features, **{f"weight{i}": (out_features, in_features) for i in range(groups)}
    )


def language_model(vocabulary: int, head: type[torch.nn.Module] = Linear) -> torch.nn.Module:
    """A layer and a head, as the study's: hidden 768."""
    model = torch.nn.Module()
    model.embedding = torch.nn.Embedding(vocabulary, 768, device="meta")
    model.qkv = LayerNormLinear(768, 2304)
    model.mlp = layer_norm_mlp(768, 3072)
    model.lm_head = head(768, vocabulary) if head is Linear else head(768, vocabulary, device="meta")
    return model
