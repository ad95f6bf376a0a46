"""`rows` of tetrace.watch on a GPU: kernels and learned calls look at every N-th row of large tensors, and only there."""

from __future__ import annotations

import pytest

import tetrace

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.gpu

TOKENS, HIDDEN, EVERY, STEPS = 4096, 1024, 4, 3


@pytest.mark.parametrize("recipe", ["delayed", "current", "block"])
def test_every_fourth_row_has_the_numbers_of_a_sample(recipe: str) -> None:
    te = pytest.importorskip("transformer_engine.pytorch")
    from transformer_engine.common import recipe as recipes

    made = {
        "delayed": recipes.DelayedScaling,
        "current": recipes.Float8CurrentScaling,
        "block": recipes.Float8BlockScaling,
    }
    torch.manual_seed(0)
    layer = te.Linear(HIDDEN, 64, params_dtype=torch.bfloat16)
    given = torch.randn(TOKENS, HIDDEN, device="cuda", dtype=torch.bfloat16)
    with tetrace.watch(layer, rows=EVERY) as watch:
        for _ in range(STEPS):  # the first call of a kind is observed in Python, the others in C++
            with te.autocast(enabled=True, recipe=made[recipe]()):
                layer(given).float().sum().backward()
            tetrace.step()
    rows = watch.table()
    rows = rows[rows["source"] == "input"]
    inputs = rows[rows["role"] == "input"]
    assert len(inputs) == STEPS
    some = given if recipe == "block" else given[::EVERY]
    for row in inputs.to_dict("records"):
        assert (row["elements"], row["tensor_elements"]) == (some.numel(), given.numel())
        assert row["amax"] == float(some.float().abs().max())
        assert row["zeros"] == int((some == 0).sum())
        assert row["mean_square"] == pytest.approx(float(some.double().square().mean()), rel=1e-6)
    weights = rows[rows["role"] == "weight"]
    assert (weights["elements"] == weights["tensor_elements"]).all()
    bins = watch.histograms()
    counted = bins.groupby("order")["count"].sum().reindex(inputs["order"])
    assert (counted.to_numpy() == (inputs["elements"] - inputs["zeros"]).to_numpy()).all()
