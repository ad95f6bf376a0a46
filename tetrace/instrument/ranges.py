"""Ranges of the running script: `tetrace._C` (csrc/ranges) keeps them, this file says what each stands for.

A **site** is a place in the code that ranges are opened for: a number for `push`, and a line of `sites.jsonl` for those
who read the recording. All times are nanoseconds of the wall clock. While ranges are off, everything here costs next to
nothing and writes nothing.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import json
import os
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ParamSpec, TypeVar

from tetrace import _C
from tetrace._C import (
    annotate,
    autograd_capsule,
    current_module,
    depth,
    end,
    pop,
    push,
    set_backward_site,
    set_loss_site,
    set_step,
    start,
    unwind,
)

__all__ = [
    "CALLS",
    "KINDS",
    "annotate",
    "annotation_site",
    "autograd_capsule",
    "close",
    "current_module",
    "decorated",
    "depth",
    "describe",
    "end",
    "is_on",
    "list_sites",
    "open",
    "pop",
    "push",
    "set_backward_site",
    "set_loss_site",
    "set_step",
    "site",
    "sites_of_kind",
    "start",
    "unwind",
]

# The place in this tuple is the category of the range in NVTX, so new kinds go to its end.
KINDS = (
    *("annotate", "module", "backward", "step", "optimizer", "zero_grad", "grad_clip", "autocast", "quantize", "gemm"),
    *("attention", "scale_update", "capture", "compiled", "communication", "loss", "fp8", "inspection"),
)

# Single calls, several in each module: more than half of all ranges.
CALLS = ("quantize", "gemm", "attention")

# On the disk, for each thread: a row is 40 bytes, so over fifty million ranges, of which the newest are kept.
_BYTES_PER_THREAD = 2 << 30

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_numbers: dict[tuple[object, ...], int] = {}
_described: dict[int, Mapping[str, Any]] = {}
_writing = threading.RLock()
_only_in_rings: Collection[str] = ()
_file: io.FileIO | None = None  # no buffer that a forked child could write once more


def open(folder: Path | None, only_in_rings: Collection[str] = ()) -> None:  # noqa: A001 - always called as ranges.open
    """Records into `folder`, which must be there: `ranges-<tid>.bin` of each thread and `sites.jsonl`. None keeps no file.

    `only_in_rings`: kinds whose ranges the reader of the recording takes from the rings, so that a tool that listens to
    NVTX is spared them.

    What was registered before is listed again, because its numbers stay the same. `ValueError` when no files can be
    made in `folder`.
    """
    _C.ranges_open("" if folder is None else os.fspath(folder), _BYTES_PER_THREAD)
    list_sites(folder, only_in_rings)


def list_sites(folder: Path | None, only_in_rings: Collection[str] = ()) -> None:
    """Writes what sites mean into `sites.jsonl` in `folder`, from now on and of those that are known already."""
    global _file, _only_in_rings
    _only_in_rings = only_in_rings
    with _writing:
        if _file is not None:
            _file.close()
        _file = None if folder is None else io.FileIO(Path(folder) / "sites.jsonl", "w")
        for number, described in _described.items():
            _C.only_in_ring(number, described["kind"] in _only_in_rings)
            _write(described)


def close() -> None:
    """Ends the recording: open ranges stay without an end."""
    global _file
    _C.ranges_close()
    with _writing:
        if _file is not None:
            _file.close()
        _file = None


def is_on() -> bool:
    """Whether ranges are recorded in this process; in a forked child they are not, until it opens its own."""
    return _C.ranges_on()


def site(kind: str, name: str, *, phase: str = "", module: str = "", **attributes: object) -> int:
    """The number of the site with exactly these values, registered at the first call.

    `kind` is one of `KINDS`. Attributes are values that JSON can hold; lists are compared as tuples.
    """
    key = (kind, name, phase, module, *((word, _comparable(value)) for word, value in sorted(attributes.items())))
    number = _numbers.get(key)
    return _register(key, kind, name, phase, module, attributes) if number is None else number


def describe(site: int) -> Mapping[str, Any]:
    """What `site` was registered with, as in its line of `sites.jsonl`; empty for a number that is no site."""
    return _described.get(site, MappingProxyType({}))


def sites_of_kind(kind: str) -> list[int]:
    """Numbers of all sites of this kind."""
    with _writing:
        return [number for number, described in _described.items() if described["kind"] == kind]


def annotation_site(name: str) -> int:
    """The site of `annotate(name)`."""
    return site("annotate", name)


def decorated(annotation: annotate, function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`function` with a range around each call.

    Coroutines and generators are returned as they are: their code runs in pieces between which others open ranges on
    the same thread, so a range around it would not nest.
    """
    if _runs_in_pieces(function):
        return function

    @functools.wraps(function)
    def annotated(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with annotation:
            return function(*args, **kwargs)

    return annotated


def _runs_in_pieces(function: Callable[..., object]) -> bool:
    tests = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return any(test(function) for test in tests)


def _comparable(value: object) -> object:
    return tuple(map(_comparable, value)) if isinstance(value, list | tuple) else value


def _register(
    key: tuple[object, ...], kind: str, name: str, phase: str, module: str, attributes: Mapping[str, object]
) -> int:
    with _writing:
        if key in _numbers:  # by another thread meanwhile
            return _numbers[key]
        text = name.encode("utf-8", "replace").decode()  # NVTX takes no lone surrogates
        number = _C.site(text, KINDS.index(kind), _kind_of_range(kind, phase))
        _C.only_in_ring(number, kind in _only_in_rings)
        described = {"site": number, "kind": kind, "name": text, "phase": phase, "module": module, **attributes}
        _described[number] = MappingProxyType(described)
        _write(described)
        _numbers[key] = number
        return number


def _kind_of_range(kind: str, phase: str) -> int:
    """What the extension must know of a site: 1 for a module's forward, 2 for its backward, 0 for all else."""
    if kind not in ("module", "compiled", "loss"):
        return 0
    return {"forward": 1, "recompute": 1, "backward": 2}.get(phase, 0)


def _write(described: Mapping[str, object]) -> None:
    """One line, written at once: the process may be killed. A full disk must not stop the script."""
    global _file
    if _file is None:
        return
    try:
        _file.write(json.dumps(dict(described), default=str).encode() + b"\n")
    except OSError as error:
        _file = None
        if sys.stderr is not None:
            with contextlib.suppress(OSError, ValueError):
                print(f"tetrace: what ranges stand for cannot be written: {error}", file=sys.stderr)  # noqa: T201


def _after_fork() -> None:
    """The file is the parent's, and so may the lock be."""
    global _file, _writing
    _file = None
    _writing = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)
