"""Transformer Engine on a GPU against tetrace.fp8: what it raises for a shape is what check_shapes says, and the states
that it saves are read without torch."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tetrace
from tetrace.fp8.checkpoint import ModuleState, read_checkpoint
from tetrace.fp8.shapes import ShapeReport, ShapeRow, check_shapes

pytestmark = pytest.mark.gpu

# Imported by the fixture: where there is no GPU these tests are listed and not run.
torch: Any = None
te: Any = None
recipes: Any = None

RECIPES: dict[str, Callable[[], Any]] = {
    "delayed": lambda: recipes.DelayedScaling(),
    "current": lambda: recipes.Float8CurrentScaling(),
    "block": lambda: recipes.Float8BlockScaling(),
}
# (in_features, out_features, tokens): each side of each rule, and the study's vocabularies.
SHAPES = [
    (64, 64, 8), (64, 64, 16), (64, 64, 24), (64, 64, 7), (64, 64, 12), (64, 24, 16), (64, 20, 16), (24, 64, 16),
    (48, 80, 48), (128, 128, 128), (768, 50264, 64), (768, 50304, 64), (768, 50272, 64), (768, 50257, 64), (64, 24, 24),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _packages() -> None:
    global recipes, te, torch
    torch = importlib.import_module("torch")
    te = pytest.importorskip("transformer_engine.pytorch")
    recipes = importlib.import_module("transformer_engine.common.recipe")


def supported(name: str) -> None:
    """Skips where this GPU or CUDA has no such recipe."""
    from transformer_engine.pytorch.quantization import check_fp8_block_scaling_support, check_fp8_support

    possible, reason = check_fp8_block_scaling_support() if name == "block" else check_fp8_support()
    if not possible:
        pytest.skip(f"{name}: {reason}")


def phases(module: Any, recipe: Any, tokens: int, in_features: int, dtype: Any) -> tuple[str, str]:
    """What forward and backward raise, as `Type: message`; empty where they do not."""
    batch = torch.randn(tokens, in_features, dtype=dtype, device="cuda", requires_grad=True)
    try:
        with te.autocast(enabled=True, recipe=recipe):
            output = module(batch)
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {error}", ""
    try:
        output.backward(torch.randn_like(output))
        torch.cuda.synchronize()
    except Exception as error:
        return "", f"{type(error).__name__}: {error}"
    return "", ""


def predicted(found: ShapeReport) -> tuple[ShapeRow | None, ShapeRow | None]:
    """The first failure of forward; where there is none, of backward."""
    first = found.raises()
    return (first, None) if first and first.phase == "forward" else (None, first)


def agree(happened: tuple[str, str], found: ShapeReport) -> None:
    """Both phases raise or do not as predicted, with the predicted text in the message."""
    for phase, error, row in zip(("forward", "backward"), happened, predicted(found), strict=True):
        expected = row.error if row else ""
        kind, _, text = expected.partition(": ")
        assert bool(error) == bool(expected), f"{phase}: raised {error[:300]!r}, predicted {expected!r}"
        assert error.startswith(kind), f"{phase}: raised {error[:300]!r}, predicted {expected!r}"
        assert text in error, f"{phase}: raised {error[:600]!r}, predicted {expected!r}"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_linear_does_what_was_said(recipe: str, shape: tuple[int, int, int]) -> None:
    supported(recipe)
    in_features, out_features, tokens = shape
    module = te.Linear(in_features, out_features, bias=False, params_dtype=torch.bfloat16)
    found = check_shapes(module, tokens, recipe=RECIPES[recipe]())
    agree(phases(module, RECIPES[recipe](), tokens, in_features, torch.bfloat16), found)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("tokens", [8, 16, 24, 7])
def test_with_a_bias_as_without(recipe: str, tokens: int) -> None:
    supported(recipe)
    module = te.Linear(64, 64, bias=True, params_dtype=torch.bfloat16)
    found = check_shapes(module, tokens, recipe=RECIPES[recipe]())
    agree(phases(module, RECIPES[recipe](), tokens, 64, torch.bfloat16), found)


@pytest.mark.parametrize("ffn", [256, 24, 72])
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_mlp_does_what_was_said(recipe: str, ffn: int) -> None:
    supported(recipe)
    module = te.LayerNormMLP(128, ffn, params_dtype=torch.bfloat16)
    found = check_shapes(module, 64, recipe=RECIPES[recipe]())
    agree(phases(module, RECIPES[recipe](), 64, 128, torch.bfloat16), found)


@pytest.mark.parametrize(
    ("in_features", "out_features", "tokens"), [(64, 64, 24), (64, 24, 16), (64, 64, 32), (24, 64, 16)]
)
@pytest.mark.parametrize("recipe", RECIPES)
def test_an_operation_does_what_was_said(recipe: str, in_features: int, out_features: int, tokens: int) -> None:
    """te.ops checks nothing in Python: what the GEMM itself takes."""
    supported(recipe)
    module = te.ops.Linear(in_features, out_features, bias=False, dtype=torch.bfloat16)
    found = check_shapes(module, tokens, recipe=RECIPES[recipe]())
    agree(phases(module, RECIPES[recipe](), tokens, in_features, torch.bfloat16), found)


@pytest.mark.parametrize("splits", [[16, 32, 16], [16, 24, 24], [8, 40, 16]])
def test_groups_do_what_was_said(splits: list[int]) -> None:
    module = te.GroupedLinear(len(splits), 64, 64, bias=False, params_dtype=torch.bfloat16)
    found = check_shapes(module, {"*": splits}, recipe="delayed")

    class Called(torch.nn.Module):
        def forward(self, batch: Any) -> Any:
            return module(batch, splits)

    agree(phases(Called(), recipes.DelayedScaling(), sum(splits), 64, torch.bfloat16), found)


def trained(margin: int = 0) -> Any:
    """A layer with linears, an MLP and attention, after five steps of delayed scaling with a short history."""
    torch.manual_seed(1)
    model = te.TransformerLayer(128, 512, 4, params_dtype=torch.bfloat16, hidden_dropout=0.0, attention_dropout=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    recipe = recipes.DelayedScaling(margin=margin, amax_history_len=16)
    for _ in range(5):
        with te.autocast(enabled=True, recipe=recipe):
            output = model(torch.randn(32, 4, 128, dtype=torch.bfloat16, device="cuda"))
        output.float().square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def read_elsewhere(path: Path) -> Any:
    """The checkpoint as JSON, by a process that cannot import torch or Transformer Engine."""
    script = """
import json, sys
sys.modules["torch"] = sys.modules["transformer_engine"] = None
from tetrace.cli.main import main
main(["fp8", "checkpoint", sys.argv[1], "--json"])
"""
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("margin", [0, 2])
def test_scales_in_a_checkpoint_are_those_of_the_model(margin: int, tmp_path: Path) -> None:
    model = trained(margin)
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = {module.module: module for module in read_checkpoint(tmp_path / "model.pt").modules}
    own = {name: module for name, module in model.named_modules() if f"{name}._extra_state" in model.state_dict()}
    assert set(own) == set(found)
    seen = 0
    for name, module in own.items():
        for key, direction in (("scaling_fwd", "forward"), ("scaling_bwd", "backward")):
            state = module.fp8_meta.get(key)
            if getattr(state, "amax_history", None) is None or not found[name].tensors:
                continue
            seen += 1
            tensors = [tensor for tensor in found[name].tensors if tensor.direction == direction]
            assert [tensor.scale for tensor in tensors] == state.scale.tolist()
            assert [tensor.newest for tensor in tensors] == state.amax_history[-1].tolist()
            assert [tensor.history_max for tensor in tensors] == state.amax_history[1:].amax(0).tolist()
    assert seen >= 6
    flagged = {name: module for name, module in found.items() if module.is_flagged}
    assert not flagged, flagged
    rows = read_elsewhere(tmp_path / "model.pt")["rows"]
    assert [row["scale"] for row in rows if row["tensor"]] == [
        tensor.scale for module in found.values() for tensor in module.tensors if tensor.tensor
    ]


def test_a_scale_that_was_reset_is_found(tmp_path: Path) -> None:
    model = trained()
    linear = model.self_attention.proj
    linear.fp8_meta["scaling_fwd"].scale[1] = 1.0
    torch.save(model.state_dict(), tmp_path / "model.pt")
    found = read_checkpoint(tmp_path / "model.pt").flagged
    assert [(module.module, _flagged(module)) for module in found] == [("self_attention.proj", ["weight"])]


def _flagged(module: ModuleState) -> list[str]:
    return [tensor.tensor for tensor in module.tensors if tensor.flags]


@pytest.mark.parametrize("recipe", ["current", "block"])
def test_recipes_without_a_state_save_none(recipe: str, tmp_path: Path) -> None:
    supported(recipe)
    model = te.Linear(128, 128, params_dtype=torch.bfloat16)
    with te.autocast(enabled=True, recipe=RECIPES[recipe]()):
        model(torch.randn(32, 128, dtype=torch.bfloat16, device="cuda"))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    (module,) = read_checkpoint(tmp_path / "model.pt").modules
    assert (module.status, module.tensors, module.flags) == ("empty", (), ())


def test_a_folder_of_distributed_checkpoints(tmp_path: Path) -> None:
    from torch.distributed import checkpoint as dcp

    model = trained()
    torch.save(model.state_dict(), tmp_path / "model.pt")
    dcp.save(model.state_dict(), checkpoint_id=tmp_path / "folder", no_dist=True)
    by_name = [
        sorted(read_checkpoint(path).modules, key=lambda module: module.module)
        for path in (tmp_path / "model.pt", tmp_path / "folder")
    ]
    assert by_name[0] == by_name[1]


def test_the_package_has_both() -> None:
    assert tetrace.fp8.check_shapes is check_shapes
    assert tetrace.fp8.read_checkpoint is read_checkpoint
