"""Ranges of modules: their names, their nesting, and that the modules themselves stay as they are."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.instrument.runs import Block, Net, names, nn, record, torch
from tetrace.instrument import modules

BLOCK = ["norm", "mlp", "mlp.0", "mlp.1", "mlp.2", "dropout"]


def inside(path: str) -> list[str]:
    return [path, *(f"{path}.{part}" for part in BLOCK)]


def test_paths_are_those_of_named_modules(tmp_path: Path) -> None:
    model = Net()
    rows = record(tmp_path, lambda: model(torch.randn(2, 8)))
    assert names(rows, phase="forward") == ["Net", *inside("layers.0"), *inside("layers.1"), "head"]
    assert set(names(rows)) - {"Net"} == {path for path, _ in model.named_modules()} - {"", "layers"}
    assert [row.depth for row in rows if row.name in ("Net", "layers.0", "layers.0.mlp.0")] == [0, 1, 3]
    assert {row.described["class"] for row in rows if row.name == "layers.1"} == {"Block"}


class DistributedDataParallel(nn.Module):
    """Wraps as torch's does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        """The wrapped module's output."""
        return self.module(x)


class CheckpointWrapper(nn.Module):
    """Wraps as torch's does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._checkpoint_wrapped_module = module

    def forward(self, x: Any) -> Any:
        """The wrapped module's output."""
        return self._checkpoint_wrapped_module(x)


def test_wrappers_leave_no_trace_in_paths(tmp_path: Path) -> None:
    inner = Net()
    inner.layers[1] = CheckpointWrapper(inner.layers[1])
    model = DistributedDataParallel(inner)
    rows = record(tmp_path, lambda: model(torch.randn(2, 8)))
    assert set(names(rows)) == {"Net", *inside("layers.0"), *inside("layers.1"), "head"}
    assert [row.described["class"] for row in rows if row.name == "Net"] == ["DistributedDataParallel", "Net"]


def test_the_largest_model_has_bare_paths(tmp_path: Path) -> None:
    large, small, loss = Net(width=16), Block(), nn.MSELoss()
    rows = record(tmp_path, lambda: loss(small(torch.randn(2, 8)), large(torch.randn(2, 16))[:, :8]))
    assert set(names(rows)) == {
        *("Block", *(f"Block.{part}" for part in BLOCK), "MSELoss"),
        *("Net", *inside("layers.0"), *inside("layers.1"), "head"),
    }


def test_models_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    student, teacher = Block(), Block()
    rows = record(tmp_path, lambda: (student(torch.randn(2, 8)), teacher(torch.randn(2, 8))))
    assert names(rows) == ["student", *BLOCK, "teacher", *(f"teacher.{part}" for part in BLOCK)]


@pytest.mark.parametrize("kind", [list, nn.ModuleList, nn.Sequential], ids=lambda kind: kind.__name__)
def test_layers_that_no_model_holds_have_the_variables_name(kind: Any, tmp_path: Path) -> None:
    blocks = [Block(), Block()]
    layers = nn.Sequential(*blocks) if kind is nn.Sequential else kind(blocks)
    del blocks

    def body() -> None:
        x = torch.randn(2, 8)
        for layer in layers:
            x = layer(x)

    assert names(record(tmp_path, body)) == [*inside("layers.0"), *inside("layers.1")]


def test_looking_for_a_variable_keeps_no_tensor_alive(tmp_path: Path) -> None:
    layers = [Block(), Block()]
    alive = []

    def body() -> None:
        import weakref

        x = torch.randn(2, 8)
        alive.append(weakref.ref(x))
        layers[0](x)
        del x
        assert alive[0]() is None

    record(tmp_path, body)


def test_what_locals_gave_the_script_stays_whole(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    def body() -> None:
        first, second = Net(), Net()
        mine = locals()
        (first(torch.randn(2, 8)) + second(torch.randn(2, 8))).sum().backward()
        kept.update(mine)

    record(tmp_path, body)
    assert {"first", "second"} <= kept.keys()


def test_models_that_are_gone_leave_their_names(tmp_path: Path) -> None:
    def body() -> None:
        for _ in range(5):
            nn.MSELoss()(torch.ones(2), torch.zeros(2))

    rows = record(tmp_path, body)
    assert set(names(rows, "module", "forward")) == {"MSELoss"}


def test_modules_made_while_the_model_runs_are_named(tmp_path: Path) -> None:
    model = Net()

    def body() -> None:
        model(torch.randn(2, 8))
        model.extra = nn.Linear(8, 8)
        model.extra(torch.randn(2, 8))

    assert names(record(tmp_path, body))[-1] == "extra"


def test_coarse_keeps_roots_their_children_and_members_of_containers(tmp_path: Path) -> None:
    model = Net()
    rows = record(tmp_path, lambda: model(torch.randn(2, 8)), ranges="coarse")
    kept = [path for layer in (0, 1) for path in inside(f"layers.{layer}") if not path.endswith(("norm", "mlp", "out"))]
    assert names(rows) == ["Net", *kept, "head"]


def test_off_records_steps_only(tmp_path: Path) -> None:
    model = Net()
    plain = nn.Module._call_impl

    def body() -> None:
        assert nn.Module._call_impl is plain
        model(torch.randn(2, 8))

    assert [row.kind for row in record(tmp_path, body, ranges="off")] == ["step"]


class Failing(nn.Module):
    """Leaves a range of its own open, and raises."""

    def forward(self, x: Any) -> Any:
        """Raises `ValueError`."""
        import tetrace

        tetrace.annotate("left open").__enter__()
        raise ValueError("as it was")


def test_an_exception_comes_through_and_closes_what_it_left_open(tmp_path: Path) -> None:
    failing, after = Failing(), nn.Linear(8, 8)

    def body() -> None:
        with pytest.raises(ValueError, match="as it was"):
            nn.Sequential(failing)(torch.randn(2, 8))
        after(torch.randn(2, 8))

    rows = record(tmp_path, body)
    assert all(row.end_ns for row in rows)
    assert [row.depth for row in rows if row.described.get("class") == "Linear"] == [0]


def test_modules_are_not_written_on_and_patches_come_out(tmp_path: Path) -> None:
    model = Net()
    before = {path: set(vars(module)) for path, module in model.named_modules()}
    classes = {name: vars(nn.Module).get(name) for name in ("_call_impl", "compile", "__call__")}
    record(tmp_path, lambda: model(torch.randn(2, 8)).sum().backward())
    assert {path: set(vars(module)) for path, module in model.named_modules()} == before
    assert {name: vars(nn.Module).get(name) for name in classes} == classes


def test_copies_pickles_traces_and_exports_are_as_without(tmp_path: Path) -> None:
    model, x = Block().eval(), torch.randn(2, 8)
    plain = results(model, x)

    def body() -> None:
        model(x)
        assert results(model, x) == plain

    record(tmp_path, body)


def results(model: Any, x: Any) -> list[str]:
    """What pickle, fx, jit and export make of `model`."""
    return [
        str(pickle.loads(pickle.dumps(model))),
        str(copy.deepcopy(model)),
        str(torch.fx.symbolic_trace(model).graph),
        str([node.kind() for node in torch.jit.trace(model, x).inlined_graph.nodes()]),
        str(torch.export.export(model, (x,)).graph),
    ]


def test_the_current_module_is_found_by_its_range(tmp_path: Path) -> None:
    seen: list[object] = []

    class Asking(nn.Module):
        def forward(self, x: Any) -> Any:
            seen.append(modules.current_module_object())
            return x

    asking = Asking()
    record(tmp_path, lambda: asking(torch.randn(1)))
    assert seen == [asking]
    assert modules.current_module_object() is None


def test_compiled_modules_have_a_range_of_their_own(tmp_path: Path) -> None:
    model = Net()
    model.head = torch.compile(model.head, backend="aot_eager")
    rows = record(tmp_path, lambda: model(torch.randn(2, 8)).sum().backward())
    assert names(rows, "compiled", "forward") == ["(compiled: head)"]
    assert names(rows, "compiled", "backward") == ["(compiled: head)"]
    assert "head" not in names(rows)


def test_a_model_compiled_in_place_keeps_its_range(tmp_path: Path) -> None:
    model = Net()

    def body() -> None:
        model.compile(backend="aot_eager")
        model(torch.randn(2, 8)).sum().backward()

    rows = record(tmp_path, body)
    assert names(rows, phase="forward") == ["Net"]
    assert names(rows, phase="backward") == ["Net"]


def test_a_patch_over_the_patch_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, plain = Block(), nn.Module._call_impl
    monkeypatch.setattr(modules, "_left_in", False)

    def body() -> None:
        ours = nn.Module._call_impl
        nn.Module._call_impl = lambda self, *args, **kwargs: ours(self, *args, **kwargs)
        model(torch.randn(2, 8))

    try:
        for turn in range(2):
            rows = record(tmp_path / str(turn), body if turn == 0 else lambda: model(torch.randn(2, 8)))
            assert names(rows) == ["Block", *BLOCK]
            assert not modules.is_installed(), "what watches next in this process would install nothing"
    finally:
        nn.Module._call_impl = plain
