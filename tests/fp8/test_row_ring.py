"""The ring of rows, on a driver that is not there (stand_in_driver.c): what comes back, and what is copied for it."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tetrace import _C
from tetrace.fp8 import recorded
from tetrace.fp8.rows import ROW

# None that a real GPU of these tests has: kernels are loaded once a device.
DEVICE = 77
HISTOGRAM, NONE = 1, 0
ROW_BYTES, HISTOGRAM_BYTES, BINS = 128, 8192, 2048
MEMORY = np.zeros(64, np.uint16)

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="needs a C compiler"),
]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "libcuda-stand-in.so"
    source = Path(__file__).with_name("stand_in_driver.c")
    subprocess.run(["cc", "-O1", "-g", "-Wall", "-shared", "-fPIC", "-o", path, source], check=True)
    return path


class Ring:
    """An open ring. The tensor number n has n + 1 elements in bin n, and as many in a bin that is far away."""

    def __init__(self, library, rows, histograms=True):
        self.fake = ctypes.CDLL(str(library))
        self.fake.fake_copied.restype = self.fake.fake_reach.restype = ctypes.c_int64
        self.fake.fake_reset()
        try:
            _C.fp8_open(DEVICE, rows, histograms, str(library))
        except ValueError as error:
            pytest.skip(str(error))
        self.seen = 0

    def result(self, counts):
        """What the next tensors have."""
        first, last = np.flatnonzero(counts)[[0, -1]].tolist()
        self.fake.fake_result(
            ctypes.c_uint64(int(counts.sum())),
            ctypes.c_uint32(last // 2 << 21 | last % 2),
            ctypes.c_uint32(first // 2 << 21 | first % 2),
            counts.ctypes.data_as(ctypes.c_void_p),
        )

    def observe(self, count=1, flags=HISTOGRAM):
        """What is to come back of these tensors; nothing where there was no room."""
        counts = np.zeros(BINS, np.uint32)
        first, last = 1000 + self.seen % 50, 1100
        counts[first] = counts[last] = self.seen + 1
        self.result(counts)
        tensors = [(MEMORY.ctypes.data, 1, 64, 64, self.seen, 0, 0)] * count
        order = _C.fp8_observe(DEVICE, 1, tensors, 0, 5, 0, 0, flags)
        if order < 0:
            return [], []
        number = self.seen
        self.seen += 1
        orders = range(order, order + count)
        return (
            [(one, number, 64 - 2 * number - 2) for one in orders],
            [(one, place, number + 1) for one in orders for place in (first, last) if flags == HISTOGRAM],
        )


@pytest.fixture
def ring(library):
    opened = []

    def make(*args):
        opened.append(Ring(library, *args))
        return opened[-1]

    yield make
    for one in opened:
        one.fake.fake_hold(0)
        _C.fp8_close(DEVICE)


def taken():
    rows, bins = _C.fp8_take(DEVICE)
    found = np.frombuffer(rows, ROW)
    zeros = (found["zeros"].astype(np.int64)).tolist()
    counts = recorded.unpacked(bins)
    return list(zip(found["order"].tolist(), found["site"].tolist(), zeros, strict=True)), counts.tolist()


def test_only_histograms_that_a_row_has_are_copied(ring):
    one = ring(64)
    rows, bins = [], []
    for flags in (NONE, HISTOGRAM, NONE, NONE, HISTOGRAM):
        more = one.observe(2, flags)
        rows, bins = rows + more[0], bins + more[1]
    _C.fp8_end_step(DEVICE)
    assert taken() == (rows, bins)
    assert one.fake.fake_copied() == 10 * ROW_BYTES + 4 * HISTOGRAM_BYTES


def test_a_ring_without_histograms_copies_none(ring):
    one = ring(8, False)
    rows, _ = one.observe(3)
    _C.fp8_end_step(DEVICE)
    assert taken() == (rows, [])
    assert one.fake.fake_copied() == 3 * ROW_BYTES


@pytest.mark.parametrize("share", [0.01, 0.2, 0.9])
def test_histograms_come_as_they_are(ring, share):
    dice = np.random.default_rng(1)
    one, wanted = ring(64), []
    for order in range(20):
        counts = (dice.integers(1, 1 << 31, BINS) * (dice.random(BINS) < share)).astype(np.uint32)
        counts[:2], counts[dice.integers(2, 2000)] = 0, 7  # none below the smallest magnitude
        one.result(counts)
        assert _C.fp8_observe(DEVICE, 1, [(MEMORY.ctypes.data, 1, 64, 64, 0, 0, 0)], 0, 5, 0, 0, HISTOGRAM) == order
        wanted += [(order, place, int(counts[place])) for place in np.flatnonzero(counts).tolist()]
    _C.fp8_end_step(DEVICE)
    assert taken()[1] == wanted


def test_what_is_packed_here_is_unpacked_as_from_there():
    dice = np.random.default_rng(2)
    orders = [0, 1, 1 << 33, (1 << 62) + 5]
    counts = [(dice.integers(0, 1 << 32, BINS) * (dice.random(BINS) < 0.3)).astype(np.uint32) for _ in orders]
    packed = [recorded.packed(order, own) for order, own in zip(orders, counts, strict=True)]
    found = recorded.unpacked(b"".join(packed))
    for order, own in zip(orders, counts, strict=True):
        mine = found[found["order"] == order]
        assert mine["bin"].tolist() == np.flatnonzero(own).tolist()
        assert mine["count"].tolist() == own[own > 0].tolist()
    before = len(b"".join(packed[:-1]))
    for cut in (before + 5, before + 13, len(b"".join(packed)) - 4):
        left = recorded.unpacked(b"".join(packed)[:cut], is_cut=True)
        assert list(dict.fromkeys(left["order"].tolist())) == (orders[:2] if cut == before + 5 else orders[:3])


def test_every_step_is_read_from_the_same_memory(ring):
    one = ring(64)
    for _ in range(20):
        wanted = one.observe(10)
        _C.fp8_end_step(DEVICE)
        assert taken() == wanted
    assert one.fake.fake_reach() == 10 * HISTOGRAM_BYTES


def test_memory_of_steps_that_are_under_way_is_left_alone(ring):
    one = ring(64)
    wanted = []
    one.fake.fake_hold(1)
    for count in (20, 10, 15):
        wanted.append(one.observe(count))
        _C.fp8_end_step(DEVICE)
    assert taken() == ([], [])
    one.fake.fake_hold(0)
    assert taken() == tuple(wanted[0][part] + wanted[1][part] + wanted[2][part] for part in (0, 1))
    assert one.fake.fake_reach() == 45 * HISTOGRAM_BYTES


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_device_is_late_with_comes_once_and_in_order(ring, seed):
    one, dice = ring(32), random.Random(seed)
    wanted, found, seen_full = ([], []), ([], []), False
    for _ in range(300):
        more = one.observe(dice.choice((1, 2, 5, 9)), dice.choice((HISTOGRAM, NONE)))
        seen_full |= more == ([], [])
        for part in (0, 1):
            wanted[part].extend(more[part])
        if dice.random() < 0.4:
            _C.fp8_end_step(DEVICE)
        one.fake.fake_hold(int(dice.random() < 0.5))
        for part, some in enumerate(taken()):
            found[part].extend(some)
    one.fake.fake_hold(0)
    _C.fp8_end_step(DEVICE)
    for part, some in enumerate(taken()):
        found[part].extend(some)
    # A step may be copied only once another was read.
    for part, some in enumerate(taken()):
        found[part].extend(some)
    assert found == wanted
    assert seen_full
    assert _C.fp8_skipped(DEVICE)["failed"] == 0
