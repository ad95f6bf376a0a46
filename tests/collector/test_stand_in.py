"""The collector's library in a process without a GPU: a CUPTI that stands in makes records, the process ends in many ways."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.collector.frames import Frames
from tetrace import load
from tetrace.record.build import LIBRARY

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs the collector, which was not built")

ON, OFF, YIELDED, RESUMED, FAILED, DROPPED_BY_CUPTI, DROPPED_HERE, FULL, FLUSHED = range(1, 10)
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def script(build: Callable[..., Path], tmp_path: Path) -> Script:
    """Runs a process that does these actions one by one, recorded into `tmp_path`."""
    place = build("stand_in_script", "stand_in_cuda", "stand_in_cupti", "stand_in_cupti_12_0")

    def run(actions: str, cupti: str | Path = "stand-in", **environment: str) -> subprocess.CompletedProcess[str]:
        file = cupti if isinstance(cupti, Path) else place / f"libcupti.so.{cupti}"
        command = [place / "stand_in_script", file, LIBRARY, *actions.split()]
        variables = {"TETRACE_RECORDING": str(tmp_path), "STAND_IN_CUDA": place / "libcuda.so.stand-in", **environment}
        return subprocess.run(
            command, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def frames(folder: Path) -> Frames:
    """The file of the only process."""
    [path] = folder.glob("process-*/cupti*.bin")
    return Frames(path)


def counts(found: Frames) -> dict[str, int]:
    return {kind: len(rows) for kind, rows in found.rows.items() if rows and kind != "event"}


def plain(done: subprocess.CompletedProcess[str]) -> bool:
    """The script ended well, and was told nothing."""
    return (done.returncode, done.stderr) == (0, "")


def test_kernels_with_their_calls(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=3000 copy=5"))
    found = frames(tmp_path)
    assert counts(found) == {"kernel": 3000, "memcpy": 5, "call": 3005, "device": 1, "call_name": 2}
    assert Counter(found.names("kernel")) == {"_Z4gemmPfS_S_": 1000, "_Z9layernormPfi": 1000, "_Z4geluPf": 1000}
    assert sorted(found.names("call_name")) == ["cudaLaunchKernel_v7000", "cudaMemcpyAsync_v3020"]
    assert found.names("device") == ["NVIDIA H200"]
    assert found.cupti == 130000
    assert found.torn == 0
    kernel, call = found.rows["kernel"][0], found.rows["call"][0]
    assert (kernel["correlation"], kernel["stream"], kernel["grid_x"]) == (call["correlation"], 7, 128)
    assert found.events() == [(ON, "", 0), (FLUSHED, "", 0)]


def test_all_calls_when_asked_for(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=10", TETRACE_COLLECTOR=json.dumps({"calls": "all"})))
    assert sorted(frames(tmp_path).names("call_name")) == ["cudaGetDevice_v3020", "cudaLaunchKernel_v7000"]
    assert counts(frames(tmp_path))["call"] == 20


def test_cupti_that_cannot_choose_calls(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=10", "stand-in-12.0", STAND_IN_VERSION="18"))
    assert counts(frames(tmp_path)) == {"kernel": 10, "call": 10, "device": 1, "call_name": 1}


def test_only_the_window(script: Script, tmp_path: Path) -> None:
    window = json.dumps({"calls": "launches", "start": "window"})
    actions = "init launch=7 start launch=10 stop launch=7 capture=2 start launch=1 stop"
    assert plain(script(actions, TETRACE_COLLECTOR=window))
    found = frames(tmp_path)
    assert counts(found) == {"kernel": 11, "call": 11, "device": 1, "call_name": 1, "node": 4}
    assert [what for what, _, _ in found.events()] == [ON, OFF, ON, OFF, FLUSHED]


def test_wanted_before_cuda_starts(script: Script, tmp_path: Path) -> None:
    window = json.dumps({"start": "window"})
    assert plain(script("start init launch=3", TETRACE_COLLECTOR=window))
    assert counts(frames(tmp_path))["kernel"] == 3


def test_not_wanted_any_more_when_cuda_starts(script: Script, tmp_path: Path) -> None:
    assert plain(script("start stop init launch=3", TETRACE_COLLECTOR=json.dumps({"start": "window"})))
    assert counts(frames(tmp_path)) == {"device": 1}


def test_nodes_of_graphs_and_what_they_were_cloned_from(script: Script, tmp_path: Path) -> None:
    assert plain(script("init capture=2"))
    nodes = [(row["node"], row["original"], row["graph"]) for row in frames(tmp_path).rows["node"]]
    assert nodes == [(1, 0, 3), (2, 1, 3), (3, 0, 3), (4, 3, 3)]


NO_EVENT = 0xFFFFFFFF  # a callback does not say which; a record of the stand-in does


@pytest.mark.parametrize(
    ("cupti", "variables", "event"),
    [("stand-in", {}, NO_EVENT), ("stand-in-12.0", {"STAND_IN_VERSION": "18"}, 0)],
    ids=["callbacks", "records"],
)
def test_streams_that_are_told_to_wait(
    script: Script, tmp_path: Path, cupti: str, variables: dict[str, str], event: int
) -> None:
    """Each once, though the runtime's call makes the driver's; outside of the window none."""
    window = json.dumps({"start": "window"})
    actions = "init wait=2 start wait=3 driver-wait=1 stop wait=2"
    assert plain(script(actions, cupti, TETRACE_COLLECTOR=window, **variables))
    waits = frames(tmp_path).rows["sync"]
    assert [(row["stream"], row["correlation"], row["type"]) for row in waits] == [
        (9, 1, 2), (9, 2, 2), (9, 3, 2), (9, 1, 2),
    ]  # fmt: skip
    assert all(row["start"] == row["end"] > 0 and row["event"] == event for row in waits)


def test_a_wait_that_the_window_ends_in_hides_none_of_the_next(script: Script, tmp_path: Path) -> None:
    window = json.dumps({"start": "window"})
    assert plain(script("init start begin-wait stop start driver-wait=3", TETRACE_COLLECTOR=window))
    assert len(frames(tmp_path).rows["sync"]) == 3


@pytest.mark.parametrize(
    ("driver", "streams"), [({}, [9, 1]), ({"STAND_IN_CUDA": ""}, [9, 59, 1])], ids=["asked", "none"]
)
def test_a_stream_that_is_captured_does_not_wait(
    script: Script, tmp_path: Path, driver: dict[str, str], streams: list[int]
) -> None:
    """Nor does one whose wait was refused. Of the legacy stream, 1, the driver may not be able to say."""
    assert plain(script("init wait-on=9 wait-on=59 wait-on=1 wait-on=309", **driver))
    found = frames(tmp_path)
    assert [row["stream"] for row in found.rows["sync"]] == streams
    assert found.events() == [(ON, "", 0), (FLUSHED, "", 0)]


def test_a_stream_of_a_context_that_is_not_current(script: Script, tmp_path: Path) -> None:
    """Its device is not known. One that CUPTI does not know at all counts as lost."""
    assert plain(script("init wait-on=9 wait-on=109 wait-on=209"))
    found = frames(tmp_path)
    assert [(row["stream"], row["context"]) for row in found.rows["sync"]] == [(9, 1), (109, 0)]
    assert (DROPPED_HERE, "waits on streams that CUPTI does not know", 1) in found.events()


@pytest.mark.parametrize(
    ("end", "code"), [("kill", -signal.SIGKILL), ("abort", -signal.SIGABRT), ("_exit", 0), ("flush _exit", 0)]
)
def test_what_was_asked_for_before_the_end_is_there(script: Script, tmp_path: Path, end: str, code: int) -> None:
    done = script(f"init launch=1000 sleep=1300 launch=10 {end}")
    assert (done.returncode, done.stderr) == (code, "")
    assert counts(frames(tmp_path))["kernel"] == (1010 if "flush" in end else 1000)


def test_forked_child_writes_nothing(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=10 fork launch=10 fork"))
    assert counts(frames(tmp_path))["kernel"] == 20


def test_script_that_closes_every_file(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=1000 flush close launch=1000"))
    assert counts(frames(tmp_path))["kernel"] == 2000


def test_full_disk(script: Script, tmp_path: Path) -> None:
    done = script("init launch=100 flush limit=100 launch=10000 flush launch=10 state")
    assert done.returncode == 0
    assert done.stderr.count("\n") == 1
    assert "cannot be written: " in done.stderr
    found = frames(tmp_path)
    [(_, _, lost)] = [event for event in found.events() if event[0] == FULL]
    assert counts(found)["kernel"] >= 100
    assert (found.torn, lost) == (0, 2 * 10_110 - counts(found)["kernel"] - counts(found)["call"])


def test_a_disk_that_is_full_before_the_first_frame(script: Script, tmp_path: Path) -> None:
    """What was lost is told once there is room, and devices and names of calls are kept until then."""
    assert script("init limit=0 launch=100 flush limit=1000 launch=10 flush").returncode == 0
    found = frames(tmp_path)
    assert counts(found) == {"kernel": 10, "call": 10, "device": 1, "call_name": 1}
    assert found.names("call_name") == ["cudaLaunchKernel_v7000"]
    [(_, why, lost)] = [event for event in found.events() if event[0] == FULL]
    assert (why, lost) == ("File too large", 200)


def test_folder_that_cannot_be_written(script: Script) -> None:
    done = script("init launch=100 flush launch=100", TETRACE_RECORDING="/proc/none")
    assert done.returncode == 0
    assert done.stderr.startswith("tetrace: '/proc/none' cannot be written: No such file or directory; ")
    assert done.stderr.count("\n") == 1


def test_folder_that_may_not_be_written(script: Script, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    done = script("nobody init launch=100 flush launch=100", TETRACE_RECORDING=str(folder))
    assert done.returncode == 0
    assert done.stderr.startswith(f"tetrace: '{folder}' cannot be written: Permission denied; ")
    assert done.stderr.count("\n") == 1


def test_folder_that_may_not_be_written_any_more(script: Script, tmp_path: Path) -> None:
    """What is in the file stays there, and one line tells of the rest."""
    done = script("init launch=100 flush nobody launch=100 flush launch=100")
    assert done.returncode == 0
    assert "cannot be written: Permission denied; what the GPU does meanwhile is not recorded" in done.stderr
    assert done.stderr.count("\n") == 1
    assert counts(frames(tmp_path))["kernel"] == 100


def test_no_recording_asked_for(script: Script, tmp_path: Path) -> None:
    done = script("init start launch=10 stop yield resume flush state", TETRACE_RECORDING="")
    assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", {"state": "off"})
    assert not list(tmp_path.iterdir())


def test_kernels_that_cannot_be_had_cost_no_calls(script: Script, tmp_path: Path) -> None:
    done = script("init launch=50 stop launch=50 state", STAND_IN_REFUSES="10")
    assert done.stderr.startswith("tetrace: the GPU is not recorded: CUPTI does not record kernels here")
    assert json.loads(done.stdout)["state"] == "failed"
    assert "call" not in counts(frames(tmp_path))


def test_somebody_else_holds_cupti(script: Script, tmp_path: Path) -> None:
    done = script("init start launch=10 stop state", STAND_IN_HOLDER="CUPTI for Nsight Systems")
    told = "CUPTI for Nsight Systems holds CUPTI in this process"
    assert done.returncode == 0
    assert done.stderr.startswith(f"tetrace: the GPU is not recorded: {told}; ")
    state: dict[str, Any] = json.loads(done.stdout)
    assert (state["state"], state["reason"].split(";")[0]) == ("failed", told)
    found = frames(tmp_path)
    assert counts(found) == {}
    assert [(what, detail.split(";")[0]) for what, detail, _ in found.events()] == [(FAILED, told), (FLUSHED, "")]


def test_holder_without_a_name_is_told_by_what_it_leaves(script: Script) -> None:
    done = script("init", "stand-in-12.0", STAND_IN_HOLDER="any", NSYS_PROFILING_SESSION_ID="1")
    assert "Nsight Systems (NSYS_PROFILING_SESSION_ID is set) holds CUPTI" in done.stderr


def test_cupti_that_is_too_old(script: Script, tmp_path: Path) -> None:
    """A second one beside it would break both: it says which, and not to install another."""
    done = script("init launch=10 state", STAND_IN_VERSION="17")
    assert done.returncode == 0
    told = "which this process has loaded already (something opened it by its name), is older than CUDA 12.0, and"
    assert f"libcupti.so.stand-in, {told}" in done.stderr
    assert "pip install" not in done.stderr
    assert told in json.loads(done.stdout)["reason"]
    assert told in frames(tmp_path).events()[0][1]


def test_cupti_whose_name_carries_a_hash(script: Script, tmp_path: Path, build: Callable[..., Path]) -> None:
    """As those that auditwheel puts into wheels have: it is in the process, and no other is loaded beside it."""
    cupti = tmp_path / "libcupti-1a2b3c.so.13"
    shutil.copy(build("stand_in_cupti") / "libcupti.so.stand-in", cupti)
    done = script("init launch=10 state", cupti)
    assert plain(done)
    assert json.loads(done.stdout)["library"] == str(cupti)
    assert counts(frames(tmp_path))["kernel"] == 10


def test_reasons_do_not_show_the_home_folder(script: Script, tmp_path: Path, build: Callable[..., Path]) -> None:
    place = build("stand_in_cupti")
    done = script("init state", STAND_IN_VERSION="17", HOME=str(place))
    assert json.loads(done.stdout)["reason"].startswith("~/libcupti.so.stand-in, which")
    assert frames(tmp_path).events()[0][1].startswith("~/libcupti.so.stand-in, which")


def test_who_stops_does_not_wait_for_a_flush(script: Script) -> None:
    done = script("init launch=600 stop_while_flushing", STAND_IN_SLOW_MS="2")
    assert plain(done)
    stopped_ms, flushed_ms = map(int, done.stdout.split())
    assert flushed_ms > 1000
    assert stopped_ms < 500


def test_another_tool_takes_cupti_and_gives_it_back(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=10 yield launch=100 capture=1 resume launch=10 capture=1"))
    found = frames(tmp_path)
    assert counts(found) == {"kernel": 20, "call": 20, "device": 2, "call_name": 1, "node": 2}
    expected = [(ON, "", 0), (YIELDED, "torch.profiler", 0), (RESUMED, "", 0), (ON, "", 0), (FLUSHED, "", 0)]
    assert found.events() == expected
    # It had a clock of its own.
    assert all(abs(row["start"] - time.time_ns()) < 3600 * 10**9 for row in found.rows["kernel"])


@pytest.mark.parametrize("queued", [6, 0])
def test_another_tool_takes_cupti_while_the_gpu_is_behind(queued: int, script: Script, tmp_path: Path) -> None:
    """What the GPU has not finished is lost. The gap is dated from its launch on, and not from when it is noticed."""
    assert plain(script(f"init launch=10 sleep=50 queue={queued} sleep=50 yield sleep=50 launch=100 resume launch=10"))
    found = frames(tmp_path)
    assert counts(found)["kernel"] == 20
    assert counts(found)["call"] == 20 + queued
    calls = sorted(row["start"] for row in found.rows["call"])
    at = {row["what"]: row["at"] for row in found.rows["event"]}  # of what was on twice, the second
    (tmp_path / "run.json").write_text("{}")
    about = load(tmp_path).metadata
    [[_, begin, end, since]] = about.facts["unrecorded"]
    assert (begin, end) == (at[YIELDED], at[ON])
    assert since == (calls[10] if queued else at[YIELDED])
    told = [notice for notice in about.notices if "left no record" in notice]
    assert [notice.partition(" on ")[2] for notice in told] == (
        ["6 launches left no record: the GPU had not finished them when torch.profiler took CUPTI"] if queued else []
    )
    assert about.dropped_records == queued


KEPT = "the other tool keeps its subscription to CUPTI: nodes of graphs made from here on are missing"


def test_another_tool_keeps_its_subscription(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=10 yield resume launch=10 capture=1", STAND_IN_KEPT="1"))
    found = frames(tmp_path)
    assert counts(found)["kernel"] == 20
    assert (RESUMED, KEPT, 0) in found.events()


TAKEN = "CUPTI hands its records to another tool (cuptiActivityRegisterCallbacks), "


def test_another_tool_takes_the_records_and_says_nothing(script: Script, tmp_path: Path) -> None:
    """They are missing from when CUPTI last gave some on."""
    done = script("init launch=10 sleep=2300 seize launch=100 sleep=3400 launch=10 state stop start")
    assert done.returncode == 0
    assert done.stderr.startswith(f"tetrace: the GPU is not recorded any more: {TAKEN}")
    assert done.stderr.count("\n") == 1
    state: dict[str, Any] = json.loads(done.stdout)
    assert (state["state"], state["reason"].startswith(TAKEN)) == ("failed", True)
    found = frames(tmp_path)
    assert counts(found)["kernel"] == counts(found)["call"] == 10
    assert [what for what, _, _ in found.events()] == [ON, FAILED, FLUSHED]
    at = {row["what"]: row["at"] for row in found.rows["event"]}
    assert 0.9e9 < at[FAILED] - at[ON] < 2.3e9


@pytest.mark.parametrize("pause", [1200, 10])
def test_it_takes_them_between_two_windows(pause: int, script: Script, tmp_path: Path) -> None:
    """The writer may not have seen that the first one was shut."""
    done = script(f"init launch=10 sleep=2300 stop seize launch=100 sleep={pause} start sleep=4500 state")
    assert json.loads(done.stdout)["state"] == "failed"
    found = frames(tmp_path)
    assert [what for what, _, _ in found.events()] == [ON, OFF, ON, FAILED, FLUSHED]
    at = {row["what"]: row["at"] for row in found.rows["event"]}  # of what was on twice, the second
    assert at[OFF] < at[ON] < at[FAILED]


@pytest.mark.parametrize(
    ("actions", "variables", "kernels"),
    [
        ("launch=10 sleep=5400 launch=5", {}, 15),
        ("launch=10 sleep=2300 yield sleep=2200 resume sleep=4400 launch=5", {}, 15),
        ("launch=10 sleep=5400 launch=5", {"TETRACE_COLLECTOR": json.dumps({"calls": "all"})}, 15),
        # Of these nothing is known: the call leaves no record, or may wait behind others.
        ("launch=10 sleep=2300 seize launch=100 sleep=4400", {"STAND_IN_DEAF": "1"}, 10),
        ("launch=10 sleep=2300 seize launch=100 sleep=4400", {"STAND_IN_ONE_BUFFER": "1"}, 10),
    ],
    ids=["idle", "given", "all-calls", "deaf", "one-buffer"],
)
def test_silence_of_a_script_is_no_loss(
    script: Script, tmp_path: Path, actions: str, variables: dict[str, str], kernels: int
) -> None:
    """Nor does the call that is made meanwhile appear among the script's."""
    done = script(f"init {actions} state", **variables)
    assert plain(done)
    assert json.loads(done.stdout)["state"] == "recording"
    found = frames(tmp_path)
    assert counts(found)["kernel"] == kernels
    assert "cuDriverGetVersion" not in found.names("call_name")
    assert FAILED not in [what for what, _, _ in found.events()]


@pytest.mark.parametrize("order", ["yield init launch=5 resume launch=10", "yield resume init launch=10"])
def test_another_tool_had_cupti_before_cuda_started(order: str, script: Script, tmp_path: Path) -> None:
    assert plain(script(order, STAND_IN_HELD="1"))
    assert counts(frames(tmp_path))["kernel"] == 10


def test_activity_without_an_end_is_counted(script: Script, tmp_path: Path) -> None:
    assert plain(script("init launch=1 unfinished"))
    found = frames(tmp_path)
    assert counts(found)["kernel"] == 1
    assert (DROPPED_HERE, 1) in [(what, count) for what, _, count in found.events()]


def test_long_run_stays_small(script: Script, tmp_path: Path) -> None:
    done = script("init long=500000")
    assert plain(done)
    grown_kilobytes, _, _ = map(float, done.stdout.split())
    assert grown_kilobytes < 120_000
    found = frames(tmp_path)
    dropped = sum(count for what, _, count in found.events() if what == DROPPED_BY_CUPTI)
    assert counts(found)["kernel"] + counts(found)["call"] + dropped == 1_000_000
    # It launches faster than any GPU: a slow machine drops some of that, never most.
    assert dropped < 500_000
