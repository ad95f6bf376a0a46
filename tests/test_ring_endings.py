"""Files of ranges are read again, whatever happened to the recording, the process or the file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.rings import PLENTY, SMALLEST, A, B, C, always_off_again, pair, record, rows  # noqa: F401 - the fixture
from tetrace import _C


def run(script, *args, **environment):
    """A process of its own that runs `script`."""
    command = [sys.executable, "-c", "from tetrace import _C\n" + textwrap.dedent(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def test_each_recording_has_its_own_files(tmp_path):
    [first] = record(tmp_path, pair)
    both = record(tmp_path, lambda: pair(B))
    assert [ring["site"].tolist() for ring in both] == [[B], [A]]  # "ranges-1-1.bin" comes before "ranges-1.bin"
    assert {ring["thread"] for ring in both} == {first["thread"]}


def test_what_is_open_at_the_end_has_no_end(tmp_path):
    [ring] = record(tmp_path, lambda: _C.push(A))
    assert rows(ring, "site", "open") == [(A, True)]
    assert (_C.depth(), ring["closed"]) == (0, True)


def test_ranges_go_off_while_threads_use_them(tmp_path):
    stop = threading.Event()

    def work():
        while not stop.is_set():
            pair()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for number in range(40):
        folder = tmp_path / str(number)
        folder.mkdir()
        _C.ranges_open(str(folder), SMALLEST if number % 2 else PLENTY)
        time.sleep(0.002)
        _C.ranges_close()
    stop.set()
    for worker in workers:
        worker.join()
    rings = [_C.read_ring(str(path)) for path in tmp_path.rglob("*.bin")]
    assert sum(len(ring["site"]) for ring in rings) > 40
    assert all(set(ring["site"].tolist()) <= {A} for ring in rings)


def test_a_killed_process_leaves_its_rows(tmp_path):
    script = """
        import os, signal, sys, time
        _C.ranges_open(sys.argv[1], 1 << 26)
        outer, inner = _C.site("outer", 0, 0), _C.site("inner", 0, 0)
        _C.push(outer)
        for _ in range(50_000):
            _C.push(inner)
            _C.pop()
        time.sleep(0.05)
        print(time.time_ns(), flush=True)
        _C.push(inner)
        print(time.time_ns(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run(script, tmp_path)
    assert done.returncode == -signal.SIGKILL
    before, after = map(int, done.stdout.split())
    [path] = tmp_path.iterdir()
    ring = _C.read_ring(str(path))
    assert rows(ring, "depth", "open") == [(0, True), *[(1, False)] * 50_000, (1, True)]
    assert not ring["closed"]
    slack = 50_000
    assert before - slack <= ring["start_ns"][-1] <= after + slack


def test_a_process_that_ends_closes_its_files(tmp_path):
    script = """
        import sys, threading
        _C.ranges_open(sys.argv[1], 1 << 26)
        site, ready = _C.site("a", 0, 0), threading.Event()
        def work():
            while True:
                _C.push(site)
                _C.pop()
                ready.set()
        threading.Thread(target=work, daemon=True).start()
        ready.wait()
        _C.push(site)
    """
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rings = [_C.read_ring(str(path)) for path in tmp_path.iterdir()]
    assert [ring["closed"] for ring in rings] == [True, True]
    assert sorted(len(ring["site"]) == 1 for ring in rings) == [False, True]


def test_a_forked_child_is_off_until_it_opens_its_own(tmp_path):
    script = """
        import os, sys, threading
        from pathlib import Path
        mine, childs = Path(sys.argv[1]) / "parent", Path(sys.argv[1]) / "child"
        mine.mkdir(), childs.mkdir()
        a, b, layer = _C.site("a", 0, 0), _C.site("b", 0, 0), _C.site("layer", 0, 1)
        stop = threading.Event()
        def work():
            while not stop.is_set():
                _C.push(a)
                _C.pop()
        _C.ranges_open(str(mine), 1 << 20)
        thread = threading.Thread(target=work)
        thread.start()
        _C.push(a)
        child = os.fork()
        if child == 0:
            assert (_C.ranges_on(), _C.depth()) == (False, 0)
            _C.push(b)
            _C.pop()
            _C.ranges_open(str(childs), 1 << 20)
            _C.push(b)
            _C.push(layer)
            _C.pop()
            _C.pop()
            _C.ranges_close()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        _C.push(a)
        _C.pop()
        _C.pop()
        stop.set()
        thread.join()
        print(child)
    """
    done = run(script, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    [own] = [_C.read_ring(str(path)) for path in (tmp_path / "child").iterdir()]
    assert (own["process"], rows(own, "depth", "open")) == (int(done.stdout), [(0, False), (1, False)])
    parents = [_C.read_ring(str(path)) for path in (tmp_path / "parent").iterdir()]
    assert len(parents) == 2
    [main] = [ring for ring in parents if ring["process"] == ring["thread"]]
    assert rows(main, "depth", "open") == [(0, False), (1, False)]


def test_a_file_that_is_cut_anywhere_gives_what_is_there(tmp_path):
    sites = [A, B, C] * 10
    [ring] = record(tmp_path, lambda: [pair(site) for site in sites])
    [path] = tmp_path.iterdir()
    whole = path.read_bytes()
    cut = tmp_path / "cut.bin"
    for length in (*range(0, 4200, 7), *range(4090, len(whole) + 1)):
        cut.write_bytes(whole[:length])
        found = _C.read_ring(str(cut))
        assert found["site"].tolist() == sites[: max(0, length - 4096) // 40]
        assert found["start_ns"].tolist() == ring["start_ns"][: len(found["site"])].tolist()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "other.bin"
    with pytest.raises(ValueError, match="cannot read"):
        _C.read_ring(str(path))
    path.write_bytes(b"SQLite format 3\0" * 1000)
    with pytest.raises(ValueError, match="is no file of ranges"):
        _C.read_ring(str(path))
    path.write_bytes(b"TETRING\0" + b"\x09\0\0\0" + bytes(8000))
    with pytest.raises(ValueError, match="version 9; this tetrace reads version 1"):
        _C.read_ring(str(path))


def test_a_folder_that_goes_away_costs_rows_and_nothing_else(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()
    _C.ranges_open(str(folder), 16 << 20)
    pair()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    for _ in range(60_000):
        pair()
    thread = threading.Thread(target=pair)
    thread.start()
    thread.join()
    _C.ranges_close()
    assert not folder.exists()
