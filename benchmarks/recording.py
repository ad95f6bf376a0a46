"""What recording costs: ratios of step times, interleaved, on a GPU with Transformer Engine and Nsight Systems.

    python benchmarks/recording.py [--sets 2] [--blocks 24] [--seconds 200] [--size small --size large] [--only events ...]

Each row compares two ways of running benchmarks/training.py in this one run of the benchmark: blocks of steps with and
without something in one process, each compared with the one before it; and whole processes, one of each way, all alive,
of which one trains at a time, a block in turn: each block is compared with that of the other way in the same turn, so
that drift of the machine hits both. Ratios are medians over these pairs, with the interval that holds the median in 95% of
all runs where pairs are independent, and their number; an aim within the interval is not told. Ratios of the median step of
each block are beside: they leave out steps in which somebody else had the processor, and what recording does in less than
half of the steps, as handing over its records. Rows of processes are printed after each set of them, of all sets so far;
--sets 0 leaves them out, --processes the others. `activities` is the collector of `tetrace record --collector cupti` without
any range, `cupti` the same with those of modules and of Transformer Engine's `nvte_*` calls; `events` measures every module
in every step, `sampled` in each tenth, which is the default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tetrace.study.statistics import Estimate, estimate

SCRIPT = Path(__file__).with_name("training.py")
NSYS = ["nsys", "profile", "-t", "cuda,nvtx", "-s", "none", "--cpuctxsw=none", "--cuda-graph-trace=node", "-f", "true"]
RECORD = [sys.executable, "-m", "tetrace", "record", "--steps", "all", "--force"]
# Whole processes: what stands before the script, and after it.
WAYS = {
    "plain": lambda folder: ([sys.executable], []),
    "instrumentation": lambda folder: ([*RECORD, "--collector", "host", "-o", f"{folder}/host", "--"], []),
    "events": lambda folder: ([*RECORD, "--collector", "events", "--every", "1", "-o", f"{folder}/events", "--"], []),
    "sampled": lambda folder: ([*RECORD, "--collector", "events", "-o", f"{folder}/sampled", "--"], []),
    "activities": lambda folder: (
        [*RECORD, "--collector", "cupti", "--ranges", "off", "-o", f"{folder}/activities", "--"],
        [],
    ),
    "cupti": lambda folder: ([*RECORD, "--collector", "cupti", "-o", f"{folder}/cupti", "--"], []),
    "nsys": lambda folder: ([*NSYS, "-o", f"{folder}/alone", sys.executable], []),
    "recorded": lambda folder: ([*RECORD, "--collector", "nsys", "-o", f"{folder}/nsys", "--"], []),
    "profiler": lambda folder: ([sys.executable], ["--under", "profiler"]),
}
SWITCHED = ("instrumentation", "events", "sampled", "activities", "cupti", "recorded", "profiler")
# Milliseconds of a step in each block: mean and median.
Block = tuple[float, float]
Times = dict[str, list[Block]]
# (what, above, below, what it may cost at most when bound by the host)
Row = tuple[str, str, str, "float | None"]
IN_ONE_PROCESS: tuple[Row, ...] = (
    ("instrumentation on / off, one process", "instrumentation on", "instrumentation off", 1.05),
    ("CUDA events on / off, one process", "events on", "events off", 1.03),
    ("CUDA events of each 10th step on / off, one process", "sampled on", "sampled off", 1.03),
    ("cupti without ranges on / off, one process", "activities on", "activities off", 1.08),
    ("cupti with ranges on / off, one process", "cupti on", "cupti off", 1.12),
    ("recorded on / off under nsys, one process", "recorded on", "recorded off", 1.08),
    ("torch.profiler on / off, one process", "profiler on", "profiler off", None),
)
PROCESSES: tuple[Row, ...] = (
    ("instrumented process / plain process", "instrumentation", "plain", None),
    ("record --collector events --every 1 / plain", "events", "plain", 1.03),
    ("record --collector events / plain", "sampled", "plain", 1.03),
    ("record --collector cupti --ranges off / plain", "activities", "plain", 1.08),
    ("record --collector cupti / plain", "cupti", "plain", 1.12),
    ("nsys alone / plain", "nsys", "plain", None),
    ("record --collector nsys / nsys alone", "recorded", "nsys", 1.08),
    ("record --collector nsys / plain", "recorded", "plain", None),
    ("torch.profiler / plain", "profiler", "plain", None),
)
AT_MOST_ON_THE_GPU = 1.01
_PATIENCE_S = 300  # of a start, or of a block
SIZES = ("small", "large")
STEPS = 10  # of a block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=2, help="processes of each way, one set after the other")
    parser.add_argument(
        "--blocks", type=int, default=24, help="of each way in one process, and in each set of processes"
    )
    parser.add_argument("--processes", action="store_true", help="only whole processes: nothing is switched in one")
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="no turn of processes begins later than this after the first",
    )
    parser.add_argument("--size", action="append", choices=SIZES, help="default: both")
    parser.add_argument("--only", action="append", choices=tuple(WAYS), help="these ways, against plain; default: all")
    args = parser.parse_args()
    ways = dict.fromkeys(["plain", *(args.only or WAYS)])
    columns = ("workload", "what", "ms a step", "against", "ratio", "of median steps", "of", "aim", "")
    sys.stdout.write(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}\n")
    for size in args.size or SIZES:
        times: Times = {}
        try:
            with tempfile.TemporaryDirectory() as folder:
                if not args.processes:
                    switch(times, size, list(ways), folder, args.blocks)
                take_turns(times, size, list(ways), folder, args.sets, args.blocks, args.seconds)
        except KeyboardInterrupt:
            raise SystemExit("stopped: what was measured so far") from None


def report(size: str, times: Times, between: Sequence[Row]) -> None:
    """The rows of which both sides were measured."""
    for what, above, below, aim in between:
        if times.get(above) and times.get(below):
            sys.stdout.write(row(size, what, times[above], times[below], aim))
            sys.stdout.flush()


def row(size: str, what: str, above: list[Block], below: list[Block], aim: float | None) -> str:
    """A row; what was measured one after the other is compared."""
    found, of_medians = (estimate([a[which] / b[which] for a, b in zip(above, below, strict=True)]) for which in (0, 1))
    most = aim if size == "small" or aim is None else AT_MOST_ON_THE_GPU
    is_told = most is not None and found.has_interval and not found.low <= most < found.high
    told = "" if most is None else "not told" if not is_told else "met" if found.value <= most else "missed"
    # Of a step that the GPU works through the host's part alone would be compared.
    medians = interval(of_medians) if size == "small" else ""
    ms = " | ".join(f"{statistics.median(mean for mean, _ in blocks):.2f}" for blocks in (above, below))
    return f"| {size} | {what} | {ms} | {interval(found)} | {medians} | {found.rounds} | {most or ''} | {told} |\n"


def interval(found: Estimate) -> str:
    return f"{found.value:.3f} ({found.low:.3f}, {found.high:.3f})" if found.has_interval else f"{found.value:.3f}"


def switch(times: Times, size: str, ways: list[str], folder: str, blocks: int) -> None:
    """Fills in milliseconds of a step with something on and off in one process, a value a block, and reports them."""
    for way in SWITCHED:
        if way in ways:
            environ = {**os.environ, **loading_collector(way, folder)}
            # Under nsys the whole time: what is switched is the rest of `tetrace record`.
            before = WAYS["nsys"](folder)[0] if way == "recorded" else [sys.executable]
            found = switched(before, size, way, blocks, environ)
            times |= {f"{way} {name}": values for name, values in found.items()}
            report(size, times, between=[one for one in IN_ONE_PROCESS if one[1] == f"{way} on"])


def take_turns(times: Times, size: str, ways: list[str], folder: str, sets: int, blocks: int, seconds: float) -> None:
    """The same of whole processes."""
    until = time.monotonic() + seconds
    for _ in range(sets):
        with contextlib.ExitStack() as stack:
            alive = {way: stack.enter_context(Process(way, size, folder)) for way in ways}
            for process in alive.values():
                process.begin()
            try:
                for _ in range(blocks):
                    if time.monotonic() > until:
                        break
                    turn = {way: process.turn() for way, process in alive.items()}
                    for way, ms in turn.items():
                        times.setdefault(way, []).append(ms)
            finally:
                # Before they end: saving what they recorded may take longer than somebody who stops this waits.
                report(size, times, between=PROCESSES)
        if time.monotonic() > until:
            break


class Process:
    """A process of one way of running, which trains a block whenever it is its turn."""

    def __init__(self, way: str, size: str, folder: str) -> None:
        before, after = WAYS[way](folder)
        path = Path(folder) / f"{way}.socket"
        path.unlink(missing_ok=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen()
        self._server.settimeout(_PATIENCE_S)
        self._command = [*before, str(SCRIPT), "--size", size, "--steps", str(STEPS), "--turns", str(path), *after]
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=self._said)
        self._lines: Any = None

    def __enter__(self) -> Process:
        return self

    def begin(self) -> None:
        """Waits until it is warm."""
        with self._failing():
            connection, _ = self._server.accept()
            with connection:
                connection.settimeout(_PATIENCE_S)
                self._lines = connection.makefile("rw")

    def turn(self) -> Block:
        """The next block."""
        with self._failing():
            self._lines.write("\n")
            self._lines.flush()
            mean, median = map(float, self._lines.readline().split())
            return mean, median

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError):
            self._process.kill()
            self._said.seek(0)
            sys.exit(f"{' '.join(self._command)} failed:\n{self._said.read()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()
        self._server.close()
        self._process.wait()
        self._said.close()


def loading_collector(way: str, folder: str) -> dict[str, str]:
    """What has the driver load the collector into a process that switches it on and off itself."""
    if way not in ("activities", "cupti"):
        return {}
    from tetrace.record import cupti

    target = Path(folder) / f"{way}-switched"
    target.mkdir()
    found = cupti.find([sys.executable], "launches", False, os.environ)
    return {**found.variables(), "TETRACE_RECORDING": str(target)}


def switched(before: list[str], size: str, way: str, blocks: int, environ: dict[str, str]) -> Times:
    counts = ["--blocks", str(blocks), "--steps", str(STEPS)]
    arguments = [*before, str(SCRIPT), "--size", size, *counts, "--switch", way]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environ)
    # nsys writes its own lines around the script's.
    line = next((line[line.index("{") :] for line in done.stdout.splitlines() if '": [' in line), "")
    if not line:
        sys.exit(f"{' '.join(arguments)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(line[: line.rindex("}") + 1])


if __name__ == "__main__":
    main()
