"""Attribution of what tetrace's own instrumentation recorded: sites say it exactly."""

from __future__ import annotations

from tests.attribute.test_attribution import ADAM, ADD, CAST, GEMM, rows
from tests.traces import AUTOGRAD, Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown.analysis import break_down
from tetrace.breakdown.recorded import gemm_rate
from tetrace.breakdown.tables import Table

ALL_REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
QUANTIZE = {"module": "layers.0.fc", "role": "input", "format": "E4M3", "shape": "64x32", "call": "quantize"}


def a_step(recording: Recording, at: float, step: int) -> Recording:
    """100 µs: a copy, two modules forward with a quantize call, a loss, their backward, an all-reduce, the optimizer."""
    recording.site("step", "step", at, at + 100, step=step)
    recording.launch(ADD, (at + 1, at + 2), (at + 2, at + 3))
    recording.site("module", "GPT", at + 5, at + 30, step=step, phase="forward", module="GPT")
    recording.site("module", "layers.0.fc", at + 6, at + 20, step=step, phase="forward", module="layers.0.fc")
    recording.site("quantize", "quantize input", at + 7, at + 9, step=step, **QUANTIZE)
    recording.launch(CAST, (at + 7.5, at + 8), (at + 9, at + 10))
    recording.site("gemm", "fprop", at + 10, at + 13, step=step, module="layers.0.fc", role="fprop", shape="64x16x32")
    recording.launch(GEMM, (at + 11, at + 12), (at + 13, at + 16))
    recording.launch(ADD, (at + 24, at + 25), (at + 26, at + 27))
    recording.launch(ADD, (at + 32, at + 33), (at + 34, at + 35))
    recording.site("backward", "backward", at + 36, at + 70, step=step)
    recording.launch(ADD, (at + 37, at + 38), (at + 38, at + 39))
    recording.site("loss", "(loss)", at + 39, at + 41, AUTOGRAD, step=step, phase="backward", module="(loss)")
    recording.launch(ADD, (at + 39.5, at + 40), (at + 41, at + 42), AUTOGRAD)
    recording.site(
        "module", "layers.0.fc", at + 42, at + 52, AUTOGRAD, step=step, phase="backward", module="layers.0.fc"
    )
    recording.site("gemm", "wgrad", at + 43, at + 46, AUTOGRAD, step=step, module="layers.0.fc", role="wgrad")
    recording.launch(GEMM, (at + 44, at + 45), (at + 46, at + 48), AUTOGRAD)
    # Between two nodes autograd sums gradients, and DDP reduces them.
    recording.launch(ADD, (at + 53, at + 54), (at + 55, at + 56), AUTOGRAD)
    recording.launch(ALL_REDUCE, (at + 57, at + 58), (at + 59, at + 62), AUTOGRAD, stream=9)
    recording.site("optimizer", "AdamW", at + 75, at + 95, step=step)
    return recording.launch(ADAM, (at + 80, at + 81), (at + 82, at + 90))


def three_steps(autograd: str = "pt_autograd_0") -> Recording:
    recording = Recording().named(autograd, AUTOGRAD)
    for step in range(3):
        a_step(recording, 100 * step, 10 + step)
    return recording


def test_every_activity_has_a_module() -> None:
    attribution = attribute(three_steps().trace())
    assert [row for row in rows(attribution) if row[0] == 1] == [
        (1, "forward", "(input)", ""),
        (1, "forward", "layers.0.fc", "input"),
        (1, "forward", "layers.0.fc", "fprop"),
        (1, "forward", "GPT", ""),
        (1, "forward", "(loss)", ""),
        (1, "backward", "(loss)", ""),
        (1, "backward", "(loss)", ""),
        (1, "backward", "layers.0.fc", "wgrad"),
        (1, "backward", "layers.0.fc", ""),
        (1, "backward", "(gradient_reduce)", ""),
        (1, "optimizer", "(optimizer)", ""),
    ]


def test_autograds_thread_is_known_without_its_name() -> None:
    """Nsight Systems leaves out the names of threads that begin late."""
    named, nameless = (rows(attribute(three_steps(name).trace())) for name in ("pt_autograd_0", ""))
    assert nameless == named


def test_a_name_in_one_process_says_nothing_of_another() -> None:
    recording = three_steps("")
    alone = rows(attribute(recording.trace()))
    recording.named("pt_autograd_0", AUTOGRAD, process=2)
    recording.launch(ADD, (1, 2), (2, 3), AUTOGRAD, process=2)
    assert [row for row in rows(attribute(recording.trace())) if row in alone][: len(alone)] == alone


def test_steps_carry_the_numbers_of_the_run() -> None:
    steps = attribute(three_steps().trace()).steps
    assert steps.number.tolist() == [10, 11, 12]
    assert steps.name == ("step 10", "step 11", "step 12")


def test_recorded_calls_account_for_their_kernels() -> None:
    calls = break_down(attribute(three_steps().trace()), steps="all").tables["recorded_calls"]
    assert [
        (row["kind"], row["module"], row["phase"], row["role"], row["call"], row["count"], row["activities"])
        for row in calls.rows()
    ] == [
        ("gemm", "layers.0.fc", "forward", "fprop", "gemm", 3, 3),
        ("gemm", "layers.0.fc", "backward", "wgrad", "gemm", 3, 3),
        ("quantize", "layers.0.fc", "forward", "input", "quantize", 3, 3),
    ]


def test_a_kernel_without_a_recorded_call_is_told() -> None:
    recording = three_steps().launch(CAST, (21, 22), (28, 29))
    calls = break_down(attribute(recording.trace()), steps="all").tables["recorded_calls"]
    missed = [row for row in calls.rows() if row["call"] == "(not recorded)"]
    assert [(row["kind"], row["module"], row["activities"], row["total_ns"]) for row in missed] == [
        ("quantize", "GPT", 1, 1000)
    ]


def test_host_time_adds_up_by_step_and_module() -> None:
    breakdown = break_down(attribute(three_steps().trace()), steps="all")
    steps = breakdown.tables["host_steps"].rows()[1]
    assert steps == {
        "process": 0, "step": 11, "used": 1, "wall_ns": 100_000, "forward_ns": 25_000, "backward_ns": 34_000,
        "optimizer_ns": 20_000, "backwards": 1,
    }  # fmt: skip
    modules = {(row["module"], row["phase"]): row for row in breakdown.tables["host_modules"].rows()}
    assert modules["GPT", "forward"]["total_ns"] == 3 * 25_000
    assert modules["GPT", "forward"]["self_ns"] == 3 * 11_000
    assert modules["layers.0.fc", "forward"] == {
        "module": "layers.0.fc", "phase": "forward", "calls": 3, "total_ns": 42_000, "self_ns": 42_000,
    }  # fmt: skip
    # Backward takes 34 µs, in which autograd's thread is in ranges of modules for 12.
    assert modules["(autograd)", "backward"]["self_ns"] == 3 * (34_000 - 12_000)
    assert sum(row["self_ns"] for row in modules.values()) <= breakdown.totals.wall_ns


def test_what_no_module_holds_in_backward_is_counted_once() -> None:
    """A call that quantizes on the thread that called backward, outside of any module."""
    recording = three_steps()
    for step in range(3):
        at = 100 * step
        recording.site("quantize", "quantize", at + 60, at + 64, step=10 + step, module="", role="", call="quantize")
    tables = [break_down(attribute(one.trace()), steps="all").tables for one in (three_steps(), recording)]
    without, beside = (
        sum(row["self_ns"] for row in table["host_modules"].rows() if row["phase"] == "backward") for table in tables
    )
    assert without == beside


def test_a_recomputed_module_is_recompute() -> None:
    recording = three_steps()
    recording.site("module", "layers.0.fc", 147, 149, AUTOGRAD, step=11, phase="recompute", module="layers.0.fc")
    recording.launch(GEMM, (148, 148.5), (150, 151), AUTOGRAD)
    assert (1, "recompute", "layers.0.fc", "") in rows(attribute(recording.trace())) or (
        1, "recompute", "layers.0.fc", "fprop",
    ) in rows(attribute(recording.trace()))  # fmt: skip


def test_weights_of_a_module_are_known_by_its_class() -> None:
    recording = Recording()
    for step in range(3):
        at = 100 * step
        recording.site("step", "step", at, at + 100, step=step)
        recording.site(
            "module", "mlp", at + 5, at + 30, step=step, phase="forward", module="mlp", **{"class": "LayerNormMLP"}
        )
        for call in (8, 16):
            recording.site(
                "quantize",
                "weight",
                at + call,
                at + call + 4,
                step=step,
                **{**QUANTIZE, "role": "weight", "module": "mlp"},
            )
            recording.launch(CAST, (at + call + 1, at + call + 2), (at + call + 2, at + call + 4))
    found = break_down(attribute(recording.trace()), steps=":").findings
    assert "weight_casts" not in [finding.name for finding in found]


def test_gemms_are_compared_with_the_calibrated_peak() -> None:
    calls = break_down(attribute(three_steps().trace()), steps="all").tables["recorded_calls"]
    fprop = calls.take([0])
    assert (fprop["shape"], fprop["count"].tolist(), fprop["total_ns"].tolist()) == (["64x16x32"], [3], [9000])
    rate = gemm_rate(fprop, {})
    assert rate is not None
    assert (rate.operations, rate.total_ns, rate.at_peak_ns) == (3 * 2 * 64 * 16 * 32, 9000, -1)
    fp8 = Table(fprop.declaration, {**fprop.columns, "format": ["E4M3"]})
    # At 100 GFLOP/s, 196,608 operations take 1,966 ns.
    against_peak = gemm_rate(fp8, {"fp8_flops": 10**11, "bf16_flops": 1})
    assert against_peak is not None
    assert against_peak.at_peak_ns == 1966


def test_steps_outside_the_recorded_window_are_not_counted() -> None:
    recording = Recording()
    for step in range(6):
        recording.site("step", "step", 100 * step, 100 * step + 100, step=step)
        if 2 <= step < 4:
            recording.site("module", "fc", 100 * step, 100 * step + 40, step=step, phase="forward", module="fc")
    breakdown = break_down(attribute(recording.trace()))
    assert breakdown.tables["host_steps"]["used"].tolist() == [0, 0, 1, 1, 0, 0]
    assert breakdown.tables["host_modules"]["calls"].tolist() == [2]


def test_a_wrapper_and_what_it_wraps_are_one_call() -> None:
    recording = three_steps()
    for step in range(3):
        recording.site("module", "GPT", 100 * step + 4, 100 * step + 31, step=10 + step, phase="forward", module="GPT")
    modules = break_down(attribute(recording.trace()), steps="all").tables["host_modules"].rows()
    (model,) = (row for row in modules if row["module"] == "GPT" and row["phase"] == "forward")
    assert (model["calls"], model["total_ns"]) == (3, 3 * 27_000)
