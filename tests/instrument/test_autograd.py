"""Ranges of the backward pass: every node under the module that made it, however backward runs."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.instrument.runs import Block, Net, Row, checkpoint, names, nn, process_folder, read, record, torch
from tetrace.errors import TetraceError
from tetrace.instrument import autograd, observer

MLP = ["mlp.2", "mlp.1", "mlp.0"]


def backward_of(path: str) -> list[str]:
    """The modules of a block in the order of their backward; the block's own node is the addition."""
    return [path, *(f"{path}.{part}" for part in ("dropout", *MLP, "norm"))]


@pytest.fixture(scope="module", autouse=True)
def _observing() -> None:
    try:
        observer.load()
    except TetraceError as error:
        pytest.skip(str(error))


def run(tmp_path: Path, model: Any, **options: Any) -> list[Row]:
    """The ranges of one forward and backward; the loss is computed outside every module."""
    return record(tmp_path, lambda: model(torch.randn(2, 8)).pow(2).sum().backward(), **options)


def test_nodes_are_under_the_module_that_made_them(tmp_path: Path) -> None:
    rows = run(tmp_path, Net())
    assert names(rows, phase="backward") == ["head", *backward_of("layers.1"), *backward_of("layers.0")]
    assert names(rows, "loss") == ["(loss)"]
    (engine,) = (row for row in rows if row.kind == "backward")
    inside = [row for row in rows if row.phase == "backward" and row.kind != "backward"]
    assert all(engine.start_ns <= row.start_ns <= row.end_ns <= engine.end_ns for row in inside)
    assert json.loads((process_folder(tmp_path) / "process.json").read_text())["autograd"] == "observer"


@pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
def test_a_checkpoint_recomputes_and_then_goes_back(reentrant: bool, tmp_path: Path) -> None:
    model = Net(call=functools.partial(checkpoint, use_reentrant=reentrant))
    rows = record(tmp_path, lambda: model(torch.randn(2, 8, requires_grad=True)).sum().backward())
    forward = [path for path, _ in model.layers[0].named_modules(prefix="layers.0")]
    assert names(rows, phase="recompute") == [path.replace("0", "1", 1) for path in forward] + forward
    backward = [name for name in names(rows, phase="backward") if name != "Net"]  # Net called the checkpoint
    assert backward == ["head", *backward_of("layers.1"), *backward_of("layers.0")]
    assert len([row for row in rows if row.kind == "backward"]) == 1


def test_a_gradient_of_a_gradient_has_its_module_too(tmp_path: Path) -> None:
    first, second = nn.Linear(8, 8), nn.Tanh()
    model = nn.Sequential(first, second)

    def body() -> None:
        x = torch.randn(2, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        gradient.pow(2).sum().backward()

    rows = record(tmp_path, body)
    assert len([row for row in rows if row.kind == "backward"]) == 2
    assert names(rows, phase="backward")[:2] == ["1", "0"]
    # What a backward node makes belongs to its module's backward, and so does the backward of that.
    assert {"0", "1"} <= set(names([row for row in rows if row.start_ns > last_engine(rows).start_ns]))


def last_engine(rows: list[Row]) -> Row:
    return [row for row in rows if row.kind == "backward"][-1]


class Double(torch.autograd.Function):
    """Twice its input."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        """Doubles."""
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> Any:
        """Doubles, through a module."""
        return Doubler.helper(gradient)


class Doubler(nn.Module):
    """Calls a custom function whose backward calls a module."""

    helper: Any = nn.Identity()

    def forward(self, x: Any) -> Any:
        """Twice `x`."""
        return Double.apply(x)


def test_a_custom_function_is_under_its_module(tmp_path: Path) -> None:
    rows = run(tmp_path, nn.Sequential(nn.Linear(8, 8), Doubler()))
    assert names(rows, phase="backward") == ["1", "0"]
    assert names(rows, phase="recompute") == ["Identity"]


def test_an_exception_in_backward_leaves_nothing_open(tmp_path: Path) -> None:
    model = Block()

    def fail(_: Any) -> None:
        raise ValueError("from a hook")

    def body() -> None:
        x = torch.randn(2, 8, requires_grad=True)
        x.register_hook(fail)
        with pytest.raises(ValueError, match="from a hook"):
            model(x).sum().backward()
        model(torch.randn(2, 8))

    rows = record(tmp_path, body)
    assert all(row.end_ns for row in rows)
    assert [row.depth for row in rows if row.name == "Block" and row.phase == "forward"] == [0, 0]


def test_threads_of_the_script_keep_their_modules_apart(tmp_path: Path) -> None:
    import threading

    models = Block(), nn.Sequential(nn.Linear(8, 8), nn.Tanh())

    def work(model: Any) -> None:
        for _ in range(20):
            model(torch.randn(2, 8)).sum().backward()

    def body() -> None:
        threads = [threading.Thread(target=work, args=(model,)) for model in models]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    by_thread = [part for part in split_by_thread(record(tmp_path, body)) if names(part)]
    backward = [{row.name for row in part if (row.kind, row.phase) == ("module", "backward")} for part in by_thread]
    other = {"Sequential.0", "Sequential.1"}
    assert sorted(backward, key=len) == [other, {"Block", *(f"{part}" for part in ("dropout", *MLP, "norm"))}]
    assert [sum(row.kind == "backward" for row in part) for part in by_thread] == [20, 20]


def split_by_thread(rows: list[Row]) -> list[list[Row]]:
    """Rows come thread by thread, each in order of starts."""
    parts: list[list[Row]] = [[]]
    for row in rows:
        if parts[-1] and row.start_ns < parts[-1][-1].start_ns:
            parts.append([])
        parts[-1].append(row)
    return parts


def test_without_the_observer_hooks_at_the_borders_say_nearly_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> Any:
        raise TetraceError("no C++ compiler")

    monkeypatch.setattr(autograd, "load", missing)
    rows = run(tmp_path, Net())
    found = [name for name in names(rows, phase="backward") if name != "Net"]
    assert found == ["head", *backward_of("layers.1"), *backward_of("layers.0")]
    assert all(row.end_ns for row in rows)
    about = json.loads((process_folder(tmp_path) / "process.json").read_text())
    assert about["autograd"] == "hooks"
    assert any("no C++ compiler" in notice for notice in about["notices"])


DDP = """
    import os, sys, torch, tetrace
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    tetrace.instrument(folder=sys.argv[1])
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8)))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        model(torch.randn(2, 8)).sum().backward()
        optimizer.step()
    torch.distributed.destroy_process_group()
"""


def test_ddp_with_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(DDP))
    shared = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(29500 + os.getpid() % 1000)}
    runs = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / f"rank{rank}")],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [run.wait(timeout=120) for run in runs] == [0, 0]
    for rank in range(2):
        rows = read(tmp_path / f"rank{rank}")
        assert names(rows, phase="backward") == ["2", "1", "0"] * 2
        assert names(rows, phase="forward")[:4] == ["Sequential", "0", "1", "2"]
        assert json.loads((process_folder(tmp_path / f"rank{rank}") / "process.json").read_text())["rank"] == rank


def test_the_observer_is_built_once(compiler: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(TetraceError, match="not built"):
        observer.load()
    built = observer.build()
    assert tmp_path in built.parents
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert observer.build() == built
    assert observer.load()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    with pytest.raises(TetraceError, match=r"C\+\+ compiler"):
        observer.build()


def test_a_compiler_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: no such header' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(TetraceError, match="no such header; set CXX"):
        observer.build()
    assert not list((tmp_path / "cache").rglob("*.so"))
