"""What a report says of a claim that does not hold: the kernels that differ, and that its limit may decide one way only."""

from __future__ import annotations

import pytest

from tests.breakdown.scaled import repeated
from tests.study.made import Made, study
from tests.study.stack import rounds
from tetrace.errors import InputError
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN
from tetrace.study.material import Material
from tetrace.study.report import Report
from tetrace.trace import store

PEAKS = """
title = "t"
[[matrix]]
name = "main"
axes.recipe = ["none", "delayed", "current"]
baseline = "none"
[[claim]]
says = "Activations take less memory"
figure = "memory_ratio"
of = "CONFIGURATION"
at_most = 0.99
otherwise = "copies of the weights are in the peak"
why = "which the note does not say"
"""


def test_a_time_that_the_gpu_works_is_followed_by_its_kernels_where_the_claim_does_not_hold(tmp_path):
    """Waiting, which a speed-up quotes, is no part of it."""
    toml = """
    title = "t"
    [[matrix]]
    name = "main"
    axes.recipe = ["none", "delayed"]
    baseline = "none"
    [[claim]]
    says = "The GPU works for as long"
    figure = "busy_ms"
    of = "delayed"
    against = "none"
    at_least = 10
    why = "it is said by hand too"
    [[claim]]
    says = "It works for less time than ever"
    figure = "busy_ms"
    of = "delayed"
    at_most = 0.001
    """
    of = study(tmp_path, toml)
    made = Made(of)
    for name, file, ms in (("none", "te4-bf16.sqlite", 12.0), ("delayed", "te4-fp8.sqlite", 15.0)):
        store.write(repeated([1.0] * 9, name=file), tmp_path / f"{name}.tetrace")
        made.measured(name, total=rounds(ms), recording=tmp_path / f"{name}.tetrace")
    one, alone = Report(Material(made.write(tmp_path / "results"), of)).judged
    assert one.verdict == alone.verdict == FAILS
    casts = "quantization +0.315 ms (cast_transpose_optimized_kernel, forward)"
    gemms = "GEMMs -0.692 ms (nvjet bf16 → nvjet fp8, backward)"
    assert one.why == f"it is said by hand too; what differs: {gemms}; {casts}"
    assert alone.why == ""  # of one configuration nothing differs


@pytest.mark.parametrize(
    ("of", "verdict", "why"),
    [
        ("delayed", HOLDS, ""),
        ("current", UNKNOWN, "copies of the weights are in the peak; which the note does not say"),
    ],
)
def test_a_limit_that_suffices_decides_nothing_where_it_is_missed(tmp_path, of, verdict, why):
    """A peak that is smaller although more is in it shows something, a larger one does not."""
    read = study(tmp_path, PEAKS.replace("CONFIGURATION", of))
    made = Made(read)
    for name, peak in (("none", 1000), ("delayed", 900), ("current", 1020)):
        made.measured(name, total=rounds(1.0), fields={"peak_allocated_bytes": peak})
    (one,) = Report(Material(made.write(tmp_path / "results"), read)).judged
    assert (one.verdict, one.why) == (verdict, why)
    assert one.here == {"delayed": "0.900×", "current": "1.020×"}[of]


def test_otherwise_is_for_a_claim_with_a_limit(tmp_path):
    said = PEAKS.replace('"memory_ratio"', '"none"').replace("at_most = 0.99", "").replace("CONFIGURATION", "none")
    with pytest.raises(InputError, match=r"otherwise in \[\[claim\]\] 1: is for a claim with a condition"):
        study(tmp_path, said)
