"""Comparisons: what changed adds up to the nanosecond, replaced kernels are found, and chance is called noise."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.attribute.test_attribution import ADAM
from tests.breakdown.scaled import run_of, scattered
from tests.report.runs import breakdown_of, recorded
from tests.traces import Recording
from tetrace.breakdown.account import BUSY, IDLE, account
from tetrace.breakdown.changes import CHANGED, NOISE, SAME, TOO_FEW, Changes
from tetrace.breakdown.compare import Comparison, compare, compare_all
from tetrace.breakdown.noise import Series, noise, student
from tetrace.errors import UsageError

GEMM = "nvjet_sm90_tst_128x256_64x4_1x2_h_bz_coopA_TNT"
FP8_GEMM = "nvjet_sm90_qqtst_128x128_128x6_2x1_v_bz_coopA_TNT"
BF16, FP8 = "te4-bf16.sqlite", "te4-fp8.sqlite"


def steps(kernel: str, length: float, *, late: float = 0, count: int = 10, others: str = ADAM) -> Recording:
    """Steps of 100 µs: `kernel` runs for `length` µs, and the host is `late` by so many before the optimizer's."""
    recording = Recording()
    for i in range(count):
        at = 100 * i
        recording.range(f"step_{i}", at, at + 100).range("forward", at, at + 50)
        recording.launch(kernel, (at + 1, at + 2), (at + 3, at + 3 + length))
        recording.range("optimizer", at + 50, at + 90)
        recording.launch(others, (at + 52 + late, at + 53 + late), (at + 55 + late, at + 60 + late))
    return recording


def rows(table: Changes) -> dict[tuple[str, ...], float]:
    """Differences in µs of a step that are not zero."""
    return {row.labels: float(row.difference_ns) / 1000 for row in table.rows if row.difference_ns}


def test_a_faster_kernel_and_a_later_host_in_rows_that_name_them() -> None:
    found = compare(breakdown_of(steps(GEMM, 30)), breakdown_of(steps(FP8_GEMM, 20, late=10)))
    assert rows(found.tables["rows"]) == {
        ("busy", "gemm", "forward", "nvjet bf16 → nvjet fp8"): -10,
        # In the optimizer's range the GPU waits 10 µs longer before its kernel, and as much less after it.
        ("idle", "host_bound", "forward", "forward"): 10,
    }
    assert found.difference_ns == 0
    assert found.parts["gemm"] == -10_000


def test_every_table_adds_up_to_what_it_splits_to_the_nanosecond() -> None:
    found = compare(recorded(BF16), recorded(FP8))
    a, b = recorded(BF16).totals, recorded(FP8).totals
    wall = Fraction(b.wall_ns, b.steps) - Fraction(a.wall_ns, a.steps)
    busy = Fraction(b.busy_ns, b.steps) - Fraction(a.busy_ns, a.steps)
    assert found.difference_ns == wall
    assert wall.denominator > 1, "a rational that no float is"
    for table in found.tables.values():
        expected = {"step": wall, "busy": busy, "idle": wall - busy}.get(table.whole)
        assert expected is None or table.difference_ns == expected, table.name
    assert sum(found.parts.values()) == wall


def test_bf16_and_fp8_are_explained_by_rows_that_have_names() -> None:
    table = compare(recorded(BF16), recorded(FP8)).tables["rows"]
    for row in table.rows:
        if abs(row.difference_ns) > 0.03 * table.absolute_ns:
            name = row.labels[-1]
            assert name
            assert name not in ("idle", "other", "(no range)", "unattributed"), row.labels
    by_name = {row.labels: row for row in table.rows}
    gemms = by_name["busy", "gemm", "forward", "nvjet bf16 → nvjet fp8"]
    assert gemms.verdict == CHANGED
    assert -0.22 < float(gemms.difference_ns) / 1e6 < -0.21
    assert any(row.labels[1] == "host_bound" and row.labels[3] == "LayerNormLinear forward" for row in table.rows)


def test_idle_time_is_that_of_the_report() -> None:
    run = recorded(FP8)
    found = account(run)
    for cause, ns in run.totals.idle_ns.items():
        own = [i for i, line in enumerate(found.lines) if (line.kind, line.category) == (IDLE, cause)]
        assert int(found.ns[np.isin(found.line, own)].sum()) == ns, cause
    hosts = run.tables["host_ranges"]
    of_range = dict.fromkeys(hosts["range"], 0)
    for line, ns in zip(found.line.tolist(), found.ns.tolist(), strict=True):
        said = found.lines[line]
        # A step's own range is told apart by what the device waited for in it.
        name = "(step)" if said.name.startswith("(step) before ") else said.name
        if said.category == "host_bound" and name in of_range:
            of_range[name] += ns
    for name in set(hosts["range"]) - {"(no range)"}:
        expected = sum(
            ns for word, ns in zip(hosts["range"], hosts["host_bound_ns"].tolist(), strict=True) if word == name
        )
        assert of_range[name] == expected, name


def test_concurrent_work_is_charged_once() -> None:
    recording = Recording().launch(GEMM, (0, 1), (2, 10))
    recording.launch("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(x)", (1, 2), (4, 20), stream=9)
    recording.launch(ADAM, (2, 3), (6, 14), stream=11)
    found = account(breakdown_of(recording, "all"))
    charged = {line.category: int(found.ns[found.line == i].sum()) for i, line in enumerate(found.lines)}
    work = {line.category: ns for line, ns in zip(found.lines, found.work_ns.tolist(), strict=True)}
    assert charged == {"gemm": 8_000, "optimizer": 4_000, "communication": 6_000}
    assert work == {"gemm": 8_000, "optimizer": 8_000, "communication": 16_000}


@pytest.mark.parametrize("name", [BF16, FP8, "ddp-straggler.sqlite", "graphs-node.sqlite"])
def test_a_run_against_itself_has_no_difference_in_any_row(name: str) -> None:
    found = compare(recorded(name), recorded(name))
    assert all(row.verdict == SAME and not row.difference_ns for table in found.tables.values() for row in table.rows)


def test_two_runs_of_equal_steps_differ_by_noise_only() -> None:
    base = run_of(scattered(12, 1), 1, jitter=0.02)
    for seed in range(2, 6):
        found = compare(base, run_of(scattered(12, seed), seed, jitter=0.02))
        verdicts = {row.verdict for table in found.tables.values() for row in table.rows}
        assert verdicts <= {NOISE, SAME}, seed


def test_two_halves_of_a_run_that_drifts_are_noise() -> None:
    slower = [1 + 0.002 * i + 0.002 * (i % 3) for i in range(24)]
    a, b = run_of(slower[::2]), run_of(slower[1::2])
    assert compare(a, b).step.verdict in (NOISE, SAME)


def test_a_change_beyond_noise_is_one_and_its_rows_are() -> None:
    found = compare(run_of(scattered(12, 1)), run_of(scattered(12, 2, slower=1.1)))
    assert found.step.verdict == CHANGED
    assert found.step.noise_ns
    assert found.step.difference_noise_ns
    assert found.step.difference_noise_ns >= max(found.step.noise_ns) > 0


def test_seven_steps_are_too_few_to_tell() -> None:
    found = compare(run_of(scattered(7, 1)), run_of(scattered(12, 2)))
    assert {row.verdict for table in found.tables.values() for row in table.rows} <= {TOO_FEW, SAME}


def test_noise_is_the_same_each_time() -> None:
    pair = run_of(scattered(9, 1)), run_of(scattered(9, 2))
    assert compare(*pair).tables == compare(*pair).tables


def test_medians_are_exact_and_of_single_steps() -> None:
    recording = Recording()
    for i, length in enumerate((10, 11, 30, 40, 5)):
        recording.range(f"step_{i}", 100 * i, 100 * i + 100).range("forward", 100 * i, 100 * i + 50)
        recording.launch(GEMM, (100 * i + 1, 100 * i + 2), (100 * i + 3, 100 * i + 3 + length))
    run = breakdown_of(recording, "0:4")
    (gemm,) = [row for row in compare(run, run).tables["parts"].rows if row.labels == (BUSY, "gemm")]
    assert gemm.median_ns == (Fraction(20_500), Fraction(20_500))
    assert gemm.per_step_ns[0] == Fraction(91_000, 4)


def kernels(found: Comparison) -> set[tuple[str, ...]]:
    """Role and families of the table of kernels."""
    return {row.labels[2:] for row in found.tables["kernels"].rows}


def called(role: str, shape: str, kernel: str, module: str) -> Recording:
    """Steps with one recorded GEMM in a module."""
    recording = Recording()
    for i in range(3):
        at = 100 * i
        recording.site("step", f"step_{i}", at, at + 100, step=i)
        recording.site("module", module, at + 1, at + 50, step=i, phase="forward", module=module)
        recording.site("gemm", f"gemm {role}", at + 2, at + 40, step=i, role=role, shape=shape)
        recording.launch(kernel, (at + 3, at + 4), (at + 5, at + 25))
    return recording


def test_replaced_kernels_are_matched_by_role_and_shape_whatever_their_modules_are_called() -> None:
    a = breakdown_of(called("fprop", "8 x 8 x 8", GEMM, "layers.0"), "all")
    b = breakdown_of(called("fprop", "8 x 8 x 8", FP8_GEMM, "model.blocks.0"), "all")
    assert kernels(compare(a, b)) == {("fprop", "nvjet bf16", "nvjet fp8")}


def test_kernels_of_other_shapes_are_not_matched_across_modules() -> None:
    a = breakdown_of(called("fprop", "8 x 8 x 8", GEMM, "layers.0"), "all")
    b = breakdown_of(called("fprop", "9 x 9 x 9", FP8_GEMM, "model.blocks.0"), "all")
    assert kernels(compare(a, b)) == {("fprop", "nvjet bf16", ""), ("fprop", "", "nvjet fp8")}


def test_kernels_of_the_same_name_are_the_same_and_the_rest_goes_by_order() -> None:
    names = ("void first_kernel(int)", "void second_kernel(int)", "void third_kernel(int)", "void fourth_kernel(int)")

    def run(*kernels: str) -> Recording:
        recording = Recording().range("step_0", 0, 100).range("forward", 0, 90)
        for i, name in enumerate(kernels):
            recording.launch(name, (10 * i + 1, 10 * i + 2), (10 * i + 3, 10 * i + 8))
        return recording

    found = compare(breakdown_of(run(*names[:3]), "all"), breakdown_of(run(names[2], names[3], names[1]), "all"))
    pairs = {labels[1:] for labels in kernels(found)}
    assert pairs == {
        ("first_kernel", "fourth_kernel"),
        ("second_kernel", "second_kernel"),
        ("third_kernel", "third_kernel"),
    }


def test_more_runs_are_each_compared_with_the_first() -> None:
    lengths = (30, 20, 25)
    found = compare_all([breakdown_of(steps(GEMM, length)) for length in lengths], ["a", "b", "c"])
    assert [(one.names, float(one.parts["gemm"])) for one in found] == [(("a", "b"), -10_000), (("a", "c"), -5_000)]


def test_ranks_are_lanes_of_the_same_steps() -> None:
    run = recorded("ddp-straggler.sqlite")
    found = account(run)
    assert found.frames == run.totals.steps == 5
    assert len(set(found.period.tolist())) < found.frames


def test_a_recording_without_a_gpu_cannot_be_compared() -> None:
    host = breakdown_of(Recording().range("step_0", 0, 10))
    with pytest.raises(UsageError, match="holds no GPU activity"):
        compare(recorded(BF16), host)


def test_quantiles_of_student_t() -> None:
    assert student(0.025, 10) == pytest.approx(2.2281, abs=1e-3)
    assert student(0.005, 4) == pytest.approx(4.6041, abs=1e-3)
    assert student(0.025, 1e4) == pytest.approx(1.9602, abs=1e-2)


def test_rows_of_equal_runs_are_called_changes_in_one_run_of_twenty() -> None:
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(60):
        a, b = (random.normal(100, 1, (60, 10)) for _ in range(2))
        found = noise(Series(a, np.ones(10)), Series(b, np.ones(10)))
        assert found
        alarms += bool((np.abs(a.mean(axis=1) - b.mean(axis=1)) > found.difference).any())
    assert alarms <= 8, "5% of 60 is 3"


def test_long_runs_are_cut_in_pieces_and_keep_their_noise() -> None:
    random = np.random.default_rng(5)
    a, b = (Series(random.normal(100, 1, (3, 4000)), np.ones(4000)) for _ in range(2))
    found = noise(a, b)
    assert found
    assert found.difference == pytest.approx(np.full(3, 2.5 * np.sqrt(2 / 4000)), rel=0.6)
