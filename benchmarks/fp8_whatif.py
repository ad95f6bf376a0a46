"""How near what-if comes to what Transformer Engine's quantizers do: a table for docs/fp8.md, on a GPU.

    python benchmarks/fp8_whatif.py [--each]

Tensors, quantizers and what is compared are those of tests/gpu/test_live_whatif.py, whose limits decide; the exit code
here is 1 where something measured lies outside of the bounds. `--each` prints a row a tensor and cast as well.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import transformer_engine

from tests.fp8.real_casts import BLOCK, CURRENT, DELAYED, Recorded, Result, table
from tests.gpu.te_casts import quantize, tensors


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", action="store_true", help="a row a tensor and cast too")
    args = parser.parse_args()
    recorded = Recorded(tensors())
    found = [one for cast in (*DELAYED, *CURRENT, *BLOCK) for one in recorded.results(cast, quantize)]
    versions = f"Transformer Engine {transformer_engine.__version__}, torch {torch.__version__}"
    sys.stdout.write(f"{torch.cuda.get_device_name()}, {versions}\n\n{table(found)}\n")
    if args.each:
        sys.stdout.write("\n" + "\n".join(line(one) for one in found) + "\n")
    return 0 if all(one.is_inside for one in found) else 1


def line(one: Result) -> str:
    """What was measured and what was said of it."""
    row = one.row
    return (
        f"| {one.cast} | {one.name} | {one.saturated:.6f} in {row.saturated_lower:.6f} to {row.saturated_upper:.6f} "
        f"| {one.flushed:.6f} in {row.flushed_lower:.6f} to {row.flushed_upper:.6f} "
        f"| {one.snr_db:.2f} dB, said {row.snr_db:.2f} dB |"
    )


if __name__ == "__main__":
    sys.exit(main())
