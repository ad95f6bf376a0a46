"""The ordered table that says what a kernel is by its name: the first row that fits wins.

A row looks at the kernel's own name (`name`, whole, without namespaces and template arguments), at the functor a
generic wrapper was instantiated with (`inner`), at the whole demangled text (`where`) and at the enclosing C range
of Transformer Engine (`range`). Names were taken from TE 2.20.2's binary and its older sources, PyTorch, cuBLAS,
cuDNN, NCCL and from recordings; no row depends on a version number.
"""

from __future__ import annotations

from dataclasses import dataclass

GEMM, ATTENTION, QUANTIZATION, NORMALIZATION = "gemm", "attention", "quantization", "normalization"
ACTIVATION, ROPE, LOSS, EMBEDDING, DROPOUT = "activation", "rope", "softmax_loss", "embedding", "dropout"
MOE, ELEMENTWISE, OPTIMIZER, COMMUNICATION = "moe", "elementwise", "optimizer", "communication"
MEMORY, OTHER = "memory", "other"
# What `tetrace record --fp8` adds to a run.
INSPECTION = "inspection"

DIRECTION = "direction"  # operation of a row whose kernels say forward or backward in their own name


@dataclass(frozen=True)
class Rule:
    """One row. Empty conditions hold always; `name` is matched whole, the other three are searched.

    `family` may hold {base} (the kernel's own name), {inner} and {format} (number format in small letters).
    `traffic` is for kernels that may quantize beside their own work: what they move for each element, one letter
    an access: r = the high-precision side, w = the FP8 side, s = a four-byte optimizer state.
    """

    name: str
    category: str
    operation: str = ""
    family: str = "{base}"
    inner: str = ""
    where: str = ""
    range: str = ""
    traffic: str = ""


_ACT = r"(?:gelu|qgelu|silu|relu|srelu|qgeglu|geglu|swiglu|reglu|sreglu|situ\w*|glu|sigmoid)"
_TE_ACT = r"^(?:clamped_)?d?(?:clamped_)?" + _ACT  # the functor of a TE kernel: gelu, dsilu, clamped_dsilu, ...
_TE_DACT = r"^(?:clamped_)?d" + _ACT
_BYTES = r"unsigned char|uint8_t|\bbyte\b"  # TE keeps FP8 data as bytes; nothing else of one byte is transposed
_BARE = r"kernel$"  # the name came without its arguments
_FIRST_TRUE = r"_kernel<(?:\w[\w:]*CastTraits<[^<>]*>, )?(?:true|\(bool\)1)"  # IS_DBIAS, the first flag of TE's casts
_ACT_RANGE = r"^nvte_(?:group_)?" + _ACT + "$"
_DACT_RANGE = r"_d" + _ACT + r"(?:_cast_transpose)?$"
_QUANTIZE_RANGE = (
    r"^nvte_(?:\w+_)?(?:quantize|requantize|cast_transpose|amax|scale_from_amax|scaling_recipe|hadamard|nvfp4|mxfp8"
    r"|fp8_block|swizzle)"
)

# A row a line or two: the table is read down its columns.
# fmt: off
_TETRACE = (
    Rule(r"tetrace_fp8_\w+", INSPECTION, "statistics", "tetrace FP8 statistics"),
)

_MEMORY_OPERATIONS = (
    # Amax buffers are zeroed with memset; inside a GEMM's range a memset clears cuBLAS' semaphores.
    Rule("memset(?:_kernel)?", QUANTIZATION, "amax_zero", range=_QUANTIZE_RANGE),
    Rule("memset(?:_kernel)?", MEMORY, "set"),
    Rule("memcpy", MEMORY, "copy", "{copy}"),
    # A graph recorded as one activity holds kernels of every kind.
    Rule("graph", OTHER, "graph", "CUDA graph"),
    Rule("spin_kernel", OTHER, "sleep"),  # torch.cuda._sleep
)

_GEMM = (
    Rule(r"nvjet_\w+", GEMM, "", "nvjet {format}"),
    # Convolutions before GEMMs: their names hold the word gemm as well. There is no category of their own.
    Rule(r"\w*(?:scudnn|hcudnn|icudnn|convolve|winograd|fprop_impl|dgrad_impl|wgrad_impl|implicit_gemm)\w*", GEMM, "",
         "cuDNN convolution"),
    Rule(r"(?:sm\d+_)?(?:xmma|cutlass)\w*_(?:fprop|dgrad|wgrad)_\w*|cudnn_\w*conv(?!ert)\w*", GEMM, "",
         "cuDNN convolution"),
    Rule(r"fft\d?d?_\w+|im2col\w*|col2im\w*|flip_filter|computeOffsetsKernel|\w*[Ww]inograd\w*|\w*conv\w*2d\w*", GEMM,
         "", "cuDNN convolution"),
    Rule(r"sm\d+_xmma_gemm_\w+", GEMM, "", "xmma {format}"),
    Rule(r"(?:hopper|ampere|turing|volta|pascal|maxwell|kepler)_\w*gemm\w*", GEMM, "", "cuBLAS {format}"),
    Rule(r"cutlass\w*gemm\w*", GEMM, "", "cutlass {format}"),
    Rule(r"splitKreduce\w*|\w*[Ss]plit_?[Kk]_?[Rr]educe\w*|ReduceSplitK", GEMM, "splitK_reduce", "splitKreduce_kernel"),
    Rule(r"globalKernelBgrad\w*", GEMM, "epilogue", "cuBLAS bias gradient"),
    Rule(r"gemv\w*|gemmSN_\w+|gemmk1_kernel", GEMM, "", "cuBLAS gemv {format}"),
    Rule(r"kernel", GEMM, "", "cuBLAS gemv {format}", where="gemvx::"),
    Rule(r"dot_kernel|reduce_1Block_kernel", GEMM, "", "cuBLAS dot"),
    Rule(r"compute_gemm_pointers", GEMM, "setup"),
    Rule(r"sm\d+_(?:fp8|bf16|mxfp8|fp4)\w*gemm\w*|fp8_gemm\w*", GEMM, "", "DeepGEMM {format}"),
)

_ATTENTION = (
    Rule(r"cudnn\w*(?:sdpa|fmha|flash|mha)\w*(?:bprop|bwd|backward)\w*", ATTENTION, "backward", "cuDNN sdpa bprop"),
    Rule(r"cudnn\w*(?:sdpa|fmha|flash|mha)\w*", ATTENTION, "forward", "cuDNN sdpa fprop"),
    Rule(r"compute_dot_do_o\w*|convert_dq_to_\w+|fmha_reduce_head\w*|fmha_dbias\w*", ATTENTION, "backward",
         "cuDNN {base}"),
    Rule(r"thd_batch_remap_kernel|simple_memset|qkv_tma_setup", ATTENTION, "aux", "cuDNN {base}"),
    # FlashAttention 4 before 2: newer ones prefix `kernel_cutlass` with a readable flash_fwd_... of their own.
    Rule(r"\w*kernel_cutlass\w*(?:flash_?attn|FlashAttention)\w*", ATTENTION, DIRECTION, "FlashAttention 4 {stem}"),
    # PyTorch carries FlashAttention 2 under a namespace of its own.
    Rule(r"flash_\w+", ATTENTION, DIRECTION, "torch flash {base}", where="pytorch_flash::"),
    Rule(r"flash_(?:fwd|bwd)\w*", ATTENTION, DIRECTION, "FlashAttention 2 {base}"),
    Rule(r"fmha_cutlass[FB]\w*", ATTENTION, DIRECTION, "torch mem-efficient {stem}"),
    # Every CUTLASS 3 kernel is `device_kernel`: FlashAttention 3 is told from a GEMM by its template argument.
    Rule(r"device_kernel|Kernel2?", ATTENTION, DIRECTION, "FlashAttention 3 {inner}", inner="FlashAttn"),
    Rule(r"prepare_varlen_num_blocks_kernel", ATTENTION, "aux", "FlashAttention 3 {base}"),
    Rule(r"device_kernel|Kernel2?", GEMM, "", "cutlass convolution", where="fprop|dgrad|wgrad"),
    Rule(r"device_kernel|Kernel2?", GEMM, "", "cutlass {format}", where="gemm"),
    # TE's masked softmax kernels run in its unfused attention only.
    Rule(r"scaled_(?:\w+_)?softmax_warp_(?:forward|backward)", ATTENTION, DIRECTION, "TE unfused {base}"),
    Rule(r"extract_seed_and_offset|populate_rng_state_kernel|get_runtime_num_segments_kernel|cu_seqlens_\w+|thd_\w+"
         r"|prepare_kernel_(?:fwd|bwd)|convert_(?:bshd_to_thd|thd_to_bshd)_kernel|\w*kv_cache_kernel", ATTENTION,
         "aux"),
    Rule(r"chunk_\w*(?:delta|gla|kda)\w*|chunk_(?:fwd|bwd)_kernel\w*|recompute_w_u\w*|prepare_wy\w*|causal_conv1d\w*",
         ATTENTION, DIRECTION, "linear attention {base}"),
    Rule(r"_?(?:attn_(?:fwd|bwd)\w*|flash_attn\w*|paged_attention\w*|reshape_and_cache\w*)", ATTENTION, DIRECTION),
)

# Why each traffic is what it is, for each element of one tensor (of one half, where the activation is gated):
#   rw        activation, norm, cast with a partial bias gradient: reads its input, writes FP8; gamma, statistics and
#             partial sums are a row or a column, and left out
#   rrw       derivative of an activation: reads the gradient and the forward's input; gated forward: reads both halves
#   rww       cast and transpose: FP8 is written twice, as it lies and transposed
#   rrww      the same behind the derivative of an activation
#   rrrww     gated backward: reads the gradient and both halves, writes the gradients of both halves
#   rrrwwww   the same, each written as it lies and transposed
#   ww        bias gradient of FP8 data while transposing it: read once, written once
#   rwssssss  Adam over FP8 parameters: gradient read, FP8 written, master and both moments read and written in FP32
_TE_QUANTIZATION = (
    # The delayed recipe's update is a kernel called just `kernel` or `kernel_bulk`.
    Rule(r"kernel(?:_bulk)?", QUANTIZATION, "scale_update", "amax_and_scale_update {base}", where="amax_and_scale_upd"),
    Rule(r"nvfp4_\w*transpose_kernel", QUANTIZATION, "transpose"),
    Rule(r"compute_scale_from_amax_kernel|update_tensor_scale_inv_kernel|grouped_compute_scale_kernel"
         r"|(?:compute_)?nvfp4_\w*scale\w*_kernel|zero_scales_kernel", QUANTIZATION, "scale_update"),
    Rule(r"zero_amax_kernel|grouped_amax_zero_kernel|\w*ZeroAmaxKernel|\w*AmaxMemcpy\w*", QUANTIZATION, "amax_zero"),
    Rule(r"amax_kernel|grouped_amax_flat_kernel|\w*HadamardAmax\w*|compute_(?:row|column)wise_amax_kernel"
         r"|\w*compute_partial_amax_kernel", QUANTIZATION, "amax"),
    Rule(r"\w*swizzle\w*scaling\w*", QUANTIZATION, "swizzle"),
    Rule(r"\w*dequantize\w*", QUANTIZATION, "dequantize", where=r"transformer_engine::|^dequant"),
    # One base name serves block-scaled FP8 and NVFP4; the number format comes from the namespace.
    Rule(r"(?:group_)?block_scaled_\w+|\w*scaling_partial_cast_kernel|nvfp4_2d_partial_cast_kernel", QUANTIZATION,
         "block_cast"),
    Rule(r"\w*rht_gemm_device\w*|HadamardTransformKernel|quantize_transpose_nvfp4_\w+|group_quantize_transpose_nvfp4\w*"
         r"|quantize_4over6_kernel", QUANTIZATION, "block_cast"),
    Rule(r"fused_group_requantize_kernel|quantize_(?:mxfp8_kernel_cast_only|bidim_kernel|contiguous_kernel)",
         QUANTIZATION, "block_cast"),
    Rule(r"update_tma_descriptors", QUANTIZATION, "cast"),  # descriptors of the grouped cast that follows
    # Gated and plain casts of Blackwell: with an activation they are activations, with only a bias gradient that.
    Rule(r"(?:group_scaled_swiglu_mxfp8|quantize_gated_mxfp8|cast_mxfp8_gated|cast_fp8_gated)_kernel", ACTIVATION,
         "backward", where=_FIRST_TRUE, traffic="rrrww"),
    Rule(r"(?:group_scaled_swiglu_mxfp8|quantize_gated_mxfp8|cast_mxfp8_gated|cast_fp8_gated)_kernel", ACTIVATION,
         "forward", traffic="rrw"),
    Rule(r"(?:group_)?(?:cast_fp8|quantize_mxfp8|cast_mxfp8)_\w*kernel", ACTIVATION, "backward", inner=_TE_DACT,
         traffic="rrw"),
    Rule(r"(?:group_)?(?:cast_fp8|quantize_mxfp8|cast_mxfp8)_\w*kernel", ACTIVATION, "forward", inner=_TE_ACT,
         traffic="rw"),
    Rule(r"(?:group_)?(?:cast_fp8_2D|quantize_mxfp8|cast_mxfp8_2D)_kernel", ELEMENTWISE, "dbias", where=_FIRST_TRUE,
         traffic="rw"),
    Rule(r"(?:group_)?cast_fp8_\w*kernel", QUANTIZATION, "cast"),
    Rule(r"(?:group_)?(?:quantize_mxfp8|cast_mxfp8)_\w*kernel", QUANTIZATION, "block_cast"),
    # Cast and transpose, alone and fused. The optimized one is compiled at run time and its name does not say
    # what it was compiled for: the C range does. Without a range (a replayed graph) the bias gradient is certain.
    Rule(r"cast_transpose_fusion_kernel_optimized|cast_transpose_fused_kernel\w*", ACTIVATION, "backward",
         range=_DACT_RANGE, traffic="rrww"),
    Rule(r"cast_transpose_fusion_kernel_optimized|cast_transpose_fused_kernel\w*", ACTIVATION, "forward",
         range=_ACT_RANGE, traffic="rww"),
    Rule(r"cast_transpose_fused_kernel\w*", ACTIVATION, "backward", inner=_TE_DACT, traffic="rrww"),
    Rule(r"cast_transpose_fused_kernel\w*", ACTIVATION, "forward", inner=_TE_ACT, traffic="rww"),
    Rule(r"cast_transpose_dbias_d\w+_kernel\w*", ACTIVATION, "backward", traffic="rrww"),
    Rule(r"cast_transpose_fusion_kernel_optimized|cast_transpose_fused_kernel\w*|cast_transpose_dbias_kernel\w*",
         ELEMENTWISE, "dbias", traffic="rww"),
    Rule(r"dgated_act_cast_transpose_kernel\w*|\w*d\w+glu_cast_transpose_kernel\w*", ACTIVATION, "backward",
         traffic="rrrwwww"),
    # The same kernels also cast or move 16 and 32 bits; a name that came without its arguments is the usual case.
    Rule(r"(?:multi_)?cast_transpose_\w*kernel\w*", QUANTIZATION, "cast_transpose", where=f"__nv_fp8|{_BARE}"),
    Rule(r"(?:multi_)?cast_transpose_\w*kernel\w*", MEMORY, "transpose"),
    Rule(r"transpose_dbias_kernel\w*", ELEMENTWISE, "dbias", traffic="ww"),
    Rule(r"transpose_(?:(?:optimized|general)_)?kernel\w*|transpose_to_bhsd_\w+|swap_first_dims_kernel", QUANTIZATION,
         "transpose", where="__nv_fp8"),
    Rule(r"transpose_(?:optimized|general)_kernel", QUANTIZATION, "transpose", where=f"{_BYTES}|{_BARE}"),
    Rule(r"transpose_(?:(?:optimized|general)_)?kernel\w*|transpose_to_bhsd_\w+|swap_first_dims_\w+", MEMORY,
         "transpose"),
)

_TE_OTHERS = (
    # unary_kernel serves casts, dequantization and every plain activation: its function argument decides.
    Rule("unary_kernel", QUANTIZATION, "dequantize", "{base}<{inner}>", inner="dequantize"),
    Rule("unary_kernel", QUANTIZATION, "dequantize", where=_BARE, range="dequantize"),
    Rule("unary_kernel", QUANTIZATION, "cast", where=_BARE, range=_QUANTIZE_RANGE),
    Rule("unary_kernel", QUANTIZATION, "cast", "{base}<{inner}>", inner="identity", where="__nv_fp8"),
    Rule("unary_kernel", ELEMENTWISE, "cast", "{base}<{inner}>", inner="identity"),
    Rule("unary_kernel", ACTIVATION, "backward", "{base}<{inner}>", inner=_TE_DACT, traffic="rw"),
    Rule("unary_kernel", ACTIVATION, "forward", "{base}<{inner}>", traffic="rw"),
    Rule("unary_grad_kernel", ACTIVATION, "backward", "{base}<{inner}>", traffic="rrw"),
    Rule("gated_act_kernel", ACTIVATION, "forward", "{base}<{inner}>", traffic="rrw"),
    Rule("dgated_act_kernel", ACTIVATION, "backward", "{base}<{inner}>", traffic="rrrww"),
    Rule(r"scaled_(?:gated|unary)_(?:forward|backward)_kernel", ACTIVATION, DIRECTION, "{base}<{inner}>"),
    Rule(r"(?:ln|rmsnorm)_bwd_finalize_\w+_kernel", NORMALIZATION, "backward_finalize"),
    Rule(r"(?:ln|rmsnorm)_(?:fwd|bwd)_\w*kernel", NORMALIZATION, DIRECTION, traffic="rw"),
    Rule(r"cudnn_generated\w*_(?:layer|rms)_?norm\w*", NORMALIZATION, DIRECTION, "cuDNN {stem}", traffic="rw"),
    Rule(r"(?:group_)?reduce_dbias_kernel|_grouped_dbias_kernel", ELEMENTWISE, "dbias"),
    Rule(r"grouped_bias_add_kernel", ELEMENTWISE, "bias_add"),
    Rule(r"dropout_kernel_fwd_fp8", DROPOUT, "forward", traffic="rw"),
    Rule(r"dropout_kernel_fwd_f16", DROPOUT, "forward"),
    Rule(r"apply_dropout_mask", DROPOUT, "backward"),
    Rule(r"fused_(?:qkv_)?rope_\w+|rotary_(?:fwd|bwd)_\w+|\w*_rope_\w+|_triton_rope|\w*rotary\w*", ROPE, DIRECTION),
    Rule(r"moe_\w*permute\w*|_?(?:un)?permute_(?:kernel|bwd_\w+)|_row_id_map_pass_\w+|_make_chunk_sort_map_kernel"
         r"|_sort_chunks_by_map_kernel", MOE, "permute"),
    Rule(r"multi_(?:un)?padding_kernel|zero_pad_kernel", MOE, "padding"),
    Rule(r"fused_(?:topk|score|moe)_\w+|convert_accum_to_output|qb_histogram\w+", MOE, "router"),
    Rule(r"last_filter_kernel|radix_kernel|radix_topk_one_block_kernel", MOE, "router", where="topk"),
    Rule(r"setup_grouped_gemm_kernel|compute_grouped_tensor_offsets_kernel|convert_int32_to_int64\w*|set_float_kernel"
         r"|splits_to_offsets\w*", MOE, "grouped_gemm_setup"),
    Rule(r"kernel", MOE, "grouped_gemm_setup", "splits_to_offsets kernel", where="splits_to_offsets::"),
    Rule(r"kernel", MEMORY, "copy", "copy_host_to_device_via_kernel", where="copy_host_to_device_via_kernel::"),
    Rule(r"multi_tensor_pad_last_dim_kernel", MEMORY, "padding"),
    Rule(r"_mhc_\w+", ELEMENTWISE, DIRECTION),
)

_OPTIMIZER = (
    # multi_tensor_apply serves TE, apex and PyTorch's foreach; its functor decides.
    Rule(r"multi_tensor_apply_kernel\w*", QUANTIZATION, "scale_update", "{base}<{inner}>", inner="ComputeScale"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "adam", "{base}<{inner}>", inner="(?i)adam", where="__nv_fp8",
         traffic="rwssssss"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "adam", "{base}<{inner}>", inner="(?i)adam"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "sgd", "{base}<{inner}>", inner="(?i)sgd"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "lamb", "{base}<{inner}>", inner="(?i)lamb"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "l2norm", "{base}<{inner}>", inner="(?i)l2norm|lpnorm"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "scale", "{base}<{inner}>", inner="^Scale|Axpby"),
    Rule(r"multi_tensor_apply_kernel\w*", MEMORY, "copy", "{base}<{inner}>", inner="^Copy"),
    Rule(r"multi_tensor_apply_kernel\w*", OPTIMIZER, "foreach", "{base}<{inner}>"),
    Rule(r"cleanup(?:_v2)?|lpnorm_cleanup\w*", OPTIMIZER, "l2norm", "l2norm {base}"),
    Rule(r"\w*amp_(?:non_finite|update_scale)\w*", OPTIMIZER, "grad_scale"),
    Rule(r"triton_for_\w+", OPTIMIZER, "foreach", "{stem}"),  # Inductor's foreach kernels: compiled optimizers
)

_COMMUNICATION = (
    # NCCL compiles few of its functions into kernels of their own (src/device/generate.py, best_kernel): a MAX (amax)
    # also runs as `AllReduce_Sum_f32_RING_LL`, and so does every protocol. The family leaves them out.
    Rule(r"nccl\w*AllReduce\w*", COMMUNICATION, "all_reduce", "{nccl}"),
    Rule(r"nccl\w*AllGather\w*", COMMUNICATION, "all_gather", "{nccl}"),
    Rule(r"nccl\w*ReduceScatter\w*", COMMUNICATION, "reduce_scatter", "{nccl}"),
    Rule(r"nccl\w*SendRecv\w*", COMMUNICATION, "send_recv", "{nccl}"),
    Rule(r"nccl\w*Broadcast\w*", COMMUNICATION, "broadcast", "{nccl}"),
    Rule(r"nccl\w*AllToAll\w*", COMMUNICATION, "all_to_all", "{nccl}"),
    Rule(r"nccl\w*Reduce\w*", COMMUNICATION, "reduce", "{nccl}"),
    Rule(r"nccl\w*", COMMUNICATION, "other", "{nccl}"),
    Rule(r"k?userbuffers_\w+|producer_kernel|consumer(?:_batch)?_kernel|reduce_bf16_cuda|reduce_fp8_in_bf16_out_cuda"
         r"|reset_counters_kernel|tiny_delay_kern", COMMUNICATION, "userbuffers"),
    Rule(r"(?:cached_)?(?:notify_)?(?:dispatch|combine)\w*|clean_low_latency_buffer\w*", COMMUNICATION, "all_to_all",
         where=r"_ep::"),
    Rule(r"nvshmem\w*", COMMUNICATION, "nvshmem"),
    Rule(r"cross_device_reduce\w*|(?:one|two)_shot_all_reduce\w*|multimem_all_reduce\w*", COMMUNICATION, "all_reduce"),
    Rule(r"multimem_all_gather\w*", COMMUNICATION, "all_gather"),
)

# Every elementwise kernel of PyTorch is one of these wrappers around a functor or a lambda of a named function.
_WRAPPER = (
    r"(?:vectorized|unrolled|legacy|index|distribution|chunked)?_?elementwise_(?:kernel\w*|grid_stride_kernel)"
    r"|vectorized_templated_elementwise_kernel"
)
_TORCH = (
    # Advanced indexing wraps a lambda that only moves elements.
    Rule(r"index_elementwise_kernel", MEMORY, "index"),
    # A fill only writes a constant, as a memset does.
    Rule(_WRAPPER, MEMORY, "fill", "{base}<{inner}>", inner="Fill"),
    Rule(_WRAPPER, QUANTIZATION, "cast", "{base}<{inner}>", inner=r"float8\w*copy"),
    # A copy that changes the number format computes (elementwise cast); one that does not only moves bytes
    # (contiguous(), transposes, slices) and is memory like a memcpy. `nocast` and the plain lambda are the latter.
    Rule(_WRAPPER, ELEMENTWISE, "cast", "{base}<{inner}>", inner=r"(?:float16|float32|half)\w*copy_kernel"),
    Rule(_WRAPPER, ELEMENTWISE, "cast", "{base}<{inner}>", inner="direct_copy", where="LoadWithCast|StoreWithCast"),
    Rule(_WRAPPER, ELEMENTWISE, "cast", "{base}<{inner}>", inner="direct_copy", where=r"gpu_kernel_impl<"),
    Rule(_WRAPPER, MEMORY, "copy", "{base}<{inner}>", inner="copy_kernel|^copy_"),
    Rule(_WRAPPER, DROPOUT, "backward", "{base}<{inner}>", inner="masked_scale"),
    # Bernoulli draws masks; the other distributions make data or initial weights.
    Rule(_WRAPPER, DROPOUT, "forward", "{base}<{inner}>", inner="bernoulli"),
    Rule(r"distribution_\w+", ELEMENTWISE, "random", "{base}<{inner}>"),
    Rule(_WRAPPER, LOSS, DIRECTION, "{base}<{inner}>", inner="mse_|smooth_l1|huber|cross_entropy|kl_div|nll"),
    Rule(_WRAPPER, ACTIVATION, DIRECTION, "{base}<{inner}>",
         inner="(?i)gelu|silu|relu|sigmoid|tanh|softplus|mish|hardswish|threshold|[a-z]elu|^elu|glu_"),
    Rule(_WRAPPER, ELEMENTWISE, "arange", "{base}<{inner}>", inner="arange|linspace|range_cuda"),
    Rule(_WRAPPER, ELEMENTWISE, "", "{base}<{inner}>"),
    Rule(r"reduce_kernel", ELEMENTWISE, "reduce", "{base}<{inner}>"),
    Rule(r"softmax_warp_\w+|cunn_Soft[Mm]ax\w*|cunn_SpatialSoftMax\w*|softmax_\w+", LOSS, DIRECTION),
    Rule(r"nll_loss\w*|cross_entropy\w*|liger_cross_entropy\w*|_cross_entropy_\w+|online_softmax_kernel"
         r"|element_mul_kernel|_chunked_cross_entropy\w*", LOSS, DIRECTION),
    Rule(r"(?:vectorized_)?layer_norm_grad\w*|GammaBetaBackward\w*|\w*GammaBetaBackward\w*|cuCompute(?:Part)?Grad\w*"
         r"|ComputeInternalGradientsCUDAKernel|ComputeGradientFusedParams\w*|LayerNormBackward\w*", NORMALIZATION,
         "backward"),
    Rule(r"vectorized_layer_norm_kernel|RowwiseMoments\w*|LayerNormForward\w*|cuApply(?:Layer|RMS)Norm\w*"
         r"|\w*(?:layer_?norm|rms_?norm|batch_?norm|group_?norm)\w*|bn_(?:fw|bw)_\w+|l2norm_(?:fwd|bwd)_\w+",
         NORMALIZATION, DIRECTION),
    # A CatArrayBatchedCopy moves bytes; the concatenation of amax rows looks the same and is told by its neighbours.
    Rule(r"CatArray\w*|chunk_cat\w*|\w*split_with_sizes\w*", MEMORY, "concat"),
    Rule(r"indexSelect\w*|vectorized_gather_kernel|EmbeddingBag_\w+", EMBEDDING, "forward"),
    Rule(r"embedding_backward\w*|compute_grad_weight\w*|sum_and_scatter\w*|krn_partial\w*|compute_num_of_partial\w*"
         r"|\w*embedding\w*grad\w*|write_num_of_segments\w*", EMBEDDING, "backward"),
    Rule(r"_rope_embedding\w*", ROPE, DIRECTION),
    Rule(r"\w*embedding\w*", EMBEDDING, DIRECTION),
    Rule(r"_?scatter_gather\w*|index\w*|indexing_backward\w*|gather\w*|scatter\w*|flip\w*|roll_\w+|masked_\w+|take\w*",
         MEMORY, "index"),
    Rule(r"fused_dropout_kernel\w*|\w*[Dd]ropout\w*", DROPOUT, DIRECTION),
    Rule(r"triu_tril_kernel\w*", ELEMENTWISE, ""),
    Rule(r"tensor_kernel_scan\w*|\w*scan_\w+|DeviceScan\w*", ELEMENTWISE, "scan"),
    # Sorting inside TE's own ranges is routing. Elsewhere it also serves the embedding's backward: it moves keys.
    Rule(r"DeviceRadixSort\w*|radix\w*|EmptyKernel", MOE, "router", range=r"^nvte_"),
    Rule(r"gatherTopK|radixFindKthValues|computeBlockwise\w+|sbtopk\w*|gatherMedian", MOE, "router"),
    Rule(r"DeviceRadixSort\w*|\w*[Ss]ort\w*|DeviceUnique\w*|DeviceSelect\w*|DeviceCompact\w*|DeviceRunLength\w*"
         r"|DeviceMerge\w*|fill_reverse_indices\w*|DeviceHistogram\w*", MEMORY, "sort"),
    Rule(r"DeviceReduce\w*|DeviceSegmentedReduce\w*", ELEMENTWISE, "reduce"),
    Rule(r"\w*pool\w*|upsample\w*", ELEMENTWISE, ""),
    Rule(r"\w*(?:nchwToNhwc|nhwcToNchw|tensorTransform)\w*", MEMORY, "transpose"),
)

# Inductor writes the operators it fused into the name. The costliest wins: a template is the product it was made
# for, then reductions over rows (softmax and loss, then norms), then the rest; plain arithmetic comes last.
_INDUCTOR = (
    Rule(r"triton_\w*flex_(?:attention|decoding)\w*", ATTENTION, DIRECTION, "torch flex {stem}"),
    Rule(r"triton_(?:tem|mm|bmm|addmm)_?\w*", GEMM, "", "{stem}"),
    Rule(r"triton_\w*(?:softmax|nll_loss|cross_entropy|logsumexp)\w*", LOSS, DIRECTION, "{stem}"),
    Rule(r"triton_\w*(?:(?:layer|rms|group|batch)_norm|rsqrt|var_mean)\w*", NORMALIZATION, DIRECTION, "{stem}"),
    Rule(r"triton_\w*embedding\w*", EMBEDDING, DIRECTION, "{stem}"),
    # The derivative of tanh, 1 - t², is decomposed into rsub.
    Rule(r"triton_\w*rsub\w*tanh\w*", ACTIVATION, "backward", "{stem}"),
    Rule(r"triton_\w*(?:gelu|silu|relu|sigmoid|tanh|erf|swiglu|leaky|softplus)\w*", ACTIVATION, DIRECTION, "{stem}"),
    Rule(r"triton_\w*(?:dropout|bernoulli)\w*", DROPOUT, DIRECTION, "{stem}"),
    Rule(r"triton_poi_fused(?:_(?:clone|transpose|t|permute|view|unbind|split|copy|cat|stack|slice|zeros|full|fill))+"
         r"(?:_\d+)?", MEMORY, "copy", "{stem}"),
    Rule(r"triton_poi_fused_+to_copy(?:_\d+)?", ELEMENTWISE, "cast", "{stem}"),
    Rule(r"triton_(?:red|per)_\w+", ELEMENTWISE, "reduce", "{stem}"),
    Rule(r"triton_\w+", ELEMENTWISE, "", "{stem}"),
)

# Free-named kernels (hand-written Triton, other libraries), by the words in their names.
_WORDS = (
    Rule(r"(?:\w*_)?(?:fused_moe|moe|topk|router|expert|permute)\w*", MOE, "router"),
    Rule(r"\w*(?:allreduce|all_reduce)\w*", COMMUNICATION, "all_reduce"),
    Rule(r"\w*(?:allgather|all_gather)\w*", COMMUNICATION, "all_gather"),
    Rule(r"\w*reduce_scatter\w*", COMMUNICATION, "reduce_scatter"),
    Rule(r"\w*(?:alltoall|all_to_all)\w*", COMMUNICATION, "all_to_all"),
    Rule(r"\w*(?:attention|attn|fmha|sdpa)\w*", ATTENTION, DIRECTION),
    Rule(r"\w*(?:[gs]wiglu|geglu|gelu|silu|relu|act_and_mul|_fg_kernel|_dfg_kernel)\w*", ACTIVATION, DIRECTION),
    Rule(r"\w*dequant\w*", QUANTIZATION, "dequantize"),
    Rule(r"\w*(?:quant|fp8_cast|cast_fp8|to_fp8)\w*", QUANTIZATION, "cast"),
    Rule(r"\w*(?:gemm|matmul|_mm_)\w*|mm_kernel\w*", GEMM, ""),
    Rule(r"\w*(?:adam|sgd|lamb|muon|optimizer)\w*", OPTIMIZER, ""),
    Rule(r"\w*softmax\w*|\w*_loss\w*", LOSS, DIRECTION),
    Rule(r"\w*(?:memset|fill|zero_)\w*", MEMORY, "fill"),
    Rule(r"\w*(?:copy|transpose|concat|pad_)\w*", MEMORY, "copy"),
)

# What an unknown kernel is when it runs inside one of TE's C ranges.
_RANGES = (
    Rule(r".+", ACTIVATION, "backward", range=r"^nvte_(?:\w+_)?d" + _ACT),
    Rule(r".+", ACTIVATION, "forward", range=r"^nvte_(?:\w+_)?" + _ACT),
    Rule(r".+", ATTENTION, DIRECTION, range=r"^nvte_\w*(?:fused_attn|flash_attn|kv_cache|softmax|cp_thd)"),
    Rule(r".+", GEMM, "", range=r"^nvte_\w*gemm"),
    Rule(r".+", NORMALIZATION, DIRECTION, range=r"^nvte_\w*norm_(?:fwd|bwd)"),
    Rule(r".+", ROPE, DIRECTION, range=r"^nvte_\w*rope"),
    Rule(r".+", MOE, "router", range=r"^nvte_(?:\w*(?:moe|permute|topk|padding|splits)|ep_)"),
    Rule(r".+", DROPOUT, DIRECTION, range=r"^nvte_dropout"),
    Rule(r".+", QUANTIZATION, "dequantize", range=r"^nvte_\w*dequantize"),
    Rule(r".+", QUANTIZATION, "cast", range=_QUANTIZE_RANGE),
    Rule(r".+", OPTIMIZER, "", range=r"^nvte_multi_tensor_(?:adam|sgd|scale|l2norm|unscale)"),
)
# fmt: on

# Order of the groups: what one library names exactly comes before what only shares words with it.
RULES = (
    *_TETRACE,
    *_MEMORY_OPERATIONS,
    *_COMMUNICATION,
    *_GEMM,
    *_ATTENTION,
    *_TE_QUANTIZATION,
    *_TE_OTHERS,
    *_OPTIMIZER,
    *_INDUCTOR,
    *_TORCH,
    *_RANGES,
    *_WORDS,
)
