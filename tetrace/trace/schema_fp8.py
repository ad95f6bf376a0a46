"""The tables of FP8 inspection: what was seen of each tensor, its histogram, and how delayed scaling moved the scales."""

from __future__ import annotations

from tetrace.trace.columns import PROCESS, Column, Table

_NAN = float("nan")


def _count(name: str, sentence: str) -> Column:
    return Column(name, "int64", "count", sentence, -1)


def _number(name: str, sentence: str) -> Column:
    return Column(name, "float64", "number", sentence, _NAN)


_STEP = Column("step", "int32", "number", "Number of the step.")
_ORDER = Column("order", "int64", "number", "Row of `fp8_tensors` that this belongs to, by its `order` in its process.")
_MODULE = Column("module", "text", "", "Path in `named_modules()`, or a pseudo-module.")
_ROLE = Column(
    "role",
    "text",
    "",
    "The tensor in its module: input, weight, output, grad_output, grad_input, qkv, o, s, dqkv, do, dp; of checks also "
    "loss, gradient, parameter.",
)
_FORMAT = Column("format", "text", "", "E4M3 or E5M2; empty where it is not known.")

TENSORS = Table(
    "fp8_tensors",
    "What was seen of a tensor when it was quantized, or checked. Sorted by process, then order.",
    (
        PROCESS,
        _STEP,
        Column("order", "int64", "number", "Number of the observation in its process: in the order of launches."),
        _MODULE,
        _ROLE,
        Column("phase", "text", "", "forward, recompute, backward, optimizer; empty where it is not known."),
        Column("operation", "text", "", "Call that quantized it (`quantize`, `layernorm_fwd`), or what was checked."),
        Column(
            "source",
            "text",
            "",
            "input: the tensor before it was quantized; quantized: its FP8 codes, as it never existed otherwise; check: "
            "only non-finite values were counted; recomputed: the tensor that never existed, made again to be looked at.",
        ),
        _FORMAT,
        Column("scaling", "text", "", "delayed, current, block or mxfp8; empty where it is not known."),
        Column("dtype", "text", "", "Type of the tensor before it was quantized."),
        Column("shape", "text", "", "Rows and columns, as `4096x1024`: leading dimensions are one."),
        _count("elements", "Elements that were looked at."),
        _count(
            "tensor_elements",
            "Elements that the tensor has: more than `elements` where some of its rows were looked at (`--fp8-rows`).",
        ),
        _count("zeros", "Zeros among them."),
        _count("nans", "NaNs."),
        _count("infs", "Infinite values."),
        _count(
            "saturated",
            "Finite values beyond the format's largest, which they become; of FP8 codes alone, those that are the largest.",
        ),
        _count("flushed", "Values that are not zero and become zero; of FP8 codes alone it is not known."),
        _count("subnormal", "Values that become a subnormal code, which has fewer digits."),
        _number("amax", "Largest magnitude of the finite values."),
        _number("smallest", "Smallest magnitude of those that are finite and not zero; 0 where there is none."),
        _number("mean", "Mean of the finite values."),
        _number("mean_square", "Mean of their squares."),
        _number("squared_error", "Sum over the finite values of the squared difference that quantizing makes."),
        _number("scale", "What values are multiplied with before they are cast; of the whole tensor."),
        _number("scale_min", "Smallest scale of its blocks, in the copy by rows, as all counts are."),
        _number("scale_max", "Largest scale of its blocks, in the copy by rows."),
    ),
)

HISTOGRAMS = Table(
    "fp8_histograms",
    "How many finite values of a tensor, other than zero, have which magnitude: bins that are not empty. Sorted by "
    "process, then order.",
    (
        PROCESS,
        _ORDER,
        Column(
            "bin",
            "int32",
            "index",
            "Twice the magnitude's fp32 bits without their lowest 21 (a quarter of a binade), plus one where those are "
            "not all zero: even bins hold their lower edge alone.",
        ),
        Column("count", "int64", "count", "Values in the bin."),
    ),
)

SCALES = Table(
    "fp8_scales",
    "Scales of delayed scaling at each update: one row a tensor. Sorted by process, then step.",
    (
        PROCESS,
        _STEP,
        Column("direction", "text", "", "Update after forward, or after backward."),
        _MODULE,
        _ROLE,
        _FORMAT,
        _number("scale", "Scale that this step used."),
        _number("next_scale", "Scale after the update."),
        _number("amax", "Largest magnitude in this step, over all ranks that reduce it."),
        _number("history_max", "Largest entry of the history before the update."),
        Column("history_length", "int32", "count", "Entries that the history has room for.", -1),
        Column("history_used", "int32", "count", "Entries of it that are not zero.", -1),
    ),
)

BLOCKS = Table(
    "fp8_blocks",
    "How many blocks of a tensor have an amax of which binade, with `--fp8-blocks`. Sorted by process, then order.",
    (
        PROCESS,
        _ORDER,
        Column("layout", "text", "", "Shape of a block: 1x128, 128x128 or 1x32."),
        Column("bin", "int32", "index", "Exponent field (0 to 255) of the fp32 amax of a block."),
        Column("count", "int64", "count", "Blocks in the bin."),
    ),
)

TABLES = (TENSORS, HISTOGRAMS, SCALES, BLOCKS)
NAMES = tuple(table.name for table in TABLES)
