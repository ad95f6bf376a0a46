"""CUDA events on a real GPU: they agree with CUPTI, break no capture, and change nothing that is computed."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tetrace
from tetrace.attribute.attribution import attribute
from tetrace.attribute.vocabulary import PHASES
from tetrace.trace.trace import Trace

pytestmark = pytest.mark.gpu

HERE = Path(__file__).parent
# The aim is 3% or 3 µs. Two events are some 3 to 5 µs further apart than what ran between them, by the start of the machine:
# of the shortest module here, 130 µs, that was 4.0 µs in one start, which is 3.1%.
TOLERANCE, TOLERANCE_NS = 0.03, 5_000
MODULES = ("Model", "layers.0", "layers.1", "layers.2", "layers.1.norm", "layers.1.up", "layers.1.down", "head")
WARM_UP = 4


def run(*command: str, folder: Path) -> str:
    words = [sys.executable, *command]
    done = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=400, env=dict(os.environ), check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def spans(trace: Trace) -> dict[tuple[int, str, str], int]:
    """{(step, module, phase): ns from the start of its first activity to the end of its last}, modules inside included."""
    found = attribute(trace)
    start, end = (trace.column("activities", name) for name in ("start_ns", "end_ns"))
    numbers = np.where(found.step >= 0, found.steps.number[np.maximum(found.step, 0)], -1)
    paths = np.array([*found.module_names, ""], object)[found.module]
    spans: dict[tuple[int, str, str], int] = {}
    for module in MODULES:
        inside = np.array([module == "Model" or path == module or path.startswith(f"{module}.") for path in paths])
        inside &= np.array([not path.startswith("(") and path != "" for path in paths])
        for phase in ("forward", "backward"):
            rows = inside & (found.phase == PHASES.index(phase))
            for step in np.unique(numbers[rows]).tolist():
                own = rows & (numbers == step)
                spans[step, module, phase] = int(end[own].max() - start[own].min())
    return spans


@pytest.mark.parametrize("collector", ["nsys", "cupti"])
def test_times_agree_with_cupti(collector: str, tmp_path: Path) -> None:
    if collector == "nsys" and shutil.which("nsys") is None:
        pytest.skip("nsys is not on PATH")
    history = tmp_path / "times.parquet"
    options = ("--collector", collector, "--steps", "all", "-o", str(tmp_path / "run"), "--")
    run(
        "-m", "tetrace", "record", *options, str(HERE / "timed_training.py"), "--history", str(history), folder=tmp_path
    )
    import pandas as pd

    times = pd.read_parquet(history)
    times = times[times["step"] >= WARM_UP]
    assert (times["skipped"] == 0).all()
    expected = spans(tetrace.load(tmp_path / "run.tetrace"))
    wrong, all_of_them = 0, []
    for module in MODULES:
        for phase in ("forward", "backward"):
            own = times[(times["module"] == module) & (times["phase"] == phase)]
            pairs = [
                (ns, expected[step, module, phase])
                for step, ns in zip(own["step"].tolist(), own["stream_elapsed_ns"].tolist(), strict=True)
                if (step, module, phase) in expected
            ]
            assert len(pairs) >= 4, (module, phase, len(own))
            measured, cupti = (float(np.median(values)) for values in zip(*pairs, strict=True))
            wrong += abs(measured - cupti) > max(TOLERANCE * cupti, TOLERANCE_NS)
            all_of_them.append(
                f"{module} {phase}: {measured / 1e3:.1f} µs, {(measured - cupti) / 1e3:+.1f} of {collector}'s"
            )
    assert wrong == 0, "\n".join(all_of_them)


def model() -> Any:
    import torch

    torch.manual_seed(0)
    return torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(3))).cuda()


def row(timer: Any, module: str, phase: str) -> Any:
    table = timer.table()
    (found,) = table[(table["module"] == module) & (table["phase"] == phase)].to_dict("records")
    return found


def test_torch_is_asked_for_its_stream_without_python() -> None:
    import torch

    from tetrace.instrument import autograd, module_times

    autograd.build()
    torch.cuda.init()
    address = module_times._source()
    assert address
    source = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_void_p))(address)
    for stream in (torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.Stream(priority=-1)):
        device, handle = ctypes.c_int32(-1), ctypes.c_void_p()
        with torch.cuda.stream(stream):
            assert source(ctypes.byref(device), ctypes.byref(handle)) == 1
        assert (device.value, handle.value or 0) == (torch.cuda.current_device(), stream.cuda_stream)


@pytest.mark.parametrize("observed", [True, False])
def test_forward_and_backward_of_a_training_loop(observed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tetrace.instrument import autograd

    autograd.build()
    if not observed:
        monkeypatch.setattr(autograd, "can_observe", lambda: False)
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with tetrace.timer(net, every=2, show=False) as timer:
        for _ in range(21):
            net(torch.ones(64, 512, device="cuda")).sum().backward()
            optimizer.step()
    assert timer.notes() == []
    for name in ("Sequential", "0", "1", "2"):
        for phase in ("forward", "backward"):
            found = row(timer, name, phase)
            assert (found["steps"], found["count"], found["partial_steps"]) == (10, 10, 0), (name, phase)
            assert 1_000 < found["median_ns"] < 1e8
    assert row(timer, "(step)", "all")["median_ns"] > row(timer, "Sequential", "forward")["median_ns"]


def test_a_captured_graph_is_whole_and_replays_as_without() -> None:
    import torch

    def replayed(around: Callable[[Any], Any]) -> Any:
        net = model()
        batch = torch.ones(64, 512, device="cuda")
        with around(net):
            for _ in range(3):
                net(batch).sum().backward()
                tetrace.step()
            graph = torch.cuda.CUDAGraph()
            for parameter in net.parameters():
                parameter.grad = None
            with torch.cuda.graph(graph):
                loss = net(batch).sum()
                tetrace.step()  # reads events, makes and records none, while this thread captures
                loss.backward()
            for _ in range(4):
                graph.replay()
                tetrace.step()
        torch.cuda.synchronize()
        return loss.item(), [parameter.grad.clone() for parameter in net.parameters()]

    from contextlib import nullcontext

    timers: list[Any] = []

    def timed(net: Any) -> Any:
        timers.append(tetrace.timer(net, every=1, show=False))
        return timers[0]

    plain, measured = replayed(lambda _: nullcontext()), replayed(timed)
    assert plain[0] == measured[0]
    assert all(torch.equal(a, b) for a, b in zip(plain[1], measured[1], strict=True))
    assert any("captured into CUDA graphs" in note for note in timers[0].notes())
    assert row(timers[0], "Sequential", "forward")["count"] >= 2


def test_a_capture_in_another_thread_is_left_alone() -> None:
    """The usual, global mode forbids what could break it to all threads of the process."""
    import torch

    net, batch = model(), torch.ones(64, 512, device="cuda")
    other = torch.nn.Linear(512, 512, device="cuda")
    failed: list[BaseException] = []
    done = threading.Event()

    def capture() -> None:
        try:
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream), torch.no_grad():
                other(batch)
                for _ in range(20):
                    graph = torch.cuda.CUDAGraph()
                    graph.capture_begin()
                    for _ in range(50):
                        torch.relu(batch)
                    graph.capture_end()
        except BaseException as error:
            failed.append(error)
        finally:
            done.set()

    with tetrace.timer(net, every=1, show=False) as timer, torch.no_grad():
        net(batch)
        torch.cuda.synchronize()
        thread = threading.Thread(target=capture)
        thread.start()
        while not done.is_set():
            net(batch)
            tetrace.step()
        thread.join()
    assert failed == []
    assert row(timer, "Sequential", "forward")["steps"] > 0


def test_modules_on_streams_of_their_own() -> None:
    import torch

    class Sided(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = torch.nn.Linear(512, 512), torch.nn.Linear(512, 512)
            self.side = torch.cuda.Stream()

        def forward(self, x: Any) -> Any:
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                right = self.right(x)
            left = self.left(x)
            torch.cuda.current_stream().wait_stream(self.side)
            return left + right

    net = Sided().cuda()
    with tetrace.timer(net, every=1, show=False) as timer:
        for _ in range(10):
            net(torch.ones(64, 512, device="cuda")).sum().backward()
            tetrace.step()
    for name in ("Sided", "left", "right"):
        assert row(timer, name, "forward")["steps"] >= 8
    assert row(timer, "left", "backward")["steps"] >= 8
    assert row(timer, "right", "backward")["steps"] >= 8


@pytest.mark.parametrize("mode", ["eager", "checkpoint", "compile", "graphs"])
def test_losses_and_weights_are_those_of_the_plain_run(mode: str, tmp_path: Path) -> None:
    if find_spec("transformer_engine") is None:
        pytest.skip("transformer_engine is not installed")
    recipe = "current" if mode == "compile" else "delayed"  # DelayedScaling cannot be compiled
    script = (str(HERE / "training.py"), "--recipe", recipe, "--mode", mode)
    plain = json.loads(run(*script, folder=tmp_path))
    events = ("-m", "tetrace", "record", "--collector", "events", "--every", "1", "-o", str(tmp_path / "run"), "--")
    assert json.loads(run(*events, *script, folder=tmp_path)) == plain
    assert tetrace.load(tmp_path / "run.tetrace").rows("module_times") > 0


@pytest.mark.parametrize("threads", [1, 16])
def test_compute_sanitizer_finds_nothing(threads: int) -> None:
    sanitizer = shutil.which("compute-sanitizer", path="/usr/local/cuda/bin") or shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    script = [sys.executable, str(HERE / "timed_threads.py"), str(threads)]
    command = [sanitizer, "--tool", "memcheck", "--error-exitcode", "9", *script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    if "Device not supported" in done.stdout:
        pytest.skip("compute-sanitizer does not support this device")
    assert done.returncode == 0, (done.stdout[-3000:], done.stderr[-2000:])
    printed = [line for line in done.stdout.splitlines() if not line.startswith("=========")]
    assert int(printed[-1]) >= 30 * threads, done.stdout[-3000:]


def test_what_a_killed_run_had_measured_is_there(tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(
        "import os, signal, torch, tetrace\n"
        "net = torch.nn.Linear(64, 64).cuda()\n"
        "for number in range(50):\n"
        "    net(torch.ones(8, 64, device='cuda')).sum().backward(); tetrace.step(); torch.cuda.synchronize()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = ("-m", "tetrace", "record", "--collector", "events", "--every", "1", "-o", "run", "killed.py")
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 137, done.stderr
    trace = tetrace.load(tmp_path / "run.tetrace")
    assert set(range(1, 48)) <= set(trace.column("module_times", "step").tolist())
