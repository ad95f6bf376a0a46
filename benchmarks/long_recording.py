"""A long recording with tetrace's own collector, on a GPU with Transformer Engine: memory, losses and times of its steps.

    python benchmarks/long_recording.py [--steps 10000] [--ranges modules] [--work FOLDER] [--plain]

Trains the small workload of training.py, some 500 kernels a step, once recorded whole and, with --plain, once without a
recorder. The exit code is 1 where the recorded process grew by more than 200 MB after its first 100 steps, a record was
dropped, or a step lacks kernels. Times are only reported: medians of the first and the last 100 steps. While it trains, a
line each 1,000 steps says how far it is.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

EDGE = 100  # steps at either end that are compared, and after which memory is looked at
TOLD = 1000  # steps after which a line says how far it is
MOST_GROWTH_MB = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--ranges", choices=("modules", "coarse", "off"), default="modules")
    parser.add_argument("--work", type=Path, help="where to put the recording; default: a folder that is removed")
    parser.add_argument("--plain", action="store_true", help="train without a recorder too, before")
    parser.add_argument("--train", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        args.train.write_text(json.dumps(train(args.steps)))
        return 0
    if args.plain:
        with tempfile.TemporaryDirectory() as folder:
            say("plain", run([], args.steps, Path(folder)))
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
        return record(args.work, args.steps, args.ranges)
    with tempfile.TemporaryDirectory() as folder:
        return record(Path(folder), args.steps, args.ranges)


def train(steps: int) -> dict[str, Any]:
    """The script: it knows nothing of tetrace. Seconds of each step, and its memory in kB by what /proc says."""
    import torch
    from training import SIZES, training_step

    _model, step = training_step(*SIZES["small"])
    seconds, memory = [], []
    for number in range(steps):
        before = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - before)
        if number % EDGE == EDGE - 1:
            memory.append(status())
        if number % TOLD == TOLD - 1:
            pace, now = 1e3 * statistics.median(seconds[-EDGE:]), memory[-1]["VmRSS"] * 1024 / 1e6
            sys.stderr.write(f"step {number + 1:,}: {pace:.2f} ms a step, {now:,.0f} MB\n")
    torch.cuda.synchronize()
    return {"seconds": seconds, "memory": memory}


def status() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "RssAnon:")}


def run(before: list[str], steps: int, folder: Path) -> dict[str, Any]:
    """What the script says of itself, with the words `before` its command."""
    told = folder / "steps.json"
    command = [sys.executable, str(Path(__file__).resolve()), "--train", str(told), "--steps", str(steps)]
    subprocess.run([*before, *command], check=True)
    return json.loads(told.read_text())


def growth_mb(found: dict[str, Any], name: str) -> float:
    """From the first look on to the largest one."""
    values = [one[name] for one in found["memory"]]
    return (max(values) - values[0]) * 1024 / 1e6


def say(what: str, found: dict[str, Any]) -> None:
    first, last = (
        1e3 * statistics.median(part) for part in (found["seconds"][EDGE : 2 * EDGE], found["seconds"][-EDGE:])
    )
    sys.stdout.write(
        f"{what}: {len(found['seconds']):,} steps; median of steps {EDGE} to {2 * EDGE} {first:.2f} ms, of the last {EDGE} "
        f"{last:.2f} ms ({last / first:.3f}x); memory grew by {growth_mb(found, 'VmRSS'):.0f} MB, of which "
        f"{growth_mb(found, 'RssAnon'):.0f} MB are no file's\n"
    )
    sys.stdout.flush()


def record(folder: Path, steps: int, ranges: str) -> int:
    """Records `steps` steps, says what came of it, and returns the exit code."""
    recorder = [sys.executable, "-m", "tetrace", "record", "--collector", "cupti", "--steps", "all", "--ranges", ranges]
    found = run([*recorder, "--force", "-o", str(folder / "run"), "--"], steps, folder)
    say(f"recorded with ranges of {ranges}" if ranges != "off" else "recorded without ranges", found)
    dropped, kernels = recorded(folder / "run.tetrace")
    counts = [kernels.get(step, 0) for step in range(EDGE, steps - 1)]
    sys.stdout.write(
        f"{sum(kernels.values()):,} kernels, {dropped:,} records dropped, {min(counts)} to {max(counts)} a step\n"
    )
    faults = [
        *([f"memory grew by more than {MOST_GROWTH_MB} MB"] if growth_mb(found, "VmRSS") > MOST_GROWTH_MB else []),
        *(["records were dropped"] if dropped else []),
        *(["a step lacks kernels"] if ranges != "off" and min(counts) < statistics.median(counts) else []),
    ]
    sys.stdout.writelines(f"FAULT: {fault}\n" for fault in faults)
    return 1 if faults else 0


def recorded(path: Path) -> tuple[int, dict[int, int]]:
    """Records that were dropped, and kernels by the number of the step that launched them (all in step 0 without steps)."""
    import numpy as np

    import tetrace

    trace = tetrace.load(path)
    about = tetrace.analyze(trace, steps="all").attribution
    is_kernel = trace.column("activities", "kind") == list(trace.words("activities", "kind")).index("kernel")
    numbers = about.steps.number[about.step[is_kernel & (about.step >= 0)]]
    return trace.metadata.dropped_records, dict(
        zip(*map(np.ndarray.tolist, np.unique(numbers, return_counts=True)), strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
