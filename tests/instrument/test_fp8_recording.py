"""What `--fp8` records of Transformer Engine on the CPU, on stand-ins, and that it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.instrument import standins
from tests.instrument.fp8_runs import LINEARS, frame, quantized, recorded, tuples
from tests.instrument.runs import record
from tests.instrument.test_transformer_engine import train
from tetrace.fp8 import reference
from tetrace.fp8.formats import E4M3, E5M2
from tetrace.fp8.nonfinite import find_nonfinite
from tetrace.fp8.nonfinite_advice import advice
from tetrace.instrument import fp8_inspection


@pytest.mark.parametrize("version", standins.VERSIONS)
@pytest.mark.parametrize("recipe", [standins.DelayedScaling, standins.Float8CurrentScaling])
def test_every_quantize_call_of_every_step_has_its_row(tmp_path, version, recipe):
    with standins.installed(version) as made:
        trace = recorded(tmp_path, lambda: train(made, recipe(), steps=3))
    rows = quantized(trace)
    for step in range(3):
        own = rows[rows["step"] == step]
        assert tuples(own, "module", "role", "phase", "operation", "format") == LINEARS
    assert set(rows["scaling"]) == {"delayed" if recipe is standins.DelayedScaling else "current"}
    assert set(rows["source"]) == {"input"}
    assert rows["order"].is_monotonic_increasing
    assert rows["order"].is_unique
    shapes = dict(zip(zip(rows["module"], rows["role"], strict=True), rows["shape"], strict=True))
    assert shapes["up", "weight"] == "32x16"
    assert shapes["down", "grad_output"] == "8x16"


def test_the_numbers_are_those_of_the_reference(tmp_path):
    seen = []

    def change(made):
        tex = made["transformer_engine_torch"]
        plain = tex.quantize

        def quantize(tensor, quantizer, out=None, noop=None):
            seen.append((tensor.detach().clone(), quantizer.scale.clone(), quantizer.dtype))
            return plain(tensor, quantizer, out, noop)

        tex.quantize = quantize

    with standins.installed("2.20.2", change) as made:
        trace = recorded(tmp_path, lambda: train(made, standins.DelayedScaling(amax_history_len=4)))
    rows = quantized(trace)
    rows = rows[rows["operation"] == "quantize"].reset_index(drop=True)
    assert len(rows) == len(seen) == 8
    bins = frame(trace, "fp8_histograms")
    for place, (tensor, scale, dtype) in enumerate(seen):
        number_format = E4M3 if dtype is standins.DType.kFloat8E4M3 else E5M2
        expected, histogram = reference.measure(tensor, number_format, scale)
        row = rows.loc[place]
        for name in ("elements", "zeros", "nans", "infs", "saturated", "flushed", "subnormal"):
            assert row[name] == expected[name], name
        for name in ("amax", "smallest", "scale", "squared_error"):
            assert row[name] == expected[name], name
        assert row["mean"] == expected["sum"] / tensor.numel()
        assert row["mean_square"] == expected["square_sum"] / tensor.numel()
        own = bins[bins["order"] == row["order"]]
        assert dict(zip(own["bin"], own["count"], strict=True)) == {
            place: histogram[place] for place in np.flatnonzero(histogram)
        }


def test_scales_of_current_scaling_are_the_ones_in_use(tmp_path):
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, standins.Float8CurrentScaling()))
    rows = quantized(trace)
    largest = np.where(rows["format"] == "E4M3", 448.0, 57344.0)
    np.testing.assert_allclose(rows["scale"] * rows["amax"], largest, rtol=1e-6)
    assert not rows["flushed"].isna().any()
    assert (rows["subnormal"] >= 0).all()


def test_updates_of_delayed_scaling_have_scales_amaxes_and_history(tmp_path):
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, standins.DelayedScaling(amax_history_len=4, margin=1), steps=3))
    scales, rows = frame(trace, "fp8_scales"), quantized(trace)
    tensors = [("up", "input"), ("up", "weight"), ("down", "input"), ("down", "weight")]
    assert tuples(scales, "step", "module", "role") == [(step, *one) for step in range(3) for one in tensors]
    assert set(scales["direction"]) == {"forward"}
    assert set(scales["format"]) == {"E4M3"}
    of_step = {(step, *one): None for step in range(3) for one in tensors}
    for row in scales.itertuples():
        of_step[row.step, row.module, row.role] = row
    for row in rows[rows["phase"] == "forward"].itertuples():
        update = of_step[row.step, row.module, row.role]
        assert (update.scale, update.amax) == (row.scale, row.amax)
        largest = max(update.amax, update.history_max)
        assert update.next_scale == pytest.approx(448 / 2 / largest, rel=1e-6)
    assert scales["history_used"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert set(scales["history_length"]) == {4}
    first = of_step[0, "up", "input"]
    assert (first.scale, first.history_max) == (1.0, 0.0)


def test_what_is_checked_besides(tmp_path):
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, None, steps=2))
    rows = frame(trace)
    assert set(rows["source"]) == {"check"}
    assert tuples(rows[rows["step"] == 1], "module", "role", "phase", "operation") == [
        ("up", "output", "forward", "Linear"),
        ("core.fused_attention", "output", "forward", "FusedAttention"),
        ("down", "output", "forward", "Linear"),
        ("(loss)", "loss", "forward", "backward"),
        ("up", "gradient", "optimizer", "weight"),
        ("down", "gradient", "optimizer", "weight"),
        ("up", "parameter", "optimizer", "weight"),
        ("down", "parameter", "optimizer", "weight"),
    ]
    assert (rows["saturated"] == -1).all()
    assert rows["scale"].isna().all()
    assert not trace.has("fp8_histograms")
    assert not trace.has("fp8_scales")


class TwoLinears(nn.Module):
    """Plain torch, with nothing of FP8."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        return self.b(self.a(x))


def test_an_overflow_of_fp16_is_told_as_one(tmp_path):
    """Number types of all that is checked are in a recording: of outputs, the loss, gradients and parameters."""

    def body():
        torch.manual_seed(0)
        net = TwoLinears().half()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        for step in range(3):
            with torch.no_grad():
                net.b.weight.mul_(100 if step == 2 else 1)
            loss = net(torch.randn(8, 64).half() * (1000 if step == 2 else 1)).float().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    trace = recorded(tmp_path, body)
    rows = frame(trace)
    assert set(tuples(rows, "role", "dtype")) == {
        ("output", "float16"),
        ("loss", "float32"),
        ("gradient", "float16"),
        ("parameter", "float16"),
    }
    (origin,) = find_nonfinite(trace).origins
    assert (origin.tensor.name, origin.dtype, origin.tensor.infs > 0) == ("b.output", "float16", True)
    assert advice(origin).startswith("fp16 ends at 65,504")


def test_a_module_may_return_another_number_type_later(tmp_path):
    """Of a tuple the first is looked at; the type of what is in a dictionary, or is in a type of its own, is not known."""

    class Packing(nn.Linear):
        def forward(self, x, pack):
            return pack(super().forward(x))

    def body():
        net = Packing(4, 4)
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float16):
            net.to(dtype)(torch.ones(2, 4, dtype=dtype), lambda made: made)
        net(torch.ones(2, 4, dtype=torch.float16), lambda made: (made, None))
        net(torch.ones(2, 4, dtype=torch.float16), lambda made: {"made": made})
        with torch.device("cpu"):  # a mode that torch asks about each function
            net(torch.ones(2, 4, dtype=torch.float16), lambda made: made)

    rows = frame(recorded(tmp_path, body))
    expected = ["float32", "float16", "bfloat16", "float16", "float16", "", "float16"]
    assert tuples(rows, "module", "role", "dtype") == [("Packing", "output", dtype) for dtype in expected]


def test_the_first_that_is_not_finite_is_where_it_was_put(tmp_path):
    def body(made):
        torch.manual_seed(0)
        linear = made["transformer_engine.pytorch"].Linear
        net, x = nn.Sequential(*(linear(16, 16) for _ in range(3))), torch.randn(8, 16)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        steps = 0

        def break_it(_module, given):
            if steps == 3:
                changed = given[0].clone()
                changed[2, 5] = float("inf")
                return (changed,)
            return None

        net[1].register_forward_pre_hook(break_it)
        for steps in range(5):  # noqa: B007
            with made["transformer_engine.pytorch"].autocast(True, standins.Float8CurrentScaling()):
                loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: body(made))
    rows = frame(trace)
    bad = rows[(rows["nans"] > 0) | (rows["infs"] > 0)]
    first = bad.iloc[0]
    assert (first["step"], first["module"], first["role"], first["infs"]) == (3, "1", "input", 1)


def test_some_steps_and_some_modules_only(tmp_path):
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, standins.DelayedScaling(), steps=5), every=2, modules="^down$")
    rows = frame(trace)
    assert set(rows["step"]) == {0, 2, 4}
    assert set(rows["module"]) == {"down", "(loss)"}
    scales = frame(trace, "fp8_scales")
    assert set(scales["step"]) == {0, 2, 4}
    assert set(scales["module"]) == {"down"}


def test_without_histograms_and_with_blocks(tmp_path):
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, standins.DelayedScaling()), histogram=False, blocks=True)
    assert not trace.has("fp8_histograms")
    blocks, rows = frame(trace, "fp8_blocks"), quantized(trace)
    counts = blocks.groupby(["order", "layout"])["count"].sum()
    up = rows[(rows["module"] == "up") & (rows["role"] == "weight")].iloc[0]
    assert {layout: counts[up["order"], layout] for layout in ("1x128", "128x128", "1x32")} == {
        "1x128": 32,
        "128x128": 1,
        "1x32": 32,
    }


def test_losses_stay_bit_for_bit_and_patches_go(tmp_path):
    with standins.installed("2.20.2") as made:
        names = [(module, name) for module in made.values() for name in vars(module)]
        before = [vars(module)[name] for module, name in names]
        plain, inspected = train(made, standins.DelayedScaling(), steps=4), []
        recorded(tmp_path, lambda: inspected.extend(train(made, standins.DelayedScaling(), steps=4)), blocks=True)
        assert inspected == plain
        assert all(vars(module)[name] is value for (module, name), value in zip(names, before, strict=True))
    assert not fp8_inspection.is_inspecting()


def test_several_tensors_of_one_call_have_a_row_each(tmp_path):
    def body(made):
        tex = made["transformer_engine_torch"]

        class Experts(nn.Module):
            def __init__(self):
                super().__init__()
                kind, dtype = standins.Float8CurrentScalingQuantizer, standins.DType.kFloat8E4M3
                self.num_gemms = 2
                self.quantizers = {"scaling_fwd": [kind(dtype) for _ in range(6)], "scaling_bwd": []}

            def forward(self, x):
                tex.split_quantize(x, [1, 3], [self.quantizers["scaling_fwd"][0], self.quantizers["scaling_fwd"][3]])
                return x

        Experts()(torch.arange(8.0).reshape(4, 2))

    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: body(made))
    rows = quantized(trace)
    assert tuples(rows, "role", "elements", "amax") == [("gemm0.input", 2, 1.0), ("gemm1.input", 6, 7.0)]


def test_a_part_of_a_module_with_two_gemms_is_named(tmp_path):
    def body(made):
        tex = made["transformer_engine_torch"]

        class Perceptron(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc1_weight = nn.Parameter(torch.ones(4, 4))
                kind, dtype = standins.Float8CurrentScalingQuantizer, standins.DType.kFloat8E4M3
                self.quantizers = {"scaling_fwd": [kind(dtype) for _ in range(6)], "scaling_bwd": []}

            def forward(self, x):
                for place in (0, 1, 3, 4):
                    tex.quantize(x, self.quantizers["scaling_fwd"][place])
                return x

        Perceptron()(torch.ones(4, 4))

    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: body(made))
    assert quantized(trace)["role"].tolist() == ["fc1.input", "fc1.weight", "fc2.input", "fc2.weight"]


def test_rows_are_whole_lines_of_sites(tmp_path):
    """Every row's site is described in sites.jsonl: nothing is known only to the process."""
    with standins.installed("2.20.2") as made:
        working = tmp_path / "run.tetrace.recording"
        record(working, lambda: train(made, standins.DelayedScaling()), fp8={})
    (folder,) = working.glob("process-*")
    described = {json.loads(line)["site"] for line in (folder / "sites.jsonl").read_text().splitlines()}
    from tetrace.fp8 import recorded as files

    rows = files.read_rows(Path(folder) / files.ROWS_FILE).rows
    assert len(rows)
    assert set(rows["site"].tolist()) <= described
