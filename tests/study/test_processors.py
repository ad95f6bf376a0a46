"""Configurations that are kept on the same processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from tetrace.study import processors

SCRIPT = textwrap.dedent("""
    import json, os, sys, threading, time
    from tetrace.study import processors

    def started():
        thread = threading.Thread(target=time.sleep, args=(1000,), daemon=True)
        thread.start()
        return thread.native_id

    autograd, other = started(), started()
    with open(f"/proc/self/task/{autograd}/comm", "w") as name:
        name.write("pt_autograd_0")  # as torch names it
    processors.stay_on(json.loads(sys.argv[1]))
    threads = {"main": 0, "autograd": autograd, "other": other, "later": started()}
    print(json.dumps({name: sorted(os.sched_getaffinity(thread)) for name, thread in threads.items()}), flush=True)
    os._exit(0)
""")

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system places threads by itself")


def _places(kept: list[int]) -> dict[str, list[int]]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(kept)], capture_output=True, text=True, check=True, timeout=120
    )
    said: dict[str, list[int]] = json.loads(done.stdout)
    return said


def test_the_last_ones_are_chosen() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert processors.chosen(0) == ()
    assert processors.chosen(1) == (usable[-1],)
    assert processors.chosen(10_000) == tuple(usable), "no more than there are"


def test_what_launches_stays_where_it_is_put_and_others_where_they_are() -> None:
    usable = sorted(os.sched_getaffinity(0))
    last = usable[-1]
    assert _places([last]) == {"main": [last], "autograd": [last], "other": usable, "later": [last]}


def test_without_any_nothing_is_moved() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert _places([]) == dict.fromkeys(("main", "autograd", "other", "later"), usable)


def test_what_else_works_is_kept_off_them_as_far_as_there_are_others() -> None:
    usable, last = os.sched_getaffinity(0), processors.chosen(1)
    with processors.kept_off(last):
        assert os.sched_getaffinity(0) == (usable - set(last) or usable)
    with processors.kept_off(usable):
        assert os.sched_getaffinity(0) == usable
    with processors.kept_off(()):
        assert os.sched_getaffinity(0) == usable
    assert os.sched_getaffinity(0) == usable


def test_after_a_recording_a_thread_is_back_where_it_was() -> None:
    usable, last = os.sched_getaffinity(0), processors.chosen(1)
    with processors.kept_on(last):
        assert os.sched_getaffinity(0) == set(last)
    assert os.sched_getaffinity(0) == usable
    with processors.kept_on(()):
        assert os.sched_getaffinity(0) == usable
