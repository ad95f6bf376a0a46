"""Kernel classification: kernels by name, by name and range, and every name of recordings, against their whole class.

`data/kernel_names.tsv`: distinct (kind, name, C range) of the shared recordings, and what H200 recordings of
profiles/ added (rows of a recording that were in none before it), with their GPU time and the class a person checked.
`data/te_kernels.tsv`: the kernels in Transformer Engine 2.20.2's binary, by purpose.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tetrace.attribute.classify import CATEGORIES, KernelClass, attention_backend, classify, classify_all

DATA = Path(__file__).parent.parent / "data"
TE = "transformer_engine::"


def rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def known(
    category: str, operation: str, family: str, formats: str = "", share: tuple[int, int] = (0, 0)
) -> KernelClass:
    return KernelClass(category, share != (0, 0), formats, operation, family, share)


# Columns: kernel, expected class. Spellings of Nsight Systems and of libiberty (PyTorch profiler) both occur.
BY_NAME = [
    # tetrace's own, of csrc/fp8.
    ("tetrace_fp8_bf16_format_bins_one(tetrace::fp8::Batch<(int)1>)",
     known("inspection", "statistics", "tetrace FP8 statistics")),
    ("tetrace_fp8_e4m3_blocks_bins_many", known("inspection", "statistics", "tetrace FP8 statistics")),
    # cuBLAS and CUTLASS: operands in the order of the name.
    ("nvjet_sm90_qqtst_128x128_128x6_1x2_h_bz_ovscale_TNT", known("gemm", "", "nvjet fp8", "E4M3")),
    ("nvjet_sm90_qrtst_128x128_128x6_2x1_v_bz_coopA_algo2_TNT", known("gemm", "", "nvjet fp8", "E4M3×E5M2")),
    ("nvjet_sm90_rqsss_128x128_128x6_2x1_v_badd_coopA_TNN", known("gemm", "", "nvjet fp8", "E5M2×E4M3")),
    ("nvjet_qqtst_128x128_128x6_1x2_h_bz_TNT", known("gemm", "", "nvjet fp8", "E4M3")),
    ("nvjet_tst_192x176_64x4_1x2_h_bz_coopB_T", known("gemm", "", "nvjet bf16", "BF16")),
    ("nvjet_sm90_hsh_128x64_64x8_2x1_v_bz_TNN", known("gemm", "", "nvjet fp16", "FP16")),
    ("nvjet_sm90_sss_tf32_128x64_64x8_2x1_v_bz_TNN", known("gemm", "", "nvjet tf32", "TF32")),
    ("nvjet_sm90_bbbbss_128x64_64x8_2x1_v_bz_TNN", known("gemm", "", "nvjet int8", "INT8")),
    ("nvjet_sm100_ootst_128x64_64x8_2x1_v_bz_Avec16UE4M3_Bvec16UE4M3_TNT", known("gemm", "", "nvjet fp4", "FP4")),
    ("sm90_xmma_gemm_e4m3bf16_e5m2f32_f32_tn_n_tilesize128x128x128_execute_kernel__5x_cublas",
     known("gemm", "", "xmma fp8", "E4M3×E5M2")),
    ("sm80_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x16_stage4_execute_kernel__5x_cublas",
     known("gemm", "", "xmma tf32", "TF32")),
    ("sm80_xmma_gemm_f16f16_f16f32_f32_nn_n_tilesize64x64x64_stage3_execute_kernel__5x_cublas",
     known("gemm", "", "xmma fp16", "FP16")),
    ("sm80_xmma_gemm_i8i8_i8i32_f32_tn_n_tilesize128x128x64_execute_kernel__5x_cublas",
     known("gemm", "", "xmma int8", "INT8")),
    ("ampere_bf16_s16816gemm_bf16_128x128_ldg8_f2f_stages_32x5_tn", known("gemm", "", "cuBLAS bf16", "BF16")),
    ("ampere_h16816gemm_128x64_ldg8_stages_32x6_tn", known("gemm", "", "cuBLAS fp16", "FP16")),
    ("turing_fp16_s1688gemm_fp16_128x128_ldg8_f2f_tn", known("gemm", "", "cuBLAS fp16", "FP16")),
    ("volta_sgemm_128x64_nn", known("gemm", "", "cuBLAS fp32", "FP32")),
    ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_256x128_32x3_nn_align8>(Params)",
     known("gemm", "", "cutlass bf16", "BF16")),
    ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x256_16x3_nn_align4>(Params)",
     known("gemm", "", "cutlass tf32", "TF32")),
    ("void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cutlass::gemm::GroupProblemShape<cu"
     "te::tuple<int, "
     "int, int>>, cutlass::gemm::collective::CollectiveMma<cutlass::gemm::MainloopSm90ArrayTmaGmmaWarpSpec"
     "ialized<(int)4>,"
     " cute::tuple<>, cutlass::bfloat16_t>>>(T1::Params)", known("gemm", "", "cutlass bf16", "BF16")),
    ("void cublasLt::splitKreduce_kernel<(int)32, (int)16, int, float, __nv_bfloat16, float, (bool)0, float, "
     "__nv_bfloat16, __nv_bfloat16, (bool)1, (bool)0, (bool)0>(cublasLt::cublasSplitKParams<T6>, const T4 *)",
     known("gemm", "splitK_reduce", "splitKreduce_kernel")),
    ("std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, "
     "__nv_bfloat16, __nv_bfloat16, "
     "float, false, true, true, false, 7, false, cublasGemvParamsEx<int> >(cublasGemvParamsEx<int>)",
     known("gemm", "", "cuBLAS gemv bf16", "BF16")),
    ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_execute_kernel__5x_cudnn",
     known("gemm", "", "cuDNN convolution", "BF16")),
    # Attention: the family begins with the backend.
    ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f8_knob_26_64x64x64_1x4x1_cga1x1x1_kernel0_0",
     known("attention", "backward", "cuDNN sdpa bprop", "FP8")),
    ("void flash_fwd_kernel<Flash_fwd_kernel_traits<128, 128, 64, 4, false, false, cutlass::bfloat16_t> "
     ">(Flash_fwd_params)",
     known("attention", "forward", "FlashAttention 2 flash_fwd_kernel", "BF16")),
    ("void flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel<Flash_bwd_kernel_traits<64, cutlass::half_t> "
     ">(Flash_bwd_params)",
     known("attention", "backward", "FlashAttention 2 flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "FP16")),
    ("void pytorch_flash::flash_bwd_convert_dq_kernel<pytorch_flash::Flash_bwd_kernel_traits<64, "
     "cutlass::bfloat16_t> >()",
     known("attention", "backward", "torch flash flash_bwd_convert_dq_kernel", "BF16")),
    ("void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<"
     "(int)2, cute::tuple<>, (int)128, cutlass::float_e4m3_t, float, cutlass::arch::Sm90>>>>(T1::Params)",
     known("attention", "forward", "FlashAttention 3 FlashAttnFwdSm90", "E4M3")),
    ("void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnBwdSm90<cutlass::bfloat16_t>"
     ">>(T1::Params)",
     known("attention", "backward", "FlashAttention 3 FlashAttnBwdSm90", "BF16")),
    ("kernel_cutlass_kernel_flash_attncuteflash_bwd_sm90FlashAttentionBackwardSm90_object_at__tensorptrbf16_0",
     known("attention", "backward", "FlashAttention 4 FlashAttentionBackwardSm90", "BF16")),
    ("flash_fwd_sm100_bf16_head_dim128_causal_kernel_cutlass_kernel_flash_attncuteflash_fwd_sm100FlashAttentionForward"
     "Sm100_object_at__tensor0000o11101213_0",
     known("attention", "forward", "FlashAttention 4 FlashAttentionForwardSm100", "BF16")),
    ("fmha_cutlassB_f16_aligned_64x64_k64_dropout_sm80(PyTorchMemEffAttention::AttentionBackwardKernel<cut"
     "lass::half_t>)",
     known("attention", "backward", "torch mem-efficient fmha_cutlassB", "FP16")),
    (f"void {TE}scaled_upper_triang_masked_softmax_warp_forward<__half, __half, float, (int)9>(T2 *, const T1 *, T3)",
     known("attention", "forward", "TE unfused scaled_upper_triang_masked_softmax_warp_forward", "FP16")),
    ("triton_tem_fused_flex_attention_0", known("attention", "forward", "torch flex triton_tem_fused_flex_attention")),
    # Quantization proper: nothing but casts, transposes of FP8, amax, scales, swizzles.
    (f"void {TE}unary_kernel<16, true, float, {TE}Empty, &{TE}dispatch::fp8::detail::identity, __nv_bfloat16, "
     "__nv_fp8_e5m2>(__nv_bfloat16 const*, float const*, __nv_fp8_e5m2*)",
     known("quantization", "cast", "unary_kernel<identity>", "E5M2")),
    (f"void {TE}unary_kernel<16, true, float, {TE}Empty, &{TE}dispatch::fp8::detail::identity, __nv_bfloat16, float>(",
     known("elementwise", "cast", "unary_kernel<identity>")),
    (f"void {TE}unary_kernel<16, false, float, {TE}dispatch::fp8::DequantizeParam, "
     f"&{TE}dispatch::fp8::dequantize_func, "
     "__nv_fp8_e4m3, __nv_bfloat16>(", known("quantization", "dequantize", "unary_kernel<dequantize_func>", "E4M3")),
    (f"void {TE}detail::(anonymous namespace)::transpose_general_kernel<4ul, 4ul, __nv_bfloat16>(__nv_bfloat16 const*)",
     known("memory", "transpose", "transpose_general_kernel")),
    (f"{TE}(anonymous namespace)::zero_amax_kernel(float*, float const*)",
     known("quantization", "amax_zero", "zero_amax_kernel")),
    (f"void {TE}quantize_transpose_nvfp4::(anonymous namespace)::block_scaled_1d_cast_transpose_kernel<false, false, "
     "false, false, float, __nv_bfloat16, unsigned char, __nv_fp8_e4m3, false>(__nv_bfloat16 const*)",
     known("quantization", "block_cast", "block_scaled_1d_cast_transpose_kernel", "FP4")),
    (f"void {TE}(anonymous namespace)::swizzle_row_scaling_kernel<int2, 128, 4>(void const*, void*, int, "
     "int, int, int)",
     known("quantization", "swizzle", "swizzle_row_scaling_kernel")),
    (f"void multi_tensor_apply_kernel<TensorListMetadata<3, false>, "
     f"{TE}multi_tensor_compute_scale::ComputeScaleAndScale"
     "InvFunctor, float, bool, float>(long, int volatile*)",
     known("quantization", "scale_update", "multi_tensor_apply_kernel<ComputeScaleAndScaleInvFunctor>")),
    ("void at::native::vectorized_elementwise_kernel<4, "
     "at::native::float8_e4m3fn_copy_kernel_cuda(at::TensorIteratorBase&"
     ")::{lambda(float)#1}, std::array<char*, 2ul> >(int)",
     known("quantization", "cast", "vectorized_elementwise_kernel<float8_e4m3fn_copy_kernel_cuda>", "E4M3")),
    # Fused: bytes of FP8 of all bytes, for each element.
    (f"void {TE}unary_grad_kernel<16, true, float, {TE}Empty, &(float {TE}dgelu<float, float>(float, "
     f"{TE}Empty const&)), "
     "__nv_bfloat16, __nv_bfloat16, __nv_fp8_e5m2>(",
     known("activation", "backward", "unary_grad_kernel<dgelu>", "E5M2", (1, 5))),
    (f"void {TE}gated_act_kernel<(int)16, (bool)1, float, {TE}Empty, &{TE}silu<float, float>, "
     "__nv_bfloat16, __nv_fp8_e4m3>",
     known("activation", "forward", "gated_act_kernel<silu>", "E4M3", (1, 5))),
    (f"void {TE}dgated_act_kernel<(int)16, (bool)1, float, {TE}Empty, &{TE}silu<float, float>, "
     f"&{TE}dsilu<float, float>, "
     "__nv_bfloat16, __nv_fp8_e5m2>(", known("activation", "backward", "dgated_act_kernel<silu>", "E5M2", (2, 8))),
    (f"void {TE}detail::dgated_act_cast_transpose_kernel<8, 4, float, __nv_bfloat16, __nv_fp8_e5m2, {TE}Empty, &(float "
     f"{TE}dsilu<float, float>(float, {TE}Empty const&))>(",
     known("activation", "backward", "dgated_act_cast_transpose_kernel", "E5M2", (4, 10))),
    (f"void {TE}detail::cast_transpose_fused_kernel_notaligned<true, true, false, float, {TE}CTDBiasDActParam<"
     f"__nv_bfloat16, __nv_bfloat16, __nv_fp8_e5m2, float>, 4, 8, {TE}Empty, &(float {TE}dgelu<float, float>(float, "
     f"{TE}Empty const&))>(",
     known("activation", "backward", "cast_transpose_fused_kernel_notaligned", "E5M2", (2, 6))),
    (f"void {TE}normalization::rmsnorm_fwd_general_kernel<{TE}normalization::Kernel_traits<float, float, "
     "__nv_fp8_e4m3, "
     "float, unsigned int>>(", known("normalization", "forward", "rmsnorm_fwd_general_kernel", "E4M3", (1, 5))),
    (f"void {TE}transpose_dbias_kernel<8, 8, {TE}(anonymous namespace)::TDBiasParam<__nv_fp8_e5m2, "
     "__nv_fp8_e5m2, float> >(",
     known("elementwise", "dbias", "transpose_dbias_kernel", "E5M2", (2, 2))),
    (f"void {TE}(anonymous namespace)::dropout_kernel_fwd_fp8<__nv_fp8_e4m3, __nv_bfloat16>(__nv_fp8_e4m3 const*)",
     known("dropout", "forward", "dropout_kernel_fwd_fp8", "E4M3", (1, 3))),
    (f"void multi_tensor_apply_kernel<TensorListMetadata<5, true>, "
     f"{TE}multi_tensor_adam::AdamFunctorMaster<__nv_fp8_e4m3,"
     " __nv_bfloat16, float, float, int>, float>(",
     known("optimizer", "adam", "multi_tensor_apply_kernel<AdamFunctorMaster>", "E4M3", (1, 27))),
    (f"void {TE}dispatch::mxfp8::quantize_kernel::quantize_mxfp8_kernel<true, false, false, {TE}Empty, "
     "(float (*)(float, "
     f"{TE}Empty const&))0, __nv_bfloat16, __nv_fp8_e4m3, true, true, false, 64ul, 64ul, 64ul, false>(",
     known("elementwise", "dbias", "quantize_mxfp8_kernel", "E4M3", (2, 4))),
    # The rest of TE.
    (f"void {TE}fused_qkv_rope_backward_kernel<__nv_bfloat16>(",
     known("rope", "backward", "fused_qkv_rope_backward_kernel")),
    ("_unpermute_bwd_with_merging_probs_kernel", known("moe", "permute", "_unpermute_bwd_with_merging_probs_kernel")),
    (f"void {TE}fused_router::fused_topk_with_score_function_forward_kernel<float, float>(",
     known("moe", "router", "fused_topk_with_score_function_forward_kernel")),
    ("online_softmax_kernel", known("softmax_loss", "forward", "online_softmax_kernel")),
    ("cross_entropy_backward_kernel", known("softmax_loss", "backward", "cross_entropy_backward_kernel")),
    (f"{TE}multi_tensor_l2norm::cleanup_v2(float*, float*, float*)", known("optimizer", "l2norm", "l2norm cleanup_v2")),
    (f"{TE}splits_to_offsets::(anonymous namespace)::kernel({TE}splits_to_offsets::(anonymous namespace)::KernelArgs)",
     known("moe", "grouped_gemm_setup", "splits_to_offsets kernel")),
    # PyTorch.
    ("void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::(anonymous namespace)::TensorList"
     "Metadata<1>, at::native::(anonymous namespace)::LpNormFunctor<c10::BFloat16, "
     "(at::native::NormType)1, float, 1, 1, 0>,"
     " float*, int>(", known("optimizer", "l2norm", "multi_tensor_apply_kernel<LpNormFunctor>")),
    ("void at::native::(anonymous namespace)::fused_dropout_kernel_vec<c10::BFloat16, float, unsigned "
     "int, 1, 8, bool>(",
     known("dropout", "forward", "fused_dropout_kernel_vec")),
    ("void at::native::vectorized_elementwise_kernel<4, at::native::masked_scale_kernel<bool, "
     "c10::BFloat16, float>(at::Te",
     known("dropout", "backward", "vectorized_elementwise_kernel<masked_scale_kernel>")),
    ("void at::native::(anonymous namespace)::cunn_SoftMaxForwardSmem<4, c10::BFloat16, float, float, "
     "at::native::(anonymou"
     "s namespace)::LogSoftMaxForwardEpilogue, long>(", known("softmax_loss", "forward", "cunn_SoftMaxForwardSmem")),
    ("void at::native::(anonymous namespace)::nll_loss_backward_reduce_cuda_kernel_2d<float, long>(",
     known("softmax_loss", "backward", "nll_loss_backward_reduce_cuda_kernel_2d")),
    ("void at::native::(anonymous namespace)::embedding_backward_feature_kernel<c10::BFloat16, float, long>(",
     known("embedding", "backward", "embedding_backward_feature_kernel")),
    ("void cub::CUB_200802_900_NS::DeviceRadixSortOnesweepKernel<cub::Policy, false, long, long>(",
     known("memory", "sort", "DeviceRadixSortOnesweepKernel")),
    ("void at::native::index_elementwise_kernel<128, 4, "
     "at::native::gpu_index_kernel<at::native::index_kernel_impl<at::nati",
     known("memory", "index", "index_elementwise_kernel")),
    # Inductor: the costliest of the fused operators.
    ("triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_3",
     known("normalization", "forward", "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt")),
    ("triton_per_fused_add_native_dropout_native_layer_norm_backward_12",
     known("normalization", "backward", "triton_per_fused_add_native_dropout_native_layer_norm_backward")),
    ("triton_red_fused__log_softmax__to_copy_nll_loss_forward_5",
     known("softmax_loss", "forward", "triton_red_fused__log_softmax__to_copy_nll_loss_forward")),
    ("triton_poi_fused_add_mul_silu_1", known("activation", "forward", "triton_poi_fused_add_mul_silu")),
    ("triton_poi_fused_embedding_0", known("embedding", "forward", "triton_poi_fused_embedding")),
    ("triton_tem_fused_addmm_relu_2", known("gemm", "", "triton_tem_fused_addmm_relu")),
    ("triton_poi_fused__to_copy_0", known("elementwise", "cast", "triton_poi_fused__to_copy")),
    ("triton_poi_fused_clone_0", known("memory", "copy", "triton_poi_fused_clone")),
    ("triton_for_fused_0", known("optimizer", "foreach", "triton_for_fused")),
    # Communication.
    ("ncclDevKernel_ReduceScatter_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
     known("communication", "reduce_scatter", "ncclDevKernel_ReduceScatter")),
    ("ncclDevKernel_SendRecv(ncclDevKernelArgsStorage<4096ul>)",
     known("communication", "send_recv", "ncclDevKernel_SendRecv")),
    ("ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)",
     known("communication", "all_reduce", "ncclKernel_AllReduce")),
    ("ncclDevKernel_Generic_1(ncclDevKernelArgsStorage<4096ul>)",
     known("communication", "other", "ncclDevKernel_Generic")),
    ("void userbuffers_fp16_sum_inplace_gpu_rr_rs_oop_fp8<16, __nv_fp8_e4m3>(int, int)",
     known("communication", "userbuffers", "userbuffers_fp16_sum_inplace_gpu_rr_rs_oop_fp8")),
    ("void deep_ep::intranode::dispatch<8, 768, 8192>(int4*, float*)",
     known("communication", "all_to_all", "dispatch")),
    # Hand-written Triton.
    ("_rms_norm_backward_kernel", known("normalization", "backward", "_rms_norm_backward_kernel")),
    ("_swiglu_forward_kernel", known("activation", "forward", "_swiglu_forward_kernel")),
    ("_triton_rope", known("rope", "forward", "_triton_rope")),
    ("liger_cross_entropy_kernel", known("softmax_loss", "forward", "liger_cross_entropy_kernel")),
    ("fused_moe_kernel", known("moe", "router", "fused_moe_kernel")),
    ("my_own_kernel", known("other", "", "my_own_kernel")),
    ("", known("other", "", "")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "expected"), BY_NAME, ids=[name[:40] for name, _ in BY_NAME])
def test_the_name_alone(name: str, expected: KernelClass) -> None:
    assert classify(name) == expected


FUSION = (
    "cast_transpose_fusion_kernel_optimized(transformer_engine::CTDBiasDActParam<__nv_bfloat16, __nv_bfloat16, "
    "__nv_fp8_e5m2, float>, unsigned long, unsigned long, unsigned long)"
)
FUSION_FAMILY = "cast_transpose_fusion_kernel_optimized"

# Columns: kernel, kind, enclosing C range, expected class.
BY_RANGE = [
    # The bias gradient of a Linear reads 2 and writes 1+1 bytes; with an activation's derivative it reads 2+2.
    (FUSION, "kernel", "nvte_quantize_dbias", known("elementwise", "dbias", FUSION_FAMILY, "E5M2", (2, 4))),
    (FUSION, "kernel", "nvte_quantize_dbias_dgelu", known("activation", "backward", FUSION_FAMILY, "E5M2", (2, 6))),
    (FUSION, "kernel", "nvte_cast_transpose_dbias_dsilu",
     known("activation", "backward", FUSION_FAMILY, "E5M2", (2, 6))),
    (FUSION, "kernel", "nvte_gelu", known("activation", "forward", FUSION_FAMILY, "E5M2", (2, 4))),
    (FUSION, "kernel", "", known("elementwise", "dbias", FUSION_FAMILY, "E5M2", (2, 4))),
    ("memset", "memset", "nvte_quantize_v2", known("quantization", "amax_zero", "memset")),
    ("memset", "memset", "nvte_compute_amax_with_config", known("quantization", "amax_zero", "memset")),
    ("memset", "memset", "nvte_cublas_gemm_v2", known("memory", "set", "memset")),
    ("Memset (Device)", "memset", "", known("memory", "set", "memset")),
    ("memcpy HtoD", "memcpy", "nvte_quantize_v2", known("memory", "copy", "memcpy HtoD")),
    ("Memcpy DtoH (Device -> Pinned)", "memcpy", "", known("memory", "copy", "memcpy DtoH")),
    ("graph", "graph", "", known("other", "graph", "CUDA graph")),
    ("void cub::DeviceRadixSortOnesweepKernel<int>(", "kernel", "nvte_device_radix_sort_pairs",
     known("moe", "router", "DeviceRadixSortOnesweepKernel")),
    # Kernels that no row knows are what TE calls the work around them.
    ("kernel", "kernel", "nvte_rmsnorm_bwd", known("normalization", "backward", "kernel")),
    ("some_kernel(int)", "kernel", "nvte_cublas_gemm_v2", known("gemm", "", "some_kernel")),
    ("some_kernel(int)", "kernel", "nvte_dswiglu", known("activation", "backward", "some_kernel")),
    ("some_kernel(int)", "kernel", "nvte_fused_attn_bwd_v2", known("attention", "backward", "some_kernel")),
    ("some_kernel(int)", "kernel", "nvte_group_quantize", known("quantization", "cast", "some_kernel")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "call_range", "expected"), BY_RANGE)
def test_the_enclosing_range_decides_what_the_name_leaves_open(
    name: str, kind: str, call_range: str, expected: KernelClass
) -> None:
    assert classify(name, kind, call_range) == expected


def test_recorded_names() -> None:
    """Every distinct (name, range) of recordings, nsys and Kineto, against the class a person gave it."""
    wrong = []
    for row in rows("kernel_names.tsv"):
        share = tuple(int(part) for part in row["fp8_share"].split("/")) if row["fp8_share"] else (0, 0)
        expected = known(row["category"], row["operation"], row["family"], row["formats"], (share[0], share[-1]))
        got = classify(row["name"], row["kind"], row["call_range"])
        if got != expected:
            wrong.append((row["name"][:100], row["call_range"], expected, got))
    assert not wrong


def test_other_is_small() -> None:
    """Under 0.5% of GPU time in the TE recordings; elsewhere only what no category fits."""
    total: dict[str, int] = defaultdict(int)
    other: dict[str, int] = defaultdict(int)
    families = set()
    for row in rows("kernel_names.tsv"):
        total[row["file"]] += int(row["total_ns"])
        if classify(row["name"], row["kind"], row["call_range"]).category == "other":
            other[row["file"]] += int(row["total_ns"])
            families.add(classify(row["name"], row["kind"]).family)
    assert {"te4-fp8", "te4-bf16", "public-h100-2gpu-1s", "public-old-nsys", "public-h100-qwen-kineto"} <= set(total)
    assert all(other[file] < 0.005 * total[file] for file in total if file.startswith(("te4", "public")))
    # A graph recorded whole holds kernels of every category; spin_kernel is torch.cuda._sleep.
    assert families == {"CUDA graph", "spin_kernel"}


# What a group of Transformer Engine's kernels is, where their bare names tell.
GROUPS = {
    "act_gated_bwd": "activation", "act_gated_fwd": "activation", "act_unary": "activation",
    "cast_or_act(unary_kernel: look at OP)": "activation", "amax": "quantization", "attn_aux": "attention",
    "cast": "quantization", "cast_transpose": "quantization", "comm_userbuffers": "communication",
    "dbias_reduce": "elementwise", "dropout": "dropout", "fp8_block_quant": "quantization", "gemm_cutlass": "gemm",
    "grouped_gemm_setup": "moe", "memset": "memory", "misc": "memory", "moe_permutation": "moe",
    "moe_router_topk": "moe", "mxfp8_quant": "quantization", "norm": "normalization", "nvfp4_hadamard": "quantization",
    "optimizer_multi_tensor": "optimizer", "rope": "rope", "scale_update": "quantization", "softmax": "attention",
    "sort_cub": "other", "swizzle_scale": "quantization", "transpose": "quantization",
}  # fmt: skip
# Kernels that are not what their group is, by the end of their names.
EXCEPTIONS = {
    "cast_transpose_fusion_kernel_optimized": "elementwise",  # at least a bias gradient beside the cast
    "cast_transpose_fused_kernel_notaligned": "elementwise",
    "quantize_gated_mxfp8_kernel": "activation",
    "group_scaled_swiglu_mxfp8_kernel": "activation",
    "update_tma_descriptors": "quantization",  # for the grouped cast that follows
    "copy_host_to_device_via_kernel::(anonymous namespace)::kernel": "memory",
    "transpose_to_bhsd_fallback_not_vec_aligned_kernel": "memory",  # FP8 only where the types say so
    "transpose_to_bhsd_fallback_vec_aligned_kernel": "memory",
    "transpose_to_bhsd_kernel": "memory",
}


def test_every_kernel_of_transformer_engine() -> None:
    wrong = []
    for row in rows("te_kernels.tsv"):
        name, group = row["kernel"], row["group"]
        expected = next((EXCEPTIONS[end] for end in EXCEPTIONS if name.endswith(end)), GROUPS[group])
        # cub's sort serves PyTorch as well: TE's range says that it routes.
        got = classify(name, call_range="nvte_topk" if group == "moe_router_topk" else "").category
        if got != expected:
            wrong.append((group, name, expected, got))
    assert not wrong


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_32_kernel0_0", "cuDNN"),
        ("void pytorch_flash::flash_fwd_kernel<int>(int)", "torch flash"),
        ("void flash_fwd_kernel<int>(int)", "FlashAttention 2"),
        ("fmha_cutlassF_bf16_aligned_64x64_rf_sm80(Params)", "torch mem-efficient"),
        ("transformer_engine::fused_attn::extract_seed_and_offset(long *)", ""),
        ("nvjet_tst_192x176_64x4_1x2_h_bz_coopB_T", ""),
    ],
)
def test_attention_backend(name: str, backend: str) -> None:
    assert attention_backend(classify(name)) == backend


def test_many_names_at_once_are_what_each_is() -> None:
    names = [row["name"] for row in rows("kernel_names.tsv") if row["kind"] == "kernel"]
    assert list(classify_all([*names, names[0]])) == [classify(name) for name in [*names, names[0]]]


@pytest.mark.parametrize("piece", ["a", "a_1", "(", "<", "::", "triton_", "_1.", "nccl_", "&(", "cutlass_gemm_"])
def test_a_name_of_100_kb_does_not_hang(piece: str) -> None:
    """A regular expression that looks back again and again takes minutes for it, any other some milliseconds."""
    for prefix in ("", "void at::native::elementwise_kernel<", "triton_poi_fused_", "cudnn_", "nvjet_"):
        assert classify(prefix + piece * (100_000 // len(piece))).category in CATEGORIES


@given(st.text(), st.sampled_from(["kernel", "memcpy", "memset", "graph"]), st.text())
def test_any_text_has_a_category(name: str, kind: str, call_range: str) -> None:
    assert classify(name, kind, call_range).category in CATEGORIES
