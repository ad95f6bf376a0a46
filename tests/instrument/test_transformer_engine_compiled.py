"""What tetrace records of Transformer Engine under torch.compile, and that nothing is compiled otherwise for it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from tests.instrument import standins  # noqa: E402
from tests.instrument.runs import record  # noqa: E402
from tetrace.instrument import attention, recipes  # noqa: E402

PREFIX = "transformer_engine.pytorch"


class Operator(nn.Module):
    """What te.Linear is under torch.compile."""

    def __init__(self, op, features, out):
        super().__init__()
        self.op, self.weight = op, nn.Parameter(torch.randn(out, features))

    def forward(self, x):
        return self.op(self.weight, x)


def test_a_compiled_linear_has_its_modules_name_and_its_tensors_roles(tmp_path):
    def change(made):
        parts = standins.compiled_linear(made["transformer_engine_torch"], "standin")
        vars(made[f"{PREFIX}.module.linear"]).update(parts)

    with standins.installed("2.20.2", change) as made:
        op = made[f"{PREFIX}.module.linear"].op

        def body():
            model = nn.ModuleDict({"up": Operator(op, 8, 16), "down": Operator(op, 16, 8)})
            whole = nn.Sequential(model["up"], nn.GELU(), model["down"])
            compiled = torch.compile(whole, backend="aot_eager", fullgraph=True)
            for _ in range(2):
                x = torch.randn(4, 8, requires_grad=True)
                compiled(x).sum().backward()

        rows = record(tmp_path, body)
    rows.sort(key=lambda row: row.start_ns)
    calls = [row.described for row in rows if row.kind in ("quantize", "gemm")]
    found = [(call["module"].rpartition(".")[2], call["role"]) for call in calls]

    def forward(path):
        return [(path, "input"), (path, "weight"), (path, "fprop")]

    def backward(path):
        return [(path, "grad_output"), (path, "input"), (path, "dgrad"), (path, "wgrad")]

    assert found == [*forward("0"), *forward("2"), *backward("2"), *backward("0")] * 2
    phases = {row.described["phase"] for row in rows if row.kind == "module" and row.described["module"].endswith("0")}
    assert phases == {"forward", "backward"}


class Manager:
    """A state manager that Dynamo can trace, as it can TE's since 2.16."""

    depth = 0

    @classmethod
    def autocast_enter(cls, enabled=False):
        cls.depth += 1

    @classmethod
    def autocast_exit(cls, enabled, _graph):
        cls.depth -= 1
        cls.reduce_and_update_fp8_tensors(forward=True)

    @classmethod
    def reduce_and_update_fp8_tensors(cls, forward=True):
        pass


class Backend(nn.Module):
    """Attention that Dynamo can trace."""

    def forward(self, x):
        return x * 2


def test_what_torch_compile_sees_stays_the_same(tmp_path):
    graphs, backend = [], Backend()

    def keep(graph, _):
        graphs.append(str(graph.graph))
        return graph.forward

    def whole(x):
        Manager.autocast_enter(enabled=True)
        y = backend(x) + 1
        Manager.autocast_exit(True, _graph=False)
        return y

    def compiled():
        torch._dynamo.reset()
        torch.compile(whole, backend=keep, fullgraph=True)(torch.randn(4, 8))

    def patched():
        undo = [recipes.install(Manager)[0], attention.install({"UnfusedDotProductAttention": Backend}, None)[0]]
        compiled()
        assert Manager.depth == 0
        for restore in undo:
            restore()

    compiled()
    rows = record(tmp_path, patched)
    assert len(graphs) == 2
    assert graphs[0] == graphs[1]
    assert not [row for row in rows if row.kind in ("autocast", "attention", "scale_update")]
