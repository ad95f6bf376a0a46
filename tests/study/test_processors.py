"""Configurations that are kept on the same processors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable

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


class Host:
    """Four processors, some of which take half as long again for everything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.disturbed, self.now = {0, 1, 2, 3}, set[int](), 0
        monkeypatch.setattr(os, "sched_getaffinity", lambda _thread: set(self.place))
        monkeypatch.setattr(os, "sched_setaffinity", self._put)
        monkeypatch.setattr(time, "perf_counter_ns", self._clock)
        monkeypatch.setattr(processors, "_beside", lambda cpus: {cpu ^ 1 for cpu in cpus})

    def _put(self, _thread: int, cpus: Iterable[int]) -> None:
        self.place = set(cpus)

    def _clock(self) -> int:
        """Read before and after work, on one processor."""
        self.now += 3 if self.place & self.disturbed else 2
        return self.now


def test_a_turn_is_where_nobody_disturbs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.disturbed = {3}
    with processors.Place(1) as place:
        assert place.settle() == (2,)
        assert host.place == {0, 1}, "what else works is off it, and off what shares its core"
        host.disturbed = {0, 1, 3}
        assert place.settle() == (2,)
        host.disturbed = {2, 3}
        assert place.settle() == (1,), "it is disturbed now"
        assert host.place == {2, 3}
        host.disturbed = set()
        assert place.settle() == (1,), "it moves for a reason only"
        host.disturbed = {0, 1, 2, 3}
        assert place.settle() == (3,), "of equals the last"
    assert host.place == {0, 1, 2, 3}


def test_several_processors_are_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.disturbed = {1}
    with processors.Place(2) as place:
        assert place.settle() == (2, 3)
        host.disturbed = {3}
        assert place.settle() == (1, 2)
        assert host.place == {0, 3}, "there are no others"


def test_all_processors_or_none_are_no_choice() -> None:
    usable = sorted(os.sched_getaffinity(0))
    with processors.Place(10_000) as place:
        assert place.settle() == tuple(usable), "no more than there are"
        assert sorted(os.sched_getaffinity(0)) == usable
    with processors.Place(0) as place:
        assert place.settle() == ()
    with processors.Place(1) as place:
        (one,) = place.settle()
        assert one in usable
        assert one not in os.sched_getaffinity(0) or len(usable) == 1
    assert sorted(os.sched_getaffinity(0)) == usable


def test_what_launches_stays_where_it_is_put_and_others_where_they_are() -> None:
    usable = sorted(os.sched_getaffinity(0))
    last = usable[-1]
    assert _places([last]) == {"main": [last], "autograd": [last], "other": usable, "later": [last]}


def test_without_any_nothing_is_moved() -> None:
    usable = sorted(os.sched_getaffinity(0))
    assert _places([]) == dict.fromkeys(("main", "autograd", "other", "later"), usable)


def test_after_a_recording_a_thread_is_back_where_it_was() -> None:
    usable = os.sched_getaffinity(0)
    last = {max(usable)}
    with processors.kept_on(last):
        assert os.sched_getaffinity(0) == last
    assert os.sched_getaffinity(0) == usable
    with processors.kept_on(()):
        assert os.sched_getaffinity(0) == usable
