"""What the numbers of a report mean, in the words of docs/how-it-works.md (a test holds the two together)."""

from __future__ import annotations

DEFINITIONS = {
    "GPU activity": "a kernel, a copy or a memset on a device.",
    "API call": "the runtime or driver call that launched it.",
    "Range": "an NVTX range, or an operator or annotation of the PyTorch profiler, on a host thread.",
    "Phase": "forward, recompute, backward, optimizer, other or unattributed.",
    "Module": "what nothing says is unattributed, and never spread over the others.",
    "Role": "which tensor a kernel quantizes (input, weight, grad_output), or which GEMM of a module it is (fprop, dgrad, "
    "wgrad).",
    "Step": "On a device a step is a window: from the first activity launched in the step on its main stream to that of "
    "the next step.",
    "Steady steps": "are all but warm-up (leading steps, or steps that load code, more than 1.5 times slower than the "
    "median of the second half), the last one, whose end no next step marks, and those whose time is not that of one step "
    "recorded whole",
    "Spill": "Work belongs to the step that launched it; what runs outside its step's window is its spill.",
    "Wall": "wall = busy + idle, checked in every run; a report that does not add up is refused.",
    "Busy": "at least one activity runs. busy = compute + exposed communication, the time in which only communication "
    "runs.",
    "Busy by category": "where activities of several categories run at once, the time counts for one of them, "
    "communication last: the shares add up to busy.",
    "Sums over streams": '("GPU activity") are work, not time: two streams can do 2 ms of work in 1 ms.',
    "Host-bound": "the host had not asked. Charged to the innermost range then open on the launching thread",
    "Synchronization": "where the thread sat in a synchronizing call",
    "Launch latency": "as long as the call lasts, or the floor, whichever is longer",
    "Floor": "the median launch latency of the selected steps on streams that were idle at the call; where fewer than "
    "30 launches met an idle stream, that of the whole recording.",
    "Other stream": "dependency on another stream",
    "Inside CUDA graphs": "K and the activity before it belong to one CUDA graph launch",
    "Profiler": "where it was in the profiler's own work",
    "Unexplained": "what is left",
    "Verdict": "is the first that holds: ranks wait for one of them (15% of wall), launch-bound (host-bound and launch "
    "latency, 30%), synchronization-bound (30%), communication-bound (30% exposed), copy-bound (copies between host and "
    "device are half of busy), else GPU-bound with its largest categories.",
    "Launch cost": "is three numbers that are never added: host time inside launching calls; latency on an idle stream "
    "(first node only for graphs); host-bound idle.",
    "Back-pressure": "A long call while the launch queue is full is back-pressure, the sign of a busy GPU, not a cost.",
    "Quantization, lower bound": "is the time of kernels that only quantize, transpose FP8 data, find amax or update "
    "scales (the category quantization).",
    "Quantization, upper bound": "adds, whole, the kernels that quantize beside other work (norm + cast, activation + "
    "cast, bias gradient + cast).",
    "Quantization, estimate": "takes of those the share of FP8 bytes in the bytes they move, read from the types in their "
    "names.",
    "Quantization on the host": "it is the host-bound idle charged to ranges that quantize.",
    "FP8 coverage": "is the share of GEMM time whose both operands are FP8 by the kernel's name",
    "Waiting for ranks": "until the last rank arrives the others wait, the rest is transfer.",
    "Recorded calls": "one row for each distinct call of TE that quantizes, updates scales or multiplies",
    "Not captured": "A table that the recorder did not write was not captured: the report says so and never shows 0 for "
    "it.",
    "Range used": "amax times scale as a share of the format's largest value: above 100% values are clipped.",
    "Saturated": "the share of a tensor's elements that are beyond the format's largest value and become it.",
    "Flushed": "the share of the elements that are not zero and become zero.",
}
