"""`tetrace.watch` in a process of its own making."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch._subclasses import fake_tensor

import tetrace
from tests.instrument import standins
from tests.instrument.fp8_runs import recorded, tuples
from tests.instrument.runs import Net as PlainNet
from tests.instrument.runs import record
from tests.instrument.runs import train as train_plain
from tetrace import _C
from tetrace.errors import UsageError
from tetrace.instrument import engine, fp8_inspection, steps


@dataclass
class Output:
    """As some models return it."""

    loss: object = None
    hidden: object = None


@dataclass(slots=True)
class Slotted:
    name: str
    hidden: object


class TestWatch:
    def test_a_loop_in_a_notebook(self):
        torch.manual_seed(0)
        net = PlainNet()
        watch = tetrace.watch(net)
        assert repr(watch).startswith("<tetrace.watch, not started: 0 observations; table(),")
        with watch:
            train_plain(net, steps=2)
            assert repr(watch).startswith("<tetrace.watch, watching: ")
        rows = watch.table()
        assert repr(watch).startswith(f"<tetrace.watch, ended: {len(rows):,} observations; ")
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

    def test_what_no_table_shows_has_no_ranges(self):
        with standins.installed("2.20.2") as made:
            tex = made["transformer_engine_torch"]
            transpose, gemm, quantize = tex.fp8_transpose, tex.generic_gemm, tex.quantize
            with tetrace.watch(PlainNet()):
                assert tex.fp8_transpose is transpose
                assert tex.generic_gemm is not gemm  # for what it writes in FP8
                assert tex.quantize is not quantize
            assert (tex.quantize, tex.generic_gemm) == (quantize, gemm)

    def test_rows_are_fetched_once_a_step_and_at_each_further_backward(self, monkeypatch):
        fetched, plain = [], _C.watch_turn
        monkeypatch.setattr(_C, "watch_turn", lambda: fetched.append(steps.current()) or plain())
        net = nn.Linear(2, 2)

        def backwards(number):
            for _ in range(number):
                net(torch.randn(1, 2)).sum().backward()

        with tetrace.watch(net):
            backwards(1)
            tetrace.step()
            backwards(3)
            tetrace.step()
            backwards(1)
        # As it begins, at the end of each step, and as it ends; at two of the three backwards of step 1.
        assert fetched == [0, 0, 1, 1, 1, 2]

    def test_a_model_too_large_for_four_steps_of_room_has_rows_fetched_in_every_backward(self, monkeypatch):
        rooms, fetched, plain = [], [], _C.watch_turn
        monkeypatch.setattr(_C, "watch_device", lambda device, rows, histogram: rooms.append(rows))
        net = nn.Linear(2, 2)
        with tetrace.watch(net) as watch:
            for rows_of_step in (2_000, 20_000):
                monkeypatch.setattr(fp8_inspection, "_rows_of_step", lambda rows=rows_of_step: rows)
                watch._inspection._give_ring(0)
                monkeypatch.setattr(_C, "watch_turn", lambda rows=rows_of_step: fetched.append(rows) or plain())
                tetrace.step()
                net(torch.randn(1, 2)).sum().backward()
        assert rooms == [8_000, 32_768]
        assert fetched == [2_000, 20_000, 20_000, 20_000]  # steps; the backward of the larger; the end

    @pytest.mark.parametrize(
        "pack",
        [
            lambda x: (None, x),
            lambda x: {"hidden": None, "logits": x},
            lambda x: OrderedDict(cache=(None, [x])),
            lambda x: [[], x],
            lambda x: Output(None, x),
            lambda x: Output({"cache": [x]}),
            lambda x: Slotted("", x),
        ],
    )
    def test_the_first_tensor_of_what_a_module_returns_is_checked(self, pack):
        class Packing(nn.Module):
            def forward(self, x):
                return pack(x * torch.nan)

        with tetrace.watch(model := nn.Sequential(Packing())) as watch:
            model(torch.ones(2))
        assert watch.table()["nans"].tolist()[:1] == [2]

    def test_of_a_dtensor_it_is_what_is_here_and_nothing_is_communicated(self, monkeypatch):
        distributed = pytest.importorskip("torch.distributed.tensor")
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=store)
        try:
            mesh = torch.distributed.init_device_mesh("cpu", (1,))
            given = distributed.distribute_tensor(torch.ones(4), mesh, [distributed.Shard(0)])

            class Scaled(nn.Module):
                def forward(self, x):
                    return Output(hidden=x * torch.nan)

            def refused(*_args, **_kwargs):
                raise AssertionError("its methods have effects")

            # Once, of a module that only passes it on too.
            with tetrace.watch(model := nn.Sequential(Scaled())) as watch:
                monkeypatch.setattr(distributed.DTensor, "to_local", refused)
                monkeypatch.setattr(distributed.DTensor, "full_tensor", refused)
                model(given)
        finally:
            torch.distributed.destroy_process_group()
        rows = watch.table()
        assert list(zip(rows["module"], rows["role"], rows["elements"], rows["nans"], strict=True)) == [
            ("0", "output", 4, 4)
        ]

    def test_of_an_output_nothing_of_the_script_is_run(self):
        @dataclass
        class Lazy:
            logits: object = None

            def __getattribute__(self, name):
                raise AssertionError(name)

        class Computed(Lazy):
            @property
            def logits(self):
                raise AssertionError("a property")

            @logits.setter
            def logits(self, value):
                pass

        class Packing(nn.Module):
            def forward(self, x, kind):
                return kind(x * torch.nan)

        model = Packing()
        with tetrace.watch(model) as watch:
            for kind in (Lazy, Computed):
                model(torch.ones(3), kind)
        assert watch.table()["nans"].tolist() == [3]

    def test_a_list_that_holds_itself_ends_nothing(self):
        held = []
        held.append(held)

        class Held(nn.Module):
            def forward(self, x):
                return held

        with tetrace.watch(model := Held()) as watch:
            model(torch.ones(2))
        assert not len(watch.table())

    def test_a_backward_that_is_only_traced_is_none(self, monkeypatch, capfd):
        net, entered = nn.Linear(4, 4), []
        loss = torch.compile(lambda x: nn.functional.gelu(x).sum(), backend="aot_eager")

        def counted(plain):
            def run(roots, *args, **kwargs):
                entered.append(roots)
                return plain(roots, *args, **kwargs)

            return run

        with ExitStack() as ended:
            # As in torch 2.11, where the flag is not set while AOTAutograd traces. Only tetrace, which takes it when it
            # patches, may get this one: Dynamo lists torch's functions once for the process, and would keep it.
            with monkeypatch.context() as older:
                older.setattr(torch.compiler, "is_compiling", lambda: False)
                watch = ended.enter_context(tetrace.watch(net))
                ended.callback(engine.patch(counted))
            for _ in range(3):
                loss(net(torch.randn(3, 4))).backward()
                tetrace.step()
        assert len(entered) == 3
        rows = watch.table()
        assert rows[rows["role"] == "loss"]["step"].tolist() == [0, 1, 2]
        assert "switched itself off" not in capfd.readouterr().err

    @pytest.mark.parametrize("recipe", [standins.Float8CurrentScaling, standins.DelayedScaling])
    def test_tensors_without_values_are_passed_by(self, recipe, capfd):
        with standins.installed("2.20.2") as made, tetrace.watch(PlainNet()) as watch:
            linear = made["transformer_engine.pytorch"].Linear(16, 16)
            with fake_tensor.FakeTensorMode(allow_non_fake_inputs=True):
                nn.Linear(4, 4)(torch.randn(3, 4)).sum().backward()
                without = torch.randn(8, 16)
                with made["transformer_engine.pytorch"].autocast(True, recipe()):
                    linear(without)
            # Outside of its mode, too.
            quantizer = standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3)
            made["transformer_engine_torch"].quantize(without, quantizer)
            nn.Linear(4, 4, device="meta")(torch.randn(3, 4, device="meta")).sum().backward()
            nn.Linear(4, 4)(torch.randn(3, 4)).sum().backward()
        assert watch.table()["role"].tolist() == ["output", "loss"]
        assert "switched itself off" not in capfd.readouterr().err

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
        ("options", "said"),
        [
            ({"every": 0}, "every=0; give 1 to inspect each step"),
            ({"every": "2"}, "every='2' is no whole number; give 1"),
            ({"every": 1.5}, "every=1.5 is no whole number"),
            ({"rows": None}, "rows=None is no whole number"),
            ({"recompute": 2.0}, "recompute=2.0 is no whole number; give 0 for never"),
            ({"recompute": -1}, "recompute=-1; give 0 for never"),
            ({"modules": "["}, r"modules='\[' is no regular expression \(unterminated"),
            ({"modules": None}, "modules=None is no regular expression"),
            ({"modules": b"mlp"}, "modules=b'mlp' is no regular expression"),
            ({"model": 3}, "the model is a int"),
            ({"model": nn.Linear}, "the model is a class Linear; give a torch.nn.Module"),
        ],
        ids=str,
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
