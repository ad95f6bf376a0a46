"""What dimensions Transformer Engine's FP8 GEMMs take, declared once: divisor, GEMM, and the error that it raises else.

A linear multiplies `tokens` rows (all dimensions before the last together) of `in_features` by a weight of
`out_features x in_features`. On GPUs whose FP8 GEMMs are TN only (Hopper, Ada), dgrad and wgrad read transposed copies, so
the leading dimension of their operands is what they sum over: `out_features` in dgrad, `tokens` in wgrad.

Sources: `assert_dim_for_fp8_exec` (pytorch/utils.py), `CanonicalizeGemmInput` (common/gemm/cublaslt_gemm.cu), the
quantizers of MXFP8 and NVFP4 (pytorch/csrc/quantizer.cpp), `get_align_size_for_quantization` (pytorch/quantization.py).
"""

from __future__ import annotations

from dataclasses import dataclass

DELAYED, CURRENT, BLOCK, MXFP8, NVFP4 = "delayed", "current", "block", "mxfp8", "nvfp4"
SCALINGS = (DELAYED, CURRENT, BLOCK, MXFP8, NVFP4)
# Recipes of Transformer Engine by the class's name.
SCALING_OF = {
    "DelayedScaling": DELAYED,
    "Float8CurrentScaling": CURRENT,
    "Float8BlockScaling": BLOCK,
    "MXFP8BlockScaling": MXFP8,
    "NVFP4BlockScaling": NVFP4,
}
TOKENS, IN_FEATURES, OUT_FEATURES = "tokens", "in_features", "out_features"
FPROP, DGRAD, WGRAD = "fprop", "dgrad", "wgrad"
# The last version whose source was read; a later one is taken to raise the same.
KNOWN_VERSION = "2.20.2"

# Modules that check dimensions in Python before anything runs; the others meet the GEMM's own check.
CHECKED = ("Linear", "LayerNormLinear", "LayerNormMLP")
UNCHECKED = ("GroupedLinear", "BasicLinear", "")
GROUPED = ("GroupedLinear",)

Version = tuple[int, ...]


@dataclass(frozen=True)
class Error:
    """What is raised from version `since` on; `text` may hold {dims}, {leading} and {last} of the tensor refused."""

    since: Version
    kind: str
    text: str


@dataclass(frozen=True)
class Rule:
    """`dimension` of a linear must be divisible by `divisor` for `gemm`, in these classes and with these scalings.

    `tensor` is what the error is about. `tn_only` says on which GPUs it holds: those whose FP8 GEMMs are TN only (True),
    the others (False), or all (None). `errors` are by version, the newest first.
    """

    scalings: tuple[str, ...]
    classes: tuple[str, ...]
    gemm: str
    dimension: str
    divisor: int
    tensor: str
    errors: tuple[Error, ...]
    tn_only: bool | None = None

    @property
    def phase(self) -> str:
        """`forward` or `backward`: when it is met."""
        return "forward" if self.gemm == FPROP else "backward"

    def error(self, version: Version) -> Error:
        """What that version of Transformer Engine raises."""
        return next((error for error in self.errors if version >= error.since), self.errors[-1])


_DIMS = (
    "FP8 execution requires the product of all dimensions except the last to be divisible by 8 and the last dimension to be "
    "divisible by 16, but got tensor with dims={dims} (product of leading dims = {leading}, last dim = {last})"
)
_CHECK = (
    Error((2, 14), "ValueError", _DIMS),
    Error((2,), "AssertionError", _DIMS),
    Error(
        (1,),
        "AssertionError",
        "FP8 execution requires 2D input matrices with height divisible by 8 and width divisible by 16, but got tensor with "
        "dims={dims}",
    ),
)
_NO_ALGORITHM = (
    Error((2,), "RuntimeError", "Unable to find suitable cuBLAS GEMM algorithm"),
    Error((1,), "RuntimeError", "Unable to find any suitable algorithms"),
)


def _leading(operand: str) -> tuple[Error, ...]:
    text = f"Leading dimension requirement on {operand} for FP8 GEMM. Caller must pad."
    return (Error((2, 9), "RuntimeError", text), *_NO_ALGORITHM)


def _block(text: str) -> tuple[Error, ...]:
    return (Error((2, 3), "RuntimeError", f"{text} NVTE_BLOCK_SCALING GEMM. Caller must pad."),)


_BLOCK_LEADING = _block("Leading dimension requirement on")
_MXFP8 = (Error((2,), "RuntimeError", "MXFP8 requires tensor dims that are divisible by 32"),)
_NVFP4 = (Error((2, 8), "RuntimeError", "NVFP4 requires tensor dims that are divisible by 16"),)
_NVFP4_LAST = (Error((2, 8), "RuntimeError", "Last dim for NVFP4 must be divisible by 16"),)
_TENSOR, _ALL = (DELAYED, CURRENT), (*CHECKED, *UNCHECKED)

# In the order in which a step meets them: the first that is broken is what raises.
RULES: tuple[Rule, ...] = (
    Rule(SCALINGS, CHECKED, FPROP, TOKENS, 8, "input", _CHECK),
    Rule(SCALINGS, CHECKED, FPROP, IN_FEATURES, 16, "input", _CHECK),
    Rule(SCALINGS, CHECKED, FPROP, OUT_FEATURES, 8, "weight", _CHECK),
    Rule((MXFP8,), _ALL, FPROP, TOKENS, 32, "input", _MXFP8),
    Rule((MXFP8,), _ALL, FPROP, IN_FEATURES, 32, "input", _MXFP8),
    Rule((MXFP8,), _ALL, FPROP, OUT_FEATURES, 32, "weight", _MXFP8),
    Rule((NVFP4,), _ALL, FPROP, TOKENS, 16, "input", _NVFP4),
    Rule((NVFP4,), _ALL, FPROP, IN_FEATURES, 16, "input", _NVFP4_LAST),
    Rule((NVFP4,), _ALL, FPROP, OUT_FEATURES, 16, "weight", _NVFP4),
    Rule(_TENSOR, UNCHECKED, FPROP, IN_FEATURES, 16, "weight", _leading("A")),
    # The result's rows, in BF16, must begin at multiples of 16 bytes.
    Rule(_TENSOR, UNCHECKED, FPROP, OUT_FEATURES, 8, "output", _NO_ALGORITHM),
    Rule((BLOCK,), UNCHECKED, FPROP, IN_FEATURES, 16, "weight", _BLOCK_LEADING),
    Rule((BLOCK,), UNCHECKED, FPROP, OUT_FEATURES, 8, "weight", _block("Outer dimension requirement on A for")),
    Rule((BLOCK,), UNCHECKED, FPROP, TOKENS, 8, "input", _block("Outer dimension requirement on B for")),
    Rule(_TENSOR, _ALL, DGRAD, OUT_FEATURES, 16, "weight", _leading("A"), tn_only=True),
    Rule(_TENSOR, _ALL, DGRAD, OUT_FEATURES, 16, "grad_output", _leading("B"), tn_only=False),
    Rule((BLOCK,), _ALL, DGRAD, OUT_FEATURES, 16, "weight", _BLOCK_LEADING),
    Rule(_TENSOR, _ALL, WGRAD, TOKENS, 16, "input", _leading("A"), tn_only=True),
    Rule((BLOCK,), _ALL, WGRAD, TOKENS, 16, "input", _BLOCK_LEADING),
    # What Fp8Padding pads the rows of each expert to: quantization of groups asks for more than the GEMM does.
    Rule((NVFP4,), GROUPED, FPROP, TOKENS, 128, "input", _NVFP4),
)


def is_of_later_gpus(scaling: str, capability: int) -> bool:
    """Whether GPUs of this compute capability lack the formats: MXFP8 and NVFP4 came with Blackwell, 10.0."""
    return scaling in ("mxfp8", "nvfp4") and capability < 100


def is_tn_only(capability: int) -> bool:
    """Whether FP8 GEMMs of a GPU take row-major operands only; `capability` is 10 x major + minor, as 90."""
    return not (100 <= capability < 120 or capability >= 130)


def version_of(text: str) -> Version:
    """Numbers of a version: `2.20.2+cu13` is (2, 20, 2)."""
    numbers = []
    for word in text.split("+")[0].split("."):
        if not word.isdecimal():
            break
        numbers.append(int(word))
    return tuple(numbers) or version_of(KNOWN_VERSION)
