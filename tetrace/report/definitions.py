"""What the numbers of a report mean: whole sentences in the words of docs/how-it-works.md (a test holds the two together)."""

from __future__ import annotations

DEFINITIONS = {
    "GPU activity": "A GPU activity is a kernel, a copy or a memset on a device. Percentages of GPU activity are of the "
    "durations of all activities in the counted steps, summed over streams.",
    "API call": "An API call is the runtime or driver call that launched an activity.",
    "Range": "A range is an NVTX range, or an operator or annotation of the PyTorch profiler, on a host thread.",
    "Phase": "A phase is forward, recompute, backward, optimizer, other or unattributed: the part of training that launched "
    "the work.",
    "Module": "A module is the part of the model that launched the work; what nothing says is unattributed, and never spread "
    "over the others.",
    "Role": "A role says which tensor a kernel quantizes (input, weight, grad_output), or which GEMM of a module it is "
    "(fprop, dgrad, wgrad).",
    "Step": "The time of an average counted step. On a device a step is a window: from the first activity launched in the "
    "step on its main stream to that of the next step.",
    "Steady steps": "Steady steps are all but warm-up (leading steps, or steps that load code, more than 1.5 times slower "
    "than the median of the second half), the last one, whose end no next step marks, and those whose time is not that of one "
    "step recorded whole.",
    "Spill": "Work belongs to the step that launched it; what runs outside its step's window is its spill.",
    "Wall": "Wall is the time of the counted steps, of each process and device: wall = busy + idle, checked in every run.",
    "Busy": "Busy is the time in which at least one activity runs on the GPU; its percentage is of wall, the time of the "
    "counted steps. It holds compute and exposed communication, the time in which only communication runs.",
    "Busy by category": "This is busy time: where activities of several categories run at once, the time counts for one of "
    "them, communication last, so that the shares add up to busy. Percentages are of wall, the time of the counted steps.",
    "Sums over streams": "Sums over streams are work, not time: two streams can do 2 ms of work in 1 ms.",
    "Host-bound": "The GPU idles because the host had not asked for its next work; this time is charged to the innermost range "
    "then open on the launching thread. Percentages are of wall, the time of the counted steps.",
    "Synchronization": "The GPU idles and its next work is not yet launched, because the thread sat in a synchronizing call. "
    "Percentages are of wall, the time of the counted steps.",
    "Launch latency": "The GPU idles although the call that launches its next work has begun; this counts from there on as long "
    "as the call lasts, or the floor, whichever is longer. Percentages are of wall, the time of the counted steps.",
    "Floor": "The floor is the median launch latency of the selected steps on streams that were idle at the call; where fewer "
    "than 30 launches met an idle stream, that of the whole recording; where fewer than 10 did in all of it, 8 µs.",
    "Other stream": "The GPU idles because its next work's stream waited for an event: a dependency on another stream. "
    "Percentages are of wall, the time of the counted steps.",
    "Inside CUDA graphs": "The GPU idles between two activities that belong to one CUDA graph launch. Percentages are of wall, "
    "the time of the counted steps.",
    "Profiler": "The GPU idles and the launching thread was in the profiler's own work. Percentages are of wall, the time of "
    "the counted steps.",
    "Between queued activities": "The GPU idles between two activities of one stream, and the second was launched longer ago "
    "than the floor: this is what the GPU takes from one activity to the next. Fewer, longer kernels or CUDA graphs make it "
    "less. Percentages are of wall, the time of the counted steps.",
    "Unexplained": "The GPU idles and no other cause is found: this is what is left, unexplained. Percentages are of wall, the "
    "time of the counted steps.",
    "Verdict": "The verdict is the first that holds: ranks wait for one of them (15% of wall), launch-bound (host-bound and "
    "launch latency, 30%), synchronization-bound (30%), communication-bound (30% exposed), copy-bound (copies between host and "
    "device are half of busy), else GPU-bound with its largest categories.",
    "Launch cost": "Launches are the API calls that launched the work of an average counted step. Launch cost is three numbers "
    "that are never added: host time inside launching calls; latency on an idle stream; host-bound idle.",
    "Host time in calls": "This is host time inside launching calls, summed over threads and divided by the number of counted "
    "steps.",
    "Latency on an idle stream": "The median time from the start of a launching call to the start of its activity, over the "
    "launches of the counted steps that met an idle stream (first node only for graphs); p95 is the 95th percentile of the same. "
    "Where fewer than 10 launches met one, it is not told.",
    "Back-pressure": "Host time inside launching calls while the launch queue is full, divided by the number of counted steps. "
    "A long call then is back-pressure, the sign of a busy GPU, not a cost.",
    "Quantization, lower bound": "The lower bound is the time of kernels that only quantize, transpose FP8 data, find amax or "
    "update scales (the category quantization). Its percentage is of GPU activity: all durations, summed over streams.",
    "Quantization, upper bound": "The upper bound adds, whole, the kernels that quantize beside other work (norm + cast, "
    "activation + cast, bias gradient + cast) to the lower bound.",
    "Quantization, estimate": "The estimate lies between the bounds: it is the time of kernels that only quantize and, of those "
    "that quantize beside other work, the share of FP8 bytes in the bytes they move. Its percentage is of GPU activity: all "
    "durations, summed over streams.",
    "Quantization on the host": "On the host quantization costs the host-bound idle charged to ranges that quantize.",
    "FP8 coverage": "FP8 coverage is the share of GEMM time whose both operands are FP8 by the kernel's name.",
    "Waiting for ranks": "Until the last rank arrives at a collective the others wait, the rest is transfer.",
    "Recorded calls": "A recorded call is one of Transformer Engine's that quantizes, updates scales or multiplies; the table "
    "has one row for each distinct call.",
    "Not captured": "A table that the recorder did not write was not captured: the report says so and never shows 0 for it.",
    "Range used": "Range used is amax times scale as a share of the format's largest value: above 100% values are clipped.",
    "Clipped": "Clipped is the share of a tensor's elements that are beyond the format's largest value and become it.",
    "Codes at ±max": "Where only FP8 codes were seen, codes at ±max is the share of them that are the format's largest value: "
    "they were clipped, or just that.",
    "Flushed": "Flushed is the share of the elements that are not zero and become zero.",
}
