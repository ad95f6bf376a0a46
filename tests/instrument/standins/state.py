"""The state manager, and the autocast that enters it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch

from tests.instrument.standins.recipes import DelayedScaling, DType, Format


class State:
    def __init__(self) -> None:
        self.global_amax_buffer: dict[str, list[torch.Tensor]] = {}
        self.metas: list[dict[str, Any]] = []
        self.enabled, self.recipe, self.depth = False, None, 0


def state_manager(tex: ModuleType, version: tuple[int, int]) -> type:
    """FP8GlobalStateManager: an object holds its state since 2.15, methods lost `fp8_` in 2.9."""
    held = State()

    class FP8GlobalStateManager:
        state = held

        @classmethod
        def is_fp8_enabled(cls) -> bool:
            return cls.state.enabled

        @classmethod
        def get_fp8_recipe(cls) -> Any:
            return cls.state.recipe

        @classmethod
        def reduce_and_update_fp8_tensors(cls, forward: bool = True) -> None:
            recipe, word = cls.state.recipe, "scaling_fwd" if forward else "scaling_bwd"
            if not cls.state.global_amax_buffer:
                return
            states = [meta[word] for meta in cls.state.metas]
            tex.fused_amax_and_scale_update_after_reduction(
                torch.cat([torch.zeros(0), *(one.amax_history[0] for one in states)]),
                [one.amax_history for one in states],
                [one.scale for one in states],
                "max",
                dtype_of(recipe, forward),
                recipe.margin,
            )

        @staticmethod
        def restore_fp8_meta_tensors(fp8_meta: dict[str, Any]) -> None:
            fp8_meta["restored"] = True

    def enter(cls: Any, enabled: bool = False, calibrating: bool = False, fp8_recipe: Any = None) -> None:
        cls.state.enabled, cls.state.recipe = enabled, fp8_recipe or DelayedScaling()
        cls.state.depth += 1
        if isinstance(cls.state.recipe, DelayedScaling):
            cls.state.global_amax_buffer["forward"] = [torch.zeros(1)]

    def leave(cls: Any, enabled: bool, _graph: bool) -> None:
        cls.state.depth -= 1
        if enabled and not cls.state.depth and torch.is_grad_enabled():
            cls.reduce_and_update_fp8_tensors(forward=True)
        cls.state.enabled = False
        cls.state.global_amax_buffer.clear()

    prefix = "" if version >= (2, 9) else "fp8_"
    setattr(FP8GlobalStateManager, f"{prefix}autocast_enter", classmethod(enter))
    setattr(FP8GlobalStateManager, f"{prefix}autocast_exit", classmethod(leave))
    if version >= (2, 15):
        FP8GlobalStateManager.quantization_state = held
    else:
        FP8GlobalStateManager.global_amax_buffer = held.global_amax_buffer
    return FP8GlobalStateManager


def dtype_of(recipe: Any, forward: bool) -> DType:
    return DType.kFloat8E4M3 if forward or recipe.fp8_format == Format.E4M3 else DType.kFloat8E5M2


def autocast_of(manager: Any, version: tuple[int, int]) -> Any:
    prefix = "" if version >= (2, 9) else "fp8_"
    enter, leave = f"{prefix}autocast_enter", f"{prefix}autocast_exit"

    @contextlib.contextmanager
    def function(enabled: bool = True, fp8_recipe: Any = None) -> Iterator[None]:
        getattr(manager, enter)(enabled, False, fp8_recipe)
        try:
            yield
        finally:
            getattr(manager, leave)(enabled, _graph=False)

    class autocast:  # noqa: N801 - its name since 2.16
        __slots__ = ("enabled", "recipe")

        def __init__(self, enabled: bool = True, recipe: Any = None) -> None:
            self.enabled, self.recipe = enabled, recipe

        def __enter__(self) -> Any:
            getattr(manager, enter)(enabled=self.enabled, calibrating=False, fp8_recipe=self.recipe)
            return self

        def __exit__(self, *error: object) -> None:
            getattr(manager, leave)(self.enabled, _graph=False)

    return autocast if version >= (2, 16) else function
