"""Ranges of threads: they nest, carry their step, and are read from each thread's file as they were written."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rings import PLENTY, SMALLEST, A, B, C, always_off_again, pair, record, rows  # noqa: F401 - the fixture
from tetrace import _C

ROWS_OF_SMALLEST = (SMALLEST - 4096) // 40


def test_ranges_nest_and_carry_their_step(tmp_path):
    def actions():
        _C.push(A)
        _C.set_step(7)
        _C.push(B)
        _C.pop()
        _C.push(C)
        assert _C.depth() == 2
        _C.pop()
        _C.pop()

    before = time.time_ns()
    [ring] = record(tmp_path, actions)
    after = time.time_ns()
    assert rows(ring, "site", "step", "depth", "value", "open") == [
        (A, -1, 0, -1, False),
        (B, 7, 1, -1, False),
        (C, 7, 1, -1, False),
    ]
    (a0, a1), (b0, b1), (c0, c1) = rows(ring, "start_ns", "end_ns")
    assert before <= a0 <= b0 <= b1 <= c0 <= c1 <= a1 <= after
    assert {name: ring[name].dtype.name for name in ("start_ns", "end_ns", "value", "site", "step", "depth")} == {
        **dict.fromkeys(("start_ns", "end_ns", "value"), "int64"),
        **dict.fromkeys(("site", "step", "depth"), "int32"),
    }
    assert (ring["process"], ring["thread"], ring["dropped"], ring["closed"]) == (
        os.getpid(),
        threading.get_native_id(),
        0,
        True,
    )


def test_times_are_those_of_the_wall_clock(tmp_path):
    """Over enough time for the list of anchors to fill up, and every second one to be given up."""
    measured = []

    def actions():
        for _ in range(400):
            before = time.time_ns()
            _C.push(A)
            between = time.time_ns()
            _C.pop()
            measured.append((before, between, time.time_ns()))
            time.sleep(0.001)

    [ring] = record(tmp_path, actions)
    slack = 20_000  # two readings of the clocks for an anchor, and the straight line between anchors
    for (before, between, after), (start, end) in zip(measured, rows(ring, "start_ns", "end_ns"), strict=True):
        assert before - slack <= start <= between + slack
        assert between - slack <= end <= after + slack


def test_a_pop_too_many_and_an_unwind_too_high_do_nothing(tmp_path):
    def actions():
        _C.pop()
        _C.push(A)
        _C.unwind(5)
        _C.unwind(-1)
        assert _C.depth() == 1
        _C.pop()
        _C.pop()
        assert _C.depth() == 0

    [ring] = record(tmp_path, actions)
    assert rows(ring, "site", "open") == [(A, False)]


def test_unwind_closes_what_was_left_open(tmp_path):
    def actions():
        for site in (A, B, C):
            _C.push(site)
        _C.unwind(1)
        assert _C.depth() == 1
        _C.push(C)
        _C.pop()
        _C.pop()

    [ring] = record(tmp_path, actions)
    assert rows(ring, "site", "depth", "open") == [(A, 0, False), (B, 1, False), (C, 2, False), (C, 1, False)]


def test_off_is_nothing(tmp_path):
    assert not _C.ranges_on()
    _C.push(A)
    assert (_C.depth(), _C.current_module(), _C.start(A)) == (0, -1, 0)
    _C.pop()
    _C.unwind(0)
    _C.end(1)
    with _C.annotate("nobody listens"):
        pass
    _C.push(-5)  # not even looked at
    assert list(tmp_path.iterdir()) == []


def test_a_site_that_is_not_there_is_an_error(tmp_path):
    _C.ranges_open(str(tmp_path), PLENTY)
    for site in (-1, 1 << 30):
        with pytest.raises(ValueError, match=f"there is no site {site}"):
            _C.push(site)
    with pytest.raises(TypeError):
        _C.push("a")
    assert _C.depth() == 0
    with pytest.raises(ValueError, match="kind is 3"):
        _C.site("x", 0, 3)


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_folder_is_needed(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"{name}' is not a folder"):
        _C.ranges_open(str(tmp_path / name), PLENTY)
    with pytest.raises(ValueError, match="bytes_per_thread is 100; give at least 8192"):
        _C.ranges_open(str(tmp_path), 100)
    assert not _C.ranges_on()


def test_many_sites(tmp_path):
    """More than one block of them."""
    sites = [_C.site(f"site {number}", 0, 0) for number in range(3000)]
    assert len(set(sites)) == 3000
    [ring] = record(tmp_path, lambda: [pair(site) for site in sites])
    assert ring["site"].tolist() == sites


def test_the_innermost_module(tmp_path):
    forward, backward = _C.site("layer", 1, 1), _C.site("layer", 1, 2)
    _C.ranges_open(str(tmp_path), PLENTY)
    seen = []
    for site in (A, forward, B, backward, C):
        _C.push(site)
        seen.append(_C.current_module())
    while _C.depth():
        _C.pop()
        seen.append(_C.current_module())
    assert seen == [-1, forward, forward, backward, backward, backward, forward, forward, -1, -1]


def test_a_file_grows_by_need(tmp_path):
    count = 70_000  # three chunks of a MiB
    [ring] = record(tmp_path, lambda: [pair() for _ in range(count)], limit=16 << 20)
    assert (len(ring["site"]), ring["dropped"]) == (count, 0)
    assert np.all(np.diff(ring["start_ns"]) >= 0)
    [path] = tmp_path.iterdir()
    assert path.stat().st_size == 4096 + 40 * count


def test_a_full_file_keeps_the_newest(tmp_path):
    sites = [_C.site(str(number), 0, 0) for number in range(250)]
    [ring] = record(tmp_path, lambda: [pair(site) for site in sites], limit=SMALLEST)
    assert ring["site"].tolist() == sites[-ROWS_OF_SMALLEST:]
    assert ring["dropped"] == 250 - ROWS_OF_SMALLEST


def test_a_full_file_of_several_chunks_keeps_the_newest(tmp_path):
    """What is overwritten was given back to the kernel before."""
    limit, count = 3 << 20, 250_000
    room = (limit - 4096) // 40

    def actions():
        for number in range(count):
            _C.set_step(number)
            pair()

    [ring] = record(tmp_path, actions, limit=limit)
    assert ring["step"].tolist() == list(range(count - room, count))
    assert (ring["dropped"], (ring["end_ns"] > 0).all()) == (count - room, True)


def test_a_range_that_ends_long_after_it_was_given_back(tmp_path):
    def actions():
        _C.push(A)
        _C.push(C)
        for _ in range(120_000):
            pair(B)
        _C.pop()
        _C.pop()

    [ring] = record(tmp_path, actions, limit=64 << 20)
    assert rows(ring, "site", "depth", "open")[:3] == [(A, 0, False), (C, 1, False), (B, 2, False)]
    assert ring["end_ns"].max() == ring["end_ns"][0] >= ring["end_ns"][1] > ring["end_ns"][2:].max()


def resident_bytes():
    """Memory of this process that files are mapped into."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssFile")]
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("limit", [1 << 30, 24 << 20])
def test_a_large_file_is_no_memory_of_the_process(tmp_path, limit):
    _C.ranges_open(str(tmp_path), limit)
    pair()
    before, most = resident_bytes(), 0
    for _ in range(10):
        for _ in range(150_000):
            pair()
        most = max(most, resident_bytes())
    _C.ranges_close()
    [path] = tmp_path.iterdir()
    assert path.stat().st_size > min(limit - 40, 40 * 1_500_000)
    assert most - before < 8 << 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits addresses")
def test_a_process_that_may_not_map_much_keeps_fewer_rows(tmp_path):
    script = """
        import resource, sys
        from tetrace import _C
        [mapped] = [line for line in open("/proc/self/status") if line.startswith("VmSize")]
        resource.setrlimit(resource.RLIMIT_AS, (1024 * int(mapped.split()[1]) + (300 << 20),) * 2)
        _C.ranges_open(sys.argv[1], 2 << 30)
        site = _C.site("a", 0, 0)
        for _ in range(100_000):
            _C.push(site)
            _C.pop()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True)
    [path] = tmp_path.iterdir()
    assert len(_C.read_ring(str(path))["site"]) == 100_000


def test_a_range_that_was_overwritten_is_written_again_when_it_ends(tmp_path):
    def actions():
        _C.push(A)
        for _ in range(ROWS_OF_SMALLEST):
            pair(B)
        _C.pop()

    [ring] = record(tmp_path, actions, limit=SMALLEST)
    assert rows(ring, "site", "depth", "open")[:2] == [(A, 0, False), (B, 1, False)]
    assert (len(ring["site"]), ring["dropped"]) == (ROWS_OF_SMALLEST, 1)
    assert ring["end_ns"][0] > ring["end_ns"][1:].max()


def test_each_thread_has_its_own_stack_and_file(tmp_path):
    count, threads = 2000, 8
    sites = [_C.site(f"thread {number}", 0, 0) for number in range(threads)]
    begin = threading.Barrier(threads)
    numbers = {}

    def work(site):
        numbers[site] = threading.get_native_id()
        begin.wait()
        for _ in range(count):
            _C.push(site)
            _C.push(site)
            assert _C.depth() == 2
            _C.pop()
            _C.pop()

    def actions():
        workers = [threading.Thread(target=work, args=(site,)) for site in sites]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    rings = record(tmp_path, actions)
    assert sorted(ring["thread"] for ring in rings) == sorted(numbers.values())
    for ring in rings:
        [site] = set(ring["site"].tolist())
        assert ring["thread"] == numbers[site]
        assert rows(ring, "depth", "open") == [(0, False), (1, False)] * count


def test_a_span_ends_on_any_thread(tmp_path):
    handles = []

    def actions():
        _C.set_step(4)
        handles.extend([_C.start(A), _C.start(B)])
        _C.push(C)
        _C.end(handles[0])
        other = threading.Thread(target=lambda: (pair(C), _C.end(handles[1])))
        other.start()
        other.join()
        _C.pop()

    rings = {ring["thread"]: ring for ring in record(tmp_path, actions)}
    ring = rings.pop(threading.get_native_id())
    assert rows(ring, "site", "step", "depth", "open") == [(A, 4, -1, False), (B, 4, -1, False), (C, 4, 0, False)]
    [other] = rings.values()
    assert rows(other, "site", "depth", "open") == [(C, 0, False)]
    assert other["end_ns"][0] <= ring["end_ns"][1] <= ring["end_ns"][2]
    assert 0 < handles[0] < handles[1]


def test_a_span_whose_thread_has_ended(tmp_path):
    def actions():
        handles = []
        thread = threading.Thread(target=lambda: handles.append(_C.start(A)))
        thread.start()
        thread.join()
        pair(B)
        _C.end(handles[0])
        _C.end(handles[0])  # ended already

    sites = {ring["site"].tolist()[0]: rows(ring, "site", "open") for ring in record(tmp_path, actions)}
    assert sites == {A: [(A, False)], B: [(B, False)]}


ACTIONS = st.one_of(
    st.tuples(st.just("push"), st.sampled_from([A, B, C])),
    st.tuples(st.just("pop"), st.none()),
    st.tuples(st.just("unwind"), st.integers(-1, 5)),
    st.tuples(st.just("step"), st.integers(0, 9)),
)


def expected(actions):
    """The slow, obvious counterpart: (site, step, depth, whether it stays open) by start."""
    found, stack, step = [], [], -1
    for what, argument in actions:
        if what == "push":
            stack.append(len(found))
            found.append([argument, step, len(stack) - 1, True])
        elif what == "step":
            step = argument
        else:
            keep = max(0, len(stack) - 1) if what == "pop" else len(stack) if argument < 0 else argument
            while len(stack) > keep:
                found[stack.pop()][3] = False
    return [tuple(row) for row in found]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=st.lists(ACTIONS, max_size=80))
def test_random_nesting(tmp_path_factory, actions):
    calls = {"push": _C.push, "pop": lambda _: _C.pop(), "unwind": _C.unwind, "step": _C.set_step}

    def act():
        _C.set_step(-1)
        for what, argument in actions:
            calls[what](argument)

    rings = record(tmp_path_factory.mktemp("random"), act)
    found = rows(rings[0], "site", "step", "depth", "open") if rings else []
    assert found == expected(actions)
