"""Inspection leaves what traces, counts or replaces operations as it is, and passes by what it cannot look at."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import tetrace
from tetrace import _C
from tetrace.instrument.fp8_plain import Observer


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))


class Dispatched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


class Called(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.seen.append(getattr(function, "__name__", str(function)))
        return function(*args, **(kwargs or {}))


def traced(model):
    graph = torch.jit.trace(model, torch.ones(3, 2)).inlined_graph
    return [node.kind() for node in graph.nodes()]


def drawn(model):
    return [str(node) for node in make_fx(model)(torch.ones(3, 2)).graph.nodes]


def seen_by(mode):
    def run(model):
        with mode() as watching:
            model(torch.ones(3, 2)).sum().backward()
        return watching.seen

    return run


@pytest.mark.parametrize(
    "run", [traced, drawn, seen_by(Dispatched), seen_by(Called)], ids=["trace", "fx", "ops", "calls"]
)
def test_what_looks_at_operations_sees_those_of_the_script(run, capfd):
    plain, model = run(net()), net()
    with tetrace.watch(model) as watch:
        model(torch.ones(3, 2))
        assert run(model) == plain
        before = len(watch.table())
        tetrace.step()
        model(torch.ones(3, 2))
        tetrace.step()
    assert "switched itself off" not in capfd.readouterr().err
    assert len(watch.table()) > before


@pytest.mark.parametrize("mode", [Dispatched, Called])
def test_outputs_are_checked_while_a_mode_is_on(mode):
    model = net()
    with tetrace.watch(model) as watch, mode():
        model(torch.full((3, 2), torch.nan))
    rows = watch.table()
    assert rows["module"].tolist() == ["0", "1", "2", ""][: len(rows)]
    assert (rows["nans"] > 0).all()


def sparse(x):
    return x.to_sparse()


def nested(x):
    return torch.nested.nested_tensor([x[:1], x[:2]], layout=torch.strided)


def jagged(x):
    return torch.nested.nested_tensor([x[:1], x[:2]], layout=torch.jagged)


class Odd(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.first, self.form = nn.Linear(2, 2), form

    def forward(self, x):
        return self.form(self.first(x).detach())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("form", "words"), [(sparse, ["sparse_coo"]), (nested, ["nested"]), (jagged, [])])
def test_tensors_of_other_forms_are_passed_by_and_counted(form, words):
    model = Odd(form)
    with tetrace.watch(model) as watch:
        for _ in range(2):
            model(torch.ones(3, 2))
    assert watch.table()["module"].tolist() == ["first", "first"]
    # Jagged ones are of a class of their own, and no output that is looked at.
    said = [f"FP8 inspection passed by tensors that are {one}: 2" for one in words]
    assert list(watch.trace().metadata.notices) == said


def test_notes_of_a_watch_are_its_own(monkeypatch):
    """While it runs rows are under way, and once it has ended another one counts."""
    model = Odd(sparse)
    with tetrace.watch(model) as watch:
        model(torch.ones(3, 2))
        assert watch.trace().metadata.notices == ()
    with tetrace.watch(net()):
        monkeypatch.setattr(_C, "watch_counts", dict)
        assert watch.trace().metadata.notices == ("FP8 inspection passed by tensors that are sparse_coo: 1",)
        monkeypatch.undo()


def test_functions_of_functions_are_passed_by():
    model = net()
    parameters = dict(model.named_parameters())

    def loss(given, x):
        return torch.func.functional_call(model, given, (x,)).sum()

    with tetrace.watch(model) as watch:
        torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, torch.ones(4, 2))
        model(torch.ones(1, 2))
    assert len(watch.table()) == 3
    assert "inside of torch.func" in watch.trace().metadata.notices[0]


def test_what_was_seen_before_it_failed_is_kept_and_said(monkeypatch):
    plain, model, seen = Observer.observe, net(), []

    def observe(self, *args, **kwargs):
        seen.append(args)
        if len(seen) == 5:
            raise RuntimeError("it broke")
        plain(self, *args, **kwargs)

    monkeypatch.setattr(Observer, "observe", observe)
    with contextlib.ExitStack() as stack:
        watch = stack.enter_context(tetrace.watch(model))
        for _ in range(3):
            model(torch.ones(3, 2))
            tetrace.step()
    assert watch.table()["step"].tolist() == [0, 0, 0, 1]
    assert "switched itself off in step 1 (RuntimeError: it broke): 4 observations" in repr(watch)
    assert watch.trace().metadata.notices == ("FP8 inspection switched itself off in step 1 (RuntimeError: it broke)",)
