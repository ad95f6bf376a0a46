"""The workload of recording.py: Transformer Engine layers trained in blocks of steps, timed a block at a time.

With --switch every other block runs with what it names, in this one process, and milliseconds of a step are printed as
JSON. With --turns a block runs whenever a line comes through that socket, and its milliseconds go back; with --under all
of them run with what that names; otherwise the script knows nothing of tetrace.
"""

import argparse
import contextlib
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import transformer_engine.pytorch as te
from transformer_engine.common.recipe import DelayedScaling

# layers, hidden, ffn, heads, batch, sequence: `small` is bound by the host, `large` by the GPU.
SIZES = {"small": (8, 256, 1024, 4, 2, 128), "large": (2, 4096, 16384, 32, 32, 256)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    parser.add_argument("--switch", choices=WAYS)
    parser.add_argument("--turns", help="path of a socket")
    parser.add_argument("--under", choices=WAYS)
    args = parser.parse_args()
    model, step = training_step(*SIZES[args.size])
    run_block(step, 10)
    if args.switch:
        json.dump(switched(model, step, WAYS[args.switch], args.blocks, args.steps), sys.stdout)
        return
    with WAYS[args.under](model) if args.under else contextlib.nullcontext():
        take_turns(step, args.turns, args.steps)


def training_step(layers: int, hidden: int, ffn: int, heads: int, batch: int, seq: int):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(
            te.TransformerLayer(
                hidden, ffn, heads, layer_number=n + 1, hidden_dropout=0.0, attention_dropout=0.0,
                self_attn_mask_type="causal", attn_input_format="bshd", params_dtype=torch.bfloat16,
            )
            for n in range(layers)
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    inputs = torch.randn(batch, seq, hidden, dtype=torch.bfloat16, device="cuda")
    recipe = DelayedScaling()

    def step() -> None:
        with te.autocast(enabled=True, recipe=recipe):
            loss = model(inputs).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return model, step


def run_block(step, steps: int) -> tuple[float, float]:
    """Milliseconds of a step, mean and median, the block's end waited for. Where the host is what takes the time, its median
    leaves out the steps in which another machine on the same host took the processor away; elsewhere it says nothing.
    """
    torch.cuda.synchronize()
    ends = [time.perf_counter()]
    for _ in range(steps):
        step()
        ends.append(time.perf_counter())
    torch.cuda.synchronize()
    ends[-1] = time.perf_counter()
    took = [end - begin for begin, end in itertools.pairwise(ends)]
    return (ends[-1] - ends[0]) / steps * 1e3, statistics.median(took) * 1e3


def switched(model, step, way, blocks: int, steps: int) -> dict[str, list[tuple[float, float]]]:
    """Blocks without and with it in turn; two steps after each change are not counted."""
    times: dict[str, list[tuple[float, float]]] = {"off": [], "on": []}
    for _ in range(blocks):
        times["off"].append(run_block(step, steps))
        with way(model):
            run_block(step, 2)
            times["on"].append(run_block(step, steps))
        run_block(step, 2)
    return times


def take_turns(step, path: str, steps: int) -> None:
    """A block for each line, until there are no more; two steps after each wait are not counted."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw") as lines:
            for _ in lines:
                run_block(step, 2)
                lines.write("{} {}\n".format(*run_block(step, steps)))
                lines.flush()


_recordings = itertools.count()


@contextlib.contextmanager
def recording(ranges: str, **options: str):
    """Instrumentation, and the collector where recording.py has the driver load it."""
    from tetrace.instrument.start import start, stop

    with tempfile.TemporaryDirectory() as temporary:
        # The collector writes where it was told when it was loaded.
        folder = os.environ.get("TETRACE_RECORDING") or f"{temporary}/{next(_recordings)}"
        Path(folder).mkdir(exist_ok=True)
        start(Path(folder), {"ranges": ranges, **options})
        try:
            yield
        finally:
            stop()


def timer(model, every: int):
    import tetrace

    return tetrace.timer(model, every=every, show=False)


def profiler(_model):
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    return torch.profiler.profile(activities=activities)


CUPTI = {"collector": "cupti", "capture": "collector"}
WAYS = {
    "instrumentation": lambda _: recording("modules"),
    "activities": lambda _: recording("off", **CUPTI),
    "cupti": lambda _: recording("modules", **CUPTI),
    "recorded": lambda _: recording("modules", collector="nsys"),
    "events": lambda model: timer(model, 1),
    "sampled": lambda model: timer(model, 10),
    "profiler": profiler,
}


if __name__ == "__main__":
    main()
