"""The workload of recording.py: Transformer Engine layers trained in blocks of steps, timed a block at a time.

Prints the milliseconds of a step in each block as JSON. With --interleave every other block runs with tetrace's
instrumentation put in, in this one process; otherwise the script knows nothing of tetrace.
"""

import argparse
import json
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
    parser.add_argument("--interleave", action="store_true")
    args = parser.parse_args()
    step = training_step(*SIZES[args.size])
    run_block(step, 10)
    if args.interleave:
        json.dump(interleaved(step, args.blocks, args.steps), sys.stdout)
    else:
        json.dump({"ms": [run_block(step, args.steps) for _ in range(args.blocks)]}, sys.stdout)


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

    return step


def run_block(step, steps: int) -> float:
    """Milliseconds of a step, the block's end waited for."""
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / steps * 1e3


def interleaved(step, blocks: int, steps: int) -> dict[str, list[float]]:
    """Blocks without and with instrumentation in turn; a step after each change is not counted."""
    from tetrace.instrument.start import start, stop

    times: dict[str, list[float]] = {"out": [], "in": []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(blocks):
            times["out"].append(run_block(step, steps))
            target = Path(folder) / str(number)
            target.mkdir()
            start(target, {"ranges": "modules"})
            run_block(step, 2)
            times["in"].append(run_block(step, steps))
            stop()
            run_block(step, 2)
    return times


if __name__ == "__main__":
    main()
