"""Large tensors of which every N-th row is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tetrace
from tests.instrument import standins
from tests.instrument.fp8_runs import frame, recorded
from tetrace import _C
from tetrace.errors import UsageError
from tetrace.fp8 import reference
from tetrace.fp8.formats import E4M3

LARGE, SMALL = (8194, 128), (4000, 128)


def quantized(folder, shape, **options):
    """What was quantized once, and the recording of it."""
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with standins.installed("2.20.2") as made:
        quantizer = standins.Float8CurrentScalingQuantizer(standins.DType.kFloat8E4M3)
        trace = recorded(folder, lambda: made["transformer_engine_torch"].quantize(tensor, quantizer), **options)
    return tensor, trace


def test_every_fourth_row_of_a_large_tensor(tmp_path):
    tensor, trace = quantized(tmp_path, LARGE, rows=4)
    (row,) = frame(trace).to_dict("records")
    some = tensor[::4]
    assert (row["elements"], row["tensor_elements"], row["shape"]) == (some.numel(), tensor.numel(), "8194x128")
    expected, histogram = reference.measure(some, E4M3, torch.tensor(row["scale"]))
    for name in ("elements", "zeros", "saturated", "flushed", "subnormal", "amax", "smallest"):
        assert row[name] == expected[name], name
    bins = frame(trace, "fp8_histograms")
    assert dict(zip(bins["bin"], bins["count"], strict=True)) == {
        place: histogram[place] for place in np.flatnonzero(histogram)
    }
    assert tetrace.fp8.what_if(trace, recipe="current").sampled
    (notice,) = [one for one in trace.metadata.notices if "row" in one]
    assert notice.startswith(
        "FP8 inspection looked at one row in 4 of tensors of a million elements and more that have one"
    )
    assert notice.endswith("seen first in what modules return")


@pytest.mark.parametrize(("shape", "rows"), [(SMALL, 4), (LARGE, 1), ((), 1), ((), 4)])
def test_small_tensors_are_looked_at_whole_and_large_ones_where_nothing_else_was_asked_for(tmp_path, shape, rows):
    tensor, trace = quantized(tmp_path, shape, rows=rows)
    (row,) = frame(trace).to_dict("records")
    assert row["elements"] == row["tensor_elements"] == tensor.numel()
    assert not tetrace.fp8.what_if(trace, recipe="current").sampled


def test_what_is_checked_alone_is_looked_at_whole(tmp_path):
    def body():
        layer = torch.nn.Linear(128, 128)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        layer(torch.ones(LARGE)).sum().backward()
        optimizer.step()

    rows = frame(recorded(tmp_path, body, rows=4))
    outputs = rows[rows["role"] == "output"]
    assert list(outputs["elements"]) == list(outputs["tensor_elements"]) == [LARGE[0] * LARGE[1]]


@pytest.mark.parametrize(
    ("rows", "columns", "every", "expected"),
    [
        (8192, 128, 4, 2048),
        (8193, 128, 4, 2049),
        (8192, 128, 1, 8192),
        (8191, 128, 4, 8191),  # too small
        (1 << 20, 64, 4, 1 << 20),  # too narrow
        (4, 1 << 20, 4, 4),  # as many as lie apart
        (0, 128, 4, 0),
    ],
)
def test_rows_of_a_sample(rows, columns, every, expected):
    assert _C.fp8_rows_of_sample(rows, columns, every) == expected


def test_no_row_at_all_is_refused():
    with pytest.raises(UsageError, match="rows=0; give 1 to look at all rows, or N for each N-th of large tensors"):
        tetrace.watch(torch.nn.Linear(2, 2), rows=0)
