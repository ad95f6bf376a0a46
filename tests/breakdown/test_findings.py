"""Findings: each appears with its cause, with what it costs, and is gone when the cause is."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import tetrace
from tests.attribute.test_attribution import ADAM, ADD, CAST, GEMM, SDPA, te_linear
from tests.traces import AUTOGRAD, Recording
from tetrace.attribute.attribution import attribute
from tetrace.breakdown import findings
from tetrace.breakdown.analysis import Breakdown, break_down

BF16 = "nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_TNT"
REDUCE = "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
REDUCE_AMAX = "ncclDevKernel_AllReduce_Max_f32_RING_LL(ncclDevKernelArgsStorage<4096ul>)"
TRANSPOSE = "void transformer_engine::detail::transpose_general_kernel<float, __nv_fp8_e4m3>()"
UPDATE = (
    "transformer_engine::delayed_scaling_recipe::<unnamed>::amax_and_scale_update_impl::kernel_bulk(float *, "
    "transformer_engine::delayed_scaling_recipe::<unnamed>::AmaxParams, unsigned long, float)"
)
SOFTMAX = (
    "void scaled_softmax_warp_forward<__nv_bfloat16, __nv_bfloat16, float, 9>(__nv_bfloat16 *, const __nv_bfloat16 *)"
)


def of(recording: Recording, steps: str = "all") -> Breakdown:
    """The breakdown of a recording, as one frame a lane."""
    return break_down(attribute(recording.trace()), steps=steps)


def early(*kernels: tuple[str, float], gap: float = 0) -> Recording:
    """Kernels of these lengths in µs, back to back, all launched before the first one ends; `gap` µs before the last."""
    recording, at = Recording().range("forward", 0, 30), 40.0
    for i, (name, length) in enumerate(kernels):
        call = at + gap if gap and i == len(kernels) - 1 else i / 10
        at = at + 4 + gap if gap and i == len(kernels) - 1 else at
        recording.launch(name, (call, call + 0.05), (at, at + length))
        at += length
    return recording


def copied(length: float) -> Recording:
    """A GEMM, and a copy to the host of so many µs."""
    return early((GEMM, 1000)).launch("memcpy DtoH", (1, 2), (1040, 1040 + length), kind="memcpy", size=1 << 20)


def synchronized(waits: bool) -> Recording:
    """Two GEMMs; the second is launched after the host waited for the first, or before."""
    recording = Recording().range("forward", 0, 500).launch(GEMM, (0, 1), (5, 105))
    if waits:
        recording.call("cudaStreamSynchronize", 10, 110, "synchronize")
    call = (150, 151) if waits else (2, 3)
    return recording.launch(GEMM, call, (155, 255) if waits else (105, 205))


def reduced(hidden: bool) -> Recording:
    """An all-reduce of 200 µs beside a GEMM, or after it."""
    at = 40 if hidden else 1040
    return early((GEMM, 1000)).launch(REDUCE, (1, 2), (at, at + 200), stream=9)


def ranks(late_us: float) -> Recording:
    """Two ranks that meet in one all-reduce, the second so late."""
    recording = Recording()
    for process, late in ((1, 0.0), (2, late_us)):
        recording.launch(GEMM, (0, 1), (5, 505 + late), process=process)
        recording.launch(REDUCE, (1, 2), (505 + late, 510 + late_us), process=process)
    return recording


def amax(reduce: bool) -> Recording:
    """Scale updates with the amax all-reduce just before them, or without."""
    return early((GEMM, 500), (REDUCE_AMAX, 20), (UPDATE, 5)) if reduce else early((GEMM, 500), (UPDATE, 5))


def casts(micro_batches: int) -> Recording:
    """Four steps of a te.Linear that casts its weight in each of so many micro-batches."""
    recording, at = Recording(), 0
    for step in range(4):
        recording.range(f"step_{step}", at, at + 400)
        for micro_batch in range(micro_batches):
            te_linear(te_linear(recording, at + 60 * micro_batch, "forward"), at + 60 * micro_batch + 30, "backward")
        recording.range("optimizer", at + 300, at + 330).launch(ADAM, (at + 301, at + 302), (at + 320, at + 325))
        at += 400
    return recording


def attention(fused: bool) -> Recording:
    """DotProductAttention with cuDNN's kernel, or with two GEMMs and a softmax."""
    recording = Recording().range("DotProductAttention forward", 0, 30)
    for i, name in enumerate((SDPA,) if fused else (BF16, SOFTMAX, BF16)):
        recording.launch(name, (1 + i, 1.5 + i), (40 + 50 * i, 90 + 50 * i))
    return recording


def updated(times: int) -> Recording:
    """Four steps, the delayed scales updated so many times in each."""
    recording = Recording()
    for step in range(4):
        at = 400 * step
        recording.range(f"step_{step}", at, at + 400).launch(GEMM, (at + 1, at + 2), (at + 5, at + 105))
        for i in range(times):
            recording.launch(UPDATE, (at + 3 + i, at + 3.5 + i), (at + 105 + 10 * i, at + 110 + 10 * i))
    return recording


def checkpointed(again: bool) -> Recording:
    """Backward of a module on autograd's thread, its forward computed again first."""
    recording = Recording().range("forward", 0, 50).range("Linear forward", 0, 20)
    recording.launch(GEMM, (1, 2), (10, 110)).range("backward", 50, 300)
    if again:
        recording.range("Linear forward", 60, 80, AUTOGRAD).launch(GEMM, (61, 62), (110, 210), AUTOGRAD)
    recording.range("_Linear_backward", 90, 120, AUTOGRAD)
    return recording.launch(GEMM, (91, 92), (210, 310), AUTOGRAD)


def quantized_late(late: float) -> Recording:
    """A cast that the host launches so many µs after the device became idle."""
    recording = Recording().range("forward", 0, 1000).launch(GEMM, (0, 1), (5, 105)).launch(ADD, (1, 2), (105, 110))
    at = 110 + late if late else 3
    recording.range("nvte_quantize_v2", 90 if late else 2, at + 2)
    return recording.launch(CAST, (at, at + 1), (max(at + 5, 110), max(at + 5, 110) + 2))


def normalized(norm: str, linear: str) -> Recording:
    """A norm of its own, and a linear that casts and multiplies in FP8 under an autocast."""
    recording = (
        Recording().site("step", "step", 0, 300).site("autocast", "on", 1, 290, recipe="DelayedScaling", enabled=True)
    )
    if norm:
        recording.site("module", "ln", 2, 90, phase="forward", module="ln", **{"class": norm})
    recording.site("module", "qkv", 100, 280, phase="forward", module="qkv", **{"class": linear})
    recording.site("quantize", "cast", 110, 120, module="qkv", role="input", call="quantize")
    recording.launch(CAST, (111, 112), (120, 130))
    return recording.launch(GEMM, (140, 141), (150, 250))


CASES: dict[str, tuple[Callable[[], Recording], Callable[[], Recording], str, int]] = {
    # name: with its cause, without it, the steps, nanoseconds it costs
    "host_bound": (lambda: early((GEMM, 50), (GEMM, 50), gap=100), lambda: early((GEMM, 50), (GEMM, 50)), "all", 100_000),
    "synchronization": (lambda: synchronized(True), lambda: synchronized(False), "all", 50_000),
    "copies": (lambda: copied(500), lambda: copied(5), "all", 500_000),
    "exposed_communication": (lambda: reduced(False), lambda: reduced(True), "all", 200_000),
    "straggler": (lambda: ranks(300), lambda: ranks(0), "all", 300_000),
    "amax_reduction": (lambda: amax(True), lambda: amax(False), "all", 20_000),
    "quantization_gpu": (
        lambda: early((GEMM, 100), (CAST, 50)), lambda: early((GEMM, 1000), (CAST, 5)), "all", 50_000,
    ),
    "quantization_host": (lambda: quantized_late(60), lambda: quantized_late(0), "all", 60_000),
    "weight_casts": (lambda: casts(3), lambda: casts(1), "steady", 2_000),
    "outside_fp8": (lambda: early((GEMM, 100), (BF16, 50)), lambda: early((GEMM, 100), (GEMM, 50)), "all", 50_000),
    "unfused_norms": (lambda: normalized("LayerNorm", "Linear"), lambda: normalized("", "LayerNormLinear"), "all", 10_000),
    "unfused_attention": (lambda: attention(False), lambda: attention(True), "all", 150_000),
    "transposes": (lambda: early((GEMM, 100), (TRANSPOSE, 20)), lambda: early((GEMM, 120)), "all", 20_000),
    "scale_updates": (lambda: updated(6), lambda: updated(2), "steady", 30_000),
    "recompute": (lambda: checkpointed(True), lambda: checkpointed(False), "all", 100_000),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_finding_comes_and_goes_with_its_cause(name: str) -> None:
    with_cause, without_cause, steps, ns = CASES[name]
    found = {finding.name: finding for finding in of(with_cause(), steps).findings}
    assert name in found
    assert found[name].ns == ns
    assert found[name].evidence
    assert found[name].advice
    assert name not in [finding.name for finding in of(without_cause(), steps).findings]


def test_findings_are_sorted_worst_first() -> None:
    costs = [finding.ns for finding in of(casts(3), "steady").findings]
    assert len(costs) > 1
    assert costs == sorted(costs, reverse=True)


def test_every_finding_has_a_case() -> None:
    files = [Path(findings.__file__).with_name(name) for name in ("findings.py", "ranks.py")]
    written = {name for file in files for name in re.findall(r'Finding\(\s*"(\w+)"', file.read_text(encoding="utf-8"))}
    assert written == set(CASES)


@pytest.mark.parametrize(
    ("computes", "why"), [(True, "its GPU computes 300 µs longer"), (False, "its host leaves it idle")]
)
def test_the_verdict_says_why_a_rank_is_late(computes: bool, why: str) -> None:
    recording = Recording()
    for process, late in ((1, 0.0), (2, 300.0)):
        recording.launch(GEMM, (0, 1), (5, 505 + (late if computes else 0)), process=process)
        at = 505 + late
        recording.launch(REDUCE, (2, 3) if computes else (at - 3, at - 2), (at, 810), process=process)
    verdict = of(recording).verdict
    assert verdict.startswith("Held back by one rank: pid 2 on device 0")
    assert why in verdict


def test_a_rank_is_named_where_it_is_known() -> None:
    run = tetrace.analyze(
        tetrace.load(Path(__file__).parents[2] / "profiles/ddp/results/nvidia-h200-x2/fp8-straggler.tetrace")
    )
    assert run.tables["lanes"]["rank"].tolist() == [0, 1]
    assert run.verdict.startswith("Held back by one rank: rank 1 (pid 2034) on device 1 arrives last")
    (late,) = (one for one in run.findings if one.name == "straggler")
    assert "rank 0 (pid 2033) spends" in late.evidence
