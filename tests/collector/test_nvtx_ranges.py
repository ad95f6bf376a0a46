"""NVTX ranges of any program in rings, as the collector's library writes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.sources.collected import table
from tetrace import _C, load
from tetrace.record.build import LIBRARY
from tetrace.sources import cupti_rows

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="needs the collector, which was not built")

START = """
import ctypes, json, os, sys, threading
from tests.collector.nvtx_program import Program
library = ctypes.CDLL(os.environ["NVTX_INJECTION64_PATH"])
nvtx = Program(library)
start, stop, flush = library.tetrace_collector_start, library.tetrace_collector_stop, library.tetrace_collector_flush
"""


def run(folder: Path, script: str, begin: str = "now") -> str:
    """What a process prints that runs `script` with the library loaded."""
    environment = {
        "TETRACE_RECORDING": str(folder),
        "TETRACE_COLLECTOR": json.dumps({"calls": "launches", "start": begin}),
        "NVTX_INJECTION64_PATH": str(LIBRARY),
    }
    done = subprocess.run(
        [sys.executable, "-c", START + textwrap.dedent(script)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def rings(folder: Path) -> list[dict[str, Any]]:
    """The rings of the only process that left any, texts in place of their numbers."""
    [own] = folder.glob("process-*")
    texts = cupti_rows.read(own / "cupti.bin").texts
    found = [_C.read_ring(str(path)) for path in sorted(own.glob("nvtx-*.bin"))]
    for ring in found:
        ring["text"] = [texts.get(site & 0xFFFFFFFF, "?").replace("\x1f", ":") for site in ring["site"].tolist()]
    return found


def rows(ring: dict[str, Any]) -> list[tuple[str, int, int, bool]]:
    """Text, depth, value and whether the range was closed."""
    closed = (ring["end_ns"] > 0).tolist()
    return list(zip(ring["text"], ring["depth"].tolist(), ring["value"].tolist(), closed, strict=True))


def test_ranges_of_every_kind_have_their_text(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        nccl = nvtx.domain("NCCL")
        reduce = nvtx.register(nccl, "ncclAllReduce")
        depths = [nvtx.push("outer"), nvtx.push_wide("größer"), nvtx.push_in(nccl, reduce, 7), nvtx.push_in(nccl, "x")]
        depths += [nvtx.pop(), nvtx.pop_in(nccl), nvtx.pop_in(nccl), nvtx.pop(), nvtx.pop()]
        nvtx.push_in(0, "default")
        nvtx.pop_in(0)
        nvtx.end(nvtx.start("crossing"))
        nvtx.end_in(nccl, nvtx.start_in(nccl, reduce))
        print(nvtx.attached, depths, nvtx.register(nccl, "ncclAllReduce") == reduce, nvtx.domain("NCCL") == nccl)
        """,
    )
    assert said.split("\n")[0] == "1 [0, 1, 0, 1, 1, 1, 0, 0, -1] True True"
    [ring] = rings(tmp_path)
    assert rows(ring) == [
        (":outer", 0, -1, True),
        (":größer", 1, -1, True),
        ("NCCL:ncclAllReduce", 2, -1, True),
        ("NCCL:x", 3, -1, True),
        (":default", 0, -1, True),
        (":crossing", -1, -1, True),
        ("NCCL:ncclAllReduce", -1, -1, True),
    ]
    assert (ring["closed"], ring["dropped"]) == (True, 0)


def test_what_emit_nvtx_writes_behind_a_name_is_cut_off(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        for number in range(3):
            nvtx.push(f"aten::mm, seq = {number}, op_id = {number + 7}, sizes = [[2, 3], []], input_op_ids = [(38,0)]")
            nvtx.pop()
        nvtx.push("loss, seq = high")
        nvtx.push("long " * 5000)
        """,
    )
    [ring] = rings(tmp_path)
    assert rows(ring) == [
        *[(":aten::mm", 0, number, True) for number in range(3)],
        (":loss, seq = high", 0, -1, False),
        (f":{('long ' * 5000)[:4096]}", 1, -1, False),
    ]
    assert len(set(ring["site"].tolist())) == 3


def test_ranges_of_tetrace_are_not_recorded_twice(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        ours = nvtx.domain("tetrace")
        nvtx.push_in(ours, nvtx.register(ours, "layers.0"))
        nvtx.pop_in(ours)
        nvtx.end_in(ours, nvtx.start_in(ours, "step"))
        nvtx.push("theirs")
        """,
    )
    [ring] = rings(tmp_path)
    assert ring["text"] == [":theirs"]


def test_only_the_window_is_recorded(tmp_path: Path) -> None:
    """Each window has files of its own, and depths are those of the whole stack."""
    said = run(
        tmp_path,
        """
        depths = [nvtx.push("before")]
        start()
        depths += [nvtx.push("inside"), nvtx.pop(), nvtx.push("across")]
        stop()
        depths += [nvtx.push("outside"), nvtx.pop(), nvtx.pop(), nvtx.pop()]
        lost = nvtx.start("outside")
        start()
        nvtx.end(lost)
        nvtx.push("again")
        nvtx.pop()
        print(depths)
        """,
        begin="window",
    )
    assert said.strip() == "[0, 1, 1, 1, 2, 2, 1, 0]"
    second, first = rings(tmp_path)  # "nvtx-1-1.bin" comes before "nvtx-1.bin"
    assert rows(first) == [(":inside", 1, -1, True), (":across", 1, -1, False)]
    assert rows(second) == [(":again", 0, -1, True)]


def test_threads_have_their_own_stacks_and_names(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        started = {}
        begin = threading.Barrier(4)
        def work(number):
            begin.wait()
            if number == 3:
                nvtx.name_thread(threading.get_native_id(), "a loader")
            for _ in range(200):
                nvtx.push(f"thread {number}")
                nvtx.push("same")
                assert nvtx.pop() == 1
                nvtx.pop()
            started[number] = nvtx.start("crossing")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        for handle in started.values(): nvtx.end(handle)
        nvtx.name_thread(threading.get_native_id(), "the main one")
        nvtx.push("x")
        nvtx.pop()
        """,
    )
    found = rings(tmp_path)
    names = sorted({text for ring in found for text in ring["text"]})
    assert names == [":crossing", ":same", *(f":thread {number}" for number in range(4)), ":x"]
    assert sorted(len(ring["text"]) for ring in found) == [1, 401, 401, 401, 401]
    assert all((ring["end_ns"] > 0).all() for ring in found)
    assert sum(ring["name"] == "a loader" for ring in found) == 1
    assert [ring["name"] for ring in found if ring["process"] == ring["thread"]] == ["the main one"]


def test_a_process_that_ends_at_once_leaves_its_ranges(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
        import time
        if os.fork() == 0:
            nvtx.push("the parent's files are not the child's to write")
            os._exit(0)
        os.wait()
        nvtx.push("open")
        for _ in range(30_000):
            nvtx.push("inner")
            nvtx.pop()
        time.sleep(0.3)
        os._exit(0)
        """,
    )
    [ring] = rings(tmp_path)
    assert rows(ring) == [(":open", 0, -1, False), *[(":inner", 1, -1, True)] * 30_000]


def test_nothing_is_written_without_a_recording(tmp_path: Path) -> None:
    script = START + "print(nvtx.attached, nvtx.push('x'))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TETRACE_")}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**environment, "NVTX_INJECTION64_PATH": str(LIBRARY)},
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout) == (0, "0 -2\n"), done.stderr


def test_an_nvtx_with_shorter_tables_is_filled_as_far_as_it_goes(tmp_path: Path) -> None:
    said = run(tmp_path, "old = Program(library, 12)\nprint(old.attached, old.push('x'), old.pop())")
    assert said.strip() == "1 0 0"


def test_python_and_the_library_have_one_folder(tmp_path: Path) -> None:
    said = run(
        tmp_path,
        """
        from tetrace import _C
        nvtx.push("x")
        print(_C.process_folder(os.environ["TETRACE_RECORDING"]))
        """,
    )
    assert [str(folder) for folder in tmp_path.glob("process-*")] == said.split()


def test_each_program_of_a_process_has_its_own_texts(tmp_path: Path) -> None:
    """A script that executes another has texts of the same numbers."""
    folder = tmp_path / "run.tetrace.recording"
    folder.mkdir()
    run(
        folder,
        """
        program = len(sys.argv)
        nvtx.push(f"only in program {program}")
        nvtx.push(f"in it, {program}")
        nvtx.pop()
        nvtx.pop()
        flush()
        if program < 3: os.execv(sys.executable, [*sys.orig_argv, "again"])
        """,
    )
    (folder / "run.json").write_text("{}")
    trace = load(folder)
    pids = [pid for (pid,) in table(trace, "processes", "pid")]
    assert (len(pids), len(set(pids))) == (3, 1)
    assert table(trace, "ranges", "process", "name") == [
        (number, text) for number in range(3) for text in (f"only in program {number + 1}", f"in it, {number + 1}")
    ]


def test_more_texts_than_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "run.tetrace.recording"
    folder.mkdir()
    run(
        folder,
        """
        nvtx.push("known")
        for number in range(9000):
            nvtx.push(f"{number} " + "x" * 4096)
            nvtx.pop()
        nvtx.push("new " + "x" * 4096)
        nvtx.push("known")
        """,
    )
    (folder / "run.json").write_text("{}")
    trace = load(folder)
    assert [name for (name,) in table(trace, "ranges", "name")][-2:] == ["(unnamed)", "known"]
    [told] = (notice for notice in trace.metadata.notices if "texts" in notice)
    assert told.startswith("NVTX ranges have more different texts than the 32 MiB that are kept: ")
    assert told.endswith("new ones are called (unnamed); leave numbers out of the texts of ranges")
