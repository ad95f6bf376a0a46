"""What-if's scales of delayed scaling are, to the bit, those that Transformer Engine's own update makes of the same amaxes: of
drawn ones, and of those that were recorded of training.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tetrace  # noqa: E402
from tests.fp8 import scale_updates  # noqa: E402
from tests.fp8.scale_updates import RAN, RECIPES, Recipe, Singles  # noqa: E402

pytestmark = pytest.mark.gpu

STEPS, BATCHES, WIDTH = 12, 2, 256
BAD, EMPTY = (5, 1), (3, 0)  # (step, micro-batch) with an Inf in the input, and with an input of zeros


class Real:
    """Transformer Engine's update, of tensors on the GPU."""

    def __init__(self, number: int, recipe: Recipe) -> None:
        self._history = torch.zeros(recipe.length, number, device="cuda")
        self._scale = torch.ones(number, device="cuda")
        self._recipe = recipe

    def update(self, amax: Singles) -> Singles:
        import transformer_engine.pytorch  # noqa: F401 - loads what the next import is linked with
        import transformer_engine_torch as tex

        recipe, given = self._recipe, torch.from_numpy(np.ascontiguousarray(amax)).cuda()
        # Casts leave their amax in the first row: what is reduced is a copy of it.
        self._history[0].copy_(given)
        dtype = getattr(tex.DType, f"kFloat8{recipe.format}")
        tex.fused_amax_and_scale_update_after_reduction(
            given, [self._history], [self._scale], recipe.algorithm, dtype, float(recipe.margin)
        )
        return self._scale.cpu().numpy()


@pytest.mark.parametrize("scaling", ["delayed", "current"])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_of_drawn_amaxes(recipe: Recipe, scaling: str) -> None:
    scale_updates.check(recipe, scaling, Real)


@pytest.fixture(scope="module")
def trained() -> Any:
    """A recording of two linears under delayed scaling, with two micro-batches a step."""
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import DelayedScaling

    torch.manual_seed(3)
    model = torch.nn.Sequential(*(te.Linear(WIDTH, WIDTH, params_dtype=torch.bfloat16) for _ in range(2)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with tetrace.watch(model) as watch:
        for step in range(STEPS):
            for batch in range(BATCHES):
                given = torch.randn(64, WIDTH, dtype=torch.bfloat16, device="cuda") * 1.5**step
                if (step, batch) == BAD:
                    given[3, 5] = float("inf")
                if (step, batch) == EMPTY:
                    given.zero_()
                with te.autocast(enabled=True, recipe=DelayedScaling(amax_history_len=RAN[1])):
                    loss = model(given).float().square().mean()
                loss.backward()
            for parameter in model.parameters():
                # Weights stay finite whatever the Inf made of gradients.
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
            optimizer.step()
            optimizer.zero_grad()
    return watch.trace()


def amaxes_of(trace: Any) -> dict[tuple[str, str], Any]:
    """Updates of each tensor, in order."""
    scales = trace.tables["fp8_scales"].to_pandas()
    return {key: own.sort_values("step", kind="stable") for key, own in scales.groupby(["module", "role"])}


def test_what_was_recorded_is_what_the_update_made(trained: Any) -> None:
    found = amaxes_of(trained)
    assert {role for _, role in found} == {"input", "weight", "grad_output"}
    for (module, role), own in found.items():
        assert len(own) == STEPS * BATCHES, (module, role)
        real = Real(1, Recipe(*RAN, own["format"].iloc[0]))
        made = [real.update(np.float32([amax]))[0] for amax in own["amax"]]
        np.testing.assert_array_equal(own["next_scale"].to_numpy(np.float32), np.array(made), f"{module}.{role}")
    given = found["0", "input"]["amax"].to_numpy()
    place = BAD[0] * BATCHES + BAD[1]
    assert np.flatnonzero(np.isinf(given)).tolist() == [place]
    assert np.flatnonzero(given == 0).tolist() == [EMPTY[0] * BATCHES + EMPTY[1]]


@pytest.mark.parametrize("length", [1, 4, 16])
@pytest.mark.parametrize("algorithm", ["max", "most_recent"])
@pytest.mark.parametrize("margin", [0, 1, 2])
def test_of_recorded_amaxes(trained: Any, algorithm: str, length: int, margin: int) -> None:
    compared = 0
    for (module, role), own in amaxes_of(trained).items():
        recipe = Recipe(algorithm, length, margin, own["format"].iloc[0])
        given = own["amax"].to_numpy(np.float32)
        expected = scale_updates.in_use([np.float32([amax]) for amax in given], Real(1, recipe), 1)[:, 0]
        model = scale_updates.modelled(trained, recipe)[module, role]
        assert len(model) == len(given), (module, role)
        compared += scale_updates.compare(given, model, expected)
    assert compared > 0.7 * 6 * STEPS * BATCHES
