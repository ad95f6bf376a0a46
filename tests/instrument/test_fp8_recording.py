"""What `--fp8` records of Transformer Engine on the CPU, on stand-ins, and that it changes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import tetrace
from tests.instrument import standins
from tests.instrument.runs import Net as PlainNet
from tests.instrument.runs import record
from tests.instrument.runs import train as train_plain
from tests.instrument.test_transformer_engine import train
from tetrace.errors import UsageError
from tetrace.fp8 import reference
from tetrace.fp8.formats import E4M3, E5M2
from tetrace.fp8.whatif import what_if
from tetrace.instrument import fp8_inspection, fp8_operands, fp8_recompute, fp8_scales, quantization, ranges
from tetrace.sources import detect

ROOT = Path(__file__).parents[2]
LINEARS = [
    ("up", "input", "forward", "quantize", "E4M3"),
    ("up", "weight", "forward", "quantize", "E4M3"),
    ("down", "input", "forward", "quantize", "E4M3"),
    ("down", "weight", "forward", "quantize", "E4M3"),
    ("down", "grad_output", "backward", "bgrad_quantize", "E5M2"),
    ("up", "grad_output", "backward", "bgrad_quantize", "E5M2"),
]


def recorded(folder, body, **fp8):
    """The trace of what `body` does."""
    working = folder / "run.tetrace.recording"
    record(working, body, fp8=fp8)
    (working / "run.json").write_text("{}")
    return detect.load(working)


def frame(trace, table="fp8_tensors"):
    return trace.tables[table].to_pandas()


def quantized(trace):
    """Rows of what was quantized, checks left out."""
    rows = frame(trace)
    return rows[rows["source"] != "check"]


def tuples(rows, *names):
    return list(rows[list(names)].itertuples(index=False, name=None))


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


@pytest.mark.parametrize("broken", ["measure", "site", "scales"])
def test_what_breaks_switches_inspection_off_and_training_goes_on(tmp_path, monkeypatch, capfd, broken):
    def fail(*args, **kwargs):
        raise RuntimeError("it broke")

    with standins.installed("2.20.2") as made:
        plain = train(made, standins.DelayedScaling(), steps=3)
        if broken == "measure":
            monkeypatch.setattr(reference, "measure", fail)
        elif broken == "site":
            monkeypatch.setattr("tetrace.instrument.fp8_calls.Kind.site", fail)
        else:
            monkeypatch.setattr("tetrace.instrument.fp8_scales._histories", fail)
        losses = []
        trace = recorded(tmp_path, lambda: losses.extend(train(made, standins.DelayedScaling(), steps=3)))
    assert losses == plain
    warnings = [line for line in capfd.readouterr().err.splitlines() if "FP8 inspection switched itself off" in line]
    assert len(warnings) == 1
    assert "RuntimeError: it broke" in warnings[0]
    assert "step 0" in warnings[0]
    assert any("FP8 inspection switched itself off" in notice for notice in trace.metadata.notices)
    assert trace.has("ranges")


def test_a_forked_child_writes_nothing(tmp_path):
    def body(made):
        tex, quantizer = (
            made["transformer_engine_torch"],
            standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3),
        )
        x = torch.ones(2, 2)
        tex.quantize(x, quantizer)
        pid = os.fork()
        if pid == 0:
            tex.quantize(x, quantizer)
            tetrace.step()
            os._exit(0)
        os.waitpid(pid, 0)
        tex.quantize(x, quantizer)

    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: body(made))
    assert frame(trace)["order"].tolist() == [0, 1]


KILLED = """
import os, sys
from tests.instrument import standins
from tests.instrument.runs import record
from tests.instrument.test_transformer_engine import train
from pathlib import Path

def body(made):
    train(made, standins.DelayedScaling(), steps=3)
    os.abort()

with standins.installed("2.20.2") as made:
    record(Path(sys.argv[1]), lambda: body(made), fp8={})
"""


def test_a_killed_process_leaves_the_rows_of_earlier_steps(tmp_path):
    working = tmp_path / "run.tetrace.recording"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(working)], env=environ, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGABRT, done.stderr.decode()
    (working / "run.json").write_text("{}")
    rows = quantized(detect.load(working))
    assert set(rows["step"]) == {0, 1, 2}
    assert len(rows) == 3 * len(LINEARS)


class TestWatch:
    def test_a_loop_in_a_notebook(self):
        torch.manual_seed(0)
        net = PlainNet()
        with tetrace.watch(net) as watch:
            train_plain(net, steps=2)
        rows = watch.table()
        assert set(rows["step"]) == {0, 1}
        assert "layers.0.mlp.0" in set(rows["module"])
        assert set(rows["role"]) == {"output", "loss", "gradient", "parameter"}
        assert not fp8_inspection.is_inspecting()

    def test_with_transformer_engine(self):
        with standins.installed("2.20.2") as made:
            linear = made["transformer_engine.pytorch"].Linear(16, 16)
            recipe = standins.DelayedScaling(amax_history_len=4)
            watch = tetrace.watch(linear, checks=False)
            watch.start()
            with made["transformer_engine.pytorch"].autocast(True, recipe):
                linear(torch.randn(8, 16))
            watch.stop()
            rows = watch.table()
        assert tuples(rows, "module", "role", "format", "scaling") == [
            ("Linear", "input", "E4M3", "delayed"),
            ("Linear", "weight", "E4M3", "delayed"),
        ]
        assert len(watch.histograms())
        assert watch.scales()["role"].tolist() == ["input", "weight"]

    def test_inside_a_recording_with_fp8_it_sees_nothing_and_says_so(self, tmp_path, capfd):
        net = PlainNet()

        def body():
            with tetrace.watch(net) as watch:
                train_plain(net, steps=1)
            assert not len(watch.table())

        recorded(tmp_path, body)
        assert "a watch sees nothing while FP8 is inspected in this process already" in capfd.readouterr().err

    def test_it_leaves_a_recording_without_fp8_as_it_is(self, tmp_path):
        net, watch = PlainNet(), None

        def body():
            nonlocal watch
            with tetrace.watch(net) as watch:
                train_plain(net, steps=2)

        rows = record(tmp_path, body)
        assert {row.kind for row in rows} >= {"module", "step"}
        assert len(watch.table())

    @pytest.mark.parametrize(
        ("options", "said"), [({"every": 0}, "every=0"), ({"model": 3}, "the model is a int")], ids=str
    )
    def test_options_that_make_no_sense(self, options, said):
        given = {"model": nn.Linear(1, 1), **options}
        with pytest.raises(UsageError, match=said):
            tetrace.watch(given.pop("model"), **given)

    def test_it_is_used_once(self):
        watch = tetrace.watch(nn.Linear(2, 2))
        with watch:
            pass
        with pytest.raises(UsageError, match="has been used"):
            watch.start()


def test_a_driver_that_refuses_to_copy_switches_inspection_off(tmp_path, capfd, monkeypatch):
    """No tensor was lost by it, so none is counted."""
    from tetrace import _C

    plain = _C.watch_counts
    monkeypatch.setattr(_C, "watch_counts", lambda: {**plain(), "last_error": 700})
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, standins.DelayedScaling(), steps=3))
    assert "the CUDA driver refused with error 700" in capfd.readouterr().err
    assert set(quantized(trace)["step"]) <= {0}


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


class Fake:
    """What csrc/watch reads of a tensor, on a device that is not there."""

    dtype, is_cuda = torch.bfloat16, True

    def numel(self):
        return 6

    def data_ptr(self):
        return 64

    def is_contiguous(self):
        return True

    def get_device(self):
        return -1


def test_a_learned_call_comes_back_where_no_device_is_open():
    """Nothing is launched on a device that was not opened: Python is asked again, which opens it."""
    from tetrace import _C

    asked = []
    _C.watch_begin(
        lambda *call: asked.append(call), None, None, torch.Tensor, nn.Parameter, [(torch.bfloat16, 0)], True
    )
    ranged = _C.ranged_quantize(
        lambda *args: types.SimpleNamespace(_scale_inv=Fake()), lambda args, named: (0, number), 1, {}, []
    )
    try:
        number = _C.watch_add()
        ranges.open(None)
        quantizer = standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3)
        tensor = Fake()
        ranged(tensor, quantizer)
        assert asked == [], "not switched on yet"
        _C.watch_switch(True)
        ranged(tensor, quantizer)
        _C.watch_learn(number, "device", site=0, format=1, scale="_scale_inv", scale_of="result", inverse=True)
        ranged(tensor, quantizer)
        assert [(one[0], one[1][0]) for one in asked] == [(number, tensor)] * 2
        _C.watch_learn(number, "nobody")
        ranged(tensor, quantizer)
        assert len(asked) == 2
        with pytest.raises(ValueError, match="how is 'later'; give device, python or nobody"):
            _C.watch_learn(number, "later")
        with pytest.raises(ValueError, match="nothing is watched under 77"):
            _C.watch_learn(77, "device")
    finally:
        ranges.close()
        _C.watch_end()
    assert not _C.watch_is_on()


def test_a_learned_call_whose_result_is_laid_out_otherwise_goes_to_python():
    """A quantizer may be told to make rows or columns, or scales for another use, between two calls."""
    from tetrace import _C

    asked, looked = [], []

    class Scale(Fake):
        @property
        def is_cuda(self):
            looked.append(self)
            return False

    made = types.SimpleNamespace(_rowwise_scale_inv=Fake(), _data_format="ready", _is_2D_scaled=False)
    signs = fp8_operands.signs(
        types.SimpleNamespace(_rowwise_scale_inv=torch.ones(1), _data_format="ready", _is_2D_scaled=False)
    )
    assert signs == (("_data_format", "ready"), ("_is_2D_scaled", False))
    assert fp8_operands.signs(types.SimpleNamespace(_rowwise_scale_inv=None)) == (("_rowwise_scale_inv", None),)
    _C.watch_begin(lambda *call: asked.append(call), None, None, torch.Tensor, nn.Parameter, [], True)
    ranged = _C.ranged_quantize(lambda *args: made, lambda args, named: (0, number), 1, {}, [])
    try:
        number = _C.watch_add()
        ranges.open(None)
        quantizer = standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3)
        _C.watch_switch(True)
        named = {"scale": "_rowwise_scale_inv", "scale_of": "result", "inverse": True}
        _C.watch_learn(number, "device", site=0, format=1, signs=signs, **named)
        ranged(Scale(), quantizer)
        assert (len(looked), len(asked)) == (1, 1), "as it was: only the device is missing"
        made._data_format = "compact"
        ranged(Scale(), quantizer)
        assert (len(looked), len(asked)) == (1, 2), "its tensor was not even looked at"
        del made._data_format
        ranged(Scale(), quantizer)
        assert (len(looked), len(asked)) == (1, 3)
        with pytest.raises(ValueError, match="a sign is"):
            _C.watch_learn(number, "device", signs=("_data_format",))
    finally:
        ranges.close()
        _C.watch_end()


def test_tensors_that_no_open_device_takes_are_counted():
    from tetrace import _C

    _C.watch_begin(None, None, None, torch.Tensor, nn.Parameter, [], True)
    _C.timing_streams(lambda: -1, lambda device: 0)
    try:
        _C.watch_switch(True)
        assert _C.watch_observe([(64, 1, 6, 6, 0, 0, 0)] * 3, 0) == -2
        assert _C.watch_counts()["elsewhere"] == 3
    finally:
        _C.watch_end()


class WritesInPlace(nn.Module):
    """Returns what a module inside it returned, written to since then."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        y = self.inner(x)
        y.add_(float("inf"))
        return y


class PassesOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize(("kind", "seen"), [(WritesInPlace, {"inner": 0, "": 32}), (PassesOn, {"inner": 0})])
def test_an_output_that_was_changed_since_is_looked_at_again(kind, seen):
    net = nn.Sequential(kind())
    with torch.no_grad(), tetrace.watch(net) as watch:
        net(torch.randn(8, 4))
    rows = watch.table()
    outputs = rows[rows["role"] == "output"]
    assert dict(zip(outputs["module"].str.removeprefix("0").str.lstrip("."), outputs["infs"], strict=True)) == seen


def test_histories_at_the_addresses_of_others_are_not_taken_for_those(monkeypatch):
    """A model is let go, and the next one's histories lie where its were."""
    memory = torch.zeros(4, 1)
    taken = []
    scales = fp8_scales.Scales(taken.append, lambda function: function, lambda module: True)
    found = []
    for module in ("first", "second"):
        tensor = fp8_scales.Tensor(module, "input", "forward", "E4M3")
        key = (memory.data_ptr(), 0)
        monkeypatch.setattr(fp8_scales, "_tensors", lambda key=key, tensor=tensor: iter([(key, tensor)]))
        history = memory.view(4, 1)
        found.append([scales._sites_of([history]), scales._sites_of([history])])
        del history
    assert found[0][0] is found[0][1]
    assert [ranges.describe(sites[0][0])["module"] for sites in found] == ["first", "second"]
