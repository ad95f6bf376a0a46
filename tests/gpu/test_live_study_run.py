"""A study on a real GPU: times by CUDA events, peaks of memory, the driver's clocks, recordings of the GPU."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from tests.study import small_study
from tetrace import analyze, load

MODEL = """
import torch
from tetrace.study import Workload


def build(*, hidden: int, fails: bool) -> Workload:
    model = torch.nn.Linear(hidden, hidden, device="cuda", dtype=torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    inputs = torch.randn(4096, hidden, device="cuda", dtype=torch.bfloat16)

    def step(mark):
        if fails:
            torch.empty(1 << 50, device="cuda")
        loss = model(inputs).float().square().mean()
        mark("forward")
        loss.backward()
        mark("backward")
        optimizer.step()
        optimizer.zero_grad()
        mark("optimizer")
        return loss

    return Workload(step=step, tokens=4096, flops=4 * 4096 * hidden * hidden, model=model)
"""
SPEC = """
title = "On a GPU"
[options]
hidden = 2048
fails = false
[measure]
rounds = 3
steps = 300 # long enough for a sample of the clocks in each round
[recording]
steps = 8
[[matrix]]
axes.hidden = [2048, 4096]
[[matrix]]
name = "memory"
axes.fails = [true]
"""


@pytest.mark.gpu
def test_a_study_on_a_gpu(tmp_path: Path) -> None:
    study = tmp_path / "profiles" / "live"
    study.mkdir(parents=True)
    (study / "model.py").write_text(MODEL)
    (study / "study.toml").write_text(SPEC)
    # A tetrace that is not installed is found by it.
    done = small_study.run(tmp_path, "live", PYTHONPATH=os.environ.get("PYTHONPATH", ""))
    assert done.returncode == 0, done.stderr
    (results,) = (study / "results").iterdir()
    said = small_study.stored(study, results.name)
    found = small_study.configurations(said)
    assert said["machine"]["gpu"]
    assert said["versions"]["cuda"]
    assert said["peaks"]["measured_at"]
    for name in ("2048", "4096"):
        each = found[name]
        assert each["state"] == "measured", each
        # The weight and the inputs at least.
        assert each["peak_allocated_bytes"] > 2 * int(name) * (int(name) + 4096)
        assert each["peak_reserved_bytes"] >= each["peak_allocated_bytes"]
        assert all(one["sm_mhz"] and one["power_w"] and one["temperature_c"] for one in each["rounds"]), each["rounds"]
        trace = load(results / each["recording"])
        assert trace.rows("activities") > 0
        steps = analyze(trace).steps
        assert len(steps) >= 8
    with (results / "steps.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    for row in rows:
        phases = sum(int(row[f"{phase}_ns"]) for phase in ("forward", "backward", "optimizer"))
        assert 0 < phases <= int(row["total_ns"]) + 2000, "CUDA's resolution is half a microsecond an event"
    host = {(each["name"], one["round"]): one["host_ns"] for each in said["configurations"] for one in each["rounds"]}
    for (name, number), host_ns in host.items():
        on_gpu = sum(
            int(row["total_ns"]) for row in rows if (row["configuration"], int(row["round"])) == (name, number)
        )
        assert on_gpu <= host_ns * 1.01
    memory = found["memory:true"]
    assert memory["state"] == "failed"
    assert memory["error"]["type"].endswith("OutOfMemoryError")
    assert "memory:true: ran out of memory beside others" in done.stderr
    assert "it is tried once more alone" in done.stderr
