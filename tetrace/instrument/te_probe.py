"""What Transformer Engine supports here, by its own checks. Imported only in the child process of `tetrace doctor`.

It changes TE's logging and may fail in any way that an installation of TE can, which is why no other process imports it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import logging
import re
import sys
from importlib import metadata
from typing import Any

_PACKAGES = re.compile(r"transformer[-_]engine", re.IGNORECASE)
# Recipe and the function of TE that says (supported, why not).
_RECIPES = (
    ("DelayedScaling", "check_fp8_support"),
    ("Float8CurrentScaling", "check_fp8_support"),
    ("Float8BlockScaling", "check_fp8_block_scaling_support"),
    ("MXFP8BlockScaling", "check_mxfp8_support"),
    ("NVFP4BlockScaling", "check_nvfp4_support"),
)
# What a causal TransformerLayer of hidden 4096 asks for.
_LAYER = {
    "qkv_layout": "sbhd_sbhd_sbhd",
    "batch_size": 2,
    "num_heads": 32,
    "num_gqa_groups": 32,
    "max_seqlen_q": 2048,
    "max_seqlen_kv": 2048,
    "head_dim_qk": 128,
    "head_dim_v": 128,
    "attn_mask_type": "causal",
    "window_size": (-1, 0),
    "softmax_scale": 128**-0.5,
    "is_training": True,
}
# TransformerLayer's own default is a dropout of 0.1, which some backends refuse.
_DROPOUTS = (0.0, 0.1)
_UTILS = "transformer_engine.pytorch.attention.dot_product_attention.utils"
_REFUSED = re.compile(
    r"Disabling (?P<backend>all backends|FlashAttention(?: \d)?|FusedAttention|UnfusedDotProductAttention)[,:]? *(?P<why>.*)"
)
_SELECTED = re.compile(r"Selected backend = (?P<name>.+?)\.?$")
_AVAILABLE = re.compile(r"(FlashAttention|FusedAttention|UnfusedDotProductAttention)=(True|False)")


def packages() -> dict[str, str]:
    """Versions of TE's distributions by name: they are installed together and must be of one release."""
    found = ((d.metadata["Name"] or "", d.version) for d in metadata.distributions())
    return {name.lower().replace("_", "-"): version for name, version in sorted(found) if _PACKAGES.match(name)}


def load() -> dict[str, Any]:
    """`{"packages": {...}, "version": "2.20.2"}`; empty where TE is not installed. Raises what importing it raises."""
    installed = packages()
    if not installed and importlib.util.find_spec("transformer_engine") is None:
        return {}
    import transformer_engine.pytorch

    return {"packages": installed, "version": str(getattr(transformer_engine, "__version__", ""))}


def recipes() -> list[dict[str, Any]]:
    """Each recipe that this release of TE has: `{"name", "supported", "reason"}`; none before `load` or without a GPU."""
    if not _usable():
        return []
    from transformer_engine.common import recipe

    checks = _checks()
    found = []
    for name, check in _RECIPES:
        if hasattr(recipe, name) and hasattr(checks, check):
            supported, reason = getattr(checks, check)()
            found.append({"name": name, "supported": bool(supported), "reason": reason})
    return found


def _checks() -> Any:
    """The module with TE's checks: `quantization` since 2.9, `fp8` before."""
    try:
        return importlib.import_module("transformer_engine.pytorch.quantization")
    except ModuleNotFoundError:
        return importlib.import_module("transformer_engine.pytorch.fp8")


def attention() -> list[dict[str, Any]]:
    """What TE selects for attention of a usual layer, for each of two dropouts; nothing before `load` or without a GPU.

    `{"dropout", "selected", "available": {backend: bool}, "refused": [{"backend", "reason"}], "installed": {...}}`.
    """
    if not _usable():
        return []
    utils = importlib.import_module(_UTILS)
    return [_selection(utils, dropout) for dropout in _DROPOUTS]


def _usable() -> bool:
    """Whether `load` imported TE, and there is a GPU to ask it about."""
    if "transformer_engine.pytorch" not in sys.modules:
        return False
    import torch

    return torch.cuda.is_available()


def _selection(utils: Any, dropout: float) -> dict[str, Any]:
    known = {field.name for field in dataclasses.fields(utils.AttentionParams)}
    wanted = {**_LAYER, "attention_dropout": dropout}
    parameters = utils.AttentionParams(**{name: value for name, value in wanted.items() if name in known})
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        utils.get_attention_backend(parameters)
    finally:
        logging.getLogger().removeHandler(handler)
    return {"dropout": dropout, **_read(said), "installed": _flash(utils)}


def _read(said: list[str]) -> dict[str, Any]:
    """The selection as TE logged it: the text is the same since 1.13, what the function returns is not."""
    text = "\n".join(said)
    selected = next((match["name"] for line in said if (match := _SELECTED.search(line))), "")
    refused = [match for line in said if (match := _REFUSED.match(" ".join(line.split())))]
    return {
        "selected": selected,
        "available": {name: value == "True" for name, value in _AVAILABLE.findall(_versionless(text))},
        "refused": [{"backend": match["backend"], "reason": match["why"].strip(" .")} for match in refused],
    }


def _versionless(text: str) -> str:
    """`FlashAttention=True (2.7.4)` without what is in parentheses."""
    return re.sub(r" \((?:sub-backend )?[^)]*\)", "", text)


def _flash(utils: Any) -> dict[str, str]:
    """Versions of FlashAttention that TE found, by generation."""
    flash = getattr(utils, "FlashAttentionUtils", None)
    names = (
        ("2", "is_installed", "version"),
        ("3", "v3_is_installed", "fa3_version"),
        ("4", "v4_is_installed", "fa4_version"),
    )
    return {
        generation: str(getattr(flash, version, ""))
        for generation, installed, version in names
        if getattr(flash, installed, False)
    }
