"""The table of modules' times from the rows of sampled steps."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from tetrace.breakdown.module_times import module_times_table
from tetrace.breakdown.tables import Table
from tetrace.sources.sites import words
from tetrace.trace.trace import Metadata, Trace, make_table


def table_of(rows: list[tuple[str, str, int, int, int, int]]) -> Table:
    """Of rows of module, phase, step, calls, skipped calls and ns, all of one process."""
    module, phase, *numbers = zip(*rows, strict=True)
    names = ("step", "count", "skipped", "stream_elapsed_ns")
    columns: dict[str, Any] = {name: np.array(values) for name, values in zip(names, numbers, strict=True)}
    columns |= {"process": np.zeros(len(rows), np.int32), "module": words(module), "phase": words(phase)}
    trace = Trace(Metadata("", "test"), {"module_times": make_table("module_times", columns, len(rows))})
    return module_times_table(cast(Any, SimpleNamespace(trace=trace)), "all", None)


def test_each_module_and_phase_has_a_row_over_its_steps() -> None:
    found = table_of([
        ("b", "forward", 2, 1, 0, 30), ("a", "forward", 1, 1, 0, 10), ("a", "backward", 1, 2, 0, 70),
        ("a", "forward", 2, 1, 0, 20), ("a", "forward", 3, 1, 1, 900), ("(step)", "all", 1, 1, 0, 500),
        ("a", "forward", 1, 1, 0, 5), ("c", "forward", 1, 0, 3, 0),
    ])  # fmt: skip
    columns = ("module", "phase", "count", "mean_ns", "min_ns", "max_ns")
    assert list(zip(*(list(found[name]) for name in columns), strict=True)) == [
        ("(step)", "all", 1, 500, 500, 500), ("a", "backward", 2, 70, 70, 70), ("b", "forward", 1, 30, 30, 30),
        ("a", "forward", 3, 17, 15, 20), ("c", "forward", 0, 0, 0, 0),
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 3, 10, 19, 20, 21, 100, 137])
def test_medians_and_95th_percentiles_are_values_that_were_measured(count: int) -> None:
    lengths = np.random.default_rng(count).permutation(count) * 7 + 1
    found = table_of([("a", "forward", step, 1, 0, ns) for step, ns in enumerate(lengths.tolist())])
    for name, share in (("median_ns", 0.5), ("p95_ns", 0.95)):
        assert found[name][0] == np.quantile(lengths, share, method="inverted_cdf")


def test_many_modules_take_no_longer_than_their_rows() -> None:
    modules = 40_000
    rows = [(f"layers.{number}", "forward", step, 1, 0, number) for step in range(3) for number in range(modules)]
    before = time.process_time()
    found = table_of(rows)
    assert len(found["module"]) == modules
    # Each module against all rows would be five billion comparisons.
    assert time.process_time() - before < 6
