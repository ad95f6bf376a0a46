"""Configurations that run the same: what they differ by is said, and no claim on a ratio may be smaller."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.study.made import Made, study
from tests.traces import Recording
from tetrace.study.claims import FAILS, HOLDS, UNKNOWN, judge
from tetrace.study.identical import deviation, identical, identical_phases, identical_words
from tetrace.study.material import Material
from tetrace.study.measured import measured_section
from tetrace.study.spec import Claim
from tetrace.study.speedups import is_told
from tetrace.trace import store

TOML = """
title = "t"
question = "q"
[options]
fp8 = false
[[matrix]]
name = "main"
axes.kind.slow = {}
axes.kind.fast = {fp8 = true}
baseline = "slow"
[[matrix]]
name = "other"
axes.kind.plain = {}
axes.kind.also = {fp8 = true}
"""
SAME = "other:plain / slow 0.960× (0.960 to 0.960)"


def material(folder: Path, plain: float, fields: dict | None = None, many: int = 8) -> Material:
    """`slow` takes 1.03 ms a step, `fast` 1.00, and `other:plain`, which is the same as slow, `plain`."""
    of = study(folder, TOML)
    times = {"slow": (0.515, 0.515), "fast": (0.5, 0.5), "other:plain": (plain / 2, plain / 2)}
    made = Made(of)
    for name, (forward, backward) in times.items():
        own = fields if name == "other:plain" else None
        made.measured(name, forward=[forward] * many, backward=[backward] * many, fields=own)
    return Material(made.write(folder / "results"), of)


def claim(**said) -> Claim:
    return Claim(says="s", **{"figure": "speedup", "of": "fast", "against": "slow", **said})


def test_they_are_listed_with_their_ratio(tmp_path):
    found = material(tmp_path, 1.03 / 0.96)
    assert [one.names for one in identical(found)] == [("other:plain", "slow")]
    assert deviation(found) == pytest.approx(0.0408, abs=1e-4)
    assert any(line.startswith(f"Identical configurations: {SAME}. ") for line in measured_section(found).said)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ({"at_least": 1.0}, HOLDS),
        ({"at_least": 1.05}, FAILS),
        ({"at_least": 1.02, "figure": "forward_speedup"}, HOLDS),
        ({"equals": 1.05}, FAILS),
        # The other way round: a time over another.
        ({"at_most": 1.0, "figure": "total_ms"}, HOLDS),
    ],
)
def test_a_verdict_stands_beside_what_they_differ_by(tmp_path, said, verdict):
    alike = material(tmp_path / "alike", 1.03)
    assert (judge(alike, claim(**said)).verdict, judge(alike, claim(**said)).why) == (verdict, "")
    apart = material(tmp_path / "apart", 1.03 / 0.96)
    judged = judge(apart, claim(**said))
    assert (judged.verdict, judged.why) == (UNKNOWN, "identical configurations differ by as much (4.2%)")
    # What is further away than that stays.
    assert judge(apart, claim(at_least=0.9)).verdict == HOLDS
    assert judge(apart, claim(at_least=1.2)).verdict == FAILS


def test_only_ratios_of_times_are_widened(tmp_path):
    of = study(tmp_path, TOML)
    made = Made(of)
    for name, ms, size in (("slow", 1.03, 103), ("fast", 1.0, 100), ("other:plain", 2.0, 103)):
        made.measured(name, total=[ms] * 8, fields={"peak_allocated_bytes": size})
    found = Material(made.write(tmp_path / "results"), of)
    assert judge(found, claim(at_least=1.0)).verdict == UNKNOWN
    # Bytes are counted, and a time alone is no ratio.
    assert judge(found, claim(figure="memory_ratio", of="slow", against="fast", at_least=1.0)).verdict == HOLDS
    assert judge(found, claim(figure="total_ms", against="", at_most=1.01)).verdict == HOLDS


def test_other_options_are_not_the_same(tmp_path):
    other = material(tmp_path / "options", 2.0, {"options": {"fp8": True}, "environment": {"A": "1"}})
    assert (identical(other), deviation(other), identical_words(other)) == ([], 0, "")


@pytest.mark.parametrize(("recordings", "same"), [(("bf16", "bf16"), True), (("bf16", "fp8-delayed"), False)])
def test_a_variable_that_changes_no_kernel_makes_no_difference(tmp_path, recordings, same):
    """A library that chooses by itself what another configuration is told to take."""
    toml = """
    title = "t"
    [options]
    layers = 4
    [[matrix]]
    name = "main"
    axes.backend.told.environment = {CHOOSE = "1"}
    axes.backend.by_itself = {}
    """
    of = study(tmp_path, toml)
    made = Made(of)
    for name, recording in zip(("told", "by_itself"), recordings, strict=True):
        made.measured(name, total=[1.0] * 8, recording=recording)
    found = Material(made.write(tmp_path / "results"), of)
    assert [one.names for one in identical(found)] == [("by_itself", "told")] * same
    alone = Made(of).measured("told", total=[1.0] * 8).measured("by_itself", total=[1.0] * 8)
    assert identical(Material(alone.write(tmp_path / "alone"), of)) == []


@pytest.mark.parametrize(
    ("rounds", "many", "said"),
    [
        ({"group": 1}, 8, "other:plain / slow 0.500× (not interleaved)"),
        ({"group": 0}, 1, "other:plain / slow 0.500×. "),
    ],
    ids=["not interleaved", "one round"],
)
def test_those_without_an_interval_say_so_and_widen_none(tmp_path, rounds, many, said):
    of = study(tmp_path / "alone", TOML)
    made = Made(of).measured("slow", total=[1.0] * 8, rounds={"group": 0})
    made.measured("fast", total=[0.9] * 8, rounds={"group": 0})
    made.measured("other:plain", total=[2.0] * many, rounds=rounds)
    alone = Material(made.write(tmp_path / "alone/results"), of)
    assert deviation(alone) == 0
    assert is_told(alone, "fast", "slow")
    assert said in identical_words(alone)
    assert "Of those without an interval drift is in the ratio" in identical_words(alone)


@pytest.mark.parametrize(
    ("idles", "by", "verdict"),
    [
        # ms that the GPU idles in a recorded step of 1 ms: of `small` (and what is the same), of `large` (likewise).
        ((0.9, 0.02), 0.002, FAILS),
        ((0.9, 0.4), 0.1, UNKNOWN),
        ((0.02, 0.02), 0.1, UNKNOWN),
        ((0.9, None), 0.1, UNKNOWN),
    ],
)
def test_steps_that_the_gpu_works_through_are_not_compared_with_what_waits_for_a_host(tmp_path, idles, by, verdict):
    """Hosts of `small` and its like differ by 10%, steps of `large` and its like by 0.2%."""
    names = ("small", "small:again", "large", "large:again", "faster")
    of = study(
        tmp_path,
        'title = "t"\nquestion = "q"\n[options]\nbatch = 1\n[[matrix]]\nname = "main"\nbaseline = "large"\n'
        "axes.kind.small = {}\naxes.kind.large = {batch = 8}\naxes.kind.faster = {batch = 9}\n"
        '[[matrix]]\nname = "small"\naxes.kind.again = {}\n[[matrix]]\nname = "large"\naxes.kind.again = {batch = 8}\n',
    )
    made = Made(of)
    for name, ms in zip(names, (1.0, 1.1, 8.0, 8.016, 7.0), strict=True):
        made.measured(name, total=[ms] * 8)
    found = Material(made.write(tmp_path / "results"), of)
    recorded = {"small": idles[0], "large": idles[1], "faster": idles[1]}

    def breakdown(name):
        if recorded.get(name) is None:
            return None
        totals = SimpleNamespace(activities=1, steps=0, wall_ns=1_000_000, all_idle_ns=round(1e6 * recorded[name]))
        return SimpleNamespace(totals=totals)

    found.breakdown = breakdown
    assert deviation(found, of=("faster", "large")) == pytest.approx(math.log(1 + by), abs=1e-6)
    assert deviation(found) == pytest.approx(math.log(1.1))
    assert judge(found, claim(of="faster", against="large", at_least=1.2)).verdict == verdict


def steps(forward: str, backward: str, runs_ms: float = 1.0, more: int = 0) -> Recording:
    """Steps of 20 ms, each with a kernel in forward and one in backward, `more` of these."""
    made = Recording()
    for step in range(4):
        start = 20_000 * step
        made = made.range(f"step_{step}", start, start + 19_900)
        for place, (phase, name) in enumerate((("forward", forward), *[("backward", backward)] * (1 + more))):
            at = start + 6000 * place
            made = made.range(phase, at, at + 5900)
            made = made.launch(name, (at + 10, at + 20), (at + 30, at + 30 + 1000 * runs_ms))
    return made


@pytest.mark.parametrize(
    ("recording", "of", "same"),
    [
        (steps("gemm", "e4m3"), {}, True),
        # One that is the same all through says nothing of its option: what it does may be the host's.
        (steps("gemm", "e5m2"), {}, False),
        (steps("other", "e4m3"), {}, False),
        (steps("gemm", "e4m3", more=1), {}, False),
        (steps("gemm", "e4m3"), {"tokens": 2}, False),
        (steps("gemm", "e4m3"), {"environment": {"A": "1"}}, False),
    ],
)
def test_a_forward_that_the_option_does_not_change_tells_what_processes_differ_by(tmp_path, recording, of, same):
    """The whole step is 4% faster, and so is the forward that runs the same."""
    planned = study(tmp_path, TOML)
    made = Made(planned)
    for name, ms, one in (("slow", 1.04, steps("gemm", "e5m2")), ("fast", 1.0, recording)):
        store.write(one.trace(), tmp_path / f"{name}.tetrace")
        own = {"tokens": 1, "flops": 1, **(of if name == "fast" else {})}
        made.measured(
            name, forward=[ms] * 8, backward=[ms] * 8, recording=tmp_path / f"{name}.tetrace", fields=own
        )  # fmt: skip
    found = Material(made.write(tmp_path / "results"), planned)
    assert [(one.names, one.phase) for one in identical_phases(found)] == [(("slow", "fast"), "forward")] * same
    if not of:
        assert is_told(found, "fast", "slow") is not same
        assert judge(found, claim(at_least=1.01)).verdict == (UNKNOWN if same else HOLDS)
    assert ("Identical in forward alone: slow / fast 0.962×" in identical_words(found)) is same


def test_a_step_that_hardly_waits_is_not_compared_with_what_hosts_differ_by(tmp_path):
    planned = study(tmp_path, TOML)
    made = Made(planned)
    for name, backward in (("slow", "e5m2"), ("fast", "e4m3")):
        store.write(steps("gemm", backward, runs_ms=5.8).trace(), tmp_path / f"{name}.tetrace")
        ms = 1.04 if name == "slow" else 1.0
        made.measured(name, forward=[ms] * 8, backward=[ms] * 8, recording=tmp_path / f"{name}.tetrace")
    found = Material(made.write(tmp_path / "results"), planned)
    assert len(identical_phases(found)) == 1
    assert is_told(found, "fast", "slow")
