"""Attribution of small traces: every activity's phase, module, role and step, as whole tables."""

from __future__ import annotations

from tests.traces import AUTOGRAD, Recording
from tetrace.attribute.attribution import Attribution, attribute
from tetrace.attribute.roles import ROLES
from tetrace.attribute.vocabulary import PHASES

GEMM = "nvjet_sm90_qqtst_256x128_128x4_1x2_h_bz_coopA_TNT"
CAST = "cast_transpose_optimized_kernel(const __nv_bfloat16 *, const float *, __nv_fp8_e4m3 *)"
CAST_GRAD = "cast_transpose_optimized_kernel(const __nv_bfloat16 *, const float *, __nv_fp8_e5m2 *)"
ADD = "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>>(int)"
ADAM = "void at::native::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor<float, 4>>(int)"
SDPA = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_32_64x256x64_4x1x1_cga1x1x1_kernel0_0"
SDPA_BACKWARD = "cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4x1_cga1x1x1_kernel0_0"


def rows(attribution: Attribution) -> list[tuple[int, str, str, str]]:
    """Step, phase, module and role of each activity, in order of their start."""
    return [
        (
            int(attribution.step[i]),
            PHASES[attribution.phase[i]],
            attribution.module_names[attribution.module[i]] if attribution.module[i] >= 0 else "",
            ROLES[attribution.role[i]] if attribution.role[i] >= 0 else "",
        )
        for i in range(len(attribution.phase))
    ]


def te_linear(recording: Recording, at: float, way: str) -> Recording:
    """A te.Linear of 20 µs with Python and C ranges, as TE 2.20 names them: casts and GEMMs, one kernel each."""
    if way == "forward":
        recording.range("Linear forward", at, at + 20)
        recording.range("transformer_engine._Linear.forward.proj.input_cast_comm", at + 1, at + 5)
        recording.range("nvte_quantize_v2", at + 2, at + 4).launch(CAST, (at + 2.5, at + 3), (at + 5, at + 6))
        recording.range("nvte_quantize_v2", at + 6, at + 8).launch(CAST, (at + 6.5, at + 7), (at + 8, at + 9))
        recording.range("transformer_engine._Linear.forward.proj.gemm", at + 9, at + 13)
        return recording.range("nvte_cublas_gemm_v2", at + 10, at + 12).launch(
            GEMM, (at + 10.5, at + 11), (at + 12, at + 15)
        )
    recording.range("_Linear_backward", at, at + 20, AUTOGRAD)
    recording.range("transformer_engine._Linear.backward.proj.grad_output_preprocess", at + 1, at + 5, AUTOGRAD)
    recording.range("nvte_quantize_v2", at + 2, at + 4, AUTOGRAD).launch(
        CAST_GRAD, (at + 2.5, at + 3), (at + 5, at + 6), AUTOGRAD
    )
    for part, begin in (("dgrad_gemm", at + 6), ("wgrad_gemm", at + 12)):
        recording.range(f"transformer_engine._Linear.backward.proj.{part}", begin, begin + 5, AUTOGRAD)
        recording.range("nvte_cublas_gemm_v2", begin + 1, begin + 4, AUTOGRAD)
        recording.launch(GEMM, (begin + 2, begin + 3), (begin + 4, begin + 6), AUTOGRAD)
    return recording


def test_te_step_with_user_ranges() -> None:
    recording = Recording().range("step_0", 0, 150).range("forward", 0, 50)
    te_linear(te_linear(recording, 0, "forward"), 25, "forward")
    recording.range("backward", 50, 110)
    te_linear(te_linear(recording, 55, "backward"), 80, "backward")
    recording.launch(ADD, (104, 105), (106, 107), AUTOGRAD)
    recording.range("optimizer", 110, 150).launch(ADAM, (120, 121), (125, 130))
    assert rows(attribute(recording.trace())) == [
        (0, "forward", "Linear.0", "input"),
        (0, "forward", "Linear.0", "weight"),
        (0, "forward", "Linear.0", "fprop"),
        (0, "forward", "Linear.1", "input"),
        (0, "forward", "Linear.1", "weight"),
        (0, "forward", "Linear.1", "fprop"),
        (0, "backward", "Linear.1", "grad_output"),
        (0, "backward", "Linear.1", "dgrad"),
        (0, "backward", "Linear.1", "wgrad"),
        (0, "backward", "Linear.0", "grad_output"),
        (0, "backward", "Linear.0", "dgrad"),
        (0, "backward", "Linear.0", "wgrad"),
        (0, "backward", "", ""),
        (0, "optimizer", "(optimizer)", ""),
    ]


def test_autograd_thread_without_ranges_takes_the_phase_of_the_thread_that_called_backward() -> None:
    trace = (
        Recording()
        .range("forward", 0, 10)
        .launch(GEMM, (1, 2), (3, 4))
        .range("backward", 10, 20)
        .launch(GEMM, (12, 13), (14, 15), AUTOGRAD)
        .launch(GEMM, (22, 23), (24, 25), AUTOGRAD)
        .trace()
    )
    assert [row[1] for row in rows(attribute(trace))] == ["forward", "backward", "unattributed"]


def test_two_threads_in_different_phases_mean_unattributed() -> None:
    trace = (
        Recording()
        .range("forward", 0, 10, thread=3)
        .range("backward", 0, 10, thread=4)
        .launch(GEMM, (5, 6), (7, 8), thread=5)
        .trace()
    )
    assert rows(attribute(trace)) == [(0, "unattributed", "", "")]


def test_no_range_at_all_is_told_by_threads_and_optimizer_kernels() -> None:
    recording = Recording().named("pt_autograd_0", AUTOGRAD)
    for at in (0, 100, 200):
        recording.launch(GEMM, (at + 1, at + 2), (at + 3, at + 5))
        recording.launch(GEMM, (at + 11, at + 12), (at + 13, at + 15), AUTOGRAD)
        recording.launch(ADD, (at + 21, at + 22), (at + 23, at + 25))
        recording.launch(ADAM, (at + 31, at + 32), (at + 33, at + 35))
    attribution = attribute(recording.trace())
    one_step = [("forward", ""), ("backward", ""), ("optimizer", "(optimizer)"), ("optimizer", "(optimizer)")]
    assert rows(attribution) == [
        (step, phase, module, "fprop" if phase == "forward" else "") for step in range(3) for phase, module in one_step
    ]
    assert attribution.phases.inferred.all()
    assert attribution.steps.marked_by() == "optimizer kernels"


def test_correlation_ids_are_joined_within_a_process_only() -> None:
    trace = (
        Recording()
        .range("forward", 0, 10, process=1)
        .range("optimizer", 0, 10, process=2)
        .launch(GEMM, (1, 2), (3, 4), process=1, correlation=77)
        .launch(ADAM, (1, 2), (5, 6), process=2, correlation=77)
        .trace()
    )
    assert [row[1:3] for row in rows(attribute(trace))] == [("forward", ""), ("optimizer", "(optimizer)")]


def test_checkpoint_numbers_the_recomputed_modules_like_their_backward() -> None:
    recording = Recording().range("step_0", 0, 200).range("forward", 0, 60)
    te_linear(te_linear(recording, 0, "forward"), 25, "forward")
    recording.range("backward", 60, 200)
    for at in (65, 115):
        recording.range("Linear forward", at, at + 20, AUTOGRAD).launch(
            SDPA, (at + 2, at + 3), (at + 4, at + 5), AUTOGRAD
        )
        te_linear(recording, at + 22, "backward")
    found = [row for row in rows(attribute(recording.trace())) if row[1] != "forward"]
    assert [(phase, module) for _, phase, module, _ in found] == [
        ("recompute", "Linear.1"),
        *[("backward", "Linear.1")] * 3,
        ("recompute", "Linear.0"),
        *[("backward", "Linear.0")] * 3,
    ]


def test_micro_batches_of_one_step_number_from_zero_again() -> None:
    recording = Recording().range("step_0", 0, 200)
    for at in (0, 100):
        recording.range("forward", at, at + 40).range("backward", at + 40, at + 90)
        te_linear(te_linear(recording, at, "forward"), at + 45, "backward")
    modules = {(row[0], row[2]) for row in rows(attribute(recording.trace()))}
    assert modules == {(0, "Linear.0")}


def test_sequence_numbers_link_backward_ops_to_their_module() -> None:
    """As emit_nvtx writes them; the modules are scopes that the user named."""
    trace = (
        Recording()
        .named("pt_autograd_0", AUTOGRAD)
        .range("layer_a", 0, 10)
        .range("aten::mm", 1, 9, sequence=4)
        .launch(GEMM, (2, 3), (4, 5))
        .range("layer_b", 10, 20)
        .range("aten::mm", 11, 19, sequence=5)
        .launch(GEMM, (12, 13), (14, 15))
        .range("autograd::engine::evaluate_function: MmBackward0", 30, 40, AUTOGRAD, sequence=4)
        .launch(GEMM, (31, 32), (33, 34), AUTOGRAD)
        .launch(GEMM, (35, 36), (37, 38), AUTOGRAD)
        .trace()
    )
    assert [row[1:] for row in rows(attribute(trace))] == [
        ("forward", "layer_a", "fprop"),
        ("forward", "layer_b", "fprop"),
        ("backward", "layer_a", "dgrad"),
        ("backward", "layer_a", "wgrad"),
    ]


def test_kernels_of_a_replayed_graph_take_the_range_of_their_capture() -> None:
    """A clone is reported twice, first as if it were new; ids carry the graph in their high bits."""
    made, clone = (1 << 40) + 5, (2 << 40) + 5
    trace = (
        Recording()
        .range("Linear forward", 0, 10)
        .node(made, 5)
        .node(clone, 20)
        .node(clone, 21, original=made)
        .range("step_0", 90, 200)
        .launch(GEMM, (100, 101), (105, 110), correlation=9, node=clone)
        .launch(GEMM, (100, 101), (112, 115), correlation=9, node=clone + 1)
        .trace()
    )
    assert rows(attribute(trace)) == [(0, "forward", "Linear.0", "fprop"), (0, "unattributed", "", "")]


def test_recompute_is_told_by_its_kernels_where_no_range_says_it() -> None:
    recording = Recording().named("pt_autograd_0", AUTOGRAD).range("forward", 0, 20).range("backward", 20, 90)
    recording.launch(GEMM, (1, 2), (3, 4)).launch(SDPA, (5, 6), (7, 8))
    for at, name in enumerate((CAST_GRAD, GEMM, SDPA, SDPA_BACKWARD, CAST_GRAD)):
        recording.launch(name, (25 + 5 * at, 26 + 5 * at), (27 + 5 * at, 28 + 5 * at), AUTOGRAD)
    assert [row[1] for row in rows(attribute(recording.trace()))] == [
        "forward", "forward", "backward", "recompute", "recompute", "backward", "backward",
    ]  # fmt: skip


def test_kernels_without_ranges_or_marks_repeat_with_a_period() -> None:
    recording = Recording()
    for at in range(0, 500, 100):
        for i, name in enumerate(("first", GEMM, GEMM, "last")):
            recording.launch(name, (at + 10 * i, at + 10 * i + 1), (at + 10 * i + 2, at + 10 * i + 8))
    attribution = attribute(recording.trace())
    assert (len(attribution.steps), attribution.steps.marked_by()) == (5, "the period of the kernel names")


def test_one_window_when_nothing_repeats() -> None:
    attribution = attribute(Recording().launch("a", (0, 1), (2, 3)).launch("b", (4, 5), (6, 7)).trace())
    assert (len(attribution.steps), attribution.steps.marked_by()) == (1, "one window")


def test_a_range_beside_the_phases_of_its_user_is_none_of_them() -> None:
    recording = (
        Recording()
        .range("forward", 0, 50)
        .launch(ADD, (1, 2), (5, 10))
        .range("log_metrics", 60, 80)
        .launch(ADD, (61, 62), (65, 70))
        .range("backward", 90, 150)
        .launch(ADD, (91, 92), (95, 99), AUTOGRAD)
    )
    assert [phase for _, phase, _, _ in rows(attribute(recording.trace()))] == ["forward", "other", "backward"]


def test_operators_of_the_pytorch_profiler_are_no_modules_and_ranges_of_the_user_are() -> None:
    recording = (
        Recording()
        .range("encoder", 0, 50)
        .range("my_library.fused_op", 1, 20, kind="operator")
        .launch(ADD, (2, 3), (5, 10))
        .range("my_library.fused_op", 60, 80, kind="operator")
        .launch(ADD, (61, 62), (65, 70))
    )
    assert [module for _, _, module, _ in rows(attribute(recording.trace()))] == ["encoder", ""]


INSPECTION_KERNEL = "tetrace_fp8_bf16_format_bins_one(tetrace::fp8::Batch<1>)"
CONCAT = "void at::native::<unnamed>::CatArrayBatchedCopy<at::native::<unnamed>::OpaqueType<(unsigned int)4>>(int)"
UPDATE = "transformer_engine::delayed_scaling_recipe::amax_and_scale_update_impl::kernel_bulk(float *)"


def test_what_inspects_fp8_is_tetraces_own_wherever_it_is_launched() -> None:
    recording = (
        Recording()
        .site("module", "proj", 0, 50, phase="forward", module="proj")
        .site("quantize", "quantize input", 2, 10, module="proj", role="input")
        .launch(CAST, (3, 4), (5, 8))
        .launch(INSPECTION_KERNEL, (6, 7), (8, 9))
        .launch(GEMM, (20, 21), (22, 30))
        # The amaxes are put together, looked at, and the scales updated: the concatenation is still the update's.
        .launch(CONCAT, (52, 53), (54, 55))
        .site("inspection", "FP8 inspection", 56, 60)
        .launch(CONCAT, (57, 58), (59, 60))
        .launch("memcpy", (58.5, 59), (60, 61), kind="memcpy", stream=9)
        .launch(UPDATE, (62, 63), (64, 65))
    )
    found = attribute(recording.trace())
    classes = [found.classes[code] for code in found.kernel_class.tolist()]
    assert [(one.category, one.operation) for one in classes] == [
        ("quantization", "cast_transpose"),
        ("inspection", "statistics"),
        ("gemm", ""),
        ("quantization", "amax_concat"),
        ("inspection", "reading"),
        ("inspection", "reading"),
        ("quantization", "scale_update"),
    ]
    assert [row[2:] for row in rows(found)] == [
        ("proj", "input"),
        ("(fp8_inspection)", ""),
        ("proj", "fprop"),
        ("(scale_update)", ""),
        ("(fp8_inspection)", ""),
        ("(fp8_inspection)", ""),
        ("(scale_update)", ""),
    ]
