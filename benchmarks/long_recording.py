"""A long recording with tetrace's own collector, on a GPU with Transformer Engine: memory, losses and times of its steps.

    python benchmarks/long_recording.py [--steps 10000] [--ranges modules] [--work FOLDER] [--alone]

Trains the small workload of training.py, some 500 kernels a step, recorded whole. The exit code is 1 where the recorded
process grew by more than 200 MB after its first 100 steps, a record was dropped, or a step lacks kernels. Times are only
reported. A plain process lives beside the recorded one: after the first and each further 1,000 steps the recorded one waits
while the plain one trains a few blocks, and a line says how much longer the last 100 recorded steps took than those. So
what recording costs in the last steps is told from what the machine does. --alone leaves the plain process out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from recording import Process

EDGE = 100  # steps that are timed together, and after which memory is looked at
TOLD = 1000  # steps after which plain ones are trained beside, and a line says how far it is
PLAIN_BLOCKS = 7  # of recording.py's steps each
MOST_GROWTH_MB = 200


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--ranges", choices=("modules", "coarse", "off"), default="modules")
    parser.add_argument("--work", type=Path, help="where to put the recording; default: a folder that is removed")
    parser.add_argument("--alone", action="store_true", help="without a plain process beside it")
    parser.add_argument("--train", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.train:
        args.train.write_text(json.dumps(train(args.steps, str(args.train.with_suffix(".socket")))))
        return 0
    if args.work:
        args.work.mkdir(parents=True, exist_ok=True)
        return record(args.work, args.steps, args.ranges, args.alone)
    with tempfile.TemporaryDirectory() as folder:
        return record(Path(folder), args.steps, args.ranges, args.alone)


def train(steps: int, path: str) -> dict[str, Any]:
    """The script: it knows nothing of tetrace. Milliseconds of a step in each `EDGE` of them, its memory in kB by what
    /proc says, and where it waited for plain steps, after how many of its own."""
    from training import SIZES, run_block, training_step

    _model, step = training_step(*SIZES["small"])
    ms, memory, paused = [], [], []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        with connection.makefile("rw") as lines:
            for done in range(EDGE, steps + 1, EDGE):
                ms.append(run_block(step, EDGE)[0])
                memory.append(status())
                # The first of all warms up.
                if done != 2 * EDGE and done % TOLD:
                    continue
                paused.append(done)
                lines.write(f"{done} {ms[-1]} {memory[-1]['VmRSS'] * 1024 / 1e6}\n")
                lines.flush()
                lines.readline()
    return {"ms": ms, "memory": memory, "paused": paused}


def status() -> dict[str, int]:
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "RssAnon:")}


def run(before: list[str], steps: int, folder: Path, plain: Process | None) -> dict[str, Any]:
    """What the script says of itself, with the words `before` its command, and the plain steps of each of its pauses."""
    told = folder / "steps.json"
    path = told.with_suffix(".socket")
    path.unlink(missing_ok=True)
    beside = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        command = [sys.executable, str(Path(__file__).resolve()), "--train", str(told), "--steps", str(steps)]
        with subprocess.Popen([*before, *command]) as process:
            server.settimeout(300)
            connection, _ = server.accept()
            with connection, connection.makefile("rw") as lines:
                for line in lines:
                    done, ms, megabytes = map(float, line.split())
                    beside.append(statistics.median(plain.turn()[0] for _ in range(PLAIN_BLOCKS)) if plain else None)
                    said = f", {ms / beside[-1]:.3f} of a plain one ({beside[-1]:.2f})" if plain else ""
                    sys.stdout.write(f"step {done:,.0f}: {ms:.2f} ms a step{said}, {megabytes:,.0f} MB\n")
                    sys.stdout.flush()
                    lines.write("\n")
                    lines.flush()
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed ({process.returncode})")
    return {**json.loads(told.read_text()), "plain": beside}


def growth_mb(found: dict[str, Any], name: str) -> float:
    """From the first look on to the largest one."""
    values = [one[name] for one in found["memory"]]
    return (max(values) - values[0]) * 1024 / 1e6


def say(what: str, found: dict[str, Any]) -> None:
    first, last = (found["ms"][done // EDGE - 1] for done in (found["paused"][0], found["paused"][-1]))
    plain = found["plain"]
    costs = f", {first / plain[0]:.3f} and {last / plain[-1]:.3f} of a plain one beside it" if plain[0] else ""
    sys.stdout.write(
        f"{what}: {EDGE * len(found['ms']):,} steps; {first:.2f} ms a step at first and {last:.2f} in the last "
        f"{EDGE}{costs}; memory grew by {growth_mb(found, 'VmRSS'):.0f} MB, of which {growth_mb(found, 'RssAnon'):.0f} MB are no "
        "file's\n"
    )
    sys.stdout.flush()


def record(folder: Path, steps: int, ranges: str, alone: bool) -> int:
    """Records `steps` steps, says what came of it, and returns the exit code."""
    recorder = [sys.executable, "-m", "tetrace", "record", "--collector", "cupti", "--steps", "all", "--ranges", ranges]
    with contextlib.ExitStack() as stack:
        plain = None if alone else stack.enter_context(Process("plain", "small", str(folder)))
        if plain is not None:
            plain.begin()
        found = run([*recorder, "--force", "-o", str(folder / "run"), "--"], steps, folder, plain)
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
