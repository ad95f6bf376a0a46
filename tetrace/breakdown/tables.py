"""Every table of a breakdown, declared once: column, unit, one sentence. Reports, exports and docs/tables.md read this.

Times are integer nanoseconds summed over the selected steps (divide by `steps` of the summary for an average). A sum of
activities over streams is called `total_ns`: it is work, not time, and may exceed the wall clock. -1 stands for
"not captured", as in the trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.trace.arrays import numbers, strings

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """A column of a result: `unit` is ns, bytes, count, or empty for text."""

    name: str
    unit: str
    sentence: str


@dataclass(frozen=True)
class Declaration:
    """A result table: what a row is, and its columns."""

    name: str
    sentence: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    """A result: columns of equal length, each an integer array or a list of words, in declared order."""

    declaration: Declaration
    columns: Mapping[str, Any]

    def __post_init__(self) -> None:
        declared = [column.name for column in self.declaration.columns]
        if list(self.columns) != declared:
            raise ValueError(f"table {self.declaration.name} has columns {list(self.columns)}, declared are {declared}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def take(self, rows: Sequence[int] | np.ndarray[Any, Any]) -> Table:
        """The rows at these places, in this order."""
        places = np.asarray(rows, np.int64)
        taken = {
            k: v[places] if isinstance(v, np.ndarray) else [v[i] for i in places.tolist()]
            for k, v in self.columns.items()
        }
        return Table(self.declaration, taken)

    def sorted_by(self, name: str) -> Table:
        """Rows with the largest `name` first; equal ones keep their order."""
        return self.take(np.argsort(-np.asarray(self.columns[name]), kind="stable"))

    def rows(self) -> list[dict[str, Any]]:
        """Rows as dictionaries of plain Python values."""
        plain = [v.tolist() if isinstance(v, np.ndarray) else v for v in self.columns.values()]
        return [dict(zip(self.columns, values, strict=True)) for values in zip(*plain, strict=True)]

    def to_pandas(self) -> pd.DataFrame:
        """This table as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(dict(self.columns))

    def to_arrow(self) -> pa.Table:
        """This table as an Arrow table."""
        import pyarrow as pa

        # By declaration: an empty column of text has no type of its own.
        arrays = [
            numbers(self[column.name], pa.int64()) if column.unit else strings(self[column.name])
            for column in self.declaration.columns
        ]
        return pa.Table.from_arrays(arrays, names=list(self.columns))


def no_rows(declaration: Declaration) -> Table:
    """The table without a row."""
    return Table(declaration, {c.name: np.empty(0, np.int64) if c.unit else [] for c in declaration.columns})


def _text(name: str, sentence: str) -> Column:
    return Column(name, "", sentence)


def _ns(name: str, sentence: str) -> Column:
    return Column(name, "ns", sentence)


def _count(name: str, sentence: str) -> Column:
    return Column(name, "count", sentence)


_TOTAL = _ns("total_ns", "Duration summed over activities (over streams: work, not time).")
_N = _count("count", "Activities.")
_PHASE = _text("phase", "forward, recompute, backward, optimizer, other, or unattributed.")
_MODULE = _text("module", "Path or class and number of the module, a pseudo-module in parentheses, or unattributed.")
_ROLE = _text("role", "Tensor (input, weight, grad_output) or GEMM (fprop, dgrad, wgrad); empty where it is not known.")
_PROCESS = _count("process", "Row of the trace's `processes`.")
_DEVICE = _count("device", "CUDA ordinal of the device.")
_IDLE = (
    _ns("host_bound_ns", "Idle because the host had not launched the next activity."),
    _ns("synchronization_ns", "Idle while the launching thread sat in a synchronizing call."),
    _ns(
        "launch_latency_ns",
        "Idle from the start of the launching call to the activity, up to the call's length or the floor.",
    ),
    _ns("dependency_ns", "Idle before an activity whose stream waited for another stream."),
    _ns("graph_ns", "Idle between activities of one CUDA graph launch."),
    _ns("profiler_ns", "Idle while the launching thread was in the profiler's own work."),
    _ns(
        "queued_ns",
        "Idle between two queued activities of a stream: what the GPU takes from the one to the other.",
    ),
    _ns("unexplained_ns", "Idle that none of these explains, or whose launch was not captured."),
)

STEPS = Declaration(
    "steps", "One row a step and lane (process and device): its window of device time.",
    (
        _PROCESS, _DEVICE,
        _count("step", "Number of the step: from the range's name, else counted from 0."),
        _text("name", "Text of the step's range; empty where steps were found otherwise."),
        _count("used", "1 when the step is counted in this breakdown, else 0."),
        _text("reason", "Why it is not counted; empty when it is."),
        _ns("wall_ns", "From the first activity of the step on its main stream to that of the next step."),
        _ns("busy_ns", "Time in which at least one activity runs."),
        _ns("compute_ns", "Time in which at least one activity that is not communication runs."),
        _ns("exposed_communication_ns", "Time in which only communication runs; busy = compute + this."),
        *_IDLE,
        _ns("spill_ns", "Duration of the step's activities that lies outside its window."),
        _count("activities", "Activities that the step launched."),
        _count("launches", "API calls that launched them."),
    ),
)  # fmt: skip
PHASES = Declaration(
    "phases", "One row a phase and category.",
    (_PHASE, _text("category", "Kind of work."), _N, _TOTAL),
)  # fmt: skip
KERNELS = Declaration(
    "kernels", "One row a kernel, copy or memset: name and class.",
    (
        _text("name", "Demangled name."), _text("family", "Short stable name."),
        _text("kind", "kernel, memcpy, memset or graph."),
        _text("category", "Kind of work."), _text("operation", "Finer word within the category."),
        _text("formats", "Number formats: operands of a GEMM, product of a cast."),
        _count("fused_quantization", "1 when it quantizes beside its own work."),
        _N, _TOTAL,
        _ns("mean_ns", "total_ns / count, rounded down."), _ns("min_ns", "Shortest."), _ns("max_ns", "Longest."),
        _count("streams", "Streams it ran on."), _count("stream", "The stream it ran on most."),
        _text("grid", "Launch grid x×y×z used most; empty where it was not captured."),
        _text("block", "Thread block x×y×z used most."),
        _count("geometries", "Different launch geometries."),
        _count("registers", "Registers of a thread."), Column("shared_bytes", "bytes", "Shared memory of a block."),
    ),
)  # fmt: skip
MODULES = Declaration(
    "modules", "One row a module, with unattributed work as a row of its own.",
    (
        _MODULE, _N, _TOTAL,
        _ns("forward_ns", "Sum in forward."), _ns("recompute_ns", "Sum in recompute."), _ns("backward_ns", "Sum in backward."),
        _ns("optimizer_ns", "Sum in the optimizer."), _ns("other_ns", "Sum in other and unattributed phases."),
        _ns("gemm_ns", "Sum of GEMMs."), _ns("attention_ns", "Sum of attention."),
        _ns("quantization_ns", "Sum of kernels that only quantize."),
        _ns("fused_quantization_ns", "Sum of kernels that quantize beside other work."),
        _count("launches", "API calls that launched its activities."),
        _ns("host_bound_ns", "Device idle time charged to host ranges of this module."),
    ),
)  # fmt: skip
QUANTIZATION = Declaration(
    "quantization", "One row a module, phase, role and operation that quantizes, fused or not.",
    (
        _MODULE, _PHASE, _ROLE,
        _text("operation", "cast, cast_transpose, transpose, amax, scale_update, ...; of fused kernels their own."),
        _count("fused", "1 for kernels that do other work too."), _N, _TOTAL,
        _ns("estimate_ns", "Share that is quantization: all, or the FP8 share of a fused kernel's bytes; -1 unknown."),
    ),
)  # fmt: skip
HOST_RANGES = Declaration(
    "host_ranges", "One row a host range that held the device back: host-bound idle charged to it.",
    (
        _text("range", "Text of the range; `(no range)` where none was open on the thread, `(step)` for step ranges."),
        _MODULE, _PHASE,
        _count("gaps", "Idle stretches whose longest host-bound piece is charged to it: each counts once."),
        _ns("host_bound_ns", "Device idle time while the host was here."),
        _count("quantizes", "1 when the range quantizes, updates scales or handles autocast."),
    ),
)  # fmt: skip
LAUNCHES = Declaration(
    "launches", "One row an API call name: the calls that launched the selected activities.",
    (
        _text("call", "Name of the call."), _count("count", "Calls."), _count("activities", "Activities they launched."),
        _ns("total_ns", "Host time inside the calls, summed over threads."), _ns("median_ns", "Median length of a call."),
        _ns("max_ns", "Longest call."),
        _ns("back_pressure_ns", "Part of total_ns in calls that waited because the launch queue was full."),
    ),
)  # fmt: skip
GEMMS = Declaration(
    "gemms", "One row a module, role, format and kernel family of GEMMs.",
    (
        _MODULE, _PHASE, _ROLE, _text("formats", "Formats of the operands; empty where the name does not tell."),
        _count("fp8", "1 when both operands are FP8."), _text("kernel", "Family of the kernel."), _N, _TOTAL,
    ),
)  # fmt: skip
ATTENTION = Declaration(
    "attention", "One row a module, phase and backend of attention.",
    (
        _MODULE, _PHASE, _text("backend", "Library whose kernels ran."), _text("formats", "Formats of the operands."),
        _text("direction", "forward, backward, or a helper's word."), _N, _TOTAL,
    ),
)  # fmt: skip
COMMUNICATION = Declaration(
    "communication", "One row an operation of communication.",
    (
        _text("operation", "all_reduce, all_gather, ...; amax_reduce is FP8's reduction of amax values."), _PHASE,
        _text("kernel", "Family of the kernel."), _N, _TOTAL,
        _ns("exposed_ns", "Part of the time in which nothing else runs on its device."),
        _ns("waiting_ns", "Part spent until the last rank arrived, where ranks could be matched; else -1."),
    ),
)  # fmt: skip
MEMORY = Declaration(
    "memory", "One row a kind of copy or memset.",
    (
        _text("name", "Direction of the copy, or memset."), _PHASE, _N,
        Column("bytes", "bytes", "Bytes moved; -1 not captured."), _TOTAL,
    ),
)  # fmt: skip
LANES = Declaration(
    "lanes", "One row a lane (process and device), over the selected steps.",
    (
        _PROCESS, _count("pid", "Process id as recorded."), _count("rank", "Rank in the job; -1 unknown."), _DEVICE,
        _text("gpu", "Name of the GPU; empty when not captured."),
        _count("steps", "Steps counted."), _N, _TOTAL,
        _ns("wall_ns", "Wall time of the steps, summed."), _ns("busy_ns", "Busy time."),
        _ns("exposed_communication_ns", "Time in which only communication runs."), *_IDLE,
        _ns("communication_ns", "Duration of communication, summed over streams."),
        _ns("waiting_ns", "Part of it until the last rank arrived, where ranks could be matched; else -1."),
    ),
)  # fmt: skip

HOST_STEPS = Declaration(
    "host_steps", "One row a step of a process, by the host's clock, where tetrace's instrumentation marked it.",
    (
        _PROCESS, _count("step", "Number of the step."), _count("used", "1 when the step is counted, else 0."),
        _ns("wall_ns", "From the end of the optimizer's step before to the end of its own."),
        _ns("forward_ns", "Host time in the outermost forward ranges; -1 outside the recorded steps, as the next three."),
        _ns("backward_ns", "Host time in calls of backward."),
        _ns("optimizer_ns", "Host time in the optimizer, zero_grad and gradient clipping."),
        _count("backwards", "Calls of backward: micro-batches, with gradient accumulation."),
    ),
)  # fmt: skip
HOST_MODULES = Declaration(
    "host_modules", "One row a module and phase: host time of the ranges that tetrace's instrumentation opened.",
    (
        _MODULE, _PHASE, _count("calls", "Ranges of the module itself; in backward, autograd's nodes."),
        _ns("total_ns", "Host time in them, with modules inside; modules inside count again in their own row."),
        _ns("self_ns", "Host time in the module and not in modules inside it: these add up."),
    ),
)  # fmt: skip
RECORDED_CALLS = Declaration(
    "recorded_calls", "One row a distinct call that tetrace's instrumentation recorded: quantize calls, scale updates, GEMMs.",
    (
        _text("kind", "quantize, scale_update or gemm."), _MODULE, _PHASE,
        _text("role", "Tensor (input, weight, grad_output, ...) or GEMM (fprop, dgrad, wgrad)."),
        _text("call", "Function called; `(not recorded)` for kernels of the kind that no recorded call launched."),
        _text("format", "Format it quantizes to; of a GEMM the operands'."),
        _text("shape", "Dimensions; of a GEMM M x N x K."), _text("dtype", "Type before quantization; of a GEMM's result."),
        _count("count", "Calls; in replayed graphs the captured calls times the replays."),
        _count("activities", "Activities they launched."), _TOTAL,
    ),
)  # fmt: skip
ATTENTION_BACKENDS = Declaration(
    "attention_backends", "One row a module and attention backend, as Transformer Engine selected it.",
    (
        _PROCESS, _text("module", "Path of the DotProductAttention."), _text("backend", "Backend that ran."),
        _text("sub_backend", "Sub-backend or version."), _text("kernels", "Backends by the names of the kernels that ran."),
        _text("refused", "`backend: reason` of the others."),
        _count("selections", "Selections in the process; more than modules means that shapes alternate."),
        _count("calls", "Attention calls in the process."),
    ),
)  # fmt: skip
MODULE_MEMORY = Declaration(
    "module_memory", "One row a module with parameters: what it holds in memory, counted once in the recording.",
    (
        _PROCESS, _text("module", "Path of the module."), _text("class", "Its class."),
        _count("parameters", "Elements of its own parameters."),
        *(
            Column(f"{what}_bytes", "bytes", f"{said}; -1 not captured.")
            for what, said in (
                ("parameter", "Its own parameters"), ("fp8", "FP8 copies of weights"), ("transpose", "their transposes"),
                ("master", "Masters of the parameters"), ("optimizer", "State of the optimizer"),
            )
        ),
    ),
)  # fmt: skip
MEMORY_PEAKS = Declaration(
    "memory_peaks", "One row a phase that raised the allocator's peak.",
    (
        _PROCESS, _text("phase", "Phase that reached it."), _count("step", "Step in which it did."),
        Column("allocated_bytes", "bytes", "Allocated blocks."), Column("reserved_bytes", "bytes", "Held by the allocator."),
    ),
)  # fmt: skip
MODULE_TIMES = Declaration(
    "module_times", "One row a module and phase: its time on the stream in the sampled steps, by CUDA events.",
    (
        _text("module", "Path of the module, with modules inside; `(step)` is the whole step."),
        _text("phase", "forward, recompute, backward, optimizer, or all (of a step)."),
        _count("steps", "Steps that are counted, of all processes."),
        _count("partial_steps", "Steps that are not, because a call could not be measured."),
        _count("count", "Calls in the steps that are counted."),
        _ns("stream_elapsed_ns", "Sum over them, host time on an idle stream included."),
        *(
            _ns(f"{name}_ns", f"{said} of a step's sum.")
            for name, said in (
                ("mean", "Mean, rounded down,"), ("median", "Median"), ("p95", "95th percentile"),
                ("min", "Smallest"), ("max", "Largest"),
            )
        ),
    ),
)  # fmt: skip

DECLARATIONS = (
    STEPS, PHASES, KERNELS, MODULES, QUANTIZATION, HOST_RANGES, LAUNCHES, GEMMS, ATTENTION, COMMUNICATION, MEMORY, LANES,
    HOST_STEPS, HOST_MODULES, RECORDED_CALLS, ATTENTION_BACKENDS, MODULE_MEMORY, MEMORY_PEAKS,
    MODULE_TIMES,
)  # fmt: skip
