"""FP8: what formats, scales and shapes do, without running anything.

Of a recording that `tetrace record --fp8` made: `check_health(trace)` says what is wrong, worst first,
`find_nonfinite(trace)` where NaN and Inf came from, `tensor_history(trace, name)` one tensor step by step,
`what_if(trace, recipe=..., format=..., margin=...)` what another recipe would have done, `compare(a, b)` where two runs
part. `check_shapes(model, tokens)` says which linears have dimensions that FP8 refuses, `read_checkpoint(path)` what a
checkpoint says of scales. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tetrace.fp8.checkpoint import Checkpoint, read_checkpoint
    from tetrace.fp8.comparison import compare
    from tetrace.fp8.health import check_health
    from tetrace.fp8.history import tensor_history
    from tetrace.fp8.nonfinite import find_nonfinite
    from tetrace.fp8.shapes import ShapeReport, check_shapes
    from tetrace.fp8.statistics import Estimate, TensorStats, from_histogram
    from tetrace.fp8.tensor_stats import inspect
    from tetrace.fp8.whatif import what_if

_PUBLIC = {
    "inspect": "tetrace.fp8.tensor_stats",
    "TensorStats": "tetrace.fp8.statistics",
    "Estimate": "tetrace.fp8.statistics",
    "from_histogram": "tetrace.fp8.statistics",
    "check_health": "tetrace.fp8.health",
    "find_nonfinite": "tetrace.fp8.nonfinite",
    "tensor_history": "tetrace.fp8.history",
    "what_if": "tetrace.fp8.whatif",
    "compare": "tetrace.fp8.comparison",
    "check_shapes": "tetrace.fp8.shapes",
    "ShapeReport": "tetrace.fp8.shapes",
    "read_checkpoint": "tetrace.fp8.checkpoint",
    "Checkpoint": "tetrace.fp8.checkpoint",
}

__all__ = [
    "Checkpoint",
    "Estimate",
    "ShapeReport",
    "TensorStats",
    "check_health",
    "check_shapes",
    "compare",
    "find_nonfinite",
    "from_histogram",
    "inspect",
    "read_checkpoint",
    "tensor_history",
    "what_if",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tetrace.fp8' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_PUBLIC[name]), name)
