"""Which gradients and parameters are checked for what is not finite, and under which names."""

from __future__ import annotations

import weakref
from types import SimpleNamespace

import torch
from torch import nn

from tetrace.instrument import fp8_checks


class Checked:
    """Checks of a model whose optimizer calls them; what they hand over goes to `seen`, as (role, name, tensor)."""

    def __init__(self, monkeypatch, model):
        self.seen = []
        self.sites = []
        monkeypatch.setattr(fp8_checks, "_site", self._site)
        monkeypatch.setattr(fp8_checks.modules, "all_modules", lambda: list(model.named_modules()))
        watched = SimpleNamespace(
            watch_is_on=lambda: True,
            watch_check=self._take,
            # All are left to Python, as without a GPU.
            watch_parameters=lambda sites, _parameters, _: [place for place, site in enumerate(sites) if site >= 0],
        )
        monkeypatch.setattr(fp8_checks, "_C", watched)
        self.checks = fp8_checks.Checks(lambda module: module != "unwanted", lambda function: function)

    def _site(self, role, module, _phase, operation, _dtype):
        self.sites.append((role, f"{module}.{operation}"))
        return len(self.sites) - 1

    def _take(self, sites, tensors):
        self.seen += [(*self.sites[site], tensor) for site, tensor in zip(sites, tensors, strict=True)]

    def step(self, *parameters):
        """Names of what is checked around a step of an optimizer of these, in turn."""
        self.seen.clear()
        optimizer = SimpleNamespace(param_groups=[{"params": [one]} for one in parameters])
        self.checks._gradients(optimizer)
        self.checks._parameters(optimizer)
        return [(role, name) for role, name, _ in self.seen]


def test_each_parameter_and_its_gradient_is_checked_under_its_name(monkeypatch):
    model = nn.ModuleDict({"up": nn.Linear(2, 3), "unwanted": nn.Linear(2, 2)})
    for one in model.parameters():
        one.grad = torch.ones_like(one)
    model["up"].bias.grad = None
    checked = Checked(monkeypatch, model)
    wanted = [("gradient", "up.weight"), ("parameter", "up.weight"), ("parameter", "up.bias")]
    for _ in range(2):
        assert checked.step(*model.parameters()) == wanted
    assert checked.seen[0][2] is model["up"].weight.grad
    assert len(checked.sites) == 4  # asked for once


def test_main_gradients_and_local_shards_are_checked_and_sparse_gradients_are_not(monkeypatch):
    model = nn.ModuleDict({"up": nn.Linear(2, 3, bias=False), "words": nn.Embedding(5, 2, sparse=True)})
    model["up"].weight.main_grad = SimpleNamespace(_local_tensor=torch.ones(1))
    model["words"](torch.tensor([1])).sum().backward()
    checked = Checked(monkeypatch, model)
    assert checked.step(model["up"].weight, model["words"].weight) == [
        ("gradient", "up.weight"),
        ("parameter", "up.weight"),
        ("parameter", "words.weight"),
    ]
    assert checked.seen[0][2] is model["up"].weight.main_grad._local_tensor


def test_optimizers_that_take_turns_check_their_own(monkeypatch):
    model = nn.ModuleDict({"up": nn.Linear(2, 3), "down": nn.Linear(3, 2)})
    checked = Checked(monkeypatch, model)
    up, down = ([f"{name}.weight", f"{name}.bias"] for name in ("up", "down"))
    for _ in range(2):
        assert [name for _, name in checked.step(*model["up"].parameters())] == up
        assert [name for _, name in checked.step(*model["down"].parameters())] == down
    assert [name for _, name in checked.step(*model.parameters())] == up + down
    assert len(checked.sites) == 8  # asked for once


def test_a_parameter_in_the_place_of_one_that_is_gone_has_its_own_name(monkeypatch):
    model = nn.ModuleDict({"up": nn.Linear(2, 3, bias=False)})
    checked = Checked(monkeypatch, model)
    weight = model["up"].weight
    checked.step(weight)
    gone = nn.Parameter(torch.ones(1))
    checked.checks._names[id(weight)] = (weakref.ref(gone), "else", "where")
    checked.checks._sites["parameter"][id(weight)] = (weakref.ref(gone), 99)
    assert checked.step(weight) == [("parameter", "up.weight")]
