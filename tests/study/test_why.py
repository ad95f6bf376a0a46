"""How timed steps are charged to work and waiting, when that explains their difference, and what may be quoted of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.study.explanations import GEMMS, HOST, PYTHON, by_phase, cause, doubts, explained, factors, ns, paced, table
from tests.study.made import Made, study
from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import CHANGED, NOISE, TOO_FEW
from tetrace.study.adding_up import how_it_adds_up
from tetrace.study.beside_note import quoted_words
from tetrace.study.causes import OWN_KERNELS, any_layer
from tetrace.study.explanation import (
    NOT_RECORDED,
    NOT_SHOWN,
    NOT_TIMED,
    WAITING,
    Doubt,
    Explanation,
    check,
    quotable,
)
from tetrace.study.material import Material
from tetrace.study.why import causes_grid, explanation_grid

LITTLE = doubts(0.01, 0.01)
TOML = """
title = "t"
[[matrix]]
name = "main"
axes.one = ["a", "b"]
baseline = "a"
"""


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Two configurations: two rounds of the first, none of them capped, and one of the second, under the power cap."""
    folder = tmp_path_factory.mktemp("why")
    of = study(folder, TOML)
    made = Made(of).measured("a", total=[1.0] * 2).measured("b", total=[1.0], rounds={"throttled": ("power cap",)})
    return Material(made.write(folder / "results"), of)


def test_what_the_recorder_launched_is_no_part_of_a_timed_step(material):
    own = cause(BUSY, OWN_KERNELS, "stats", 1, 5)
    with_own, without = explained((2, 3), (8, 20), (6, 8), more=(own,)), explained((2, 3), (8, 20), (6, 8))
    assert table(with_own) == table(without)
    assert with_own.work_ns == without.work_ns == (ns(2), ns(3))
    assert factors(with_own) == factors(without)
    assert OWN_KERNELS not in [one.name for one in quotable(with_own)]
    # It is a part of the recorded one, which the page's table shows beside it.
    row = next(row for row in causes_grid(with_own).rows if row[0] == OWN_KERNELS)
    assert (row[3], row[4], row[7], row[8]) == ("0.000", "0.000", "1.000", "5.000")
    assert OWN_KERNELS in table(explained((2, 3), (8, 20), None, more=(own,)))
    check(with_own)


def test_what_the_clock_makes_longer_may_be_charged_to_the_wrong_kernels(material):
    found = paced(18.5, 15)
    assert found.charged.by_clock_ns == (ns(0.5), ns(-1))
    assert found.off_by_ns == pytest.approx(1e6 * math.hypot(0.01, 0.5 * 0.25, 1 * 0.5))
    said = how_it_adds_up(material, found)
    assert (
        "The GPU works all of a, which takes 0.50 ms more than recorded (clocks): kernels are longer by that as they were in "
        "recorded steps of other lengths (±0.12)."
    ) in said
    assert "b, which takes 1.00 ms less than recorded" in said
    assert "The GPU works all of" not in how_it_adds_up(material, paced(18, 16))


def test_what_is_assumed_of_both_recordings_is_one_doubt():
    """That only computing grows is assumed of both: where both clocks are 1 ms slower, what is wrong cancels out."""
    found = replace(paced(19, 17), clock_doubts=doubts(0.0, 0.0, assumed=0.3))
    assert found.off_by_ns == pytest.approx(0.01e6)
    apart = replace(paced(19, 15), clock_doubts=doubts(0.0, 0.0, assumed=0.3))
    assert apart.off_by_ns == pytest.approx(0.61e6)
    # What waiting may be more or less has nothing to do with either.
    idle = replace(found, clock_doubts=({"": Doubt(0, 0.3, 0.4e6)}, {"": Doubt(0, 0.3)}))
    assert idle.off_by_ns == pytest.approx(1e6 * math.hypot(0.01, 0.4))


def test_a_phase_whose_medians_do_not_add_up_is_quoted_beyond_that():
    """Backward waits 3 ms less; by its own medians it would be 1 ms less, or 3."""
    found = by_phase(explained((5, 3), (8, 20), None), forward=(5, 3), backward=(4, 1))
    assert names(replace(found, phases_off_by_ns={"backward": 2e6}), "backward") == [WAITING]
    assert names(replace(found, phases_off_by_ns={"backward": 3e6}), "backward") == []


def test_the_host_was_slower_where_phases_differ_though_their_sum_does_not(material):
    """As recorded, forward and backward wait 4 ms each: as timed 1.2 and 6.8."""
    more = (cause(IDLE, PYTHON, "layers.*", 4, 4), cause(BUSY, "memory", "copy", 1, 1, phase="backward"))
    found = by_phase(explained((2, 2), (4, 4), None, more=more), forward=(3.2, 3.2), backward=(7.8, 7.8))
    said = how_it_adds_up(material, found)
    assert "The host was slower while a and b were recorded" in said
    assert "The host was slower while a and b were timed" in said
    assert "times 0.30 and 0.30" in said
    assert "times 1.70 and 1.70" in said


@pytest.mark.parametrize(
    ("found", "doubt", "title"),
    [
        (explained((5, 3), (10, 10), (9, 8)), "", ""),
        # 2 ms of work and 1 of waiting: a tenth of these.
        (explained((5, 3), (10, 10), (9, 8), noise=0.3), "", ""),
        (
            explained((5, 3), (10, 10), (9, 8), noise=0.301),
            NOISE,
            "does not explain the timed difference: work of the GPU may be off by 0.30 of 3.00 ms that changed",
        ),
        # Recorded steps of another sign, off by more than the timed difference, within noise: it is the work that counts.
        (explained((5, 3), (1, 30), (8, 4), verdict=NOISE), "", "the recordings differ the other way"),
        # Kernels ran at another speed: the noise of the recording is not all that work is off by.
        (
            explained((5, 3), (0.1, 0.1), (5.1, 3.6)),
            NOISE,
            "does not explain the timed difference: work of the GPU may be off by 0.51 of 2.50 ms that changed",
        ),
        # A small part of all changes, and not of the difference.
        (
            explained((5, 3), (0.1, 0.1), (5.1, 3.2)),
            NOT_RECORDED,
            "does not explain the timed difference: 0.10 ms of it are not in the recordings",
        ),
        (explained((5, 3), (0.1, 0.1), (5.1, 3.18)), "", ""),
        (
            explained((5, 3), (1, 1), (6, 4), noise=None),
            TOO_FEW,
            "does not explain the timed difference: too few steps were recorded",
        ),
        # 1 ms longer as timed, all of it waiting, of which the recordings have 2 ms less; noise or not.
        (explained((5, 4.9), (10, 8), (9, 10)), NOT_SHOWN, "not shown by the recordings"),
        (explained((5, 4.9), (10, 8), (9, 10), verdict=NOISE), NOT_SHOWN, "not shown by the recordings"),
        # Half of the timed difference is work, or the recordings wait longer too, if far more.
        (explained((5, 6), (10, 8), (9, 11)), "", "the recordings differ the other way"),
        (explained((5, 4.9), (1, 30), (9, 10)), "", ""),
        (explained((5, 3), (1, 1), None), NOT_TIMED, "recorded difference, not timed without a recorder"),
    ],
)
def test_a_table_explains_where_work_is_known_to_a_tenth_of_all_changes(material, found, doubt, title):
    assert found.doubt == doubt
    assert found.explains is (not doubt)
    assert explanation_grid(material, found).title.partition("; ")[2] == title


@pytest.mark.parametrize(("verdict", "noise"), [(NOISE, ", within the noise of the recordings"), (CHANGED, "")])
def test_a_difference_that_the_recordings_do_not_show_is_said_to_be_none_of_theirs(material, verdict, noise):
    said = how_it_adds_up(material, explained((5, 4.9), (10, 8), (9, 10), verdict=verdict))
    assert said.startswith(
        f"The recordings do not show this difference (recorded −2.10 ms against timed +1.00 ms{noise}): only rows of the GPU's "
        "work are from them. A step takes 9.00 and 10.0 ms"
    )


@pytest.mark.parametrize(
    ("found", "said"),
    [
        # 2 ms of work less, of 1 ms less as timed; the recordings wait 4 ms more.
        (
            explained((5, 3), (1, 5), (6, 5), verdict=NOISE),
            "recorded +2.00 ms against timed −1.00 ms, within the noise of the recordings): only the GPU's work is from them, "
            "−2.00 ms.",
        ),
        # All of the difference is waiting, and more: recorded, it is longer too, and less so than the work is shorter.
        (
            explained((5, 3), (4, 5), (6, 7)),
            "recorded −1.00 ms against timed +1.00 ms): that the GPU waits longer is from them, +1.00 ms, not how much.",
        ),
        (
            explained((3, 5), (5, 4), (7, 6)),
            "recorded +1.00 ms against timed −1.00 ms): that the GPU waits less is from them, −1.00 ms, not how much.",
        ),
    ],
)
def test_recordings_that_differ_the_other_way_are_marked_with_what_is_from_them(material, found, said):
    assert (found.doubt, found.is_opposed) == ("", True)
    assert explanation_grid(material, found).title.endswith("; the recordings differ the other way")
    assert how_it_adds_up(material, found).startswith(f"The recordings differ the other way ({said} A step takes")


def test_what_only_the_clock_turns_is_said_to_be_the_clocks(material):
    """Recorded 2 ms shorter, and 1 ms longer as timed: kernels at another clock."""
    found = replace(paced(16, 17), clock_doubts=LITTLE)
    assert (found.doubt, found.is_opposed) == ("", True)
    assert (
        "The same kernels at another clock than recorded: a −2.00 ms and b +1.00 ms, beside +1.00 ms as timed. "
        "The recordings differ the other way (recorded −2.00 ms against timed +1.00 ms): the GPU's work is −2.00 ms in them, and "
        "+1.00 ms at the clock of the timed steps."
    ) in how_it_adds_up(material, found)


@pytest.mark.parametrize(
    ("timed", "said"),
    [
        # 1 of 3 ms, and half of the difference.
        ((18, 15), "A step takes 18.0 and 15.0 ms"),
        ((17, 15), "A step takes 17.0 and 15.0 ms"),
        (
            (17, 15.5),
            "The same kernels at another clock than recorded: a −1.00 ms and b −0.50 ms, beside −1.50 ms as timed. A step takes",
        ),
        (
            (18, 17),
            "The same kernels at another clock than recorded: a 0 ms and b +1.00 ms, beside −1.00 ms as timed. A step takes",
        ),
    ],
)
def test_a_clock_that_makes_more_than_half_of_a_difference_is_said_first(material, timed, said):
    assert how_it_adds_up(material, replace(paced(*timed), clock_doubts=LITTLE)).startswith(said)


def test_recordings_that_differ_the_other_way_by_what_the_recorder_launched_are_not_marked(material):
    own = cause(BUSY, OWN_KERNELS, "stats", 1, 9)
    found = explained((5, 3), (4, 4), (9, 7), more=(own,))
    assert found.step_ns[1] > found.step_ns[0]
    assert not found.is_opposed
    assert "the other way" not in explanation_grid(material, found).title


def test_the_split_of_waiting_is_no_change():
    """What one host range waits more and another less does not make noise of work look small."""
    more = (cause(IDLE, PYTHON, "layers.*", 20, 1),)
    found = explained((5, 3), (1, 20), (9, 8), noise=0.301, more=more)
    assert found.waiting_ns == (ns(4), ns(5))
    assert found.changes_ns == ns(3)
    assert found.doubt == NOISE


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            explained((2, 3), (8, 20), (6, 8)),
            "A step takes 6.00 and 8.00 ms, +2.00 ms: +1.00 (±0.010) is work of the GPU, +1.00 waiting. Waiting is that of the "
            "recordings times 0.50 and 0.25. The host was slower while b was recorded: the recorder or somebody else slowed "
            "it. The recorded steps take 10.0 and 23.0 ms.",
        ),
        (
            explained((2, 3), (8, 20), (5, 6)),
            "times 0.38 and 0.15. The host was slower while a and b were recorded: the recorder or somebody else slowed it.",
        ),
        (explained((2, 3), (2, 5), (5, 8)), "times 1.50 and 1.00. The host was slower while a was timed. The recorded"),
        (explained((2, 3), (4, 5), (5, 8)), "times 0.75 and 1.00. The recorded steps take 6.00 and 8.00 ms."),
        (
            explained((18, 16.5), (1, 2), (17.5, 17.5)),
            "ms: −1.50 (±0.010) is work of the GPU, +1.00 waiting, +0.50 what the recordings do not have. Waiting is that of "
            "the recordings times 0 and 0.50. a takes 0.50 ms less than its recording works: kernels were faster (clocks). The",
        ),
        (
            explained((18, 16.5), (0, 1), (18.25, 18)),
            "times none and 1.00. a takes 0.25 ms more than its recording works and waits: the host was slowed, or kernels were "
            "slower (clocks). b takes 0.50 ms more than its recording works and waits: the host was slowed, or kernels were "
            "slower (clocks: under the power cap in 1 of 1 rounds). The recorded steps",
        ),
        (explained((2, 3), (8, 20), (6, 8), noise=None), "waiting. Too few steps were recorded to tell it from noise."),
        (explained((2, 3), (8, 20), None), "Said. Without a recorder it was not timed."),
    ],
)
def test_words_say_both_factors_and_what_they_mean(material, found, words):
    assert words in how_it_adds_up(material, found)


def names(found: Explanation, phase: str = "") -> list[str]:
    return [one.name for one in quotable(found, phase)]


def test_waiting_is_quoted_as_one_by_what_the_timed_steps_leave():
    """Recorded, it is 12 ms longer; timed, 4 ms shorter. Where the host then was depends on who slowed it."""
    more = (cause(IDLE, PYTHON, "layers.*", 8, 20),)
    found = explained((5, 3), (8, 20), (13, 7), more=more)
    assert names(found) == [WAITING, GEMMS]
    assert quoted_words(found, 2) == "waiting -4.000 ms; GEMMs -2.000 ms (nvjet, forward)"
    # Nor how much of it is of one phase.
    assert names(found, "forward") == [GEMMS]
    assert quoted_words(found, 2, "forward") == "GEMMs -2.000 ms (nvjet, forward); how long forward waits is not known"
    assert quoted_words(found, 2, "backward") == "how long backward waits is not known"


@pytest.mark.parametrize(
    ("timed", "is_split"),
    [
        ((9, 13), True),
        ((8.9, 13), False),
        ((9, 12.9), False),
        ((14.6, 27), True),
        ((14.7, 27), False),
        ((14.6, 27.1), False),
    ],
)
def test_the_split_of_waiting_is_quoted_where_both_steps_wait_about_as_recorded(timed, is_split):
    """From 0.5 to 1.2 times 8 and 20 ms."""
    found = explained((5, 3), (8, 20), timed)
    assert found.splits_waiting() is is_split
    (waits,) = (one for one in quotable(found) if one.name == WAITING)
    assert waits.difference_ns == found.waiting_ns[1] - found.waiting_ns[0]
    assert (HOST in quoted_words(found, 2)) is is_split
    assert (WAITING in names(found, "backward")) is is_split
    assert ("not known" in quoted_words(found, 2, "backward")) is not is_split


def test_what_a_timed_phase_waits_is_quoted_however_the_host_was_slowed():
    """Backward waits 8 and 20 ms as recorded, 4 and 1 as timed; forward works alone."""
    found = by_phase(explained((5, 3), (8, 20), None), forward=(5, 3), backward=(4, 1))
    assert not found.splits_waiting()
    assert (names(found), names(found, "forward"), names(found, "backward")) == ([WAITING, GEMMS], [GEMMS], [WAITING])
    assert quoted_words(found, 2, "backward") == "waiting -3.000 ms"
    assert quoted_words(found, 2, "forward") == "GEMMs -2.000 ms (nvjet, forward)"
    # What a phase hardly waits for does not keep anybody from splitting the waiting of all.
    more = (cause(IDLE, PYTHON, "layers.*", 0.4, 0.4), cause(BUSY, "memory", "copy", 1, 1, phase="backward"))
    split = by_phase(explained((5, 3), (8, 20), None, more=more), forward=(5.1, 3.1), backward=(8, 19))
    assert split.splits_waiting()
    assert not split.splits_waiting("forward")
    assert quoted_words(split, 2, "backward") == f"waiting +11.000 ms ({HOST} +11.000 ms)"


def test_words_say_what_each_timed_phase_works_and_waits(material):
    more = (cause(BUSY, "attention", "flash", 4, 4, phase="backward"),)
    found = by_phase(explained((5, 3), (8, 20), None, more=more), forward=(5, 3.5), backward=(8, 8.5))
    said = (
        "A step takes 13.0 and 12.0 ms, −1.00 ms: −2.00 (±0.010) is work of the GPU, +0.50 waiting, +0.50 what the recordings do "
        "not have. Forward takes 5.00 and 3.50 ms of it, −1.50: −2.00 work, 0.00 waiting, +0.50 neither."
        " Backward takes 8.00 and 8.50 ms of it, +0.50: 0.00 work, +0.50 waiting (that of the recordings "
        "times 0.50 and 0.23). The host was slower while b was recorded: the recorder or somebody else slowed it. b in forward "
        "takes 0.50 ms more than its recording works and waits: the host was slowed, or kernels were slower"
    )
    assert how_it_adds_up(material, found).startswith(said)


def test_nothing_within_noise_is_quoted():
    more = (
        cause(BUSY, "attention", "flash", 1, 1.5, noise=0.5),
        cause(BUSY, "memory", "copy", 1, 1.5, noise=0.2),
        cause(BUSY, "memory", "cat", 1, 1.5, noise=0.9),
        cause(BUSY, "rope", "rope", 1, 1.5, noise=0.499),
    )
    # Waiting is 0.5 ms longer, and work may be off by as much.
    found = explained((5, 3), (10, 10), (18, 18.5), more=more)
    assert names(found) == [GEMMS, "rope", WAITING]
    assert names(replace(found, work_noise_ns=0.5e6)) == [GEMMS, "rope"]
    few = explained((5, 3), (10, 10), (9, 5), noise=None)
    assert (names(few), quoted_words(few, 2)) == ([], "not told, too few steps were recorded")
    same = explained((5, 5), (10, 10), (9, 9))
    assert (names(same), quoted_words(same, 2)) == ([], "nothing beyond noise")


def test_shares_of_what_cancels_out_or_is_noise_are_left_out(material):
    """+3.9 and −3.9 ms, and 0.1: 4000% of it says nothing. Rows are then cut by all changes."""
    cancels = explained((5, 1.1), (1, 5), (6, 6.1))
    noise = explained((5, 3), (1, 1), (6, 4), noise=1)
    for found in (cancels, noise):
        assert not found.has_shares
        grid = explanation_grid(material, found)
        assert "of it" not in [column.head for column in grid.columns]
        assert not any("%" in cell for row in (*grid.rows, grid.total) for cell in row)
        assert len(grid.columns) == len(grid.total) == len(grid.rows[0])
        assert {row[6] for row in causes_grid(found).rows} == {""}
    kept = explanation_grid(material, explained((5, 3), (1, 1), (6, 4)))
    assert kept.total[:5] == ("6.000", "4.000", "-2.000", "100.0%", "timed step")
    assert [row[:5] for row in kept.rows[:1]] == [("5.000", "3.000", "-2.000", "+100.0%", GEMMS)]
    small = tuple(cause(BUSY, f"small {n}", "k", 0, 0.1) for n in "ab")
    shown, left = explained((5, 1.1), (1, 5), (6, 6.3), more=small).rows()
    # 0.2 of 8.1 ms; of the difference they would be most.
    assert ([group.name for group in shown], [group.name for group in left]) == ([HOST, GEMMS], ["small a", "small b"])


def test_rows_of_a_told_difference_hide_no_more_than_a_twentieth_of_it(material):
    """Changes of 8 ms that leave 0.8, 0.3 of it in small ones: as few rows would hide more than the difference's twentieth."""
    small = tuple(cause(BUSY, f"small {n}", "k", 0, 0.03) for n in range(10))
    found = explained((5, 1.1), (1, 5.4), (6, 6.8), more=small)
    assert not found.has_shares
    assert [len(rows) for rows in found.rows()] == [2, 10]
    # 0.04 ms at most: one more is no row of several.
    assert [len(rows) for rows in found.rows(told=True)] == [12, 0]
    many = tuple(cause(BUSY, f"small {n}", "k", 0, 0.003) for n in range(100))
    found = explained((5, 1.1), (1, 5.4), (6, 6.8), more=many)
    assert [len(rows) for rows in found.rows(told=True)] == [39, 63]
    grid = explanation_grid(material, found)
    assert len(grid.rows) == 40
    assert grid.rows[-1][3] == "63 smaller causes, 2.20% of all changes"


def test_shares_are_of_the_timed_difference(material):
    """2 of 4 ms; of the recorded one they would be 2 of 14."""
    grid = explanation_grid(material, explained((5, 7), (8, 20), (9, 13)))
    assert {row[4]: row[3] for row in grid.rows} == {GEMMS: "+50.0%", HOST: "+50.0%"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("layers.3.mlp", "layers.*.mlp"),
        ("model.0.qkv.12", "model.*.qkv.*"),
        ("0.blocks.3.mlp", "0.blocks.*.mlp"),
        ("layer1.0.conv1 forward", "layer1.*.conv1 forward"),
        ("(compiled: layers.3.mlp)", "(compiled: layers.*.mlp)"),
        ("FlashAttention 4.0.0b11", "FlashAttention 4.0.0b11"),
        ("cuDNN 9.1.0", "cuDNN 9.1.0"),
        ("flash_attn.4.0b11", "flash_attn.4.0b11"),
        ("FlashAttention v2.8.3", "FlashAttention v2.8.3"),
        ("step_1.5e3", "step_1.5e3"),
    ],
)
def test_layers_are_one_place_and_versions_stay(name, said):
    assert any_layer(name) == said


def test_time_is_not_called_like_a_count():
    """`launches` is a column of counts beside it."""
    from tests.study.test_explanation import explained as recorded

    said = recorded("bf16", "fp8-delayed").sentence
    assert "waiting for launches +" in said
    assert " launches +" not in said.replace("waiting for launches", "")
