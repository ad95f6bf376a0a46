"""What a report says of a recorded difference beside the timed one: no more than both hold."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tests.study.made import Made, study
from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.changes import CHANGED, NOISE, TOO_FEW
from tetrace.study.explanation import OWN_KERNELS, Cause, Explanation, _any_layer, quotable
from tetrace.study.material import Material
from tetrace.study.why import both_numbers, causes_grid, explanation_grid

TOML = """
title = "t"
[[matrix]]
name = "main"
axes.one = ["a", "b"]
baseline = "a"
"""
HOST, GEMMS = "GPU waits for the host: GEMM calls", "GEMMs"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    """Two configurations under the power cap, in one round of three each."""
    folder = tmp_path_factory.mktemp("why")
    of = study(folder, TOML)
    made = Made(of).measured("a", total=[1.0] * 2).measured("b", total=[1.0], rounds={"throttled": ("power cap",)})
    return Material(made.write(folder / "results"), of)


def explained(
    busy: tuple[float, float], idle: tuple[float, float], timed: tuple[float, float] | None, verdict: str = CHANGED,
    **more: Any,
) -> Explanation:  # fmt: skip
    """Of steps in which the GPU works in one kernel and waits in one call, ms before and after."""
    works, waits = (tuple(Fraction(round(ms * 1000)) * 1000 for ms in pair) for pair in (busy, idle))
    causes = [
        Cause(BUSY, GEMMS, "forward", "nvjet", *works, (Fraction(1), Fraction(1))),
        Cause(IDLE, HOST, "backward", "gemm", *waits, (Fraction(1), Fraction(1))),
    ]
    step = (works[0] + waits[0], works[1] + waits[1])
    alone = None if timed is None else (timed[0] * 1e6, timed[1] * 1e6)
    return replace(Explanation(("a", "b"), "Said.", verdict, step, works, tuple(causes), {}, alone), **more)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        # The host is what both wait for, longer while it is recorded.
        (explained((2, 2), (8, 13), (8, 11)), "+0.00 of it is work of the GPU as recorded, +3.00 waiting."),
        # A graph adds nothing to a step, and what it saves is waiting all the same.
        (explained((2, 2), (8, 0.1), (8, 2.1)), "+0.00 of it is work of the GPU as recorded, −5.90 waiting."),
        # Less idle than would be waiting.
        (
            explained((18, 16.5), (0.13, 0.1), (18.1, 17.0)),
            "−1.50 of it is work of the GPU as recorded, +0.40 is more than waiting can be where recorded steps idle 0.13 and "
            "0.10 ms: kernels at another speed than recorded (clocks: under the power cap in 1 of 3 rounds). Recording adds "
            "0.030 and −0.40 ms.",
        ),
        # Enough of it, but the recorder lengthened no step.
        (
            explained((17, 17), (1.0, 0.5), (18.2, 17.9)),
            "−0.30 is not waiting, which a recorder lengthens: kernels at another speed than recorded (clocks: under the",
        ),
        # Steps that wait for the host, and were faster while they were recorded.
        (
            explained((2, 2), (8, 8), (10, 12)),
            "+2.00 is waiting or kernels at another speed, which the recordings do not tell. Recording adds 0.00 and −2.00",
        ),
        (
            explained((2, 2), (0.1, 2), (2, 5)),
            "+3.00 is waiting or kernels at another speed, which the recordings do not tell.",
        ),
        (explained((2, 2), (0.1, 2), None), "Said. Without a recorder it was not timed."),
    ],
)
def test_only_what_a_recorder_cannot_shorten_is_called_waiting(material, found, words):
    assert words in both_numbers(material, found)


def test_kernels_that_the_recorder_launched_lengthen_no_waiting(material):
    """They make a recorded step longer, by more here than kernels were faster while it was recorded."""
    found = explained((17, 17), (1.0, 0.5), (18.2, 17.9))
    own = Cause(BUSY, OWN_KERNELS, "forward", "stats", Fraction(10**6), Fraction(10**6), (Fraction(1), Fraction(1)))
    steps, busy = (tuple(one + 10**6 for one in pair) for pair in (found.step_ns, found.busy_ns))
    said = both_numbers(material, replace(found, causes=(*found.causes, own), step_ns=steps, busy_ns=busy))
    assert "−0.30 is not waiting, which a recorder lengthens" in said
    assert "Recording adds 0.80 and 0.60 ms." in said


def test_clocks_are_named_alone_where_no_round_noted_the_cap(tmp_path):
    of = study(tmp_path, TOML)
    folder = Made(of).measured("a", total=[1.0]).measured("b", total=[1.0]).write(tmp_path / "results")
    said = both_numbers(Material(folder, of), explained((18, 16.5), (0.13, 0.1), (18.1, 17.0)))
    assert "kernels at another speed than recorded (clocks)." in said


@pytest.mark.parametrize(
    ("found", "explains", "title"),
    [
        (explained((5, 3), (1, 1), (6, 4.1)), True, ""),
        (explained((5, 3), (1, 1), None), True, ""),
        (explained((5, 3), (1, 1), (6, 5)), True, ""),
        (explained((5, 3), (1, 1), (6, 5.1)), False, "recorded −2.00 ms, timed −0.90 ms"),
        (explained((5, 3), (1, 1), (6, 6.57)), False, "recorded −2.00 ms, timed +0.57 ms"),
        (explained((5, 3), (1, 1), (6, 6)), False, "recorded −2.00 ms, timed +0.00 ms"),
        (explained((5, 5), (1, 1), (6, 5)), False, "recorded +0.00 ms, timed −1.00 ms"),
        (explained((5, 3), (1, 1), (6, 4), NOISE), False, "recorded −2.00 ms, within noise, timed −2.00 ms"),
        (explained((5, 3), (1, 1), (6, 4), TOO_FEW), False, "recorded −2.00 ms, of too few steps, timed −2.00 ms"),
    ],
)
def test_a_table_says_first_that_it_does_not_explain(material, found, explains, title):
    assert found.explains is explains
    said = explanation_grid(material, found).title.partition("; ")[2]
    assert said == (f"does not explain the timed difference: {title}" if title else "")


def test_without_a_timed_difference_noise_explains_nothing(material):
    found = explained((5, 3), (1, 1), None, NOISE)
    assert explanation_grid(material, found).title.endswith("; explains nothing: recorded −2.00 ms, within noise")


def test_rows_of_the_host_are_quoted_only_where_the_difference_is_the_timed_one():
    good, bad = explained((5, 3), (8, 3), (9, 4)), explained((5, 3), (8, 3), (9, 10))
    assert [group.name for group in quotable(good)] == [HOST, GEMMS]
    assert [group.name for group in quotable(good, "backward")] == [HOST]
    assert [group.name for group in quotable(bad)] == [GEMMS]
    assert list(quotable(bad, "backward")) == []


@pytest.mark.parametrize("timed", [(9.0, 4.0), (9.0, 10.0)])
def test_what_the_recorder_launched_is_never_quoted(timed):
    found = explained((5, 3), (8, 3), timed)
    own = Cause(BUSY, OWN_KERNELS, "forward", "stats", Fraction(0), Fraction(10**7), (Fraction(0), Fraction(1)))
    assert OWN_KERNELS not in [group.name for group in quotable(replace(found, causes=(*found.causes, own)))]


def test_shares_of_what_cancels_out_or_is_noise_are_left_out(material):
    """+4 and −3.9 ms of 0.1: 4000% of it says nothing. Rows are then cut by all changes."""
    cancels = explained((5, 1.1), (1, 5), (6, 6.1))
    noise = explained((5, 3), (1, 1), (6, 4), NOISE)
    for found in (cancels, noise):
        assert not found.has_shares
        grid = explanation_grid(material, found)
        assert "of it" not in [column.head for column in grid.columns]
        assert not any("%" in cell for row in (*grid.rows, grid.total) for cell in row)
        assert len(grid.columns) == len(grid.total) == len(grid.rows[0])
        assert {row[6] for row in causes_grid(found).rows} == {""}
    kept = explained((5, 3), (1, 1), (6, 4))
    assert explanation_grid(material, kept).total[3] == "100.0%"
    small = [
        Cause(BUSY, f"small {n}", "forward", "k", Fraction(0), Fraction(100_000), (Fraction(1), Fraction(1)))
        for n in "ab"
    ]
    shown, left = replace(cancels, causes=(*cancels.causes, *small)).rows()
    # 0.2 of 8.1 ms; of the difference they would be most.
    assert ([group.name for group in shown], [group.name for group in left]) == ([HOST, GEMMS], ["small a", "small b"])


def test_noise_is_said_once(material):
    found = explained((5, 3), (1, 1), (6, 4), NOISE, sentence="Net −2 ms, within noise (±3 ms).")
    assert both_numbers(material, found).count("within noise") == 1


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
    assert _any_layer(name) == said


def test_time_is_not_called_like_a_count():
    """`launches` is a column of counts beside it."""
    from tests.study.test_explanation import explained as recorded

    said = recorded("bf16", "fp8-delayed").sentence
    assert "waiting for launches +" in said
    assert " launches +" not in said.replace("waiting for launches", "")
