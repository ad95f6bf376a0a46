"""Tracks: what shares one nests or follows, and no more of them are made than are needed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as some

from tetrace.breakdown.stacking import side_by_side, stacked

Rows = list[tuple[int, int]]
spans = some.lists(some.tuples(some.integers(0, 40), some.integers(0, 15)), max_size=40)


def columns(rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Start and end of rows of (start, length), in order."""
    found = sorted(((start, start + length) for start, length in rows), key=lambda row: (row[0], -row[1]))
    start, end = np.array(found, np.int64).reshape(-1, 2).T
    return start.copy(), end.copy()


@given(spans)
def test_side_by_side_share_no_time(rows: Rows) -> None:
    start, end = columns(rows)
    track = side_by_side(start, end).tolist()
    for one in range(len(track)):
        assert all(track[one] != track[other] or end[other] <= start[one] for other in range(one))
    # As many as are open at once; what has no length counts as open at its time.
    longest = np.maximum(end, start + 1)
    most = max((int(((start <= time) & (longest > time)).sum()) for time in start.tolist()), default=0)
    assert max(track, default=-1) < max(most, 1)


@given(spans)
def test_stacked_nest_on_the_first_track(rows: Rows) -> None:
    start, end = columns(rows)
    track = stacked(start, end).tolist()
    for one in range(len(track)):
        for other in range(one):
            nests = track[one] == 0 and end[one] <= end[other]
            assert track[one] != track[other] or nests or end[other] <= start[one]


@pytest.mark.parametrize(
    ("rows", "tracks"),
    [
        ([], []),
        ([(0, 10), (0, 10), (2, 3), (10, 5)], [0, 0, 0, 0]),
        ([(0, 10), (5, 10), (12, 10)], [0, 1, 0]),
        ([(0, 30), (20, 30), (21, 4), (45, 15)], [0, 1, 0, 0]),
        ([(0, 10), (9, 2), (9, 2)], [0, 1, 2]),
    ],
)
def test_only_what_crosses_is_moved(rows: Rows, tracks: list[int]) -> None:
    assert stacked(*columns(rows)).tolist() == tracks


def test_many_that_each_outlive_the_one_before() -> None:
    start = np.arange(20_000, dtype=np.int64) * 10
    track = stacked(start, start + 15)
    assert int(track.max()) <= 2
    assert int(side_by_side(start, start + 15).max()) == 1
