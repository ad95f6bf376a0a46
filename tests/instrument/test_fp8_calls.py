"""Calls that C++ has learned, outputs and histories that are known by their addresses."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

import tetrace
from tests.instrument import standins
from tetrace.instrument import fp8_operands, fp8_scales, ranges


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
