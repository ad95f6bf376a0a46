"""What fused casts show: their codes, or on request what was cast, made again."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from torch import nn

from tests.instrument import standins
from tests.instrument.fp8_runs import frame, quantized, recorded, tuples
from tetrace.fp8 import reference
from tetrace.fp8.formats import E4M3
from tetrace.fp8.whatif import what_if
from tetrace.instrument import fp8_recompute, quantization


@pytest.mark.parametrize("quantizer", [standins.Float8Quantizer, standins.Float8CurrentScalingQuantizer])
def test_a_cast_that_is_fused_shows_its_codes(tmp_path, quantizer):
    """A norm that casts: the tensor before the cast never exists, its bytes are what is seen."""
    codes = torch.tensor([[0x7E, 0xFE, 0x00, 0x38], [0x38, 0x01, 0x7F, 0x80]], dtype=torch.uint8)

    def change(made):
        tex = made["transformer_engine_torch"]

        def layernorm_fwd(x, weight, bias, eps, out, quantizer, *rest):
            storage = types.SimpleNamespace(
                _data=codes, _scale_inv=torch.tensor([0.5]), _fp8_dtype=quantizer.dtype, _quantizer=quantizer
            )
            return storage, None, None

        tex.layernorm_fwd = layernorm_fwd

    made_quantizer = quantizer(standins.DType.kFloat8E4M3)
    if quantizer is standins.Float8Quantizer:
        made_quantizer.scale.fill_(2.0)

    def body(made):
        tex = made["transformer_engine_torch"]

        class Norm(nn.Module):
            def forward(self, x):
                tex.layernorm_fwd(x, None, None, 1e-5, None, made_quantizer)
                return x

        Norm()(torch.randn(2, 4))

    with standins.installed("2.20.2", change) as made:
        trace = recorded(tmp_path, lambda: body(made))
    (row,) = quantized(trace).to_dict("records")
    assert (row["module"], row["role"], row["operation"], row["source"]) == (
        "Norm",
        "input",
        "layernorm_fwd",
        "quantized",
    )
    assert (row["saturated"], row["zeros"], row["nans"], row["subnormal"]) == (2, 2, 1, 1)
    assert (row["amax"], row["scale"]) == (448 * 0.5, 2.0)
    assert np.isnan(row["squared_error"])


class Fusing:
    """A norm and the derivative of an activation that cast in the same call, and what they were called with."""

    def __init__(self, made):
        self.calls, self.storage = [], made["transformer_engine_torch"].storage
        tex = made["transformer_engine_torch"]
        tex.layernorm_fwd, tex.dgelu, tex.dbias_dgelu = self.layernorm_fwd, self.dgelu, self.dbias_dgelu

    def cast(self, tensor, quantizer):
        kind = torch.float8_e4m3fn if quantizer.dtype is standins.DType.kFloat8E4M3 else torch.float8_e5m2
        codes = (tensor.float() * quantizer.scale).clamp(-448, 448).to(kind).view(torch.uint8)
        return types.SimpleNamespace(
            _data=codes, _scale_inv=1 / quantizer.scale, _fp8_dtype=quantizer.dtype, _quantizer=quantizer
        )

    def layernorm_fwd(self, x, weight, bias, eps, out, quantizer, otype, sm_margin=0, *, zero_centered=False):
        self.calls.append(("layernorm_fwd", quantizer is None, out, otype, zero_centered))
        high = torch.nn.functional.layer_norm(x, x.shape[-1:]) * weight
        return (high if quantizer is None else self.cast(high, quantizer)), x.mean(-1), x.var(-1)

    def dgelu(self, grad, x, quantizer):
        self.calls.append(("dgelu", quantizer is None))
        return grad * x if quantizer is None else self.cast(grad * x, quantizer)

    def dbias_dgelu(self, grad, x, quantizer):
        self.calls.append(("dbias_dgelu", quantizer is None))
        return grad.sum(0), self.cast(grad * x, quantizer)


class Fused(nn.Module):
    """Calls both with what it is given."""

    def __init__(self, tex):
        super().__init__()
        self.tex, self.out, self.made = tex, torch.empty(8, 16), []
        self.quantizers = {"scaling_fwd": [standins.Float8Quantizer(standins.DType.kFloat8E4M3)], "scaling_bwd": []}
        self.quantizers["scaling_fwd"][0].scale.fill_(300.0)

    def forward(self, x):
        quantizer = self.quantizers["scaling_fwd"][0]
        self.made.append(self.tex.layernorm_fwd(x, x[0], None, 1e-5, self.out, quantizer, "bf16", zero_centered=True))
        self.made.append(self.tex.dbias_dgelu(x, x + 1, quantizer))
        return x


def test_what_a_fused_call_casts_is_made_again_on_request(tmp_path):
    holder = []

    def change(made):
        holder.append(Fusing(made))

    with standins.installed("2.20.2", change) as made:
        fusing, nets = holder[0], []

        def body():
            torch.manual_seed(1)
            nets.append(Fused(made["transformer_engine_torch"]))
            weight = torch.ones(1, requires_grad=True)
            optimizer = torch.optim.SGD([weight], lr=0.0)
            for _ in range(4):
                (nets[-1](torch.randn(8, 16)).sum() * weight).backward()
                optimizer.step()

        trace = recorded(tmp_path, body, recompute=2, checks=False)
        calls = list(fusing.calls)
        body()
    rows = quantized(trace)
    assert tuples(rows, "step", "operation", "source") == [
        (step, operation, "quantized" if step % 2 else "recomputed")
        for step in range(4)
        for operation in ("layernorm_fwd", "dbias_dgelu")
    ]
    again = [one for one in calls if one[1]]
    assert again == [("layernorm_fwd", True, None, "bf16", True), ("dgelu", True)] * 2
    # What the script's own calls made is what they make without.
    with_it, without = ([one for pair in net.made for one in pair] for net in nets)
    assert len(with_it) == len(without) == 4 * 5
    for one, other in zip(with_it, without, strict=True):
        assert torch.equal(getattr(one, "_data", one), getattr(other, "_data", other))
    torch.manual_seed(1)
    x = torch.randn(8, 16)
    expected, histogram = reference.measure(
        torch.nn.functional.layer_norm(x, x.shape[-1:]) * x[0], E4M3, torch.tensor([300.0])
    )
    row = rows.iloc[0]
    for name in ("saturated", "flushed", "subnormal", "amax", "scale", "squared_error"):
        assert row[name] == expected[name], name
    assert expected["saturated"] > 0
    assert row["shape"] == "8x16"
    bins = frame(trace, "fp8_histograms")
    own = bins[bins["order"] == row["order"]]
    assert own["count"].sum() == histogram.sum()
    found = what_if(trace, margin=1)
    assert {one.role for one in found.rows} == set(rows["role"])
    assert not found.unanswered


def test_what_cannot_be_made_again_shows_its_codes(monkeypatch):
    called = []
    plain = {name: lambda *given: called.append(given) or "made" for name in ("scaled_swiglu", "gelu")}
    monkeypatch.setattr(quantization, "plain_calls", plain)
    assert fp8_recompute.high_precision("scaled_swiglu", 2, (1, 2, 3), None) is None
    assert fp8_recompute.high_precision("gelu", 1, (1,), {"quantizer": 2}) is None
    assert fp8_recompute.high_precision("silu", 1, (1, 2), None) is None
    assert called == []
    assert fp8_recompute.high_precision("gelu", 1, (1, 2), None) == "made"
    assert called == [(1, None)]
