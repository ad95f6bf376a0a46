"""`--collector cupti` and `--collector nsys` on the same workloads: the same kernels, times and attribution."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tetrace
from tests.gpu import kernel_times
from tests.gpu.recorder import PROFILES, SIZES, record
from tetrace import _C
from tetrace.attribute.roles import ROLES
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.analysis import Breakdown
from tetrace.trace.trace import Trace

pytestmark = pytest.mark.gpu

RUNS = {
    "eager": ["layer_stack/model.py", "--recipe", "delayed"],
    "graphs": ["layer_stack/model.py", "--recipe", "delayed", "--graphs"],
    "streams": ["streams/model.py"],
}
# What streams are told to wait for in a step, at least: the batch of a side stream; each graph its copies.
LEAST_WAITS = {"eager": 0, "graphs": 1, "streams": 2}
TURNS = 3
Kernel = tuple[str, str, str, str]
# By step and kernel: how long it ran, ns, and whether something on another stream ran meanwhile, which slows it.
Steps = dict[int, dict[Kernel, list[tuple[int, bool]]]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("nsys") is None:
        pytest.fail("nsys is not on PATH")
    return tmp_path_factory.mktemp("runs")


@cache
def recorded(name: str, collector: str, folders: Path, turn: int) -> tuple[Breakdown, Mapping[str, str]]:
    """A workload as `collector` recorded it, and the names of its kernels as `_C.demangle` writes them."""
    folder = folders / f"{name}-{collector}-{turn}"
    folder.mkdir()
    script, *options = RUNS[name]
    record(folder, collector, sys.executable, str(PROFILES / script), *SIZES, *options)
    breakdown = tetrace.analyze(tetrace.load(folder / "run.tetrace"))
    return breakdown, _renamed(folder) if collector == "nsys" else {}


def _renamed(folder: Path) -> dict[str, str]:
    """What nsys' demangled names are in `_C.demangle`'s spelling: its export has the mangled names too."""
    subprocess.run(
        ["nsys", "export", "--type", "sqlite", "-o", str(folder / "run.sqlite"), str(folder / "run.nsys-rep")],
        check=True,
        capture_output=True,
    )
    query = """
        SELECT DISTINCT d.value, m.value FROM CUPTI_ACTIVITY_KIND_KERNEL k
        JOIN StringIds d ON d.id = k.demangledName JOIN StringIds m ON m.id = k.mangledName
    """
    with sqlite3.connect(folder / "run.sqlite") as export:
        pairs = export.execute(query).fetchall()
    return dict(zip([name for name, _ in pairs], _C.demangle([name for _, name in pairs]), strict=True))


def kernels(run: tuple[Breakdown, Mapping[str, str]], rank: int | None = None) -> Steps:
    """Durations by step and kernel, of one rank or all; a kernel is its name with the phase, module and role that
    launched it."""
    breakdown, renamed = run
    about = breakdown.attribution
    trace, numbers = about.trace, about.steps.number
    kinds, names = trace.words("activities", "kind"), trace.words("activities", "name")
    columns = [trace.column("activities", name) for name in ("kind", "name", "start_ns", "end_ns")]
    used = {int(numbers[step]) for step in breakdown.selection.windows.step[breakdown.selection.used]}
    ranks = trace.column("processes", "rank")[trace.column("activities", "process")].tolist()
    crowded = beside_others(trace).tolist()
    found: Steps = defaultdict(lambda: defaultdict(list))
    for row, (kind, name, start, end) in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        step = int(numbers[about.step[row]]) if about.step[row] >= 0 else -1
        if kinds[kind] != "kernel" or step not in used or rank not in (None, ranks[row]):
            continue
        module = about.module_names[about.module[row]] if about.module[row] >= 0 else ""
        role = ROLES[about.role[row]] if about.role[row] >= 0 else ""
        text = renamed.get(names[name], names[name])
        found[step][text, PHASES[about.phase[row]], module, role].append((end - start, crowded[row]))
    return found


def beside_others(trace: Trace) -> npt.NDArray[np.bool_]:
    """Of each activity, whether one on another stream of its device ran meanwhile, or it is communication, which waits for
    other ranks; shape (activities,)."""
    words = trace.words("activities", "name")
    result = np.array(["nccl" in word.lower() for word in words], np.bool_)[trace.column("activities", "name")]
    start, end, stream = (trace.column("activities", name) for name in ("start_ns", "end_ns", "stream"))
    place = np.stack([trace.column("activities", name) for name in ("process", "device")], 1)
    for device in np.unique(place, axis=0):
        here = (place == device).all(1)
        for own in np.unique(stream[here]):
            mine, others = here & (stream == own), np.flatnonzero(here & (stream != own))
            others = others[np.argsort(start[others], kind="stable")]
            latest = np.concatenate([[np.iinfo(np.int64).min], np.maximum.accumulate(end[others])])
            result[mine] |= latest[np.searchsorted(start[others], end[mine])] > start[mine]
    return result


def by_name(step: Mapping[Kernel, list[tuple[int, bool]]]) -> Counter[str]:
    """How often each kernel ran in a step."""
    counts: Counter[str] = Counter()
    for (name, *_), found in step.items():
        counts[name] += len(found)
    return counts


def pair(name: str, folders: Path, turn: int = 0) -> tuple[Steps, Steps]:
    """By nsys, and by cupti; the other way round in every second turn, so that what drifts is no difference between them."""
    order = ("nsys", "cupti") if turn % 2 == 0 else ("cupti", "nsys")
    found = {collector: kernels(recorded(name, collector, folders, turn)) for collector in order}
    return found["nsys"], found["cupti"]


@pytest.fixture(params=RUNS)
def both(request: pytest.FixtureRequest, folders: Path) -> tuple[Steps, Steps]:
    return pair(request.param, folders)


def common_steps(nsys: Steps, cupti: Steps) -> list[int]:
    """All steps that both use."""
    common = sorted(nsys.keys() & cupti.keys())
    assert len(common) >= 5, (sorted(nsys), sorted(cupti))
    return common


def check_kernels(nsys: Steps, cupti: Steps) -> None:
    """The same names, equally often, in every step."""
    for step in common_steps(nsys, cupti):
        fewer, more = by_name(nsys[step]) - by_name(cupti[step]), by_name(cupti[step]) - by_name(nsys[step])
        assert not fewer, f"step {step}: only nsys has {fewer}"
        assert not more, f"step {step}: only cupti has {more}"


def check_attribution(nsys: Steps, cupti: Steps) -> None:
    """The same phase, module and role of each kernel, equally often, in every step."""
    for step in common_steps(nsys, cupti):
        here, there = ({key: len(ns) for key, ns in steps[step].items()} for steps in (nsys, cupti))
        different = {
            key: (here.get(key, 0), there.get(key, 0))
            for key in here.keys() | there.keys()
            if here.get(key) != there.get(key)
        }
        assert not different, f"step {step}: (nsys, cupti) of {different}"


def lone(steps: Steps, of: list[int]) -> dict[Kernel, list[list[int]]]:
    """How long each kernel ran in each of these steps, of those that run alone: what runs beside them on other streams, and how
    long communication waits for the other rank, is another in every run."""
    lengths: dict[Kernel, list[list[int]]] = defaultdict(list)
    for step in of:
        for kernel, found in steps[step].items():
            lengths[kernel].append([ns for ns, crowded in found if not crowded])
    return {kernel: found for kernel, found in lengths.items() if all(found)}


def check_times(pair: Callable[[int], tuple[Steps, Steps]]) -> None:
    """Kernels last as long under both; nothing else may run on the GPU meanwhile. `pair` records with nsys and cupti in its
    n-th turn."""
    turns = []
    for turn in range(TURNS):
        nsys, cupti = pair(turn)
        common = common_steps(nsys, cupti)
        turns.append((lone(nsys, common), lone(cupti, common)))
        least = len(nsys[common[0]]) / 4
        assert min(map(len, turns[-1])) >= least, (least, *map(len, turns[-1]))
    found = kernel_times.compare(turns)
    assert not found.problems, "\n".join([f"clocks of the turns: {found.clocks}", *found.problems])


def test_the_same_kernels_in_every_step(both: tuple[Steps, Steps]) -> None:
    check_kernels(*both)


def test_the_same_phase_module_and_role(both: tuple[Steps, Steps]) -> None:
    check_attribution(*both)


@pytest.mark.parametrize("name", RUNS)
def test_the_same_times(name: str, folders: Path) -> None:
    check_times(lambda turn: pair(name, folders, turn))


SPINS = """
import json, sys, torch
spans = []
for _ in range(12):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000)  # so that the host has launched what follows before it begins
    begin.record()
    torch.cuda._sleep(40_000_000)
    end.record()
    torch.cuda.synchronize()
    spans.append(begin.elapsed_time(end) * 1e6)
json.dump(spans, open(sys.argv[1], "w"))
"""


def test_a_kernel_lasts_as_long_as_events_say(tmp_path: Path) -> None:
    """Which clock both collectors read could be wrong for all kernels alike: CUDA's events are another one."""
    (tmp_path / "spins.py").write_text(SPINS)
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "cupti", "--steps", "all", "-o", "run", "--"]
    done = subprocess.run(
        [*command, sys.executable, "spins.py", "spans.json"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    spans = json.loads((tmp_path / "spans.json").read_text())
    table = tetrace.load(tmp_path / "run.tetrace").tables["activities"].to_pandas()
    spins = table[table["name"].astype(str).str.contains("spin_kernel")]
    lengths = (spins["end_ns"] - spins["start_ns"]).to_numpy()
    assert len(lengths) == 2 * len(spans)
    for recorded_ns, span_ns in zip(lengths[1::2], spans, strict=True):
        assert abs(recorded_ns - span_ns) < 20_000 + 0.001 * span_ns, (recorded_ns, span_ns)


@pytest.mark.parametrize("name", RUNS)
def test_streams_wait_as_often_as_under_nsys(name: str, folders: Path) -> None:
    """Calls in which a stream is told to wait for an event, in a step: nsys has records of them, the collector callbacks."""
    found = []
    for collector in ("nsys", "cupti"):
        breakdown, _ = recorded(name, collector, folders, 0)
        trace, windows = breakdown.attribution.trace, breakdown.selection.windows
        used = breakdown.selection.used
        first, last = windows.start[used].min(), windows.end[used].max()
        kinds = list(trace.words("synchronizations", "kind"))
        kind = kinds.index("stream_wait") if "stream_wait" in kinds else -1
        start, stream = (trace.column("synchronizations", name) for name in ("start_ns", "stream"))
        is_inside = (trace.column("synchronizations", "kind") == kind) & (start >= first) & (start < last)
        counts = Counter(stream[is_inside].tolist())
        found.append(sorted(count / breakdown.totals.steps for count in counts.values()))
    assert len(found[0]) == len(found[1]), found
    # A wait at the border of the steps may be in the one and not in the other.
    assert all(abs(here - there) < 0.5 for here, there in zip(*found, strict=True)), found
    assert sum(found[0]) >= LEAST_WAITS[name], found
    # Their numbers are those of the streams that activities run on: the collector asks CUPTI for them.
    assert set(counts) <= set(trace.column("activities", "stream").tolist()), counts


def test_two_ranks_launch_what_they_launch_under_nsys(tmp_path: Path) -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",  # on a port of its own
        "--nproc-per-node",
        "2",
        str(PROFILES / "ddp" / "model.py"),
    ]

    def run(collector: str, turn: int) -> tuple[Breakdown, Mapping[str, str]]:
        folder = tmp_path / f"{collector}-{turn}"
        folder.mkdir()
        record(folder, collector, *launch, *SIZES, "--recipe", "delayed")
        found = tetrace.analyze(tetrace.load(folder / "run.tetrace")), _renamed(folder) if collector == "nsys" else {}
        ranks = found[0].attribution.trace.tables["processes"].column("rank").to_pylist()
        assert sorted(rank for rank in ranks if rank >= 0) == [0, 1]
        return found

    turns = cache(lambda turn: (run("nsys", turn), run("cupti", turn)))

    def of_rank(rank: int) -> Callable[[int], tuple[Steps, Steps]]:
        return lambda turn: (kernels(turns(turn)[0], rank), kernels(turns(turn)[1], rank))

    for rank in (0, 1):
        check_kernels(*of_rank(rank)(0))
        check_attribution(*of_rank(rank)(0))
    for rank in (0, 1):
        check_times(of_rank(rank))
