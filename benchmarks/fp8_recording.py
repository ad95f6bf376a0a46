"""What inspecting FP8 costs: every tensor of every step, on a GPU with Transformer Engine.

    python benchmarks/fp8_recording.py [--size big --size block] [--blocks 8] [--steps 10] [--seconds 60] [--no-stats]

In one process, blocks of steps in turn: plain, and each way to use `tetrace.watch`: without histograms, with them, without
checks, and with some of the rows of large tensors only.
Beside it, where nvdlfw_inspect is installed, Transformer Engine's own LogFp8TensorStats at freq=1 in a process of its own
against a plain one, by their medians. Other ratios are medians over blocks, each against the plain block just before it; the
smallest and the largest are beside. Every block follows a pause, in which watches begin and end, of the same length for all, and
steps that are not counted: a GPU at its power cap runs faster for a while after a pause, and longer after a longer one.
`big` is bound by the host on most machines, `block` by the GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

# layers, hidden, ffn, heads, batch, sequence
SIZES = {"big": (4, 1024, 4096, 16, 8, 512), "block": (2, 4096, 16384, 32, 32, 256)}
SETTLING = {"big": 4, "block": 12}
PAUSE_S = 0.3
WAYS = {
    "tensors and checks": {"histogram": False},
    "with histograms": {"histogram": True},
    "tensors, no checks": {"histogram": False, "checks": False},
    "every 8th row, tensors and checks": {"histogram": False, "rows": 8},
    "every 8th row, with histograms": {"histogram": True, "rows": 8},
    "every 10th step, with histograms": {"histogram": True, "every": 10},
    "nothing: modules and calls have their ranges": {"histogram": False, "checks": False, "modules": "(?!)"},
}
# At most this many times the plain step, by size.
_PLAIN, _HISTOGRAMS = {"big": 1.10, "block": 1.05}, {"big": 1.15, "block": 1.10}
AIMS = {
    "tensors and checks": _PLAIN,
    "with histograms": _HISTOGRAMS,
    "every 8th row, tensors and checks": _PLAIN,
    "every 8th row, with histograms": _HISTOGRAMS,
}
STATS = """
fp8_stats:
  enabled: True
  layers: {layer_name_regex_pattern: .*}
  transformer_engine:
    LogFp8TensorStats:
      enabled: True
      tensors_struct:
        - {tensor: activation, stats: ["underflows%", scale_inv_min, scale_inv_max, mse], freq: 1}
        - {tensor: gradient, stats: ["underflows%", scale_inv_min, scale_inv_max, mse], freq: 1}
        - {tensor: weight, stats: ["underflows%", scale_inv_min, scale_inv_max, mse], freq: 1}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", action="append", choices=tuple(SIZES), help="default: both")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--steps", type=int, default=10, help="steps in a block")
    parser.add_argument("--seconds", type=float, help="no more blocks of a size than begin within so many")
    parser.add_argument("--no-stats", action="store_true", help="without LogFp8TensorStats")
    parser.add_argument("--worker", choices=("watch", "stats", "plain"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        until = time.monotonic() + (args.seconds or float("inf"))
        blocks = (number for number in range(args.blocks) if not number or time.monotonic() < until)
        json.dump(WORKERS[args.worker](args.size[0], blocks, args.steps), sys.stdout)
        return
    sys.stdout.write(
        "| workload | what | ms a step | plain | ratio | from | to | aim | rows a step |\n|---|---|---|---|---|---|---|---|---|\n"
    )
    for size in args.size or SIZES:
        report(size, args.blocks, args.steps, stats=not args.no_stats, seconds=args.seconds)


def report(size: str, blocks: int, steps: int, stats: bool, seconds: float | None) -> None:
    times = run("watch", size, blocks, steps, seconds)
    repeated, watched_losses = times["losses"].pop("plain"), times["losses"]
    if len(repeated) > 1:
        sys.stderr.write(f"{size}: plain steps do not repeat bit for bit, so losses say nothing: {repeated}\n")
    elif any(losses != repeated[0] for losses in watched_losses.values()):
        raise SystemExit(f"losses differ with and without inspection: {repeated} {watched_losses}")
    for what in WAYS:
        line(size, what, times[what], AIMS.get(what, {}).get(size), times["rows"][what])
    if stats and importlib.util.find_spec("nvdlfw_inspect") is None:
        sys.stdout.write("\nnvdlfw_inspect is not installed: LogFp8TensorStats was left out.\n")
    elif stats:
        # Processes of their own, one after the other: no block of the one is beside one of the other.
        above, below = (statistics.median(run(way, size, 2, 3)["ms"]) for way in ("stats", "plain"))
        line(size, "LogFp8TensorStats, freq=1", [(below, above)], None, 0)


def line(size: str, what: str, pairs: Sequence[Sequence[float]], aim: float | None, rows: float) -> None:
    """A row of the table; `pairs` are milliseconds of a step, plain and this way."""
    wanted, seen = f"{aim:.2f}x" if aim else "", f"{rows:.0f}" if rows else ""
    plain, ms = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = [one / before for before, one in pairs]
    ends = f"{min(ratios):.3f} | {max(ratios):.3f}" if len(ratios) > 1 else " | "
    of_pairs = f"{statistics.median(ratios):.3f}x | {ends}"
    sys.stdout.write(f"| {size} | {what} | {ms:.2f} | {plain:.2f} | {of_pairs} | {wanted} | {seen} |\n")
    sys.stdout.flush()


def run(worker: str, size: str, blocks: int, steps: int, seconds: float | None = None) -> dict:
    options = ["--worker", worker, "--size", size, "--blocks", str(blocks), "--steps", str(steps)]
    options += ["--seconds", str(seconds)] if seconds else []
    done = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{worker} {size}: exit code {done.returncode}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def watched(size: str, blocks: Iterable[int], steps: int) -> dict:
    """Blocks in turn, each way after a plain one; `SETTLING` steps after each change are not counted."""
    import tetrace
    from tetrace.instrument import observer

    # Imports torch, whose libraries the observer is linked to.
    model, reset, step = training_step(*SIZES[size])
    built = observer.build()  # `tetrace.watch` takes what is there, as `tetrace record` and doctor build it
    reads = observer.address(observer.load(), "tetrace_observer_tensor")
    sys.stderr.write(f"tensors are read {'by' if reads else 'through their methods, not by'} {built.parent.name}\n")
    timed(step, 5)
    since = time.monotonic()
    times: dict = {what: [] for what in WAYS}
    losses: dict = {}
    repeated: set = set()
    rows: dict = {}
    for _ in blocks:
        for what, options in WAYS.items():
            reset()
            pause(since)
            repeated.add(tuple(float(step()) for _ in range(2)))
            timed(step, SETTLING[size])
            before, since = timed(step, steps), time.monotonic()
            reset()
            with tetrace.watch(model, **options) as watch:
                pause(since)
                losses[what] = [float(step()) for _ in range(2)]
                timed(step, SETTLING[size])
                times[what].append((before, timed(step, steps)))
                since = time.monotonic()
            if what not in rows:
                rows[what] = len(watch.table()) / (2 + SETTLING[size] + steps)
    return {**times, "losses": {"plain": sorted(repeated), **losses}, "rows": rows}


def pause(since: float) -> None:
    """Waits until `PAUSE_S` after the last block; what runs meanwhile is over soon."""
    import torch

    torch.cuda.synchronize()
    time.sleep(max(0.0, since + PAUSE_S - time.monotonic()))


def logged(size: str, blocks: Iterable[int], steps: int) -> dict:
    import nvdlfw_inspect.api as api
    import transformer_engine

    with tempfile.TemporaryDirectory() as temporary:
        config = Path(temporary) / "stats.yaml"
        config.write_text(STATS)
        features = Path(transformer_engine.__file__).parent / "debug" / "features"
        api.initialize(config_file=str(config), feature_dirs=[str(features)], log_dir=temporary)
        _, _, step = training_step(*SIZES[size])

        def with_stats():
            loss = step()
            api.step()
            return loss

        timed(with_stats, 3)
        return {"ms": [timed(with_stats, steps) for _ in blocks]}


def plain(size: str, blocks: Iterable[int], steps: int) -> dict:
    _, _, step = training_step(*SIZES[size])
    timed(step, 5)
    return {"ms": [timed(step, steps) for _ in blocks]}


WORKERS = {"watch": watched, "stats": logged, "plain": plain}


def training_step(layers: int, hidden: int, ffn: int, heads: int, batch: int, seq: int):
    """(model, what puts weights and optimizer back, one step, which returns its loss)."""
    import torch
    import transformer_engine.pytorch as te
    from transformer_engine.common.recipe import Float8CurrentScaling

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
    kept, recipe = [one.detach().clone() for one in model.parameters()], Float8CurrentScaling()

    def reset() -> None:
        with torch.no_grad():
            for one, before in zip(model.parameters(), kept, strict=True):
                one.copy_(before)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()

    def step():
        with te.autocast(enabled=True, recipe=recipe):
            loss = model(inputs).float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return model, reset, step


def timed(step, steps: int) -> float:
    """Milliseconds of a step, the block's end waited for."""
    import torch

    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps * 1e3


if __name__ == "__main__":
    main()
