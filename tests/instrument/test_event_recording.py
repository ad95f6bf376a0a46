"""`tetrace record --collector events`: what a process leaves, and the report of it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_cuda import needs_compiler

torch = pytest.importorskip("torch")

from test_timer import Model, driver, train  # noqa: E402

import tetrace  # noqa: E402
from tetrace.errors import UsageError  # noqa: E402
from tetrace.instrument import module_times, row_file, start  # noqa: E402
from tetrace.report.reporter import Options  # noqa: E402
from tetrace.report.terminal import Terminal  # noqa: E402
from tetrace.sources import events  # noqa: E402

pytestmark = needs_compiler


@pytest.fixture
def record(cuda, tmp_path, monkeypatch):
    """Records training in this process; returns the working folder."""
    monkeypatch.setattr(module_times, "of_torch", lambda: driver(cuda))

    def run(steps=30, body=lambda: None, **options):
        folder = tmp_path / "run.tetrace.recording"
        gc.collect()  # models of other tests have names too
        start.start(folder, {"collector": "events", "every": 2, **options})
        try:
            train(cuda, Model(cuda), steps=steps)
            body()
        finally:
            start.stop()
        document = {"options": {"every": 2, "warmup": 5, **options}, "collector": "events", "ended": {"finished": True}}
        (folder / "run.json").write_text(json.dumps(document))
        return folder

    return run


def rows(trace, **options):
    """{(module, phase): (steps, mean)} of the report's table."""
    table = tetrace.analyze(trace, **options).tables["module_times"]
    return {(row["module"], row["phase"]): (row["steps"], row["mean_ns"]) for row in table.rows()}


def test_what_is_left_and_read(record):
    folder = record()
    left = {file.name for file in next(folder.glob("process-*")).iterdir()}
    assert left >= {"module-times.bin", "sites.jsonl", "process.json"}
    assert not [name for name in left if name.startswith("ranges-")]
    trace = tetrace.load(folder)
    found = rows(trace)
    assert found["Model", "forward"] == (12, 1600)  # steps 6, 8, ... 28: the warm-up is left out
    assert found["layers.0", "backward"] == (12, 700)
    assert found["(step)", "all"] == (12, 6068)
    assert rows(trace, steps="all")["head", "forward"] == (14, 1000)
    assert rows(trace, steps="10:15")["head", "forward"] == (3, 1000)
    with pytest.raises(UsageError, match="they are 2 to 28"):
        tetrace.analyze(trace, steps="40:50")


def test_a_window_of_steps(record):
    folder = record(first_step=7, last_step=13)
    assert sorted(set(tetrace.load(folder).column("module_times", "step").tolist())) == [8, 10, 12]


def test_only_steps(record):
    assert set(rows(tetrace.load(record(ranges="off")))) == {("(step)", "all")}


def test_the_first_screen(record):
    shown = str(Terminal(Options(width=100)).documents(tetrace.analyze(tetrace.load(record())))[""])
    lines = shown.splitlines()
    assert lines[0] == "run.tetrace · CUDA events"
    assert lines[2].startswith("A step takes 6.07 µs on its stream (median of 12 sampled steps;")
    assert "where the stream" in shown
    assert "ran empty also the time that the host took" in shown
    assert "not captured" not in shown
    (whole,) = [line for line in lines if line.startswith("(step)")]
    assert whole.split() == ["(step)", "all", "0.006", "100.0%", "0.006", "0.006", "0.006", "0.006", "1", "12"]


def test_calls_that_were_not_measured_are_told(record, cuda):
    def captured():
        cuda.capture(1)
        Model(cuda)(torch.ones(3))
        cuda.capture(1, 0)

    assert any("captured into CUDA graphs" in notice for notice in tetrace.load(record(body=captured)).metadata.notices)


def test_steps_with_skipped_calls_do_not_count(record):
    folder = record()
    file = next(folder.glob("process-*/module-times.bin"))
    data = np.frombuffer(file.read_bytes(), events.ROW, offset=16).copy()
    data["skipped"][data["step"] == 10] = 1
    file.write_bytes(file.read_bytes()[:16] + data.tobytes())
    table = tetrace.analyze(tetrace.load(folder)).tables["module_times"]
    assert set(table["steps"].tolist()) == {11}
    assert set(table["partial_steps"].tolist()) == {1}


def test_a_file_that_was_cut_off(record):
    folder = record()
    file = next(folder.glob("process-*/module-times.bin"))
    whole = file.read_bytes()
    for length in (len(whole) - 1, 16, 9, 0):
        file.write_bytes(whole[:length])
        assert tetrace.load(folder).rows("module_times") == max(length - 16, 0) // 24
    file.write_bytes(b"something else" * 10)
    assert tetrace.load(folder).rows("module_times") == 0


def test_the_file_is_read_as_it_is_written():
    assert events.ROW == row_file.ROW
    assert row_file.HEADER[:8] == events.MAGIC
    assert np.frombuffer(row_file.HEADER[8:], "<u4").tolist() == [events.VERSION, events.ROW.itemsize]


def test_a_full_disk_costs_the_rows_only(cuda, tmp_path, monkeypatch):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with Path("/dev/full").open("wb", buffering=0) as full:
        rows = row_file.RowFile(full)
        rows.append(bytes(3 * row_file.ROW.itemsize))
        assert rows.rows == 0


def command(folder, *arguments, script="train.py"):
    (folder / "train.py").write_text(
        "import torch\nmodel = torch.nn.Linear(4, 4)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)\n"
        "for _ in range(12):\n    model(torch.randn(2, 4)).sum().backward(); optimizer.step(); optimizer.zero_grad()\n"
    )
    words = [sys.executable, "-m", "tetrace", "record", *arguments, script]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120, env=os.environ)


def test_a_run_without_a_gpu(tmp_path):
    done = command(tmp_path, "--collector", "events", "--every", "3")
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        "tetrace: no time on the GPU was measured: CUDA was not in use (--collector host records ranges and steps without it), "
        "or no step came whose number 3 divides, but for step 0 (--every 1 measures each step)"
    )
    assert not (tmp_path / "train.tetrace.recording").exists()
    trace = tetrace.load(tmp_path / "train.tetrace")
    assert (trace.has("module_times"), trace.rows("module_times")) == (True, 0)
    assert trace.metadata.facts["options"]["every"] == 3


def test_every_is_for_events(tmp_path):
    done = command(tmp_path, "--collector", "host", "--every", "3")
    assert (done.returncode, "--every 3 has a meaning with --collector events only" in done.stderr) == (2, True)
