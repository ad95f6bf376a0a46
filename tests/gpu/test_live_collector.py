"""`--collector cupti` alone: what it was handed is there whatever ends the script, and other tools that use CUPTI are told."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tetrace
from tests.gpu.recorder import PROFILES, SIZES, record
from tests.permissions import bind, skip_unless_bound
from tetrace.trace.trace import Trace

pytestmark = pytest.mark.gpu

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
