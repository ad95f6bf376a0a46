"""Interval arithmetic against definitions in plain Python, on random rows that overlap, touch and vanish."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetrace import _C


class Row(NamedTuple):
    group: int
    start: int
    end: int


def columns(rows):
    """Rows as the three arrays that every function takes."""
    return (
        np.array([row.group for row in rows], np.int32),
        np.array([row.start for row in rows], np.int64),
        np.array([row.end for row in rows], np.int64),
    )


def as_rows(group, start, end):
    return [Row(*row) for row in zip(group.tolist(), start.tolist(), end.tolist(), strict=True)]


def int32(values):
    return np.array(values, np.int32)


def int64(values):
    return np.array(values, np.int64)


# A short time axis makes equal starts, equal ends, touching and empty rows common; one far away makes gaps. Rows are
# short more often than long, so that unions have several pieces.
groups = st.integers(-1, 2)
times = st.integers(-3, 20) | st.sampled_from([10**18, 10**18 + 1])
lengths = st.integers(0, 3) | st.integers(0, 3) | st.integers(0, 20) | st.just(10**18)
rows_of_any_length = st.builds(lambda group, start, ns: Row(group, start, start + ns), groups, times, lengths)
tables = st.lists(rows_of_any_length, max_size=12) | st.lists(rows_of_any_length, max_size=25)
queries = st.lists(st.tuples(groups, times), max_size=25).map(sorted)


def in_order(rows):
    return sorted(rows, key=lambda row: (row.group, row.start, -row.end))


def innermost_at(rows, group, time):
    """Of rows in order, the last that is open at `time`."""
    found = [i for i, row in enumerate(rows) if row.group == group and row.start <= time < row.end]
    return found[-1] if found else -1


def instants(rows):
    """Every time at which something can change."""
    return sorted({time for row in rows for time in (row.start, row.end)})


def union(rows):
    """The union of rows of one group, by painting the stretches between instants."""
    edges = instants(rows)
    painted = [(a, b) for a, b in pairwise(edges) if any(r.start <= a and b <= r.end for r in rows)]
    joined = []
    for start, end in painted:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def union_by_group(rows):
    return [
        Row(group, start, end)
        for group in sorted({row.group for row in rows})
        for start, end in union([row for row in rows if row.group == group])
    ]


def test_a_small_thread():
    #    0    5    10   15   20
    # 0  [-------------------)     step
    # 1  [---------)               forward
    # 2       [--)                 linear
    # 3                 [-------)  outlives step
    rows = [Row(0, 0, 20), Row(0, 0, 10), Row(0, 5, 8), Row(0, 15, 23)]
    parent = _C.nest(*columns(rows))
    assert parent.tolist() == [-1, 0, 1, 0]
    assert _C.innermost(*columns(rows), parent, int32([0] * 5), int64([4, 5, 8, 15, 23])).tolist() == [1, 2, 1, 3, -1]
    group, start, end, row = _C.segments(*columns(rows), parent)
    assert as_rows(group, start, end) == [Row(0, 0, 5), Row(0, 5, 8), Row(0, 8, 10), Row(0, 10, 15), Row(0, 15, 23)]
    assert row.tolist() == [1, 2, 1, 0, 3]
    assert _C.inherit(parent, int32([-1, 7, -1, -1])).tolist() == [-1, 7, 7, -1]
    assert as_rows(*_C.merge(*columns(rows))) == [Row(0, 0, 23)]


def test_a_row_below_an_overlapping_one_comes_back():
    # 0  [---------)    0 to 10
    # 1    [-------)    2 to 10, opened inside 0
    # 2      [------)   4 to 11, outlives both
    # 3       [)        5 to 6
    rows = [Row(0, 0, 10), Row(0, 2, 10), Row(0, 4, 11), Row(0, 5, 6)]
    parent = _C.nest(*columns(rows))
    assert parent.tolist() == [-1, 0, 1, 2]
    assert _C.innermost(*columns(rows), parent, int32([0] * 4), int64([5, 6, 10, 11])).tolist() == [3, 2, 2, -1]


@given(tables)
def test_order_sorts_and_is_stable(rows):
    expected = sorted(range(len(rows)), key=lambda i: (rows[i].group, rows[i].start, -rows[i].end))
    assert _C.order(*columns(rows)).tolist() == expected


@pytest.mark.parametrize("span", [3, 5_000, 10**15])
@pytest.mark.parametrize("group_values", [1, 7, 2**31 - 1])
def test_order_of_many_rows(span, group_values):
    random = np.random.default_rng(span + group_values)
    group = random.integers(0, group_values, 20_000, dtype=np.int32)
    start = random.integers(-span, span, 20_000)
    end = start + random.integers(0, 3, 20_000)
    assert _C.order(group, start, end).tolist() == np.lexsort((-end, start, group)).tolist()


@given(tables)
def test_nest(rows):
    rows = in_order(rows)
    expected = [innermost_at(rows[:i], row.group, row.start) for i, row in enumerate(rows)]
    assert _C.nest(*columns(rows)).tolist() == expected


@given(tables, queries)
def test_innermost(rows, asked):
    rows = in_order(rows)
    parent = _C.nest(*columns(rows))
    found = _C.innermost(*columns(rows), parent, int32([g for g, _ in asked]), int64([t for _, t in asked]))
    assert found.tolist() == [innermost_at(rows, group, time) for group, time in asked]


@given(tables, st.data())
def test_inherit(rows, data):
    rows = in_order(rows)
    parent = _C.nest(*columns(rows)).tolist()
    own = data.draw(st.lists(st.integers(-1, 3), min_size=len(rows), max_size=len(rows)))

    def value(row):
        if row == -1 or own[row] >= 0:
            return -1 if row == -1 else own[row]
        return value(parent[row])

    assert _C.inherit(int32(parent), int32(own)).tolist() == [value(row) for row in range(len(rows))]


@given(tables)
def test_segments_say_who_is_innermost_at_every_time(rows):
    rows = in_order(rows)
    group, start, end, row = _C.segments(*columns(rows), _C.nest(*columns(rows)))
    pieces = as_rows(group, start, end)
    owners = row.tolist()
    for group in {row.group for row in rows}:
        for time in instants(rows):
            piece = innermost_at(pieces, group, time)
            assert (-1 if piece == -1 else owners[piece]) == innermost_at(rows, group, time)
    assert pieces == sorted(pieces)
    assert union_by_group(pieces) == union_by_group(rows)
    assert all(piece.start < piece.end for piece in pieces)
    for i in range(1, len(pieces)):
        if pieces[i].group == pieces[i - 1].group:
            assert pieces[i - 1].end <= pieces[i].start
            assert pieces[i - 1].end < pieces[i].start or owners[i - 1] != owners[i], "adjacent pieces are not joined"


@given(tables)
def test_merge(rows):
    assert as_rows(*_C.merge(*columns(rows))) == union_by_group(rows)


def test_one_hole_reaches_over_two_rows():
    kept = [Row(0, 0, 5), Row(0, 7, 10)]
    assert as_rows(*_C.subtract(*columns(kept), *columns([Row(0, 3, 8)]))) == [Row(0, 0, 3), Row(0, 8, 10)]


@given(tables, tables)
def test_subtract(kept, removed):
    edges = instants(kept + removed)
    stretches = [
        Row(group, a, b)
        for group in {row.group for row in kept}
        for a, b in pairwise(edges)
        if innermost_at(kept, group, a) != -1 and innermost_at(removed, group, a) == -1
    ]
    assert as_rows(*_C.subtract(*columns(kept), *columns(removed))) == union_by_group(stretches)


@given(tables, tables)
def test_covered(rows, windows):
    merged = union_by_group(rows)
    expected = [
        sum(max(0, min(row.end, w.end) - max(row.start, w.start)) for row in merged if row.group == w.group)
        for w in windows
    ]
    assert _C.covered(*columns(rows), *columns(windows)).tolist() == expected


def test_covered_finds_windows_near_and_far():
    start = np.arange(0, 10_000, 10)
    rows = (np.zeros(1_000, np.int32), start, start + 4)
    random = np.random.default_rng(0)
    for ends in (np.sort(random.integers(-50, 10_050, (500, 2))), np.stack([start, start + 25], axis=1)):
        windows = (np.zeros(len(ends), np.int32), ends[:, 0].copy(), ends[:, 1].copy())
        inside = np.zeros(10_200, np.int64)
        inside[(start[:, None] + np.arange(4)).ravel()] = 1
        expected = [inside[max(a, 0) : max(b, 0)].sum() for a, b in ends]
        assert _C.covered(*rows, *windows).tolist() == expected


@given(tables, tables)
def test_overlaps(a, b):
    a = sorted(a)
    b = in_order(b)
    group, start, end, _ = _C.segments(*columns(b), _C.nest(*columns(b)))
    pieces = as_rows(group, start, end)
    expected = [
        (i, j, min(x.end, y.end) - max(x.start, y.start))
        for i, x in enumerate(a)
        for j, y in enumerate(pieces)
        if x.group == y.group and min(x.end, y.end) > max(x.start, y.start)
    ]
    index_a, index_b, ns = _C.overlaps(*columns(a), group, start, end)
    assert list(zip(index_a.tolist(), index_b.tolist(), ns.tolist(), strict=True)) == expected


@pytest.mark.parametrize("function", [_C.order, _C.nest, _C.merge])
def test_dtypes_of_results_and_empty_input(function):
    result = function(*columns([]))
    dtypes = [array.dtype for array in (result if isinstance(result, tuple) else (result,))]
    assert dtypes in ([np.int32], [np.int32, np.int64, np.int64])


GROUP, START, END = columns([Row(0, 0, 10), Row(0, 5, 8)])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _C.order(GROUP, START, END[:1]), "group 2, start 2, end 1"),
        (lambda: _C.order([0, 0], START, END), "int32 with one dimension, got list"),
        (lambda: _C.order(GROUP.astype(np.int64), START, END), "int32 with one dimension, got int64 and shape (2,)"),
        (lambda: _C.order(GROUP, START.reshape(1, 2), END), "int64 with one dimension, got int64 and shape (1, 2)"),
        (lambda: _C.order(GROUP, np.arange(4)[::2], END), "got a strided one of int64 and shape (2,)"),
        (lambda: _C.order(GROUP, START.astype(">i8"), END), "got >i8"),
        (lambda: _C.order(GROUP, END, START), "row 0 ends before it starts: start 10, end 0"),
        (lambda: _C.nest(GROUP, START[::-1].copy(), END), "row 1 (group 0, start 0) follows (group 0, start 5)"),
        (lambda: _C.nest(GROUP, int64([0, 0]), int64([5, 8])), "row 1 starts with row 0 at 0 and ends later, at 8"),
        (lambda: _C.innermost(GROUP, START, END, int32([0, -1]), GROUP, START), "parent of row 0 is 0"),
        (lambda: _C.innermost(GROUP, START, END, int32([-1]), GROUP, START), "parent 1, rows 2"),
        (lambda: _C.innermost(GROUP, START, END, int32([-1, 0]), GROUP, int64([9, 3])), "query 1 (group 0, time 3)"),
        (lambda: _C.innermost(GROUP, START, END, int32([-1, 0]), GROUP, int64([9])), "query_group 2, query_time 1"),
        (lambda: _C.inherit(int32([-1, 1]), GROUP), "parent of row 1 is 1"),
        (lambda: _C.inherit(int32([-2, 0]), GROUP), "parent of row 0 is -2"),
        (lambda: _C.overlaps(GROUP, START, END, GROUP, START, END), "rows of b overlap: row 1 (group 0, start 5)"),
    ],
)
def test_refusals_give_the_value(call, message):
    with pytest.raises(ValueError, match=re.escape(message)) as refused:
        call()
    assert "\n" not in str(refused.value)
