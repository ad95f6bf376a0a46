"""Recordings of FP8 statistics in a few readable lines; every number follows from the values, by brute force.

trace = (
    Made()
    .tensor(7, "layers.2.fc1.input", values, scale=16.0)
    .update(7, "layers.2.fc1.input", scale=16.0, next_scale=32.0, amax=14.0)
    .trace()
)
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tetrace.trace.arrays import text_column
from tetrace.trace.schema import BY_NAME
from tetrace.trace.trace import Metadata, Trace, make_table

LARGEST = {"E4M3": 448.0, "E5M2": 57344.0}
FLUSHED_UP_TO = {"E4M3": 2.0**-10, "E5M2": 2.0**-17}
_SHAPE = {"E4M3": (3, 7), "E5M2": (2, 15)}  # mantissa bits, bias
_SIZES = {"1x128": (1, 128), "128x128": (128, 128)}


def codes(name: str) -> npt.NDArray[np.float64]:
    """The finite magnitudes of a format in rising order: the place of each is its code."""
    bits, bias = _SHAPE[name]
    found = []
    for code in range(128):
        exponent, mantissa = code >> bits, code & (2**bits - 1)
        if exponent == 0:
            found.append(mantissa * 2.0 ** (1 - bias - bits))
        else:
            found.append((1 + mantissa / 2**bits) * 2.0 ** (exponent - bias))
    return np.array([value for value in found if value <= LARGEST[name]])


def product(values: npt.NDArray[np.float32], scale: float) -> npt.NDArray[np.float32]:
    """Values times a scale as the GPU multiplies them."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32) * np.float32(scale)


def cast(values: npt.NDArray[np.float32], scale: float, name: str) -> npt.NDArray[np.float64]:
    """What `values` are after a saturating cast with a scale, rounded to nearest, ties to even."""
    return np.sign(values) * codes(name)[_code(values, scale, name)] / float(np.float32(scale))


def subnormal(values: npt.NDArray[np.float32], scale: float, name: str) -> int:
    """Values that become a subnormal value other than zero."""
    code = _code(values, scale, name)
    return int(((code > 0) & (code < 2 ** _SHAPE[name][0])).sum())


def _code(values: npt.NDArray[np.float32], scale: float, name: str) -> npt.NDArray[np.int64]:
    known = codes(name)
    scaled = np.abs(product(values, scale)).astype(np.float64)
    above = np.minimum(np.searchsorted(known, scaled), len(known) - 1)
    below = np.maximum(above - 1, 0)
    near, far = scaled - known[below], known[above] - scaled
    return np.where((near < far) | ((near == far) & (below % 2 == 0)), below, above)


def counts(values: npt.NDArray[np.float32], scale: float, name: str) -> tuple[int, int, float]:
    """Values that saturate, values that are flushed, and the sum of squared errors."""
    scaled = np.abs(product(values, scale))
    saturated = int((scaled > np.float32(LARGEST[name])).sum())
    flushed = int(((values != 0) & (scaled <= np.float32(FLUSHED_UP_TO[name]))).sum())
    return saturated, flushed, float(((cast(values, scale, name) - values.astype(np.float64)) ** 2).sum())


def bfloat16(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Values cut to bf16, as fp32."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32)


def histogram(values: npt.NDArray[np.float32]) -> dict[int, int]:
    """Counts by bin, one value after the other."""
    found: dict[int, int] = {}
    for bits in np.abs(values[np.isfinite(values) & (values != 0)]).view(np.uint32).ravel().tolist():
        number = 2 * (bits >> 21) + ((bits & 0x1FFFFF) != 0)
        found[number] = found.get(number, 0) + 1
    return dict(sorted(found.items()))


@dataclass
class Made:
    """Rows of the FP8 tables in the making; every method returns it. `name` is a module's path, a dot and the role."""

    tensors: list[dict[str, Any]] = field(default_factory=list)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    updates: list[dict[str, Any]] = field(default_factory=list)
    sites: list[dict[str, Any]] = field(default_factory=list)

    def tensor(
        self,
        step: int,
        name: str,
        values: npt.ArrayLike,
        scale: float | None = None,
        scaling: str = "delayed",
        format: str = "E4M3",  # noqa: A002
        layouts: tuple[str, ...] = (),
        **columns: Any,
    ) -> Made:
        """A tensor that is quantized. `layouts` records the amaxes of such blocks too. Without a `scale` it is what current
        scaling makes of the amax, else 1."""
        flat = np.asarray(values, np.float32)
        finite = flat[np.isfinite(flat)]
        magnitudes = np.abs(finite[finite != 0])
        if scale is None:
            scale = _of_amax(magnitudes, format) if scaling == "current" and len(magnitudes) else 1.0
        saturated, flushed, error = counts(finite, scale, format)
        of_codes = columns.get("source") == "quantized"
        row = {
            **_described(name, step, columns.get("process", 0), len(self.tensors)),
            "phase": "forward",
            "operation": "quantize",
            "source": "input",
            "dtype": "bfloat16",
            "format": format,
            "scaling": scaling,
            "shape": "x".join(map(str, flat.shape)),
            "scale": scale,
            "elements": flat.size,
            "zeros": int((flat == 0).sum()),
            "nans": int(np.isnan(flat).sum()),
            "infs": int(np.isinf(flat).sum()),
            "saturated": saturated,
            "flushed": -1 if of_codes else flushed,
            "subnormal": subnormal(finite, scale, format),
            "amax": float(magnitudes.max(initial=0)),
            "smallest": float(magnitudes.min()) if len(magnitudes) else 0.0,
            "mean": float(finite.mean(dtype=np.float64)) if len(finite) else 0.0,
            "mean_square": float((finite.astype(np.float64) ** 2).mean()) if len(finite) else 0.0,
            "squared_error": np.nan if of_codes else error,
            "scale_min": np.nan,
            "scale_max": np.nan,
            **columns,
        }
        of_row = {"process": row["process"], "order": row["order"]}
        if row["source"] == "input":
            self.histograms += [{**of_row, "bin": bin_, "count": n} for bin_, n in histogram(flat).items()]
        for one in layouts:
            found, n = np.unique(block_amax(flat, one).view(np.uint32) >> 23, return_counts=True)
            pairs = zip(found.tolist(), n.tolist(), strict=True)
            self.blocks += [{**of_row, "layout": one, "bin": bin_, "count": many} for bin_, many in pairs]
        self.tensors.append(row)
        return self

    def check(self, step: int, name: str, nans: int = 0, infs: int = 0, elements: int = 64, **columns: Any) -> Made:
        """A tensor of which only what is not finite was counted: an output, the loss, a gradient, a parameter."""
        described = _described(name, step, columns.get("process", 0), len(self.tensors))
        unknown = dict.fromkeys(("zeros", "saturated", "flushed", "subnormal"), -1)
        number = dict.fromkeys(
            ("amax", "smallest", "mean", "mean_square", "squared_error", "scale", "scale_min", "scale_max"), np.nan
        )
        row = {"phase": "forward", "operation": "forward", "source": "check", "format": "", "scaling": ""}
        more = {"dtype": "bfloat16", "shape": "", "elements": elements, "nans": nans, "infs": infs}
        self.tensors.append({**described, **row, **more, **unknown, **number, **columns})
        return self

    def update(
        self,
        step: int,
        name: str,
        scale: float,
        next_scale: float,
        amax: float,
        history_max: float | None = None,
        **columns: Any,
    ) -> Made:
        """An update of delayed scaling."""
        described = _described(name, step, columns.pop("process", 0), 0)
        del described["order"]
        row = {"direction": "forward", "format": "E4M3", "history_length": 1024, "history_used": 1}
        values = {"scale": scale, "next_scale": next_scale, "amax": amax}
        values["history_max"] = amax if history_max is None else history_max
        self.updates.append({**described, **row, **values, **columns})
        return self

    def site(self, kind: str, **attributes: Any) -> Made:
        """A site of the instrumentation: an autocast with its recipe, or a quantize call."""
        text = {
            "name": kind,
            "phase": "",
            "module": "",
            "class": "",
            "role": "",
            "format": "",
            "shape": "",
            "dtype": "",
        }
        detail = {name: value for name, value in attributes.items() if name not in text}
        named = {name: value for name, value in attributes.items() if name in text}
        local = {"process": 0, "local": len(self.sites), "kind": kind}
        self.sites.append({**local, **text, **named, "detail": json.dumps(detail)})
        return self

    def trace(self) -> Trace:
        """The trace; tables that nothing was put in were not captured."""
        tables = {}
        rows = {
            "fp8_tensors": sorted(self.tensors, key=lambda row: (row["process"], row["order"])),
            "fp8_histograms": sorted(self.histograms, key=lambda row: (row["process"], row["order"])),
            "fp8_blocks": sorted(self.blocks, key=lambda row: (row["process"], row["order"])),
            "fp8_scales": sorted(self.updates, key=lambda row: (row["process"], row["step"])),
            "sites": self.sites,
        }
        for name, entries in rows.items():
            if entries:
                tables[name] = make_table(name, _columns(name, entries), len(entries))
        found = sorted({row["process"] for row in self.tensors})
        ranks = {"process": found, "global_id": found, "pid": [100 + one for one in found], "rank": found}
        tables["processes"] = make_table("processes", {k: np.array(v) for k, v in ranks.items()}, len(found))
        return Trace(Metadata(source="made.tetrace", source_format="test"), tables)


def _of_amax(magnitudes: npt.NDArray[np.float32], name: str) -> float:
    """The scale that makes the largest of these the format's largest value, in fp32."""
    with np.errstate(over="ignore"):
        return float(min(np.float32(LARGEST[name]) / magnitudes.max(), np.finfo(np.float32).max))


def block_amax(values: npt.NDArray[np.float32], layout: str) -> npt.NDArray[np.float32]:
    """Largest magnitude of each block of a matrix, whose last blocks may be cut off."""
    height, width = _SIZES[layout]
    rows, columns = values.shape
    starts = [(row, column) for row in range(0, rows, height) for column in range(0, columns, width)]
    return np.array([np.abs(values[r : r + height, c : c + width]).max() for r, c in starts], np.float32)


def _described(name: str, step: int, process: int, order: int) -> dict[str, Any]:
    module, _, role = name.rpartition(".")
    return {"process": process, "step": step, "order": order, "module": module, "role": role}


def _columns(table: str, entries: list[dict[str, Any]]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for column in BY_NAME[table].columns:
        missing = "elements" if column.name == "tensor_elements" else column.name
        values = [entry.get(column.name, entry[missing]) for entry in entries]
        if column.dtype == "text":
            words = list(dict.fromkeys(values))
            columns[column.name] = text_column(np.array([words.index(v) for v in values], np.int32), words)
        else:
            columns[column.name] = np.array(values, column.dtype)
    return columns
