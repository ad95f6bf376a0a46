"""Intervals on streams where several threads, or a forked process, take part, with a stand-in for the driver."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from fake_cuda import needs_compiler

from tests.instrument.timed import (
    HEAD_BACK,
    LAYER,
    LAYER_BACK,
    MODEL,
    begin,
    call,
    rows,
    step,
)
from tetrace import _C

pytestmark = needs_compiler


def test_python_runs_on_while_the_driver_makes_a_thread_wait(cuda):
    """It is another thread of Python that ends the waiting."""
    begin(cuda)
    step(1)
    for opened in (_C.push, lambda _: _C.pop()):
        cuda.stall()
        threading.Timer(0.02, lambda: cuda.stall(False)).start()
        opened(MODEL)
    step(2, False)
    assert rows()[1, MODEL] == (1, 0, 0)


@pytest.mark.parametrize("events", [20000, 400])
def test_threads_have_stacks_and_backwards_of_their_own(cuda, events):
    """Sixteen threads on streams of their own, some of which end while modules are open; with few events they read each
    other's to find a free one.
    """
    begin(cuda, events=events)
    step(1)

    def work(number):
        cuda.enter(-1)
        cuda.use(16 + number)
        for _ in range(50):
            call(cuda, MODEL, 2, (LAYER, 4), (LAYER, 6))
            back_of_thread = ((HEAD_BACK, 3), (LAYER_BACK, 5))
            for site, ns in back_of_thread:
                _C.push(site)
                cuda.work(ns)
                _C.pop()
        _C.push(MODEL)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _C.timing_end_backward()
    number, found = 2, {}
    while not found and number < 1000:  # the last of a thread's end comes after its join
        step(number, False)
        found = rows()
        number += 1
        time.sleep(0.001)
    assert found[1, MODEL] == (16 * 50, 0, 16 * 50 * 12)
    assert found[1, LAYER] == (16 * 100, 0, 16 * 50 * 10)
    assert found[1, HEAD_BACK] == (16 * 50, 0, 16 * 50 * 3)


def test_the_end_of_a_backward_is_told_by_another_thread(cuda):
    begin(cuda)
    step(1)
    at, done = threading.Event(), threading.Event()

    def autograd():
        cuda.enter(-1)
        cuda.use(1)
        _C.push(LAYER_BACK)
        cuda.work(30)
        _C.pop()
        at.set()
        done.wait(10)

    worker = threading.Thread(target=autograd)
    worker.start()
    at.wait(10)
    _C.timing_end_backward()
    step(2, False)
    assert rows()[1, LAYER_BACK] == (1, 0, 30)
    done.set()
    worker.join()


def test_nobody_waits_for_ever_while_the_queue_is_full(cuda):
    """A backward by hooks holds its chain and waits for the interpreter, its end waits for the chain, and a thread that
    is new holds the interpreter."""
    script = """
        import os, sys, threading, time
        from fake_cuda import FakeCuda
        from tetrace import _C
        cuda = FakeCuda(sys.argv[1])
        step, layer, back = _C.site("step", 0, 0), _C.site("layer", 0, 1), _C.site("layer", 0, 2)
        _C.ranges_open("", 8192)
        _C.timing_measure(layer, -1, True), _C.timing_measure(back, -1, True)
        cuda.enter(0), cuda.use(1)
        _C.timing_open(100, step, cuda.get_device, cuda.get_stream, cuda.source, cuda.path)
        _C.timing_step(1, True)

        def in_range(site):
            cuda.enter(0), cuda.use(1)
            _C.push(site)
            _C.pop()

        cuda.stall()
        works = (lambda: in_range(back), _C.timing_end_backward, lambda: in_range(layer))
        threads = [threading.Thread(target=work) for work in works]
        for thread in threads:
            thread.start()
            time.sleep(0.2)
        cuda.stall(False)
        for thread in threads: thread.join()
        print("done", flush=True)
        os._exit(0)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), cuda.path]
    here = str(Path(__file__).parent)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": here}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize("call", ["push", "step"])
@pytest.mark.parametrize("moment", ["before", "while"])
def test_a_thread_in_the_driver_when_the_script_ends(cuda, call, moment):
    """It wants the interpreter back `while` that ends, or waits for it since `before`."""
    script = """
        import sys, threading, time
        from fake_cuda import FakeCuda
        from tetrace import _C
        _, path, call, moment = sys.argv
        cuda = FakeCuda(path)
        step, model = _C.site("step", 0, 0), _C.site("model", 0, 1)
        _C.ranges_open("", 8192)
        _C.timing_measure(model, -1, True)
        cuda.enter(0), cuda.use(1)
        _C.timing_open(100, step, cuda.get_device, cuda.get_stream, cuda.source, cuda.path)
        _C.timing_step(1, True)

        class LastModule:
            def __del__(self, go_on=cuda.library.fake_stall, sleep=time.sleep, say=sys.stderr.write):
                go_on(0)
                sleep(0.3)
                say("ended")

        sys.modules["last"] = LastModule()

        def work():
            cuda.enter(0), cuda.use(1)
            _C.push(model) if call == "push" else _C.timing_step(2, True)
            print("came back", flush=True)

        cuda.stall()
        threading.Thread(target=work, daemon=True).start()
        time.sleep(0.3)
        if moment == "before":
            sys.setswitchinterval(100)
            cuda.stall(False)
            until = time.monotonic() + 0.3
            while time.monotonic() < until:
                pass
    """
    command = [sys.executable, "-c", textwrap.dedent(script), cuda.path, call, moment]
    here = str(Path(__file__).parent)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": here}, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "ended")


def test_a_thread_that_ends_while_its_backward_is_ended(cuda):
    begin(cuda)
    step(1)

    def autograd():
        cuda.enter(0)
        cuda.use(1)
        _C.push(LAYER_BACK)
        _C.pop()

    for _ in range(200):
        worker = threading.Thread(target=autograd)
        worker.start()
        while worker.is_alive():
            _C.timing_end_backward()
    step(2, False)
    calls, skipped, _ = rows().get((1, LAYER_BACK), (0, 0, 0))
    assert calls + skipped <= 200  # of those that ended first nothing is known; no event is lost (the fixture)


def test_a_forked_child_measures_nothing(cuda):
    begin(cuda)
    step(1)
    _C.push(MODEL)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _C.push(LAYER)
        _C.pop()
        _C.pop()
        _C.timing_end_backward()
        step(2)
        _C.timing_close(1)
        os.write(writing, str(cuda.count("records")).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reading, 10) == b"2"  # the parent's, of the step and the model
    os.close(reading), os.close(writing)
    _C.pop()
