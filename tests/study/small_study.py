"""A study of plain torch on a CPU, with configurations that fail in every way there is; and the command that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TETRACE = (sys.executable, "-m", "tetrace", "study")

MODEL = """
import os
import pathlib
import signal
import subprocess
import sys
import time

import torch

from tetrace.study import Workload

if os.environ.get("BREAKS") == "import":
    raise ImportError("a package that is not there")


def build(*, does: str, hidden: int, pause: float) -> Workload:
    alive = pathlib.Path(os.environ["ALIVE"])
    (alive / str(os.getpid())).touch()
    if does == "breaks-build":
        raise ValueError("hidden does not fit\\x1b[31m")
    if does == "detaches":
        sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
        (alive / str(sleeper.pid)).touch()
    if does == "talks":
        print("printed to standard output")
    model = torch.nn.Linear(hidden, hidden, bias=False)
    torch.nn.init.constant_(model.weight, 0.01)
    inputs = torch.ones(4, hidden)
    calls = 0

    def others() -> list[int]:
        pids = [int(file.name) for file in alive.iterdir() if file.name != str(os.getpid())]
        return [pid for pid in pids if runs(pid)]

    def runs(pid: int) -> bool:
        try:
            return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def step(mark):
        nonlocal calls
        calls += 1
        facts["processors"] = str(len(os.sched_getaffinity(0))) if calls == 2 else facts.get("processors", "")
        time.sleep(pause)
        if does == "breaks-first":
            raise RuntimeError("no first step")
        if does.startswith("forks") and calls == 1:
            pid = os.fork()
            if pid == 0 and does == "forks_and_exits":
                sys.exit(3)
            if pid == 0:
                return None
            facts["child"] = str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        if calls == 6:
            if does == "breaks":
                raise RuntimeError("a later step")
            if does == "hangs":
                time.sleep(1000)
            if does == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if does == "leaves":
                print("last words")
                os._exit(7)
        if does == "talks" and calls == 10:
            pathlib.Path("talked").touch()
        if does == "crowded" and others():
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        output = model(inputs)
        mark("forward")
        loss = output.square().mean() * (float("nan") if does == "nan" and calls == 4 else 1.0)
        loss.backward()
        mark("backward")
        model(inputs).sum()
        mark("forward")
        with torch.no_grad():
            model.weight.sub_(model.weight.grad, alpha=1e-3)
        model.weight.grad = None
        return loss

    facts = {"variable": os.environ.get("GIVEN", ""), "cache": os.environ.get("TORCHINDUCTOR_CACHE_DIR", "")}
    return Workload(step=step, tokens=4, flops=16 * hidden * hidden, model=model, facts=facts)
"""

SPEC = """
title = "Everything that may happen"
device = "cpu"
[options]
does = "works"
hidden = 8
pause = 0.0
[environment]
ALIVE = "{alive}"
[measure]
warmup = 2
steps = 3
rounds = 3
own_caches = true
cpus = 1
[quick]
rounds = 1
only = ["works"]
[recording]
steps = 8
[[matrix]]
expected = [{{configuration = "later", error = "RuntimeError.*a later step"}}]
axes.does.works = {{does = "works", environment = {{GIVEN = "to the first"}}}}
axes.does.talks = {{does = "talks"}}
axes.does.nan = {{does = "nan"}}
axes.does.import = {{does = "works", environment = {{BREAKS = "import"}}}}
axes.does.build = {{does = "breaks-build"}}
axes.does.first = {{does = "breaks-first"}}
axes.does.later = {{does = "breaks"}}
axes.does.killed = {{does = "killed"}}
axes.does.leaves = {{does = "leaves"}}
axes.does.crowded = {{does = "crowded"}}
axes.does.hangs = {{does = "hangs"}}
[[matrix]]
name = "children"
axes.does = ["forks_and_exits", "forks_and_returns", "detaches"]
recording = false
[[matrix]]
name = "slow"
options = {{does = "works", pause = 0.05}}
axes.hidden = [4, 8]
recording = false
"""


def write(folder: Path, spec: str = SPEC) -> Path:
    """`profiles/small` in `folder`; returns it."""
    study, alive = folder / "profiles" / "small", folder / "alive"
    study.mkdir(parents=True)
    alive.mkdir()
    (study / "model.py").write_text(MODEL)
    (study / "study.toml").write_text(spec.format(alive=alive))
    return study


def environ(**more: str) -> dict[str, str]:
    """The environment of a run: nothing of tetrace's own in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TETRACE", "PYTHONPATH"))}
    return {**kept, **more}


def run(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`tetrace study` with `arguments` in `folder`."""
    return subprocess.run(
        [*TETRACE, *arguments],
        cwd=folder,
        env=environ(**more),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def stored(study: Path, machine: str = "cpu") -> dict[str, Any]:
    """What study.json says."""
    said: dict[str, Any] = json.loads((study / "results" / machine / "study.json").read_text())
    return said


def configurations(said: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Configurations by name."""
    return {each["name"]: each for each in said["configurations"]}


def turns(said: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, int, int, int]]:
    """Rounds of `names` in the order in which they ran: name, number, begin and end in ns on the machine's clock."""
    found = [
        (name, each["round"], each["began_ns"], each["began_ns"] + each["host_ns"])
        for name in names
        for each in configurations(said)[name]["rounds"]
    ]
    return sorted(found, key=lambda turn: turn[2])


def alive(folder: Path) -> list[int]:
    """Workloads that were built, and what they started, whose processes still run."""
    return [int(file.name) for file in (folder / "alive").iterdir() if _runs(int(file.name))]


def _runs(pid: int) -> bool:
    """One that has ended may still be there, until its parent asks: init may take its time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
