"""What the recorder may have added to a step is said wherever waiting for the host is: in numbers where steps ran on
without it, else as a caveat."""

from __future__ import annotations

import dataclasses

import pytest

from tests.attribute.test_attribution import GEMM
from tests.traces import Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import Breakdown, break_down
from tetrace.breakdown.without_recorder import PlainStep, added_waiting_ns, plain_step, waiting_ns
from tetrace.trace.trace import Trace

NCCL = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"


def run(works: float, waits: float, synchronizes: bool = False, reduces: float = 0, **facts: object) -> Trace:
    """Five steps whose GPU works and then waits for the host so many µs, which sits in a synchronization where it
    `synchronizes`; of its work the last `reduces` µs are communication; `facts` are the recording's."""
    recording, at = Recording(), 0.0
    for step in range(5):
        end = at + works + waits
        recording.range(f"step_{step}", at, end).range("forward", at, end)
        recording.launch(GEMM, (at, at + 0.5), (at + 1, at + 1 + works - reduces))
        if reduces:
            recording.launch(NCCL, (at + 0.5, at + 1), (at + 1 + works - reduces, at + 1 + works))
        if synchronizes:
            recording.call("cudaStreamSynchronize", at + 0.5, end, "synchronize")
        at = end
    trace = recording.trace()
    return Trace(dataclasses.replace(trace.metadata, facts=facts), trace.tables)


def of(trace: Trace) -> Breakdown:
    return break_down(attribute(trace))


def known(plain: float, recorded: float = 100, **facts: object) -> dict[str, object]:
    """Facts of a recording after which steps of `plain` µs ran on."""
    return {
        "plain_step_median_ns": int(plain * 1000),
        "recorded_step_median_ns": int(recorded * 1000),
        "plain_steps": 20,
        **facts,
    }


def test_what_the_recorder_may_have_added() -> None:
    assert waiting_ns(of(run(60, 40))) == 40_000
    assert added_waiting_ns(of(run(60, 40))) == 40_000, "nothing says what a step takes without it"
    assert added_waiting_ns(of(run(60, 40, **known(70)))) == 30_000
    assert added_waiting_ns(of(run(60, 40, **known(50)))) == 40_000, "no more than it waits"
    assert added_waiting_ns(of(run(60, 40, **known(99)))) == 0, "not worth a word"
    assert added_waiting_ns(of(run(99, 1))) == 0, "the GPU hardly waits"


def test_steps_without_the_recorder() -> None:
    assert plain_step(of(run(60, 40))) is None
    assert plain_step(of(run(60, 40, **known(70)))) == PlainStep(100_000, 70_000, 20, slowed=False)
    assert plain_step(of(run(60, 40, **known(70, collector="cupti")))) == PlainStep(100_000, 70_000, 20, slowed=True)
    assert plain_step(break_down(attribute(run(60, 40, **known(70))), steps="all")) is None


@pytest.mark.parametrize(
    ("works", "facts", "begins", "says"),
    [
        (30, {}, "Launch-bound: the GPU works 30.0 µs of a step of 100 µs and idles 70.0%", "up to 70.0 µs of that"),
        (75, {}, "Mostly GPU-bound: ", "the recorder slows the host, so up to 25.0 µs of that idling may be its own"),
        (30, known(90), "Launch-bound: the GPU works 30.0 µs of a step that takes 90.0 µs without", "idles 66.7% of it"),
        (30, known(40), "Mostly GPU-bound: ", "takes 40.0 µs without the recorder (100 µs with it) and idles 25.0%"),
        (30, known(32), "GPU-bound: ", "takes 32.0 µs without the recorder (100 µs with it) and idles 6.2%"),
        (30, known(28), "GPU-bound: a step takes 28.0 µs without the recorder, less than the 30.0 µs", "in the 100 µs with"),
    ],
)  # fmt: skip
def test_the_verdict_is_on_the_step_without_the_recorder(
    works: float, facts: dict[str, object], begins: str, says: str
) -> None:
    verdict = of(run(works, 100 - works, **facts)).verdict
    assert verdict.startswith(begins)
    assert says in verdict


@pytest.mark.parametrize(
    ("facts", "idles"), [({}, "and idles 70.0%, 69.0% while"), (known(50), "and idles 40.0%, 40.0% while")]
)
def test_synchronizing_takes_no_more_than_the_step_idles(facts: dict[str, object], idles: str) -> None:
    verdict = of(run(30, 70, synchronizes=True, **facts)).verdict
    assert verdict.startswith("Synchronization-bound: ")
    assert idles in verdict


def test_communication_is_never_of_more_work_than_the_step_is_long() -> None:
    begins = (
        "Communication-bound: a step takes 45.0 µs without the recorder, less than the 48.0 µs that the GPU works, "
    )
    assert of(run(48, 52, reduces=28, **known(45))).verdict.startswith(f"{begins}28.0 µs of them on communication")


def test_a_window_without_length_is_bound_by_nothing() -> None:
    verdict = of(Recording().launch(GEMM, (0, 1), (2, 2)).trace()).verdict
    assert verdict == "What binds it cannot be told: the chosen time has no length."


def test_a_busy_gpu_needs_no_caveat() -> None:
    assert "recorder" not in of(run(99, 1)).verdict


@pytest.mark.parametrize(
    ("facts", "title"),
    [
        ({}, "the GPU waits for the host to launch, which the recorder slows (time steps without it first)"),
        (known(70), "the GPU waits for the host to launch, up to 30.0 µs of it for the recorder"),
        (known(100), "the GPU waits for the host to launch"),
        (known(30), None),
    ],
)
def test_the_finding_says_what_may_be_the_recorders(facts: dict[str, object], title: str | None) -> None:
    found = {finding.name: finding.title for finding in of(run(30, 70, **facts)).findings}
    assert found.get("host_bound") == title
