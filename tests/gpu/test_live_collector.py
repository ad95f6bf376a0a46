"""`--collector cupti` and `--collector nsys` on the same workloads: the same kernels, times and attribution."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import tetrace
from tests.gpu import kernel_times
from tests.permissions import bind, skip_unless_bound
from tetrace import _C
from tetrace.attribute.roles import ROLES
from tetrace.attribute.vocabulary import PHASES
from tetrace.breakdown.analysis import Breakdown
from tetrace.trace.trace import Trace

pytestmark = pytest.mark.gpu

PROFILES = Path(__file__).resolve().parents[2] / "profiles"
SIZES = ["--layers", "2", "--hidden", "1024", "--ffn", "4096", "--heads", "16", "--batch", "8", "--seq", "512"]
SIZES += ["--nvtx", "none", "--steps", "12"]
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


def record(folder: Path, collector: str, *command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """`tetrace record` of `command` into `folder`/run.tetrace."""
    keep = ["--keep-nsys-rep"] if collector == "nsys" else []
    record = [sys.executable, "-m", "tetrace", "record", "--collector", collector, *keep, "-o", str(folder / "run")]
    done = subprocess.run(
        [*record, "--", *command], capture_output=True, text=True, cwd=folder, timeout=400, check=False
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done


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


# What happens to what was recorded.

TRAINS = """
    import os, signal, sys, time, torch
    import transformer_engine.pytorch as te

    model = torch.nn.Sequential(te.Linear(512, 2048), torch.nn.GELU(), te.Linear(2048, 512))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def train(steps):
        for _ in range(steps):
            model(torch.randn(256, 512, device="cuda")).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        torch.cuda.synchronize()

"""


def trained(folder: Path, body: str, code: int = 0) -> tuple[Trace, str]:
    """The recording of a script that begins with `TRAINS`, and what was said."""
    (folder / "train.py").write_text(textwrap.dedent(TRAINS) + textwrap.dedent(body))
    done = record(folder, "cupti", sys.executable, str(folder / "train.py"), code=code)
    return tetrace.load(folder / "run.tetrace"), done.stderr


def steps_with_activities(trace: Trace) -> set[int]:
    about = tetrace.analyze(trace, steps="all").attribution
    return {int(about.steps.number[step]) for step in about.step.tolist() if step >= 0}


def test_a_stream_that_is_captured_does_not_wait(tmp_path: Path) -> None:
    """Both streams are told to wait in a capture, the side stream joins it by that; later the same runs without a graph."""
    body = """
        side, x = torch.cuda.Stream(), torch.ones(1 << 20, device="cuda")

        def work():
            main = torch.cuda.current_stream()
            side.wait_stream(main)
            with torch.cuda.stream(side):
                doubled = x * 2
            main.wait_stream(side)
            return doubled + 1

        train(3)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = work()
        for _ in range(4):
            graph.replay()
        torch.cuda.synchronize()
        assert captured.mean().item() == 3
        for _ in range(5):
            assert work().mean().item() == 3
    """
    trace, _ = trained(tmp_path, body)
    kinds = trace.words("synchronizations", "kind")
    assert Counter(kinds[kind] for kind in trace.column("synchronizations", "kind")) == {"stream_wait": 10}
    assert trace.rows("graph_nodes")


@pytest.mark.parametrize(
    ("ending", "code", "last"),
    [
        ("raise ValueError('lost')", 1, 9),
        ("os._exit(7)", 7, 9),
        # CUPTI hands over what is a second old.
        ("time.sleep(3); os.kill(os.getpid(), signal.SIGKILL)", 137, 9),
        ("time.sleep(3); os.abort()", 134, 9),
    ],
    ids=["exception", "os._exit", "kill", "abort"],
)
def test_what_was_recorded_before_the_end_is_there(ending: str, code: int, last: int, tmp_path: Path) -> None:
    trace, said = trained(tmp_path, f"train(10)\n{ending}\n", code)
    assert set(range(1, last + 1)) <= steps_with_activities(trace), said[-3000:]
    assert "did not finish" in said


def test_a_folder_that_becomes_read_only_loses_nothing(tmp_path: Path) -> None:
    """Its files are there by then. What is recorded stays in the working folder, as the last line says."""
    skip_unless_bound()
    (tmp_path / "to").mkdir()
    close = "[os.chmod(folder, 0o555) for folder, _, _ in [*os.walk('to')]]"
    body = f"train(5)\ntime.sleep(2.5)\n{close}\ntrain(5)\nprint('trained')\n"
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAINS) + body)
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "cupti", "-o", "to/run", "train.py"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False, preexec_fn=bind
    )
    assert (done.returncode, done.stdout) == (2, "trained\n"), done.stderr[-3000:]
    working = tmp_path / "to" / "run.tetrace.recording"
    last = f"{working}: cannot be written (Permission denied); what was recorded is kept: tetrace report {working}"
    assert last in done.stderr.splitlines()[-1], done.stderr[-3000:]
    for path in [working.parent, working, *working.glob("process-*")]:
        path.chmod(0o755)
    assert set(range(1, 10)) <= steps_with_activities(tetrace.load(working)), done.stderr[-3000:]


def test_a_fork_without_exec_changes_nothing(tmp_path: Path) -> None:
    trace, said = trained(tmp_path, "train(5)\nif os.fork() == 0: os._exit(0)\nos.wait()\ntrain(5)\n")
    assert set(range(1, 10)) <= steps_with_activities(trace), said[-3000:]


def test_torch_profiler_inside_the_script_works(tmp_path: Path) -> None:
    body = """
        train(6)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            train(4)
        train(6)
        import json
        seen = [e.key for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA]
        json.dump(seen, open("seen.json", "w"))
    """
    trace, said = trained(tmp_path, body)
    assert json.loads((tmp_path / "seen.json").read_text()), "the script's own profile has no kernels"
    assert "tetrace: torch.profiler takes CUPTI in step 6" in said
    found = steps_with_activities(trace)
    assert set(range(1, 6)) <= found, said[-3000:]
    assert not {7, 8} & found, said[-3000:]
    assert {11, 12, 13, 14} <= found, said[-3000:]
    assert any("while torch.profiler has CUPTI: from step 6" in notice for notice in trace.metadata.notices)


BEHIND = """
    import json
    big = torch.randn(16384, 16384, device="cuda", dtype=torch.bfloat16)
    product = torch.empty_like(big)

    def queue(steps):  # of half a second each, which the host does not wait for
        for _ in range(steps):
            for _ in range(40):
                torch.mm(big, big, out=product)
            model(torch.randn(256, 512, device="cuda")).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    queue(1)
    torch.cuda.synchronize()
    train(5)
    queue(3)
    last = torch.cuda.Event()
    last.record()
    was_behind = not last.query()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        is_behind = not last.query()
        queue(1)
    train(6)
    seen = sum(e.count for e in profile.key_averages() if e.device_type == torch.autograd.DeviceType.CUDA)
    json.dump([was_behind, is_behind, seen], open("seen.json", "w"))
"""


def test_torch_profiler_begins_while_the_gpu_is_steps_behind(tmp_path: Path) -> None:
    """In step 9, while products of steps 6 to 8 are queued. Nobody waits for them: each launch has its record, or is told to
    have none, and its step is not taken for one that was recorded whole."""
    trace, said = trained(tmp_path, BEHIND)
    was_behind, is_behind, seen = json.loads((tmp_path / "seen.json").read_text())
    assert was_behind, "the GPU was not behind: the test shows nothing"
    assert seen >= 40, "the script's own profile lacks kernels"
    breakdown = tetrace.analyze(trace, steps="all")
    steps, windows = breakdown.attribution.steps, breakdown.selection.windows
    [[_, taken, _, since]] = trace.metadata.facts["unrecorded"]

    names, start = trace.words("calls", "name"), trace.column("calls", "start_ns")
    is_kernel = np.array(["LaunchKernel" in name for name in names], np.bool_)[trace.column("calls", "name")]
    rows = np.flatnonzero(is_kernel & (start < taken))
    lacks = ~np.isin(trace.column("calls", "correlation")[rows], trace.column("activities", "correlation"))
    step = steps.number[np.searchsorted(steps.start, start[rows], side="right") - 1]
    launched, lacking = Counter(step.tolist()), Counter(step[lacks].tolist())
    assert all(launched[one] >= 40 for one in (6, 7, 8)), launched
    assert set(lacking) <= {6, 7, 8, 9}, (lacking, said[-3000:])
    assert lacking or not is_behind, "the GPU was behind when the profile had begun, and nothing is said to be missing"
    told = [notice for notice in trace.metadata.notices if "left no record" in notice]
    whole = {int(steps.number[one]): bool(ok) for one, ok in zip(windows.step, windows.recorded, strict=True)}
    first = min(lacking, default=9)
    if lacking:
        assert len(told) == 1
        assert f"(step {first}) on {lacking.total():,} launches left no record" in told[0], (told, lacking)
        assert "torch.profiler took CUPTI" in told[0]
        assert trace.metadata.dropped_records >= lacking.total()
        assert since == start[rows[lacks]].min()
    else:
        assert (told, since) == ([], taken)
    assert not any(whole.get(one, False) for one in range(first, 10)), (first, whole)
    assert all(whole[one] for one in [*range(1, first - 1), 11, 12, 13, 14]), (first, whole)


TAKER = """
#include <stdint.h>
#include <stdlib.h>
static void give(uint8_t** buffer, size_t* bytes, size_t* most) { *buffer = calloc(1, *bytes = 1 << 20), *most = 0; }
static void take(void* context, uint32_t stream, uint8_t* buffer, size_t bytes, size_t used) {}
int take_records(int (*registers)(void*, void*)) { return registers((void*)give, (void*)take); }
"""
TAKES = """
import ctypes
from tetrace import loaded

def take_records():
    [path] = {path for path in loaded.mapped() if "/libcupti" in path}
    registers = ctypes.cast(ctypes.CDLL(path).cuptiActivityRegisterCallbacks, ctypes.c_void_p)
    assert ctypes.CDLL("./taker.so").take_records(registers) == 0

"""
TAKEN = "the GPU is not recorded any more: CUPTI hands its records to another tool"


def test_another_tool_takes_the_records_and_says_nothing(tmp_path: Path) -> None:
    """As Triton's Proton and cupti-python do, whose functions then get what CUPTI has."""
    (tmp_path / "taker.c").write_text(TAKER)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", "taker.so", "taker.c"], check=True, cwd=tmp_path)
    body = TAKES + "train(6)\ntime.sleep(3)\ntrain(6)\ntake_records()\ntrain(6)\ntime.sleep(7)\ntrain(6)\n"
    trace, said = trained(tmp_path, body)
    assert said.count(f"tetrace: {TAKEN}") == 1, said[-3000:]
    found = steps_with_activities(trace)
    assert set(range(1, 6)) <= found, said[-3000:]
    assert not set(range(18, 24)) & found, said[-3000:]
    assert any("nothing of the GPU was recorded from" in notice for notice in trace.metadata.notices)
    assert any(notice.startswith(TAKEN) for notice in trace.metadata.notices)


@pytest.mark.parametrize("calls", ["launches", "all"])
def test_a_gpu_that_is_idle_or_long_in_one_kernel_is_taken_by_nobody(tmp_path: Path, calls: str) -> None:
    body = "train(5)\ntime.sleep(7)\ntrain(5)\ntorch.cuda._sleep(14_000_000_000)\ntorch.cuda.synchronize()\ntrain(5)\n"
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAINS) + body)
    command = [
        sys.executable,
        "-m",
        "tetrace",
        "record",
        "--collector",
        "cupti",
        "--calls",
        calls,
        "-o",
        "run",
        "train.py",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300, check=True)
    trace = tetrace.load(tmp_path / "run.tetrace")
    assert TAKEN not in done.stderr
    assert set(range(1, 15)) <= steps_with_activities(trace), done.stderr[-3000:]
    assert not any("cuDriverGetVersion" in name for name in trace.words("calls", "name"))


def test_profilers_that_leave_cupti_alone_interrupt_nothing(tmp_path: Path) -> None:
    body = """
        train(4)
        torch.cuda.profiler.start()
        with torch.autograd.profiler.emit_nvtx():
            train(4)
        torch.cuda.profiler.stop()
        train(4)
    """
    trace, said = trained(tmp_path, body)
    assert set(range(1, 11)) <= steps_with_activities(trace), said[-3000:]
    assert "takes CUPTI" not in said


def test_the_window_is_kept(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAINS) + "train(20)\n")
    command = [sys.executable, "-m", "tetrace", "record", "--collector", "cupti", "--steps", "5:9", "--warmup", "0"]
    done = subprocess.run(
        [*command, "-o", "run", "train.py"], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert steps_with_activities(tetrace.load(tmp_path / "run.tetrace")) == {5, 6, 7, 8}


def test_compiled_modules(tmp_path: Path) -> None:
    model = str(PROFILES / "sdpa" / "model.py")
    record(tmp_path, "cupti", sys.executable, model, *SIZES, "--recipe", "delayed", "--compile")
    totals = tetrace.analyze(tetrace.load(tmp_path / "run.tetrace")).totals
    assert totals.unattributed_phase_ns <= 0.01 * totals.activity_ns
    assert totals.unattributed_module_ns <= 0.01 * totals.activity_ns


def test_all_calls_change_no_activity(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(textwrap.dedent(TRAINS) + "train(10)\n")
    rows = {}
    for calls in ("launches", "all"):
        command = [sys.executable, "-m", "tetrace", "record", "--collector", "cupti", "--calls", calls, "-o", calls]
        subprocess.run([*command, "train.py"], check=True, capture_output=True, cwd=tmp_path, timeout=300)
        tables = tetrace.load(tmp_path / f"{calls}.tetrace").tables
        rows[calls] = tables["activities"].num_rows, tables["calls"].num_rows
    assert rows["launches"][0] == rows["all"][0], rows
    assert rows["launches"][1] < rows["all"][1], rows


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
