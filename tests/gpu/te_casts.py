"""Tensors on a GPU, of training too, and Transformer Engine's quantizers for them (TE 2.15 and later)."""

from __future__ import annotations

import torch
import transformer_engine.pytorch as te
import transformer_engine_torch as tex

from tests.fp8 import real_casts
from tests.fp8.real_casts import Cast, Quantized
from tetrace.fp8.formats import FORMATS

HIDDEN, FFN, HEADS, TOKENS, VOCABULARY = 512, 2048, 8, (8, 128), 1024
DTYPES = {"E4M3": tex.DType.kFloat8E4M3, "E5M2": tex.DType.kFloat8E5M2}


def tensors() -> dict[str, torch.Tensor]:
    """Random ones, and those of a small model that trains in bf16."""
    torch.manual_seed(19)
    layer = te.TransformerLayer(
        HIDDEN, FFN, HEADS, hidden_dropout=0.0, attention_dropout=0.0, self_attn_mask_type="causal",
        attn_input_format="bshd", params_dtype=torch.bfloat16,
    )  # fmt: skip
    head = te.Linear(HIDDEN, VOCABULARY, params_dtype=torch.bfloat16)
    hidden = torch.randn(*TOKENS, HIDDEN, dtype=torch.bfloat16, device="cuda")
    return {**real_casts.drawn("cuda", 1024, 2048), **real_casts.of_training(layer, head, hidden)}


def quantize(tensor: torch.Tensor, cast: Cast, scale: float) -> Quantized:
    """By the quantizer that the recipe uses, rows only. Scales are read off what it made, or as it documents them."""
    if cast.recipe == "block":
        return _in_blocks(tensor, cast)
    if cast.recipe == "delayed":
        own = torch.tensor([scale], dtype=torch.float32, device=tensor.device)
        quantizer = te.Float8Quantizer(own, torch.zeros_like(own), DTYPES[cast.format], columnwise=False)
    else:
        quantizer = te.Float8CurrentScalingQuantizer(
            DTYPES[cast.format], tensor.device, columnwise=False, force_pow_2_scales=cast.power_of_two
        )
        own = _current_scale(tensor, cast)
    made = quantizer(tensor)
    torch.testing.assert_close(made._scale_inv.reshape(1), 1 / own, rtol=1e-6, atol=0)
    return Quantized(made._data, made.dequantize(dtype=torch.float32), own)


def _current_scale(tensor: torch.Tensor, cast: Cast) -> torch.Tensor:
    """The largest value over the amax, in fp32, and rounded down to a power of two where that is asked for."""
    amax = tensor.abs().amax().float().reshape(1)
    scale = torch.full_like(amax, FORMATS[cast.format].largest) / amax
    return (scale.view(torch.int32) & -0x800000).view(torch.float32) if cast.power_of_two else scale


def _in_blocks(tensor: torch.Tensor, cast: Cast) -> Quantized:
    quantizer = te.Float8BlockQuantizer(
        DTYPES[cast.format],
        rowwise=True,
        columnwise=False,
        force_pow_2_scales=cast.power_of_two,
        block_scaling_dim=2 if cast.layout == "128x128" else 1,
    )
    made = quantizer(tensor)
    inverse = real_casts.spread(made._rowwise_scale_inv, cast.layout, tensor.shape)
    return Quantized(made._rowwise_data, made.dequantize(dtype=torch.float32), 1 / inverse)
