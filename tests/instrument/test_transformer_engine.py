"""What tetrace records of Transformer Engine, release by release, on stand-ins."""

from __future__ import annotations

import json
import os

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.instrument import standins  # noqa: E402
from tests.instrument.runs import process_folder, record  # noqa: E402

PREFIX = "transformer_engine.pytorch"
OF_TE = ("quantize", "gemm", "attention", "scale_update")


class Net(nn.Module):
    """Two layers and attention between them."""

    def __init__(self, made):
        super().__init__()
        linear = made[PREFIX].Linear
        attention = made[f"{PREFIX}.attention.dot_product_attention.dot_product_attention"].DotProductAttention
        self.up, self.core, self.down = linear(16, 32), attention(), linear(32, 16)

    def forward(self, x):
        return self.down(self.core(self.up(x)))


def train(made, recipe, steps=2):
    """Trains `Net`, and returns its losses."""
    torch.manual_seed(0)
    net, x = Net(made), torch.randn(8, 16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    losses = []
    for _ in range(steps):
        with made[PREFIX].autocast(recipe is not None, recipe):
            loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def said(rows, step, *words):
    """What the ranges of one step say, in order of their starts."""
    rows = sorted((row for row in rows if row.step == step and row.kind in OF_TE), key=lambda row: row.start_ns)
    return [tuple(row.described.get(word, "") for word in words) for row in rows]


@pytest.mark.parametrize("version", standins.VERSIONS)
def test_a_step_with_delayed_scaling(tmp_path, version):
    with standins.installed(version) as made:
        rows = record(tmp_path, lambda: train(made, standins.DelayedScaling()))
    expected = [
        ("quantize", "up", "input", "E4M3"),
        ("quantize", "up", "weight", "E4M3"),
        ("gemm", "up", "fprop", ""),
        ("attention", "core.fused_attention", "", ""),
        ("quantize", "down", "input", "E4M3"),
        ("quantize", "down", "weight", "E4M3"),
        ("gemm", "down", "fprop", ""),
        ("scale_update", "", "", ""),
        ("quantize", "down", "grad_output", "E5M2"),
        ("quantize", "down", "weight", "E4M3"),
        ("gemm", "down", "dgrad", ""),
        ("gemm", "down", "wgrad", ""),
        ("quantize", "up", "grad_output", "E5M2"),
        ("quantize", "up", "weight", "E4M3"),
        ("gemm", "up", "dgrad", ""),
        ("gemm", "up", "wgrad", ""),
    ]
    for step in (0, 1):
        assert said(rows, step, "kind", "module", "role", "format") == expected
    assert [row.name for row in rows if row.kind == "autocast"] == ["autocast DelayedScaling"] * 2


def test_what_the_sites_say(tmp_path):
    with standins.installed("2.20.2") as made:
        rows = record(tmp_path, lambda: train(made, standins.DelayedScaling(margin=1)))
    described = {(row.kind, row.described.get("module"), row.described.get("role")): row.described for row in rows}
    quantize = described["quantize", "up", "input"]
    assert {name: quantize[name] for name in ("call", "shape", "dtype", "quantizer", "scaling", "fused")} == {
        "call": "quantize", "shape": "8x16", "dtype": "float32", "quantizer": "Float8Quantizer", "scaling": "delayed",
        "fused": False,
    }  # fmt: skip
    shapes = [[described["gemm", "up", role][size] for size in "mnk"] for role in ("fprop", "dgrad", "wgrad")]
    assert shapes == [[8, 32, 16], [8, 16, 32], [32, 16, 8]]
    formats = [described["gemm", "up", role][f"{one}_format"] for role in ("fprop", "dgrad", "wgrad") for one in "ab"]
    assert formats == ["E4M3", "E4M3", "E4M3", "E5M2", "E4M3", "E5M2"]
    (autocast,) = {row.name: row.described for row in rows if row.kind == "autocast"}.values()
    fields = {name: autocast[name] for name in ("recipe", "format", "margin", "amax_history_len")}
    assert fields == {"recipe": "DelayedScaling", "format": "HYBRID", "margin": 1, "amax_history_len": 1024}


def test_losses_are_the_same_and_the_patches_go(tmp_path):
    with standins.installed("2.20.2") as made:
        names = [(module, name) for module in made.values() for name in vars(module)]
        before = [vars(module)[name] for module, name in names]
        plain = train(made, standins.DelayedScaling())
        recorded = []
        record(tmp_path, lambda: recorded.extend(train(made, standins.DelayedScaling())))
        assert recorded == plain
        assert all(vars(module)[name] is value for (module, name), value in zip(names, before, strict=True))


def test_every_call_that_quantizes_has_a_range(tmp_path):
    with standins.installed("2.20.2") as made:
        tex = made["transformer_engine_torch"]
        rows = record(tmp_path, lambda: train(made, standins.Float8CurrentScaling()))
    ranged = [row.described["call"] for row in rows if row.kind in ("quantize", "gemm")]
    assert sorted(ranged) == sorted(tex.calls)
    assert not [row for row in rows if row.kind == "scale_update"], "current scaling updates no scales"


def test_without_a_quantizer_there_is_no_range(tmp_path):
    with standins.installed("2.20.2") as made:
        layer_norm = made[f"{PREFIX}.ops.basic.layer_norm"]
        x, one = torch.randn(4, 8), torch.ones(8)
        quantizer = standins.Float8Quantizer(standins.DType.kFloat8E4M3)

        def body():
            for given in (None, quantizer):
                layer_norm.layernorm_fwd(x, one, one, 1e-5, None, given, None, 0, False)
                layer_norm.functions["gelu"](x, given)

        rows = record(tmp_path, body)
    found = [
        (row.described["call"], row.described["role"], row.described["fused"]) for row in rows if row.kind == "quantize"
    ]
    assert found == [("layernorm_fwd", "input", True), ("gelu", "input", True)]


def test_operations_of_a_sequential_are_modules(tmp_path):
    with standins.installed("2.20.2") as made:
        ops = made[f"{PREFIX}.ops.op"]
        model = nn.ModuleDict({"mlp": ops.Sequential(ops.BasicLinear(8), ops.BasicLinear(8))})

        def body():
            for _ in range(2):
                model["mlp"](torch.randn(4, 8))
            model["mlp"][1](torch.randn(4, 8))

        rows = record(tmp_path, body)
    found = [(row.kind, row.described.get("module"), row.described.get("role", "")) for row in rows]
    found = [row for row in found if row[0] in ("module", "quantize", "gemm")]
    top = found[0][1]

    def operation(place):
        calls = [("quantize", "weight"), ("quantize", "input"), ("gemm", "fprop")]
        path = f"{top}.{place}"
        return [("module", path, ""), *((kind, path, role) for kind, role in calls)]

    whole = [("module", top, ""), *operation(0), *operation(1)]
    assert found == [*whole, *whole, *operation(1)]


def test_a_weight_that_is_nobodys_is_known_by_the_parameter(tmp_path):
    with standins.installed("2.20.2") as made:
        tex = made["transformer_engine_torch"]
        quantizer = standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3)

        def body():
            tex.quantize(nn.Parameter(torch.randn(4, 8)), quantizer)
            tex.quantize(torch.randn(4, 8), quantizer, nn.Parameter(torch.randn(4, 8)), None)
            tex.multi_tensor_compute_scale_and_scale_inv(1, None, [])

        rows = record(tmp_path, body)
    found = [(row.described["role"], row.described.get("update", False)) for row in rows if row.kind == "quantize"]
    assert found == [("weight", False), ("weight", True), ("weight", False)]


def test_attention_says_what_ran_and_why(tmp_path, capfd):
    with standins.installed("2.20.2") as made:
        record(tmp_path, lambda: train(made, None))
        level = made[f"{PREFIX}.attention.dot_product_attention.utils"].AttentionLogging._log_level
    lines = [json.loads(line) for line in (process_folder(tmp_path) / "attention.jsonl").read_text().splitlines()]
    refused = [
        {"backend": "FlashAttention 3", "reason": "compute capability != sm90"},
        {"backend": "UnfusedDotProductAttention", "reason": "NVTE_UNFUSED_ATTN=0"},
    ]
    ran = {"module": "core", "backend": "FusedAttention", "sub_backend": "F16_arbitrary_seqlen", "version": ""}
    assert lines == [{**ran, "refused": refused}, {"selections": 1, "calls": 2}]
    assert capfd.readouterr().err == ""
    assert level == 30


def test_a_flag_of_a_recipe_that_has_no_effect_is_noted(tmp_path):
    with standins.installed("2.20.2") as made:
        recipe = standins.Float8CurrentScaling(use_power_2_scales=True)
        rows = record(tmp_path, lambda: train(made, recipe))
    notices = json.loads((process_folder(tmp_path) / "process.json").read_text())["notices"]
    assert len([notice for notice in notices if "use_power_2_scales=True) does not apply" in notice]) == 1
    (autocast,) = {row.name: row.described for row in rows if row.kind == "autocast"}.values()
    assert autocast["input_power_2_scale"] is False


def test_autocast_is_closed_by_an_exception(tmp_path):
    def fails(made):
        with pytest.raises(ValueError, match="user"), made[PREFIX].autocast(True, standins.DelayedScaling()):
            raise ValueError("user")

    for version in ("2.4.0", "2.20.2"):
        with standins.installed(version) as made:
            rows = record(tmp_path / version, lambda made=made: fails(made))
        assert [(row.name, row.end_ns > 0) for row in rows if row.kind == "autocast"] == [
            ("autocast DelayedScaling", True)
        ]


@pytest.mark.parametrize(
    ("gone", "lacks"),
    [
        (("transformer_engine_torch", "generic_gemm"), "generic_gemm"),
        ((f"{PREFIX}.quantization", "FP8GlobalStateManager"), "FP8GlobalStateManager"),
        ((f"{PREFIX}.attention.dot_product_attention.utils", "get_attention_backend"), "get_attention_backend"),
        ((f"{PREFIX}.ops.op", "FusibleOperation"), "ops.FusibleOperation"),
    ],
)
def test_a_name_that_is_gone_costs_one_warning_and_its_part(tmp_path, capfd, gone, lacks):
    def change(made):
        made["transformer_engine"].__version__ = "3.1"
        delattr(made[gone[0]], gone[1])

    with standins.installed("2.20.2", change) as made:
        tex = made["transformer_engine_torch"]
        quantizer = standins.Float8Quantizer(standins.DType.kFloat8E4M3)
        rows = record(tmp_path, lambda: tex.quantize(torch.randn(4, 8), quantizer))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("tetrace: Transformer Engine 3.1 lacks ")
    assert lacks in line
    assert [row.described["role"] for row in rows if row.kind == "quantize"] == ["input"]


def test_an_unknown_release_falls_back_on_its_own_ranges(tmp_path, capfd, monkeypatch):
    def change(made):
        for name in list(made):
            if name not in ("transformer_engine", PREFIX, "transformer_engine_torch"):
                del made[name]
        made["transformer_engine_torch"].__dict__.clear()

    monkeypatch.setenv("NVTE_NVTX_ENABLED", "unset")
    monkeypatch.delenv("NVTE_NVTX_ENABLED")
    with standins.installed("2.20.2", change):
        record(tmp_path, lambda: nn.Linear(2, 2)(torch.randn(1, 2)))
    assert os.environ.get("NVTE_NVTX_ENABLED") == "1"
    assert len(capfd.readouterr().err.splitlines()) == 1
