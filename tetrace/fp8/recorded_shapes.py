"""The linears of a recording, from the GEMMs that tetrace's instrumentation saw, against the rules of FP8 GEMMs.

One GEMM of a linear says its tokens, in_features and out_features, so all three are checked: also where a run failed in
backward, or ran in BF16.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tetrace.errors import UsageError
from tetrace.fp8.shape_rules import (
    CHECKED,
    DELAYED,
    DGRAD,
    FPROP,
    KNOWN_VERSION,
    SCALING_OF,
    SCALINGS,
    UNCHECKED,
    WGRAD,
)
from tetrace.fp8.shapes import Linear, ShapeReport, report, scaling_of

if TYPE_CHECKING:
    from tetrace.trace.trace import Trace

_HOPPER = 90
_FP8 = re.compile(r"(E4M3|E5M2|E2M1|FP8)(×(E4M3|E5M2|E2M1|FP8))?")


@dataclass(frozen=True)
class RecordedShapes:
    """`report` on the linears of a recording. `formats` are the operands' formats of each GEMM that ran, by (module,
    tokens, in_features, out_features) and role; `assumed` says that no recipe was recorded for some, so one was taken."""

    report: ShapeReport
    formats: Mapping[tuple[str, int, int, int], Mapping[str, str]]
    assumed: bool


def recorded_shapes(trace: Trace, recipe: str | None = None) -> RecordedShapes:
    """Every linear of `trace` whose GEMMs were recorded, with the recipe it ran with, or with `recipe` for all.

    What ran in BF16 is checked as if it had run in FP8. Raises `UsageError` for a recording without such GEMMs.
    """
    sites = list(_sites(trace))
    classes = {site["module"]: site["class"] for site in sites if site["kind"] == "module"}
    scalings = {} if recipe else _scalings(sites)
    otherwise = scaling_of(recipe) if recipe else _of_autocast(sites)
    formats: dict[tuple[str, int, int, int], dict[str, str]] = {}
    linears: dict[tuple[str, int, int, int], Linear] = {}
    for site in sites:
        dimensions = _dimensions(site) if site["kind"] == "gemm" else None
        if dimensions is None:
            continue
        key = (site["module"], *dimensions)
        formats.setdefault(key, {})[site["role"]] = site["format"]
        linears[key] = Linear(
            *(site["module"], _class(classes.get(site["module"], ""), site)),
            *dimensions,
            scaling=scalings.get(site["module"], otherwise or DELAYED),
        )
    if not linears:
        raise UsageError(
            f"{trace.metadata.source}: no GEMM of Transformer Engine was recorded with its shape; record with "
            "`tetrace record`, or ask tetrace.fp8.check_shapes(model, tokens) before a run"
        )
    assumed = not recipe and not otherwise and any(key[0] not in scalings for key in linears)
    return RecordedShapes(report(linears.values(), _version(trace), _capability(trace)), formats, assumed)


def ran_in_fp8(formats: str) -> bool:
    """Whether the operands' formats of a GEMM are FP8 or FP4."""
    return _FP8.fullmatch(formats) is not None


def _sites(trace: Trace) -> Iterator[dict[str, Any]]:
    names = ("kind", "module", "class", "role", "format", "shape", "detail")
    words = {name: trace.words("sites", name) for name in names}
    columns = [trace.column("sites", name).tolist() for name in names]
    for codes in zip(*columns, strict=True):
        site: dict[str, Any] = {name: words[name][code] for name, code in zip(names, codes, strict=True)}
        site["detail"] = json.loads(site["detail"]) if site["detail"] else {}
        yield site


def _dimensions(site: Mapping[str, Any]) -> tuple[int, int, int] | None:
    """(tokens, in_features, out_features) of a GEMM by its role and shape `M x N x K`; None where it does not say."""
    sizes = site["shape"].split("x")
    if len(sizes) != 3 or not all(size.isdecimal() for size in sizes):
        return None
    m, n, k = (int(size) for size in sizes)
    return {FPROP: (m, k, n), DGRAD: (m, n, k), WGRAD: (k, n, m)}.get(site["role"])


def _class(name: str, site: Mapping[str, Any]) -> str:
    if "grouped" in str(site["detail"].get("call", "")):
        return "GroupedLinear"
    return name if name in (*CHECKED, *UNCHECKED) else ""


def _scalings(sites: list[dict[str, Any]]) -> dict[str, str]:
    """How each module's tensors were scaled, from its quantize calls; attention's own are not of a GEMM."""
    quantized = [site for site in sites if site["kind"] == "quantize"]
    said = {site["module"]: str(site["detail"].get("scaling") or "") for site in quantized}
    return {module: scaling for module, scaling in said.items() if scaling in SCALINGS}


def _of_autocast(sites: list[dict[str, Any]]) -> str:
    """The scaling of the recipe of an autocast that was on; empty where none was."""
    recipes = [str(site["detail"].get("recipe") or "") for site in sites if site["kind"] == "autocast"]
    return next((SCALING_OF[recipe] for recipe in recipes if recipe in SCALING_OF), "")


def _version(trace: Trace) -> str:
    versions = trace.metadata.facts.get("versions") or {}
    return str(versions.get("transformer_engine") or KNOWN_VERSION)


def _capability(trace: Trace) -> int:
    return next((one for one in trace.column("devices", "compute_capability").tolist() if one > 0), _HOPPER)
