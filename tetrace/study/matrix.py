"""The configurations of a study: combinations of the axes' values, named by them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from tetrace.study.spec import Matrix, Planned

if TYPE_CHECKING:
    from tetrace.study.spec import Study


def configurations(study: Study) -> tuple[Planned, ...]:
    """All configurations of `study`, in the order of the file."""
    found: list[Planned] = []
    for index, matrix in enumerate(study.matrices):
        prefix = f"{matrix.name}:" if index else ""
        found.extend(_planned(study, matrix, prefix, labels) for labels in combinations(matrix))
    names = {planned.name for planned in found}
    return tuple(_with_baseline(study.matrix(planned.matrix), planned, found, names) for planned in found)


def combinations(matrix: Matrix) -> Iterator[dict[str, str]]:
    """Labels by axis, without those that are excluded."""
    for labels in itertools.product(*matrix.axes.values()):
        combination = dict(zip(matrix.axes, labels, strict=True))
        if not any(_fits(combination, excluded) for excluded in matrix.exclude):
            yield combination


def name_of(matrix: Matrix, axes: Mapping[str, str], prefix: str = "") -> str:
    """`unfused-none`, after the prefix."""
    return prefix + ("-".join(axes.values()) or matrix.name)


def _fits(combination: Mapping[str, str], excluded: Mapping[str, tuple[str, ...]]) -> bool:
    return all(combination[axis] in labels for axis, labels in excluded.items())


def _planned(study: Study, matrix: Matrix, prefix: str, axes: Mapping[str, str]) -> Planned:
    options: dict[str, Any] = {**study.options, **matrix.options}
    options |= {option: value for option, value in study.changed.items() if option in options}
    environment = {**study.environment, **matrix.environment}
    for axis, label in axes.items():
        options |= matrix.axes[axis][label].options
        environment |= matrix.axes[axis][label].environment
    name = name_of(matrix, axes, prefix)
    return Planned(
        name=name,
        matrix=matrix.name,
        axes=axes,
        options=options,
        environment=environment,
        baseline="",
        expects=_expected(matrix, name, prefix),
        recording=_is_recorded(matrix, name, prefix),
    )


def _expected(matrix: Matrix, name: str, prefix: str) -> str | None:
    for each in matrix.expected:
        if fits(name, each.configuration, prefix):
            return each.error
    return None


def _is_recorded(matrix: Matrix, name: str, prefix: str) -> bool:
    if isinstance(matrix.recording, bool):
        return matrix.recording
    return any(fits(name, pattern, prefix) for pattern in matrix.recording)


def fits(name: str, pattern: str, prefix: str) -> bool:
    """Whether a pattern of a matrix names a configuration, with or without the matrix' name before it."""
    from fnmatch import fnmatchcase

    return fnmatchcase(name, pattern) or fnmatchcase(name.removeprefix(prefix), pattern)


def _with_baseline(matrix: Matrix, planned: Planned, all_of_it: list[Planned], names: set[str]) -> Planned:
    """`planned` with the full name of its baseline, which may be of another matrix; "" where it was excluded."""
    from dataclasses import replace

    if isinstance(matrix.baseline, str):
        same = [other.name for other in all_of_it if other.matrix == matrix.name]
        wanted = matrix.baseline or same[0]
        own = next((name for name in same if re.sub(r"^[^:]*:", "", name) == wanted), "")
        return replace(planned, baseline=own or (wanted if wanted in names else ""))
    axes = {**planned.axes, **matrix.baseline}
    found = (other.name for other in all_of_it if other.matrix == matrix.name and dict(other.axes) == axes)
    return replace(planned, baseline=next(found, ""))
