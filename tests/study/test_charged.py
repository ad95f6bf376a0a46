"""Timed steps charged to what was recorded: exactly, and as far as a recording tells."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from tests.study.explanations import GEMMS, HOST, PYTHON, by_phase, cause, doubts, explained, factors, ns, paced, table
from tetrace.breakdown.account import BUSY, IDLE
from tetrace.errors import ConservationError
from tetrace.study.causes import OWN_KERNELS
from tetrace.study.charged import FASTER, LONGER
from tetrace.study.explanation import check


@pytest.mark.parametrize(
    ("found", "rows", "times"),
    [
        # The host was slowed while it was recorded, by another factor each time: the timed steps say how long it is.
        (explained((2, 3), (8, 20), (6, 8)), {GEMMS: (2, 3), HOST: (4, 5)}, (0.5, 0.25)),
        # While it was timed.
        (explained((2, 3), (2, 5), (5, 8)), {GEMMS: (2, 3), HOST: (3, 5)}, (1.5, 1)),
        # A graph does not wait, and what it saves is waiting.
        (explained((2, 2), (8, 0.1), (8, 2.1)), {GEMMS: (2, 2), HOST: (6, 0.1)}, (0.75, 1)),
        # Kernels ran faster than recorded: no waiting on that side, on either.
        (explained((18, 16.5), (1, 2), (17.5, 17.5)), {GEMMS: (18, 16.5), FASTER: (-0.5, 0), HOST: (0, 1)}, (0, 0.5)),
        (explained((18, 16.5), (1, 2), (17.5, 16)), {GEMMS: (18, 16.5), FASTER: (-0.5, -0.5)}, (0, 0)),
        # A step that hardly waits, as recorded, cannot tell a slowed host from slow kernels; nor can one that never waits.
        (
            explained((18, 16.5), (0.125, 1), (18.125, 18)),
            {GEMMS: (18, 16.5), LONGER: (0, 0.5), HOST: (0.125, 1)},
            (1, 1),
        ),
        (
            explained((18, 16.5), (0, 1), (18.25, 17)),
            {GEMMS: (18, 16.5), LONGER: (0.25, 0), HOST: (0, 0.5)},
            (None, 0.5),
        ),
        (
            explained((18, 16.5), (0, 0), (17, 17)),
            {GEMMS: (18, 16.5), FASTER: (-1, 0), LONGER: (0, 0.5)},
            (None, None),
        ),
        # Not timed: as recorded.
        (explained((2, 3), (8, 20), None), {GEMMS: (2, 3), HOST: (8, 20)}, (1, 1)),
    ],
)
def test_work_is_as_recorded_and_waiting_is_what_the_timed_step_leaves(found, rows, times):
    assert table(found) == rows
    assert factors(found) == times
    check(found)


def test_waiting_is_shared_out_as_recorded_exactly():
    """Times that are no whole numbers, and thirds: three rows and two factors still are both timed steps."""
    more = (
        cause(IDLE, PYTHON, "layers.*", 1, 7),
        cause(IDLE, PYTHON, "model", 0, 3.333),
        cause(BUSY, "attention", "flash", 0.7, 0),
    )
    found = explained((2, 3), (8, 20), (6.1234567, 7.7654321), more=more)
    timed = tuple(map(Fraction, found.timed_ns))
    assert found.explained_ns == timed
    assert [sum(getattr(one, end) for one in found.causes) for end in ("before_ns", "after_ns")] == list(timed)
    assert sum(group.difference_ns for group in found.groups) == timed[1] - timed[0] == found.difference_ns
    work = (ns(2.7), ns(3))
    waits = [one for one in found.causes if one.kind == IDLE]
    for side, idle in enumerate((ns(9), ns(30.333))):
        factor = (timed[side] - work[side]) / idle
        assert factors(found)[side] == factor
        assert {
            (one.before_ns, one.after_ns)[side] / one.recorded_ns[side] for one in waits if one.recorded_ns[side]
        } == {factor}
    assert found.waiting_ns == tuple(one - of for one, of in zip(timed, work, strict=True))


def test_what_the_gpu_waited_for_the_recorder_is_no_part_of_a_timed_step():
    waits = cause(IDLE, f"GPU waits for the host: {OWN_KERNELS}", "FP8 inspection", 1, 5)
    found, without = explained((2, 3), (8, 20), (6, 8), more=(waits,)), explained((2, 3), (8, 20), (6, 8))
    assert table(found) == table(without)
    assert factors(found) == factors(without)
    check(found)


@pytest.mark.parametrize(
    ("timed", "rows"),
    [
        # Longer than recorded, and shorter: all of it is work, and waiting is as recorded.
        ((18.5, 15), {GEMMS: (15.4, 12.2), "memory": (2.6, 2.3), HOST: (0.5, 0.5)}),
        ((18, 16), {GEMMS: (15, 13), "memory": (2.5, 2.5), HOST: (0.5, 0.5)}),
        # More than a clock does: somebody slowed the host, or kernels were others.
        ((21, 13), {GEMMS: (15, 13), "memory": (2.5, 2.5), HOST: (0.5, 0), LONGER: (3, 0), FASTER: (0, -2.5)}),
    ],
)
def test_kernels_are_longer_as_those_of_recorded_steps_were(timed, rows):
    found = paced(*timed)
    assert table(found) == {name: pytest.approx(pair) for name, pair in rows.items()}
    check(found)


def test_each_phase_waits_what_its_own_time_leaves():
    """Recorded, GEMMs of forward take 2 and 3 ms and its waiting 8 and 20; backward works 4 and waits 2 ms."""
    more = (
        cause(IDLE, PYTHON, "layers.*", 8, 20),
        cause(BUSY, "attention", "flash", 4, 4, phase="backward"),
    )
    found = by_phase(explained((2, 3), (2, 2), None, more=more), forward=(6, 5), backward=(5, 7))
    assert table(found) == {GEMMS: (2, 3), PYTHON: (4, 2), "attention": (4, 4), HOST: (1, 3)}
    assert (factors(found, "forward"), factors(found, "backward")) == ((0.5, Fraction(1, 10)), (0.5, 1.5))
    assert (found.of_ns(IDLE, "forward"), found.of_ns(IDLE, "backward")) == ((ns(4), ns(2)), (ns(1), ns(3)))
    check(found)
    # All of a step waits 5 ms, times what it waits as recorded in each phase.
    whole = replace(found, phases_ns={})
    assert table(whole) == {GEMMS: (2, 3), PYTHON: (4, 100 / 22), "attention": (4, 4), HOST: (1, 10 / 22)}
    check(whole)


def test_the_clock_makes_one_phase_longer_and_the_host_another():
    """Backward has rates, of GEMMs and copies; forward waits 8 ms as recorded. What neither is, is of its phase."""
    work = (
        replace(cause(BUSY, GEMMS, "nvjet", 15, 15, phase="backward"), rates=(Fraction(4, 5),) * 2),
        replace(cause(BUSY, "memory", "copy", 2.5, 2.5, phase="backward"), rates=(Fraction(1, 5),) * 2),
    )
    more = (*work, cause(BUSY, "attention", "flash", 4, 4), cause(IDLE, PYTHON, "layers.*", 8, 8))
    made = explained((0, 0), (0.5, 0.5), None, more=more, clock_doubts=doubts(0.25, 0.5, part="backward"))
    found = by_phase(made, forward=(6, 3.5), backward=(18.5, 17))
    rows = {
        GEMMS: (15.4, 14.2), "memory": (2.6, 2.3), HOST: (0.5, 0.5), "attention": (4, 4), PYTHON: (2, 0), FASTER: (0, -0.5),
    }  # fmt: skip
    assert table(found) == {name: pytest.approx(pair) for name, pair in rows.items()}
    assert found.charged.by_clock_ns == (ns(0.5), ns(-1))
    assert found.charged.residue_ns == (0, ns(-0.5))
    assert next(one for one in found.causes if one.name == FASTER).phase == "forward"
    assert [found.clock_off_by_ns(side, "backward") for side in (0, 1)] == [0.125e6, 0.5e6]
    assert found.off_by_ns == pytest.approx(1e6 * (0.5 + math.hypot(0.01, 0.125, 0.5)))
    check(found)


def test_what_the_recordings_do_not_have_does_not_cancel_out_between_phases():
    """0.5 ms less than forward works, and 0.5 ms more than backward works and waits."""
    more = (cause(BUSY, "attention", "flash", 5, 5, phase="backward"),)
    found = by_phase(explained((5, 5), (0.1, 0.1), None, more=more), forward=(4.5, 5), backward=(5.6, 5.1))
    assert found.charged.residue_ns == (0, 0)
    assert found.charged.residue_apart_ns == ns(1)
    assert found.off_by_ns == pytest.approx(1.01e6)


def test_what_ran_beside_other_work_in_a_phase_that_nobody_timed_takes_nothing():
    """A copy to the host, wholly under a GEMM: it has a row, and no time of its own."""
    copies = cause(BUSY, "memory", "copy", 0, 0, phase="other")
    found = by_phase(explained((2, 3), (8, 20), None, more=(copies,)), forward=(2, 3), backward=(4, 5))
    assert table(found) == {GEMMS: (2, 3), HOST: (4, 5)}
    check(found)


def test_recompute_is_of_backward():
    more = (cause(BUSY, "attention", "flash", 4, 4, phase="recompute"),)
    found = by_phase(explained((2, 3), (2, 2), None, more=more), forward=(2, 3), backward=(5, 7))
    assert table(found) == {GEMMS: (2, 3), "attention": (4, 4), HOST: (1, 3)}
    assert found.of_ns(BUSY, "backward") == (ns(4), ns(4))
    assert "recompute" not in found.charged.parts
    check(found)


@pytest.mark.parametrize("change", [{"step_ns": (ns(10), ns(24))}, {"recorded": ()}])
def test_causes_that_do_not_add_up_are_an_error(change):
    found = explained((2, 3), (8, 20), (6, 8))
    with pytest.raises(ConservationError, match="a and b: recorded causes sum to"):
        check(replace(found, **change))


def test_timed_causes_that_do_not_add_up_are_an_error(monkeypatch):
    found = explained((2, 3), (8, 20), (6, 8))
    lost = replace(found.charged, causes=tuple(replace(one, after_ns=one.after_ns / 3) for one in found.charged.causes))
    monkeypatch.setattr("tetrace.study.explanation.charge", lambda recorded, timed: lost)
    with pytest.raises(ConservationError, match=r"timed causes sum to .* of 8000000\.000 ns"):
        check(explained((2, 3), (8, 20), (6, 8)))
