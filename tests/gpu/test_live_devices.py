"""One process on two GPUs: each activity on its device, modules timed on that of their parameters.

A module with parameters on both, or none in or around it, is timed on the device that is current when it is called.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest

import tetrace

pytestmark = pytest.mark.gpu

SCRIPT = textwrap.dedent("""
    import torch
    first, second = torch.nn.Linear(256, 256, device="cuda:0"), torch.nn.Linear(256, 256, device="cuda:1")
    class Split(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = first, second
        def forward(self, x):
            return self.second(torch.relu(self.first(x)).to("cuda:1"))
    net = Split()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(12):
        net(torch.ones(64, 256, device="cuda:0")).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    for device in (0, 1):
        torch.cuda.synchronize(device)
""")


@pytest.fixture(autouse=True)
def _needs() -> None:
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")


def recorded(folder: Path, *options: str) -> tetrace.Trace:
    (folder / "split.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "tetrace", "record", *options, "--steps", "all", "-o", "run", "--", "split.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return tetrace.load(folder / "run.tetrace")


def kernels_by_device(trace: tetrace.Trace) -> Counter[int]:
    kinds = trace.words("activities", "kind")
    rows = zip(trace.column("activities", "kind").tolist(), trace.column("activities", "device").tolist(), strict=True)
    return Counter(device for kind, device in rows if kinds[kind] == "kernel")


def test_each_device_has_its_kernels_as_under_nsys(tmp_path: Path) -> None:
    if shutil.which("nsys") is None:
        pytest.fail("nsys is not on PATH")
    counts = {}
    for collector in ("cupti", "nsys"):
        folder = tmp_path / collector
        folder.mkdir()
        counts[collector] = kernels_by_device(recorded(folder, "--collector", collector))
    assert set(counts["cupti"]) == {0, 1}
    assert counts["cupti"] == counts["nsys"]


def test_modules_of_two_devices_are_timed(tmp_path: Path) -> None:
    trace = recorded(tmp_path, "--collector", "events", "--every", "1")
    names, phases = trace.words("module_times", "module"), trace.words("module_times", "phase")
    columns = (trace.column("module_times", name).tolist() for name in ("module", "phase", "count", "skipped"))
    counts: Counter[tuple[str, str]] = Counter()
    for module, phase, count, skipped in zip(*columns, strict=True):
        # The backward of the whole begins on one device and ends on the other: it is not counted, but told.
        crosses = (names[module], phases[phase]) == ("Split", "backward")
        assert (skipped > 0) == crosses, (names[module], phases[phase])
        counts[names[module], phases[phase]] += count
    for module in ("first", "second"):
        for phase in ("forward", "backward"):
            assert counts[module, phase] >= 10, (module, phase, counts)
