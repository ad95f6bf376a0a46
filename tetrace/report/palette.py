"""The colours of charts, declared once: a category has the same colour in every report and figure, light or dark.

The frequent categories are those of Okabe and Ito, which people with any colour blindness tell apart
(tests/report/test_palette.py simulates it). Idle time is grey with a pattern for each cause, so that work and waiting
differ without any colour.
"""

from __future__ import annotations

CATEGORY_COLORS = {
    "gemm": "#0072b2",
    "attention": "#009e73",
    "quantization": "#d55e00",
    "normalization": "#56b4e9",
    "activation": "#cc79a7",
    "rope": "#7fb8a4",
    "softmax_loss": "#8c6bb1",
    "embedding": "#b8a26a",
    "dropout": "#a6611a",
    "moe": "#4d6fd0",
    "elementwise": "#e69f00",
    "optimizer": "#eedb45",
    "communication": "#7b2d5b",
    "memory": "#7a8a3a",
    "other": "#8d99a6",
    "inspection": "#5d6470",
}
CAUSE_COLORS = {
    "host_bound": "#aab2bd",
    "synchronization": "#8f99a8",
    "launch_latency": "#c6ccd4",
    "dependency": "#9aa7b5",
    "graph": "#b5bdc8",
    "profiler": "#d3d8de",
    "queued": "#d9dde3",
    "unexplained": "#e6e9ed",
}
# Of plotly's bars.
CAUSE_PATTERNS = {
    "host_bound": "/",
    "synchronization": "\\",
    "launch_latency": ".",
    "dependency": "x",
    "graph": "-",
    "profiler": "|",
    "queued": "",
    "unexplained": "+",
}
PHASE_COLORS = {
    "forward": "#5b7083",
    "recompute": "#8a7f9c",
    "backward": "#46535f",
    "optimizer": "#8a8a5c",
    "other": "#9aa3ab",
    "unattributed": "#b3a9a0",
}
# Number formats, in every report: far from each other and from the frequent categories for any eyes.
FORMAT_COLORS = {
    "E4M3": "#7711ff",
    "E4M3×E5M2": "#aa5599",
    "E5M2": "#bb2233",
    "FP4": "#7722aa",
    "INT8": "#881144",
    "BF16": "#aa9988",
    "FP16": "#ee8833",
    "TF32": "#ffbb88",
    "FP32": "#1199ff",
    "FP64": "#bbccdd",
}
UNKNOWN_FORMAT_COLOR = "#b9c0c8"
# Lines and bars that are no category, in this order; after the last begins the first, with another mark.
SERIES_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b2d5b", "#7a8a3a")
MODULE_COLOR = "#aebac4"
LAUNCHING_COLOR = "#5b7083"
USED_COLOR = "#3d7a5c"
# From good to bad, and readable in grey.
HEALTH_SCALE = ((0.0, "#eef3f6"), (0.25, "#a9cfe0"), (0.5, "#5aa0c4"), (0.75, "#c9762e"), (1.0, "#8c2d04"))
_DARK, _LIGHT = "#14181c", "#ffffff"
_CHANNELS = ((1, 0.2126), (3, 0.7152), (5, 0.0722))
# As far from black as from white, in contrast.
_MIDDLE = 0.179


def luminance(color: str) -> float:
    """Relative luminance (WCAG 2) of a colour such as `#0072b2`, 0 to 1."""
    parts = [(int(color[at : at + 2], 16) / 255, weight) for at, weight in _CHANNELS]
    return sum(
        weight * (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4) for value, weight in parts
    )


def ink(color: str) -> str:
    """The colour of text on `color`."""
    return _DARK if luminance(color) > _MIDDLE else _LIGHT
