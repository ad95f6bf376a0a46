"""`_C.distinct` and `_C.sums` against numpy, where values are dense, sparse, and at the ends of int64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetrace import _C

INT64 = np.iinfo(np.int64)
VALUES = st.one_of(
    st.lists(st.integers(-3, 3)),
    st.lists(st.integers(INT64.min, INT64.max)),
    st.lists(st.sampled_from([INT64.min, -1, 0, 1, INT64.max])),
)


@given(VALUES)
def test_values_ascend_and_codes_point_at_them(values: list[int]) -> None:
    column = np.array(values, np.int64)
    found, codes = _C.distinct(column)
    expected, places = np.unique(column, return_inverse=True)
    assert found.tolist() == expected.tolist()
    assert codes.tolist() == places.ravel().tolist()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-(10**12), 10**12))))
def test_sums_are_exact(rows: list[tuple[int, int]]) -> None:
    codes, values = np.array([r[0] for r in rows], np.int32), np.array([r[1] for r in rows], np.int64)
    assert _C.sums(codes, 5, values).tolist() == [
        sum(value for code, value in rows if code == group) for group in range(5)
    ]


def test_a_code_outside_the_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="code 5 is not in 0 to 4"):
        _C.sums(np.array([5], np.int32), 5, np.array([1], np.int64))
