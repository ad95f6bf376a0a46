"""Time `tetrace export` on large traces: the whole command, from the file to the written timeline.

    python benchmarks/export.py --work DIR [--kernels 1000000 5000000] [--runs 3] [--check]

Inputs are made as benchmarks/analysis.py makes them, from the same recording, and measured the same way. The default
steps are drawn: in these inputs, which repeat the steady steps, that is all but a few.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from analysis import RECORDINGS, Bench, Case, Input, Row, machine

# Seconds and 1e9 bytes for a million kernels.
TARGET_KERNELS, TARGET_S, TARGET_GB = 1_000_000, 30, 1


class Exports(Bench):
    """Cases whose tool is the name of the file that is written."""

    def missing(self, case: Case) -> str:
        """Why a case cannot run, or nothing."""
        return "" if self.tetrace.exists() else "not installed"

    def command(self, case: Case, path: Path) -> list[str]:
        """The command line of a case."""
        option = "--chrome" if "json" in case.tool else "--perfetto"
        return [str(self.tetrace), "export", str(path), option, str(self.written(case)), "--force"]

    def written(self, case: Case) -> Path:
        """The file that a case writes."""
        return self.work / f"{case.input.name}-{case.tool}"

    def remark(self, row: Row) -> str:
        """The size of what was written, which goes again."""
        path = self.written(row.case)
        size = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        return f"{size / 1e6:.0f} MB"


def parse() -> argparse.Namespace:
    """The command line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs and logs; inputs are reused")
    parser.add_argument("--te", type=Path, default=RECORDINGS["te"][0], metavar="FILE", help=RECORDINGS["te"][1])
    parser.add_argument("--tetrace", type=Path, help="the tetrace command (default: beside this interpreter)")
    parser.add_argument("--kernels", type=int, nargs="+", default=[1_000_000], help="sizes of the inputs (1000000)")
    parser.add_argument("--runs", type=int, default=3, help="runs a case (default 3)")
    parser.add_argument("--budget", type=float, default=300, help="seconds after which a case is not repeated (300)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a run is stopped (1800)")
    parser.add_argument("--memory-gb", type=float, default=0.75 * memory_gb, help="stop a run above this (3/4 of all)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return argparse.Namespace(**vars(parser.parse_args()), peers=None)


def cells(row: Row) -> str:
    """A row of the table."""
    case, good = row.case, row.good
    target = f"{case.target_s:g} s, {case.target_gb:g} GB: {'missed' if row.missed else 'met'}" if case.target_s else ""
    if not good:
        return f"| {case.tool} | {case.input.name} | | | | {target} {row.note} |"
    cpu = sorted(sample.cpu_s for sample in good)[len(good) // 2]
    return f"| {case.tool} | {case.input.name} | {row.wall_s:.1f} | {cpu:.1f} | {row.peak_gb:.2f} | {row.note} | {target} |"


def main() -> int:
    """Run the cases and print their table."""
    options = parse()
    bench = Exports(options)
    sys.stdout.write("; ".join(f"{key} {value}" for key, value in machine().items()) + "\n\n")
    cases = [
        Case(tool, Input("te", kernels), *((TARGET_S, TARGET_GB) if kernels == TARGET_KERNELS and "pf" in tool else ()))
        for kernels in options.kernels
        for tool in ("out.pftrace", "out.pftrace.gz", "out.json.gz")
    ]
    rows = bench.run(cases)
    sys.stdout.write(
        "| written | from | wall s | CPU s | peak GB | size | target |\n|---|---|---:|---:|---:|---:|---|\n"
    )
    sys.stdout.write("".join(cells(row) + "\n" for row in rows))
    return int(options.check and any(row.missed for row in rows))


if __name__ == "__main__":
    sys.exit(main())
