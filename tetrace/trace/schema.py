"""Every table and column of a trace, declared once: type, unit, what absence looks like, one sentence.

Times are integer nanoseconds of the recorder's own clock, whose zero is arbitrary. Integer columns have no
nulls: `missing` is the value that stands for "not recorded" in that column; in one of float64 it is NaN. Text is
dictionary-encoded.
"""

from __future__ import annotations

from tetrace.trace import schema_fp8
from tetrace.trace.columns import PROCESS, Column, Table

FORMAT_VERSION = 1

KERNEL, MEMCPY, MEMSET, GRAPH = "kernel", "memcpy", "memset", "graph"
LAUNCH, GRAPH_LAUNCH, SYNCHRONIZE, ALLOCATE, LOAD, OTHER_CALL = (
    "launch", "graph_launch", "synchronize", "allocate", "load", "other")  # fmt: skip
PUSH_POP, START_END, OPERATOR, ANNOTATION, MODULE = "push_pop", "start_end", "operator", "annotation", "module"


_THREAD = Column("thread", "int32", "index", "Row of `threads`: the host thread that did this.")
_START = Column("start_ns", "int64", "ns", "When it began.")
_END = Column("end_ns", "int64", "ns", "When it ended; never before `start_ns`.")
_CORRELATION = Column(
    "correlation", "int64", "id", "CUPTI correlation id; it joins an activity to its call within one process only.", -1
)
_DEVICE = Column("device", "int32", "ordinal", "CUDA ordinal of the device, as its process numbers them.", -1)
_STREAM = Column("stream", "int64", "id", "CUPTI stream id, unique within its process.", -1)

TABLES: tuple[Table, ...] = (
    Table(
        "processes",
        "Processes that were recorded and did something.",
        (
            Column("process", "int32", "index", "Row number; other tables refer to it."),
            Column("global_id", "int64", "id", "The recorder's full 64-bit id (host, virtual machine and process)."),
            Column("pid", "int64", "id", "Process id as the recorder saw it; small inside containers.", -1),
            Column("rank", "int32", "ordinal", "Rank in the job, where it is known.", -1),
            Column("name", "text", "", "Name of the executable; empty when it was not recorded."),
        ),
        by_process=False,
    ),
    Table(
        "threads",
        "Host threads that launched work or opened a range.",
        (
            Column("thread", "int32", "index", "Row number; other tables refer to it."),
            PROCESS,
            Column("global_id", "int64", "id", "The recorder's full 64-bit id of the thread."),
            Column("tid", "int64", "id", "Thread id as the recorder saw it.", -1),
            Column("name", "text", "", "Name of the thread (`pt_autograd_0`); empty when it was not recorded."),
        ),
        by_process=False,
    ),
    Table(
        "devices",
        "Devices, as each process numbers them.",
        (
            PROCESS,
            _DEVICE,
            Column(
                "gpu", "int32", "ordinal", "Physical device of the machine; processes that share it say the same.", -1
            ),
            Column("sm_count", "int32", "count", "Multiprocessors.", -1),
            Column("memory_bytes", "int64", "bytes", "Device memory.", -1),
            Column("bandwidth_bytes_per_s", "int64", "bytes/s", "Memory bandwidth by the driver's figures.", -1),
            Column("compute_capability", "int32", "10 × major + minor", "Compute capability: 90 is Hopper.", -1),
            Column("name", "text", "", "Product name; empty when it was not recorded."),
        ),
        by_process=False,
    ),
    Table(
        "activities",
        "GPU activities: what ran on a device. Sorted by process, then start.",
        (
            PROCESS,
            _START,
            _END,
            _DEVICE,
            _STREAM,
            _CORRELATION,
            Column("kind", "text", "", "kernel, memcpy, memset, or graph (a whole CUDA graph recorded as one)."),
            Column("name", "text", "", "Demangled kernel name; for copies the direction, as `memcpy HtoD`."),
            Column("graph_node", "int64", "id", "Node of a replayed CUDA graph; 0 outside graphs.", 0),
            Column("bytes", "int64", "bytes", "Bytes copied or set.", -1),
            Column("grid_x", "int32", "blocks", "Launch grid, x.", -1),
            Column("grid_y", "int32", "blocks", "Launch grid, y.", -1),
            Column("grid_z", "int32", "blocks", "Launch grid, z.", -1),
            Column("block_x", "int32", "threads", "Thread block, x.", -1),
            Column("block_y", "int32", "threads", "Thread block, y.", -1),
            Column("block_z", "int32", "threads", "Thread block, z.", -1),
            Column("registers", "int32", "per thread", "Registers of each thread.", -1),
            Column("shared_bytes", "int32", "bytes", "Static plus dynamic shared memory of a block.", -1),
        ),
    ),
    Table(
        "calls",
        "CUDA API calls that launch, synchronize, allocate or load code. Sorted by process, then start.",
        (
            PROCESS,
            _THREAD,
            _START,
            _END,
            _CORRELATION,
            Column("kind", "text", "", "launch, graph_launch, synchronize, allocate, load, or other."),
            Column("name", "text", "", "Name of the call without its version suffix: `cudaLaunchKernel`."),
        ),
    ),
    Table(
        "ranges",
        "Host ranges: NVTX, and the operators and annotations of the PyTorch profiler. Sorted by process, then start.",
        (
            PROCESS,
            _THREAD,
            _START,
            _END,
            Column(
                "sequence",
                "int64",
                "number",
                "Autograd sequence number, shared by a forward op and its backward; of ranges with a site their step.",
                -1,
            ),
            Column(
                "site", "int32", "index", "Row of `sites` that says what the range is; -1 for ranges of others.", -1
            ),
            Column("kind", "text", "", "push_pop, start_end, operator, annotation, or module."),
            Column("name", "text", "", "Text of the range, without `seq =`, `op_id =`, sizes and input ids."),
        ),
    ),
    Table(
        "synchronizations",
        "Synchronization records: host waits, and streams that wait for events of other streams. Of the collector of its own "
        "only the latter, unless another tool keeps CUPTI's callbacks, and none of streams that are captured; what the host "
        "waits for is among the calls.",
        (
            PROCESS,
            _START,
            _END,
            _DEVICE,
            _STREAM,
            _CORRELATION,
            Column("kind", "text", "", "event, stream_wait, stream, or context."),
        ),
    ),
    Table(
        "overheads",
        "What the profiler itself cost on the host, by its own records.",
        (
            PROCESS,
            _THREAD,
            _START,
            _END,
            Column(
                "kind",
                "text",
                "",
                "profiler, or what costs without one too: back_pressure (the launch queue was full), driver (it "
                "compiled or loaded code).",
            ),
            Column("name", "text", "", "The recorder's word for it."),
        ),
    ),
    Table(
        "graph_nodes",
        "Creation of CUDA graph nodes, which says under which range a replayed kernel was captured.",
        (
            PROCESS,
            _THREAD,
            Column("created_ns", "int64", "ns", "When the node was created or cloned."),
            Column("graph_node", "int64", "id", "The node, as activities name it."),
            Column("original_node", "int64", "id", "The node it was cloned from; 0 when it is no clone.", 0),
        ),
    ),
    Table(
        "sites",
        "What tetrace's own instrumentation says of its ranges: one row a distinct meaning in a process.",
        (
            PROCESS,
            Column("local", "int32", "index", "Number of the site in its process."),
            Column("kind", "text", "", "module, backward, step, optimizer, autocast, quantize, gemm, attention, ..."),
            Column("name", "text", "", "Text of its ranges."),
            Column("phase", "text", "", "forward, recompute, backward, optimizer; empty: that of the range around."),
            Column(
                "module", "text", "", "Path in `named_modules()`, or a pseudo-module; empty: that of the range around."
            ),
            Column("class", "text", "", "Class of the module, recipe, optimizer or attention backend."),
            Column("role", "text", "", "Tensor (input, weight, grad_output, ...) or GEMM (fprop, dgrad, wgrad)."),
            Column("format", "text", "", "Number format of what is quantized, or of a GEMM's operands."),
            Column("shape", "text", "", "Dimensions, as `4096x1024`; of a GEMM `M x N x K`."),
            Column("dtype", "text", "", "Type of the tensor before it is quantized, or of a GEMM's result."),
            Column("detail", "text", "", "The other attributes, as a JSON object; empty when there are none."),
        ),
        by_process=False,
    ),
    Table(
        "module_memory",
        "Memory that modules hold, once a recording, from the tensors' own sizes.",
        (
            PROCESS,
            Column("module", "text", "", "Path of the module whose own parameters are counted."),
            Column("class", "text", "", "Class of the module."),
            Column("parameters", "int64", "count", "Elements of its own parameters.", -1),
            Column("parameter_bytes", "int64", "bytes", "Its own parameters.", -1),
            Column("fp8_bytes", "int64", "bytes", "FP8 copies of weights.", -1),
            Column("transpose_bytes", "int64", "bytes", "Their transposes.", -1),
            Column("master_bytes", "int64", "bytes", "High-precision masters of the parameters.", -1),
            Column("optimizer_bytes", "int64", "bytes", "The optimizer's state.", -1),
        ),
        by_process=False,
    ),
    Table(
        "memory_peaks",
        "The allocator's peak by phase, where that phase raised it.",
        (
            PROCESS,
            Column("phase", "text", "", "Phase in which the peak was reached."),
            Column("step", "int64", "number", "Step in which it was.", -1),
            Column("allocated_bytes", "int64", "bytes", "Largest sum of allocated blocks.", -1),
            Column("reserved_bytes", "int64", "bytes", "Largest sum of what the allocator holds.", -1),
        ),
        by_process=False,
    ),
    Table(
        "attention_backends",
        "Which attention backend ran in a module, and why the others did not.",
        (
            PROCESS,
            Column("module", "text", "", "Path of the DotProductAttention."),
            Column("backend", "text", "", "FlashAttention, FusedAttention or UnfusedDotProductAttention."),
            Column("sub_backend", "text", "", "Sub-backend or version."),
            Column("refused", "text", "", "`backend: reason` of the others, joined by `; `."),
            Column("selections", "int64", "count", "How often the process selected a backend.", -1),
            Column("calls", "int64", "count", "How often it called attention.", -1),
        ),
        by_process=False,
    ),
    Table(
        "module_times",
        "Times of modules on their streams, by CUDA events, in the steps that were sampled. Sorted by process, then step.",
        (
            PROCESS,
            Column("step", "int32", "number", "Number of the step."),
            Column(
                "module", "text", "", "Path in `named_modules()`, `(loss)`, `(optimizer)`, or `(step)` for all of it."
            ),
            Column("phase", "text", "", "forward, recompute, backward, optimizer, or all (of a step)."),
            Column("count", "int32", "count", "Calls that were measured."),
            Column("skipped", "int32", "count", "Calls that were not: the sum lacks them."),
            Column(
                "stream_elapsed_ns",
                "int64",
                "ns",
                "Sum over the calls: from an event before the first launch to one after the last, on the stream. Where "
                "the stream ran empty, it holds the time that the host took; modules inside are part of it.",
            ),
        ),
    ),
    *schema_fp8.TABLES,
)

# What only tetrace's own instrumentation captures: its absence from a recording of others is no gap.
INSTRUMENTED = ("sites", "module_memory", "memory_peaks", "attention_backends", "module_times", *schema_fp8.NAMES)

BY_NAME = {table.name: table for table in TABLES}
