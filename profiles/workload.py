"""What the workloads beside this file share: their options, the NVTX ranges, warm-up, capture and timing.

A workload parses its options with `parser()`, builds a `step(span)` that runs one training step and marks its
phases with `with span("forward"):`, and hands it to `run()`. Transformer Engine's own ranges are switched on with
NVTE_NVTX_ENABLED=1 in the environment.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch

Span = Callable[[str], contextlib.AbstractContextManager]
Step = Callable[[Span], None]

ATTENTION = {
    "auto": {},
    "flash": {"NVTE_FLASH_ATTN": "1", "NVTE_FUSED_ATTN": "0", "NVTE_UNFUSED_ATTN": "0"},
    "fused": {"NVTE_FLASH_ATTN": "0", "NVTE_FUSED_ATTN": "1", "NVTE_UNFUSED_ATTN": "0"},
    "unfused": {"NVTE_FLASH_ATTN": "0", "NVTE_FUSED_ATTN": "0", "NVTE_UNFUSED_ATTN": "1"},
}


def parser(description: str) -> argparse.ArgumentParser:
    """The options every workload has; a workload adds its own."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--hidden", type=int, default=1024)
    options.add_argument("--ffn", type=int, default=4096)
    options.add_argument("--heads", type=int, default=16)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--seq", type=int, default=512)
    options.add_argument(
        "--recipe",
        choices=("none", "delayed", "current", "block"),
        default="none",
        help="FP8 recipe; none trains in BF16",
    )
    options.add_argument(
        "--attention",
        choices=tuple(ATTENTION),
        default="auto",
        help="backend that Transformer Engine's attention may use",
    )
    options.add_argument(
        "--nvtx",
        choices=("ranges", "none", "emit", "emit-shapes"),
        default="ranges",
        help="step ranges, nothing, or PyTorch's emit_nvtx",
    )
    options.add_argument("--steps", type=int, default=8)
    options.add_argument("--warmup", type=int, default=5)
    options.add_argument(
        "--capture", action="store_true", help="bracket the measured steps with cudaProfilerStart and cudaProfilerStop"
    )
    options.add_argument("--profiler", metavar="OUT.json.gz", help="record the steps with torch.profiler instead")
    options.add_argument("--with-stack", action="store_true", help="torch.profiler: record Python stacks and modules")
    options.add_argument(
        "--time", action="store_true", help="time the steps one by one, synchronized, and then again back to back"
    )
    options.add_argument("--seed", type=int, default=0)
    return options


def parse(options: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line, and apply what must be set before Transformer Engine's first forward."""
    args = options.parse_args()
    os.environ.update(ATTENTION[args.attention])
    torch.manual_seed(args.seed)
    return args


def fp8_recipe(name: str):
    """The recipe object for a --recipe name, None for BF16."""
    import recipes

    return recipes.fp8_recipe(name)


def adamw(model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


def mean_square(output: torch.Tensor) -> torch.Tensor:
    return output.float().square().mean()


def inputs(args: argparse.Namespace, requires_grad: bool = True) -> torch.Tensor:
    return torch.randn(
        args.batch, args.seq, args.hidden, dtype=torch.bfloat16, device="cuda", requires_grad=requires_grad
    )


@contextlib.contextmanager
def nvtx_span(name: str):
    torch.cuda.nvtx.range_push(name)
    try:
        yield
    finally:
        torch.cuda.nvtx.range_pop()


def make_span(args: argparse.Namespace) -> Span:
    if args.nvtx != "ranges":
        return contextlib.nullcontext
    return torch.profiler.record_function if args.profiler else nvtx_span


def run(step: Step, args: argparse.Namespace) -> None:
    """Warm up, run the measured steps as the options say, and print the options and times as one JSON line."""
    span = make_span(args)
    with contextlib.ExitStack() as stack:
        if args.nvtx.startswith("emit"):
            stack.enter_context(torch.autograd.profiler.emit_nvtx(record_shapes=args.nvtx == "emit-shapes"))
        for _ in range(args.warmup):
            with span("step_-1"):
                step(span)
        torch.cuda.synchronize()
        measure = measure_with_torch_profiler if args.profiler else measure_times if args.time else measure_steps
        times = measure(step, span, args)
    sys.stdout.write(json.dumps({"options": vars(args)} | times) + "\n")


def measure_steps(step: Step, span: Span, args: argparse.Namespace) -> dict[str, float]:
    if args.capture:
        torch.cuda.profiler.start()
    start = time.perf_counter()
    for index in range(args.steps):
        with span(f"step_{index}"):
            step(span)
    torch.cuda.synchronize()
    mean = milliseconds(time.perf_counter() - start) / args.steps
    if args.capture:
        torch.cuda.profiler.stop()
    return {"step_ms_mean": mean}


def measure_times(step: Step, span: Span, args: argparse.Namespace) -> dict[str, float]:
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step(span)
        torch.cuda.synchronize()
        times.append(milliseconds(time.perf_counter() - start))
    alone = {"step_ms_median": statistics.median(times), "step_ms_min": min(times), "step_ms_max": max(times)}
    return alone | measure_steps(step, span, args)


def measure_with_torch_profiler(step: Step, span: Span, args: argparse.Namespace) -> dict[str, float]:
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    schedule = torch.profiler.schedule(wait=0, warmup=1, active=args.steps, repeat=1)
    with torch.profiler.profile(
        activities=activities,
        schedule=schedule,
        record_shapes=True,
        with_stack=args.with_stack,
        with_modules=args.with_stack,
        on_trace_ready=lambda done: done.export_chrome_trace(args.profiler),
    ) as profiler:
        for _ in range(args.steps + 1):
            step(span)
            profiler.step()
    return {}


def milliseconds(seconds: float) -> float:
    return seconds * 1e3
