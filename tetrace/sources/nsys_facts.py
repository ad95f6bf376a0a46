"""What a Nsight Systems export says of its processes, threads, devices and of itself.

These tables also carry the environment of the recorded process, command lines, folders, users and hosts. Only what is
named here is taken, and free text is taken without what could be any of those.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.sources.nsys_export import Export, decoded, small
from tetrace.sources.rows import distinct_values
from tetrace.trace.arrays import column_of, text_column
from tetrace.trace.trace import make_table

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

_WARNING = 2
_LOST = re.compile(r"\b(drop|dropped|lost|discard|truncat|overflow)", re.IGNORECASE)
# Nsight Systems says so of every capture that cudaProfilerStop ended, whole or not.
_PERHAPS_LOST = re.compile(r"\bnot all .* collected", re.IGNORECASE)
_HOW_MANY = re.compile(
    r"\b(\d[\d,]{0,15}) (?:\w+ ){0,2}(?:event|record|range|activit)|(?:event|record)s[\w ]{0,40}: ?(\d[\d,]{0,15})"
)
# A folder may have a space in it: all from the first word with a slash to the last. And settings, and what is quoted.
_PRIVATE = re.compile(r"""\S*[/\\].*[/\\]\S*|\S*[/\\@=]\S*|"[^"]*"|'[^']*'""")
_LONGEST_TEXT, _LONGEST_NOTICE = 1000, 200
_VERSION = re.compile(r"[\w.+-]{1,40}")
_GPU = {
    "id": -1, "cuDevice": -1, "smCount": -1, "totalMemory": -1, "memoryBandwidth": -1, "computeMajor": -1,
    "computeMinor": -1,
}  # fmt: skip


def thread_names(export: Export) -> dict[int, str]:
    """Names of threads by their 64-bit id."""
    columns = export.read("ThreadNames", {}, {"nameId": -1, "globalTid": -1})
    if columns is None:
        return {}
    pairs = zip(columns["globalTid"].tolist(), columns["nameId"].tolist(), strict=True)
    return {thread: export.strings.get(name, "") for thread, name in pairs}


def process_names(export: Export) -> dict[int, str]:
    """Names of executables by the 64-bit id of their process."""
    columns = export.read("PROCESSES", {}, {"globalPid": -1}, texts=["name"])
    if columns is None or "name" not in columns:
        return {}
    return dict(zip(columns["globalPid"].tolist(), map(_executable, decoded(columns["name"])), strict=True))


def _executable(name: str) -> str:
    """A process's name without its folder and its arguments."""
    return re.split(r"[/\\]", (name.split() or [""])[0])[-1]


def devices(export: Export, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Devices that ran something, with what the export says of the GPU behind each."""
    gpus = export.read("TARGET_INFO_GPU", {}, _GPU, texts=["name"])
    mapping = export.read("TARGET_INFO_CUDA_DEVICE", {}, {"gpuId": -1, "cudaId": -1, "pid": -1})
    process, device = lanes(tables.get("activities"))
    pids = column_of(tables["processes"].column("pid"))
    rows = [_gpu_row(gpus, mapping, int(pids[p]), int(d)) for p, d in zip(process, device, strict=True)]

    def fact(name: str) -> Integers:
        return np.array([-1 if row is None or gpus is None else gpus[name][row] for row in rows], np.int64)

    texts = decoded(gpus["name"]) if gpus is not None and "name" in gpus else []
    names = [texts[row] if row is not None and texts else "" for row in rows]
    words = list(dict.fromkeys(names)) or [""]
    major, minor = fact("computeMajor"), fact("computeMinor")
    columns = {
        "process": process.astype(np.int32),
        "device": device.astype(np.int32),
        "gpu": small(fact("id")),
        "sm_count": small(fact("smCount")),
        "memory_bytes": fact("totalMemory"),
        "bandwidth_bytes_per_s": fact("memoryBandwidth"),
        "compute_capability": np.where((major < 0) | (major > 99), -1, 10 * major + minor).astype(np.int32),
        "name": text_column(np.array([words.index(name) for name in names], np.int32), words),
    }
    return make_table("devices", columns, len(rows))


def lanes(activities: pa.Table | None) -> tuple[Integers, Integers]:
    """The pairs of process and device that ran something, each of shape (pairs,)."""
    if activities is None:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    process, device = (column_of(activities.column(name)).astype(np.int64) for name in ("process", "device"))
    keys = distinct_values(process << 32 | (device + 1))
    return keys >> 32, (keys & 0xFFFFFFFF) - 1


def _gpu_row(gpus: Mapping[str, Any] | None, mapping: Mapping[str, Any] | None, pid: int, device: int) -> int | None:
    """Row of TARGET_INFO_GPU behind CUDA ordinal `device` of process `pid`."""
    if gpus is None:
        return None
    gpu = device
    if mapping is not None:
        same = np.flatnonzero((mapping["cudaId"] == device) & (mapping["pid"] == pid))
        if len(same):
            gpu = int(mapping["gpuId"][same[0]])
    elif (gpus["cuDevice"] == device).any():
        return int(np.flatnonzero(gpus["cuDevice"] == device)[0])
    rows = np.flatnonzero(gpus["id"] == gpu)
    return int(rows[0]) if len(rows) else None


def recorder(export: Export) -> str:
    """The program that recorded, with its version."""
    for table in ("META_DATA_EXPORT", "EXPORT_META_DATA"):
        facts = _settings(export, table)
        version = _VERSION.match(facts.get("EXPORT_PRODUCT_VERSION", ""))
        if version:
            schema = _VERSION.match(facts.get("EXPORT_SCHEMA_VERSION", ""))
            return f"Nsight Systems {version[0]} (schema {schema[0] if schema else 'unknown'})"
    return "Nsight Systems"


def graph_mode(export: Export) -> str:
    """How CUDA graphs were recorded: `node`, `graph`, or empty when it is not known."""
    facts = _settings(export, "META_DATA_CAPTURE")
    modes = {value.lower() for name, value in facts.items() if name.endswith("CUDA_GRAPH_TRACE_OPTIONS:MODE")}
    return modes.pop() if len(modes) == 1 and modes <= {"node", "graph"} else ""


def _settings(export: Export, table: str) -> dict[str, str]:
    if not {"name", "value"} <= export.raw.columns(table):
        return {}
    rows = export.raw.read(table, {}, ["name", "value"])
    return dict(zip(decoded(rows.column("name")), decoded(rows.column("value")), strict=True))


def lost_records(export: Export) -> tuple[list[str], int, list[str]]:
    """What the recorder says of lost records: its warnings, how many they count, and warnings of perhaps lost ones."""
    columns = export.read("DIAGNOSTIC_EVENT", {}, {"severity": 0}, texts=["text"])
    if columns is None or "text" not in columns:
        return [], 0, []
    levels = zip(decoded(columns["text"]), columns["severity"].tolist(), strict=True)
    warnings = [" ".join(text[:_LONGEST_TEXT].split()) for text, level in levels if level >= _WARNING]
    lost = [text for text in warnings if _LOST.search(text)]
    numbers = [number for text in lost for pair in _HOW_MANY.findall(text) for number in pair if number]
    perhaps = [text for text in dict.fromkeys(warnings) if _PERHAPS_LOST.search(text) and text not in lost]
    count = sum(int(number.replace(",", "")) for number in numbers)
    return [_public(text) for text in dict.fromkeys(lost)], count, [f"nsys warns: {_public(text)}" for text in perhaps]


def _public(text: str) -> str:
    return _PRIVATE.sub("…", text)[:_LONGEST_NOTICE]
