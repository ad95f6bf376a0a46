"""What recording costs: ratios of step times, interleaved, on a GPU with Transformer Engine and Nsight Systems.

    python benchmarks/recording.py [--pairs 3] [--size small --size large]

Each row compares two ways of running benchmarks/training.py in this one run of the benchmark: instrumentation put in
and taken out in one process; an instrumented process with one that never was; and `tetrace record` with `nsys profile`
alone. Figures are medians of blocks; processes are started in turn, so that drift of the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).with_name("training.py")
NSYS = ["nsys", "profile", "-t", "cuda,nvtx", "-s", "none", "--cpuctxsw=none", "--cuda-graph-trace=node", "-f", "true"]
RECORD = [sys.executable, "-m", "tetrace", "record", "--steps", "all", "--force"]
WAYS = {
    "plain": lambda folder: [sys.executable],
    "instrumented": lambda folder: [*RECORD, "--collector", "host", "-o", f"{folder}/host", "--"],
    "nsys": lambda folder: [*NSYS, "-o", f"{folder}/alone", sys.executable],
    "recorded": lambda folder: [*RECORD, "--collector", "nsys", "-o", f"{folder}/nsys", "--"],
}
ROWS = (
    ("instrumentation in and out, one process", "in", "out"),
    ("instrumented process / plain process", "instrumented", "plain"),
    ("nsys alone / plain", "nsys", "plain"),
    ("tetrace record / nsys alone", "recorded", "nsys"),
    ("tetrace record / plain", "recorded", "plain"),
)
BLOCKS = {"small": ("--blocks", "12", "--steps", "20"), "large": ("--blocks", "8", "--steps", "10")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="processes of each way")
    parser.add_argument("--size", action="append", choices=tuple(BLOCKS), help="default: both")
    args = parser.parse_args()
    sys.stdout.write("| workload | what | ms a step | against | ratio |\n|---|---|---|---|---|\n")
    for size in args.size or BLOCKS:
        times = measure(size, args.pairs)
        for what, above, below in ROWS:
            a, b = statistics.median(times[above]), statistics.median(times[below])
            sys.stdout.write(f"| {size} | {what} | {a:.2f} | {b:.2f} | {a / b:.3f} |\n")


def measure(size: str, pairs: int) -> dict[str, list[float]]:
    """Milliseconds of a step by way of running."""
    times: dict[str, list[float]] = {way: [] for way in (*WAYS, "in", "out")}
    with tempfile.TemporaryDirectory() as folder:
        for name, values in run([sys.executable], size, folder, "--interleave").items():
            times[name] += values
        for _ in range(pairs):
            for way, command in WAYS.items():
                times[way] += run(command(folder), size, folder)["ms"]
    return times


def run(command: list[str], size: str, folder: str, *more: str) -> dict[str, list[float]]:
    arguments = [*command, str(SCRIPT), "--size", size, *BLOCKS[size], *more]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    # nsys writes its own lines around the script's.
    line = next((line[line.index("{") :] for line in done.stdout.splitlines() if '": [' in line), "")
    if not line:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(line[: line.rindex("}") + 1])


if __name__ == "__main__":
    main()
