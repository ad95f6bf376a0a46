"""Instrumented training is bit for bit what it is without, and torch.compile makes the same graphs."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.instrument.runs import Block, Net, checkpoint, nn, torch, train
from tetrace.instrument import autograd, start

CALLS: dict[str, Callable[[Any, Any], Any]] = {
    "plain": lambda layer, x: layer(x),
    "checkpoint": functools.partial(checkpoint, use_reentrant=False),
    "reentrant": functools.partial(checkpoint, use_reentrant=True),
}


@contextmanager
def instrumented(on: bool) -> Iterator[None]:
    """Instrumentation in this process, if `on`."""
    with tempfile.TemporaryDirectory() as folder:
        if on:
            start.start(Path(folder), {})
        try:
            yield
        finally:
            start.stop()


def trained(on: bool, call: str, compiled: str, accumulate: int) -> tuple[list[float], list[Any], Any]:
    """Losses, weights and the state of the random numbers after 20 steps from one seed."""
    torch._dynamo.reset()
    torch.manual_seed(7)
    model: Any = Net(CALLS[call])
    with instrumented(on):
        if compiled == "in place":
            model.compile(backend="eager")
        elif compiled:
            model = torch.compile(model, backend=compiled)
        losses = train(model, steps=20, accumulate=accumulate)
    return losses, [parameter.detach().clone() for parameter in model.parameters()], torch.get_rng_state()


@pytest.mark.parametrize(
    ("call", "compiled", "accumulate", "observing"),
    [
        *[(call, "", 2, observing) for call in CALLS for observing in (True, False)],
        *[("plain", compiled, 2, True) for compiled in ("eager", "aot_eager", "in place")],
        ("checkpoint", "aot_eager", 1, True),
    ],
)
def test_training_is_bit_for_bit_the_same(
    call: str, compiled: str, accumulate: int, observing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not observing:
        monkeypatch.setattr(autograd, "can_observe", lambda: False)
    plain = trained(False, call, compiled, accumulate)
    again = trained(False, call, compiled, accumulate)
    ours = trained(True, call, compiled, accumulate)
    for other in (again, ours):
        assert other[0] == plain[0]
        assert all(map(torch.equal, other[1], plain[1]))
        assert torch.equal(other[2], plain[2])


class Broken(Block):
    """A block that cannot be compiled in one piece."""

    def forward(self, x: Any) -> Any:
        """The block's output."""
        y = self.mlp(self.norm(x))
        torch._dynamo.graph_break()
        return x + self.mlp(y)


def compile_module(model: Any, **options: Any) -> Callable[[Any], Any]:
    return torch.compile(model, **options)


def compile_in_place(model: Any, **options: Any) -> Callable[[Any], Any]:
    model.compile(**options)
    return model


def compile_function(model: Any, **options: Any) -> Callable[[Any], Any]:
    return torch.compile(lambda x: model(x).sum(), **options)


def compile_step(model: Any, **options: Any) -> Callable[[Any], Any]:
    optimizer = torch.optim.AdamW(model.parameters())

    def step(x: Any) -> Any:
        loss = model(x).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return torch.compile(step, **options)


def graphs(how: Callable[..., Callable[[Any], Any]], kind: type, hooked: int, when: str) -> tuple[Any, ...]:
    """What Dynamo captured of three calls, the last with another shape: results, graphs, breaks, recompiles."""
    from torch._dynamo.testing import CompileCounterWithBackend
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    torch.manual_seed(7)
    model, backend = nn.Sequential(kind(), kind()).eval(), CompileCounterWithBackend("eager")
    if hooked:
        model[0].mlp.register_forward_hook(lambda module, inputs, output: output * 1.5)
    with instrumented(when == "before"):
        run = how(model, backend=backend)
        with instrumented(when == "after"):
            found = [run(torch.ones(rows, 8)).sum().item() for rows in (2, 2, 3)]
    captured = [[(node.op, str(node.target)) for node in graph.graph.nodes] for graph in backend.graphs]
    return found, captured, sum(counters["graph_break"].values()), dict(counters["recompiles"])


@pytest.mark.parametrize(
    ("how", "kind", "hooked"),
    [
        *[(how, Block, hooked) for how in (compile_module, compile_in_place, compile_function) for hooked in (0, 1)],
        *[(how, Broken, 0) for how in (compile_module, compile_in_place)],
        (compile_step, Block, 0),
    ],
)
def test_the_graphs_of_compile_are_the_same(how: Any, kind: type, hooked: int) -> None:
    plain = graphs(how, kind, hooked, "never")
    assert plain[1]
    assert graphs(how, kind, hooked, "before") == plain
    assert graphs(how, kind, hooked, "after") == plain
