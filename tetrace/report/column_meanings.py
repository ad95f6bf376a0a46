"""What the columns of a page's tables mean, by the view and the head: one whole sentence each, with what it is a share of.

`{each}` stands for what a sum is divided by, `{own}` for the same of one process and device. What means the same in every
view stands under the empty name. The schema's sentences are of raw columns, which are sums in nanoseconds.
"""

from __future__ import annotations

from tetrace.report.scale import Scale

_EACH = {
    " per step": ", in an average counted step",
    " per lane": ", in an average process and device",
    "": ", in the whole recording",
}
_WALL = "wall, which is the time of the counted steps"
_ALL_ACTIVITY = "all GPU activity, which is the durations of all activities in the counted steps, summed over streams"
_BYTES = "counted once in the recording"

_COMMON = {
    "module": "The module that launched the work: its path (or its class and number), a pseudo-module in parentheses, or "
    "unattributed where nothing tells.",
    "phase": "The phase that launched the work: forward, recompute, backward, optimizer, other, or unattributed.",
    "role": "Which tensor is quantized (input, weight, grad_output), or which GEMM of a module it is (fprop, dgrad, wgrad); "
    "empty where that is not known.",
    "category": "The kind of work; every activity counts in exactly one category.",
    "ms": "Milliseconds of work on the GPU{each}: the durations of this row's activities, summed over streams.",
    "of activity": f"The work of this row as a percentage of {_ALL_ACTIVITY}.",
    "of wall": f"The time of this row as a percentage of {_WALL}.",
    "count": "How many activities (kernels, copies and memsets) this row has{each}.",
    "formats": "The number formats that the kernel's name tells; empty or unknown where it tells none.",
    "process": "The number of the process in this recording, counted from 0.",
    "device": "The number of the GPU as the process counts its devices.",
    "step": "The number of the step: from its range's name where that has one, else counted from 0.",
}
_PHASES = {
    phase: f"Milliseconds of work on the GPU{{each}} that {where} launched, summed over streams."
    for phase, where in (
        ("forward", "the forward phase"), ("recompute", "recomputed forward work (activation checkpointing)"),
        ("backward", "the backward phase"), ("optimizer", "the optimizer"), ("other", "ranges of your own beside the phases"),
        ("unattributed", "calls of no known phase"),
    )
}  # fmt: skip
_CAUSES = {
    "host-bound": "idle because the host had not launched the next activity",
    "sync": "idle while the launching thread sat in a synchronizing call",
    "latency": "idle although the call that launched the next activity had begun, up to the call's length or the floor",
    "dependency": "idle because the stream of the next activity waited for another stream",
    "graph": "idle between activities of one CUDA graph launch",
    "profiler": "idle while the launching thread was in the profiler's own work",
    "queued": "idle between two activities of a stream of which the second had been launched long before: what it takes from "
    "one to the next",
    "unexplained": "idle for a reason that none of the other causes explains, or before an activity whose launch was not "
    "captured",
}
_LANES = {
    "wall": "the steps lasted",
    "busy": "at least one activity ran on the GPU",
    "exposed comm": "only communication ran on the GPU, which is part of busy",
    **{head: f"the GPU was {said}" for head, said in _CAUSES.items()},
}

_VIEWS: dict[str, dict[str, str]] = {
    "": _COMMON,
    "category": {**_PHASES, "all": "Milliseconds of work on the GPU{each} in all phases, summed over streams."},
    "kernel": {
        "mean µs": "Microseconds that one run of the kernel takes, on average over all of its runs in the counted steps.",
        "min µs": "Microseconds of its shortest run in the counted steps.",
        "max µs": "Microseconds of its longest run in the counted steps.",
        "formats": "The number formats that the kernel's name tells: those of a GEMM's operands, or of what a cast makes.",
        "grid": "The launch grid (x×y×z blocks) that it was launched with most often; empty where it was not captured.",
        "block": "The thread block (x×y×z threads) that it was launched with most often; empty where it was not captured.",
        "kernel": "The kernel's demangled name; a long one is shown by its family, and whole on a click.",
    },
    "module": {
        **_PHASES,
        "other": "Milliseconds of work on the GPU{each} in the phases other and unattributed, summed over streams.",
        "gemm": "Milliseconds of GEMM kernels{each}, summed over streams.",
        "attention": "Milliseconds of attention kernels{each}, summed over streams.",
        "quantize": "Milliseconds of kernels that only quantize{each}, summed over streams.",
        "fused": "Milliseconds of kernels that quantize beside other work, whole{each}, summed over streams.",
        "launches": "How many API calls launched the activities of the module{each}.",
        "host-bound": "Milliseconds in which the GPU idled because the host was in a range of this module{each}.",
    },
    "host": {
        "ms": "Milliseconds in which the GPU idled because the host had not launched, charged to this range{each}.",
        "gaps": "How many stretches of idle time have their longest host-bound piece in this range{each}: each counts once.",
        "phase": "The phase in which the host was: forward, recompute, backward, optimizer, other, or unattributed.",
        "module": "The module in which the host was, a pseudo-module in parentheses, or unattributed.",
        "quantizes": "The word yes stands where the range quantizes, updates scales or handles autocast.",
        "host range": "The innermost range open on the launching thread: (no range) where none was, (step) for a step's own.",
    },
    "launch": {
        "call": "The name of the API call that launched the activities.",
        "calls": "How many such calls launched activities of the counted steps{each}.",
        "activities": "How many activities the calls launched{each}.",
        "host ms": "Milliseconds of host time inside the calls{each}, summed over threads.",
        "median µs": "Microseconds of host time that the median call took.",
        "max µs": "Microseconds of host time that the longest call took.",
        "back-pressure": "Milliseconds of host time in calls that waited because the launch queue was full{each}; they are "
        "part of the host time.",
    },
    "gemm": {
        "of GEMM time": "The work of this row as a percentage of that of all GEMM kernels in the counted steps.",
        "formats": "The number formats of the GEMM's operands by the kernel's name; unknown where it tells none.",
        "kernel": "The family of the kernel, which is its name without what differs from shape to shape.",
    },
    "attention": {
        "backend": "The library whose attention kernels ran, by their names.",
        "formats": "The number formats of attention's operands that the kernel's name tells.",
        "direction": "The word forward or backward, or what the kernel helps with.",
    },
    "quantization": {
        "estimate": "Milliseconds of it that are quantization{each}: all, or the share of FP8 bytes in the bytes that a fused "
        "kernel moves.",
        "fused": "The word fused stands where the kernels do other work too.",
        "operation": "What the kernels do: cast, transpose, amax, scale update and so on; of fused kernels their own work.",
    },
    "communication": {
        "operation": "The collective operation; amax_reduce is FP8's reduction of amax values.",
        "exposed": "Milliseconds in which nothing else ran on the operation's device{each}.",
        "of wall": f"The exposed time of this row as a percentage of {_WALL}.",
        "waiting": "Milliseconds until the last rank arrived{each}, where ranks could be matched.",
        "kernel": "The family of the communication kernel.",
    },
    "memory": {
        "name": "The direction of the copy (HtoD is host to device), or memset.",
        "bytes": "Bytes that were moved or set{each}.",
    },
    "step": {
        **{head: f"Milliseconds of this step in which {said}." for head, said in _LANES.items()},
        "wall": "Milliseconds from the first activity of this step on its main stream to that of the next step.",
        "name": "The text of the step's range; empty where steps were found otherwise.",
        "spill": "Milliseconds of work that this step launched and that ran outside its window, summed over streams.",
        "activities": "How many activities (kernels, copies and memsets) this step launched.",
        "left out": "Why the step is not counted; empty where it is.",
    },
    "lane": {
        **{head: f"Milliseconds{{own}} in which {said}." for head, said in _LANES.items()},
        "wall": "Milliseconds{own} that this process and device took, busy and idle.",
        "pid": "The id of the process as it was recorded.",
        "rank": "The rank of the process in its job.",
        "GPU": "The name of the GPU.",
        "steps": "How many steps of this process and device are counted.",
        "idle of wall": "The idle time of this process and device as a percentage of its wall, the time of its counted steps.",
        "waiting": "Milliseconds{own} of communication until the last rank arrived, where ranks could be matched.",
        "activity": "Milliseconds{own} of work on the GPU, summed over streams.",
    },
    "host-module": {
        "phase": "The phase of the ranges: forward, recompute, backward, optimizer, other, or unattributed.",
        "calls": "How many ranges of the module itself were opened{each}; in backward, autograd's nodes.",
        "self ms": "Milliseconds of host time in the module and not in modules inside it{each}: these add up.",
        "with inner": "Milliseconds of host time in the module and in modules inside it{each}, which have rows of their own.",
    },
    "host-step": {
        "wall ms": "Milliseconds of host time from the end of the optimizer's step before to the end of this one's.",
        "forward": "Milliseconds of host time of this step in the outermost forward ranges.",
        "backward": "Milliseconds of host time of this step in calls of backward.",
        "optimizer": "Milliseconds of host time of this step in the optimizer, zero_grad and gradient clipping.",
        "micro-batches": "How many calls of backward this step has, which are its micro-batches.",
        "": "The words left out stand where the step is not counted.",
    },
    "call": {
        "calls": "How many such calls were recorded{each}; in replayed graphs the captured calls times the replays.",
        "activities": "How many activities the calls launched{each}.",
        "kind": "What the call does: quantize, scale_update or gemm.",
        "format": "The number format that the call quantizes to; of a GEMM those of its operands.",
        "shape": "The dimensions of the tensor; of a GEMM M x N x K.",
        "dtype": "The type of the tensor before it is quantized; of a GEMM that of its result.",
        "call": "The function that was called; (not recorded) for kernels of the kind that no recorded call launched.",
    },
    "backend": {
        "module": "The path of the attention module (DotProductAttention).",
        "backend": "The backend that Transformer Engine selected.",
        "sub-backend": "The sub-backend or the version of the backend.",
        "by the kernels": "The backends that the names of the kernels which ran tell.",
        "selections": "How many times the process selected a backend; more than its modules means that shapes alternate.",
        "calls": "How many calls of attention the process made.",
        "refused": "The backends that were refused, each with Transformer Engine's reason.",
    },
    "module-time": {
        "module": "The path of the module, with modules inside it; (step) is the whole step.",
        "phase": "The phase that was timed: forward, recompute, backward, optimizer, or all of a step.",
        "mean": "Milliseconds on the stream in an average sampled step, host time on an idle stream included.",
        "of step": "The mean of this row as a percentage of the mean of the whole step; modules hold each other, so these do "
        "not add up.",
        "median": "Milliseconds on the stream in the median sampled step.",
        "p95": "Milliseconds on the stream that 95% of the sampled steps do not exceed.",
        "min": "Milliseconds on the stream in the shortest sampled step.",
        "max": "Milliseconds on the stream in the longest sampled step.",
        "calls": "How many calls of the module a sampled step has, on average.",
        "steps": "How many sampled steps are counted, of all processes.",
        "left out": "How many sampled steps are not counted, because a call could not be measured.",
    },
    "module-memory": {
        "module": "The path of the module; modules inside have rows of their own.",
        "class": "The class of the module.",
        "parameters": f"How many elements the module's own parameters have, {_BYTES}.",
        "weights": f"Bytes of the module's own parameters, {_BYTES}.",
        "FP8": f"Bytes of FP8 copies of its weights, {_BYTES}.",
        "transposes": f"Bytes of the transposes of those copies, {_BYTES}.",
        "masters": f"Bytes of the master copies of its parameters, {_BYTES}.",
        "optimizer": f"Bytes of the optimizer's state for its parameters, {_BYTES}.",
    },
    "memory-peak": {
        "phase": "The phase that reached this peak of allocated memory.",
        "step": "The number of the step that reached it.",
        "allocated": "Bytes in blocks that the allocator had handed out at the peak.",
        "reserved": "Bytes that the allocator held of the device at the peak.",
    },
    "gemm-shape": {
        "shape M×N×K": "The dimensions of the GEMM: its result is M×N, summed over K.",
        "formats": "The number formats of the operands, as recorded; empty for kernels that no recorded call launched.",
        "role": "Which GEMM of a module it is: fprop, dgrad or wgrad.",
        "modules": "How many modules call GEMMs of this row.",
        "calls": "How many such calls were recorded{each}.",
        "mean µs": "Microseconds of work on the GPU that a call takes on average.",
        "TFLOP/s": "The operations of the calls, 2·M·N·K each, divided by the time of their kernels, in 10¹² per second.",
    },
    "fp8-problem": {
        "level": "How bad it is: critical makes results wrong, a warning may, a note need not.",
        "problem": "What is wrong with the tensor's numbers.",
        "tensor": "The module's path and the tensor's role in it; empty where the problem is none of a tensor.",
        "steps": "The first and the last recorded step that have the problem; steps between may be without it.",
        "evidence": "What was measured in the worst step.",
        "what to do": "What is worth trying against it.",
    },
    "environment": {
        "what": "The name of a fact, behind the names of the groups that it belongs to.",
        "value": "What was recorded of the fact when the run was recorded or imported.",
    },
    "comparison": {
        "a": "Milliseconds of run a: in an average counted step, or in all of it where the title does not say per step.",
        "b": "Milliseconds of run b: in an average counted step, or in all of it where the title does not say per step.",
        "difference": "Milliseconds by which run b takes longer than run a; the rows add up exactly.",
        "±": "Milliseconds of noise: a difference within it is called noise. It is a bootstrap over steps, 5% over all rows "
        "together; empty where there are too few steps.",
        "of all": "The difference of this row without its sign as a percentage of all rows' differences without their signs.",
        "": "What the difference is where it is none: same, noise, or ? where too few steps were recorded to tell.",
        "median a": "Milliseconds of this row in the median counted step of run a.",
        "median b": "Milliseconds of this row in the median counted step of run b.",
        "count a": "How many activities, or stretches of idle time (each once for a cause), an average counted step of run a "
        "has here.",
        "count b": "How many activities, or stretches of idle time (each once for a cause), an average counted step of run b "
        "has here.",
        "kind": "Whether the GPU works in this time, or waits.",
        "part": "The category of the work, or the cause of the idle time; of quantization whether kernels only quantize, do so "
        "beside other work, or the GPU waits while the host quantizes.",
        "name": "The kernel that ran (with an arrow where another one replaces it), or the host range that explains the idle "
        "time.",
        "before": "The kernel in run a; empty where run a has none in its place.",
        "after": "The kernel in run b; empty where run b has none in its place.",
        "cause": "The cause of the idle time.",
        "range": "The host range that explains the idle time; (no range) where none was open.",
        "operation": "What the kernels do, or the host range for which the GPU waited.",
        "kernel": "The family of the kernel.",
        "formats": "The number formats of the GEMM's operands; unknown where the kernel's name tells none.",
    },
    "figures": {
        "figure": "The name of the figure, as tetrace check knows it.",
        "a": "The figure of run a.",
        "b": "The figure of run b.",
        "": "What the figure is, with its unit and what it is a share of.",
    },
}  # fmt: skip


def column_meaning(view: str, head: str, scale: Scale | None = None) -> str:
    """What the column `head` of a view means; empty where nothing is known of it. `scale` is what its sums are divided by."""
    plain = head.replace(scale.head, "ms") if scale else head
    meaning = _VIEWS.get(view, {}).get(plain) or (_COMMON.get(plain, "") if view != "figures" else "")
    if scale is None:
        return meaning
    own = " of an average counted step" if scale.each == " per step" else " of the recorded time"
    return meaning.replace("{each}", _EACH[scale.each]).replace("{own}", own)


def comparison_of(heads: list[str]) -> str:
    """The view that a comparison's table with these heads is, empty where it is none."""
    if not {"a", "b"} <= set(heads):
        return ""
    return "comparison" if "difference" in heads else "figures" if "figure" in heads else ""
