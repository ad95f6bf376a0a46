"""Verdicts on claims: which side of the limit the whole interval is on, and what cannot be told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.study.made import CALIBRATED, Made, study
from tests.traces import Recording
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, count_words, judge, limit_words, noted_words
from tetrace.study.figures import value
from tetrace.study.material import Material
from tetrace.study.numerics import losses_section
from tetrace.study.results import INTERRUPTED, TIMED_OUT, WAITING, Losses
from tetrace.study.spec import Claim
from tetrace.study.statistics import NONE, ORDER, STEPS, Estimate
from tetrace.study.value import TIMES, Value
from tetrace.trace import store
from tetrace.trace.trace import Trace

TOML = """
title = "t"
question = "q"
[[matrix]]
name = "main"
axes.kind = ["slow", "fast", "broken", "other", "late", "stopped", "never"]
baseline = "slow"
[[matrix.expected]]
configuration = "broken"
error = "divisible by"
[[matrix.expected]]
configuration = "other"
error = "divisible by"
"""


def claim(**said) -> Claim:
    return Claim(says="s", **{"figure": "speedup", "of": "fast", "against": "slow", **said})


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    folder: Path = tmp_path_factory.mktemp("claims")
    of = study(folder, TOML)
    less = {"peak_allocated_bytes": 1000, "parameters": 100}
    more = {
        "peak_allocated_bytes": 2000, "parameters": 90, "tokens": 1000, "flops": 4_000_000_000,
        "facts": {"fa": "4.0", "lib": "cuDNN"}, "losses": Losses.of([1.0, float("nan")]),
    }  # fmt: skip
    return Material(
        Made(of, peaks={"bf16_flops": 1e12, "measured_at": CALIBRATED})
        .measured("slow", forward=[1.0, 1.1, 1.2], backward=[3.0, 3.3, 3.6], fields=less)
        .measured("fast", forward=[0.5, 0.5, 0.6], backward=[1.5, 1.7, 1.8], fields=more)
        .failed("broken", "ValueError", "50264 is not divisible by 16", "File gemm.py, line 7", expected=True)
        .failed("other", "OutOfMemoryError", "CUDA out of memory")
        .state("late", TIMED_OUT)
        .state("stopped", INTERRUPTED)
        .state("never", WAITING)
        .write(folder / "results"),
        of,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "said", "verdict"),
    [
        (1.03, 1.05, {"at_least": 1.03}, HOLDS),
        (1.02, 1.05, {"at_least": 1.03}, UNKNOWN),
        (1.01, 1.02, {"at_least": 1.03}, FAILS),
        (1.01, 1.03, {"at_most": 1.03}, HOLDS),
        (1.01, 1.04, {"at_most": 1.03}, UNKNOWN),
        (1.04, 1.05, {"at_most": 1.03}, FAILS),
        (1.0, 1.2, {"between": (1.0, 1.2)}, HOLDS),
        (0.9, 1.1, {"between": (1.0, 1.2)}, UNKNOWN),
        (0.9, 1.3, {"between": (1.0, 1.2)}, UNKNOWN),
        (1.3, 1.4, {"between": (1.0, 1.2)}, FAILS),
        (0.9, 1.1, {"equals": 1.0}, HOLDS),
        (1.1, 1.2, {"equals": 1.0}, FAILS),
        (1.1, 1.2, {"one_of": (1.0, 1.15)}, HOLDS),
    ],
)
def test_an_interval_against_a_limit(material, low, high, said, verdict):
    found = Value(Estimate((low + high) / 2, low, high, 7, ORDER), unit=TIMES)
    judged = judge(material, claim(**said, why="because"), found)
    assert judged.verdict == verdict
    expected = {HOLDS: "", FAILS: "because", UNKNOWN: "its interval lies on both sides of the limit; because"}
    assert judged.why == expected[verdict]


def test_one_round_cannot_tell(material):
    judged = judge(material, claim(at_least=1.0), Value(Estimate(2.0, None, None, 1, NONE), unit=TIMES))
    assert (judged.verdict, judged.here) == (UNKNOWN, "2.000× (no interval)")
    assert "repeat" in judged.why


def test_a_speedup_is_of_pairs_of_rounds(material):
    found = value(material, "speedup", "fast", "slow")
    # 4/2, 4.4/2.2 and 4.8/2.4: the same in each round, whatever the clocks do.
    assert found.words() == "2.000×"
    judged = judge(material, claim(at_least=1.9, noted=1.2))
    assert (judged.verdict, judged.here, judged.limit) == (HOLDS, "2.000×", "at least 1.900×")
    # Without `against`: of its baseline.
    assert value(material, "speedup", "fast").words() == "2.000×"
    assert value(material, "forward_speedup", "fast", "slow").estimate.value == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("figure", "of", "against", "words"),
    [
        ("total_ms", "slow", "", "4.400 ms (3.498 to 5.503)"),
        ("peak_bytes", "fast", "", "1.95 KiB"),
        ("peak_bytes", "fast", "slow", "2.000×"),
        ("memory_ratio", "fast", "slow", "2.000×"),
        ("parameters", "fast", "slow", "0.900×"),
        ("parameters_saved", "fast", "slow", "10"),
        ("fact:fa", "fast", "", "4.00"),
        ("fact:lib", "fast", "", "cuDNN"),
        ("finite", "fast", "", "no"),
        ("last_loss", "fast", "", "nan"),
        ("state", "late", "", "timed out"),
        ("error", "broken", "", "ValueError: 50264 is not divisible by 16"),
        ("error", "fast", "", "no error"),
    ],
)
def test_figures_in_words(material, figure, of, against, words):
    assert value(material, figure, of, against).words() == words


def test_rates_are_of_the_median_time(material):
    # 2.2 ms a step: 1000 tokens, 4 GFLOP, of a peak of 1 TFLOP/s.
    assert value(material, "tokens_per_s", "fast").estimate.value == pytest.approx(1000 / 2.2e-3)
    assert value(material, "tflops", "fast").estimate.value == pytest.approx(4e9 / 2.2e-3 / 1e12)
    assert value(material, "peak_pct", "fast").estimate.value == pytest.approx(100 * 4e9 / 2.2e-3 / 1e12)


@pytest.mark.parametrize(
    ("said", "verdict", "why"),
    [
        ({"of": "gone"}, UNKNOWN, "gone was not run"),
        ({"of": "broken"}, UNKNOWN, "broken failed (ValueError: 50264 is not divisible by 16)"),
        ({"of": "never"}, UNKNOWN, "never was not asked for in this run"),
        ({"of": "fast", "against": "other"}, UNKNOWN, "other failed (OutOfMemoryError: CUDA out of memory)"),
        ({"figure": "optimizer_speedup"}, UNKNOWN, "optimizer was not timed in the same rounds"),
        ({"figure": "fp8_coverage_pct", "against": ""}, UNKNOWN, "fast: not recorded"),
        ({"figure": "nonsense", "against": ""}, UNKNOWN, "nonsense is no figure that tetrace knows"),
        ({"figure": "tokens_per_s", "of": "slow", "against": ""}, UNKNOWN, "tokens of slow are not known"),
    ],
)  # fmt: skip
def test_what_was_not_measured_cannot_be_told(material, said, verdict, why):
    judged = judge(material, claim(**said, at_least=1.0))
    assert (judged.verdict, judged.why, judged.here) == (verdict, why, "")


@pytest.mark.parametrize(
    ("of", "wanted", "verdict"),
    [
        ("broken", "failed", HOLDS),
        ("fast", "measured", HOLDS),
        ("fast", "failed", FAILS),
        ("broken", "measured", FAILS),
        ("other", "failed", UNKNOWN),
        ("late", "failed", UNKNOWN),
        ("stopped", "measured", UNKNOWN),
        ("never", "measured", UNKNOWN),
    ],
)
def test_a_claim_on_a_state(material, of, wanted, verdict):
    judged = judge(material, claim(figure="state", of=of, against="", equals=wanted))
    assert judged.verdict == verdict
    assert judged.limit == {"failed": "fails", "measured": "runs"}[wanted]
    if of in ("fast", "broken"):
        assert judged.here == {"fast": "runs", "broken": "fails"}[of]
    if of == "other":
        assert judged.why == "it failed for another reason (OutOfMemoryError: CUDA out of memory)"


def test_words_truths_and_errors(material):
    assert judge(material, claim(figure="finite", against="", equals=False)).verdict == HOLDS
    assert judge(material, claim(figure="finite", against="", equals=True)).verdict == FAILS
    assert judge(material, claim(figure="fact:lib", against="", one_of=("FA", "cudnn"))).verdict == HOLDS
    assert judge(material, claim(figure="error", of="broken", against="", equals="divisible by 16")).verdict == HOLDS
    assert judge(material, claim(figure="error", of="broken", against="", equals="cuBLAS")).verdict == FAILS
    by_place = judge(material, claim(figure="error", of="broken", against="", equals="gemm.py"))
    assert (by_place.verdict, by_place.here) == (HOLDS, "ValueError: 50264 is not divisible by 16")
    both = Value(word="FlashAttention, FusedAttention", unit="word")
    assert judge(material, claim(figure="backend", equals="FusedAttention"), both).verdict == HOLDS
    assert judge(material, claim(figure="backend", equals="UnfusedDotProductAttention"), both).verdict == FAILS


@pytest.mark.parametrize(
    ("low", "at", "high", "words"),
    [
        (8192.0, math.inf, math.inf, "never up to 8,192"),
        (-math.inf, 256.0, 256.0, "always from 256 on"),
        (256.0, 300.0, 512.0, "300 (256 to 512)"),
        # An interval that says nothing is no place.
        (-math.inf, 2.0, math.inf, "2.00 (below what was measured to beyond what was measured)"),
    ],
)
def test_places_beyond_those_that_were_measured(low, at, high, words):
    assert Value(Estimate(at, low, high, 0, ORDER)).words() == words


def test_nothing_measures_it(material):
    judged = judge(material, claim(figure="none", why="it is an opinion"))
    assert (judged.verdict, judged.why) == (UNKNOWN, "it is an opinion")
    assert judge(material, claim(figure="none")).why == "it is about nothing that a run measures"


def test_what_is_told_without_a_run(material):
    for holds, verdict in ((True, HOLDS), (False, FAILS)):
        judged = judge(material, claim(figure="none", holds=holds, why="448 is 1.75 times 2 to the 8th"))
        assert (judged.verdict, judged.here, judged.why) == (
            verdict, "told without a run", "448 is 1.75 times 2 to the 8th",
        )  # fmt: skip


@pytest.mark.parametrize(("noted", "words"), [(1.24, "1.240×"), ("1.2-1.24x", "1.2-1.24x"), (None, "")])
def test_what_a_note_gives_as_a_range_is_quoted_as_it_writes_it(noted, words):
    assert noted_words(claim(at_least=1.2, noted=noted), TIMES) == words


@pytest.mark.parametrize(
    ("losses", "noted", "here", "verdict"),
    [
        ([2.0, 1.0], False, "finite", FAILS),
        ([2.0, math.nan], False, "NaN in step 1", HOLDS),
        ([2.0, 1.0, math.inf], True, "Inf in step 2", FAILS),
    ],
)
def test_a_claim_on_losses_says_what_they_are(material, tmp_path, losses, noted, here, verdict):
    """`yes` where a note says NaN would be read as its opposite."""
    made = Made(material.study).measured("fast", total=[1.0] * 7, fields={"losses": Losses.of(losses)})
    asks = claim(figure="finite", against="", equals=noted, noted=noted)
    judged = judge(Material(made.write(tmp_path), material.study), asks)
    word = "finite" if noted else "NaN"
    assert (judged.here, judged.verdict, judged.limit, noted_words(asks, "word")) == (here, verdict, word, word)


def test_a_last_loss_is_compared_at_the_step_that_the_table_of_losses_has(material, tmp_path):
    """The one that was measured longer has fallen further since."""
    made = Made(material.study).measured("slow", total=[1.0] * 7, fields={"losses": Losses.of([8.0, 4.0, 2.0, 1.0])})
    made.measured("fast", total=[1.0] * 7, fields={"losses": Losses.of([8.0, 6.0, 3.0])})
    found = Material(made.write(tmp_path), material.study)
    judged = judge(found, claim(figure="last_loss", at_most=2.0))
    # One seed, and nothing that says what another would give.
    assert (judged.here, judged.verdict) == ("1.500× (no interval)", UNKNOWN)
    assert judged.why == "one sample has no interval"
    (grid,) = losses_section(found).grids
    assert "1.500× in step 2" in grid.rows[1]


def test_limits_and_counts_in_words(material):
    assert limit_words(claim(between=(1.0, 1.2)), TIMES) == "1.000× to 1.200×"
    assert limit_words(claim(one_of=("a", "b")), "word") == "a or b"
    assert limit_words(claim(equals=False), "word") == "no"
    told = [judge(material, claim(at_least=limit)) for limit in (1.0, 1.5, 3.0)]
    told.append(judge(material, claim(figure="none")))
    assert count_words(told) == "2 claims hold, 1 does not hold here, 1 cannot be told"
    assert count_words([]) == ""
    assert count_words(told[3:]) == "1 claim cannot be told"
    assert count_words(told[2:]) == "1 claim does not hold here, 1 cannot be told"
    assert count_words([told[3]] * 2) == "2 claims cannot be told"


def test_a_fact_that_is_not_a_number_is_a_word(material, tmp_path):
    facts = {"a": "nan", "b": "-inf", "c": "3.5"}
    folder = Made(material.study).measured("fast", total=[1.0] * 7, fields={"facts": facts}).write(tmp_path)
    found = Material(folder, material.study)
    assert [value(found, f"fact:{name}", "fast").words() for name in facts] == ["nan", "-inf", "3.50"]
    assert value(found, "fact:a", "fast").estimate is None


def test_one_sample_is_not_exact(material, tmp_path):
    """A first step is measured once, however many rounds follow it."""
    made = Made(material.study)
    for name, seconds in (("slow", 2), ("fast", 10)):
        made.measured(name, total=[1.0] * 8, fields={"first_step_ns": seconds * 10**9})
    found = Material(made.write(tmp_path), material.study)
    assert value(found, "first_step_s", "fast").words() == "10.00 s (no interval)"
    for limit in ({"at_least": 1}, {"between": (1, 20)}, {"equals": 10.0}):
        alone = judge(found, claim(figure="first_step_s", against="", **limit))
        assert (alone.verdict, alone.why) == (UNKNOWN, "one sample has no interval")
    both = judge(found, claim(figure="first_step_s", at_least=1.2))
    assert (both.verdict, both.here) == (UNKNOWN, "5.000× (no interval)")


def test_first_steps_of_other_starts_are_samples_too(material, tmp_path):
    """Those whose results lie beside these; a ratio is made start by start, since the host is another in each."""
    starts = {"h200": (2, 10), "h200-2026-11-20": (4, 21), "h200-2026-11-19": (2, 10), "b300-2026-11-18": (9, 9)}
    for day, (name, seconds) in enumerate(starts.items(), 1):
        made = Made(material.study, started=f"2026-11-0{day}T10:00:00+00:00")
        for of, one in zip(("slow", "fast"), seconds, strict=True):
            made.measured(of, total=[1.0] * 8, fields={"first_step_ns": one * 10**9})
        made.write(tmp_path / name)
    found = Material(tmp_path / "h200", material.study)
    # What was set aside on the nineteenth is what is here still.
    assert sorted(found.first_steps("fast").values()) == [10e9, 21e9]
    over = value(found, "first_step_s", "fast", "slow").estimate
    assert over is not None
    assert over.value == pytest.approx((5 + 5.25) / 2)
    assert over.low is not None
    assert 3.5 < over.low < 5 < 5.25 < over.high < 7.5
    assert judge(found, claim(figure="first_step_s", at_least=1.2)).verdict == HOLDS


def test_a_first_step_beside_others_is_no_figure(material, tmp_path):
    """The claim may be younger than the results."""
    made = Made(material.study)
    for name, beside in (("slow", 0), ("fast", 3)):
        fields = {"first_step_ns": 10**9, "first_step_beside": beside}
        made.measured(name, total=[1.0] * 8, fields=fields)
    found = Material(made.write(tmp_path), material.study)
    why = "the first step of fast ran beside others; --fresh measures it alone"
    assert value(found, "first_step_s", "slow").words() == "1.00 s (no interval)"
    assert value(found, "first_step_s", "fast").words() == value(found, "first_step_ms", "fast").words() == why
    told = judge(found, claim(figure="first_step_s", of="slow", against="fast", at_least=1.2))
    assert (told.verdict, told.why) == (UNKNOWN, why)


def steady(busy: list[int]) -> Trace:
    """A recording whose steps of 100 ms each hold a kernel of so many ms."""
    made = Recording()
    for step, ms in enumerate(busy):
        start = step * 100_000
        made = made.range(f"step_{step}", start, start + 99_000)
        made = made.launch("gemm", (start + 1000, start + 2000), (start + 3000, start + 3000 + ms * 1000))
    return made.trace()


def clocked(products_ms: float, other_ms: float, product: str = "nvjet") -> Trace:
    """A recording whose steps each hold a matrix product and another kernel of so many ms, give or take 1%."""
    made = Recording()
    for step in range(12):
        start, by = step * 100_000, 1 + 0.01 * (-1) ** step
        ends = [start + 3000 + ms * by * 1000 for ms in (products_ms, products_ms + other_ms)]
        made = made.range(f"step_{step}", start, start + 99_000)
        made = made.launch(f"{product}_gemm", (start + 1000, start + 1500), (start + 3000, ends[0]))
        made = made.launch("gelu", (start + 1500, start + 2000), (ends[0], ends[1]))
    return made.trace()


@pytest.mark.parametrize(
    ("slow", "fast", "verdict", "why"),
    [
        # The clock is the same, and 10 ms of 40 are saved.
        ((30, 10), (30, 0.1), HOLDS, ""),
        # All of what is saved is the clock's doing: products take 8% less too.
        ((30, 10), (27.6, 9.2), UNKNOWN, "the GPU's clock differs by as much between both recordings (8.7%)"),
        # Twice that is saved.
        ((30, 10), (27.6, 2.0), HOLDS, ""),
    ],
)
def test_a_ratio_of_recorded_times_is_as_wide_as_the_clock_makes_it(material, tmp_path, slow, fast, verdict, why):
    made = Made(material.study)
    for name, ms in (("slow", slow), ("fast", fast)):
        store.write(clocked(*ms), tmp_path / f"{name}.tetrace")
        made.measured(name, total=[1.0] * 7, recording=tmp_path / f"{name}.tetrace")
    found = Material(made.write(tmp_path / "results"), material.study)
    told = judge(found, claim(figure="busy_ms", at_most=0.95))
    assert (told.verdict, told.why) == (verdict, why)
    # The noise of a step is some per cent too.
    assert judge(found, claim(figure="busy_ms", at_least=1.2)).verdict == FAILS


def test_recordings_without_a_product_in_common_have_the_clocks_of_identical_ones(tmp_path):
    toml = """
    title = "t"
    [options]
    fp8 = false
    [[matrix]]
    name = "main"
    axes.kind.slow = {}
    axes.kind.fast = {fp8 = true}
    [[matrix]]
    name = "again"
    axes.kind.slow = {}
    """
    of = study(tmp_path, toml)
    made = Made(of)
    for name, ms in (("slow", 30), ("again:slow", 33), ("fast", 27.6)):
        path = tmp_path / f"{name.replace(':', '.')}.tetrace"
        store.write(clocked(ms, ms / 3, "other" if name == "fast" else "nvjet"), path)
        made.measured(name, total=[1.0] * 7, recording=path)
    found = Material(made.write(tmp_path / "results"), of)
    assert value(found, "busy_ms", "fast", "slow").clocks_apart == pytest.approx(1.1, abs=0.001)
    assert judge(found, claim(figure="busy_ms", at_most=0.99)).verdict == UNKNOWN


@pytest.mark.parametrize(
    ("busy", "words", "verdict"),
    [
        ([40, 42, 41, 43, 39, 41, 40, 42, 41, 40, 42, 41], "", HOLDS),
        ([40] * 12, "40.000 ms", HOLDS),
        ([40, 42, 41], "41.000 ms (no interval)", UNKNOWN),
    ],
)
def test_recorded_times_have_the_interval_of_their_steps(material, tmp_path, busy, words, verdict):
    store.write(steady(busy), tmp_path / "fast.tetrace")
    made = Made(material.study).measured("fast", total=[1.0] * 7, recording=tmp_path / "fast.tetrace")
    found = Material(made.write(tmp_path / "results"), material.study)
    one = value(found, "busy_ms", "fast")
    if verdict == UNKNOWN:
        assert judge(found, claim(figure="busy_ms", against="", at_most=100)).why == "2 recorded steps, 8 are needed"
        both = judge(found, claim(figure="busy_ms", against="fast", at_most=100))
        assert (both.verdict, both.why) == (UNKNOWN, "2 recorded steps, 8 are needed")
    whole = judge(found, claim(figure="step_max_ms", against="", at_most=1000))
    assert (whole.verdict, whole.why) == (UNKNOWN, "it is of the whole recording, without a value for each step")
    if words:
        assert one.words() == words
    else:
        assert one.estimate.way == STEPS
        assert 40 < one.estimate.low < one.estimate.value < one.estimate.high < 42
    assert judge(found, claim(figure="busy_ms", against="", at_most=100)).verdict == verdict
    assert value(found, "launches", "fast").words() == "1 launches a step"
