"""Is it FP8 at all: modules outside it with the reason, and norms that leave a cast behind, on small recordings."""

from __future__ import annotations

from tests.attribute.test_attribution import CAST, GEMM
from tests.breakdown.test_findings import BF16, SOFTMAX, of
from tests.report.runs import recorded
from tests.traces import Recording
from tetrace.breakdown.analysis import Breakdown
from tetrace.breakdown.fp8_coverage import NOT_TE, fp8_coverage, fp8_norms
from tetrace.breakdown.recorded import in_attention

NORM = "void transformer_engine::normalization::ln_fwd_tuned_kernel<Kernel_traits<__nv_bfloat16, __nv_bfloat16>>()"
ADD = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<c10::BFloat16>>()"


class Step:
    """One forward: modules one after the other, 100 µs each, whose kernels take 10 µs."""

    def __init__(self) -> None:
        self.recording, self.at = Recording().site("step", "step", 0, 10_000), 0

    def module(self, path: str, name: str, *kernels: str, te: bool = True, around: tuple[str, ...] = ()) -> Step:
        """A module of class `name`; `te`: its GEMMs are calls of Transformer Engine; `around`: modules that it begins."""
        at, self.at = self.at, self.at + 100
        for outer in around:
            self.recording.site("module", outer, at + 1, at + 99, phase="forward", module=outer, **{"class": "Block"})
        self.recording.site("module", path, at + 2, at + 98, phase="forward", module=path, **{"class": name})
        for i, kernel in enumerate(kernels):
            call = at + 10 + 20 * i
            kind = "quantize" if kernel == CAST else "gemm"
            role = "input" if kernel == CAST else "fprop"
            if te and kernel in (GEMM, BF16, CAST):
                self.recording.site(kind, f"{kind} {path}", call, call + 10, module=path, role=role, call=f"tex.{kind}")
            self.recording.launch(kernel, (call + 1, call + 2), (call + 3, call + 13))
        return self

    def autocast(self, enabled: bool, modules: int) -> Step:
        """An autocast around the next so many modules."""
        self.recording.site(
            "autocast",
            f"autocast {enabled}",
            self.at,
            self.at + 100 * modules,
            recipe="DelayedScaling",
            enabled=enabled,
        )
        return self

    def broken_down(self) -> Breakdown:
        return of(self.recording)


def statuses(breakdown: Breakdown) -> dict[str, tuple[str, str]]:
    return {row["module"]: (row["autocast"], row["status"]) for row in fp8_coverage(breakdown).rows()}


def everything() -> Breakdown:
    step = Step().autocast(True, 4).module("a", "Linear", GEMM).module("b", "Linear", BF16)
    step.module("c", "Linear", BF16, te=False).module("d", "Linear", GEMM, BF16)
    step.autocast(False, 1).module("e", "LayerNormMLP", BF16)
    return step.module("f", "Linear", BF16).broken_down()


def test_why_a_module_is_not_fp8() -> None:
    assert statuses(everything()) == {
        "a": ("on", "FP8"),
        "b": ("on", "not FP8 under autocast"),
        "c": ("on", "no TE module"),
        "d": ("on", "partly FP8"),
        "e": ("off", "autocast is off"),
        "f": ("none", "outside autocast"),
    }


def test_times_add_up_to_those_of_all_gemms() -> None:
    breakdown = everything()
    table = fp8_coverage(breakdown)
    assert table["gemm_ns"].sum() == breakdown.fp8_coverage.gemm_ns == 70_000
    assert table["fp8_ns"].sum() == breakdown.fp8_coverage.fp8_ns == 20_000
    assert table["module"][-1] == "a", "what is all FP8 comes last"
    row = next(row for row in table.rows() if row["module"] == "d")
    assert (row["class"], row["gemm_ns"], row["fp8_ns"], row["outside"]) == ("Linear", 20_000, 10_000, "fprop BF16")


def test_an_autocast_inside_another_counts() -> None:
    step = Step().autocast(True, 2)
    step.recording.site("autocast", "autocast off", 2, 99, recipe="", enabled=False)
    assert statuses(step.module("a", "Linear", BF16).module("b", "Linear", GEMM).broken_down()) == {
        "a": ("off", "autocast is off"),
        "b": ("on", "FP8"),
    }


def test_unfused_attention_is_its_own_reason() -> None:
    step = (
        Step().autocast(True, 1).module("DotProductAttention.0", "DotProductAttention", BF16, SOFTMAX, BF16, te=False)
    )
    assert statuses(step.broken_down()) == {"DotProductAttention.0": ("on", "attention not FP8")}


def test_unfused_attention_by_the_classes_of_recorded_modules() -> None:
    """Paths do not say that they are attention: the class recorded for one of those around does."""
    breakdown = recorded("../../profiles/attention/results/h200/te-unfused.tetrace")
    products = "self_attention.core_attention.unfused_attention"
    assert statuses(breakdown)[products] == ("off", "attention not FP8")
    (finding,) = [one for one in breakdown.findings if one.name == "unfused_attention"]
    table = breakdown.tables["gemms"]
    gemms = sum(row["total_ns"] for row in table.rows() if row["module"] == products)
    attention = breakdown.tables["attention"]
    steps = breakdown.totals.steps
    assert finding.ns == int(attention["total_ns"].sum()) // steps > gemms // steps
    assert finding.evidence.startswith("3.3% of GPU activity")
    assert finding.advice == "FusedAttention was refused: NVTE_FUSED_ATTN=0"


def test_a_module_in_attention() -> None:
    classes = {"layers.0": "TransformerLayer", "layers.0.dpa": "DotProductAttention", "layers.01": "Linear"}
    inside = [name for name in ("layers.0", "layers.0.dpa", "layers.0.dpa.fused", "layers.01", "layers.0.dpa2")
              if in_attention(name, classes)]  # fmt: skip
    assert inside == ["layers.0.dpa", "layers.0.dpa.fused"]
    assert in_attention("TransformerLayer_0/DotProductAttention.1", {})


def test_the_advice_for_what_is_no_te_module_names_attention_by_hand() -> None:
    """Whether a product has a weight is not recorded."""
    breakdown = recorded("stability-e4m3.tetrace")
    assert statuses(breakdown)["layers.0"] == ("on", NOT_TE)
    (finding,) = [one for one in breakdown.findings if one.name == "outside_fp8"]
    assert finding.advice == "TE modules under te.autocast; attention by hand: te.DotProductAttention"


def test_a_recording_of_others_says_no_reason() -> None:
    recording = Recording().range("Linear forward", 0, 50).launch(BF16, (1, 2), (5, 15))
    assert statuses(of(recording)) == {"Linear.0": ("", "not FP8")}
    assert len(fp8_norms(of(recording))) == 0


def test_the_finding_says_what_to_do_about_the_longest() -> None:
    finding = next(finding for finding in everything().findings if finding.name == "outside_fp8")
    assert (
        finding.advice == "see backward_override and calibrating of the recipe, and what the module itself switches off"
    )
    step = Step().autocast(True, 1).module("a", "Linear", GEMM).module("b", "Linear", BF16)
    assert [f.advice for f in step.broken_down().findings if f.name == "outside_fp8"] == [
        "open te.autocast around them too"
    ]


def norms(breakdown: Breakdown) -> list[tuple[str, str, str, int, int, int]]:
    return [tuple(row.values()) for row in fp8_norms(breakdown).rows()]


def test_a_norm_before_a_linear_is_found_with_its_cast() -> None:
    step = Step().autocast(True, 2).module("ln", "LayerNorm", NORM, te=False).module("qkv", "Linear", CAST, GEMM)
    assert norms(step.broken_down()) == [("ln", "LayerNorm", "qkv", 10_000, 10_000, 10_000)]


def test_a_norm_before_a_block_that_begins_with_a_linear() -> None:
    step = Step().autocast(True, 2).module("ln", "RMSNorm", NORM, te=False)
    step.module("attention.qkv", "Linear", CAST, GEMM, around=("attention",))
    assert [row[:3] for row in norms(step.broken_down())] == [("ln", "RMSNorm", "attention.qkv")]


def test_what_breaks_no_fusion() -> None:
    """A norm before another kind of module, before a linear outside FP8, and one behind the linear."""
    before_dropout = Step().autocast(True, 3).module("ln", "LayerNorm", NORM, te=False)
    before_dropout.module("drop", "Dropout", ADD, te=False).module("qkv", "Linear", CAST, GEMM)
    outside = Step().module("ln", "LayerNorm", NORM, te=False).module("qkv", "Linear", BF16)
    behind = Step().autocast(True, 2).module("qkv", "Linear", CAST, GEMM).module("ln", "LayerNorm", NORM, te=False)
    fused = Step().autocast(True, 1).module("qkv", "LayerNormLinear", NORM, GEMM)
    for step in (before_dropout, outside, behind, fused):
        assert norms(step.broken_down()) == []
