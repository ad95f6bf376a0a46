"""The working folder of `tetrace record` as a trace, also after a crash: a recorder's export with what the
instrumentation left beside it, or the instrumentation's own ranges where there is no export.

Layout: `run.json` (what was run, how it ended), `nsys.parquetdir` or `nsys.sqlite`, and a folder `process-<pid>` for
each instrumented process, with -1 and so on behind it for the next programs that it ran (`process.json`, `sites.jsonl`,
`ranges-<tid>.bin`, `modules.json`, `memory.json`, `attention.jsonl`, `exit.json`), with what the collector wrote of any
process (`cupti.bin`, `nvtx-<tid>.bin`) or, with CUDA events, `module-times.bin`, and with --fp8 `fp8-rows.bin` and
`fp8-scales.bin`. Whatever is missing is "not captured".
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tetrace.errors import InputError
from tetrace.sources import cupti, events, fp8, nsys
from tetrace.sources.nsys_tables import ParquetTables, RawTables, SqliteTables
from tetrace.sources.rings import OPEN_NS, is_step, part_of_sites, read_ring
from tetrace.sources.rows import Rows, collect
from tetrace.sources.sites import Process, Sites, processes_of, words
from tetrace.trace.arrays import column_of
from tetrace.trace.schema import BY_NAME
from tetrace.trace.trace import Metadata, Trace, make_table
from tetrace.units import steps_until_end

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    Integers = npt.NDArray[np.int64]

Progress = Callable[[int, int], None]

SUFFIX = ".tetrace.recording"
_RUN_FACTS = (
    "command",
    "collector",
    "reason",
    "options",
    "environment",
    "git",
    "tetrace",
    "ended",
    "nsys",
    "cupti",
    "calibration",
)
_PROCESS_FACTS = ("versions", "gpu", "environment", "autograd", "world_size")
# Fewer steps outside the recorded ones say little of what a step costs without a recorder.
_FEWEST_OUTSIDE = 3


def read(folder: Path, progress: Progress | None = None) -> Trace:
    """The trace of a working folder. Raises `InputError` when it holds nothing that was recorded."""
    processes = processes_of(folder)
    sites = Sites(processes)
    trace, problem = _exported(folder, processes, sites, progress)
    if trace is None:
        trace = events.read(processes) or _from_rings(processes, sites, _first_step(folder))
    if trace is None:
        run = Process(folder, {}).document("run.json")
        raise InputError(
            f"{folder}: nothing was recorded{f' ({problem})' if problem else ''}; {_why_nothing(run, processes)}"
        )
    return attach(trace, folder, processes, sites, [problem] if problem else [])


def read_export(
    tables: RawTables, source: str, source_format: str, beside: Path, progress: Progress | None = None
) -> Trace:
    """The trace of a Nsight Systems export that somebody's own command made.

    What `tetrace.instrument()` left in a working folder in the folder `beside` belongs to it where processes and texts
    of ranges match.
    """
    folders = sorted(folder for folder in beside.glob(f"*{SUFFIX}") if folder.is_dir())
    processes = [process for folder in folders for process in processes_of(folder)]
    if not processes:
        return nsys.read(tables, source, source_format, progress)
    sites = Sites(processes)
    trace = nsys.read(tables, source, source_format, progress, sites)
    if not (trace.column("ranges", "site") >= 0).any():
        return trace
    whole = attach(trace, processes[0].folder.parent, processes, sites)
    return Trace(dataclasses.replace(whole.metadata, source=source), whole.tables)


def _why_nothing(run: Mapping[str, Any], processes: Sequence[Process]) -> str:
    """What happened, as `tetrace record` noted it when the script had ended; else all that it may have been."""
    instrumented = [process for process in processes if process.is_python]
    if instrumented and not any(process.rings for process in instrumented):
        return "the script imported torch, and no file of ranges could be made: it opened none, or the disk is full"
    if instrumented:
        return "the script imported torch but opened no range"
    if run.get("uninstrumented"):
        return str(run["uninstrumented"])
    return (
        "no Python process was seen to import torch: it may be missing there or not be used, or the script had not come to "
        "it, or ran as python -I, -E or -S, which leaves tetrace out"
    )


def _exported(
    folder: Path, processes: Sequence[Process], sites: Sites, progress: Progress | None
) -> tuple[Trace | None, str]:
    """The trace of what the recorder left, or None and why there is none."""
    problem = ""
    for name, tables in (("nsys.parquetdir", ParquetTables), ("nsys.sqlite", SqliteTables)):
        export = folder / name
        if not export.exists():
            continue
        try:
            return nsys.read(tables(export), folder.name, "tetrace recording with Nsight Systems", progress, sites), ""
        except InputError as error:
            problem = str(error).replace(f"{export}: ", "")
    try:
        return cupti.read(processes, sites, _first_step(folder), progress), problem
    except InputError as error:
        return None, str(error).replace(f"{folder}/", "")


def attach(
    trace: Trace, folder: Path, processes: Sequence[Process], sites: Sites, notices: Sequence[str] = ()
) -> Trace:
    """`trace` with the sites, modules, memory, attention and facts of the instrumented processes."""
    tables = dict(trace.tables)
    index_of = _rows_of(processes, tables["processes"])
    # Where a recorder has one row for all programs of a process, the last one is the process.
    known = list({index_of[process.key]: process for process in processes if process.key in index_of}.values())
    tables["processes"] = _with_ranks(tables["processes"], index_of, known)
    if len(sites):
        tables["sites"] = sites.table(index_of)
    tables |= _side_tables(known, index_of) | fp8.read(known, index_of)
    run = Process(folder, {}).document("run.json")
    noted = map(str, run.get("notices", []))
    said = (*_endings(run, processes), *noted, *notices, *fp8.notices(known), *_process_notices(processes))
    metadata = dataclasses.replace(
        trace.metadata,
        source=_source(folder),
        notices=(*said, *(notice for notice in trace.metadata.notices if not _of_every_window(notice, run))),
        facts={**trace.metadata.facts, **_facts(run, known, Trace(trace.metadata, tables))},
    )
    return Trace(metadata, tables)


def _of_every_window(notice: str, run: Mapping[str, Any]) -> bool:
    """Whether nsys says so of every recording that ends before the script does, whole or not."""
    window = run.get("options", {}).get("capture") in ("nvtx", "api")
    return bool(window) and notice.startswith("nsys warns: Not all ")


def _source(folder: Path) -> str:
    return folder.name.removesuffix(".recording")


def _rows_of(processes: Sequence[Process], table: pa.Table) -> dict[int, int]:
    """Rows of `table` by the keys of those processes that it has: each program has one if tetrace recorded it itself."""
    of_program = {number >> 24: row for row, number in enumerate(column_of(table.column("global_id")).tolist())}
    if any(process.key in of_program for process in processes):
        return {process.key: of_program[process.key] for process in processes if process.key in of_program}
    of_pid = {pid: row for row, pid in enumerate(column_of(table.column("pid")).tolist())}
    return {process.key: of_pid[process.pid] for process in processes if process.pid in of_pid}


def _with_ranks(table: pa.Table, index_of: Mapping[int, int], processes: Sequence[Process]) -> pa.Table:
    rank_of = {index_of[process.key]: process.facts.get("rank") for process in processes}
    ranks = np.array(
        [-1 if rank_of.get(row) is None else int(rank_of[row] or 0) for row in range(table.num_rows)], np.int32
    )
    columns = {name: table.column(name).combine_chunks() for name in table.column_names if name != "rank"}
    plain = {
        name: value if hasattr(value, "indices") else column_of(table.column(name)) for name, value in columns.items()
    }
    return make_table("processes", {**plain, "rank": ranks}, table.num_rows)


def _side_tables(processes: Sequence[Process], index_of: Mapping[int, int]) -> dict[str, pa.Table]:
    found: dict[str, list[dict[str, Any]]] = {"module_memory": [], "memory_peaks": [], "attention_backends": []}
    for process in processes:
        own = {"process": index_of[process.key]}
        for entry in process.document("modules.json").get("modules", []):
            found["module_memory"].append({**own, **entry, "module": entry.get("path", "")})
        for entry in process.document("memory.json").get("peaks", []):
            found["memory_peaks"].append({**own, **entry})
        found["attention_backends"] += [{**own, **entry} for entry in _attention(process)]
    return {name: _table(name, rows) for name, rows in found.items() if rows}


def _attention(process: Process) -> list[dict[str, Any]]:
    lines = process.lines("attention.jsonl")
    counts: dict[str, Any] = next((line for line in reversed(lines) if "selections" in line), {})
    distinct: dict[tuple[str, str], dict[str, Any]] = {}
    for line in lines:
        if "backend" not in line:
            continue
        refused = "; ".join(f"{one.get('backend', '')}: {one.get('reason', '')}" for one in line.get("refused", []))
        sub = line.get("sub_backend") or line.get("version") or ""
        row = {
            "module": line.get("module", ""),
            "backend": line["backend"],
            "sub_backend": str(sub),
            "refused": refused,
        }
        distinct[row["module"], row["backend"]] = {**row, **{k: counts.get(k, -1) for k in ("selections", "calls")}}
    return list(distinct.values())


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns: dict[str, Any] = {}
    for column in BY_NAME[name].columns:
        values = [row.get(column.name) for row in rows]
        if column.dtype == "text":
            columns[column.name] = words(["" if value is None else str(value) for value in values])
        else:
            missing = -1 if column.missing is None else column.missing
            known = [missing if value is None else value for value in values]
            columns[column.name] = np.array(known, np.dtype(column.dtype))
    return make_table(name, columns, len(rows))


def _endings(run: Mapping[str, Any], processes: Sequence[Process]) -> list[str]:
    """That the run did not finish, and how far the processes came."""
    ended = run.get("ended")
    if ended is None:
        return ["the run did not finish: tetrace itself was stopped before the script ended"] if run else []
    if ended.get("finished", True):
        return []
    how = f"killed by {ended['signal']}" if ended.get("signal") else f"exit code {ended.get('exit_code')}"
    exits = [process.document("exit.json") for process in processes]
    said = list(dict.fromkeys(str(one["exception"]) for one in exits if one.get("exception")))
    steps = [int(one["step"]) for one in exits if one.get("step") is not None]
    where = f" {steps_until_end(max(steps))}" if steps else ""
    return [f"the run did not finish: {how}{where}{f' ({said[0]})' if said else ''}"]


def _process_notices(processes: Sequence[Process]) -> list[str]:
    """Notices of the instrumentation, each once, with the number of processes where several say it."""
    counts: dict[str, int] = {}
    for process in processes:
        for text in process.facts.get("notices", []):
            counts[str(text)] = counts.get(str(text), 0) + 1
    return [text if number == 1 else f"{text} (in {number} processes)" for text, number in counts.items()]


def _facts(run: Mapping[str, Any], processes: Sequence[Process], trace: Trace) -> dict[str, Any]:
    facts = {name: run[name] for name in _RUN_FACTS if run.get(name) not in (None, "", {}, [])}
    ranked = sorted(processes, key=lambda process: (process.facts.get("rank") or 0, process.pid))
    for process in reversed(ranked):
        own = {name: process.facts[name] for name in _PROCESS_FACTS if process.facts.get(name) not in (None, "", {})}
        facts |= {
            name: {**facts.get(name, {}), **value} if isinstance(value, dict) else value for name, value in own.items()
        }
    if ranked and trace.has("activities"):
        facts |= _outside(ranked[0], trace, int(run.get("options", {}).get("warmup") or 0))
    return json.loads(json.dumps(facts, default=str))


def _outside(process: Process, trace: Trace, warmup: int) -> dict[str, int]:
    """Median host time of steps inside the recorded window and after it, where nothing was recorded."""
    rows = [_steps_of_ring(process, ring) for ring in process.rings]
    number, length = (np.concatenate([np.empty(0, np.int64), *(row[i] for row in rows)]) for i in (0, 1))
    names = list(trace.words("sites", "kind"))
    of_site = trace.column("ranges", "site")
    if not len(number) or not len(of_site) or "step" not in names:
        return {}
    kind = trace.column("sites", "kind")
    is_step = (of_site >= 0) & (kind[np.maximum(of_site, 0)] == names.index("step"))
    recorded = trace.column("ranges", "sequence")[is_step]
    if not len(recorded):
        return {}
    # The first step after the window still closes it, the last one was cut off by the end of the script.
    after = length[(number > recorded.max() + 1) & (number < number.max())]
    inside = length[np.isin(number, recorded[recorded >= min(warmup, int(recorded.max()))])]
    if len(after) < _FEWEST_OUTSIDE or not len(inside):
        return {}
    return {
        "recorded_step_median_ns": int(np.median(inside)),
        "plain_step_median_ns": int(np.median(after)),
        "plain_steps": len(after),
    }


def _steps_of_ring(process: Process, ring: Path) -> tuple[Integers, Integers]:
    rows = read_ring(ring)
    whole = is_step(process, rows) & (rows["end_ns"] < OPEN_NS)
    return rows["step"][whole].astype(np.int64), (rows["end_ns"] - rows["start_ns"])[whole]


def _first_step(folder: Path) -> int:
    """The step that the recorded window begins with."""
    return int(Process(folder, {}).document("run.json").get("options", {}).get("first_step") or 0)


def _from_rings(processes: Sequence[Process], sites: Sites, first: int) -> Trace | None:
    """Ranges by the instrumentation's own clock: the trace of a machine without a GPU, or of a failed recorder."""
    parts, names, dropped = [], {}, 0
    for process in processes:
        for path in process.rings:
            rows = read_ring(path)
            dropped += int(rows["dropped"])
            part = part_of_sites(process, rows, sites, lambda rows, steps: steps | (rows["step"] >= first))
            if part is not None:
                parts.append(part)
                names[int(part["global_tid"][0])] = str(rows["name"])
    if not parts:
        return None
    executables = {process.key << 24: "python" for process in processes}
    tables, notices = collect([Rows("ranges", parts)], names, executables)
    tables["devices"] = make_table("devices", {"process": np.empty(0, np.int32), "device": np.empty(0, np.int32)}, 0)
    metadata = Metadata("", "tetrace recording of ranges", "tetrace", notices=tuple(notices), dropped_records=dropped)
    return Trace(metadata, tables)
