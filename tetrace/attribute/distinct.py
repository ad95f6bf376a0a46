"""Distinct combinations of small codes, and sums over them, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Integers = npt.NDArray[np.int64]

# Up to here a table with one entry a value is faster and smaller than sorting the rows.
_LARGEST_TABLE = 50_000_000


def distinct(*codes: npt.NDArray[np.integer]) -> tuple[list[Integers], Codes]:
    """Distinct rows of columns of codes >= -1, each of shape (rows,).

    Returns the columns of the distinct rows, in ascending order of the rows, and the index of each row's combination.
    """
    key = np.zeros(len(codes[0]), np.int64)
    radixes = [int(column.max(initial=-1)) + 2 for column in codes]
    for column, radix in zip(codes, radixes, strict=True):
        key *= radix
        key += column + 1
    values, index = _distinct_keys(key)
    columns = []
    for radix in reversed(radixes):
        columns.append(values % radix - 1)
        values = values // radix
    return columns[::-1], index


def _distinct_keys(key: Integers) -> tuple[Integers, Codes]:
    if not len(key) or int(key.max()) >= _LARGEST_TABLE:
        values, index = np.unique(key, return_inverse=True)
        return values, index.ravel().astype(np.int32)
    seen = np.zeros(int(key.max()) + 1, np.bool_)
    seen[key] = True
    position = np.cumsum(seen, dtype=np.int32) - 1
    return np.flatnonzero(seen), position[key]


def sums(index: Codes, groups: int, values: npt.NDArray[np.integer]) -> Integers:
    """Sum of `values` in each of `groups` groups, shape (groups,); integers all the way."""
    total = np.zeros(groups, np.int64)
    np.add.at(total, index, values)
    return total


def counts(index: Codes, groups: int) -> Integers:
    """Rows in each of `groups` groups, shape (groups,)."""
    return np.bincount(index, minlength=groups).astype(np.int64)


def first_rows(index: Codes, groups: int) -> Integers:
    """The first row of each group, shape (groups,)."""
    first = np.full(groups, len(index), np.int64)
    np.minimum.at(first, index, np.arange(len(index)))
    return first


def codes_of(words: Sequence[str], table: Sequence[str]) -> Codes:
    """Place of each word in `table`, shape (words,)."""
    places = {word: i for i, word in enumerate(table)}
    return np.array([places[word] for word in words], np.int32)
