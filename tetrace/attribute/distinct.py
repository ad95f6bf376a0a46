"""Distinct combinations of small codes, and sums over them, in integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Codes = npt.NDArray[np.int32]
    Integers = npt.NDArray[np.int64]


def distinct(*codes: npt.NDArray[np.integer]) -> tuple[list[Integers], Codes]:
    """Distinct rows of columns of codes >= -1, each of shape (rows,).

    Returns the columns of the distinct rows, in ascending order of the rows, and the index of each row's combination.
    """
    from tetrace import _C

    key = np.zeros(len(codes[0]), np.int64)
    radixes = [int(column.max(initial=-1)) + 2 for column in codes]
    for column, radix in zip(codes, radixes, strict=True):
        key *= radix
        key += column
        key += 1
    values, index = _C.distinct(key)
    columns = []
    for radix in reversed(radixes):
        columns.append(values % radix - 1)
        values = values // radix
    return columns[::-1], index


def values_and_codes(values: npt.NDArray[np.integer]) -> tuple[Integers, Codes]:
    """Distinct values in ascending order, and the place of each row's value among them; any integers."""
    from tetrace import _C

    return _C.distinct(np.ascontiguousarray(values, np.int64))


def sums(index: Codes, groups: int, values: npt.NDArray[np.integer]) -> Integers:
    """Sum of `values` in each of `groups` groups, shape (groups,); integers all the way."""
    from tetrace import _C

    return _C.sums(np.ascontiguousarray(index, np.int32), groups, np.ascontiguousarray(values, np.int64))


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


def alike(starts: Codes, own: Codes, *columns: Codes) -> list[Codes]:
    """Runs of rows that hold the same, as groups of places in `starts`: what is worked out for one holds for all.

    A run goes from one of `starts`, shape (runs,), to the next; `own` is one more value of each run. Runs are compared
    by 64-bit hashes of their rows of `columns`, each of shape (rows,), in order.
    """
    rows = len(columns[0])
    lengths = np.diff(np.append(starts, rows))
    mixed = np.zeros(rows, np.uint64)
    with np.errstate(over="ignore"):
        for column in columns:
            mixed = mixed * np.uint64(1_000_003) + (column.astype(np.int64) + 2).astype(np.uint64) * np.uint64(
                0x9E3779B97F4A7C15
            )
        place = (np.arange(rows) - np.repeat(starts, lengths)).astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(29))) * (np.uint64(2) * place + np.uint64(0xBF58476D1CE4E5B9))
        signature = np.add.reduceat(mixed ^ (mixed >> np.uint64(32)), starts)
        key = (signature * np.uint64(31) + own.astype(np.int64).astype(np.uint64)) * np.uint64(31) + lengths.astype(
            np.uint64
        )
    _, which = values_and_codes(key.view(np.int64))
    order = np.argsort(which, kind="stable").astype(np.int32)
    return np.split(order, np.flatnonzero(np.diff(which[order])) + 1)
