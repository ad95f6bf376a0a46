"""What a process tells the collector, and what it says of the GPU; the library is a stand-in that writes down its calls."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.descent import DESCENT
from tests.sources.collected import table
from tetrace import load

pytest.importorskip("torch")
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs Linux and a C compiler"
)

SOURCE = Path(__file__).parents[1] / "record" / "stand_in_collector.c"
START = (
    DESCENT
    + """
import json, os, sys, torch
from pathlib import Path
from tetrace.instrument import start
from tetrace.instrument.start import start as begin
options = {"collector": "cupti", "capture": "collector", "warmup": 1} | json.loads(sys.argv[1])
begin(Path(os.environ["TETRACE_RECORDING"]), options)
model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())
optimizer = Descent(model.parameters(), {})

def train(steps):
    for _ in range(steps):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

"""
)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, compiled."""
    built = tmp_path_factory.mktemp("collector") / "libtetrace_collector.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, SOURCE], check=True)
    return built


@dataclass(frozen=True)
class Done:
    """A script that was run: its exit code, what it wrote, the collector's calls in order, and its process.json."""

    code: int
    out: str
    err: str
    calls: list[str]
    about: dict[str, Any]


def run(folder: Path, library: Path, script: str, options: dict[str, Any] | None = None, **variables: str) -> Done:
    """Runs `script` after `START`."""
    log, recording = folder / "calls", folder / "run.tetrace.recording"
    told = {
        "CUDA_INJECTION64_PATH": str(library),
        "TETRACE_RECORDING": str(recording),
        "STAND_IN_LOG": str(log),
        **variables,
    }
    (folder / "script.py").write_text(START + textwrap.dedent(script))
    done = subprocess.run(
        [sys.executable, str(folder / "script.py"), json.dumps(options or {})],
        env={**os.environ, **told},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line.partition(" ") for line in log.read_text().splitlines()] if log.exists() else []
    (first, *_others) = sorted(recording.glob("process-*/process.json"), key=lambda file: file.stat().st_mtime)
    return Done(
        done.returncode, done.stdout, done.stderr, [rest for _, _, rest in lines], json.loads(first.read_text())
    )


def test_the_window_is_the_process_and_its_end_is_flushed(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, "train(3)")
    assert (done.code, done.err) == (0, "")
    assert done.calls == ["start", "stop", "flush"]
    assert done.about["collector"] == {"state": "armed", "reason": "a reason", "cupti": 130000}
    assert done.about["notices"] == []


def test_the_window_opens_and_closes_at_steps_without_waiting_for_others(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, "train(5)", {"first_step": 1, "last_step": 3}, LOCAL_WORLD_SIZE="8")
    assert (done.code, done.err) == (0, "")
    assert done.calls == ["start", "stop", "flush"]
    marks = sorted(path.name.partition("-")[0] for path in (tmp_path / "run.tetrace.recording").iterdir())
    assert marks == ["entered", "left", "process"]


def test_a_window_that_never_opens_records_nothing(tmp_path: Path, library: Path) -> None:
    assert run(tmp_path, library, "train(2)", {"first_step": 50}).calls == ["flush"]


@pytest.mark.parametrize(
    ("ending", "code", "calls"),
    [
        ("raise ValueError('lost')", 1, ["start", "stop", "flush"]),
        ("sys.exit(3)", 3, ["start", "stop", "flush"]),
        ("os._exit(7)", 7, ["start", "stop", "flush"]),
        ("os.kill(os.getpid(), 9)", -signal.SIGKILL, ["start"]),
    ],
    ids=["exception", "exit", "os._exit", "kill"],
)
def test_ends(ending: str, code: int, calls: list[str], tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, f"train(2)\n{ending}")
    assert (done.code, done.calls) == (code, calls)


def test_a_forked_child_tells_the_collector_nothing(tmp_path: Path, library: Path) -> None:
    script = """
        train(1)
        if os.fork() == 0:
            with torch.autograd.profiler.profile(): pass
            os._exit(5)
        assert os.waitstatus_to_exitcode(os.wait()[1]) == 5
    """
    assert run(tmp_path, library, script).calls == ["start", "stop", "flush"]


def test_a_spawned_child_has_a_window_of_its_own(tmp_path: Path, library: Path) -> None:
    bootstrap = Path(__file__).parents[2] / "tetrace" / "instrument" / "bootstrap"
    (tmp_path / "child.py").write_text(
        "import torch\ndef work():\n    model = torch.nn.Linear(2, 2)\n    model(torch.ones(1, 2)).sum().backward()\n"
    )
    script = """
        import multiprocessing, child
        if __name__ == "__main__":
            process = multiprocessing.get_context("spawn").Process(target=child.work)
            process.start()
            process.join()
            assert process.exitcode == 0
    """
    # What the script itself starts with runs in the child too, but for its first line's guard.
    script = f"if __name__ == '__main__':\n{textwrap.indent(textwrap.dedent(script), '    ')}"
    told = json.dumps({"collector": "cupti", "capture": "collector"})
    done = run(tmp_path, library, script, PYTHONPATH=str(bootstrap), TETRACE_OPTIONS=told)
    assert done.code == 0, done.err
    by_process: dict[str, list[str]] = {}
    for line in (tmp_path / "calls").read_text().splitlines():
        by_process.setdefault(line.partition(" ")[0], []).append(line.partition(" ")[2])
    assert list(by_process.values()) == [["start", "stop", "flush"]] * 2


PROFILE = """
    train(2)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(2)
    train(1)
    print(len(profile.key_averages()) > 0)
"""


def test_torch_profiler_gets_cupti_and_gives_it_back(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, PROFILE)
    assert (done.code, done.out) == (0, "True\n")
    assert done.calls == ["start", "yield torch.profiler", "resume", "stop", "flush"]
    assert [line for line in done.err.splitlines() if line.startswith("tetrace")] == [
        "tetrace: torch.profiler takes CUPTI in step 2: what the GPU has not finished by now, and what it does until the "
        "profile ends, is not recorded"
    ]
    assert done.about["notices"] == ["the GPU is not recorded while torch.profiler has CUPTI: from step 2 until step 4"]


def test_a_schedule_gives_it_away_while_it_warms_up_and_records(tmp_path: Path, library: Path) -> None:
    script = """
        train(2)
        schedule = torch.profiler.schedule(wait=1, warmup=1, active=1, repeat=2)
        with torch.profiler.profile(schedule=schedule, acc_events=True) as profile:
            for _ in range(8):
                train(1)
                profile.step()
    """
    done = run(tmp_path, library, script)
    assert done.calls == ["start", *["yield torch.profiler", "resume"] * 2, "stop", "flush"]
    assert len([line for line in done.err.splitlines() if line.startswith("tetrace")]) == 1
    assert done.about["notices"] == [
        "the GPU is not recorded while torch.profiler has CUPTI: from step 3 until step 5, from step 6 until step 8"
    ]


@pytest.mark.parametrize(
    ("variables", "calls", "why"),
    [
        ({"STAND_IN_KEPT": "1"}, ["resume"], "Kineto holds it"),
        ({"TEARDOWN_CUPTI": "1"}, [], "TEARDOWN_CUPTI=1 has it shut CUPTI down later"),
    ],
)
def test_a_cupti_that_does_not_come_back(
    variables: dict[str, str], calls: list[str], why: str, tmp_path: Path, library: Path
) -> None:
    done = run(tmp_path, library, PROFILE, **variables)
    assert done.calls == ["start", "yield torch.profiler", *calls, "stop", "flush"]
    assert "the GPU is not recorded while torch.profiler has CUPTI: from step 2 on" in done.about["notices"]
    (lost,) = (text for text in done.about["notices"] if "kept CUPTI" in text)
    assert lost.startswith(f"torch.profiler kept CUPTI ({why}")
    assert lost.endswith("from step 4 on the GPU is not recorded")
    assert f"tetrace: {lost}" in done.err.splitlines()


def test_a_profile_outside_the_window_is_not_worth_a_word(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, PROFILE, {"last_step": 1})
    assert done.calls == ["start", "stop", "yield torch.profiler", "resume", "flush"]
    assert (done.about["notices"], "tetrace" in done.err) == ([], False)


def test_a_window_that_opens_during_a_profile(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, PROFILE, {"first_step": 3})
    assert done.calls == ["yield torch.profiler", "start", "resume", "stop", "flush"]
    assert done.about["notices"] == ["the GPU is not recorded while torch.profiler has CUPTI: from step 3 until step 4"]


def test_the_legacy_profiler_and_emit_nvtx_are_left_alone(tmp_path: Path, library: Path) -> None:
    script = """
        with torch.autograd.profiler.profile(enabled=False): train(1)
        with torch.autograd.profiler.emit_nvtx(enabled=False): train(1)
    """
    assert run(tmp_path, library, script).calls == ["start", "stop", "flush"]


def test_patches_are_taken_out(tmp_path: Path, library: Path) -> None:
    script = """
        profile = torch.autograd.profiler.profile
        patched = profile._prepare_trace, profile.__exit__
        start.stop()
        assert profile._prepare_trace is patched[0].__wrapped__ and profile.__exit__ is patched[1].__wrapped__
    """
    done = run(tmp_path, library, script)
    assert done.code == 0, done.err


def test_a_collector_that_fails_tells_it_itself_and_the_report_repeats_it(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, "train(3)", STAND_IN_STATE="failed")
    assert done.err == ""
    assert done.about["notices"] == ["the GPU is not recorded: a reason"]
    assert done.about["collector"]["state"] == "failed"


def test_a_library_that_is_gone_leaves_the_ranges(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, tmp_path / "gone.so", "train(2)")
    assert done.code == 0
    assert done.err.startswith("tetrace: recording the GPU failed and is left out (OSError")
    assert list(tmp_path.glob("*/process-*/ranges-*.bin"))


def test_no_range_is_told_to_another_tool(tmp_path: Path, library: Path) -> None:
    script = """
        from tetrace.instrument import ranges
        assert set(ranges._only_in_rings) == set(ranges.KINDS)
        train(1)
    """
    done = run(tmp_path, library, script)
    assert done.code == 0, done.err


def test_reasons_that_are_kept_do_not_show_the_home_folder(tmp_path: Path, library: Path) -> None:
    reason = f"{tmp_path}/lib/libcupti.so.11 is older than CUDA 12.0"
    done = run(tmp_path, library, "train(2)", STAND_IN_STATE="failed", STAND_IN_REASON=reason, HOME=str(tmp_path))
    assert done.about["collector"]["reason"] == "~/lib/libcupti.so.11 is older than CUDA 12.0"
    assert done.about["notices"][-1:] == ["the GPU is not recorded: ~/lib/libcupti.so.11 is older than CUDA 12.0"]


def test_a_library_that_cannot_be_opened_is_kept_without_the_home_folder(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, tmp_path / "gone.so", "train(2)", HOME=str(tmp_path))
    assert done.about["collector"]["reason"].startswith("its library cannot be used (~/gone.so: ")
    assert str(tmp_path) not in json.dumps([done.about["collector"], done.about["notices"]])


def test_a_script_that_takes_the_library_out_of_its_environment(tmp_path: Path, library: Path) -> None:
    done = run(tmp_path, library, "train(2)", CUDA_INJECTION64_PATH="")
    assert (done.code, done.calls) == (0, [])
    assert "CUDA_INJECTION64_PATH is not set any more" in done.about["collector"]["reason"]
    [told] = (notice for notice in done.about["notices"] if "recording the GPU" in notice)
    assert told.endswith("so that CUDA loads no collector; keep it in the environment)")


def test_a_program_that_executes_another_is_not_mixed_with_it(tmp_path: Path, library: Path) -> None:
    script = """
        program = len(sys.argv) - 2
        for name in ("first", "second")[program:]:
            from tetrace import annotate
            with annotate(f"{name} in {program}"): pass
        train(1)
        if program == 0:
            start._finished("end")
            os.execv(sys.executable, [sys.executable, *sys.argv, "again"])
    """
    done = run(tmp_path, library, script)
    assert done.code == 0, done.err
    recording = tmp_path / "run.tetrace.recording"
    names = sorted(folder.name.split("-", 2)[2:] for folder in recording.glob("process-*"))
    assert names == [[], ["1"]]
    trace = load(recording)
    found = [row for row in table(trace, "ranges", "process", "name", "site") if " in " in row[1]]
    assert [row[:2] for row in found] == [(0, "first in 0"), (0, "second in 0"), (1, "second in 1")]
    sites = table(trace, "sites", "process", "name")
    assert [sites[site] for _, _, site in found] == [row[:2] for row in found]
