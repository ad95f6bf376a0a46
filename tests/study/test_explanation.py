"""Explanations of real recordings: they add up to the last fraction, name what they are about, and hide nothing."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

import tetrace
from tests.breakdown.scaled import run_of, scattered
from tests.study.made import RECORDINGS, Made, study
from tests.traces import Recording
from tetrace.attribute.attribution import attribute
from tetrace.attribute.kernel_rules import INSPECTION
from tetrace.breakdown.account import BUSY, IDLE
from tetrace.breakdown.analysis import break_down
from tetrace.breakdown.changes import TOO_FEW
from tetrace.breakdown.compare import compare
from tetrace.study.causes import work_noise_ns
from tetrace.study.explain import explain
from tetrace.study.explanation import Explanation
from tetrace.study.material import Material

GEMM = "nvjet_sm90_qqtst_256x128_128x4_1x2_h_bz_coopA_TNT"
STATISTICS = "tetrace_fp8_bf16_moments_one"
DATA = Path(__file__).parent.parent / "data"
PAIRS = [
    ("bf16", "fp8-delayed"),
    ("bf16", "fp8-current"),
    ("bf16", "fp8-delayed-graphs"),
    ("fp8-delayed", "fp8-current"),
    ("te4-bf16.sqlite", "te4-fp8.sqlite"),
]


@cache
def run(name: str):
    return tetrace.analyze(tetrace.load(DATA / name if name.endswith(".sqlite") else RECORDINGS / f"{name}.tetrace"))


@cache
def explained(a: str, b: str) -> Explanation:
    return explain(run(a), run(b), (a, b))


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_causes_and_groups_are_the_recorded_difference_exactly(a, b):
    found = explained(a, b)
    totals = [run(name).totals for name in (a, b)]
    steps = [Fraction(one.wall_ns, one.steps) for one in totals]
    assert found.step_ns == tuple(steps)
    assert sum(cause.difference_ns for cause in found.causes) == steps[1] - steps[0] == found.difference_ns
    assert sum(group.difference_ns for group in found.groups) == found.difference_ns
    busy = [Fraction(one.busy_ns, one.steps) for one in totals]
    kernels = [cause for cause in found.causes if cause.kind == BUSY]
    assert sum(cause.before_ns for cause in kernels) == busy[0]
    assert sum(cause.after_ns for cause in kernels) == busy[1]
    assert found.difference_ns == compare(run(a), run(b)).difference_ns


@pytest.mark.parametrize(("a", "b"), PAIRS)
@pytest.mark.parametrize("timed", [(10_000_000.25, 17_123_456.7), (2_000_000.1, 40_000_000.0), (3e6, 1e5)])
def test_causes_and_groups_are_the_timed_difference_exactly(a, b, timed):
    found = explain(run(a), run(b), (a, b), timed)
    exact = tuple(map(Fraction, timed))
    assert found.explained_ns == exact
    assert [sum(getattr(one, end) for one in found.groups) for end in ("before_ns", "after_ns")] == list(exact)
    shown, left = found.rows()
    assert sum(group.difference_ns for group in (*shown, *left)) == exact[1] - exact[0] == found.difference_ns
    # What was recorded stays beside it, and works as long.
    recorded = explained(a, b)
    assert found.recorded == recorded.recorded
    assert found.work_ns == recorded.work_ns
    assert {one.recorded_ns for one in found.causes} >= {one.recorded_ns for one in recorded.causes}


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_causes_of_a_phase_are_its_timed_difference_exactly(a, b):
    timed = (6_000_000.1, 9_000_000.7)
    # Beside one another, as medians of their own are: they do not add up to the step.
    phases = {"forward": (3e6, 4.4e6), "backward": (2.4e6, 3.3e6), "optimizer": (7.1e5, 1.5e6)}
    found = explain(run(a), run(b), (a, b), timed, phases)
    assert found.explained_ns == tuple(map(Fraction, timed))
    assert found.phases_ns.keys() == phases.keys()
    for side, end in enumerate(("before_ns", "after_ns")):
        scale = Fraction(timed[side]) / sum(Fraction(pair[side]) for pair in phases.values())
        for phase, pair in phases.items():
            own = sum(getattr(one, end) for one in found.causes if one.phase == phase)
            assert own == found.phases_ns[phase][side] == scale * Fraction(pair[side])
    # What the recordings have no name for, or nobody timed, is not guessed.
    for others in ({"forward": (3e6, 4e6), "backward": (3e6, 5e6)}, {**phases, "loss": (1e5, 1e5)}, {}):
        whole = explain(run(a), run(b), (a, b), timed, others)
        assert not whole.phases_ns
        assert whole.explained_ns == found.explained_ns


@pytest.mark.parametrize(
    ("left_out", "phases"),
    [
        # 0.5 ms between a step's last phase and the next one's first belong to what begins then.
        ((), {"forward": (4.5, 3.5), "backward": (5.0, 3.0), "optimizer": (0.5, 0.5)}),
        # A phase of one configuration alone: phases are not known. Recorded in both and timed in neither: nor then.
        (("b optimizer",), {}),
        (("a optimizer", "b optimizer"), {}),
    ],
)
def test_phases_are_those_of_the_studys_steps(tmp_path, left_out, phases):
    of = study(tmp_path, 'title = "t"\n[[matrix]]\nname = "main"\naxes.one = ["a", "b"]\nbaseline = "a"')
    made = Made(of)
    for name, total, forward, backward in (("a", 10.0, 4.0, 5.0), ("b", 7.0, 3.0, 3.0)):
        times = {"forward": forward, "backward": backward, "optimizer": 0.5}
        kept = {phase: [ms] * 3 for phase, ms in times.items() if f"{name} {phase}" not in left_out}
        made.measured(name, total=[total] * 3, recording="bf16" if name == "a" else "fp8-delayed", **kept)
    found = Material(made.write(tmp_path / "results"), of).explanation("b", "a")
    assert {phase: tuple(float(ns) / 1e6 for ns in pair) for phase, pair in found.phases_ns.items()} == {
        phase: pytest.approx(pair) for phase, pair in phases.items()
    }
    assert found.timed_ns == (10e6, 7e6)


def test_a_phase_that_only_some_steps_have_is_not_charged_by_itself(tmp_path):
    """An optimizer in every third step: its median is that of other steps than the median step."""
    of = study(tmp_path, 'title = "t"\n[[matrix]]\nname = "main"\naxes.one = ["a", "b"]\nbaseline = "a"')
    made = Made(of)
    for name, recording in (("a", "bf16"), ("b", "fp8-delayed")):
        times = {"forward": [4.0] * 3, "backward": [5.0] * 3, "optimizer": [4.0] * 3}
        made.measured(name, total=[9.0] * 3, recording=recording, **times)
    folder = made.write(tmp_path / "results")
    file = folder / "steps.csv"
    rows = [line.split(",") for line in file.read_text().splitlines()]
    for row in rows[1:]:
        row[-1] = row[-1] if row[2] == "2" else ""
    file.write_text("\n".join(map(",".join, rows)) + "\n")
    assert Material(folder, of).time("a", "optimizer") is not None
    assert Material(folder, of).explanation("b", "a").phases_ns == {}


def test_one_phase_is_the_clocks_and_another_the_hosts():
    """Two drifting recordings, of which the second one's forward waits for a host that somebody slowed."""
    drift = DATA / "drift"
    a, b = (tetrace.analyze(tetrace.load(drift / f"{name}.tetrace")) for name in ("large-none", "large-hybrid"))
    phases = {"forward": (27e6, 24e6), "backward": (44e6, 38e6), "optimizer": (1.25e6, 1.2e6)}
    timed = (sum(pair[0] for pair in phases.values()), sum(pair[1] for pair in phases.values()))
    found = explain(a, b, ("a", "b"), timed, phases)
    clocks = {part: tuple(one.by_clock_ns is not None for one in sides) for part, sides in found.charged.parts.items()}
    assert clocks == {"forward": (True, False), "backward": (True, True), "optimizer": (False, False)}
    assert [set(side) for side in found.clock_doubts] == [{"forward", "backward"}, {"backward"}]
    for side, end in enumerate(("before_ns", "after_ns")):
        for phase, pair in phases.items():
            assert sum(getattr(one, end) for one in found.causes if one.phase == phase) == found.phases_ns[phase][side]
            assert float(found.phases_ns[phase][side]) == pytest.approx(pair[side])
            # What the clock adds is charged to kernels in parts that add up to it.
            rates = sum(one.rates[side] for one in found.recorded if one.phase == phase)
            assert rates == int(found.charged.parts[phase][side].by_clock_ns is not None)
    assert all(one < 1e-6 for one in found.phases_off_by_ns.values())
    # Medians of their own: 1 ms more in a step, which phases share, and 0.5 ms between steps, which are forward's.
    apart = explain(a, b, ("a", "b"), (timed[0], timed[1] + 1.5e6), phases, (0.0, 0.5e6)).phases_off_by_ns
    assert apart["backward"] == pytest.approx(1e6 * phases["backward"][1] / (timed[1] + 0.5e6))
    assert apart["forward"] > 0.5e6


def test_noise_of_work_is_that_of_its_categories():
    """Two runs of twenty steps that scatter, and one of seven."""
    runs = [run_of(scattered(20, seed, noise=0.02), seed) for seed in (1, 2)]
    found = explain(runs[0], runs[1], ("a", "b"), (1e7, 1e7))
    parts = [row for row in compare(*runs).tables["parts"].rows if row.labels[0] == BUSY]
    assert found.work_noise_ns == sum(row.difference_noise_ns for row in parts) > 0
    own = [row for row in compare(*runs).tables["rows"].rows if row.labels[0] == BUSY]
    noise = {(cause.phase, cause.name): cause.noise_ns for cause in found.recorded if cause.kind == BUSY}
    assert noise == {row.labels[2:]: row.difference_noise_ns for row in own}
    few = explain(runs[0], run_of([1.0] * 7), ("a", "b"), (1e7, 1e7))
    assert (few.work_noise_ns, few.doubt) == (None, TOO_FEW)


def test_noise_of_work_leaves_out_what_a_timed_step_does_not_run():
    rows = [((BUSY, "gemm"), 2.0), ((BUSY, "memory"), 0.5), ((BUSY, INSPECTION), 5.0), ((IDLE, "host_bound"), 9.0)]
    parts = SimpleNamespace(rows=[SimpleNamespace(labels=labels, difference_noise_ns=ns) for labels, ns in rows])
    assert work_noise_ns(SimpleNamespace(tables={"parts": parts})) == 2.5


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_no_row_hides_more_than_a_twentieth(a, b):
    found = explained(a, b)
    shown, left = found.rows()
    assert [*shown, *left] == list(found.groups)
    assert sum(abs(group.difference_ns) for group in left) <= abs(found.difference_ns) / 20
    for group in shown:
        if abs(group.difference_ns) > abs(found.difference_ns) / 20:
            assert group.name not in ("idle", "other")
            assert not group.name.startswith(("idle", "other", "all else"))
    # All that is shown says more than what would still fit into the rest.
    assert len(left) != 1


def test_what_fp8_adds_to_a_step_that_waits_for_the_host():
    """The whole table of the recordings that the README shows; ms, before and after."""
    shown, left = explained("bf16", "fp8-delayed").rows()
    table = [(group.name, *(round(float(ns) / 1e6, 3) for ns in (group.before_ns, group.after_ns))) for group in shown]
    assert table == [
        ("GPU waits for the host: Python of modules", 4.833, 8.28),
        ("GPU waits for the host: calls that quantize", 0.029, 2.344),
        ("GPU waits for the host: GEMM calls", 1.151, 2.053),
        ("GEMMs", 1.753, 1.061),
        ("GPU waits for the host: autograd, before elementwise", 0.547, 1.036),
        ("GPU waits for a launch: calls that quantize", 0.0, 0.44),
        ("GPU waits for the host: attention calls", 1.007, 1.36),
        ("GPU waits for the host: between modules, before a module", 0.031, 0.365),
        ("quantization", 0.0, 0.317),
        ("GPU waits for the host: optimizer", 0.26, 0.466),
        ("GPU waits for the host: backward", 0.133, 0.278),
        ("GPU waits for a launch: GEMM calls", 0.379, 0.512),
        ("GPU waits for the host: autograd, before casts and GEMMs", 0.239, 0.367),
        ("GPU waits for a launch: Python of modules", 0.315, 0.437),
        ("GPU waits for the host: between modules, before (optimizer)", 0.064, 0.144),
        ("GPU waits for the host: between modules, before (loss)", 0.081, 0.149),
        ("GPU waits for the host: nvte_layernorm_bwd", 0.007, 0.057),
    ]
    assert len(left) == 36
    gemms = next(group for group in shown if group.name == "GEMMs")
    assert [(cause.name, cause.phase) for cause in gemms.causes[:2]] == [
        ("nvjet bf16 → nvjet fp8", "backward"),
        ("nvjet bf16 → nvjet fp8", "forward"),
    ]
    # Layers are one place: `layers.0` to `layers.3`.
    assert not any("layers.0" in cause.name for cause in explained("bf16", "fp8-delayed").causes)


def test_time_in_no_range_says_what_the_host_was_on_its_way_to():
    """In backward autograd's thread is in no range between the modules' nodes; in forward it is the script."""
    causes = [one for one in explained("bf16", "fp8-delayed").recorded if one.name.startswith(("(no range)", "(step)"))]
    assert causes
    for one in causes:
        who, before = one.group.split(": ")[1].split(", before ")
        assert before
        assert who == (
            "autograd" if one.phase == "backward" and one.name.startswith("(no range)") else "between modules"
        )


def test_a_run_against_itself_has_no_difference():
    found = explained("bf16", "bf16")
    assert found.difference_ns == 0
    assert all(cause.difference_ns == 0 for cause in found.causes)
    shown, left = found.rows()
    assert (shown, len(left)) == ((), len(found.groups))


def test_what_the_gpu_waits_for_the_recorders_kernels_is_the_recorders_whatever_the_host_did():
    """In a step of 100 µs the GPU waits for tetrace's statistics in a module, a call and between modules, and for GEMMs."""
    recording = (
        Recording()
        .range("step_0", 0, 100)
        .site("module", "proj", 0, 60, phase="forward", module="proj")
        .launch(GEMM, (0, 1), (1, 10))
        .launch(STATISTICS, (29, 30), (30, 31))
        .site("quantize", "quantize input", 31, 50, module="proj", role="input")
        .launch(STATISTICS, (39, 40), (40, 41))
        .launch(GEMM, (49, 50), (50, 60))
        .launch(STATISTICS, (79, 80), (80, 81))
        .launch(GEMM, (98, 99), (99, 100))
    )
    run = break_down(attribute(recording.trace()))
    waits = [one for one in explain(run, run, ("a", "b")).recorded if one.kind == IDLE]
    own = sum(one.recorded_ns[0] for one in waits if one.is_own)
    # Until 30, 40 and 80 µs, and not from 41 to 50 and from 81 to 99. The step begins with its first kernel.
    assert own == (30 - 10) * 1000 + (40 - 31) * 1000 + (80 - 60) * 1000
    assert sum(one.recorded_ns[0] for one in waits) == run.totals.all_idle_ns == own + 9000 + 18000
    assert not any("fp8_inspection" in one.group for one in waits)
