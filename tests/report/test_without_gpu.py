"""Reports of recordings without a GPU: the verdict, a few steps, modules; and what has nothing to show says so."""

from __future__ import annotations

import pytest

from tests.breakdown.test_host_run import host_run, of
from tests.report.runs import rendered
from tetrace.breakdown.analysis import Breakdown


def twelve() -> Breakdown:
    return of(host_run(12, range(2, 11)), first_step=2, last_step=11, warmup=5)


def test_the_first_screen() -> None:
    assert (
        rendered(twelve())
        == """\
made · test

No GPU was captured, these are the host's times: a step takes 100 µs (median of 6 steps), 100 µs on
average: forward 0.040, backward 0.030, optimizer 0.020, all else 0.010 ms.

a module's self time is without that of the modules inside it

Steps on the host, the longest 5 of 6, ms of each step
process  step  wall ms  forward  backward  optimizer  micro-batches
      0     5    0.100    0.040     0.030      0.020              1
      0     6    0.100    0.040     0.030      0.020              1
      0     7    0.100    0.040     0.030      0.020              1
      0     8    0.100    0.040     0.030      0.020              1
      0     9    0.100    0.040     0.030      0.020              1
--by host-step has all 12

Host time by module, ms and counts per step
module       phase      calls  self ms/step  with inner
fc           forward        1         0.040       0.040
(autograd)   backward       0         0.030       0.030
(optimizer)  optimizer      1         0.020       0.020
all                         2         0.090
"""
    )


def test_steps_outside_the_window_are_empty_and_not_0() -> None:
    lines = rendered(twelve(), by="host-step").splitlines()
    first = next(line for line in lines if line.split()[:2] == ["0", "0"])
    assert first.split() == ["0", "0", "0.100", "left", "out"]


def test_ranks_have_a_table() -> None:
    recording = host_run(4, range(4), processes=2)
    for row in recording.ranges[len(recording.ranges) // 2 :]:
        row["start_ns"], row["end_ns"] = 2 * row["start_ns"], 2 * row["end_ns"]
    text = rendered(of(recording))
    table = text.partition("Processes, the slowest first, mean ms of a step on the host\n")[2].splitlines()
    assert [line.split() for line in table[1:3]] == [
        ["2", "2", "0.200", "0.080", "0.060", "0.040"],
        ["1", "2", "0.100", "0.040", "0.030", "0.020"],
    ]


@pytest.mark.parametrize("format_name", ["terminal", "markdown"])
@pytest.mark.parametrize(
    ("options", "what"),
    [({"by": "module"}, "--by module"), ({"by": "kernel"}, "--by kernel"), ({"kernel": "gemm"}, "--kernel gemm")],
)
def test_what_has_nothing_points_to_what_has(format_name: str, options: dict[str, str], what: str) -> None:
    text = rendered(twelve(), format_name, **options)
    assert f"{what}: no GPU activity was captured; this recording has --by host-module, host-step" in text
    assert "Steps on the host" not in text
