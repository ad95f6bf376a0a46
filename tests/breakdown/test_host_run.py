"""Recordings without a GPU: the verdict is what a step takes the host, or why nothing was recorded; what was not
captured is never 0."""

from __future__ import annotations

import dataclasses

import pytest

from tests.attribute.test_attribution import GEMM
from tests.traces import Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import Breakdown, break_down
from tetrace.breakdown.host_run import missed_window
from tetrace.errors import UsageError
from tetrace.report import content
from tetrace.trace.trace import Trace


def host_run(steps: int, window: range, backwards: int = 1, processes: int = 1) -> Recording:
    """Steps of 100 µs; those in `window` have 40 µs of forward, 30 of backward and 20 of the optimizer."""
    recording = Recording()
    for process in range(1, processes + 1):
        for step in range(steps):
            at = 100.0 * step
            recording.site("step", "step", at, at + 100, process=process, step=step)
            if step in window:
                recording.site("module", "fc", at, at + 40, process=process, step=step, phase="forward", module="fc")
                for i in range(backwards):
                    begin, length = at + 40 + i * 30 / backwards, 30 / backwards
                    recording.site(
                        "backward", "backward", begin, begin + length, process=process, step=step, phase="backward"
                    )
                recording.site("optimizer", "AdamW", at + 70, at + 90, process=process, step=step, phase="optimizer")
    return recording


def of(recording: Recording, **options: object) -> Breakdown:
    trace = recording.trace()
    facts = {"options": options} if options else {}
    return break_down(attribute(Trace(dataclasses.replace(trace.metadata, facts=facts), trace.tables)))


def test_the_verdict_is_what_a_step_takes_and_adds_up() -> None:
    assert of(host_run(12, range(12)), first_step=0, last_step=25, warmup=5).verdict == (
        "No GPU was captured, these are the host's times: a step takes 100 µs (median of 6 steps), 100 µs on average: "
        "forward 0.040, backward 0.030, optimizer 0.020, all else 0.010 ms."
    )


def test_steps_and_process_choose_those_of_the_host() -> None:
    recording = host_run(12, range(12), processes=2)
    attribution = attribute(recording.trace())
    for steps, process, counted in (("3:5", None, 4), ("7", 1, 1), ("all", 0, 12), ("steady", 1, 10)):
        table = break_down(attribution, steps=steps, process=process).tables["host_steps"]
        assert int(table["used"].sum()) == counted, (steps, process)
    with pytest.raises(UsageError, match="--steps 700 leaves no step of made; it has steps 0 to 11"):
        break_down(attribution, steps="700")


def test_fp8_inspection_is_told_apart_from_the_script() -> None:
    """On a CPU it computes in the step, and may take most of it."""
    recording = host_run(12, range(12))
    for step in range(12):
        at = 100.0 * step
        recording.site("inspection", "FP8 inspection", at + 10, at + 30, step=step)
    assert of(recording, first_step=0, last_step=25, warmup=5).verdict.endswith(
        " ms. Of an average step tetrace's own FP8 inspection is 20.0 µs."
    )


def test_several_processes_are_told() -> None:
    assert (
        "(median of 12 steps in 2 processes), 100 µs on average"
        in of(host_run(12, range(12), processes=2), warmup=5).verdict
    )


def test_outside_the_recorded_steps_phases_are_not_captured() -> None:
    steps = of(host_run(6, range(2, 4))).tables["host_steps"]
    for name in ("forward_ns", "backward_ns", "optimizer_ns", "backwards"):
        assert [value < 0 for value in steps[name].tolist()] == [True, True, False, False, True, True], name
    assert steps["wall_ns"].tolist() == [100_000] * 6


def test_a_step_without_a_module_within_the_recorded_ones_is_0() -> None:
    recording = host_run(6, range(1, 2))
    recording.site("module", "fc", 350, 360, step=3, phase="forward", module="fc")
    assert of(recording).tables["host_steps"]["forward_ns"].tolist() == [-1, 40_000, 0, 10_000, -1, -1]


@pytest.mark.parametrize(
    ("steps", "options", "says"),
    [
        (41, {"first_step": 100, "last_step": 200},
         "The steps 100:200 that were asked for were never reached: the script ended after 40 whole steps; "
         "a step took the host 100 µs."),
        (1, {"first_step": 5, "last_step": None},
         "The steps 5: that were asked for were never reached: the script ended in its first step."),
        (1, {"first_step": 0, "last_step": 25},
         "Nothing was recorded in the steps 0:25: no module was called until the script ended, in its first step."),
    ],
)  # fmt: skip
def test_a_window_that_recorded_nothing(steps: int, options: dict[str, object], says: str) -> None:
    breakdown = of(host_run(steps, range(0)), **options)
    assert breakdown.verdict == says
    said = " ".join(content.without_activities(breakdown))
    assert "nsys" not in said
    assert said.startswith("record with --steps within 0:40, or without" if steps > 1 else "record without --steps")
    way = "record with --steps within 0:40, or without --steps" if steps > 1 else "record without --steps"
    assert missed_window(breakdown) == (f"{says[:-1]}; {way}" if options["first_step"] else "")
    assert missed_window(of(host_run(12, range(5, 12)), **options)) == ""


def test_warm_up_is_counted_only_where_nothing_else_is_there_and_said() -> None:
    short = of(host_run(5, range(5)), warmup=5)
    assert short.tables["host_steps"]["used"].tolist() == [0, 1, 1, 1, 0], "step 0 imports"
    (line,) = content.notices(short)
    assert line == "every step that is counted is warm-up (below 5, by --warmup): steady steps may be shorter"
    assert content.notices(of(host_run(12, range(12)), warmup=5)) == []


def test_warm_up_of_a_gpu_is_said_too() -> None:
    recording = host_run(4, range(4))
    for step in range(4):
        recording.launch(GEMM, (100 * step + 1, 100 * step + 2), (100 * step + 5, 100 * step + 90))
    assert any("is warm-up (below 5" in line for line in content.notices(of(recording, warmup=5)))
    assert not any("is warm-up" in line for line in content.notices(of(recording, warmup=1)))


def test_a_run_without_an_optimizer_says_how_to_end_a_step() -> None:
    (line,) = content.notices(of(host_run(1, range(1), backwards=3), warmup=5))
    assert line == "the whole run is one step: no optimizer drove a loop; tetrace.step() in the script ends one"
    assert not any("one step" in line for line in content.notices(of(host_run(1, range(1)), warmup=5)))
    inference = Recording().site("step", "step", 0, 100)
    for at in (10, 30):
        inference.site("module", "fc", at, at + 10, phase="forward", module="fc")
    assert any("one step" in line for line in content.notices(of(inference)))
