"""What a demangled kernel name says: the kernel's own name, its functor, number formats, bytes moved.

Spellings differ by recorder: Nsight Systems writes `<unnamed>`, `(int)4`, `(bool)1`, `&ns::gelu<float, float>`;
libiberty (PyTorch profiler) `(anonymous namespace)`, `4`, `true`, `&(float ns::gelu<float, float>(float, ...))`.
"""

from __future__ import annotations

import re

_COMPONENT = re.compile(r"(?:(?:\(anonymous namespace\)|<unnamed>|\{anonymous\}|[\w.$~]+)::)*([\w.$~]+)")
_LONGEST_NAME = 300  # characters of a kernel's own name that are looked at

_TE_FUNCTION = re.compile(r"&(?:\([\w ]+? )?transformer_engine::(?:\w+::)*(\w+)")
_FUNCTOR = re.compile(
    r"\b(?!gpu_kernel|opmath_|[AB]?UnaryFunctor|BinaryFunctor|distribution_nullary)"
    r"((?:FlashAttn|ComputeScale|launch_clamp)\w*|\w*(?:Functor|functor|[Kk]ernel|_cuda|_out|Ops)\w*)"
)


def own_name(text: str) -> tuple[str, int]:
    """The kernel's name without return type, namespaces and arguments, and where in `text` it ends.

    `void at::native::<unnamed>::foo<(int)4>(int)` gives `foo`.
    """
    position = text.find("::type ") + 7 if text.startswith("std::enable_if") else 0
    while match := _COMPONENT.match(text, position):
        if text[match.end() : match.end() + 1] != " ":
            return match.group(1)[:_LONGEST_NAME], match.end()
        position = match.end() + 1  # that was the return type
    return text[:_LONGEST_NAME].strip(), len(text)


def functor(text: str, end: int) -> str:
    """What a generic wrapper whose own name ends at `end` was instantiated with: `gelu`, `CUDAFunctor_add`, ...

    Empty where nothing tells. Wrappers around the functor (`BinaryFunctor`, `gpu_kernel_impl`) are skipped.
    """
    if text[end : end + 1] != "<":
        return ""
    pattern = _TE_FUNCTION if "&" in text and "transformer_engine::" in text[:40] else _FUNCTOR
    match = pattern.search(text, end)
    return match.group(1) if match else ""


_STEM = re.compile(r"(.+?)(?:_(?:knob|sm\d|object_at|bf16|f16|f32)\w*|(?:_\d[\dde]*)+)?$")
_FLASH_4 = re.compile(r"FlashAttention[A-Z]\w*?(?=_object|_\d|$)")
_COLLECTIVE = re.compile(
    r"nccl\w*?(?:AllReduce|AllGather|ReduceScatter|SendRecv|Broadcast|AllToAll|Reduce|Generic)|nccl[A-Za-z]+"
)


def stem(name: str) -> str:
    """`name` without what varies with shape and compilation: trailing numbers, tiles, architecture."""
    if flash := _FLASH_4.search(name):
        return flash.group()
    match = _STEM.match(name)
    return match.group(1) if match else name


def without_index(name: str) -> str:
    """`name` without the number that Inductor and others count their kernels with: `triton_poi_fused_add_12`."""
    bare = name.rstrip("0123456789")
    return bare[:-1] if bare[-1:] == "_" and bare != name and len(bare) > 1 else name


def collective(name: str) -> str:
    """An NCCL kernel's name up to its collective: `ncclDevKernel_AllReduce`."""
    match = _COLLECTIVE.match(name)
    return match.group() if match else name


_COPY = re.compile(r"(?i)memcpy\s+(\w+to\w+)")


def copy_direction(name: str) -> str:
    """`memcpy HtoD` from any recorder's words for it (`Memcpy HtoD (Pinned -> Device)`)."""
    match = _COPY.match(name)
    return f"memcpy {match.group(1)}" if match else "memcpy"


_BACKWARD = re.compile(r"bwd|[Bb]ackward|Bwd|bprop|_grad|Grad|cutlassB|(?:^|_)d(?:gelu|silu|relu|act|swiglu)")


def direction(*words: str) -> str:
    """`backward` where one of the names (a kernel's own, its functor's, its range's) says so, else `forward`."""
    return "backward" if any(_BACKWARD.search(word) for word in words) else "forward"


# cuBLAS' letters, from the type table of libcublasLt 13.10; r was confirmed as E5M2 on an H200.
_NVJET = re.compile(r"nvjet_(?:sm\d+_)?([a-z]+)(_tf32)?_")
_NVJET_LETTERS = {"q": "E4M3", "r": "E5M2", "o": "FP4", "t": "BF16", "h": "FP16", "s": "FP32", "d": "FP64", "b": "INT8"}
# xmma writes A, D, B, accumulator, epilogue: `gemm_e4m3bf16_e5m2f32_f32`.
_XMMA_TYPE = r"(e4m3|e5m2|bf16|tf32|f16|f32|f64|cf32|cf64|i8|u8|i32)"
_XMMA = re.compile(rf"_xmma_\w*?_{_XMMA_TYPE}{_XMMA_TYPE}_{_XMMA_TYPE}{_XMMA_TYPE}_")
_WORDS = (
    ("FP4", re.compile(r"e2m1|nvf?p?4_|mxfp4|float4_e|fp4")),
    ("E4M3", re.compile(r"e4m3")),
    ("E5M2", re.compile(r"e5m2")),
    ("FP8", re.compile(r"fp8|float8|_f8_|mxfp8")),
    ("BF16", re.compile(r"bf16|bfloat16|BFloat16")),
    ("TF32", re.compile(r"tf32|tensorop_s1688gemm")),
    ("FP16", re.compile(r"fp16|half|f16|(?<![a-z])h\d*gemm|Half")),
    ("INT8", re.compile(r"int8|_i8|_s8|imma|signed char")),
    ("FP64", re.compile(r"double|f64|dgemm|zgemm")),
    ("FP32", re.compile(r"float|sgemm|f32|scudnn|cgemm")),
)
_FP8_TYPES = re.compile(r"e4m3|e5m2")
_SHORT = {"e4m3": "E4M3", "e5m2": "E5M2", "bf16": "BF16", "tf32": "TF32", "f16": "FP16", "f32": "FP32", "f64": "FP64",
          "cf32": "FP32", "cf64": "FP64", "i8": "INT8", "u8": "INT8", "i32": "INT32"}  # fmt: skip


def gemm_format(name: str, text: str) -> str:
    """Number format of a GEMM's operands, `E4M3×E5M2` where they differ (in the order of the name); "" unknown."""
    if match := _NVJET.match(name):
        letters = match.group(1)
        if match.group(2):
            return "TF32"
        return _pair(*(_NVJET_LETTERS.get(c, "") for c in (letters[:2] if len(letters) > 3 else letters[0] * 2)))
    if match := _XMMA.search(name):
        a, b = _SHORT[match.group(1)], _SHORT[match.group(3)]
        return "TF32" if b == "TF32" else _pair(a, b)
    types = _FP8_TYPES.findall(text)
    if types:
        return _pair(_SHORT[types[0]], _SHORT[types[1]] if len(types) > 1 else _SHORT[types[0]])
    return _first_word(text)


def _pair(a: str, b: str) -> str:
    return a if a == b else f"{a}×{b}" if a and b else ""


def _first_word(text: str) -> str:
    return next((word for word, pattern in _WORDS if pattern.search(text)), "")


def attention_format(name: str, text: str) -> str:
    """Number format of an attention kernel's operands. cuDNN writes `f16` for BF16 too: `FP16/BF16`."""
    if name.startswith("cudnn"):
        return "FP8" if "_f8_" in name or "fp8" in name else "FP16/BF16" if "f16" in name else ""
    # Plain integers and floats (accumulators, scales) say nothing about the operands.
    found = _first_word(text)
    return "" if found in ("FP32", "INT8", "FP64") and "_f32_" not in name else found


def family_word(number_format: str) -> str:
    """`fp8` for any pair of FP8 formats, else the format in small letters."""
    return "fp8" if number_format.startswith(("E4M3", "E5M2")) else number_format.lower()


def quantized_format(text: str) -> str:
    """The FP8 or FP4 format named among a quantizing kernel's types; "" where there is none.

    In NVFP4 kernels the E4M3 that appears is the scales'.
    """
    if "fp4" in text or "4over6" in text:
        return "FP4"
    match = _FP8_TYPES.search(text)
    return _SHORT[match.group()] if match else ""


# An FP8 type next to a high-precision one is (input, output) in every fused kernel of TE; Adam over FP8 parameters
# and dropout of FP8 data name the FP8 side first.
_BYTES = {"__nv_bfloat16": 2, "__half": 2, "float": 4}
_TYPES = re.compile(r"(__nv_bfloat16|__half|float), __nv_fp8_e\dm\d|__nv_fp8_e\dm\d, (__nv_bfloat16|__half|float)")
_BOTH_WAYS = re.compile(r"__nv_fp8_\w+, (?:(?:true, true|\(bool\)1, \(bool\)1)\b|\(?(?:\w+::)*ScalingType\)2)")


def fp8_share(text: str, traffic: str) -> tuple[int, int]:
    """Bytes for each element that are FP8, and bytes in all, of a kernel moving `traffic`; (0, 0) without FP8.

    `traffic` has a letter for each access of the size of the tensor: r high precision, w FP8, s a four-byte state.
    What is smaller by a row or a column (gamma, statistics, partial bias gradients, scales) is left out. Block-scaled
    kernels of Blackwell may write both ways: their flags after the types double the writes.
    """
    match = _TYPES.search(text) if "__nv_fp8" in text else None
    if not match:
        return (0, 0)
    size = _BYTES[match.group(1) or match.group(2)]
    fp8 = traffic.count("w") * (2 if _BOTH_WAYS.search(text) else 1)
    return fp8, fp8 + size * traffic.count("r") + 4 * traffic.count("s")
