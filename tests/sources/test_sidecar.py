"""The working folder of a recording as a trace: what is joined, what is checked, and what a crash leaves."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.sources.exports import AUTOGRAD, Export
from tetrace import load
from tetrace.errors import InputError
from tetrace.trace.trace import Trace

PID = 1
SITES: list[dict[str, Any]] = [
    {"site": 0, "kind": "step", "name": "step", "phase": "", "module": ""},
    {"site": 1, "kind": "module", "name": "layers.0", "phase": "forward", "module": "layers.0", "class": "Linear"},
    {"site": 2, "kind": "quantize", "name": "quantize input", "role": "input", "format": "E4M3", "shape": "4x8"}
    | {"call": "quantize"},
]


def write(folder: Path, sites: list[dict[str, Any]] = SITES, **documents: Any) -> Path:
    """A working folder with one process; documents go into the process's folder, `run` beside it."""
    own = folder / f"process-{PID}"
    own.mkdir(parents=True)
    (own / "sites.jsonl").write_text("".join(json.dumps(site) + "\n" for site in sites))
    (folder / "run.json").write_text(json.dumps(documents.pop("run", {})))
    documents.setdefault("process", {"pid": PID, "rank": 3})
    for name, content in documents.items():
        (own / f"{name}.json").write_text(json.dumps(content))
    return folder


def payload(site: int, step: int) -> dict[str, Any]:
    """The columns of an NVTX range of tetrace's domain."""
    return {"domainId": 2, "uint64Value": site | (step + 1) << 32}


def exported(folder: Path, export: Export) -> Path:
    export.sqlite(folder / "nsys.sqlite")
    return folder


def rows(trace: Trace, table: str, *names: str) -> list[tuple[Any, ...]]:
    columns = trace.tables[table].select(list(names)).to_pydict()
    return list(zip(*columns.values(), strict=True))


def an_export() -> Export:
    return (
        Export()
        .range("step", 0, 100, **payload(0, 7))
        .range("layers.0", 10, 40, **payload(1, 7))
        .range("mine", 50, 60)
        .launch("gemm", call=(12, 14), runs=(20, 30))
    )


def test_ranges_get_their_sites_and_steps(tmp_path: Path) -> None:
    trace = load(exported(write(tmp_path / "run.tetrace.recording"), an_export()))
    assert rows(trace, "ranges", "name", "site", "sequence") == [("step", 0, 7), ("layers.0", 1, 7), ("mine", -1, -1)]
    assert rows(trace, "sites", "kind", "module", "role", "format", "shape", "detail") == [
        ("step", "", "", "", "", ""),
        ("module", "layers.0", "", "", "", ""),
        ("quantize", "", "input", "E4M3", "4x8", '{"call": "quantize"}'),
    ]
    assert rows(trace, "processes", "pid", "rank") == [(PID, 3)]
    assert trace.metadata.source == "run.tetrace"


def test_a_payload_of_another_library_is_no_site(tmp_path: Path) -> None:
    export = an_export().range("ncclAllReduce", 60, 70, domainId=5, uint64Value=1)
    trace = load(exported(write(tmp_path / "run.tetrace.recording"), export))
    assert ("ncclAllReduce", -1) in rows(trace, "ranges", "name", "site")


def test_a_site_of_another_process_is_not_taken(tmp_path: Path) -> None:
    export = an_export().range("layers.0", 60, 70, process=2, **payload(1, 7))
    trace = load(exported(write(tmp_path / "run.tetrace.recording"), export))
    assert rows(trace, "ranges", "process", "name", "site")[-1] == (1, "layers.0", -1)


def test_facts_of_a_run_are_kept_and_an_early_end_is_told(tmp_path: Path) -> None:
    run = {
        "command": ["train.py"],
        "environment": {"NVTE_FLASH_ATTN": "0"},
        "ended": {"exit_code": 1, "signal": None, "finished": False},
        "secret": "not ours",
    }
    ending = {"reason": "exception", "exception": "ValueError: bad batch", "step": 9}
    folder = write(tmp_path / "run.tetrace.recording", run=run, exit=ending)
    trace = load(exported(folder, an_export()))
    assert (
        trace.metadata.notices[0] == "the run did not finish: exit code 1 after 9 whole steps (ValueError: bad batch)"
    )
    assert trace.metadata.facts["command"] == ["train.py"]
    assert "secret" not in trace.metadata.facts


def test_a_recorder_that_died_is_told(tmp_path: Path) -> None:
    trace = load(exported(write(tmp_path / "run.tetrace.recording", run={"command": ["x"]}), an_export()))
    assert trace.metadata.notices[0].startswith("the run did not finish: tetrace itself")


def test_attention_and_memory_become_tables(tmp_path: Path) -> None:
    modules = {"modules": [{"path": "layers.0", "class": "Linear", "parameters": 12, "parameter_bytes": 24}]}
    folder = write(tmp_path / "run.tetrace.recording", modules=modules)
    refused = [{"backend": "FlashAttention", "reason": "for dropout"}]
    lines = [
        {"module": "layers.0", "backend": "FusedAttention", "sub_backend": 1, "refused": refused},
        {"selections": 2, "calls": 40},
    ]
    (folder / f"process-{PID}" / "attention.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines) + '{"cut'
    )
    trace = load(exported(folder, an_export()))
    assert rows(trace, "attention_backends", "module", "backend", "sub_backend", "refused", "selections", "calls") == [
        ("layers.0", "FusedAttention", "1", "FlashAttention: for dropout", 2, 40)
    ]
    assert rows(trace, "module_memory", "module", "parameters", "parameter_bytes", "fp8_bytes") == [
        ("layers.0", 12, 24, -1)
    ]


def in_a_process(work: Callable[[Path], None], folder: Path) -> None:
    """Run `work` in a process of its own: rings belong to threads of one process."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=(folder,))
    process.start()
    process.join()


def record_two_steps(folder: Path) -> None:
    """Two steps with a module in each, of which the second is never closed."""
    import os

    from tetrace.instrument import ranges

    own = folder / f"process-{os.getpid()}"
    own.mkdir(parents=True)
    (own / "process.json").write_text(json.dumps({"pid": os.getpid(), "rank": None, "notices": ["said once"]}))
    ranges.open(own)
    step, module = ranges.site("step", "step"), ranges.site("module", "fc", phase="forward", module="fc")
    for number in range(2):
        ranges.set_step(number)
        handle = ranges.start(step)
        ranges.push(module)
        if number:
            os._exit(9)
        ranges.pop()
        ranges.end(handle)


def test_rings_alone_are_a_trace_also_after_a_crash(tmp_path: Path) -> None:
    folder = tmp_path / "run.tetrace.recording"
    in_a_process(record_two_steps, folder)
    trace = load(folder)
    assert not trace.has("activities")
    found = rows(trace, "ranges", "name", "kind", "sequence", "site")
    assert sorted(found) == [
        ("fc", "push_pop", 0, 1), ("fc", "push_pop", 1, 1), ("step", "start_end", 0, 0), ("step", "start_end", 1, 0),
    ]  # fmt: skip
    assert "said once" in trace.metadata.notices
    assert any("still open" in notice for notice in trace.metadata.notices)


def test_a_folder_with_nothing_in_it_says_why(tmp_path: Path) -> None:
    folder = tmp_path / "run.tetrace.recording"
    folder.mkdir()
    (folder / "run.json").write_text("{}")
    with pytest.raises(
        InputError, match="nothing was recorded; no Python process was seen to import torch: it may be missing"
    ):
        load(folder)


@pytest.mark.parametrize("others", [False, True], ids=["nothing", "another program"])
def test_what_the_recorder_noted_is_why_nothing_is_there(tmp_path: Path, others: bool) -> None:
    """Also where a program that is no Python was seen, of which only the collector's library leaves something."""
    folder = tmp_path / "run.tetrace.recording"
    (folder / f"process-{PID}").mkdir(parents=True) if others else folder.mkdir()
    why = "the script failed (exit code 1) before it imported torch, as far as could be seen"
    (folder / "run.json").write_text(json.dumps({"uninstrumented": why}))
    with pytest.raises(InputError, match=r"nothing was recorded; the script failed \(exit code 1\) before it imported"):
        load(folder)


def test_backward_ranges_of_autograds_thread_are_matched_too(tmp_path: Path) -> None:
    export = an_export().range("layers.0", 60, 70, AUTOGRAD, **payload(1, 7))
    trace = load(exported(write(tmp_path / "run.tetrace.recording"), export))
    assert [row[1] for row in rows(trace, "ranges", "name", "site")] == [0, 1, -1, 1]


@pytest.mark.parametrize("kind", ["sqlite", "parquetdir"])
def test_an_export_of_ones_own_finds_what_instrument_left_beside_it(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "train.tetrace.recording")
    trace = load(getattr(an_export(), kind)(tmp_path / f"mine.{kind}"))
    assert rows(trace, "ranges", "name", "site") == [("step", 0), ("layers.0", 1), ("mine", -1)]
    assert trace.metadata.source == f"mine.{kind}"


def test_an_export_of_another_run_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.tetrace.recording")
    trace = load(Export().range("forward", 0, 100, process=77).sqlite(tmp_path / "other.sqlite"))
    assert not trace.has("sites")
