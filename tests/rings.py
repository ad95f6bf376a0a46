"""What the tests of rings share: sites, and the files that some ranges leave."""

from __future__ import annotations

import pytest

from tetrace import _C

PLENTY = 1 << 20
SMALLEST = 8192
A, B, C = (_C.site(name, 0, 0) for name in "abc")


@pytest.fixture(autouse=True)
def always_off_again():
    yield
    _C.ranges_close()
    _C.set_step(-1)


def record(folder, actions, limit=PLENTY):
    """Files that `actions()` leaves in `folder`."""
    _C.ranges_open(str(folder), limit)
    actions()
    _C.ranges_close()
    return [_C.read_ring(str(path)) for path in sorted(folder.glob("ranges-*.bin"))]


def rows(ring, *columns):
    """Rows as tuples; `open` stands for whether the range was never closed."""
    found = {**ring, "open": ring["end_ns"] == 0}
    return list(zip(*(found[name].tolist() for name in columns), strict=True))


def pair(site=A):
    _C.push(site)
    _C.pop()
