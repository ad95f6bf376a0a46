"""The row that is known of one observed tensor: csrc/fp8/row.h as a numpy dtype."""

from __future__ import annotations

import numpy as np

ROW = np.dtype(
    [
        *(("order", "<i8"), ("elements", "<u8"), ("zeros", "<u8"), ("nans", "<u8"), ("infs", "<u8")),
        *(("saturated", "<u8"), ("flushed", "<u8"), ("subnormal", "<u8")),
        *(("sum", "<f8"), ("square_sum", "<f8"), ("squared_error", "<f8")),
        *(("site", "<i4"), ("step", "<i4"), ("amax", "<f4"), ("smallest", "<f4")),
        *(("scale", "<f4"), ("scale_min", "<f4"), ("scale_max", "<f4"), ("flags", "<u4"), ("whole", "<u8")),
    ]
)

HISTOGRAM, FORMAT_KNOWN, QUANTIZED, SAMPLED = 1 << 0, 1 << 1, 1 << 2, 1 << 24
FORMAT_SHIFT, LAYOUT_SHIFT = 8, 16
