"""The collector's rows of one process as parts of the tables of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources import calls, cupti_words
from tetrace.sources.cupti_rows import NO_TEXT, Recorded
from tetrace.sources.nsys_export import constant, distinct_words, small
from tetrace.sources.rings import global_tid
from tetrace.sources.rows import distinct_values
from tetrace.trace.schema import KERNEL, MEMCPY, MEMSET

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

_ON_DEVICE = ("kernel", "memcpy", "memset")
_NO_STREAM = 0xFFFFFFFF


def parts_of(pid: int, recorded: Recorded) -> Iterator[tuple[str, dict[str, Any]]]:
    """Tables and parts of them, also without rows: what was recorded and did not happen is captured."""
    for activities in (_kernels, _copies, _memsets):
        yield "activities", activities(pid, recorded)
    yield "calls", _calls(pid, recorded)
    yield "synchronizations", _synchronizations(pid, recorded, _device_of_context(recorded))
    yield "overheads", _overheads(pid, recorded)
    yield "graph_nodes", _graph_nodes(pid, recorded)


def _activity(pid: int, recorded: Recorded, kind: str, word: str) -> dict[str, Any]:
    return {
        "global_pid": np.full(recorded.count(kind), global_tid(pid, 0), np.int64),
        "start_ns": recorded.column(kind, "start"),
        "end_ns": recorded.column(kind, "end"),
        "device": small(recorded.column(kind, "device")),
        "stream": recorded.column(kind, "stream"),
        "correlation": recorded.column(kind, "correlation"),
        "graph_node": recorded.column(kind, "graph_node"),
        "kind": constant(word, recorded.count(kind)),
    }


def _kernels(pid: int, recorded: Recorded) -> dict[str, Any]:
    part = _activity(pid, recorded, "kernel", KERNEL)
    part["name"] = _named(recorded, recorded.column("kernel", "name"), demangled)
    for size in ("grid", "block"):
        part |= {
            f"{size}_{letter}": small(column)
            for letter, column in zip("xyz", recorded.column("kernel", size).T, strict=True)
        }
    part["registers"] = small(recorded.column("kernel", "registers"))
    part["shared_bytes"] = small(
        recorded.column("kernel", "static_shared") + recorded.column("kernel", "dynamic_shared")
    )
    return part


def demangled(names: Sequence[str]) -> list[str]:
    """Names of kernels as their source says them."""
    from tetrace import _C

    return _C.demangle(list(names))


def _named(
    recorded: Recorded, numbers: Integers, rename: Callable[[Sequence[str]], list[str]] = list
) -> pa.DictionaryArray:
    """Texts by their numbers, shape (rows,), as a text column."""
    from tetrace import _C

    used, codes = _C.distinct(numbers)
    otherwise = [f"(unnamed {number})" if number != NO_TEXT else "(unnamed)" for number in used.tolist()]
    found = [recorded.text(number, word) for number, word in zip(used.tolist(), otherwise, strict=True)]
    return distinct_words(codes, rename(found))


def _copies(pid: int, recorded: Recorded) -> dict[str, Any]:
    part = _activity(pid, recorded, "memcpy", MEMCPY)
    part["bytes"] = recorded.column("memcpy", "bytes")
    part["name"] = cupti_words.copy_names(recorded.column("memcpy", "copy_kind"))
    return part


def _memsets(pid: int, recorded: Recorded) -> dict[str, Any]:
    part = _activity(pid, recorded, "memset", MEMSET)
    part["bytes"] = recorded.column("memset", "bytes")
    part["name"] = constant("memset", recorded.count("memset"))
    return part


def _calls(pid: int, recorded: Recorded) -> dict[str, Any]:
    names = call_names(recorded)
    # Which calls are wanted was chosen when they were recorded.
    return {
        "global_tid": _threads(pid, recorded.column("call", "thread")),
        "start_ns": recorded.column("call", "start"),
        "end_ns": recorded.column("call", "end"),
        "correlation": recorded.column("call", "correlation"),
        "kind": calls.kinds(names),
        "name": names,
    }


def call_names(recorded: Recorded) -> pa.DictionaryArray:
    """Plain names of all calls, shape (calls,); "(call 7)" where the name did not reach the file."""
    from tetrace import _C

    known = {
        domain << 32 | call: recorded.text(name)
        for domain, call, name in zip(
            *(recorded.column("call_name", column).tolist() for column in ("domain", "call", "name")), strict=True
        )
    }
    used, codes = _C.distinct(recorded.column("call", "domain") << 32 | recorded.column("call", "call"))
    found = [known.get(key) or f"(call {key & 0xFFFFFFFF})" for key in used.tolist()]
    return distinct_words(codes, [calls.plain_name(word) for word in found])


def _threads(pid: int, tids: Integers) -> Integers:
    """64-bit ids of threads; what is of no thread counts for the first one of the process."""
    return pid << 24 | (np.where(tids == 0, pid, tids) & 0xFFFFFF)


def _device_of_context(recorded: Recorded) -> dict[int, int]:
    pairs = [recorded.column(kind, "context") << 32 | recorded.column(kind, "device") for kind in _ON_DEVICE]
    return {pair >> 32: pair & 0xFFFFFFFF for pair in distinct_values(np.concatenate(pairs)).tolist()}


def _synchronizations(pid: int, recorded: Recorded, device_of: Mapping[int, int]) -> dict[str, Any]:
    contexts, codes = np.unique(recorded.column("sync", "context"), return_inverse=True)
    devices = np.array([device_of.get(context, -1) for context in contexts.tolist()] or [-1], np.int32)
    stream = recorded.column("sync", "stream")
    return {
        "global_pid": np.full(recorded.count("sync"), global_tid(pid, 0), np.int64),
        "start_ns": recorded.column("sync", "start"),
        "end_ns": recorded.column("sync", "end"),
        "device": devices[codes],
        "stream": np.where(stream == _NO_STREAM, -1, stream),
        "correlation": recorded.column("sync", "correlation"),
        "kind": cupti_words.synchronization_kinds(recorded.column("sync", "type")),
    }


def _overheads(pid: int, recorded: Recorded) -> dict[str, Any]:
    kinds = cupti_words.overheads_as_nsys_numbers_them(recorded.column("overhead", "type"))
    return {
        "global_tid": _threads(pid, recorded.column("overhead", "thread")),
        "start_ns": recorded.column("overhead", "start"),
        "end_ns": recorded.column("overhead", "end"),
        "kind": cupti_words.overhead_kinds(kinds),
        "name": cupti_words.overhead_names(kinds),
    }


def _graph_nodes(pid: int, recorded: Recorded) -> dict[str, Any]:
    return {
        "global_tid": _threads(pid, recorded.column("node", "thread")),
        "created_ns": recorded.column("node", "created"),
        "graph_node": recorded.column("node", "node"),
        "original_node": recorded.column("node", "original"),
    }
