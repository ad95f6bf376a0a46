"""What is recorded where attention runs in FP8, and where GEMMs write FP8 for it: on stand-ins with Transformer Engine's order
of calls, its places of quantizers, and its backends as children of the module that has the quantizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.instrument import standins
from tests.instrument.fp8_runs import frame, quantized, recorded, tuples
from tetrace.errors import UsageError
from tetrace.fp8 import find_nonfinite, tensor_history
from tetrace.instrument import quantizers

PREFIX = "transformer_engine.pytorch"
ATTENTION = f"{PREFIX}.attention.dot_product_attention"
CODES = {"kFloat8E4M3": torch.float8_e4m3fn, "kFloat8E5M2": torch.float8_e5m2}
QKV, OUT, S, DQKV, DO, DP = 2, 3, 8, 0, 3, 5


def in_codes(tex, tensor, quantizer):
    """`tensor` as FP8, with bytes for codes as theirs has; NaN where it is not finite."""
    made = tex.storage.of(tensor, quantizer)
    made.plain = tensor.detach()
    made._data = (tensor.detach() / made._scale_inv).to(CODES[quantizer.dtype.name]).view(torch.uint8)
    return made


def values(quantized):
    return quantized.plain


def in_fp8(made):
    """Fused attention in FP8: QKV and dO are quantized, O and dQKV are written as FP8, amaxes of S and dP by the kernel."""
    tex = made["transformer_engine_torch"]

    def fused_attn_fwd(qkv, s_quantizer, o_quantizer):
        s_quantizer.amax.fill_(1.0)
        return [in_codes(tex, qkv._data.sum(-2), o_quantizer), torch.zeros(1)]

    def fused_attn_bwd(grad, dp_quantizer, dqkv_quantizer):
        dp_quantizer.amax.fill_(0.5)
        return [in_codes(tex, grad._data, dqkv_quantizer) for _ in range(3)]

    tex.fused_attn_fwd, tex.fused_attn_bwd = fused_attn_fwd, fused_attn_bwd

    class Attention(torch.autograd.Function):
        @staticmethod
        def forward(ctx, qkv, forward, backward):
            ctx.quantizers = backward
            return values(tex.fused_attn_fwd(tex.quantize(qkv, forward[QKV]), forward[S], forward[OUT])[0])

        @staticmethod
        def backward(ctx, grad):
            made_ = tex.fused_attn_bwd(tex.quantize(grad, ctx.quantizers[DO]), ctx.quantizers[DP], ctx.quantizers[DQKV])
            return torch.stack([values(one) for one in made_], -2), None, None

    def forward(self, qkv, quantizers=None, **kwargs):
        return Attention.apply(qkv, quantizers["scaling_fwd"], quantizers["scaling_bwd"])

    made[f"{ATTENTION}.backends"].FusedAttention.forward = forward
    made[f"{ATTENTION}.dot_product_attention"].DotProductAttention.forward = of_product


def of_product(self, qkv):
    self.prepare_forward()
    return self.fused_attention(qkv, fused_attention_backend=2, quantizers=self.quantizers)


class Block(nn.Module):
    def __init__(self, made):
        super().__init__()
        self.up = made[PREFIX].Linear(16, 48)
        self.core = made[f"{ATTENTION}.dot_product_attention"].DotProductAttention()

    def forward(self, x):
        return self.core(self.up(x).view(-1, 3, 16))


def train(made, steps=3, plant=None):
    torch.manual_seed(0)
    model, x = nn.Sequential(Block(made)), torch.randn(8, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(steps):
        with made[PREFIX].autocast(enabled=True, recipe=standins.DelayedScaling(amax_history_len=4)):
            loss = (model(x) if plant is None else plant(model, x, step)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.fixture
def trace(tmp_path):
    with standins.installed("2.20.2", in_fp8) as made:
        yield recorded(tmp_path, lambda: train(made))


def test_what_attention_reads_and_writes_has_its_row_under_the_module_that_has_the_quantizers(trace):
    rows = quantized(trace)
    rows = rows[rows["module"] == "0.core"]
    assert tuples(rows[rows["step"] == 2], "role", "phase", "operation", "source", "format") == [
        ("qkv", "forward", "quantize", "input", "E4M3"),
        ("o", "forward", "fused_attn_fwd", "quantized", "E4M3"),
        ("do", "backward", "quantize", "input", "E5M2"),
        *[("dqkv", "backward", "fused_attn_bwd", "quantized", "E5M2")] * 3,
    ]
    assert set(rows["scaling"]) == {"delayed"}


def test_scales_of_attention_are_those_of_its_tensors_and_s_has_no_other_row(trace):
    scales = frame(trace, "fp8_scales")
    own = scales[(scales["module"] == "0.core") & (scales["direction"] == "forward")]
    assert tuples(own[own["step"] == 1], "role") == [("qkv",), ("o",), ("s",)]
    assert set(own[own["role"] == "s"]["amax"]) == {1.0}
    rows = quantized(trace)
    joined = rows.merge(own, on=["step", "module", "role"], suffixes=("", "_update"))
    assert set(joined["role"]) == {"qkv", "o"}
    np.testing.assert_array_equal(joined["scale"], joined["scale_update"])
    # Of O there are the codes alone.
    whole = joined[joined["role"] == "qkv"]
    np.testing.assert_array_equal(whole["amax"], whole["amax_update"])
    np.testing.assert_allclose(joined["amax"], joined["amax_update"], rtol=1 / 16)


def test_a_tensor_of_which_only_scales_are_known_has_a_history(trace):
    history = tensor_history(trace, "0.core.s")
    assert (history.scaling, history.source, history.format) == ("delayed", "update", "E4M3")
    assert [(one.step, one.amax, one.next_scale) for one in history.steps] == [(step, 1.0, 448.0) for step in range(3)]
    assert [one.range_used for one in history.steps] == [pytest.approx(1 / 448), 1.0, 1.0]
    with pytest.raises(UsageError, match="several tensors"):
        tensor_history(trace, "0.core")


def test_a_product_that_is_not_in_fp8_has_no_scales(tmp_path):
    """Its quantizers are there all the same, and nothing uses them."""

    def body(made):
        core = made[f"{ATTENTION}.dot_product_attention"].DotProductAttention

        def forward(self, q):
            self.prepare_forward()
            return self.fused_attention(q.sum(-2), fused_attention_backend=1)

        core.forward = forward
        train(made)

    with standins.installed("2.20.2") as made:
        found = recorded(tmp_path, lambda: body(made))
    assert set(frame(found, "fp8_scales")["module"]) == {"0.up"}


def test_an_inf_in_v_is_named(tmp_path):
    def plant(model, x, step):
        if step == 1:
            model[0].core.register_forward_pre_hook(lambda _module, given: (_with_inf(given[0]),))
        return model(x)

    with standins.installed("2.20.2", in_fp8) as made:
        found = recorded(tmp_path, lambda: train(made, plant=plant))
    origin = find_nonfinite(found).origins[0]
    assert (origin.tensor.step, origin.tensor.name, origin.tensor.infs) == (1, "0.core.qkv", 1)


def _with_inf(qkv):
    changed = qkv.clone()
    changed[3, 2, 5] = float("inf")
    return changed


def test_what_gemms_write_in_fp8_is_observed(tmp_path):
    """`fp8_output` in forward, `fp8_grad` in backward: a quantizer is given to the GEMM."""

    def change(made):
        tex = made["transformer_engine_torch"]
        plain = tex.generic_gemm

        def generic_gemm(a, trans_a, b, trans_b, out, quantizer, *rest, **named):
            product, *others = plain(a, trans_a, b, trans_b, out, quantizer, *rest, **named)
            return (product if quantizer is None else in_codes(tex, product, quantizer), *others)

        tex.generic_gemm = generic_gemm

    def body(made):
        tex, linear = made["transformer_engine_torch"], made[PREFIX].Linear(16, 32)

        def forward(self, x):
            self.prepare_forward()
            quantizers = self.quantizers
            rest = (None, None, None, False, None, False, None, 0, False, False)
            weight, given = (tex.quantize(one, quantizers["scaling_fwd"][n]) for n, one in ((1, self.weight), (0, x)))
            out = values(tex.generic_gemm(weight, True, given, False, None, quantizers["scaling_fwd"][2], *rest)[0])
            tex.generic_gemm(weight, False, out, False, None, quantizers["scaling_bwd"][1], *rest)
            tex.generic_gemm(given, False, out, True, None, None, *rest)
            return out

        type(linear).forward = forward
        with torch.no_grad():
            for _ in range(2):
                with made[PREFIX].autocast(enabled=True, recipe=standins.DelayedScaling(amax_history_len=4)):
                    nn.Sequential(linear)(torch.randn(8, 16))

    with standins.installed("2.20.2", change) as made:
        rows = quantized(recorded(tmp_path, lambda: body(made)))
    assert tuples(rows, "role", "operation", "source", "scaling", "shape")[2:4] == [
        ("output", "generic_gemm", "quantized", "delayed", "8x32"),
        ("grad_input", "generic_gemm", "quantized", "delayed", "8x16"),
    ]
    assert len(rows) == 8


def test_with_current_scaling_the_last_states_are_those_of_s_and_dp():
    """DotProductAttention has two recipes then, and delayed scaling is that of its third GEMM alone."""

    class DotProductAttention(nn.Module):
        pass

    module = DotProductAttention()
    assert quantizers.roles_of(module, "forward", 9) == ["", "", "qkv", "o", "", "", "", "", "s"]
    assert quantizers.roles_of(module, "backward", 6) == ["dqkv", "", "", "do", "", "dp"]
    assert quantizers.roles_of(module, "forward", 3) == ["", "", "s"]
    assert quantizers.roles_of(module, "backward", 2) == ["", "dp"]
