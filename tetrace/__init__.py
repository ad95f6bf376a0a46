"""tetrace: where a Transformer Engine training step spends its time.

`load(path)` reads a recording, `analyze(trace)` breaks it down, `compare(a, b)` says what changed between two breakdowns.
In a training script, `timer(model)` measures its modules on the GPU, `watch(model)` looks at its FP8 tensors,
`annotate(name)` names a piece of it, `step()` ends a step, and `instrument()` records under another profiler.
Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from tetrace.breakdown.analysis import Breakdown
    from tetrace.breakdown.compare import compare
    from tetrace.errors import InputError, TetraceError, UsageError
    from tetrace.instrument.ranges import annotate
    from tetrace.instrument.start import instrument
    from tetrace.instrument.timer import Timer
    from tetrace.instrument.user_steps import step
    from tetrace.instrument.watch import Watch
    from tetrace.report.analysis import Analysis
    from tetrace.sources.detect import load
    from tetrace.trace.trace import Trace

_PUBLIC = {
    "load": "tetrace.sources.detect",
    "Trace": "tetrace.trace.trace",
    "Analysis": "tetrace.report.analysis",
    "Breakdown": "tetrace.breakdown.analysis",
    "compare": "tetrace.breakdown.compare",
    "TetraceError": "tetrace.errors",
    "InputError": "tetrace.errors",
    "UsageError": "tetrace.errors",
    "annotate": "tetrace.instrument.ranges",
    "step": "tetrace.instrument.user_steps",
    "instrument": "tetrace.instrument",  # the package, which can be called
    "fp8": "tetrace.fp8",
}

__all__ = [
    "Analysis",
    "Breakdown",
    "InputError",
    "TetraceError",
    "Trace",
    "UsageError",
    "analyze",
    "annotate",
    "compare",
    "instrument",
    "load",
    "step",
    "timer",
    "watch",
]


def analyze(
    trace: Trace, *, steps: str | int = "steady", device: int | None = None, process: int | None = None
) -> Analysis:
    """Where the time of `trace` went; its tables are pandas DataFrames: `analyze(trace).kernels`.

    It is a `Breakdown` that shows itself in a notebook; its `figures` are plotly's: `analyze(trace).figures.steps()`.

    `steps`: `steady` (warm-up left out), `all` (every activity of the file), or step numbers such as `5:10`.
    `device`: a CUDA ordinal. `process`: a pid, or a row of the trace's processes. Times are integer ns.
    Raises `UsageError` when this leaves nothing to analyze.
    """
    from tetrace.attribute.attribution import attribute
    from tetrace.breakdown.analysis import break_down
    from tetrace.errors import UsageError
    from tetrace.report.analysis import Analysis
    from tetrace.trace.trace import Trace

    if not isinstance(trace, Trace):
        raise UsageError(f"analyze takes what tetrace.load(path) returns, not {trace!r:.80}")
    return Analysis.of(break_down(attribute(trace), steps=str(steps), device=device, process=process))


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
    `with tetrace.timer(model, every=10) as t:`. No profiler is involved, and no step waits for the GPU;
    the end of the block does, for at most 2 s.

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


def watch(
    model: Any,
    *,
    every: int = 1,
    modules: str = "",
    histogram: bool = True,
    blocks: bool = False,
    checks: bool = True,
    recompute: int = 0,
    rows: int = 1,
) -> Watch:
    """Looks at a model's FP8 tensors while a training loop runs: `with tetrace.watch(model) as w:`, then `w.table()`.

    In every `every`-th step, of the modules in whose path the regular expression `modules` is found: what each tensor
    holds when it is quantized, what that loses, and with which scale. `histogram`: keep magnitudes, for what-if.
    `blocks`: keep largest magnitudes of blocks too. `checks`: also look for values that are not finite in what modules
    return, losses, gradients and parameters. `recompute`: in every N-th step make what norms and activations cast in the
    same kernel again in high precision, which costs them twice. `rows`: of tensors of a million elements and more look at
    every N-th row, which saves time on the GPU; what is not finite in the others is not seen there. Nothing waits for
    the GPU, and results stay what they are bit for bit.

    `table()`, `scales()` and `histograms()` are pandas; `trace()` is what `tetrace.fp8` takes. Raises `UsageError` for an
    option that makes no sense.
    """
    from tetrace.instrument.watch import Watch
    from tetrace.sources.fp8 import read_folder

    return Watch(
        model,
        every=every,
        modules=modules,
        histogram=histogram,
        blocks=blocks,
        checks=checks,
        recompute=recompute,
        rows=rows,
        read=read_folder,
    )


def __getattr__(name: str) -> Any:
    if name == "_C":  # asked for by whatever imports it, before it is loaded
        return _extension()
    if name not in _PUBLIC:
        raise AttributeError(f"module 'tetrace' has no attribute '{name}'")
    import importlib

    module = importlib.import_module(_PUBLIC[name])
    return module if name in ("instrument", "fp8") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})


def _extension() -> Any:
    """The compiled part. Raises `InstallationError` where this folder has none for the Python that runs: Python finds the
    source tree before what is installed when it is started in it.
    """
    import importlib
    import platform
    from pathlib import Path

    try:
        return importlib.import_module("tetrace._C")
    except ModuleNotFoundError as error:
        from tetrace.errors import InstallationError

        folder = Path(__file__).resolve().parent
        python = ".".join(platform.python_version_tuple()[:2])
        if (folder.parent / "CMakeLists.txt").is_file():
            what = f"this is tetrace's source tree, without its extension for Python {python}"
            way_out = "run from another folder to use an installed tetrace, or build this one with `make setup`"
        else:
            what, way_out = f"this tetrace has no extension for Python {python}", "install it with this Python's pip"
        raise InstallationError(f"{folder}: {what}; {way_out}") from error
