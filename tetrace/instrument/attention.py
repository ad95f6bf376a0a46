"""Which attention backend ran in which module, why Transformer Engine refused the others, how often it selected one.

The reasons are what its selection logs at debug level. While it runs, its logger lets us see them and passes on only
what the user's level lets through: what is printed stays the same.
"""

from __future__ import annotations

import functools
import json
import logging
import re
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from torch.compiler import is_dynamo_compiling

from tetrace.instrument import dynamo, process, ranges
from tetrace.instrument.patches import Patches

BACKENDS = ("FlashAttention", "FusedAttention", "UnfusedDotProductAttention")
_SELECTION = "get_attention_backend"
_LOGGER = "DotProductAttention"
# Keyword with the sub-backend's number or the package's version, among those of the backend's forward.
_DETAIL = {"FusedAttention": "fused_attention_backend", "FlashAttention": "flash_attention_backend"}
_SUB_BACKENDS = {0: "F16_max512_seqlen", 1: "F16_arbitrary_seqlen", 2: "FP8"}
_REFUSED = re.compile(
    r"^Disabling (?P<backend>all backends|FlashAttention(?: [234])?|FusedAttention|UnfusedDotProductAttention)[,:]?"
    r"(?: due to| for| as| because| when)? *(?P<reason>.*)",
    re.DOTALL,
)
_CHILDREN = {"flash_attention", "fused_attention", "unfused_attention"}

_counts = {"selections": 0, "calls": 0}
_refused: list[dict[str, str]] = []
_sites: dict[tuple[int, str, int], tuple[Any, int]] = {}
_written: set[tuple[str, ...]] = set()
_call_sites: dict[tuple[int, str], int] = {}
# Called with name, arguments and result of each call of fused attention; None: nobody wants to know.
on_call: Callable[[str, tuple[Any, ...], Any], None] | None = None


def install(backends: Mapping[str, type], selection: ModuleType | None) -> tuple[Callable[[], None], list[str]]:
    """Gives the forward of each class of `backends` a range; returns what restores, and names that are missing.

    `selection`: Transformer Engine's module with `get_attention_backend` and `AttentionLogging`.
    """
    patches = Patches()
    missing = [name for name in BACKENDS if name not in backends]
    for name, backend in backends.items():
        patches.method(backend, "forward", functools.partial(_ranged, name))
    if selection is not None and hasattr(selection, _SELECTION) and hasattr(selection, "AttentionLogging"):
        patches.attribute(selection, _SELECTION, _listening(getattr(selection, _SELECTION), selection.AttentionLogging))
    else:
        missing.append(_SELECTION)
    _begin()

    def restore() -> None:
        patches.restore()
        _append(_counts)

    return restore, missing


def fused_calls(tex: ModuleType) -> dict[int, Callable[..., Any]]:
    """Functions of the compiled module that run fused attention, by id, with a range around each."""
    names = [name for name in ("fused_attn_fwd", "fused_attn_bwd") if hasattr(tex, name)]
    return {id(getattr(tex, name)): _ranged_call(getattr(tex, name), name) for name in names}


def _begin() -> None:
    """A new recording counts from zero, and has a line for each module again."""
    _counts.update(selections=0, calls=0)
    _written.clear()
    _sites.clear()
    _refused.clear()


def _append(line: Mapping[str, Any]) -> None:
    folder = process.folder()
    if folder is None:
        return
    with (folder / "attention.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _ranged(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    detail, sites, current = _DETAIL.get(name, ""), _sites, ranges.current_module

    @functools.wraps(plain)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return plain(self, *args, **kwargs)
        _counts["calls"] += 1
        given = kwargs.get(detail)
        found = sites.get((current(), name, id(given)))
        ranges.push(found[1] if found is not None else _site(name, given))
        try:
            return plain(self, *args, **kwargs)
        finally:
            ranges.pop()

    return dynamo.skipped(forward)


@dynamo.quiet
def _site(name: str, detail: Any) -> int:
    # The detail is kept, so that its id stays its own: a version or a small number.
    site = _new_site(name, detail)
    _sites[ranges.current_module(), name, id(detail)] = detail, site
    return site


def _new_site(name: str, detail: Any) -> int:
    module = str(ranges.describe(ranges.current_module()).get("module", ""))
    sub_backend, version = _described(name, detail)
    with process.guarded("noting the attention backend"):
        _note(product(module), name, sub_backend, version)
    text = f"{name} {sub_backend or version}".rstrip()
    return ranges.site("attention", text, module=module, backend=name, sub_backend=sub_backend, version=version)


def _described(name: str, detail: Any) -> tuple[str, str]:
    """(sub-backend, version): one of them for each backend, none for the unfused one."""
    if detail is None or name not in _DETAIL:
        return "", ""
    if name == "FlashAttention":
        return "", str(detail)
    try:
        return _SUB_BACKENDS.get(int(detail), str(int(detail))), ""
    except (TypeError, ValueError):
        return str(getattr(detail, "name", detail)).removeprefix("NVTE_"), ""


def product(module: str) -> str:
    """The path of DotProductAttention, where `module` is the backend that runs, its child; else `module`."""
    path, _, child = module.rpartition(".")
    return path if child in _CHILDREN else module


def _note(module: str, backend: str, sub_backend: str, version: str) -> None:
    key = (module, backend, sub_backend, version)
    if key not in _written:
        _written.add(key)
        facts = {"module": module, "backend": backend, "sub_backend": sub_backend, "version": version}
        _append({**facts, "refused": list(_refused)})


def _ranged_call(plain: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A call of the compiled module: with it backward has a range too, and so has what runs inside a compiled graph."""

    sites, current = _call_sites, ranges.current_module

    def ranged(*args: Any, **kwargs: Any) -> Any:
        site = sites.get((current(), name))
        ranges.push(_call_site(name) if site is None else site)
        try:
            result = plain(*args, **kwargs)
        finally:
            ranges.pop()
        if on_call is not None:
            on_call(name, args, result)
        return result

    ranged = functools.wraps(plain)(ranged)
    ranged._torchdynamo_disable = True  # type: ignore[attr-defined]
    return dynamo.skipped(ranged)


@dynamo.quiet
def _call_site(name: str) -> int:
    current = ranges.current_module()
    module = str(ranges.describe(current).get("module", ""))
    site = ranges.site("attention", name, module=module, backend="FusedAttention", sub_backend="", call=name)
    return _call_sites.setdefault((current, name), site)


class _Listener(logging.Filter):
    """Keeps what the selection says, and lets through what the user's level would."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        self.refused: list[dict[str, str]] = []

    @dynamo.skipped
    def filter(self, record: logging.LogRecord) -> bool:
        # Formatting the line with the whole configuration is what would cost time.
        if "Disabling" in str(record.msg):
            match = _REFUSED.match(" ".join(record.getMessage().split()))
            if match:
                self.refused.append({"backend": match["backend"], "reason": match["reason"].strip(" .")})
        return record.levelno >= self.level


def _listening(plain: Callable[..., Any], logs: Any) -> Callable[..., Any]:
    @functools.wraps(plain)
    def get_attention_backend(*args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return plain(*args, **kwargs)
        return _listen(plain, logs, args, kwargs)

    return dynamo.skipped(get_attention_backend)


@dynamo.skipped
def _listen(plain: Callable[..., Any], logs: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Runs the selection with its logger at debug level. TE's function sets the level itself, from `logs`."""
    logger, level = logging.getLogger(_LOGGER), getattr(logs, "_log_level", logging.WARNING)
    listener = _Listener(level)
    logger.addFilter(listener)
    logs._log_level = logging.DEBUG
    try:
        return plain(*args, **kwargs)
    finally:
        logs._log_level = level
        logger.removeFilter(listener)
        logger.setLevel(level)
        _counts["selections"] += 1
        _refused[:] = listener.refused
