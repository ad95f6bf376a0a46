"""What one range costs the recorded script, called from Python.

    python benchmarks/ranges.py [--json FILE]

Nanoseconds of one range: of a loop over a hundred thousand of them, what an empty loop of the same length takes is taken
off; the median of `--repeats` such loops, and the fastest. Each setting runs in a process of its own:

- `off`: instrumented, but nothing is recorded.
- `ring`: rows are written to a file, as under the `host` collector; no NVTX tool listens. At most 250 ns.
- `tool`: the same with an NVTX tool (`tests/instrument/nvtx_tool.c`) that writes down time, thread, name, category and
  payload of each event. At most 800 ns. A real tool has its own costs on top.

Needs a C compiler for the third. Exit code 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

TOOL = Path(__file__).resolve().parent.parent / "tests" / "instrument" / "nvtx_tool.c"
SETTINGS = ("off", "ring", "tool")
TARGET_NS = {("push, pop", "ring"): 250, ("push, pop", "tool"): 800}
LOOPS = 100_000

Loop = Callable[[], None]


def loops() -> dict[str, Loop]:
    """The loops that are timed, by what is in them."""
    from tetrace.instrument import ranges

    push, pop, start, end, annotate = ranges.push, ranges.pop, ranges.start, ranges.end, ranges.annotate
    site = ranges.site("annotate", "a range")
    module = ranges.site("module", "layers.0", phase="forward", module="layers.0")

    def pair(site: int = site) -> None:
        for _ in range(LOOPS):
            push(site)
            pop()

    def start_end() -> None:
        for _ in range(LOOPS):
            end(start(site))

    def with_annotate() -> None:
        for _ in range(LOOPS):
            with annotate("a range"):
                pass

    decorated = annotate("a range")(nothing)

    def call_decorated() -> None:
        for _ in range(LOOPS):
            decorated()

    def call_plain() -> None:
        for _ in range(LOOPS):
            nothing()

    return {
        "push, pop": pair,
        "push, pop of a module": lambda: pair(module),
        "with annotate": with_annotate,
        "decorated call": call_decorated,
        "(plain call)": call_plain,
        "start, end": start_end,
    }


def nothing() -> None:
    """What is decorated."""


def empty() -> None:
    """What every loop has besides its body."""
    for _ in range(LOOPS):
        pass


def seconds(loop: Loop) -> float:
    """Of one run."""
    began = time.perf_counter()
    loop()
    return time.perf_counter() - began


def sample(repeats: int) -> dict[str, list[float]]:
    """Nanoseconds of one pass, by loop; the loops take turns, so that what else the machine does meets them alike."""
    found: dict[str, list[float]] = {}
    timed = loops()
    for repeat in range(repeats + 1):
        nothing = seconds(empty)
        for name, loop in timed.items():
            cost = (seconds(loop) - nothing) / LOOPS * 1e9
            if repeat > 0:  # the first run meets cold caches and new pages
                found.setdefault(name, []).append(cost)
    return found


def measure_here(setting: str, repeats: int) -> dict[str, list[float]]:
    """In this process, whose environment already names the tool if there is one."""
    from tetrace.instrument import ranges

    with tempfile.TemporaryDirectory() as folder:
        if setting != "off":
            ranges.open(Path(folder))
        result = sample(repeats)
        ranges.close()
    return result


def measure(setting: str, repeats: int, tool: Path) -> dict[str, list[float]]:
    """In a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NVTX_")}
    if setting == "tool":
        environment["NVTX_INJECTION64_PATH"] = str(tool)
    command = [sys.executable, __file__, "--here", setting, "--repeats", str(repeats)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    result: dict[str, list[float]] = json.loads(done.stdout)
    return result


def build_tool(folder: Path) -> Path:
    """The NVTX tool, compiled."""
    library = folder / "libtool.so"
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, TOOL], check=True)
    return library


def table(measured: dict[str, dict[str, list[float]]]) -> str:
    """Medians and fastest, one row for each loop."""
    lines = [f"{platform.machine()}, Python {platform.python_version()}; ns of one range: median (fastest)"]
    lines.append(f"{'':24}" + "".join(f"{setting:>16}" for setting in measured))
    for name in next(iter(measured.values())):
        cells = [f"{statistics.median(costs[name]):.0f} ({min(costs[name]):.0f})" for costs in measured.values()]
        lines.append(f"{name:24}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines) + "\n"


def missed(measured: dict[str, dict[str, list[float]]]) -> list[str]:
    """Targets that are not met."""
    costs = {(name, setting): statistics.median(measured[setting][name]) for name, setting in TARGET_NS}
    return [
        f"{name}, {setting}: {costs[name, setting]:.0f} ns, target {target} ns\n"
        for (name, setting), target in TARGET_NS.items()
        if costs[name, setting] > target
    ]


def main() -> int:
    """Measures all settings, or one in this process for its parent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write every figure to this file")
    parser.add_argument("--here", choices=SETTINGS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        sys.stdout.write(json.dumps(measure_here(options.here, options.repeats)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tool = build_tool(Path(folder))
        measured = {setting: measure(setting, options.repeats, tool) for setting in SETTINGS}
    if options.json:
        options.json.write_text(json.dumps(measured, indent=1))
    sys.stdout.write(table(measured) + "".join(f"MISSED: {line}" for line in missed(measured)))
    return 1 if missed(measured) else 0


if __name__ == "__main__":
    sys.exit(main())
