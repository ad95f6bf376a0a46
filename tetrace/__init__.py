"""tetrace: where a Transformer Engine training step spends its time.

`load(path)` reads a recording, `analyze(trace)` breaks it down. In a training script, `annotate(name)` names a piece of
it, `step()` ends a step, and `instrument()` records under another profiler. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tetrace.breakdown.analysis import Breakdown
    from tetrace.errors import InputError, TetraceError, UsageError
    from tetrace.instrument.ranges import annotate
    from tetrace.instrument.start import instrument
    from tetrace.instrument.user_steps import step
    from tetrace.sources.detect import load
    from tetrace.trace.trace import Trace

_PUBLIC = {
    "load": "tetrace.sources.detect",
    "Trace": "tetrace.trace.trace",
    "Breakdown": "tetrace.breakdown.analysis",
    "TetraceError": "tetrace.errors",
    "InputError": "tetrace.errors",
    "UsageError": "tetrace.errors",
    "annotate": "tetrace.instrument.ranges",
    "step": "tetrace.instrument.user_steps",
    "instrument": "tetrace.instrument",  # the package, which can be called
}

__all__ = [
    "Breakdown",
    "InputError",
    "TetraceError",
    "Trace",
    "UsageError",
    "analyze",
    "annotate",
    "instrument",
    "load",
    "step",
]


def analyze(
    trace: Trace, *, steps: str | int = "steady", device: int | None = None, process: int | None = None
) -> Breakdown:
    """Where the time of `trace` went; its tables are pandas DataFrames: `analyze(trace).kernels`.

    `steps`: `steady` (warm-up left out), `all` (every activity of the file), or step numbers such as `5:10`.
    `device`: a CUDA ordinal. `process`: a pid, or a row of the trace's processes. Times are integer ns.
    Raises `UsageError` when this leaves nothing to analyze.
    """
    from tetrace.attribute.attribution import attribute
    from tetrace.breakdown.analysis import break_down

    return break_down(attribute(trace), steps=str(steps), device=device, process=process)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tetrace' has no attribute '{name}'")
    import importlib

    module = importlib.import_module(_PUBLIC[name])
    return module if name == "instrument" else getattr(module, name)
