"""Time `tetrace report` on large traces, beside its peers on the same files, in the same run.

    python benchmarks/analysis.py --work DIR --peers VENV [--only nsys-ai hta ...] [--runs 3] [--json FILE]

Every figure is of a whole process: interpreter start and imports included, standard output kept in a file, wall seconds
by the clock, processor seconds and peak resident memory from the kernel's account of the ended process (`wait4`; of its
largest process where a tool starts several). Inputs are made from recordings by `inflate.py` into `--work` and reused;
each is read once beforehand, so that all tools find it in the page cache. The cases of a section take turns (A B C A B
C), so that what else the machine does meets them alike. A case is not repeated once it used up `--budget` seconds.

The peers live in an environment of their own, so that tetrace's stays as a user has it:

    python -m venv VENV
    VENV/bin/pip install nsys-ai==0.3.0 HolisticTraceAnalysis==0.5.0 \
        duckdb==1.5.5 duckdb-extension-sqlite-scanner==1.5.5

duckdb is pinned because nsys-ai reads SQLite fast only with duckdb's `sqlite_scanner`, which must fit duckdb's version;
the second package brings it, so that nothing is downloaded in a measured run. nsys-ai runs cold: its cache is removed
first. It gets a copy of the input, because without that extension it adds indexes to the file it is given.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

# This process stays small on purpose: Linux counts the memory of the process that starts a command as the command's.
HERE = Path(__file__).resolve().parent
DATA = HERE.parent / "tests" / "data"
RECORDINGS = {
    "te": (DATA / "te4-fp8.sqlite", "Nsight Systems export of a Transformer Engine training, SQLite"),
    "ranges": (DATA / "public-h100-2gpu-1s.sqlite", "Nsight Systems export with emit_nvtx ranges, SQLite"),
    "kineto": (DATA / "kineto_qwen_h100.json.gz", "PyTorch profiler trace"),
}
GROWTH = (250_000, 500_000, 1_000_000, 2_000_000, 5_000_000)
NSYS_AI = {
    "nsys-ai summary": ["summary"],
    "nsys-ai nvtx_layer_breakdown": ["skill", "run", "nvtx_layer_breakdown"],
    "nsys-ai diagnose": ["diagnose"],
}
VERSIONS = "import importlib.metadata as m, sys; print(m.version(sys.argv[1]))"
INSTALL_SCANNER = """
import duckdb, duckdb_extension_sqlite_scanner as package, pathlib
file = next(pathlib.Path(package.__file__).parent.rglob("*.duckdb_extension"))
duckdb.execute(f"INSTALL '{file}'")
"""


@dataclass(frozen=True)
class Input:
    """A file to analyse: one of `RECORDINGS` inflated to so many kernels."""

    recording: str
    kernels: int
    suffix: str = ".sqlite"

    @property
    def name(self) -> str:
        """Its file name in the working folder."""
        return f"{self.recording}-{self.kernels // 1000}k{self.suffix}"


@dataclass(frozen=True)
class Case:
    """One command on one input, and what it should stay within (0: no target)."""

    tool: str
    input: Input
    target_s: float = 0
    target_gb: float = 0


@dataclass(frozen=True)
class Sample:
    """One run: seconds of wall and processor time, peak resident bytes, and why it does not count, if so."""

    wall_s: float
    cpu_s: float
    peak_bytes: int
    failure: str = ""


@dataclass
class Row:
    """A case with its runs."""

    case: Case
    samples: list[Sample] = field(default_factory=list)
    note: str = ""

    @property
    def good(self) -> list[Sample]:
        """The runs that ended well."""
        return [sample for sample in self.samples if not sample.failure]

    @property
    def wall_s(self) -> float | None:
        """Median of wall seconds."""
        return statistics.median(sample.wall_s for sample in self.good) if self.good else None

    @property
    def peak_gb(self) -> float | None:
        """Largest peak, in 1e9 bytes."""
        return max(sample.peak_bytes for sample in self.good) / 1e9 if self.good else None

    @property
    def missed(self) -> bool:
        """Whether a target was not met, or could not be measured."""
        case = self.case
        if not case.target_s:
            return False
        return self.wall_s is None or self.wall_s > case.target_s or 0 < case.target_gb < (self.peak_gb or 0)


def sections(hta_kernels: list[int]) -> dict[str, list[Case]]:
    """What is measured, by section; the cases of a section take turns."""
    export, ranges = Input("te", 1_000_000), Input("ranges", 1_000_000)
    kineto = [Input("kineto", kernels, ".json") for kernels in hta_kernels]
    return {
        "small": [Case("tetrace", Input("te", 1000), 1)],
        "export": [
            Case("tetrace", export, 5, 1.5),
            Case("tetrace", Input("te", 1_000_000, ".parquetdir"), 3, 1.5),
            Case("tetrace", ranges),
        ],
        "large": [Case("tetrace", Input("te", 5_000_000), 30, 4)],
        "growth": [Case("tetrace", Input("te", kernels)) for kernels in GROWTH],
        "nsys-ai": [Case(tool, file) for file in (export, ranges) for tool in ("tetrace", *NSYS_AI)],
        "kineto": [Case("tetrace", Input("kineto", 1_000_000, ".json"), 25, 3)],
        "hta": [Case(tool, file) for file in kineto for tool in ("tetrace", "hta")],
    }


# --- running ----------------------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and of the processes it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(resident_bytes(int(child)) for child in children)


def measure(command: list[str], log: Path, env: Mapping[str, str], options: argparse.Namespace) -> Sample:
    """Run a command to its end, or until it used more time or memory than allowed."""
    stopped: list[str] = []
    ended = threading.Event()
    started = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=env, cwd=log.parent, start_new_session=True
        )

    def watch() -> None:
        while not ended.wait(0.5):
            if time.perf_counter() - started > options.timeout:
                stopped.append(f"stopped after {options.timeout:.0f} s")
            elif resident_bytes(process.pid) > options.memory_gb * 1e9:
                stopped.append(f"stopped above {options.memory_gb:.0f} GB")
            if stopped:
                os.killpg(process.pid, signal.SIGKILL)
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    ended.set()
    watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    failure = stopped[0] if stopped else ""
    if process.returncode and not failure:
        lines = log.read_text(errors="replace").strip().splitlines() or [""]
        failure = f"exit code {process.returncode}: {lines[-1][:100]}"
    return Sample(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, failure)


class Bench:
    """Makes inputs, knows how each tool is called, and runs the cases of a section in turn."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work.resolve()
        self.python = options.peers.absolute() / "bin" / "python" if options.peers else None
        self.env = os.environ | {"HOME": str(self.work / "home")}
        self.tetrace = options.tetrace or Path(sys.executable).absolute().with_name("tetrace")
        for folder in ("home", "peer", "logs"):
            (self.work / folder).mkdir(parents=True, exist_ok=True)
        self.versions = {"tetrace": self.version(Path(sys.executable), "tetrace")}
        for package in ("nsys-ai", "HolisticTraceAnalysis", "duckdb"):
            self.versions[package] = self.version(self.python, package)
        if self.python and self.versions["duckdb"]:
            subprocess.run([self.python, "-c", INSTALL_SCANNER], env=self.env, capture_output=True, check=False)

    def version(self, python: Path | None, package: str) -> str | None:
        """The installed version, or None."""
        if not python or not python.exists():
            return None
        answer = subprocess.run([python, "-c", VERSIONS, package], capture_output=True, text=True, check=False)
        return answer.stdout.strip() or None

    def missing(self, case: Case) -> str:
        """Why a case cannot run, or nothing."""
        package = {"tetrace": "tetrace", "hta": "HolisticTraceAnalysis"}.get(case.tool, "nsys-ai")
        if not self.versions[package] or (case.tool == "tetrace" and not self.tetrace.exists()):
            return "not installed"
        if (self.work / case.input.name).exists() or self.recording(case.input).exists():
            return ""
        return f"no recording: give --{case.input.recording}"

    def recording(self, wanted: Input) -> Path:
        """The recording that an input is made from."""
        return Path(getattr(self.options, wanted.recording))

    def make_input(self, wanted: Input) -> Path:
        """The inflated file, made if it is not there, and read once."""
        path = self.work / wanted.name
        if not path.exists():
            part = self.work / f"part-{wanted.name}"
            command = [sys.executable, str(HERE / "inflate.py"), str(self.recording(wanted)), str(part)]
            command += ["--kernels", str(wanted.kernels)]
            subprocess.run(command, check=True, stdout=sys.stderr)
            part.rename(path)
        for file in path.iterdir() if path.is_dir() else [path]:
            with file.open("rb") as stream:
                while stream.read(1 << 24):
                    pass
        return path

    def cold_copy(self, path: Path) -> Path:
        """A copy for nsys-ai, unchanged and without its cache."""
        copy = self.work / "peer" / path.name
        then, now = path.stat(), copy.stat() if copy.exists() else None
        if not now or (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
            shutil.copy2(path, copy)
        for leftover in (copy.with_suffix(".nsys-cache"), self.work / "logs" / ".nsys-ai"):
            shutil.rmtree(leftover, ignore_errors=True)
        return copy

    def command(self, case: Case, path: Path) -> list[str]:
        """The command line of a case; called before every run."""
        if case.tool == "tetrace":
            return [str(self.tetrace), "report", str(path)]
        if case.tool == "hta":
            return [str(self.python), str(HERE / "hta_breakdowns.py"), str(path)]
        return [str(Path(str(self.python)).with_name("nsys-ai")), *NSYS_AI[case.tool], str(self.cold_copy(path))]

    def run(self, cases: list[Case]) -> list[Row]:
        """The cases in turn, `--runs` times, each until its budget is used."""
        rows = [Row(case, note=self.missing(case)) for case in cases]
        paths = {row.case.input: self.make_input(row.case.input) for row in rows if not row.note}
        for turn in range(self.options.runs):
            for row in rows:
                if row.note or sum(sample.wall_s for sample in row.samples) > self.options.budget:
                    continue
                log = self.work / "logs" / f"{row.case.tool} {row.case.input.name}.txt".replace(" ", "-")
                env = os.environ if row.case.tool == "tetrace" else self.env
                command = self.command(row.case, paths[row.case.input])
                row.samples.append(measure(command, log, env, self.options))
                sys.stderr.write(f"{turn + 1}: {row.case.tool} {row.case.input.name} {row.samples[-1]}\n")
                row.note = row.samples[-1].failure
        for row in rows:
            row.note = row.note or self.remark(row)
        return rows

    def remark(self, row: Row) -> str:
        """What a peer's own output says about how it ran."""
        log = self.work / "logs" / f"{row.case.tool} {row.case.input.name}.txt".replace(" ", "-")
        lines = log.read_text(errors="replace").splitlines() if row.samples else []
        if any("falling back to sqlite3" in line for line in lines):
            return "without duckdb's SQLite extension"
        failed = [line.split()[1].rstrip(":") for line in lines if line.startswith("FAILED ")]
        return f"failed inside: {', '.join(failed)}" if failed and row.case.tool == "hta" else ""


# --- writing ----------------------------------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """Cores, memory, processor and load of this machine."""
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "processor": models[0].split(":", 1)[1].strip() if models else platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def line(row: Row, own_s: float | None) -> str:
    """A row of `table`; `own_s` is tetrace's median on the same file."""
    case, cells = row.case, [""] * 6
    if row.good:
        walls = [sample.wall_s for sample in row.good]
        median = statistics.median(walls)
        cpu = statistics.median(sample.cpu_s for sample in row.good)
        cells = [f"{value:.2f}" for value in (min(walls), median, max(walls), cpu, row.peak_gb)]
        cells.append(f"{median / own_s:.1f}" if own_s and case.tool != "tetrace" else "")
    target = f"{case.target_s:g} s" if case.target_s else ""
    target += f", {case.target_gb:g} GB" if case.target_gb else ""
    verdict = ("missed" if row.missed else "met") if target and row.good else ""
    notes = "; ".join(filter(None, (verdict, row.note)))
    return f"| {case.tool} | {case.input.name} | {len(row.good)} | {' | '.join(cells)} | {target} | {notes} |"


def table(rows: list[Row]) -> Iterator[str]:
    """A Markdown table; the ratio is of medians, to tetrace on the same file in the same section."""
    ours = {row.case.input: row.wall_s for row in rows if row.case.tool == "tetrace"}
    yield "| tool | file | n | wall s: min | median | max | CPU s | peak GB | times tetrace | target | |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---|---|"
    yield from (line(row, ours.get(row.case.input)) for row in rows)


def growth(rows: list[Row]) -> Iterator[str]:
    """How wall time grows with the number of kernels, against n log n from the smallest input on."""
    measured = [(row.case.input.kernels, row.wall_s) for row in rows if row.wall_s is not None]
    if len(measured) < 2:
        return
    first_n, first_s = measured[0]
    yield "| kernels | wall s | s per million | times the first | n log n would be | |"
    yield "|---:|---:|---:|---:|---:|---|"
    for kernels, wall_s in measured:
        bound = kernels * math.log(kernels) / (first_n * math.log(first_n))
        verdict = "within" if wall_s / first_s <= bound else "above"
        cells = (f"{wall_s:.2f}", f"{wall_s / kernels * 1e6:.2f}", f"{wall_s / first_s:.2f}", f"{bound:.2f}", verdict)
        yield f"| {kernels:,} | {' | '.join(cells)} |"


def parse() -> argparse.Namespace:
    """The command line."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs and logs; inputs are reused")
    for name, (path, what) in RECORDINGS.items():
        parser.add_argument(
            f"--{name}", type=Path, default=path, metavar="FILE", help=f"{what} (tests/data/{path.name})"
        )
    parser.add_argument("--peers", type=Path, help="virtual environment of the peers (see above)")
    parser.add_argument("--tetrace", type=Path, help="the tetrace command (default: beside this interpreter)")
    parser.add_argument("--only", nargs="+", choices=list(sections([])), help="sections to run (default: all)")
    parser.add_argument("--runs", type=int, default=3, help="runs a case (default 3)")
    parser.add_argument("--budget", type=float, default=300, help="seconds after which a case is not repeated (300)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which a run is stopped (1800)")
    parser.add_argument("--memory-gb", type=float, default=0.75 * memory_gb, help="stop a run above this (3/4 of all)")
    parser.add_argument("--hta-kernels", type=int, nargs="+", default=[100_000, 300_000], help="sizes for HTA")
    parser.add_argument("--json", type=Path, help="also write every run to this file")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser.parse_args()


def main() -> int:
    """Run the sections and print their tables."""
    options = parse()
    about = machine()
    bench = Bench(options)
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in bench.versions.items())
    lines = ["; ".join(f"{key} {value}" for key, value in about.items()), "", versions]
    sys.stdout.write("\n".join(lines) + "\n")
    results: dict[str, list[Row]] = {}
    for section, cases in sections(options.hta_kernels).items():
        if options.only and section not in options.only:
            continue
        rows = results[section] = bench.run(cases)
        lines = [f"\n## {section}\n", *table(rows)]
        if section == "growth":
            lines += ["", *growth(rows)]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
    if options.json:
        runs = {section: [asdict(row) for row in rows] for section, rows in results.items()}
        report = {"machine": about, "versions": bench.versions, "sections": runs}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(options.check and any(row.missed for rows in results.values() for row in rows))


if __name__ == "__main__":
    sys.exit(main())
