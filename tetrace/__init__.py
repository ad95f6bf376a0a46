"""tetrace: where a Transformer Engine training step spends its time.

`load(path)` reads a recording, `analyze(trace)` breaks it down. In a training script, `timer(model)` measures its modules
on the GPU, `annotate(name)` names a piece of it, `step()` ends a step, and `instrument()` records under another profiler.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from tetrace.breakdown.analysis import Breakdown
    from tetrace.errors import InputError, TetraceError, UsageError
    from tetrace.instrument.ranges import annotate
    from tetrace.instrument.start import instrument
    from tetrace.instrument.timer import Timer
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
    "timer",
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


def timer(
    model: Any,
    *,
    every: int = 10,
    modules: str | Sequence[str] = "*",
    depth: int | None = None,
    history: str | os.PathLike[str] | None = None,
    show: bool = True,
) -> Timer:
    """GPU times of a model's modules, forward and backward, in every N-th step of a training loop:
    `with tetrace.timer(model, every=10) as t:`. No profiler is involved, and nothing waits for the GPU.

    `modules`: patterns of paths (`layers.*`) that are measured. `depth`: how many names their paths have at most; 0 is
    the model alone. `history`: a Parquet file that gets a row a module, phase and sampled step (`-rank1` and so on in
    the names of other ranks' files). `show`: print a summary on standard error at the end, in rank 0. A step ends with
    the optimizer's, or where `tetrace.step()` is called; the first one is never measured.

    Its column `stream_elapsed_ns` is the time on the stream from an event before a module's first launch to one after
    its last: where the stream ran empty meanwhile, it holds the time that the host took too. Raises `UsageError` for an
    option that makes no sense.
    """
    from tetrace.instrument.timer import Timer
    from tetrace.report.module_times import summary

    return Timer(model, every=every, modules=modules, depth=depth, history=history, show=show, summarize=summary)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tetrace' has no attribute '{name}'")
    import importlib

    module = importlib.import_module(_PUBLIC[name])
    return module if name == "instrument" else getattr(module, name)
