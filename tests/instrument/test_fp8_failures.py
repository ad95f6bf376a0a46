"""Inspection that fails switches itself off, and training goes on; what a killed process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

import tetrace
from tests.instrument import standins
from tests.instrument.fp8_runs import LINEARS, ROOT, frame, quantized, recorded
from tests.instrument.test_transformer_engine import train
from tetrace.fp8 import reference
from tetrace.sources import detect


@pytest.mark.parametrize("broken", ["measure", "site", "scales"])
def test_what_breaks_switches_inspection_off_and_training_goes_on(tmp_path, monkeypatch, capfd, broken):
    def fail(*args, **kwargs):
        raise RuntimeError("it broke")

    with standins.installed("2.20.2") as made:
        plain = train(made, standins.DelayedScaling(), steps=3)
        if broken == "measure":
            monkeypatch.setattr(reference, "measure", fail)
        elif broken == "site":
            monkeypatch.setattr("tetrace.instrument.fp8_calls.Kind.site", fail)
        else:
            monkeypatch.setattr("tetrace.instrument.fp8_scales._histories", fail)
        losses = []
        trace = recorded(tmp_path, lambda: losses.extend(train(made, standins.DelayedScaling(), steps=3)))
    assert losses == plain
    warnings = [line for line in capfd.readouterr().err.splitlines() if "FP8 inspection switched itself off" in line]
    assert len(warnings) == 1
    assert "RuntimeError: it broke" in warnings[0]
    assert "step 0" in warnings[0]
    assert any("FP8 inspection switched itself off" in notice for notice in trace.metadata.notices)
    assert trace.has("ranges")


def test_a_forked_child_writes_nothing(tmp_path):
    def body(made):
        tex, quantizer = (
            made["transformer_engine_torch"],
            standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3),
        )
        x = torch.ones(2, 2)
        tex.quantize(x, quantizer)
        pid = os.fork()
        if pid == 0:
            tex.quantize(x, quantizer)
            tetrace.step()
            os._exit(0)
        os.waitpid(pid, 0)
        tex.quantize(x, quantizer)

    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: body(made))
    assert frame(trace)["order"].tolist() == [0, 1]


KILLED = """
import os, sys
from tests.instrument import standins
from tests.instrument.runs import record
from tests.instrument.test_transformer_engine import train
from pathlib import Path

def body(made):
    train(made, standins.DelayedScaling(), steps=3)
    os.abort()

with standins.installed("2.20.2") as made:
    record(Path(sys.argv[1]), lambda: body(made), fp8={})
"""


def test_a_killed_process_leaves_the_rows_of_earlier_steps(tmp_path):
    working = tmp_path / "run.tetrace.recording"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", KILLED, str(working)], env=environ, cwd=ROOT, capture_output=True)
    assert done.returncode == -signal.SIGABRT, done.stderr.decode()
    (working / "run.json").write_text("{}")
    rows = quantized(detect.load(working))
    assert set(rows["step"]) == {0, 1, 2}
    assert len(rows) == 3 * len(LINEARS)


def test_a_driver_that_refuses_to_copy_switches_inspection_off(tmp_path, capfd, monkeypatch):
    """No tensor was lost by it, so none is counted."""
    from tetrace import _C

    plain = _C.watch_counts
    monkeypatch.setattr(_C, "watch_counts", lambda: {**plain(), "last_error": 700})
    monkeypatch.setattr(_C, "watch_has_failed", lambda: True)
    with standins.installed("2.20.2") as made:
        trace = recorded(tmp_path, lambda: train(made, standins.DelayedScaling(), steps=3))
    assert "the CUDA driver refused with error 700" in capfd.readouterr().err
    assert set(quantized(trace)["step"]) <= {0}
