"""What a step is longer in where the GPU's clock sets its length: one half of a drifting recording foretells the other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tetrace
from tests.breakdown.scaled import run_of
from tetrace.attribute.vocabulary import INSPECTION_MODULE
from tetrace.breakdown.account import BUSY, IDLE, Account, account
from tetrace.breakdown.compare import compare
from tetrace.breakdown.lengths import WHOLE_STEP, Lengths, part_of
from tetrace.breakdown.pace import pace

# Recordings that stay as they are: those of profiles are made again.
DRIFT = Path(__file__).parents[1] / "data/drift"
PHASES = ("forward", "backward", "optimizer")
# As recorded: nothing is longer without a recorder.
AS_RECORDED = Lengths((1.0, 1.0))
BY_PHASE = Lengths((3.0, 3.0), dict.fromkeys(PHASES, (1.0, 1.0)))
DRIFTS = ["large-none", "large-block", "vanilla-by_hand", "te_fp8-fused"]


def recorded(name: str) -> tetrace.Breakdown:
    return tetrace.analyze(tetrace.load(DRIFT / f"{name}.tetrace"))


def part(whole: Account, frames: range) -> Account:
    """Some steps of a run."""
    kept = (whole.frame >= frames.start) & (whole.frame < frames.stop)
    return replace(
        whole,
        line=whole.line[kept],
        ns=whole.ns[kept],
        frame=whole.frame[kept] - frames.start,
        period=np.arange(len(frames), dtype=np.int32),
    )


def per_step(of: Account) -> dict[str, float]:
    """What each category of kernels takes of an average step, ns."""
    found: dict[str, float] = {}
    for i, line in enumerate(of.lines):
        if line.kind == BUSY:
            found[line.category] = found.get(line.category, 0.0) + of.ns[of.line == i].sum() / of.frames
    return found


@pytest.mark.parametrize("name", DRIFTS)
def test_a_half_foretells_the_other(name):
    whole = account(recorded(name))
    middle = whole.frames // 2
    first, second = part(whole, range(middle + 1)), part(whole, range(middle, whole.frames))
    for known, asked in ((first, second), (second, first)):
        rates = pace(known)
        here, there = per_step(known), per_step(asked)
        longer = (asked.ns.sum() / asked.frames) - (known.ns.sum() / known.frames)
        as_recorded = sum(abs(there[one] - here[one]) for one in here)
        foretold = sum(abs(there[one] - here[one] - rates.rates[one] * longer) for one in here)
        assert sum(rates.rates.values()) == pytest.approx(1)
        assert foretold < as_recorded / 3
        # What is charged to one category wrongly is missing in another.
        assert foretold / 2 <= rates.off_by * abs(longer)


@pytest.mark.parametrize("name", DRIFTS)
def test_steps_of_one_length(name):
    of = account(recorded(name))
    made = of.ns + pace(of).to_average_ns
    walls = np.bincount(of.frame, made, of.frames)
    np.testing.assert_allclose(walls, of.ns.sum() / of.frames)


def test_noise_is_that_of_steps_of_one_length():
    """Two recordings whose steps drift by 10 and 3%: the noise of kernels is a tenth of what it is with the drift."""
    a, b = recorded(DRIFTS[0]), recorded(DRIFTS[1])
    noise = [
        sum(row.difference_noise_ns for row in one.tables["parts"].rows if row.labels[0] == BUSY)
        for one in (compare(a, b), compare(a, b, lengths=AS_RECORDED))
    ]
    assert noise[1] < noise[0] / 10
    assert compare(a, b).paces == ({}, {})
    # The clock sets the length of all of either step, and all of a step tells it best.
    for lengths in (AS_RECORDED, BY_PHASE):
        assert [dict.fromkeys(one, one[WHOLE_STEP] is not None) for one in compare(a, b, lengths=lengths).paces] == [
            {WHOLE_STEP: True}
        ] * 2


def test_a_phase_whose_length_the_clock_sets_is_told_though_another_waits():
    """Forward of the second recording waits for a host that somebody slowed, and backward hardly does."""
    a, b = recorded(DRIFTS[0]), recorded("large-hybrid")
    found = compare(a, b, lengths=BY_PHASE).paces
    assert [{phase: one is not None for phase, one in side.items()} for side in found] == [
        {"forward": True, "backward": True, "optimizer": False},
        {"forward": False, "backward": True, "optimizer": False},
    ]
    # With a phase recorded that nobody timed, or timed that is none of the recording's, only all of a step is known.
    for phases in (PHASES[:2], (*PHASES, "loss"), ()):
        lengths = Lengths((3.0, 3.0), dict.fromkeys(phases, (1.0, 1.0)))
        assert {WHOLE_STEP} == set(compare(a, b, lengths=lengths).paces[0])
    of = account(b)
    change = pace(of, {"backward"}).to_average_ns
    walls = {
        phase: np.bincount(
            of.frame[(mine := np.array([one.phase == phase for one in of.lines])[of.line])], (of.ns + change)[mine]
        )
        for phase in PHASES
    }
    np.testing.assert_allclose(walls["backward"], walls["backward"].mean())
    assert walls["forward"].std() > 0.01 * walls["forward"].mean()


def test_a_comparison_of_phases_has_less_noise_where_one_waits():
    a, b = recorded(DRIFTS[0]), recorded("large-hybrid")
    noise = [
        sum(
            row.difference_noise_ns
            for row in compare(a, b, lengths=lengths).tables["parts"].rows
            if row.labels[0] == BUSY
        )
        for lengths in (AS_RECORDED, BY_PHASE)
    ]
    assert noise[1] < noise[0]


@pytest.mark.parametrize(
    "run",
    [
        # The host sets the length of these.
        lambda: run_of([1.0, 1.1, 0.9] * 3),
        lambda: recorded("small-none"),
        # The GPU idles a quarter of this one: somebody slowed the host.
        lambda: recorded("large-hybrid"),
    ],
)
def test_no_clock_sets_the_length_of_a_step_that_waits(run):
    assert pace(account(run())) is None


def test_what_the_gpu_waits_for_the_recorder_is_no_part_of_a_steps_length():
    """A tenth of each step more, in which the GPU waits for tetrace's FP8 statistics: a timed step has nothing of it."""
    of = account(recorded(DRIFTS[0]))
    waits = next(line for line in of.lines if line.kind == IDLE)._replace(module=INSPECTION_MODULE)
    more = replace(
        of,
        lines=(*of.lines, waits),
        line=np.append(of.line, np.full(of.frames, len(of.lines), np.int32)),
        frame=np.append(of.frame, np.arange(of.frames, dtype=of.frame.dtype)),
        ns=np.append(of.ns, np.bincount(of.frame, of.ns).astype(np.int64) // 10),
    )
    assert (pace(more).rates, pace(more).off_by) == (pace(of).rates, pace(of).off_by)


def test_a_phase_that_some_steps_have_not_has_no_pace():
    of = account(recorded(DRIFTS[0]))
    backward = np.array([line.phase == "backward" for line in of.lines])[of.line]
    assert pace(of, {"backward"}) is not None
    assert pace(replace(of, ns=np.where(backward & (of.frame == 1), 0, of.ns)), {"backward"}) is None


def test_steps_that_differ_by_waiting_tell_the_same_of_kernels_and_are_charged_with_doubt():
    """A recording that the clock paces, with a fortieth of a step more waiting in every second step."""
    of = account(recorded(DRIFTS[3]))
    waits = np.array([line.kind == IDLE for line in of.lines])[of.line]
    more = np.zeros_like(of.ns)
    for frame in range(1, of.frames, 2):
        place = np.flatnonzero(waits & (of.frame == frame))[0]
        more[place] = of.ns[of.frame == frame].sum() // 40
    known, waiting = pace(of), pace(replace(of, ns=of.ns + more))
    assert waiting.rates == known.rates
    assert waiting.off_by > known.off_by + 0.5
    # Steps whose kernels take equally long, and of which every second one waits longer: a longer step may be all waiting.
    level = np.rint(known.to_average_ns).astype(np.int64)
    assert pace(replace(of, ns=of.ns + level + more)).off_by > 1


def test_steps_that_idle_for_more_are_the_clocks_where_they_are_longer_without_a_recorder():
    """A twelfth of each step is waiting, of every third one more; a recorder makes waiting longer, never shorter."""
    of = account(recorded(DRIFTS[0]))
    waits = np.array([line.kind == IDLE for line in of.lines])[of.line]
    more = np.zeros_like(of.ns)
    for frame in range(of.frames):
        place = np.flatnonzero(waits & (of.frame == frame))[0]
        more[place] = of.ns[of.frame == frame].sum() // (10 if frame % 3 else 12)
    idles = replace(of, ns=of.ns + more)
    mean = idles.ns.sum() / idles.frames
    idle = np.bincount(idles.frame[waits], idles.ns[waits])
    doubt = 2 * idle.std() / np.sqrt(idles.frames)
    assert pace(idles) is None
    assert pace(idles, length_ns=0.99 * mean) is None
    # So much is what waiting may be more by chance.
    assert pace(idles, length_ns=mean + 0.9 * doubt) is None
    found = pace(idles, length_ns=mean + 1.1 * doubt)
    assert found.rates == pace(of).rates
    assert found.idle_off_by_ns == pytest.approx(doubt)
    # Steps of one length would take waiting for work there.
    assert not found.to_average_ns.any()
    twice = replace(of, ns=of.ns + 2 * more)
    assert pace(twice, length_ns=2 * mean) is None


@pytest.mark.parametrize(
    ("phase", "parts", "of"),
    [
        ("forward", PHASES, "forward"),
        ("recompute", PHASES, "backward"),
        ("recompute", (*PHASES, "recompute"), "recompute"),
        ("recompute", ("forward",), WHOLE_STEP),
        ("other", PHASES, WHOLE_STEP),
        ("forward", (), WHOLE_STEP),
        ("forward", (WHOLE_STEP,), WHOLE_STEP),
    ],
)
def test_recompute_runs_in_what_is_timed_as_backward(phase, parts, of):
    assert part_of(phase, parts) == of
