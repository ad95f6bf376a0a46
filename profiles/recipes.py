"""FP8 recipes by the names that the studies and scripts beside this file give them."""

from transformer_engine.common import recipe


def fp8_recipe(name: str, **delayed):
    """The recipe of a name; None, for BF16, of `none`. `delayed`: further arguments of DelayedScaling (margin, ...).

    `hybrid` and `delayed` are the same: delayed scaling, E4M3 in the forward and E5M2 in the backward. `e4m3` is delayed
    scaling with E4M3 in both.
    """
    makers = {
        "none": lambda: None,
        "delayed": lambda: recipe.DelayedScaling(fp8_format=recipe.Format.HYBRID, **delayed),
        "hybrid": lambda: recipe.DelayedScaling(fp8_format=recipe.Format.HYBRID, **delayed),
        "e4m3": lambda: recipe.DelayedScaling(fp8_format=recipe.Format.E4M3, **delayed),
        "current": recipe.Float8CurrentScaling,
        "block": recipe.Float8BlockScaling,
    }
    return makers[name]()
