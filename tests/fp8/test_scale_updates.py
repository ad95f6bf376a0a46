"""What-if's scales of delayed scaling are those that its update makes of the same amaxes. On a GPU Transformer Engine's own
update takes the place of the one here (tests/gpu/test_live_scale_updates.py)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.fp8 import scale_updates
from tests.fp8.scale_updates import RECIPES, Plain, Recipe


@pytest.mark.parametrize("scaling", ["delayed", "current"])
@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_model_is_the_update(recipe: Recipe, scaling: str) -> None:
    scale_updates.check(recipe, scaling, Plain)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe("max", 1, 0), [1, 448, 448, 224, 224, 112, 56, 448]),
        (Recipe("most_recent", 4, 1), [1, 224, 224, 112, 112, 56, 28, 224]),
        (Recipe("max", 2, 0), [1, 448, 448, 224, 224, 224, 56, 56]),
        (Recipe("max", 16, 2, "E5M2"), [1, 14336, 14336, 7168, 7168, 7168, 7168, 7168]),
    ],
    ids=str,
)
def test_scales_by_hand(recipe: Recipe, expected: list[float]) -> None:
    """Amaxes 1, 0, 2, Inf, 4, 8, 1: after each, the scale of the next cast."""
    found = [np.float32([amax]) for amax in (1, 0, 2, np.inf, 4, 8, 1)]
    begun = Plain(1, recipe)
    assert [1.0, *(float(begun.update(amax)[0]) for amax in found)] == expected
